"""Training steps of the network, ours beside the plain way of the published code, each way in a process of its own, in turns.

    python bench/train.py                                # both published configurations, on a GPU
    python bench/train.py --small --queries 20           # nano, as the bundled weights are trained
    python bench/train.py --small                        # nano on a small window, also without a GPU: shows that it runs, no more

Plain: fp16 autocast with a loss scaler, contiguous memory, eager, one float mask and one float prompt per sentence, maps concatenated,
the loss over whole tensors. Ours: bf16, masks and prompts as one bool channel per class, the loss a few sentences at a time; then channels
last, recomputing the finest scales, compiling. Samples are random and already on the device, so this is the network's share alone;
bench/sample.py measures the loader's. On a CPU the ways take turns, so that what else the machine does hits all of them, and there is a
ratio for each round: with one thread (OMP_NUM_THREADS=1) of processor seconds, which a busy machine changes little, otherwise of seconds.
"""
import argparse
import json
import resource
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from forward import Worker, complain
from medals.data.batch import Batch
from medals.model import MedalS, positions
from medals.training.config import LoopCfg
from medals.training.loop import LossModule, TrainState, axes_for, memory_kept, one_step

FULL = dict(preset='medals-s', sizes=((224,224,128), (192,192,192)), queries=32, classes=24, batch=2)
SMALL = dict(preset='nano', sizes=((64,64,64),), queries=8, classes=6, batch=1)
WAYS = {'plain': None, 'ours': {}, 'ours, float32': dict(precision='float32'), 'ours, channels last': dict(channels_last=True),
        'ours, recompute 1': dict(channels_last=True, recompute=1), 'ours, recompute 2': dict(channels_last=True, recompute=2),
        'ours, compiled': dict(channels_last=True, compile=True)}


