"""The Studio: seconds and bytes of what a hand does, in the kernel and in a browser.

    python bench/studio.py                      # 512x512x300, kernel side
    python bench/studio.py --size 141 190 147   # a head
    python bench/studio.py --browser            # and in JupyterLab with Chromium, which sh/test_browser.sh installs

The scan is a made-up CT with five masks. Bytes are what goes through the comm of the widgets, without what Jupyter adds. Memory is what
the process had at most, less what it had with the scan alone, as a multiple of the scan.
"""
import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

for v in ('OMP_NUM_THREADS','OPENBLAS_NUM_THREADS','MKL_NUM_THREADS'): os.environ.setdefault(v, '1')

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZE = (512,512,300)
PANE = 440  # pixels of a slice on the screen
AIMS = {'first picture': '2 s', 'wheel step': '60 ms, 95th 120 ms, 60 kB', 'window drag': '0 bytes', 'memory': '1 scan beside the scan'}

def ct(shape, seed=0):
    "A body in air with noise, and five masks, as int16 and bool"
    gen = np.random.default_rng(seed)
    x = np.full(shape, -1000, np.int16)
    lines = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    masks = {}
    for k in range(shape[2]): # a slice after the other
        r = (lines[0][:,None]/.8)**2+(lines[1][None]/.6)**2+(lines[2][k]/1.2)**2
        x[:,:,k][r<1] = 40
        x[:,:,k] += gen.normal(0, 15, shape[:2]).astype(np.int16)
    for i,name in enumerate(('liver','spleen','left kidney','right kidney','aorta')):
        m = np.zeros(shape, bool)
        lo = [int(n*(.25+.08*i)) for n in shape]
        m[tuple(slice(a, a+n//6) for a,n in zip(lo, shape))] = True
        masks[name] = m
    return x,masks

def said(key):
    "A number of the kernel about this process, bytes"
    return int(open('/proc/self/status').read().split(key+':')[1].split()[0])*1024

class Counted:
    "Bytes that widgets send"
    def __init__(self):
        from ipywidgets import Widget
        self.bytes = 0
        def send(widget, msg, buffers=None):
            self.bytes += len(json.dumps(msg, default=str))+sum(len(b) for b in buffers or ())
        Widget._send = send

def timed(counted, fn, times):
    "Milliseconds, median and 95th percentile, and bytes of one"
    took,before = [],counted.bytes
    for k in range(times):
        start = time.perf_counter()
        fn(k)
        took.append(1000*(time.perf_counter()-start))
    took.sort()
    return statistics.median(took),took[min(len(took)-1, int(.95*len(took)))],(counted.bytes-before)/times

def kernel(shape): # noqa: PLR0915 a protocol, from top to bottom
    "What the Python side takes"
    from medals.inference.result import Segmentation
    from medals.masks.bitmask import BitMask
    from medals.volume import Volume
    from medals.widgets import Studio
    counted = Counted()
    x,masks = ct(shape)
    packed = {k: BitMask.of(m) for k,m in masks.items()}
    del masks
    vol = Volume(x, np.diag([.8,.8,1.5,1.]), 'ct')
    Studio(None, Volume(x[::16,::16,::16].copy(), np.eye(4), 'ct')).wait()  # imports are no part of it
    if Path('/proc/self/clear_refs').exists(): open('/proc/self/clear_refs', 'w').write('5')
    had = said('VmRSS')
    def slice_of(studio, axis, i, step, grey=True, **_):
        studio._message(studio.canvas, dict(type='slice', view='v', key='k', axis=axis, index=i, rect=None, step=step, grey=grey), [])
    start = time.perf_counter()
    studio = Studio(None, vol, list(packed))
    for axis in range(3): slice_of(studio, axis, studio.canvas.cursor[axis], max(1, max(shape)//PANE))
    first = time.perf_counter()-start
    first_bytes = counted.bytes
    studio.wait()
    solid = time.perf_counter()-start
    studio.result = Segmentation(vol, packed, {}, dict(medals='bench'))
    studio.wait()
    rows = [('first picture', 1000*first, 1000*first, first_bytes), ('and its 3D view', 1000*solid, 1000*solid, 0)]
    quick = -(-max(shape)//250)  # as in pane.js
    for axis,name in enumerate(('sagittal','coronal','axial')):
        rows.append((f'wheel step, {name}', *timed(counted, lambda k, a=axis: slice_of(studio, a, 20+k, quick), 100)))
    rows.append(('a slice at rest, axial', *timed(counted, lambda k: slice_of(studio, 2, 20+k, max(1, max(shape)//PANE)), 20)))
    rows.append(('window drag', 0., 0., 0))
    def look(k): studio._message(studio.list, dict(type='look', sentence='liver', visible=bool(k%2)), [])
    rows.append(('class on or off', *timed(counted, look, 20)))
    at = [n//2 for n in studio.board.screen.shape]
    def hand(tool, *points): studio._message(studio.canvas, dict(type='mark', tool=tool, axis=2, index=at[2], points=points), [])
    def click(k): hand('point', [at[0]+k, at[1]])
    rows.append(('click to mark', *timed(counted, click, 20)))
    rows.append(('undo', *timed(counted, lambda k: studio.undo(), 20)))
    studio.canvas.tool = {**studio.canvas.tool, 'radius': 10.}
    def brush(k): hand('brush', [at[0]+k, at[1]], [at[0]+k+9, at[1]])
    rows.append(('brush', *timed(counted, brush, 20)))
    rows.append(('undo of the brush', *timed(counted, lambda k: studio.undo(), 20)))
    studio.wait()
    mesh = studio.solid.viewer.bodies[0]['mesh']
    rows.append(('a mesh', *timed(counted, lambda k: studio.solid._message(None, dict(type='mesh', mesh=mesh), []), 3)))
    print(f"\nkernel side, {'x'.join(map(str, shape))}, int16, 5 masks\n\n| step | median ms | 95th ms | kB |\n|---|---|---|---|")
    for name,mid,high,size in rows: print(f'| {name} | {mid:.1f} | {high:.1f} | {size/1000:.1f} |')
    print(f"\nmemory beside the scan: {(said('VmHWM')-had)/x.nbytes:.2f} scans")

CELL = '''
import sys, os
sys.path.insert(0, {bench!r})
from studio import ct
import numpy as np
from medals.inference.result import Segmentation
from medals.volume import Volume
from medals.widgets import Studio
x,masks = ct({shape!r})
vol = Volume(x, np.diag([.8,.8,1.5,1.]), 'ct')
result = Segmentation(vol, masks, {{}}, dict(medals='bench'))
del masks
'''
OPEN = '''
studio = Studio(None, vol, list(result.masks))
studio.result = result
studio
'''
WHEEL = '''async n => {
  const canvas = document.querySelectorAll('.medals-canvas')[2], took = [], nap = t => new Promise(r => setTimeout(r, t));
  for (let k = 0; k < n; k++) {
    const before = canvas.dataset.shown, start = performance.now();
    canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: 100, bubbles: true, cancelable: true }));
    while (canvas.dataset.shown === before && performance.now() - start < 5000) await new Promise(r => requestAnimationFrame(r));
    took.push(performance.now() - start);
    await nap(60);
  }
  return took.sort((a, b) => a - b) }'''

DRAWN = "() => [...document.querySelectorAll('.medals-canvas')].filter(c => c.dataset.shown).length >= 3"

def in_browser(shape): # noqa: PLR0915 a protocol, from top to bottom
    "What a user of JupyterLab waits for"
    sys.path.insert(0, str(ROOT/'tests'/'browser'))
    import drive
    if not drive.chromium(): raise SystemExit('no Chromium: apt-get install chromium, or set MEDALS_CHROMIUM')
    tmp = Path(tempfile.mkdtemp())
    (tmp/'files').mkdir()
    drive.write_notebook(tmp/'files'/'a.ipynb', CELL.format(bench=str(ROOT/'bench'), shape=tuple(shape)), OPEN)
    got = dict(to=0, back=0)
    def socket(ws):
        ws.on('framereceived', lambda data: got.__setitem__('to', got['to']+len(data)))
        ws.on('framesent', lambda data: got.__setitem__('back', got['back']+len(data)))
    rows = []
    def row(name, mid, high, times=1):
        rows.append((name, mid, high, got['to']/times, got['back']/times))
        got.update(to=0, back=0)
    try:
        with drive.server('lab', tmp/'files', tmp) as (base,token), drive.browser(1400, 1100) as page:
            page.on('websocket', socket)
            nb = drive.Notebook(page, base, token, 'a.ipynb')
            nb.ask(CELL.format(bench=str(ROOT/'bench'), shape=tuple(shape)))
            got.update(to=0, back=0)
            nb.ask("import time; open('started','w').write(str(time.time()))")
            start = time.monotonic()
            page.evaluate('() => { window.done = window.jupyterapp.commands.execute("notebook:run-all-cells") }')
            page.wait_for_function(DRAWN, timeout=120_000)
            row('run both cells: scan made, first picture', 1000*(time.monotonic()-start), 0)
            page.wait_for_timeout(4000)
            row('the 3D view, 4 s later', 4000, 0)
            steps = min(100, shape[2]//2-5)
            took = page.evaluate(WHEEL, steps)
            page.wait_for_timeout(500)
            row('wheel step', took[steps//2], took[int(.95*steps)], steps)
            box = page.locator('.medals-canvas').nth(2).bounding_box()
            page.mouse.move(box['x']+100, box['y']+100)
            page.mouse.down(button='right')
            page.wait_for_timeout(300)
            got.update(to=0, back=0)
            start = time.monotonic()
            for k in range(20): page.mouse.move(box['x']+100+4*k, box['y']+100)
            row('window drag, one move', 1000*(time.monotonic()-start)/20, 0, 20)
            page.mouse.up(button='right')
            got.update(to=0, back=0)
            start = time.monotonic()
            for _ in range(6): page.locator('tr[data-class=liver] input[type=checkbox]').click()
            row('class on or off', 1000*(time.monotonic()-start)/6, 0, 6)
    finally: shutil.rmtree(tmp, ignore_errors=True)
    print(f"\nin a browser, {'x'.join(map(str, shape))}\n\n| step | median ms | 95th ms | kB to the browser | kB back |")
    print('|---|---|---|---|---|')
    for name,mid,high,to,back in rows: print(f'| {name} | {mid:.0f} | {high:.0f} | {to/1000:.1f} | {back/1000:.1f} |')

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', type=int, nargs=3, default=SIZE)
    parser.add_argument('--browser', action='store_true')
    args = parser.parse_args()
    kernel(tuple(args.size))
    if args.browser: in_browser(tuple(args.size))
    print('\naims at 512x512x300:', '; '.join(f'{k}: {v}' for k,v in AIMS.items()))
