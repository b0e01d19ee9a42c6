"""Segmentation of whole scans: many sentences beside one, memory, and the published way beside ours.

    python bench/segment.py sentences              # random medals-s on windows of 96^3: 24 sentences in one run, and in 24
    python bench/segment.py memory                 # nano on 512x512x300 with 46 and with 243 sentences: peak memory, seconds per phase
    python bench/segment.py stages --device cuda   # medals-s with random weights, both stages, 15 sentences, beside the published way
    python bench/segment.py stages --size 48,48,40 --window 64,64,64 --sentences 2   # the same, small
    python bench/segment.py stages --size 256,256,100 --rounds 1 --ways "published;ours"  # on one core: an hour, and 13 GB
    python bench/segment.py whole                  # a whole body, 512x512x600, and structures of the neck: passes, peak memory, seconds

`stages` runs the ways in turns, in processes that stay, so that what else the machine does hits all of them; it has a ratio for each round,
of processor seconds where there is one thread (OMP_NUM_THREADS=1), which a busy machine changes little, otherwise of seconds. The
published way makes two passes of a window of the second stage, as the published code does: each hides half of what the first one found.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from forward import Worker, complain, published as published_pass
from medals.geometry import resample_labels
from medals.inference.request import make_request
from medals.inference.inputs import image_part, stage_view
from medals.inference.roi import published_roi
from medals.segment import Segmenter
from medals.base.settings import InferenceCfg
from medals.inference.windows import Windows, window_weight
from medals.inference.stages import RandomQueries, load_stages
from medals.vocab import structures
from medals.volume import Volume


def body(shape, spacing):
    "A body in Hounsfield units: air, fat, organs, bone and lung, with noise"
    x = np.full(shape, -1000, np.int16)
    at = [np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if a==d else 1 for a in range(3)]) for d,n in enumerate(shape)]
    def ball(c, r): return sum(((o-a)/b)**2 for o,a,b in zip(at, c, r))<1
    for c,r,hu in (((0,0,0),(.85,.65,2),-90), ((0,0,0),(.8,.6,2),45), ((-.35,0,.3),(.28,.4,.5),-800), ((.35,0,.3),(.28,.4,.5),-800),
                   ((0,-.45,0),(.1,.1,2),400), ((.3,.1,-.4),(.35,.3,.3),110)): x[ball(c, r)] = hu
    gen = np.random.default_rng(0)
    for k in range(shape[2]): x[:,:,k] += gen.normal(0, 12, shape[:2]).astype(np.int16)
    return Volume(x, np.diag([*spacing, 1.]), 'ct')


def words(n):
    "The names of so many structures of different intensity windows, in a fixed order"
    names = [s.name for s in structures().values() if s.name.isascii()]
    return names[::max(1, len(names)//n)][:n]


def ints(text): return tuple(int(o) for o in text.split(','))


def peak(): return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM'))/2**20


# ---- many sentences in one run

def sentences(a):
    stage = replace(load_stages('random:medals-s')[0][0], name='')
    w = a.window or (96,96,96)
    stage.frame = replace(stage.frame, window=w, fill=False, iterations=0)
    seg = Segmenter(stage, RandomQueries(stage.model.cfg.query), device=a.device)
    vol = body((int(w[0]*1.5), w[1], w[2]), stage.frame.spacing[:3])
    texts = [f'structure {i}' for i in range(a.sentences or 24)]
    def clock(some):
        t,cpu = time.perf_counter(),time.process_time()
        res = seg(vol, some, 'ct', presence=0)
        return time.perf_counter()-t,time.process_time()-cpu,res.manifest['passes']
    many = [clock(texts)] # also warms up
    single = [clock([o]) for o in texts]
    many += [clock(texts) for _ in range(2)]
    n,passes = len(texts),many[0][2]
    print(f"medals-s, random weights, {seg.where}, {torch.get_num_threads()} threads, windows of {w}, {passes} passes")
    print('| what | seconds | of one | seconds of the processor | of one |\n|---|---|---|---|---|')
    one = [median(o[i] for o in single) for i in range(2)]
    rows = {f'one sentence (median of {n})': one, f'{n} sentences in one run (median of 3)': [median(o[i] for o in many) for i in range(2)],
            f'{n} runs of one sentence': [sum(o[i] for o in single) for i in range(2)]}
    for k,v in rows.items(): print(f"| {k} | {v[0]:.1f} | {v[0]/one[0]:.2f} | {v[1]:.1f} | {v[1]/one[1]:.2f} |")


# ---- memory

def one_memory(size, n, device):
    seg,vol = Segmenter.load('nano', device),body(size, (.8,.8,1.))
    plan = seg.dry_run(vol, words(n), 'ct', presence=0)
    open('/proc/self/clear_refs', 'w').write('5')
    res = seg(vol, words(n), 'ct', presence=0)
    return dict(promised=plan.now+plan.host, peak=peak(), now=plan.now, seconds=res.manifest['seconds'], passes=res.manifest['passes'],
                found=sum(o['found'] for o in res.table), floats=float(np.prod(size, dtype=float))*n*4/2**30)


def memory(a):
    print('| sentences | float scores would take, GB | promised, GB | peak of the process, GB | of it before, GB | passes | seconds |')
    print('|---|---|---|---|---|---|---|')
    for n in [a.sentences] if a.sentences else (46, 243):
        r = sub('memory', a.size or (512,512,300), n, a.device)
        said = ', '.join(f'{k} {v:.0f}' for k,v in r['seconds'].items())
        print(f"| {n} | {r['floats']:.1f} | {r['promised']:.2f} | {r['peak']:.2f} | {r['now']:.2f} | {r['passes']} | {said} |", flush=True)


# ---- one region of a whole body

OUTLINE = np.array([ # height, half width, half depth
    (0,.32,.2), (.45,.45,.3), (.52,.62,.42), (.65,.55,.38), (.78,.62,.4), (.815,.6,.3), (.84,.26,.24), (.87,.24,.26), (.93,.3,.38),
    (.97,.28,.35), (.995,.1,.12), (1,.02,.02)], np.float32).T
ORGANS = ( # lungs, liver, bladder: centre, radii, Hounsfield units
    ((-.25,0,.71),(.2,.26,.08),-820), ((.25,0,.71),(.2,.26,.08),-820), ((-.22,.02,.6),(.26,.26,.05),110), ((0,.02,.5),(.12,.12,.02),8))


def slice_of_body(z, x, y):
    "Hounsfield units at a height from 0 to 1"
    w,d = (np.interp(z, OUTLINE[0], o) for o in OUTLINE[1:])
    out = np.full((len(x), y.shape[1]), -1000, np.int16)
    out[(abs(y+.62)<.01)&(abs(x)<.6)] = 100 # a table
    has_legs,has_skull = z<.45,z>.9
    parts = [(x-c)**2/(.45*w)**2+y**2/d**2 for c in (-.5*w, .5*w)] if has_legs else [x**2/w**2+y**2/d**2]
    inside = ((1,-90), (.86,900), (.72,35)) if has_skull else ((1,-90), (.82,50)) # skin and fat, a shell of bone, brain; or muscle
    for r in parts:
        for limit,hu in inside: out[r<limit] = hu
    for c,r,hu in ORGANS: out[((x-c[0])/r[0])**2+((y-c[1])/r[1])**2+((z-c[2])/r[2])**2<1] = hu
    if has_skull: return out
    for c in [(-.5*w,0), (.5*w,0)] if z<.48 else [(0,-.55*d)]: out[(x-c[0])**2+(y-c[1])**2<.005] = 450 # thigh bones, spine
    if z>.8: out[x**2+(y-.08)**2<.002] = -950 # airways
    if .865<z<.885: out[abs(parts[0]-.55)+10*(y<.3*d)<.1] = 800 # lower jaw
    return out


def whole_body(size):
    "A person of 1.8 m in Hounsfield units, head at the top"
    x,y = (np.linspace(-1, 1, n, dtype=np.float32)[o] for n,o in zip(size[:2], (np.s_[:,None], np.s_[None])))
    noise = np.random.default_rng(0).normal(0, 12, (7, *size[:2])).astype(np.int16)
    out = np.empty((size[2], *size[:2]), np.int16)
    for k in range(size[2]): out[k] = slice_of_body(k/(size[2]-1), x, y)+noise[k%7]
    return Volume(np.moveaxis(out, 0, 2), np.diag([500/size[0], 500/size[1], 1800/size[2], 1.]), 'ct')


NECK = ['left parotid gland', 'right parotid gland', 'mandible', 'spinal cord', 'brainstem']


def one_whole(size, device):
    start = time.perf_counter()
    vol = whole_body(size)
    made = time.perf_counter()-start
    seg = Segmenter.load('headneck', device)
    open('/proc/self/clear_refs', 'w').write('5')
    before = peak()
    start = time.perf_counter()
    res = seg(vol, NECK, 'ct')
    seconds = time.perf_counter()-start
    said,found = res.manifest,[o['sentence'] for o in res.table if o['found']]
    return dict(made=made, seconds=seconds, passes=said['passes'], before=before, peak=peak(), phases=said['seconds'], found=found)


def whole(a):
    size = a.size or (512,512,600)
    r = sub('whole', size, a.device)
    print(f"headneck, {', '.join(NECK)}, in {'x'.join(map(str, size))} voxels, made in {r['made']:.0f} s")
    print(f"found: {', '.join(r['found']) or 'none'}")
    print('| passes | seconds | peak of the process, GB | of it before, GB | phases |\n|---|---|---|---|---|')
    said = ', '.join(f'{k} {v:.0f}' for k,v in r['phases'].items())
    print(f"| {r['passes']} | {r['seconds']:.0f} | {r['peak']:.2f} | {r['before']:.2f} | {said} |")


# ---- both stages, beside the published way

WAYS = {'published': None, 'compat': dict(compat=True), 'ours, float32': dict(precision='float32', backend='torch'), 'ours': {}}
LIKE = {'compat': 'published', 'ours': 'ours, float32'} # whose masks they should have, but for chance and rounding


def hidden(m, gen):
    "Prompts with half of their blocks, those with the other half, and where the first are hidden"
    coarse = [-(-n//8) for n in m.shape[2:]]
    on = torch.zeros(int(np.prod(coarse)), dtype=torch.bool)
    on[torch.randperm(len(on), generator=gen)[:len(on)//2]] = True
    on = on.view(1, 1, *coarse)
    for axis in (2,3,4): on = on.repeat_interleave(8, axis)
    on = on[:,:,:m.shape[2],:m.shape[3],:m.shape[4]].float().to(m.device)
    return m*on,m*(1-on),1-on


def floats(net, x, on, q, window, device):
    "Scores of every class as floats on the host, from half windows, every window shown all prompts as floats, half of them at a time"
    total,count = np.zeros(on.shape, np.float32),np.zeros(x.shape, np.float32)
    half,gen,prompted = torch.device(device).type=='cuda',torch.Generator().manual_seed(0),on.any()
    u,v,w = (window_weight(o, False).astype(np.float32) for o in window)
    g = u[:,None,None]*v[:,None]*w
    for tile in (t for batch,_ in Windows(x.shape, window, even=False).slabs() for t in batch):
        at = tuple(slice(s, s+o) for s,o in zip(tile.at, window))
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.float16, enabled=half):
            m = torch.from_numpy(on[(slice(None), *at)][None]).to(device)
            part = torch.from_numpy(x[at][None,None]).to(device)
            if prompted:
                first,second,unseen = hidden(m, gen)
                logits = published_pass(net, part, q, first)*unseen
                logits += published_pass(net, part, q, second)*(1-unseen)
            else: logits = published_pass(net, part, q, m)
            p = logits.float().sigmoid()[0].cpu().numpy()
        total[(slice(None), *at)] += p*g
        count[at] += g
    total /= count
    return total


def one_stage(stage, view, request, q, prompts, device):
    "Labels of a stage on the turned scan"
    n = len(request.texts)
    x = image_part(request, view, request.groups[0].rule, tuple((0,n) for n in view.net.fine), device).astype(np.float32)
    more = [max(0, b-a) for a,b in zip(x.shape, stage.frame.window)]
    pads,inner = [(o//2, o-o//2) for o in more],tuple(slice(o//2, o//2+a) for o,a in zip(more, x.shape))
    crop,x = tuple(slice(*o) for o in view.net.crop),np.pad(x, pads)
    on = np.zeros((n, *x.shape), np.float32)
    if prompts is not None:
        lbl = np.pad(resample_labels(prompts[crop], view.net.fine, view.net.flat), pads)
        for i in range(n): on[i] = lbl==i+1
    total = floats(stage.model, x, on, q, stage.frame.window, device)
    lbl = np.where(total.max(0)>=.5, total.argmax(0)+1, 0)[inner].astype(np.int16)
    whole = np.zeros(view.turn.of(view.shape), np.int16)
    whole[crop] = resample_labels(lbl, view.net.size, view.net.flat)
    return whole


def published(stages, files, vol, texts, device):
    "The published way: weights loaded per stage, floats per class on the host, prompts built, half precision on a GPU; plans of `compat`"
    request,lbl,crop = make_request(vol, texts, 'ct', cfg=InferenceCfg(compat=True)),None,None
    q = RandomQueries(stages[0].model.cfg.query)(texts, 'ct').to(device)
    for stage,file in zip(stages, files):
        stage.model.load_state_dict(torch.load(file, weights_only=True))
        stage.model.to(device)
        view = stage_view(request, stage.frame, stage.name, crop)
        lbl = one_stage(stage, view, request, q, lbl, device)
        stage.model.cpu()
        ends = [np.flatnonzero(lbl.any(tuple(b for b in range(3) if b!=a))) for a in range(3)]
        if lbl.any(): crop = published_roi([(int(o[0]), int(o[-1])+1) for o in ends], lbl.shape, view.net.plan.source, request.keys)
    return view.turn.back(lbl)


def serve(way, size, n, window, device, out):
    "Segment the scan for every line that comes in, and say what it took; the labels of the last time are in a file by then"
    vol,texts = body(size, (.8,.8,1.)),[f'structure {i}' for i in range(n)]
    stages,enc = load_stages('random:medals-s')
    if window: stages = [replace(s, frame=replace(s.frame, window=tuple(window))) for s in stages]
    how = dict(WAYS[way] or {})
    settings = dict(compat=how.pop('compat', False), presence=0)
    where = torch.device('cuda' if device=='auto' and torch.cuda.is_available() else 'cpu' if device=='auto' else device)
    if way=='published':
        kept = tempfile.TemporaryDirectory() # for as long as this function works
        files = [Path(kept.name)/f'{s.name}.pth' for s in stages]
        for s,f in zip(stages, files): torch.save(s.model.state_dict(), f)
        engine = f'torch, {"fp16" if where.type=="cuda" else "float32"}'
    else:
        seg = Segmenter(stages, enc, device=device, precision=how.get('precision', 'auto')).use(how.get('backend', 'auto')) # tried here
        engine = f"{seg.backend}, {str(seg.amp or 'float32').removeprefix('torch.')}"
    for _ in sys.stdin:
        start,own = time.perf_counter(),time.process_time()
        if way=='published': lbl,said = published(stages, files, vol, texts, str(where)),{}
        else:
            res = seg(vol, texts, 'ct', **settings)
            lbl,said = res.labels()[0],dict(res.manifest['seconds'], passes=res.manifest['passes'])
        took = dict(seconds=time.perf_counter()-start, processor=time.process_time()-own)
        np.save(out, lbl)
        there = torch.cuda.max_memory_allocated()/2**30 if where.type=='cuda' else 0.
        print(json.dumps(dict(took, peak=peak(), device=there, engine=engine, said=said, voxels=int((lbl>0).sum()))), flush=True)


def agreement(a, b, n):
    "Mean Dice of the labels of two files"
    x,y = np.load(a),np.load(b)
    counts = [(int(((x==i)&(y==i)).sum()), int((x==i).sum()+(y==i).sum())) for i in range(1, n+1)]
    return np.mean([2*both/all_of_them for both,all_of_them in counts if all_of_them])


def stages(a):
    size,n = a.size or (512,512,300),a.sentences or 15
    ways = [o.strip() for o in a.ways.split(';')] if a.ways else list(WAYS)
    folder = tempfile.TemporaryDirectory()
    files = {way: str(Path(folder.name)/f'{i}.npy') for i,way in enumerate(ways)}
    workers = {way: Worker('stages', way, size, n, a.window, a.device, file, script=__file__) for way,file in files.items()}
    for i in range(a.rounds):
        for way,worker in workers.items():
            worker.once()
            print(f'round {i+1}, {way}: {worker.error or worker.rounds[-1]}', file=sys.stderr, flush=True) # a round may take an hour
    by = 'processor' if a.device=='cpu' and torch.get_num_threads()==1 else 'seconds'
    print(f"{'x'.join(map(str, size))} voxels, {n} sentences, {a.rounds} rounds, {torch.get_num_threads()} threads")
    print('| way | engine | s | processor s | times as fast, by round | GB | on the device | voxels | Dice with | of the last round |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    for way,worker in workers.items():
        worker.close()
        if worker.error:
            print(f'| {way} | {worker.error} |')
            continue
        last,first = worker.rounds[-1],workers[ways[0]].rounds
        ratios = ' '.join(f'{one[by]/own[by]:.2f}' for one,own in zip(first, worker.rounds))
        best = ' | '.join(f'{min(o[what] for o in worker.rounds):.1f}' for what in ('seconds','processor'))
        other = LIKE.get(way)
        dice = f'{other}: {agreement(files[way], files[other], n):.4f}' if other in files else ''
        said = ', '.join(f'{k} {v:.1f}' for k,v in last['said'].items())
        memory = f"{last['peak']:.1f} | {last['device']:.1f}"
        print(f"| {way} | {last['engine']} | {best} | {ratios} | {memory} | {last['voxels']} | {dice} | {said} |", flush=True)
    complain({way: worker.error for way,worker in workers.items()})


def sub(what, *args):
    "A measurement in a process of its own"
    got = subprocess.run([sys.executable, __file__, '--one', json.dumps([what, *args])], capture_output=True, text=True)
    if got.returncode: sys.exit(got.stderr)
    return json.loads(got.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('table', nargs='?', choices=('sentences','memory','stages','whole'))
    p.add_argument('--sentences', type=int)
    p.add_argument('--size', type=ints, help='voxels x,y,z')
    p.add_argument('--window', type=ints, help='voxels x,y,z of the network')
    p.add_argument('--device', default='cpu')
    p.add_argument('--rounds', type=int, default=2, help='of stages')
    p.add_argument('--ways', help=f'some of stages: {"; ".join(WAYS)}')
    p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        what,*args = json.loads(a.one)
        if what=='stages': serve(*args)
        else: print(json.dumps(dict(memory=one_memory, whole=one_whole)[what](*args)))
    elif a.table: dict(sentences=sentences, memory=memory, stages=stages, whole=whole)[a.table](a)
    else: p.error('name a table: sentences, memory or stages')


if __name__=='__main__': main()
