"The spacing plan against the published tables and a literal restatement, and resampling against the literal way"
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.core import UserError
from medals.geometry import coarse_axis, plan, resample, resample_labels
from medals.published import LIMIT, published_facts

COARSE,FINE = ((1.5,1.5,3.),(224,224,128)),((1.,1.,1.),(192,192,192))


def nums(s): return tuple(float(o) for o in s.split(','))


@pytest.mark.parametrize('line', [
    '512,512,100 .8,.8,5 341,341,167 512,512,500', '512,512,400 .7,.7,1 341,341,133 512,512,400',
    '240,240,155 1,1,1 224,224,128 240,240,155', '320,320,20 .6,.6,3.6 224,224,119 320,320,186',
    '216,256,10 1.5,1.5,10 216,256,116 324,384,182', '64,64,64 .01,.01,.01 195,195,125 156,156,156',
    '400,400,300 2.04,2.04,3 544,544,300 816,816,300', '140,140,100 .5,.5,.5 219,219,125 175,175,156'])
def test_the_published_preparation(line):
    shape,spacing,*want = map(nums, line.split())
    for net,size in zip((COARSE, FINE), want): assert plan(shape, spacing, *net, stage='prepare', compat=True).shape==size


@pytest.mark.parametrize('line', [
    '512,512,63|.846,.846,5|15|1.5,1.5,2.56|341,341,123|341,341,128|3,3,1|365,365,315|365,365,315|3,3,3',
    '512,512,300|.8,.8,1.5|15|1.5,1.5,3|341,341,150|341,341,150|3,3,2|365,365,332|365,365,332|3,3,3',
    '512,512,300|.8,.8,1.5|CT_other|1.5,1.5,2|299,299,128|299,299,128|2,2,1|384,384,375|384,384,375|3,3,3',
    '218,182,70|1,1,1|4|1,1,.64|218,182,109|224,224,128|1,1,1|218,182,171|218,192,192|2,1,1',
    '200,200,134|1,1,1|Microscopy_Nucleus|1,1,1.0469|200,200,128|224,224,128|1,1,1|200,200,168|200,200,192|2,2,1',
    '551,669,19|.308,.308,1|3|1.5,1.5,.1678|367,446,113|367,446,128|3,3,1|551,669,177|551,669,192|5,6,1',
    '64,64,40|2,2,6|PET_Lesion|.4915,.4915,1.3559|195,195,122|224,224,128|1,1,1|156,156,191|192,192,192|1,1,1',
    '100,90,30|3,3,5|CT_other|1.28,1.024,1.0923|195,220,114|224,224,128|1,1,1|250,225,179|250,225,192|2,2,1',
    '300,300,100|.3,.3,.3|US_Brain tumor|1.2,1.2,.8|224,224,125|224,224,128|1,1,1|230,230,156|230,230,192|2,2,1',
    '330,310,60|.5,.5,1|CT_Airway Tree|1.4732,1.3839,.512|224,224,117|224,224,128|1,1,1|307,307,183|307,307,192|3,3,1',
    '128,128,128|1,1,1|Microscopy_Endolysosomes|.64,.64,1|200,200,128|224,224,128|1,1,1|176,176,176|192,192,192|1,1,1',
    '450,400,300|1.2,1.2,2|2|1.5,1.5,3|360,320,200|360,320,200|3,2,3|450,400,332|450,400,332|4,4,3'])
def test_the_published_inference(line):
    shape,spacing,names,target,*want = line.split('|')
    names = [f'CT_{i}' for i in range(int(names))] if names.isdigit() else [names]
    a = plan(nums(shape), nums(spacing), *COARSE, names, 'coarse', True)
    b = plan(nums(shape), nums(spacing), *FINE, names, 'fine', True)
    assert [a.shape, a.padded, a.windows, b.shape, b.padded, b.windows]==[nums(o) for o in want]
    assert np.allclose(a.target, nums(target), atol=6e-5)


def literal(n, s, T, C, key, stage):  # noqa: C901, PLR0915
    "The rules as the specification words them, one after the other; single precision at inference, by the rules of NumPy 2"
    n,s,T = list(n),list(s),list(T)
    M,single,prepare = (1000,1000,700),len(key)==1 and stage!='prepare',stage=='prepare'
    if stage!='fine':
        s = [1. if o<.1 or (prepare and o==.1) else o for o in s]
        order = [0,1,2] if prepare else [2,0,1]
        p = order[int(np.argmin([n[i] for i in order]))]
        q = order[int(np.argmax([s[i] for i in order]))]
        if p!=q and max(s)>.5: s[p],s[q] = s[q],s[p]
    s = np.array(s, np.float64 if prepare else np.float32)
    for i in range(3):
        if s[i]<1 and n[i]<=M[i]: s[i] = 1.
        if single:
            if s[i]>1:
                s[i] = max(s[i]/(1.45 if stage=='coarse' else 1.35) if key[0]=='PET_Lesion' else s[i]/1.2, T[i])
                if s[i]/T[i]>3: s[i] = 3*s[i]/(s[i]/T[i]-.5)
            if n[i]>2*C[i]: s[i] = 2*C[i]/n[i]
            elif n[i]>1.6*C[i] and key[0] in ('US_Thyroid','CT_Airways'): s[i] = 1.6*C[i]/n[i]
        if s[i]*n[i]>M[i]*(T[i] if prepare else 1) and s[i]>T[i]: s[i] = T[i]
        elif s[i]*n[i]<C[i]*T[i]:
            alpha = 1
            for k in range(1, 18):
                if n[i]<=C[i]/1.25**k: alpha = 1.25**k
            T[i] = min(T[i], max(s[i]*n[i]/C[i], s[i]/alpha))
    if not prepare and not single and math.prod(a*b for a,b in zip(s, n))>1.8**3*math.prod(C):
        for i in range(3):
            if s[i]*n[i]>1.9*C[i]*T[i]:
                p = 1.9*C[i]*T[i]/n[i]
                s[i] = max(T[i], p/1.1) if s[i]>T[i] else min(T[i], p)
    return s,T,tuple(max(1, round(a/b*c)) for a,b,c in zip(s, T, n))


