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
    got['infer'] = full.decode(feats, q[0], mc)
    got['queries'] = full.transformer_decoder(q.transpose(0,1), feats.kvs)
    got['d0'] = feats.maps[0]
    worst = {k: float(np.abs(summary(v)-gold[k]).max()) for k,v in got.items()}
    assert max(worst.values())<1e-6, worst


def test_published_numbers_in_float32():
    file = shared/'golden'/'prompted_unet.npz'
    if not file.exists(): pytest.skip('the large golden file is not on this machine; the float64 test covers the same network')
    z = np.load(file)
    b,n,size,seed,salt = int(z['b']),int(z['n']),tuple(int(o) for o in z['size']),int(z['seed']),str(z['salt'])
    model = set_weights(MedalS('medals-s'), lambda k,s: salted_weight(k, s, salt))
    g = np.random.Generator(np.random.PCG64(seed))
    x,q = (torch.from_numpy(g.standard_normal(s, np.float32)) for s in ((b,1,*size), (b,n,768)))
    m = torch.from_numpy(g.random((b,n,*size))<.2)
    with torch.inference_mode(): got = dict(zip(('train_0','train_1','train_2','train_3'), model(x, q, m, deep=True)))
    with torch.inference_mode(): got |= dict(infer=model(x[:1], q[0], m[:1]), infer_noprompt=model(x[:1], q[0]))
    for k,v in got.items():
        s = 4 if k in ('train_0','infer','infer_noprompt') else 2 if k=='train_1' else 1
        mine = v[...,::s,::s,::s].numpy().reshape(z[k].shape)
        assert np.abs(mine-z[k]).max()<1e-4*z[k].std(), k


@pytest.mark.parametrize('aux', [True, False])
def test_keys_and_counts(aux):
    from medals.weights import to_published
    with torch.device('meta'): model = MedalS(ModelCfg(aux=aux))
    assert len(list(model.parameters()))==(208 if aux else 196)
    assert len(to_published(model))==(300 if aux else 288)
    assert sum(p.numel() for p in model.parameters())==(110_497_216 if aux else 109_414_272)


def test_nano_is_small_and_any_size_works():
    model = MedalS('nano').eval()
    assert sum(p.numel() for p in model.parameters())<=2_000_000
    with torch.inference_mode():
        for size in ((32,32,64), (64,32,96)): assert model(torch.rand(2,1,*size), torch.randn(2,96)).shape==(2,2,*size)


def test_queries_in_groups_equal_queries_at_once():
    torch.manual_seed(0)
    model = MedalS('nano').eval()
    x,q = torch.rand(1,1,64,32,32),torch.randn(7,96)
    with torch.inference_mode():
        feats = model.encode(x)
        parts = torch.cat([model.decode(feats, o) for o in q.split(3)], 1)
        assert torch.allclose(parts, model(x, q), atol=1e-4)
