"napari itself, with both plugins, against a server of its own; a command apart: sh/test_viewers.sh"
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import medals
from medals.volume import read_volume, write_volume

PYTHON = os.environ.get('MEDALS_NAPARI_PYTHON', '')
WHY = 'sh/test_viewers.sh runs it' if not PYTHON else 'no Xvfb: apt-get install xvfb' if not shutil.which('xvfb-run') else ''
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)
SENTENCE = 'white matter'
KEY = 'a key of the test'


@pytest.fixture
def head(tmp_path):
    "A real head, in an orientation that is not the plugin's"
    pytest.importorskip('nilearn')
    from medals.example import template
    write_volume(tmp_path/'head.nii.gz', template()[0].reorient('LPS'))
    return tmp_path/'head.nii.gz'


@pytest.fixture
def server(tmp_path):
    from medals.serving.app import open_port
    httpx = pytest.importorskip('httpx')
    with open_port('127.0.0.1', 0) as free: port = free.getsockname()[1]
    code = 'import sys; from medals.cli import main; sys.exit(main(sys.argv[1:]))'
    how = ['serve', '--weights', 'nano', '--device', 'cpu', '--port', str(port), '--sentence', SENTENCE, '--axes', 'zyx']
    env = {**os.environ, 'MEDALS_KEY': KEY}
    with open(tmp_path/'server.log', 'wb') as log:
        run = subprocess.Popen([sys.executable, '-c', code, *how], stdout=log, stderr=log, env=env)
    url = f'http://127.0.0.1:{port}'
    for _ in range(600):
        try:
            httpx.get(url+'/healthz', timeout=60)
            break
        except httpx.TransportError: time.sleep(.2)
    yield url
    run.kill()
    run.wait()


def test_a_sentence_and_a_click_in_napari(head, server, tmp_path):
    out = Path(os.environ.get('MEDALS_SHOTS') or tmp_path/'out').resolve()
    out.mkdir(parents=True, exist_ok=True)
    far = medals.connect(server, KEY)
    res = far(head, [SENTENCE, 'cerebral ventricles'])
    vol = read_volume(head)
    def on_grid(mask): return vol.like(mask.astype(np.uint8)).reorient('RAS').data.transpose(2,1,0)>0
    white,ventricles = [on_grid(res.masks[o]) for o in res.masks]
    middle = white.shape[0]//2+8
    spot = np.argwhere(white[middle])
    click = [middle, *map(int, spot[np.abs(spot-spot.mean(0)).sum(1).argmin()])]
    env = {**os.environ, 'MEDALS_KEY': KEY, 'MEDALS_CLICK': json.dumps(click), 'PYTHONPATH': '', 'QT_API': 'pyqt6'}
    walk = [PYTHON, str(Path(__file__).with_name('napari_walk.py')), str(head), server, str(out)]
    subprocess.run(['xvfb-run', '-a', '-s', '-screen 0 1280x900x24', *walk], check=True, env=env, timeout=1500)
    said = json.loads((out/'what.json').read_text())
    labels = np.load(out/'sentence.npy')
    assert said['legend']=={'1': SENTENCE, '2': 'cerebral ventricles'} and ventricles.any()
    assert np.array_equal(labels==2, ventricles) and np.array_equal(labels==1, white&~ventricles)
    mask = np.load(out/'click.npy')>0
    (at,) = said['clicked']
    assert np.abs(np.subtract(at, click)).max()<=2, 'the mouse has hit what it aimed at'
    assert mask[tuple(at)] and (mask&white).sum()>.8*white.sum(), 'a click with a sentence finds what the sentence finds'