SHAPES = st.tuples(*[st.integers(3, 1100)]*3)
KEYS = ((), ('CT_liver',), ('PET_Lesion',), ('US_Thyroid',), ('CT_Airways',), ('CT_a','CT_b'))
SPACINGS = st.tuples(*[st.sampled_from((.05,.1,.3,.5,.7,.8,1.,1.2,1.5,2.,3.,3.6,5.,10.))]*3)


@settings(max_examples=3000, deadline=None)
@given(SHAPES, SPACINGS, st.sampled_from((COARSE, FINE)), st.sampled_from(('prepare','coarse','fine')),
       st.sampled_from(KEYS))
def test_the_plan_is_the_rules(shape, spacing, net, stage, key):
    p = plan(shape, spacing, *net, key, stage, True)
    s,t,size = literal(shape, spacing, *net, key, stage)
    assert np.allclose(p.spacing, s) and np.allclose(p.target, t) and p.shape==size


@settings(max_examples=1000, deadline=None)
@given(SHAPES, SPACINGS, st.sampled_from((COARSE, FINE)), st.booleans())
def test_the_default_keeps_proportions_and_limits(shape, spacing, net, fill):
    p = plan(shape, spacing, *net, fill=fill)
    zoom = np.array(p.target)/net[0]
    assert np.ptp(zoom)<1e-9, 'one factor for all axes'
    assert all(n<=m+1 for n,m in zip(p.shape, LIMIT)) and min(p.shape)>=1
    if zoom[0]<1-1e-9: assert all(n<=c+1 for n,c in zip(p.shape, net[1])), 'refined only up to the patch'
    larger = plan(shape, [3*o for o in p.spacing], [3*o for o in net[0]], net[1], fill=fill)
    assert min(spacing)<.1 or all(abs(a-b)<=1 for a,b in zip(larger.shape, p.shape)), 'no unit of its own; a half may round either way'


def test_a_plan_needs_a_sound_scan():
    for bad in ((1,1,0), (1,1,-2), (1,1,math.nan), (1,1)):
        with pytest.raises(UserError, match='three positive numbers'): plan((9,9,9), bad, *FINE)
    with pytest.raises(UserError, match='stage'): plan((9,9,9), (1,1,1), *FINE, stage='last')
    assert published_facts()['PET_Lesion']['divisor']['coarse']==1.45


SIZES = st.tuples(*[st.integers(2, 14)]*3)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.sampled_from((None,0,1,2)), st.integers(0, 99), st.integers(1, 400))
def test_resampling_is_interpolation_and_a_vote(before, after, flat, seed, slab):
    gen = np.random.default_rng(seed)
    x,y = gen.random(before, dtype=np.float32),gen.integers(-1, 5, before).astype(np.int16)
    def stretch(v):
        v = torch.as_tensor(v)[None,None].float()
        if flat is None: return F.interpolate(v, after, mode='trilinear')[0,0]
        part = [b if a==flat else n for a,(b,n) in enumerate(zip(before, after))]
        return F.interpolate(F.interpolate(v, part, mode='trilinear'), after, mode='nearest-exact')[0,0]
    assert np.allclose(resample(x, after, flat=flat, slab=slab), stretch(x), atol=1e-5)
    ids = np.unique(y)
    votes = torch.stack([stretch(y==v) for v in ids])*1000
    got = resample_labels(y, after, flat, slab=slab)
    mine = votes.gather(0, torch.as_tensor(np.searchsorted(ids, got))[None])[0]
    assert torch.allclose(mine, votes.amax(0), atol=.6), 'the strongest label, up to half precision'
    if after==before: assert np.array_equal(got, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
def test_a_gpu_gives_the_same_voxels():
    gen = np.random.default_rng(0)
    x,y = gen.integers(0, 256, (40,50,30)).astype(np.uint8),gen.integers(0, 9, (40,50,30)).astype(np.uint8)
    for dtype in ('uint8','float32'): assert np.array_equal(resample(x, (61,33,77), dtype), resample(x, (61,33,77), dtype, device='cuda'))
    assert np.array_equal(resample_labels(y, (61,33,77)), resample_labels(y, (61,33,77), device='cuda'))


def test_the_coarse_axis():
    assert coarse_axis((1,1,5), (1,1,1))==2 and coarse_axis((1,5,5), (1,1,1)) is None
    assert coarse_axis((1,1,1), (4,1,1))==0 and coarse_axis((1,1,3), (1,1,1)) is None
