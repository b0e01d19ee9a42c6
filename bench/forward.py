"""One forward pass of the network, ours beside the published way, each in a process of its own.

    python bench/forward.py                      # sizes 64 and 96, 1 and 24 sentences, with and without prompts
    python bench/forward.py --sizes 64 --preset nano
"""
import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from medals.model import MedalS, positions


def published(model, x, q, m):
    "The same numbers the long way: empty prompts are built and convolved, maps are concatenated, attention returns its weights"
    m = torch.zeros(len(x), len(q), *x.shape[2:]) if m is None else m.float()
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
    pos = positions(tuple(pooled.shape[2:]), q.shape[-1])
    t,kept = q[:,None].expand(-1, len(x), -1),[]
    for o in model.transformer_decoder.layers:
        a,w = o.multihead_attn(o.norm2(t), mem+pos, mem, need_weights=True)
        kept.append(w)
        t = t+a
        t = t+o.linear2(F.relu(o.linear1(o.norm3(t))))
    vec = model.mask_embed_proj(model.transformer_decoder.norm(t).transpose(0,1))
    both = torch.cat([maps[0], torch.einsum('bnxyz,bnc->bcxyz', m, vec)], 1)
    return torch.einsum('bcxyz,bnc->bnxyz', model.fusion_conv.convs[0](both), vec)


def once(way, size, n, prompted, preset):
    "Seconds and peak memory of one pass, after one small pass that warms up"
    torch.manual_seed(0)
    model = MedalS(preset).eval()
    x,q = torch.rand(1,1,size,size,size),torch.randn(n, model.cfg.query)
    m = torch.rand(1,n,size,size,size)<.1 if prompted else None
    run = (lambda *a: published(model, *a)) if way=='published' else (lambda x,q,m: model(x, q, m))
    with torch.inference_mode():
        run(x[...,:64,:64,:64], q[:1], None)
        t = time.perf_counter()
        y = run(x, q, m)
    return dict(seconds=time.perf_counter()-t, gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, check=float(y.double().std()))


def measure(*args):
    cmd = [sys.executable, __file__, '--one', json.dumps(args)]
    return json.loads(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', default='64,96')
    p.add_argument('--sentences', default='1,24')
    p.add_argument('--preset', default='medals-s')
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(once(*json.loads(a.one))))
        return
    print(f"{a.preset}, float32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print('| size | sentences | prompts | published s | ours s | ratio | published GB | ours GB |\n|---|---|---|---|---|---|---|---|')
    for size in map(int, a.sizes.split(',')):
        for n in map(int, a.sentences.split(',')):
            for prompted in (False, True):
                old,new = (measure(way, size, n, prompted, a.preset) for way in ('published','ours'))
                assert abs(old['check']/new['check']-1)<1e-3, 'the two ways differ'
                print(f"| {size}^3 | {n} | {'yes' if prompted else 'no'} | {old['seconds']:.2f} | {new['seconds']:.2f} | "
                      f"{old['seconds']/new['seconds']:.2f} | {old['gb']:.2f} | {new['gb']:.2f} |", flush=True)


if __name__=='__main__': main()
