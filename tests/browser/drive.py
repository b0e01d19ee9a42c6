"A Jupyter server and a browser that drives it: what the browser tests stand on"
import io
import json
import mimetypes
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

root = Path(__file__).resolve().parents[2]
FLAGS = ('--no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic --no-first-run '
         '--disable-background-networking --disable-component-update --disable-sync').split()

def chromium():
    "Path of a browser, or None"
    names = [os.environ.get('MEDALS_CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome']
    return next((p for o in names if o and (p := shutil.which(o))), None)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def settings(tmp, python):
    "Folders of its own for a server: no news pop-up, nothing of the user's, a kernel of the given Python"
    page,kernel = tmp/'config'/'labconfig'/'page_config.json',tmp/'data'/'kernels'/'python3'/'kernel.json'
    for o in (page, kernel): o.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(json.dumps({'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}))
    argv = [str(python), '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    kernel.write_text(json.dumps(dict(argv=argv, display_name='Python 3 (ipykernel)', language='python')))
    names = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_DATA_DIR='data', JUPYTER_RUNTIME_DIR='run', IPYTHONDIR='ipython')
    return {k: str(tmp/v) for k,v in names.items()}

def up(url, proc, log, seconds=60):
    "Wait until a server answers"
    t0 = time.monotonic()
    while time.monotonic()-t0<seconds:
        if proc.poll() is not None: raise RuntimeError(f'the server ended: {Path(log).read_text()[-2000:]}')
        try:
            with urllib.request.urlopen(url, timeout=2) as r:
                if r.status==200: return
        except OSError: time.sleep(.2)
    raise RuntimeError(f'no answer from {url}')

COMMANDS = dict(
    lab=['jupyterlab', '--LabApp.expose_app_in_browser=True'],
    notebook=['notebook', '--JupyterNotebookApp.expose_app_in_browser=True'],
    voila=['voila', '--no-browser', '--Voila.ip=127.0.0.1', '--show_tracebacks=True'])

@contextmanager
def server(kind, folder, tmp, env=(), python=sys.executable, more=()):
    "JupyterLab, Notebook 7 or Voila on 127.0.0.1 with a token; gone afterwards"
    port,token = free_port(),secrets.token_hex(16)
    here = {**os.environ, **settings(tmp, python), 'PYTHONPATH': str(root), 'MEDALS_SESSIONS': str(tmp/'sessions'), **dict(env)}
    here.pop('IN_TEST', None)
    if kind=='voila': cmd = [*COMMANDS[kind], f'--port={port}', f'--token={token}', str(folder)]
    else:
        cmd = [*COMMANDS[kind], '--allow-root', '--no-browser', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}',
               '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={folder}']
    log = tmp/f'{kind}.log'
    with open(log, 'w') as f: proc = subprocess.Popen([str(python), '-m', *cmd, *more], stdout=f, stderr=f, env=here, cwd=tmp)
    try:
        base = f'http://127.0.0.1:{port}'
        up(f'{base}/' if kind=='voila' else f'{base}/api/status?token={token}', proc, log)
        yield base,token
    finally:
        proc.terminate()
        try: proc.wait(20)
        except subprocess.TimeoutExpired: proc.kill()

@contextmanager
def browser(width=1500, height=1250):
    "A page of a headless browser"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        page = b.new_page(viewport=dict(width=width, height=height))
        page.set_default_timeout(90_000)
        page.notes = []
        page.on('console', lambda m: page.notes.append(f'{m.type}: {m.text}') if m.type in ('error', 'warning') else None)
        page.on('pageerror', lambda e: page.notes.append(f'pageerror: {e.stack or e}'))
        try: yield page
        finally: b.close()

READY = '''async () => {
  const app = window.jupyterapp, nap = t => new Promise(r => setTimeout(r, t));
  await app.restored; let w;
  for (;;) { w = app.shell.currentWidget; if (w && w.sessionContext && w.content && w.content.widgets) break; await nap(100) }
  await w.context.ready; await w.sessionContext.ready;
  for (;;) { const k = w.sessionContext.session && w.sessionContext.session.kernel;
    if (k && k.connectionStatus === 'connected' && k.status === 'idle') break; await nap(100) }
  window.medalsPage = w }'''

RUN = '''async () => {
  await window.jupyterapp.commands.execute('notebook:run-all-cells');
  return window.medalsPage.content.widgets.filter(c => c.model.type === 'code')
    .map(c => c.model.sharedModel.outputs.map(o => o.output_type + (o.ename ? ': ' + o.ename + ': ' + o.evalue : ''))) }'''

ASK = '''async code => {
  const k = window.medalsPage.sessionContext.session.kernel;
  const f = k.requestExecute({code, store_history: false, silent: false, stop_on_error: false});
  let out = '';
  f.onIOPub = m => { const t = m.header.msg_type;
    if (t === 'stream') out += m.content.text;
    if (t === 'error') out += 'ERROR ' + m.content.ename + ': ' + m.content.evalue };
  const late = new Promise(r => setTimeout(r, 120000, 'ERROR no answer of the kernel within two minutes'));
  return await Promise.race([f.done.then(() => out), late]) }'''

class Notebook:
    "A notebook that is open in JupyterLab or Notebook 7"
    def __init__(self, page, base, token, path, kind='lab'):
        self.page = page
        where = 'lab/tree' if kind=='lab' else 'notebooks'
        page.goto(f'{base}/{where}/{path}?token={token}'+('&reset' if kind=='lab' else ''))
        page.wait_for_function('() => window.jupyterapp')
        page.evaluate(READY)

    def run_all(self):
        "Run every cell; the kinds of their outputs"
        outs = self.page.evaluate(RUN)
        assert not [o for c in outs for o in c if o.startswith('error')], outs
        return outs

    def ask(self, code):
        "What the kernel prints for a piece of code, beside the notebook's cells"
        out = self.page.evaluate(ASK, code).strip()
        assert not out.startswith('ERROR'), out
        return out

    def wait_for(self, expr, seconds=180):
        "Wait until an expression is true in the kernel"
        t0 = time.monotonic()
        while time.monotonic()-t0<seconds:
            if self.ask(f'print(bool({expr}))').endswith('True'): return time.monotonic()-t0
            self.page.wait_for_timeout(150)
        raise AssertionError(f'never true: {expr}')

def ink(png, level=20):
    "Share of pixels of a picture that are not black"
    return float((np.asarray(Image.open(io.BytesIO(png)).convert('L'))>level).mean())

NPM = ('vue@2.6.10', 'vue-js-modal@2.0.1', 'imjoy-core@0.14.5', 'imjoy-rpc@0.5.9', 'itk-viewer-bootstrap-ui@0.30.0',
       'itk-vtk-viewer@14.51.0')
STUB = b'window.VueWindow = { install() {} };'  # @oeway/vue-window is not on npm any more; it only floats windows
SITES = ( # Address, package (None: named in the address), folder of the package
    (r'https://(?:cdn\.jsdelivr\.net/npm|unpkg\.com)/((?:@[^/@]+/)?[^/@]+)(?:@[^/]+)?/(.+)', None, ''),
    (r'https://imjoy-team\.github\.io/vue-js-modal/()(.+)', 'vue-js-modal', 'dist/'),
    (r'https://lib\.imjoy\.io/()(.+)', 'imjoy-core', 'dist/'),
    (r'https://[a-z0-9]+\.ipfs\.[a-z.]+/()(.*)', 'itk-vtk-viewer', 'dist/'))

class Packages:
    "Answers a page's requests to the web from npm packages, and refuses the others"
    def __init__(self, folder):
        self.folder,self.files,self.asked,self.refused = Path(folder),{},[],[]
        self.folder.mkdir(parents=True, exist_ok=True)
        new = [o for o in NPM if not self.tarball(o).exists()]
        for o in new: subprocess.run(['npm', 'pack', '--silent', o], cwd=self.folder, check=True, capture_output=True)

    def tarball(self, package): return self.folder/f"{package.replace('@', '-')}.tgz"

    def read(self, name, path):
        "A file of a package"
        package = next((o for o in NPM if o.rsplit('@', 1)[0]==name), None)
        if not package: return None
        if package not in self.files:
            with tarfile.open(self.tarball(package)) as t:
                self.files[package] = {m.name.split('/', 1)[1]: t.extractfile(m).read() for m in t.getmembers() if m.isfile()}
        return self.files[package].get(path)

    def body(self, url):
        "What an address stands for"
        if 'vue-window' in url: return STUB
        for pattern,package,folder in SITES:
            if m := re.match(pattern, url): return self.read(package or m[1], folder+(m[2] or 'index.html'))

    def __call__(self, route):
        url = route.request.url.split('?')[0].split('#')[0]
        if not url.startswith('http') or '//127.0.0.1' in url: return route.continue_()
        self.asked.append(url)
        data = self.body(url)
        if data is None:
            self.refused.append(url)
            return route.abort()
        kind = 'application/wasm' if url.endswith('.wasm') else mimetypes.guess_type(url)[0] or 'text/html'
        route.fulfill(body=data, content_type=kind, headers={'access-control-allow-origin': '*'})

def write_notebook(path, *cells):
    "A notebook of code cells"
    kernel = dict(display_name='Python 3 (ipykernel)', language='python', name='python3')
    def cell(i, code): return dict(cell_type='code', id=f'cell-{i}', metadata={}, execution_count=None, outputs=[], source=code.strip())
    made = [cell(i, o) for i,o in enumerate(cells)]
    Path(path).write_text(json.dumps(dict(cells=made, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))

def coloured(png, level=25):
    "Share of the pixels in the middle of a picture that are not grey"
    im = np.asarray(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)
    h,w = im.shape[:2]
    mid = im[h//5:-h//5,w//5:-w//5]
    return float((mid.max(-1)-mid.min(-1)>level).mean())
