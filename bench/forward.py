"""One forward pass of the network, the published way beside ours and our faster ones, each in a process of its own.

    python bench/forward.py                      # on the CPU: sizes 64 and 96, 1 and 24 sentences, with and without prompts
    python bench/forward.py --sizes 64 --preset nano
    python bench/forward.py --sizes 192 --sentences 1 --repeats 1 --ways "ours, plain;ours, in slabs"   # minutes a pass
    python bench/forward.py --device cuda --sizes 192x192x192,224x224x128 --sentences 15   # both published configurations

Published: float32 on a CPU, fp16 on a GPU. The last column compares masks with those of the published way (Dice over all sentences).
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import medals.model
from medals.model import MedalS, positions
from medals.network.backends import use_backend
from medals.segment import INTERLEAVED_FROM

WAYS = dict(
    cpu={
        'published': {},
        'ours, plain': dict(slabs=False),
        'ours, in slabs': dict(slabs=True),
        'ours, in slabs, bf16': dict(slabs=True, dtype='bfloat16'),
        'openvino, float32': dict(backend='float32'),
        'openvino': dict(backend='auto')},
    cuda={
        'published': dict(dtype='float16'),
        'ours, float32': {},
        'ours, bf16': dict(dtype='bfloat16'),
        'ours, bf16, channels last': dict(dtype='bfloat16', channels_last=True),
        'ours, compiled': dict(dtype='bfloat16', channels_last=True, compile='default'),
        'ours, CUDA graphs': dict(dtype='bfloat16', channels_last=True, compile='reduce-overhead')})


def published(model, x, q, m):
    "The same numbers the long way: empty prompts are built and convolved, maps are concatenated, attention returns its weights"
    m = torch.zeros(len(x), len(q), *x.shape[2:], device=x.device) if m is None else m.float()
    h,skips = torch.cat([x*model.cfg.grey, (m.sum(1, keepdim=True)>0).float()], 1),[]
    for s in model.backbone.encoder.stages:
        for c in s[0].convs: h = c(h)
        skips.append(h)
    maps = []
    for up,stage,skip in zip(model.backbone.decoder.transpconvs, model.backbone.decoder.stages, skips[-2::-1]):
        h = torch.cat([up(h), skip], 1)
        for c in stage.convs: h = c(h)
        maps.insert(0, h)
    pooled = torch.cat([*(F.avg_pool3d(o, 2**(5-i)) for i,o in enumerate(skips[:-1])), skips[-1]], 1)
    mem = model.projection_layer(pooled.flatten(2).permute(2,0,1))
    pos = positions(tuple(pooled.shape[2:]), q.shape[-1], x.device)
    t,kept = q[:,None].expand(-1, len(x), -1),[]
    for o in model.transformer_decoder.layers:
        a,w = o.multihead_attn(o.norm2(t), mem+pos, mem, need_weights=True)
        kept.append(w)
        t = t+a
        t = t+o.linear2(F.relu(o.linear1(o.norm3(t))))
    vec = model.mask_embed_proj(model.transformer_decoder.norm(t).transpose(0,1))
    both = torch.cat([maps[0], torch.einsum('bnxyz,bnc->bcxyz', m, vec)], 1)
    return torch.einsum('bcxyz,bnc->bnxyz', model.fusion_conv.convs[0](both), vec)


def prepared(way, device, preset):
    "The network as a way has it"
    how = WAYS[device][way]
    torch.manual_seed(0)
    model = MedalS(preset).eval().to(device)
    interleaved = 'slabs' in how and model.cfg.features[0]>=INTERLEAVED_FROM # as a segmenter places it on a CPU
    if how.get('channels_last') or interleaved: model = model.to(memory_format=torch.channels_last_3d)
    if 'slabs' in how: medals.model.SLABS_FROM = 0 if how['slabs'] else float('inf')
    if how.get('compile'): model.backbone.compile(mode=how['compile'])
    if how.get('backend'): use_backend(model, 'openvino', how['backend'])
    return model,how.get('dtype')


def factored(model, x, q, m):
    "Logits as a segmentation gets them"
    d,vec = model.mask_factors(x, q, m)
    return torch.einsum('bnc,bcxyz->bnxyz', vec.float(), d.float())


def once(way, device, size, n, prompted, preset, repeats, out):
    "Seconds and peak memory of a pass, the best of some after one that warms up; the masks go into a file"
    model,dtype = prepared(way, device, preset)
    gen = torch.Generator().manual_seed(0)
    x = torch.rand(1,1,*size, generator=gen)*64
    q = torch.randn(n, model.cfg.query, generator=gen)
    m = (torch.rand(1,n,*size, generator=gen)<.1).to(device) if prompted else None
    x,q = x.to(device),q.to(device)
    run = published if way=='published' else factored
    times = []
    kind = getattr(torch, dtype or 'float32')
    with torch.inference_mode(), torch.autocast(device, kind, enabled=dtype is not None):
        for _ in range(repeats+(repeats>1)):
            start = time.perf_counter()
            y = run(model, x, q, m)
            if device=='cuda': torch.cuda.synchronize()
            times.append(time.perf_counter()-start)
    np.save(out, np.packbits((y>y.float().mean()).cpu().numpy()))
    gb = torch.cuda.max_memory_allocated()/2**30 if device=='cuda' else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    return dict(seconds=min(times[-repeats:]), gb=gb)


def measure(*args):
    cmd = [sys.executable, __file__, '--one', json.dumps(args)]
    done = subprocess.run(cmd, capture_output=True, text=True)
    if done.returncode: return dict(error=(done.stderr.strip().splitlines() or ['killed'])[-1][:120])
    return json.loads(done.stdout)


def alike(a, b):
    "Dice of two files of masks"
    x,y = (np.unpackbits(np.load(o)) for o in (a, b))
    return 2*int((x&y).sum())/max(int(x.sum())+int(y.sum()), 1)


def sides(text):
    "64, or 192x192x128"
    size = tuple(int(o) for o in text.split('x'))
    return size if len(size)==3 else size*3


def asked():
    "The command line"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', default='64,96')
    p.add_argument('--sentences', default='1,24')
    p.add_argument('--preset', default='medals-s')
    p.add_argument('--device', default='cpu', choices=list(WAYS))
    p.add_argument('--repeats', type=int, default=3, help='passes after one that warms up; 1: a single cold one')
    p.add_argument('--ways', help='only these, with semicolons between them')
    p.add_argument('--one', help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    a = asked()
    if a.one:
        print(json.dumps(once(*json.loads(a.one))))
        return
    where = f'{torch.get_num_threads()} threads' if a.device=='cpu' else torch.cuda.get_device_name()
    print(f'{a.preset}, {a.device}, {where}, torch {torch.__version__}')
    print('| size | sentences | prompts | way | s | times as fast | GB | Dice |\n|---|---|---|---|---|---|---|---|')
    ways = [w for w,how in WAYS[a.device].items() if 'backend' not in how or find_spec('openvino')]
    if a.ways: ways = a.ways.split(';')
    cases = [(sides(size), int(n), prompted) for size in a.sizes.split(',') for n in a.sentences.split(',') for prompted in (False, True)]
    with tempfile.TemporaryDirectory() as tmp:
        for size,n,prompted in cases:
            files = {way: str(Path(tmp)/f'{i}.npy') for i,way in enumerate(ways)}
            first = None
            for way in ways:
                made = measure(way, a.device, size, n, prompted, a.preset, a.repeats, files[way])
                first = first or made
                row = ['x'.join(map(str, size)), n, 'yes' if prompted else 'no', way]
                if 'error' in made: row += [made['error'], '', '', '']
                else:
                    ratio = first['seconds']/made['seconds'] if 'seconds' in first else float('nan')
                    dice = alike(files[ways[0]], files[way]) if 'seconds' in first else float('nan')
                    row += [f"{made['seconds']:.3f}", f'{ratio:.2f}', f"{made['gb']:.2f}", f'{dice:.4f}']
                print('|', ' | '.join(map(str, row)), '|', flush=True)


if __name__=='__main__': main()
