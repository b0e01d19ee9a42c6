"Another engine for the costly part: the same answers, said in the manifest"
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from medals.core import UserError
from medals.example import template, unseen_view
from medals.metrics import dice
from medals.network import backends
from medals.preprocessing.input_spec import InputSpec
from medals.segment import Segmenter
from medals.spatial import Point

pytest.importorskip('openvino', reason='needs the extra openvino')


def test_masks_are_those_of_torch():
    "On a head, with a mark: all but a few voxels on the border, as sums are added up in another order"
    scan,_ = unseen_view(*template())
    words = ['white matter', 'cerebral ventricles']
    asked = {'white matter': [Point((76,50,60))]}
    def masks(**how):
        res = Segmenter.load('nano', 'cpu', **how)(scan, words, spatial=asked)
        return res.manifest['backend'],[res.masks[w] for w in words]
    said,plain = masks()
    exactly,same = masks(backend='openvino', precision='float32')
    fast,close = masks(backend='openvino')
    assert said=='torch' and exactly.startswith('openvino') and exactly.endswith('float32') and fast.startswith('openvino')
    for a,b,c in zip(plain, same, close):
        assert (a!=b).mean()<1e-4 and dice(a, b)>.999
        assert dice(a, c)>.99


def test_half_precision_that_a_cpu_does_not_multiply_is_refused(monkeypatch):
    "It took 51 s for a window of `nano` instead of .4 s"
    for there,refused in ((False, True), (True, False)):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda there=there: dict(avx512_fp16=there, amx_fp16=False), raising=False)
        if refused:
            with pytest.raises(UserError, match='fp16.*does not multiply it.*bf16'): Segmenter.load('nano', 'cpu', precision='fp16')
        else: assert Segmenter.load('nano', 'cpu', precision='fp16', backend='torch').amp==torch.float16
        assert Segmenter.load('nano', 'cpu', precision='bf16', backend='torch').amp==torch.bfloat16


def test_what_a_backend_cannot_do_is_said_before_anything_runs():
    class Other(torch.nn.Module):
        def forward(self, x, q, m=None): return x
    odd = dict(backend='openvino', precision='fp16')
    for how,words in ((dict(backend='tvm'), 'there is torch, openvino'), (odd, 'there is auto, float32, bf16')):
        with pytest.raises(UserError, match=words): Segmenter.load('nano', 'cpu', **how)
    with pytest.raises(UserError, match='networks of medals only'):
        Segmenter(Other(), lambda texts, kind: torch.zeros(len(texts), 4), InputSpec(window=(32,32,64)), 'cpu').use('openvino')


def test_threads_do_not_mix_answers_and_torch_comes_back():
    scan,_ = unseen_view(*template())
    fast,plain = Segmenter.load('nano', 'cpu', backend='openvino'),Segmenter.load('nano', 'cpu')
    words = ['white matter', 'left cerebral hemisphere', 'cerebral ventricles']
    alone = {w: fast(scan, w).masks[w] for w in words}
    with ThreadPoolExecutor(3) as pool: together = dict(zip(words, pool.map(lambda w: fast(scan, w).masks[w], words)))
    for w in words: assert (alone[w]==together[w]).all()
    back = fast.use('torch')(scan, words[0])
    assert back.manifest['backend']=='torch' and (back.masks[words[0]]==plain(scan, words[0]).masks[words[0]]).all()


def test_the_fastest_engine_is_tried_once_and_remembered(tmp_path, monkeypatch):
    "A damaged note of it costs another trial and nothing else; the manifest says what ran, and the masks are those of float32"
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path))
    monkeypatch.setenv('MEDALS_BACKEND', 'auto')
    tried = []
    def trial(model, window, engines, **how):
        tried.append(engines)
        return {('torch','float32'): 1., ('torch','bf16'): 2., ('openvino','auto'): .5}
    monkeypatch.setattr(backends, 'trial', trial)
    scan,_ = unseen_view(*template())
    for _ in range(2): segmenter = Segmenter.load('nano', 'cpu') # by trial is the default
    assert len(tried)==1 and segmenter.backend.startswith('openvino')
    (tmp_path/'engines.json').write_text('{"half')
    again = Segmenter.load('nano', 'cpu', backend='auto')
    assert len(tried)==2 and again.backend==segmenter.backend
    res = again(scan, 'white matter')
    plain = Segmenter.load('nano', 'cpu', backend='torch')(scan, 'white matter')
    assert res.manifest['backend'].startswith('openvino') and dice(res.masks['white matter'], plain.masks['white matter'])>.99
    Segmenter.load('nano', 'cpu', backend='auto', precision='float32')
    assert tried[-1]==[('torch','float32')]
    monkeypatch.setenv('MEDALS_BACKEND', 'torch')
    assert Segmenter.load('nano', 'cpu').backend=='torch' and len(tried)==3 # chosen by who runs it


def test_nothing_is_tried_where_there_is_one_engine(tmp_path, monkeypatch):
    "A processor without bfloat16 and no OpenVINO: PyTorch in float32 at once, and no file of what was found"
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path))
    monkeypatch.setenv('MEDALS_BACKEND', 'auto')
    monkeypatch.setattr(backends, 'multiplies_bfloat16', lambda: False)
    monkeypatch.setattr(backends.OpenVinoTrunk, '__init__', lambda *args: backends._openvino())
    monkeypatch.setitem(sys.modules, 'openvino', None)
    monkeypatch.setattr(backends.Trunk, 'forward', None) # nothing can run
    segmenter = Segmenter.load('nano', 'cpu')
    assert (segmenter.backend,segmenter.amp)==('torch', None) and not (tmp_path/'engines.json').exists()


def test_what_cannot_run_is_no_choice_and_a_choice_can_be_changed(tmp_path, monkeypatch):
    "bf16 that the processor lacks is run by PyTorch; a broken OpenVINO is left out with a warning; a wrong MEDALS_BACKEND is named"
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path))
    monkeypatch.setenv('MEDALS_BACKEND', '') # as if it were not set
    monkeypatch.setattr(backends, 'multiplies_bfloat16', lambda: False)
    assert Segmenter.load('nano', 'cpu', precision='bf16').amp==torch.bfloat16
    def broken(*args): raise RuntimeError('no such plugin')
    monkeypatch.setattr(backends, 'PREPARED_FROM', 0)
    for part in ('_compiled', '__init__'):
        monkeypatch.setattr(backends.OpenVinoTrunk, part, broken)
        with pytest.warns(UserWarning, match='OpenVINO does not work here.*no such plugin'): segmenter = Segmenter.load('nano', 'cpu')
        assert segmenter.backend=='torch'
        (tmp_path/'engines.json').unlink(missing_ok=True)
    monkeypatch.setattr(backends, 'fastest', None)
    monkeypatch.setattr('medals.segment.fastest', lambda *args: ('torch', 'bf16'))
    segmenter = Segmenter.load('nano', 'cpu')
    assert segmenter.amp==torch.bfloat16 and segmenter.use('torch').amp is None # what was asked for was auto
    monkeypatch.undo()
    monkeypatch.setenv('MEDALS_BACKEND', 'TORCH')
    with pytest.raises(UserError, match="MEDALS_BACKEND='TORCH' is none of auto, torch, openvino"): Segmenter.load('nano', 'cpu')
