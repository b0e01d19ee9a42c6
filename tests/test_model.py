"The prompted U-Net against numbers of the published code"
import json

import numpy as np
import pytest
import torch

from helpers import fill_weight, filler, here, salted_weight, set_weights, shared
from medals.model import MedalS, ModelCfg


def summary(x):
    v = x.detach().double().flatten()
    n = len(v)
    return np.array([v.mean(), v.std(unbiased=False), v.min(), v.max(), *v[[0,n//3,n//2,n-1]]])


@pytest.fixture(scope='module')
def full():
    return set_weights(MedalS('medals-s').double(), fill_weight, torch.float64)


def given(name, shape): return torch.from_numpy(filler(name, shape).astype(np.float32)).double()


@torch.inference_mode()
def test_published_numbers_in_float64(full):
    gold = json.loads((here/'golden'/'medals_s_64x96x32.json').read_text())
    size = (64,96,32)
    x,q = given('image', (2,1,*size)),given('queries', (2,3,768))
    sc,mc = given('sc', (2,1,*size))>0,given('mc', (2,3,*size))>0
    feats = full.encode(x, sc)
    got = dict(zip(('train0','train1','train2','train3'), full.decode(feats, q, mc, deep=True)))
    got['bypass'] = full.decode(feats, q, bypass=True)
    got['infer'] = full(x, q[0], mc, sc)[0]
    got['infer'] = full(x[:2], q[0], mc, sc)
    got['queries'] = full.transformer_decoder(q.transpose(0,1), feats.kvs)
    got['d0'] = feats.maps[0]
    worst = {k: float(np.abs(summary(v)-gold[k]).max()) for k,v in got.items()}
    assert max(worst.values())<1e-6, worst


def test_published_numbers_in_float32():
    file = shared/'golden'/'prompted_unet.npz'
    if not file.exists(): pytest.skip('the large golden file is not on this machine; the float64 test covers the same network')
    z = np.load(file)
    print(z.files)
