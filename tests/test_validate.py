"Validation asks, merges and decides as the segmenter does"
import numpy as np
import pytest
import torch

from medals.training import validate
from medals.preprocessing.input_spec import InputSpec
from medals.model import MedalS, ModelCfg
from medals.segment import Segmenter
from medals.spatial import Mask
from medals.inference.stages import RandomQueries, NetworkStage
from medals.training.validate import patient_region, predict_case
from medals.volume import Volume

WORDS = list('abcde')
TINY = ModelCfg(features=(8,)*6, query=24, layers=1, heads=2, ffn=16, head=8, aux=False, grey=1/64, signed=True)
WINDOW = (32,32,64)


def scan(shape, modality):
    "Grey values on the network's voxels, with air that is not black on one side, and something that touches every face"
    gen = np.random.default_rng(sum(shape))
    x = gen.integers(1, 20, shape).astype(np.uint8)
    body = x[shape[0]//4:]
    body += gen.integers(0, 200, body.shape).astype(np.uint8)
    return Volume(x, np.diag([2.,2.,3.,1.]), modality, codes=(0,0), has_orientation=False)


def prompts_on(shape):
    "A block for two of five classes; one of them reaches over several windows"
    p = torch.zeros((5, *shape), dtype=torch.bool)
    n,m,k = shape
    p[1,n//3:,m//4:,5:k-5] = True
    p[3,n//2:n//2+6,3:9,3:9] = True
    return p


@pytest.mark.parametrize('shape', [(45,40,70), (20,40,50), (25,20,30)], ids=['many windows', 'one short axis', 'smaller than a window'])
@pytest.mark.parametrize('modality', ['mri', 'ct'])
@pytest.mark.parametrize('prompted', [False, True], ids=['words', 'prompts'])
def test_masks_of_validation_are_those_of_the_segmenter(shape, modality, prompted, monkeypatch):
    torch.manual_seed(1)
    net = MedalS(TINY).eval()
    frame = InputSpec(spacing=(2.,2.,3.), window=WINDOW, axes=None, modality=modality)
    enc = RandomQueries(24)
    vol,p = scan(shape, modality),prompts_on(shape)
    seg = Segmenter(NetworkStage(net, frame), enc, device='cpu')
    spatial = {w: [Mask(m.numpy())] for w,m in zip(WORDS, p) if m.any()} if prompted else None
    res = seg(vol, WORDS, modality, spatial, presence=0)
    box = patient_region(vol.data, modality)
    look, = res.manifest['looks']
    assert tuple(look['box'])==box and look['voxels']==shape, 'the same grid and the same part of it'
    want = np.stack([res.masks[w] for w in WORDS])
    q = enc(WORDS, modality)
    found = predict_case(net, vol.data, q, WINDOW, p if prompted else None, box)
    assert np.array_equal(found, want)
    assert .02<want.mean()<.98, 'the network says something'
    monkeypatch.setattr(validate, 'OPEN_CLASSES', 3)
    assert np.array_equal(predict_case(net, vol.data, q, WINDOW, p if prompted else None, box), want), 'few classes at a time'
