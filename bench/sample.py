"""One training sample of 192^3, ours beside the published way, each in a process of its own, on one core.

    python bench/sample.py                          # a made-up scan of 512x512x400 with 13 and with 32 classes
    python bench/sample.py --store STORE            # cases of a prepared store instead
    python bench/sample.py --patch 96,96,96 --draws 8 --shape 256,256,200       # smaller and quicker

Ours: what a worker does for `Sampler.sample`, pickled and unpickled, averaged over windows as they are (64 %) and turned or scaled ones
(36 %). Masks, prompts and grey values are then made on the device; what that takes when the device is this core is in a column of its own.

Published: windows large enough for any turn, cubic splines, one float32 mask and prompt per sentence, Python loops over blocks, a collated
batch. Written plainly after the published description; every step is timed once, and steps that happen with a probability count with it.
"""
import argparse
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for k in ('OMP_NUM_THREADS','MKL_NUM_THREADS'): os.environ[k] = '1'

import blosc2
import numpy as np
import torch
from scipy import ndimage as ndi

from medals.data.augment import wide
from medals.core import ints, make_gen
from medals.base.files import write_json, write_lines
from medals.data.batch import to_batch
from medals.data.questions import DATA_PRESETS, DataCfg
from medals.data.sampler import Sampler
from medals.prepare import manifest_row
from medals.data.store import _write_array, open_case, published_blocks, write_case


