"""How much should grey values count where a mask ends? DSC and seconds of the same scan and weights at several values of `edges`.

    python bench/edges.py                                   # grey and white matter in the head of the demo, weights brain
    python bench/edges.py --scan T1.nii.gz --truth masks/   # masks SENTENCE.nii.gz, _ for blanks

What is best on scans that a training has not seen can be kept with its weights: `edges` of `frame` in cfg.json.
"""
import argparse
import time

import numpy as np

from corrections import case
from medals.metrics import dice
from medals.segment import Segmenter

VALUES = 0., .3, .5, .8, 1.


def flags():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--scan')
    p.add_argument('--truth')
    p.add_argument('--weights', default='brain')
    return p.parse_args()


def main():
    a = flags()
    vol,truths = case(a)
    segmenter = Segmenter.load(a.weights, 'cpu')
    known = [name for name in truths if segmenter.repertoire is None or segmenter.repertoire.knows(name, vol.modality)]
    segmenter(vol, known) # warms up
    scores,seconds = {},{}
    for value in VALUES:
        start = time.process_time()
        res = segmenter(vol, known, edges=value)
        seconds[value] = time.process_time()-start
        scores[value] = [dice(np.asarray(res.masks[name]), truths[name]) for name in known]
    print('| sentence |', ' | '.join(f'edges {value:g}' for value in VALUES), '|')
    print('|---'*(1+len(VALUES))+'|')
    for i,name in enumerate(known): print(f'| {name} |', ' | '.join(f'{scores[value][i]:.3f}' for value in VALUES), '|')
    print('| mean |', ' | '.join(f'{np.mean(scores[value]):.3f}' for value in VALUES), '|')
    print('| processor seconds |', ' | '.join(f'{seconds[value]:.1f}' for value in VALUES), '|')


if __name__=='__main__': main()
