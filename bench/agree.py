"""Masks of the quick engines beside those of PyTorch in float32, on real scans.

    python bench/agree.py SCAN...                      # NIfTI files, npz of the challenge, folders of them
    python bench/agree.py SCAN... --weights brain,nano --most 12   # only some weights, and at most so many scans of a folder

Every structure that the weights know in such a scan is asked for. Printed for each scan, weights and engine: the voxels that some mask has,
the Dice of all voxels of all masks together, the lowest Dice of a mask of at least 1000 voxels, masks that only one of the two has,
voxels more than 3 mm from the other mask (far), seconds, and those of float32. The last lines are sums over scans, with the mean
Dice by voxels and the lowest of all.
"""
import argparse
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from medals.core import UserError
from medals.inference.bundles import bundles
from medals.segment import Segmenter
from medals.volume import read_volume

ENGINES = {'bf16': dict(backend='torch', precision='bf16'), 'openvino': dict(backend='openvino'), 'default': {}}
LARGE = 1000 # Voxels of a mask whose Dice is looked at alone
FAR = 3      # mm


def scans_in(places, most):
    "Scans by their paths, without label maps"
    for place in map(Path, places):
        if place.is_file(): yield place
        else:
            files = [*sorted(place.rglob('*.nii.gz')), *sorted(place.rglob('*.npz'))]
            yield from [file for file in files if not file.name.endswith(('_lab.nii.gz','_gts.npz'))][:most]


def masks_of(segmenter, vol, names):
    "Masks `{sentence: (x,y,z)}` and seconds"
    start = time.perf_counter()
    found = segmenter(vol, names)
    seconds = time.perf_counter()-start
    return {name: np.asarray(mask) for name,mask in found.masks.items()},seconds


def compared(exact, quick, spacing):
    "Voxels, Dice of all, lowest Dice of a large mask, masks of one side only, far voxels"
    shared = total = odd = far = 0
    lowest = 1.
    for name,a in exact.items():
        b = quick[name]
        both,size = int((a&b).sum()),int(a.sum())+int(b.sum())
        shared,total = shared+both,total+size
        if a.any()!=b.any(): odd += 1
        elif size>=2*LARGE: lowest = min(lowest, 2*both/size)
        for mine,other in ((a,b),(b,a)):
            extra = mine&~other
            if extra.any() and other.any(): far += int((distance_transform_edt(~other, spacing)[extra]>FAR).sum())
    return total//2,2*shared/max(total, 1),lowest,odd,far


def row_of(scan, weights, engine, *figures):
    print(f'{scan[:32]:32} {weights:11} {engine[:24]:24}', *(f'{figure:>8}' for figure in figures), flush=True)


def print_sums(sums, weights, scans):
    "A line for each engine, of all scans together"
    for said,figures in sums.items():
        n,dice,lowest,odd,far,took,seconds = np.array(figures).T
        mean = np.average(dice, weights=np.maximum(n, 1))
        counts = [int(column.sum()) for column in (odd, far)]
        spent = [f'{column.sum():.0f}' for column in (took, seconds)]
        row_of(f'all {scans} scans', weights, said, int(n.sum()), f'{mean:.4f}', f'{lowest.min():.4f}', *counts, *spent)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('scans', nargs='+')
    p.add_argument('--weights', default='nano,brain,hippocampus,headneck')
    p.add_argument('--engines', default=','.join(ENGINES))
    p.add_argument('--most', type=int, default=5)
    a = p.parse_args()
    row_of('scan', 'weights', 'engine', 'voxels', 'Dice', 'lowest', 'one side', 'far', 's', 'float32')
    for name in a.weights.split(','):
        row = next(bundle for bundle in bundles() if bundle.name==name)
        exact = Segmenter.load(name, 'cpu', backend='torch', precision='float32')
        quick = {}
        for engine in a.engines.split(','):
            try: quick[engine] = Segmenter.load(name, 'cpu', **ENGINES[engine])
            except UserError as e: print(engine, e)
        sums,scans = {},0
        for file in scans_in(a.scans, a.most):
            vol = read_volume(file)
            asked = [c.name for c in row.classes if not vol.modality or vol.modality in c.modalities]
            if not asked: continue
            masks,seconds = masks_of(exact, vol, asked)
            spacing = np.linalg.norm(vol.affine[:3,:3], axis=0)
            scans += 1
            for engine,segmenter in quick.items():
                others,took = masks_of(segmenter, vol, asked)
                n,dice,lowest,odd,far = compared(masks, others, spacing)
                said = f'{engine}: {segmenter.backend}'
                row_of(file.name, name, said, n, f'{dice:.4f}', f'{lowest:.4f}', odd, far, f'{took:.1f}', f'{seconds:.1f}')
                sums.setdefault(said, []).append((n, dice, lowest, odd, far, took, seconds))
        print_sums(sums, name, scans)


if __name__=='__main__': main()