def made_up(size, device, queries, classes, batch, **_):
    "A random batch"
    gen = torch.Generator(device=device).manual_seed(0)
    cls = (torch.arange(queries, device=device)%classes).expand(batch, queries)
    def rand(*s): return torch.rand(s, generator=gen, device=device)
    coarse = rand(batch, classes, *(o//16 for o in size))<.1
    m = coarse
    for d in (2,3,4): m = m.repeat_interleave(16, d)
    p = m&(rand(batch, 1, *size)<.5)
    return Batch(x=rand(batch, 1, *size)*255, query=cls, cls=cls, valid=cls>=0, m=m, p=p, fg=None, datasets=['x']*batch, names=['x']*batch)


def plain_logits(net, x, fg, q, mc):
    "The published forward pass: concatenated maps, float prompts, attention that returns its weights"
    h,skips,maps = torch.cat([x, fg], 1),[],[]
    def block(c, h): return c.act(c.conv(h))
    for s in net.backbone.encoder.stages:
        for c in s[0].convs: h = block(c, h)
        skips.append(h)
    for up,stage,skip in zip(net.backbone.decoder.transpconvs, net.backbone.decoder.stages, skips[-2::-1]):
        h = torch.cat([up(h), skip], 1)
        for c in stage.convs: h = block(c, h)
        maps.insert(0, h)
    pooled = torch.cat([*(F.avg_pool3d(o, 2**(5-i)) for i,o in enumerate(skips[:-1])), skips[-1]], 1)
    mem = net.projection_layer(pooled.flatten(2).permute(2,0,1))
    pos = positions(tuple(pooled.shape[2:]), q.shape[-1], mem.device)
    t,kept = q.transpose(0,1),[]
    for o in net.transformer_decoder.layers:
        a,w = o.multihead_attn(o.norm2(t), mem+pos, mem, need_weights=True)
        kept.append(w)
        t = t+a
        t = t+o.linear2(F.relu(o.linear1(o.norm3(t))))
    t = net.transformer_decoder.norm(t).transpose(0,1)
    vec = net.mask_embed_proj(t)
    both = torch.cat([maps[0], torch.einsum('bnxyz,bnc->bcxyz', mc, vec)], 1)
    vecs = [vec, *(head(t) for head in net.mid_mask_embed_proj)]
    return [torch.einsum('bcxyz,bnc->bnxyz', d, v) for d,v in zip([block(net.fusion_conv.convs[0], both), *maps[1:]], vecs)]


def plain_loss(logits, m):
    "Dice and cross-entropy over four scales, over whole float tensors"
    total = 0.
    for i,z in enumerate(logits):
        y = F.interpolate(m, size=z.shape[2:], mode='nearest').flatten(2)
        z = z.flatten(2)
        p = z.sigmoid()
        dice = 1-(2*(p*y).sum(-1)+1e-7)/(p.square().sum(-1)+y.square().sum(-1)+1e-7)
        total = total+2.**-i/1.875*(dice.mean()+F.binary_cross_entropy_with_logits(z, y, reduction='none').mean())
    return total


def plain_step(net, device):
    "A function that takes one step of the published training"
    opt = torch.optim.AdamW(net.parameters(), lr=1e-4)
    half = torch.float16 if device.type=='cuda' else torch.bfloat16 # fp16 on a CPU has no fast kernels
    scaler = torch.amp.GradScaler(device.type, enabled=half==torch.float16)
    def step(b, q):
        rows = torch.arange(len(b.x), device=device)[:,None]
        m,mc = b.m[rows, b.cls].float(),b.p[rows, b.cls].float()
        with torch.autocast(device.type, half): loss = plain_loss(plain_logits(net, b.x, mc.amax(1, keepdim=True), q, mc), m)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        return loss.detach()
    return step


def our_step(net, device, table, **kw):
    "A function that takes one step of ours"
    cfg = LoopCfg(lr=1e-4, ema=0., **{'precision': 'bf16', **kw})
    net = net.to(memory_format=axes_for(net, cfg, device))
    net.backbone.redo = cfg.recompute
    run = TrainState(net, cfg, Path('.'), table)
    if cfg.compile: net.backbone.compile()
    forward = LossModule(net, cfg)
    return lambda b, q: one_step(run, forward, [b], 1e-4)[0].mean(0)[0]


def serve(way, size, shape):
    "Take steps for as many seconds as each line that comes in says, and tell how many, peak memory and the first loss"
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = MedalS(shape['preset']).to(device).train()
    net.transformer_decoder.layers.apply(lambda o: setattr(o, 'p', 0.))
    for o in net.transformer_decoder.layers: o.multihead_attn.dropout = 0.
    b = made_up(size, device, **shape)
    table = torch.randn(shape['queries'], net.cfg.query, device=device)
    b.query = torch.arange(shape['queries'], device=device).expand_as(b.cls)
    step = plain_step(net, device) if WAYS[way] is None else our_step(net, device, table, **WAYS[way])
    def wait(): return torch.cuda.synchronize() if device.type=='cuda' else None
    with nullcontext() if WAYS[way] is None else memory_kept(): # as `fit` does
        loss = float(step(b, table[b.query])) # the first ones warm up
        for _ in range(2 if device.type=='cuda' else 1): step(b, table[b.query])
        wait()
        for line in sys.stdin:
            start,own,n = time.perf_counter(),time.process_time(),0
            while n<2 or time.perf_counter()-start<float(line):
                step(b, table[b.query])
                wait()
                n += 1
            took = dict(seconds=(time.perf_counter()-start)/n, processor=(time.process_time()-own)/n)
            if device.type=='cuda': gb = torch.cuda.max_memory_allocated()/2**30
            else: gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
            print(json.dumps(dict(took, gb=gb, loss=loss)), flush=True)


def measured(ways, size, shape, a, errors):
    "All ways in turns, and what the table says of each; why one failed is in `errors` then"
    workers = {}
    for way in ways:
        workers[way] = worker = Worker(way, size, shape, script=__file__)
        worker.once(0) # alone, until it is warm
        worker.rounds.clear()
        if torch.cuda.is_available(): # whose memory may not hold all of them: one after the other
            for _ in range(a.rounds): worker.once(a.seconds/a.rounds)
            worker.close()
    if not torch.cuda.is_available():
        for _ in range(a.rounds):
            for worker in workers.values(): worker.once(a.seconds/a.rounds)
    by = 'processor' if not torch.cuda.is_available() and torch.get_num_threads()==1 else 'seconds'
    first = workers[ways[0]].rounds
    for way,worker in workers.items():
        worker.close()
        name = f"| {'x'.join(map(str, size))} | {way} | "
        if worker.error:
            errors[way] = worker.error
            yield f"{name}{'out of memory' if 'out of memory' in worker.error.lower() else worker.error} | | | | |"
            continue
        rate = shape['batch']/min(o['seconds'] for o in worker.rounds)
        own = min(o['processor'] for o in worker.rounds)
        ratios = ' '.join(f'{o[by]/mine[by]:.2f}' for o,mine in zip(first, worker.rounds))
        last = worker.rounds[-1]
        yield f"{name}{rate:.2f} | {own:.3f} | {ratios} | {last['gb']:.1f} | {last['loss']:.3f} |"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--small', action='store_true', help='nano, one small window')
    p.add_argument('--seconds', type=float, default=20, help='per row')
    p.add_argument('--rounds', type=int, default=4)
    p.add_argument('--queries', type=int, help='of as many classes; the bundled weights are trained with 20')
    p.add_argument('--ways', default='', help=f'some of: {"; ".join(WAYS)}')
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        serve(*json.loads(a.one))
        return
    cuda = torch.cuda.is_available()
    if not cuda and not a.small: sys.exit('there is no GPU here: the published configurations are measured on one; --small runs on a CPU')
    shape = SMALL if a.small else FULL
    if a.queries: shape = {**shape, 'queries': a.queries, 'classes': a.queries}
    asked = f"{shape['queries']} sentences of {shape['classes']} classes"
    print(f"{shape['preset']}, batch {shape['batch']}, {asked}, torch {torch.__version__}, "
          +(torch.cuda.get_device_name() if cuda else f'NO GPU: a CPU with {torch.get_num_threads()} threads'))
    print('| window | way | samples/s | processor s of a step | against plain, by round | peak GB | first loss |')
    print('|---|---|---|---|---|---|---|')
    ways = [o.strip() for o in a.ways.split(';')] if a.ways else list(WAYS)
    errors = {}
    for size in shape['sizes']:
        for row in measured(ways, size, shape, a, errors): print(row, flush=True)
    complain(errors)


if __name__=='__main__': main()