def made_up(folder, shape, classes, patch):
    "A store with one smooth, noisy scan and balls in it; with the arrays once more as the published code writes them"
    gen = make_gen('bench', *shape)
    x = ndi.zoom(gen.normal(120, 50, [n//16+2 for n in shape]), 16, order=1)[tuple(map(slice, shape))]
    x = np.clip(x+gen.normal(0, 6, shape), 0, 255).astype(np.uint8)
    y = np.zeros(shape, np.uint8)
    for k in range(1, classes+1):
        c,r = gen.uniform(.15, .85, 3)*shape,gen.uniform(.04, .12)*min(shape)
        lo,hi = np.maximum(c-r, 0).astype(int),np.minimum(c+r+1, shape).astype(int)
        box = tuple(slice(*o) for o in zip(lo, hi))
        at = np.stack(np.meshgrid(*[np.arange(a, b) for a,b in zip(lo, hi)], indexing='ij'), -1)
        y[box][((at-c)**2).sum(-1)<r*r] = k
    named = {f'structure {k}': [k] for k in range(1, classes+1)}
    write_case(folder/'cases/CT_balls/a', x, y, np.eye(4), named, 'ct', dataset='CT_balls', orientation='PLS')
    asked = {k: dict(values=v, sentences=[f'{k} in CT, sentence {i}' for i in range(10)]) for k,v in named.items()}
    write_json(folder/'classes.json', {'CT_balls': dict(modality='ct', instance=False, classes=asked)})
    write_json(folder/'store.json', dict(format=1, recipe=dict(patch=patch, spacing=(1,1,1), frame='PLS')))
    write_lines(folder/'manifest.jsonl', [manifest_row(folder, 'CT_balls/a')])


def as_published(folder, patch):
    "The arrays of a case in the published blocks and types"
    case = open_case(folder)
    for name,kind in (('image', np.float32), ('labels', np.int16)):
        x = getattr(case, name)[:].astype(kind)
        _write_array(Path(folder)/f'published_{name}.b2nd', x, *published_blocks(x.shape, patch, x.itemsize), level=8)


def peak():
    "Largest memory of this process, GB"
    try: return int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1])/2**20
    except OSError: return float('nan')


def ours(store, patch, draws):
    "Seconds, bytes and peak memory of our samples, apart for windows as they are and for turned or scaled ones"
    blosc2.set_nthreads(1)
    torch.set_num_threads(1)
    sampler,rows,kept = Sampler(store, DataCfg(patch=patch), 0),[],[]
    for i in range(2): sampler.sample('warm', i)
    for i in range(draws):
        t = time.process_time()
        s = pickle.loads(pickle.dumps(sampler.sample(0, i), protocol=5))
        rows.append((time.process_time()-t, s.nbytes/1e6, s.aug.moves))
        if len(kept)<4: kept.append(s)
    gb = peak()
    import monai.transforms  # noqa: F401
    t = time.process_time()
    for s in kept: to_batch([s])
    sec,mb,moves = (np.array(o, float) for o in zip(*rows))
    res = {k: dict(s=float(sec[moves==v].mean()), mb=float(mb[moves==v].mean())) for k,v in (('plain', 0), ('moved', 1))}
    both = {k: .64*res['plain'][k]+.36*res['moved'][k] for k in ('s','mb')}
    return dict(**both, gb=gb, device=(time.process_time()-t)/len(kept), **res)


def blocks_loop(m, gen):
    "Simulated prompts, a loop over blocks"
    n,*size = m.shape
    edge,drop,add = int(gen.choice((4,8,16,32))),gen.uniform(.3, .9),gen.uniform(0, .02)
    m = m*(gen.random((n,1,1,1))>=.1)
    sc,mc = m.any(0, keepdims=True).astype(np.float32),np.zeros_like(m)
    for x in range(0, size[0], edge):
        for y in range(0, size[1], edge):
            for z in range(0, size[2], edge):
                at = (slice(None), slice(x, x+edge), slice(y, y+edge), slice(z, z+edge))
                gone = gen.random()<drop
                full = gen.random()<add and not gone
                if gone: sc[at] = 0
                else:
                    some = gen.permutation(n)[:gen.integers(1, n+1)]
                    mc[at][some] = m[at][some]
                if full:
                    sc[at] = 1
                    mc[at][gen.permutation(n)[:gen.integers(1, n+1)]] = 1
    return sc,mc


class Clock(dict):
    "CPU seconds by step, each times its probability"
    def __call__(self, name, fn, share=1.):
        t = time.process_time()
        res = fn()
        self[name] = share*(time.process_time()-t)
        return res


def read_wide(folder, name, fill, size, gen):
    "A window of a published array, padded"
    a = blosc2.open(str(Path(folder)/f'published_{name}.b2nd'), mode='r')
    lo = [gen.integers(min(0, n-s), max(0, n-s)+1) for n,s in zip(a.shape, size)]
    out = np.full(size, fill, a.dtype)
    part = a[tuple(slice(max(o, 0), min(o+s, n)) for o,s,n in zip(lo, size, a.shape))]
    put = [max(-o, 0) for o in lo]
    out[tuple(slice(p, p+k) for p,k in zip(put, part.shape))] = part
    return out


def turn(x, y, patch):
    "Cubic spline for the image, every label interpolated"
    a,b = np.cos(.3),np.sin(.3)
    at = np.stack(np.meshgrid(*[np.arange(p)-(p-1)/2 for p in patch], indexing='ij')).reshape(3, -1)
    at = (np.array([[a,-b,0],[b,a,0],[0,0,1]])@at).reshape(3, *patch)+(np.array(x.shape)/2-.5)[:,None,None,None]
    moved,lbl = ndi.map_coordinates(x, at, order=3),np.zeros(patch, y.dtype)
    for v in np.unique(y): lbl[ndi.map_coordinates((y==v).astype(float), at, order=1)>=.5] = v
    return moved,lbl


def gamma(x):
    m,s,lo,r = x.mean(),x.std(),x.min(),np.ptp(x)
    z = ((x-lo)/(r+1e-7))**1.2*r+lo
    return (z-z.mean())/(z.std()+1e-8)*s+m


def grey_steps(x, gen, clock):
    "The published changes of grey values"
    x = clock('noise', lambda: x+gen.normal(0, .05, x.shape).astype(np.float32), .1)
    x = clock('blur', lambda: ndi.gaussian_filter(x, .7), .1)
    x = clock('brightness', lambda: x*1.1, .15)
    x = clock('contrast', lambda: np.clip((x-x.mean())*1.1+x.mean(), x.min(), x.max()), .15)
    clock('low resolution', lambda: ndi.zoom(x[::2,::2,::2], 2, order=3), .125)
    return clock('gamma', lambda: gamma(x), .4)


def expand(y, classes, queries):
    "One float mask per sentence"
    m = torch.stack([torch.as_tensor(y==v) for v in range(1, classes+1)])
    m.flatten(1).any(1)
    return m.float()[torch.arange(queries)%classes]


def published(folder, patch, classes, queries):
    "Seconds, bytes and peak memory of a published sample"
    blosc2.set_nthreads(1)
    torch.set_num_threads(1)
    gen,clock,size = make_gen('published'),Clock(),np.array(wide(patch))
    x,y = clock('read', lambda: [read_wide(folder, *o, size, gen) for o in (('image', 0), ('labels', -1))])
    clock('turn and scale', lambda: turn(x, y, patch), .36)
    mid = tuple(slice((s-p)//2, (s-p)//2+p) for s,p in zip(size, patch))
    x,y = clock('cut', lambda: (x[mid].copy(), y[mid].copy()), .64)
    x = grey_steps(x, gen, clock)
    x,y = clock('mirror', lambda: (np.ascontiguousarray(x[::-1]), np.ascontiguousarray(y[::-1])), .875)
    m = clock('masks', lambda: expand(y, classes, queries))
    sc,mc = clock('prompts', lambda: blocks_loop(m.numpy(), gen), .65)
    one = torch.as_tensor(x)[None],m,torch.as_tensor(sc),torch.as_tensor(mc)
    batch = clock('collate', lambda: [torch.stack([o, o]) for o in one], .5)
    return dict(s=sum(clock.values()), mb=sum(o.nbytes for o in batch)/2e6, gb=peak(), steps={k: round(v, 2) for k,v in clock.items()})


def one(way, *args):
    cmd = [sys.executable, __file__, '--one', json.dumps([way, *args])]
    return json.loads(subprocess.run(cmd, stdout=subprocess.PIPE, text=True, check=True).stdout)


def table(store, folder, patch, classes, draws):
    new,old = one('ours', store, patch, draws),one('published', folder, patch, min(classes, 32), 32)
    print(f"| {classes} | published | {old['s']:.2f} | {old['mb']:.0f} | {old['gb']:.2f} | |")
    print(f"| {classes} | ours, all draws | {new['s']:.2f} | {new['mb']:.1f} | {new['gb']:.2f} | {new['device']:.2f} |")
    for k,name in (('plain', 'as they are, 64 %'), ('moved', 'turned or scaled, 36 %')):
        print(f"| {classes} | ours, {name} | {new[k]['s']:.2f} | {new[k]['mb']:.1f} | | |")
    print(f"| {classes} | ratio | {old['s']/new['s']:.0f} | {old['mb']/new['mb']:.0f} | {old['gb']/new['gb']:.1f} | |", flush=True)
    return old['steps']


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--patch', type=ints, default=(192,192,192))
    p.add_argument('--shape', type=ints, default=(512,512,400))
    p.add_argument('--draws', type=int, default=60)
    p.add_argument('--store', help='a prepared store; its first case is the one of the published side')
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        way,*args = json.loads(a.one)
        print(json.dumps(dict(ours=ours, published=published)[way](*args)))
        return
    queries = DATA_PRESETS['default'].queries
    print(f"windows of {'x'.join(map(str, a.patch))}, {queries} queries at most, one core, torch {torch.__version__}\n")
    print('| classes | way | CPU s | MB to the device | peak GB | s of the device part on this core |\n|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as tmp:
        if a.store:
            s = Sampler(a.store, DataCfg(patch=a.patch))
            raw,n = Path(tmp)/'a',len(s.sets[s.cases[0]['dataset']].names)
            raw.mkdir()
            for f in Path(s.cases[0]['folder']).iterdir(): (raw/f.name).write_bytes(f.read_bytes())
            as_published(raw, a.patch)
            steps = table(a.store, str(raw), a.patch, n, a.draws)
        for n in () if a.store else (13,32):
            store = Path(tmp)/str(n)
            made_up(store, a.shape, n, a.patch)
            as_published(store/'cases/CT_balls/a', a.patch)
            steps = table(str(store), str(store/'cases/CT_balls/a'), a.patch, n, a.draws)
    print(f"\npublished, expected CPU seconds by step: {', '.join(f'{k} {v}' for k,v in steps.items())}")


if __name__=='__main__': main()
