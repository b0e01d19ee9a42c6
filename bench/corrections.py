"""A click on a result: what it costs beside a whole run, what it gains, and what changes far away.

    python bench/corrections.py                                     # the head of the demo
    python bench/corrections.py --scan T1.nii.gz --truth masks/     # masks SENTENCE.nii.gz, _ for blanks
    python bench/corrections.py --precision bf16 --clicks 3

Each click lies where the error is deepest, as a person would click. A run in float32, a run by default and
clicks by default are timed in one run, by the clock of the process.
"""
import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt

from medals.example import CLASSES, masks_of, template, unseen_view
from medals.metrics import dice
from medals.segment import Segmenter
from medals.spatial import Point
from medals.volume import read_volume

FAR = 30.       # mm


def deepest_error(mask, truth, spacing):
    "Depth in mm, voxel, and whether something is missing there"
    found = []
    for missing,wrong in ((True, truth&~mask), (False, mask&~truth)):
        depth = distance_transform_edt(wrong, sampling=spacing)
        at = np.unravel_index(depth.argmax(), depth.shape)
        found.append((float(depth[at]), tuple(int(i) for i in at), missing))
    return max(found)


def far_from(at, shape, spacing):
    "bool: farther than `FAR` from a voxel"
    axes = np.ogrid[tuple(map(slice, shape))]
    squares = [((axis-i)*mm)**2 for axis,i,mm in zip(axes, at, spacing)]
    return sum(squares)>FAR**2


def case(a):
    "A scan and the true mask of each sentence"
    if not a.scan:
        vol,truth = unseen_view(*template())
        masks = masks_of(truth.data)
        return vol,{name: masks[name] for name in CLASSES}
    files = sorted(Path(a.truth).glob('*.nii.gz'))
    named = {f.name.removesuffix('.nii.gz').replace('_', ' '): f for f in files}
    return read_volume(a.scan),{name: np.asarray(nib.load(f).dataobj)>0 for name,f in named.items()}


def clicks_on(name, first, truth, vol, most, smallest):
    "One row per click: sign, depth, DSC before and after, voxels changed, of them far away, seconds"
    res = first
    for _ in range(most):
        mask = np.asarray(res.masks[name])
        depth,at,missing = deepest_error(mask, truth, vol.spacing)
        if depth<smallest: return
        seen = []
        start = time.process_time()
        res = res.refine({name: [Point(at, positive=missing)]}, preview=lambda first: seen.append(time.process_time()))
        spent = time.process_time()-start
        soon = seen[0]-start if seen else spent
        after = np.asarray(res.masks[name])
        change = after^mask
        beyond = change&far_from(at, mask.shape, vol.spacing)
        yield '+' if missing else '-',depth,dice(mask, truth),dice(after, truth),int(change.sum()),int(beyond.sum()),spent,soon


def flags():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--scan')
    p.add_argument('--truth')
    p.add_argument('--weights', default='nano')
    p.add_argument('--precision', default='auto')
    p.add_argument('--clicks', type=int, default=3)
    p.add_argument('--smallest', type=float, default=2.5, help='errors that are less deep, mm, are not clicked')
    return p.parse_args()


def whole_run(vol, truths, weights, **how):
    "A segmenter, what it finds, and its seconds after a run that warms up"
    segmenter = Segmenter.load(weights, 'cpu', **how)
    segmenter(vol, list(truths))
    start = time.process_time()
    found = segmenter(vol, list(truths))
    return segmenter,found,time.process_time()-start


def main():
    a = flags()
    vol,truths = case(a)
    _,_,slow = whole_run(vol, truths, a.weights, backend='torch', precision='float32')
    segmenter,first,whole = whole_run(vol, truths, a.weights, precision=a.precision)
    print(f'{a.weights}: a whole run {slow:.2f} s in float32, {whole:.2f} s on {segmenter.backend} with precision {segmenter.precision}\n')
    print('| sentence | click | depth, mm | DSC | after | changed | beyond 30 mm | first answer, s | s | float32 run / click |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    rows = []
    for name,truth in truths.items():
        for row in clicks_on(name, first, truth, vol, a.clicks, a.smallest):
            sign,depth,old,new,changed,beyond,spent,soon = row
            rows.append(row)
            cells = [name, sign, f'{depth:.1f}', f'{old:.4f}', f'{new:.4f}', changed, beyond,
                     f'{soon:.2f}', f'{spent:.2f}', f'{slow/spent:.1f}']
            print('|', ' | '.join(map(str, cells)), '|', flush=True)
    if not rows: return
    gains = [row[3]-row[2] for row in rows]
    far = sum(row[5] for row in rows)
    spent = np.mean([row[6] for row in rows])
    print(f'\nmean gain {np.mean(gains):+.4f}, worst {min(gains):+.4f}, {far} voxels beyond {FAR:.0f} mm')
    print(f'a click takes {spent:.2f} s; a run in float32 takes {slow/spent:.1f} times as long, one by default {whole/spent:.1f} times')


if __name__=='__main__': main()
