"""Scores on one core: ours beside the usual ways, same numbers.

    python bench/metrics.py              # 255 objects in 200^3, and one large organ
    python bench/metrics.py --size 120   # smaller
"""
import os

for v in ('OMP_NUM_THREADS','OPENBLAS_NUM_THREADS','MKL_NUM_THREADS'): os.environ[v] = '1'

import argparse
import time
import warnings

import numpy as np
import torch
from scipy import ndimage as ndi
from scipy.optimize import linear_sum_assignment

from medals.metrics import challenge_metrics, dice, instance_scores, surface_dice, surfels


def objects(size, n=255):
    "Balls on a lattice, in no order of ids, and the same moved by two voxels"
    k = int(np.ceil(n**(1/3)))
    step = size//k
    at = np.argwhere(np.ones((k,k,k), bool))[np.random.default_rng(0).permutation(k**3)[:n]]*step
    ball = ((np.indices((step,)*3)-(step-1)/2)**2).sum(0)<(step/2.3)**2
    gt = np.zeros((size,)*3, np.int32)
    for i,p in enumerate(at, 1): gt[tuple(slice(o, o+step) for o in p)][ball] = i
    return gt,np.roll(gt, 2, 0)


def organ(size):
    "A bumpy ball and a moved one"
    noise = ndi.gaussian_filter(np.random.default_rng(0).standard_normal((size,)*3), size/25)
    at = np.indices((size,)*3)/size*2-1
    a = np.sqrt((at**2).sum(0))+30*noise/size<.75
    return a,np.roll(a, 3, 0)


def dense(gt, pred):
    "F1 by a table of all pairs, filled by comparing masks in their boxes, and an assignment"
    boxes,n,m = ndi.find_objects(gt),gt.max(),pred.max()
    both,sa,sb = np.zeros((n+1, m+1)),np.bincount(gt.ravel()),np.bincount(pred.ravel())
    for i,box in enumerate(boxes, 1):
        j,k = np.unique(pred[box][gt[box]==i], return_counts=True)
        both[i,j] = k
    iou = (both/(sa[:,None]+sb-both))[1:,1:]
    i,j = linear_sum_assignment(-(iou>=.5).astype(float)-iou/(2*min(n, m)))
    tp = (iou[i,j]>=.5).sum()
    return 2*tp/(n+m)


def f1(gt, pred): return instance_scores(gt, pred)['f1']


def monai(a, b, spacing):
    from monai.metrics import compute_surface_dice
    y,p = (torch.as_tensor(np.ascontiguousarray(o))[None,None] for o in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return float(compute_surface_dice(p, y, [2.], include_background=True, spacing=spacing, use_subvoxels=True))


def maps(a, b, spacing):
    "NSD by distance maps over the box of both masks"
    box = ndi.find_objects((a|b).view(np.uint8))[0]
    a,b = a[box],b[box]
    (at,wa),(bt,wb) = surfels(a, spacing),surfels(b, spacing)
    def far(to, of):
        m = np.ones(np.array(a.shape)+1, bool)
        m[tuple(to.T)] = False
        return ndi.distance_transform_edt(m, sampling=spacing)[tuple(of.T)]
    return (wa[far(bt, at)<=2].sum()+wb[far(at, bt)<=2].sum())/(wa.sum()+wb.sum())


def whole(gt, pred, spacing):
    "DSC and NSD of every class, each time over the whole volume"
    rows = [(dice(gt==i, pred==i), monai(gt==i, pred==i, spacing)) for i in range(1, gt.max()+1)]
    return np.mean(rows, 0)


def timed(fn, *args):
    t = time.perf_counter()
    res = fn(*args)
    return res,time.perf_counter()-t


def row(what, other, ours, names):
    (x,s),(y,t) = ours,other
    assert np.allclose(x, y, atol=1e-4), (what, x, y)
    print(f"| {what} | {names}: {t:.2f} | {s:.2f} | {t/s:.1f} |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--size', type=int, default=200)
    a = p.parse_args()
    torch.set_num_threads(1)
    gt,pred = objects(a.size)
    n,spacing = int(gt.max()),(.8,.9,1.5)
    monai(gt[:9]>0, gt[:9]>0, spacing) # imports
    surface_dice(gt[:9]>0, gt[:9]>0, spacing)
    print('| what | the usual way, s | ours, s | ratio |\n|---|---|---|---|')
    for m in (n, (a.size//10)**3):
        x,y = (gt,pred) if m==n else objects(a.size, m)
        row(f'{m} objects in {a.size}^3: F1', timed(dense, x, y), timed(f1, x, y), 'table of pairs')
    ours,seconds = timed(challenge_metrics, gt, pred, spacing[::-1], range(1, n+1), False)
    row(f'{n} classes in {a.size}^3: DSC, NSD', timed(whole, gt, pred, spacing), ((ours['dsc'], ours['nsd']), seconds), 'whole, MONAI')
    x,y = organ(a.size)
    ours = timed(surface_dice, x, y, spacing)
    row(f'one organ of {x.sum()/1e6:.1f} M voxels: NSD', timed(monai, x, y, spacing), ours, 'MONAI, subvoxels')
    row(f'one organ of {x.sum()/1e6:.1f} M voxels: NSD', timed(maps, x, y, spacing), ours, 'distance maps')


if __name__=='__main__': main()
