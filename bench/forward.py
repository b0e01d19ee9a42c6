"""One forward pass of the network, the published way beside ours and our faster ones, each in a process of its own, in turns.

    python bench/forward.py                      # on the CPU: sizes 64 and 96, 1 and 24 sentences, with and without prompts
    python bench/forward.py --sizes 64 --preset nano
    python bench/forward.py --sizes 192 --sentences 15 --prompts yes --repeats 1 --ways "published;ours, in slabs"   # minutes a pass
    python bench/forward.py --device cuda --sizes 192x192x192,224x224x128 --sentences 15   # both published configurations

Published: float32 on a CPU, fp16 on a GPU. The last column compares masks with those of the published way (Dice over all sentences).
In every round each way makes one pass, so that what else the machine does hits all of them; `times as fast` has a number for each round.
With one thread (OMP_NUM_THREADS=1) it is of processor seconds, which a busy machine changes little, otherwise of seconds.
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
    with torch.autocast(x.device.type, enabled=False): return torch.einsum('bnc,bcxyz->bnxyz', vec.to(d.dtype), d)


def serve(way, device, size, n, prompted, preset, out):
    "Make a pass for every line that comes in, and say what it took; the masks of the last one are in a file by then"
    model,dtype = prepared(way, device, preset)
    gen = torch.Generator().manual_seed(0)
    x = torch.rand(1,1,*size, generator=gen)*64
    q = torch.randn(n, model.cfg.query, generator=gen)
    m = (torch.rand(1,n,*size, generator=gen)<.1).to(device) if prompted else None
    x,q = x.to(device),q.to(device)
    run = published if way=='published' else factored
    kind = getattr(torch, dtype or 'float32')
    for _ in sys.stdin:
        with torch.inference_mode(), torch.autocast(device, kind, enabled=dtype is not None):
            start,own = time.perf_counter(),time.process_time()
            y = run(model, x, q, m)
            if device=='cuda': torch.cuda.synchronize()
            took = dict(seconds=time.perf_counter()-start, processor=time.process_time()-own)
        np.save(out, np.packbits((y>y.float().mean()).cpu().numpy()))
        del y
        gb = torch.cuda.max_memory_allocated()/2**30 if device=='cuda' else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
        print(json.dumps(dict(took, gb=gb)), flush=True)


class Worker:
    "A process that makes passes when it is asked to"
    def __init__(self, *args, script=__file__):
        cmd = [sys.executable, script, '--one', json.dumps(args)]
        self.run = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.rounds = []
        self.error = ''

    def once(self, asked=''):
        "A pass; an error is kept, and the process ends"
        if self.error: return
        try:
            print(asked, file=self.run.stdin, flush=True)
            said = self.run.stdout.readline()
        except BrokenPipeError: said = ''
        if said: self.rounds.append(json.loads(said))
        else: self.error = ((self.run.stderr.read() or '').strip().splitlines() or ['killed'])[-1][:120]

    def close(self):
        if self.run.poll() is None: self.run.communicate()


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
    p.add_argument('--repeats', type=int, default=3, help='rounds after one that warms up; 1: a single cold one')
    p.add_argument('--prompts', choices=('no','yes','both'), default='both')
    p.add_argument('--ways', help='only these, with semicolons between them')
    p.add_argument('--one', help=argparse.SUPPRESS)
    return p.parse_args()


NO_FAULT = 'memory','no working c++ compiler' # What a machine may lack: the table says so


def complain(errors):
    "End with 1 if a way failed for a reason that lies in it"
    def is_fault(error): return error and not any(o in error.lower() for o in NO_FAULT)
    bad = {way: error for way,error in errors.items() if is_fault(error)}
    if bad: sys.exit('\n'.join(f'{way} failed: {error}' for way,error in bad.items()))


def rows(ways, case, a, files, errors):
    "Measure all ways in turns, and yield what the table says of each; why one failed is in `errors` then"
    size,n,prompted = case
    workers = {way: Worker(way, a.device, size, n, prompted, a.preset, files[way]) for way in ways}
    for _ in range(a.repeats+(a.repeats>1)):
        for worker in workers.values(): worker.once()
    for worker in workers.values(): worker.close()
    first = workers[ways[0]]
    by = 'processor' if a.device=='cpu' and torch.get_num_threads()==1 else 'seconds'
    for way,worker in workers.items():
        row = ['x'.join(map(str, size)), n, 'yes' if prompted else 'no', way]
        if worker.error:
            errors[way] = worker.error
            yield [*row, worker.error, '', '', '', '']
            continue
        kept = worker.rounds[-a.repeats:]
        best = [f'{min(o[what] for o in kept):.3f}' for what in ('seconds','processor')]
        ratios = ' '.join(f'{one[by]/own[by]:.2f}' for one,own in zip(first.rounds[-a.repeats:], kept))
        dice = '' if first.error else f'{alike(files[ways[0]], files[way]):.4f}'
        yield [*row, *best, ratios, f"{kept[-1]['gb']:.2f}", dice]


def main():
    a = asked()
    if a.one:
        serve(*json.loads(a.one))
        return
    where = f'{torch.get_num_threads()} threads' if a.device=='cpu' else torch.cuda.get_device_name()
    print(f'{a.preset}, {a.device}, {where}, torch {torch.__version__}')
    head = 'size | sentences | prompts | way | s | processor s | times as fast, by round | GB | Dice'
    print(f'| {head} |\n|---|---|---|---|---|---|---|---|---|')
    ways = [w for w,how in WAYS[a.device].items() if 'backend' not in how or find_spec('openvino')]
    if a.ways: ways = [o.strip() for o in a.ways.split(';')]
    kinds = dict(no=(False,), yes=(True,), both=(False,True))[a.prompts]
    cases = [(sides(size), int(n), prompted) for size in a.sizes.split(',') for n in a.sentences.split(',') for prompted in kinds]
    with tempfile.TemporaryDirectory() as tmp:
        files = {way: str(Path(tmp)/f'{i}.npy') for i,way in enumerate(ways)}
        errors = {}
        for case in cases:
            for row in rows(ways, case, a, files, errors): print('|', ' | '.join(map(str, row)), '|', flush=True)
    complain(errors)


if __name__=='__main__': main()
