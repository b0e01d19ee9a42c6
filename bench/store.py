"""One case from raw voxels to a store and back to windows, ours beside the published settings, each in a process of its own.

    python bench/store.py                                        # a made-up 512x512x400 scan with 46 labels
    python bench/store.py --case scan.npz labels.npz             # a real one beside it; NIfTI works too
    python bench/store.py --shape 256,256,200 --windows 5        # smaller and quicker

Published: image float32 and labels int16, labels resampled as one float16 volume per label, ZSTD level 8 with byte shuffle in
the published blocks. Ours: what `medals prepare --preset fine` does. Both resample to the same voxels, on one thread, and read the
same random 192^3 windows of image and labels.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blosc2
import numpy as np
import torch
import torch.nn.functional as F

from medals.core import ints, make_gen
from medals.geometry import plan, resample, resample_labels
from medals.prepare import RECIPES, load
from medals.data.store import label_points, open_case, published_blocks, write_case

RECIPE = RECIPES['fine']


def made_up(shape, labels=46):
    "A smooth, noisy scan with balls in it"
    gen = make_gen('bench', *shape)
    coarse = torch.as_tensor(gen.random([1,1,*[max(2, n//24) for n in shape]], np.float32))
    x = F.interpolate(coarse, shape, mode='trilinear')[0,0].numpy()*180
    y = np.zeros(shape, np.uint8)
    for k in range(1, labels+1):
        r = int(min(shape)*gen.uniform(.03, .12))
        c = [int(gen.integers(r, n-r)) for n in shape]
        at = np.ogrid[tuple(slice(-r, r) for _ in shape)]
        box = tuple(slice(o-r, o+r) for o in c)
        y[box][sum(o*o for o in at)<r*r] = k
        x[box] += 10
    for i in range(0, shape[0], 32): x[i:i+32] += gen.normal(0, 6, x[i:i+32].shape)
    return x.clip(0, 255).round().astype(np.uint8),y,(.8,.8,1.)


def real(image, labels):
    "A real case on the axes of the network"
    case = load(dict(data=image, labels=labels, modality='ct'), RECIPE)
    return case.image,case.labels,case.spacing


def one_hot(y, shape):
    "Labels resampled with one volume per label"
    ids = np.unique(y)
    out,hot = np.zeros(shape, np.int16),torch.zeros(len(ids), *shape, dtype=torch.float16)
    for i,k in enumerate(ids):
        hot[i] = F.interpolate(torch.as_tensor(y==k)[None,None].float()*1000, shape, mode='trilinear')[0,0]
        out[(hot[i]>700).numpy()] = k
    sure = (hot>700).any(0)
    out[~sure.numpy()] = ids[hot[:,~sure].argmax(0).numpy()]
    return out


def published(x, y, shape, folder):
    "Resample and write with the published settings; returns the seconds of both"
    t0 = time.perf_counter()
    x = F.interpolate(torch.as_tensor(x)[None,None].float(), shape, mode='trilinear')[0,0].numpy()
    y = one_hot(y, shape)
    t1 = time.perf_counter()
    folder.mkdir()
    for name,v in dict(image=x, labels=y).items():
        chunk,block = published_blocks(shape, RECIPE.patch, v.itemsize)
        blosc2.asarray(v[None], urlpath=str(folder/f'{name}.b2nd'), mode='w', chunks=(1,*chunk), blocks=(1,*block),
                       cparams=dict(codec=blosc2.Codec.ZSTD, clevel=8, nthreads=1))
    return t1-t0,time.perf_counter()-t1


def ours(x, y, shape, folder):
    "Resample and write as medals does; returns the seconds of both"
    t0 = time.perf_counter()
    x,y = resample(x, shape, 'uint8'),resample_labels(y, shape)
    t1 = time.perf_counter()
    write_case(folder, x, y, np.eye(4), {}, points=label_points(y, make_gen('bench')))
    return t1-t0,time.perf_counter()-t1


def read_published(folder, at):
    "A window of both arrays, opened anew as a loader does"
    for name in ('image','labels'): blosc2.open(str(folder/f'{name}.b2nd'), mode='r', mmap_mode='r')[(slice(0,1),*at)]


def read_ours(folder, at): open_case(folder)[at]


def once(way, source, windows):
    "All figures of one side"
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    x,y,spacing = real(*source) if len(source)==2 else made_up(ints(source[0]))
    shape = plan(x.shape, spacing, RECIPE.spacing, RECIPE.patch).shape
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)/'case'
        res = dict(zip(('resample_s','write_s'), globals()[way](x, y, shape, folder)))
        gen = make_gen('windows')
        starts = [[int(gen.integers(0, max(1, n-192+1))) for n in shape] for _ in range(windows+1)]
        spots = [tuple(slice(a, min(a+192, n)) for a,n in zip(s, shape)) for s in starts]
        globals()[f'read_{way}'](folder, spots[0])
        t0 = time.perf_counter()
        for s in spots[1:]: globals()[f'read_{way}'](folder, s)
        res |= dict(window_s=(time.perf_counter()-t0)/windows, MB=sum(f.stat().st_size for f in folder.iterdir())/1e6)
    return {**res, 'total_s': res['resample_s']+res['write_s'], 'peak_GB': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20,
            'voxels': 'x'.join(map(str, shape)), 'labels': len(np.unique(y))-1}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--shape', default='512,512,400', help='of the made-up scan')
    ap.add_argument('--case', nargs=2, metavar=('IMAGE','LABELS'), help='a real case')
    ap.add_argument('--windows', type=int, default=20)
    ap.add_argument('--one', help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.one: return print(json.dumps(once(args.one, args.case or [args.shape], args.windows)))
    keys = ('resample_s','write_s','total_s','window_s','MB','peak_GB')
    for source in [[args.shape]]+([args.case] if args.case else []):
        flags = ['--case', *source] if len(source)==2 else ['--shape', *source]
        res = {}
        for way in ('published','ours'):
            cmd = [sys.executable, __file__, '--one', way, '--windows', str(args.windows), *flags]
            res[way] = json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout)
        a,b = res['published'],res['ours']
        name = Path(source[0]).name if len(source)==2 else 'made-up '+source[0]
        print(f"\n{name}: {b['voxels']} voxels after resampling, {b['labels']} labels")
        print(f"{'':12}{'published':>12}{'ours':>12}{'ratio':>8}")
        for k in keys: print(f"{k:12}{a[k]:12.3f}{b[k]:12.3f}{a[k]/b[k]:8.1f}")


if __name__=='__main__': main()
