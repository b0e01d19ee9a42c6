"Published checkpoints, downloads and damaged files"
import http.server
import json
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from medals.core import UserError
from medals.model import MedalS, ModelCfg
from medals.weights import canonical, fetch, load_model, load_published, read_folder, save_model, to_published

SMALL = ModelCfg(features=(4,4,4,8,8,8), query=12, layers=1, heads=2, ffn=8, head=4, aux_heads=(4,4,4))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MedalS(SMALL)


def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k,v in a.state_dict().items())


def checkpoint(model):
    "What the published training writes: prefix, aliases, and a NumPy number as learning rate"
    opt = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    opt.step()
    opt.param_groups[0]['lr'] = np.float64(1e-4)*np.float64(.5)
    return dict(step=358600, model_state_dict=to_published(model), optimizer_state_dict=opt.state_dict())


def test_a_training_checkpoint_with_numpy_numbers(model, tmp_path):
    torch.save(checkpoint(model), tmp_path/'step_358600.pth')
    with pytest.raises(Exception, match='(?i)weights.only|unsupported'): torch.load(tmp_path/'step_358600.pth', weights_only=True)
    got = load_published(tmp_path/'step_358600.pth', SMALL)
    assert same(model, got) and not got.training


def test_prefix_and_aliases_are_optional_and_the_alias_wins(model):
    sd = model.state_dict()
    assert same(model, load_published(dict(sd), SMALL))
    theirs = to_published(model)
    k = 'module.fusion_conv.convs.0.all_modules.0.weight'
    theirs[k] = theirs[k]+1
    assert torch.equal(canonical(theirs)['fusion_conv.convs.0.conv.weight'], sd['fusion_conv.convs.0.conv.weight']+1)


def test_wrong_files_are_listed_and_refused(model, tmp_path):
    sd = to_published(model)
    with pytest.raises(UserError, match='1 unexpected .extra.weight'): load_published({**sd, 'module.extra.weight': torch.ones(1)}, SMALL)
    with pytest.raises(UserError, match='of another shape'): load_published({**sd, 'module.projection_layer.2.bias': torch.ones(5)}, SMALL)
    sat = {k: v for k,v in sd.items() if 'fusion' not in k}
    first = 'module.backbone.encoder.stages.0.0.convs.0'
    for k in (f'{first}.conv.weight', f'{first}.all_modules.0.weight'): sat[k] = torch.zeros(4,3,3,3,3)
    with pytest.raises(UserError, match='takes 3 input channels'): load_published(sat, SMALL)
    (tmp_path/'a.pth').write_bytes(b'not a checkpoint')
    with pytest.raises(UserError, match='not a readable checkpoint'): load_published(tmp_path/'a.pth', SMALL)


class Trap:
    def __reduce__(self): return os.system, ('touch sprung',)


def test_no_code_from_a_file_runs(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model_state_dict=to_published(model), step=Trap()), 'trap.pth')
    with pytest.raises(UserError, match='plain tensors'): load_published('trap.pth', SMALL)
    assert not Path('sprung').exists()


def test_native_folder_and_a_damaged_one(model, tmp_path):
    save_model(model, tmp_path/'m', dtype=torch.float16)
    got = load_model(tmp_path/'m')
    assert all(torch.allclose(a, b, atol=1e-3) for a,b in zip(model.parameters(), got.parameters()))
    raw = bytearray((tmp_path/'m'/'model.safetensors').read_bytes())
    raw[-1] ^= 1
    (tmp_path/'m'/'model.safetensors').write_bytes(raw)
    with pytest.raises(UserError, match='copy or download'): read_folder(tmp_path/'m')


COMMIT = 'a'*40


class Hub(http.server.BaseHTTPRequestHandler):
    "The few answers of a model hub that a download needs"
    files,seen = {},[]

    def do_HEAD(self): self._answer(False)
    def do_GET(self): self._answer(True)

    def _answer(self, body):
        name = self.path.split('/resolve/')[-1].split('/', 1)[-1].split('?')[0]
        data = self.files.get(name)
        self.seen.append((self.command, name))
        self.send_response(200 if data is not None else 404)
        if data is None: self.send_header('X-Error-Code', 'EntryNotFound')
        tag = f'"{zlib.crc32(data or b"")}"'
        for k,v in {'X-Repo-Commit': COMMIT, 'ETag': tag, 'Content-Length': str(len(data or b''))}.items(): self.send_header(k, v)
        self.end_headers()
        if body and data: self.wfile.write(data)

    def log_message(self, *args): pass


FETCH = """
import sys
from medals.weights import fetch, load_model
from medals.core import UserError
try: print('OK', fetch(sys.argv[1]) if len(sys.argv)<3 else load_model(sys.argv[2]).cfg.query)
except UserError as e: print('ERROR', e)
"""


def run(*args, **env):
    import subprocess
    import sys
    clean = {k: v for k,v in os.environ.items() if k not in ('HF_HUB_OFFLINE','HF_ENDPOINT') and 'proxy' not in k.lower()}
    p = subprocess.run([sys.executable, '-c', FETCH, *args], env={**clean, **env}, capture_output=True, text=True, timeout=120)
    return p.stdout.strip()


@pytest.fixture
def hub(model, tmp_path):
    save_model(model, tmp_path/'up')
    Hub.files = {o: (tmp_path/'up'/o).read_bytes() for o in ('cfg.json','model.safetensors')}
    Hub.files['checkpoints/text_encoder.pth'] = b'made up'
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def test_download_from_a_mirror_then_offline(hub, tmp_path):
    at = dict(MEDALS_HOME=str(tmp_path/'home'), HF_ENDPOINT=hub)
    first = run('medals-s-text', **at)
    assert first.startswith('OK') and Path(first[3:]).read_bytes()==b'made up'
    assert run('x', 'lab/small@v1', **at)=='OK 12'
    assert run('medals-s-text', **{**at, 'HF_HUB_OFFLINE': '1'})==first
    assert run('medals-s-text', **{**at, 'HF_ENDPOINT': 'http://127.0.0.1:9'})==first
    missing = run('medals-s-fine', **at)
    assert missing.startswith('ERROR cannot get') and '\n' not in missing


def test_without_network_and_cache_one_line_says_what_to_do(tmp_path):
    out = run('medals-s-coarse', MEDALS_HOME=str(tmp_path), HF_HUB_OFFLINE='1')
    assert out.startswith('ERROR') and '\n' not in out
    assert 'spc819/Medal-S-V1.0' in out and str(tmp_path/'weights') in out and 'step_358600.pth' in out


def test_a_file_put_by_hand_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path))
    (tmp_path/'weights').mkdir()
    (tmp_path/'weights'/'text_encoder.pth').write_bytes(b'mine')
    assert fetch('medals-s-text').read_bytes()==b'mine'


def test_the_config_says_how_weights_were_made(model, tmp_path):
    save_model(model, tmp_path/'m', note='x')
    cfg = json.loads((tmp_path/'m'/'cfg.json').read_text())
    assert cfg['note']=='x' and cfg['model']['query']==12 and len(cfg['sha256'])==64
