"""A server beside the same calls in the process: overhead, bytes on the wire, the first mask, and many clients at once.

    python bench/serve.py correction     # a correction at 256^3 through nnInteractive's calls, through medals.connect, and in the process
    python bench/serve.py first          # time to the first mask of 512x512x300 int16 over the loopback
    python bench/serve.py load --seconds 300   # 8 clients that upload, run, cancel and are killed; memory, /healthz, mixed results
"""
import argparse
import json
import multiprocessing as mp
import os
import signal
import threading
import time
from statistics import median

import httpx
import numpy as np
import torch
import uvicorn

import medals
from medals.base.progress import Stopped
from medals.core import UserError
from medals.inference.memory import memory_used
from medals.inference.stages import NetworkStage, RandomQueries
from medals.preprocessing.input_spec import InputSpec
from medals.segment import Segmenter
from medals.serving.app import make_app, open_port
from medals.serving.counter import ServeCfg
from medals.serving.marking import Marking
from medals.serving.packed import pack
from medals.spatial import Point
from medals.volume import Volume


class Bright(torch.nn.Module):
    "Marks what is bright: a network that takes no time, so that what is measured is everything else"
    def forward(self, x, q, m=None): return (x-128).expand(-1, len(q), -1, -1, -1)


def segmenter(weights):
    "The network that is served"
    if weights!='bright': return Segmenter.load(weights)
    frame = InputSpec(spacing=(1.,1.,1.), window=(64,64,64), modality='mri')
    return Segmenter(NetworkStage(Bright(), frame), RandomQueries(8), device='cpu')


def serve(seg, **cfg):
    "A server in a thread of this process; its address and desk"
    sock = open_port('127.0.0.1', 0)
    app = make_app(seg, ServeCfg(**cfg))
    server = uvicorn.Server(uvicorn.Config(app, log_level='warning'))
    threading.Thread(target=server.run, kwargs=dict(sockets=[sock]), daemon=True).start()
    return f'http://127.0.0.1:{sock.getsockname()[1]}',app.state.desk


