"""How good weights are on held-out cases as a user has them, and how sure of structures that are there: what their presence is calibrated by.

    python sh/sure.py WEIGHTS SURE.csv CASES PROMPTS STORE [HOLDOUT]

CASES: a folder of the challenge's layout, NAME.npz below it. PROMPTS: such as organs/headneck.json. STORE: the same cases as `medals prepare` left them, of which
the share HOLDOUT (default .2) was kept from training. Each line of SURE.csv is a class, what nineteen in twenty cases had at least, mean DSC of whole scans by words, its spread, and how many
cases: `python sh/bundle.py NAME RUN SURE.csv SURE.csv` takes both.
"""
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from medals.data.questions import DataCfg
from medals.data.sampler import Sampler
from medals.metrics import dice
from medals.segment import Segmenter
from medals.volume import read_volume


def main(weights, out, cases, prompts, store, share=.2):
    places = {file.stem: file for file in Path(cases).rglob('*.npz')}
    data_set, = json.loads(Path(prompts).read_text()).values()
    labels = {said[0]: int(label) for label,said in data_set.items() if label!='partial'}
    segmenter = Segmenter.load(weights, 'cpu', backend='torch')
    known = segmenter.repertoire
    known.classes = [replace(c, sure=0.) for c in known.classes] # as they are, not as they were calibrated before
    found = {name: [] for name in labels}
    right = {name: [] for name in labels}
    held = Sampler(store, DataCfg(holdout=float(share))).heldout
    for row in held:
        file = places[row['name'].split('/')[-1]]
        with np.load(file) as z: truth = z['gts'].transpose(2,1,0)
        asked = [name for name,label in labels.items() if (truth==label).any()]
        res = segmenter(read_volume(file), asked, presence=0)
        for line in res.table: found[line['sentence']].append(line['presence'])
        for name in asked: right[name].append(dice(np.asarray(res.masks[name]), truth==labels[name]))
    with open(out, 'w', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(['class','sure','dsc','spread','cases'])
        for name,some in found.items():
            if len(some)<2: continue
            dsc = right[name]
            rows.writerow([name, f'{np.quantile(some, .05):.3f}', f'{np.mean(dsc):.3f}', f'{np.std(dsc, ddof=1):.3f}', len(some)])


if __name__=='__main__': main(*sys.argv[1:])