def scan_of(shape, spacing=(1.,1.,1.)):
    "Noise with a bright ball"
    data = np.random.default_rng(0).integers(1, 60, shape).astype(np.int16)
    at = np.ogrid[tuple(slice(n) for n in shape)]
    data[sum((o-n//2)**2 for o,n in zip(at, shape))<(min(shape)//4)**2] = 250
    return Volume(data, np.diag([*spacing, 1.]), 'mri')


def clicks(shape, n):
    "Places of clicks around the middle"
    gen = np.random.default_rng(1)
    return [tuple(int(o) for o in gen.integers([s//2-s//6 for s in shape], [s//2+s//6 for s in shape])) for _ in range(n)]


def timed(fn, *args):
    start = time.perf_counter()
    res = fn(*args)
    return time.perf_counter()-start,res


def counting(http, wire):
    "Bytes of bodies in both directions, a number per answer"
    def count(response):
        both = response.headers,response.request.headers
        wire.append(sum(int(o.get('content-length', 0)) for o in both))
    http.event_hooks['response'] = [count]


def row(name, own, remote, wire, mask):
    print(f'| {name} | {median(own):.3f} | {median(remote):.3f} | {median(wire):.0f} | {len(pack(mask))} | {mask.size} |')


def with_connect(seg, url, vol, places):
    "Corrections, each of the first result"
    sentence = 'the bright ball'
    far = medals.connect(url)
    here,there = seg(vol, [sentence], presence=0),far(vol, [sentence], presence=0)
    own,remote,wire = [],[],[]
    counting(far.wire.http, wire)
    for at in places:
        marks = {sentence: [Point(at, 12., positive=False)]}
        own.append(timed(here.refine, marks)[0])
        before = len(wire)
        remote.append(timed(there.refine, marks)[0])
        wire[before:] = [sum(wire[before:])]
    row('medals.connect', own, remote, wire, np.asarray(here.masks[sentence]))


def with_viewer(seg, url, vol, places):
    "Clicks, one after another"
    from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
    marking = Marking(seg, vol)
    own,remote,wire = [],[],[]
    with nnInteractiveRemoteInferenceSession(url) as session:
        session.set_image(vol.data[None], {'spacing': vol.spacing})
        session.set_target_buffer(np.zeros(vol.shape, np.uint8))
        counting(session._http, wire)
        for at in places:
            own.append(timed(lambda at=at: (marking.add(Point(at)), marking.predict()))[0])
            remote.append(timed(session.add_point_interaction, at, True)[0])
    row("nnInteractive's client", own, remote, wire, np.asarray(marking.now.mask))


def correction(a):
    seg,vol = segmenter(a.weights),scan_of(a.size)
    url,_ = serve(seg)
    places = clicks(a.size, a.repeat)
    size = 'x'.join(map(str, a.size))
    print(f'| at {size} | seconds in the process | through the server | bytes on the wire | mask packed | mask raw |')
    print('|---'*6+'|')
    with_connect(seg, url, vol, places)
    with_viewer(seg, url, vol, places)


def first(a):
    from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
    size = a.size if a.size!=(256,)*3 else (512,512,300)
    seg,vol = segmenter(a.weights),scan_of(size, (.8,.8,1.))
    url,_ = serve(seg)
    with nnInteractiveRemoteInferenceSession(url) as session:
        buffer = np.zeros(vol.shape, np.uint8)
        up,_ = timed(session.set_image, vol.data[None], {'spacing': vol.spacing})
        session.set_target_buffer(buffer)
        click,_ = timed(session.add_point_interaction, tuple(n//2 for n in vol.shape), True)
    far = medals.connect(url)
    sent,_ = timed(far.upload, vol)
    print(f"{'x'.join(map(str, vol.shape))} int16, {a.weights}: nnInteractive's client uploads in {up:.2f} s, first mask after "
          f"{up+click:.2f} s; "
          f"medals.connect uploads in {sent:.2f} s")


# ---- many clients at once

def client(url, number, seconds, out):
    "Uploads, runs, cancels; every result is compared with what this client's scan must give"
    gen = np.random.default_rng(number)
    data = gen.integers(1, 60, (40,36,44)).astype(np.int16)
    data[4+number:12+number,6:20,8:30] = 250
    want = data>200
    done,bad,end = 0,[],time.monotonic()+seconds
    far = medals.connect(url)
    while time.monotonic()<end:
        vol = Volume(data, np.diag([1.,1.,1.,1.]), 'mri')
        kind = gen.integers(4)
        try:
            if kind==0:
                try: far(vol, ['the bright box'], progress=lambda done,total: False)
                except Stopped: pass
            elif kind==1: far.sent.clear()
            mask = far(vol, ['the bright box'], presence=0).masks['the bright box']
            if (mask^want).sum()>.02*want.sum(): bad.append('a mask of something else')
            done += 1
        except UserError as e:
            if 'try again' not in str(e): bad.append(str(e))
            time.sleep(.5)
    out.put((number, done, bad))


def by_quarter(seen):
    "The most in each quarter of the time: does it grow?"
    quarter = len(seen)//4
    return [round(max(seen[i*quarter:(i+1)*quarter]), 3) for i in range(4)]


def load(a):
    seg = segmenter('bright')
    url,desk = serve(seg, idle=20., max_memory=memory_used()+1.5)
    start,end = memory_used(),time.monotonic()+a.seconds
    context = mp.get_context('spawn')
    out = context.Queue()
    waits,seen,killed = [],[start],0
    def begin(number):
        p = context.Process(target=client, args=(url, number, max(1, end-time.monotonic()-5), out), daemon=True)
        p.start()
        return p
    running = {n: begin(n) for n in range(8)}
    last = time.monotonic()
    with httpx.Client(base_url=url) as http:
        while time.monotonic()<end:
            waits.append(timed(http.get, '/healthz')[0])
            seen.append(memory_used())
            if time.monotonic()-last>20 and end-time.monotonic()>25: # one dies in the middle of whatever it does
                n = killed%8
                os.kill(running[n].pid, signal.SIGKILL)
                running[n],killed,last = begin(n),killed+1,time.monotonic()
            time.sleep(.2)
    rows = []
    for p in running.values(): p.join(30)
    while not out.empty(): rows.append(out.get())
    time.sleep(30)
    for shelf in desk.shelves: shelf.reap()
    bad = [o for _,_,some in rows for o in some]
    waits.sort()
    said = dict(
        clients=8, killed=killed, results=sum(done for _,done,_ in rows), wrong=len(bad), such_as=bad[:3],
        healthz_median_ms=round(median(waits)*1e3, 1), healthz_p95_ms=round(waits[int(.95*len(waits))]*1e3, 1),
        gb_before=round(start, 2), gb_most_by_quarter=by_quarter(seen), gb_after=round(memory_used(), 2), budget_after=desk.budget.taken,
        left={shelf.what: len(shelf) for shelf in desk.shelves})
    print(json.dumps(said, indent=1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('table', choices=('correction','first','load'))
    p.add_argument('--size', type=lambda t: tuple(map(int, t.split(','))), default=(256,)*3, help='voxels x,y,z')
    p.add_argument('--weights', default='nano', help='weights, or bright: a network that takes no time')
    p.add_argument('--repeat', type=int, default=5)
    p.add_argument('--seconds', type=float, default=300)
    a = p.parse_args()
    dict(correction=correction, first=first, load=load)[a.table](a)


if __name__=='__main__': main()
