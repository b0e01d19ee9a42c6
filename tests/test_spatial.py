"Marks in any frame, and simulated ones"
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.core import UserError, torch_gen
from medals.data.simulate import PROMPTS, PromptCfg, jittered_box, sample_voxels, simulate, with_marks
from medals.spatial import Box, Lasso, Mask, Point, Scribble, rasterize

SHAPE = (14,12,10)
spacings = st.tuples(*[st.floats(.5, 5)]*3)
voxels = st.tuples(*[st.integers(0, n-1) for n in SHAPE])


def frame(spacing, turn=0.):
    aff = np.diag([*spacing, 1.])
    c,s = np.cos(turn),np.sin(turn)
    aff[:3,:3] = np.array([[c,-s,0],[s,c,0],[0,0,1]])@aff[:3,:3]
    aff[:3,3] = (-30,10,5)
    return aff


@settings(max_examples=60, deadline=None)
@given(at=voxels, spacing=spacings, turn=st.floats(-.5, .5), radius=st.floats(0, 12))
def test_a_point_is_a_ball_in_the_patient(at, spacing, turn, radius):
    aff = frame(spacing, turn)
    mm = tuple(nib.affines.apply_affine(aff, at))
    a,b = rasterize([Point(at, radius), Point(mm, radius, unit='mm')], SHAPE, aff)
    idx = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), -1)
    d = np.linalg.norm(nib.affines.apply_affine(aff, idx)-mm, axis=-1)
    want = d<=radius
    want[at] = True
    edge = np.abs(d-radius)<1e-6
    assert a[at] and (a==want)[~edge].all() and (a==b)[~edge].all()


@settings(max_examples=40, deadline=None)
@given(a=voxels, b=voxels)
def test_a_box_is_its_corners(a, b):
    lo,hi = np.minimum(a, b),np.maximum(a, b)+1
    m = rasterize([Box(tuple(lo), tuple(hi))], SHAPE, np.eye(4))[0]
    assert m.sum()==np.prod(hi-lo) and m[tuple(lo)] and m[tuple(hi-1)]


@settings(max_examples=40, deadline=None)
@given(points=st.lists(voxels, min_size=1, max_size=4), spacing=spacings)
def test_a_scribble_passes_through_its_points(points, spacing):
    m = rasterize([Scribble(tuple(points), radius=1.)], SHAPE, frame(spacing))[0]
    assert all(m[p] for p in points)


def test_channels_are_independent_and_later_marks_win():
    whole = np.ones(SHAPE, bool)
    m = rasterize([None, [Mask(whole), Box((0,0,0), (4,4,4), positive=False), Point((1,1,1), 0.)], Mask(~whole)], SHAPE, np.eye(4))
    assert m.shape==(3,*SHAPE) and not m[0].any() and not m[2].any()
    assert m[1].sum()==whole.sum()-64+1 and m[1][1,1,1]


def test_an_outline_stays_in_its_slice():
    m = rasterize([Lasso(((1,5,1),(8,5,1),(8,5,8),(1,5,8)), axis=1)], SHAPE, np.eye(4))[0]
    assert m[:,5].sum()>=36 and m.sum()==m[:,5].sum()


@pytest.mark.parametrize('make, says', [
    (lambda: Point((99,0,0)), 'outside the scan'), (lambda: Box((3,3,3), (3,9,9)), 'is empty'),
    (lambda: Box((50,50,50), (60,60,60)), 'outside'), (lambda: Mask(np.zeros((2,2,2), bool)), 'does not lie on'),
    (lambda: Lasso(((1,1,1),(2,2,2)), axis=2), 'three points'), (lambda: 'here', 'is not a mark'),
    (lambda: Point((1,1,1), unit='cm'), "'voxel' or 'mm'")])
def test_a_bad_mark_is_one_clear_error(make, says):
    "When it is made, if it can be wrong on no scan or on any; else when it is drawn"
    with pytest.raises(UserError, match=says): rasterize([make()], SHAPE, np.eye(4))


def blob(n, size=64):
    m = torch.zeros(n, size, size, size, dtype=torch.bool)
    m[:, size//8:-size//8, size//8:-size//8, size//8:-size//8] = True
    return m


@pytest.mark.parametrize('n', [1, 10, 32])
def test_published_prompts_have_the_published_moments(n):
    "Empty 35 %; the union keeps 0.4 of the truth, a class 0.4*0.9*(n+1)/2n of it; with one class 41.5 % are empty"
    truth,runs = blob(n, 32),200
    cfg = replace(PROMPTS['published'], add=(0.,0.), block=(4,8)) # larger blocks need larger volumes for the same accuracy
    got = [simulate(truth, torch_gen('moments', n, i), cfg) for i in range(runs)]
    none = np.mean([p is None for p,_ in got])
    assert abs(none-.35)<4*np.sqrt(.35*.65/runs)
    there = [(p[truth].float().mean().item(), u[truth[:1]].float().mean().item()) for p,u in got if p is not None]
    mc,sc = np.mean(there, 0)
    lost = .1 if n==1 else 0 # the union of one class is empty where the class is
    assert abs(sc-.4*(1-lost))<.06 and abs(mc-.36*(n+1)/(2*n))<.05
    if n==1: assert abs(np.mean([p is None or not p.any() for p,_ in got])-.415)<.12


def test_added_blocks_are_whole_cubes_and_dropped_ones_are_empty():
    truth = blob(6)
    for i in range(4):
        cfg = replace(PROMPTS['published'], none=0., absent=0., block=(16,), drop=(.5,.5), add=(.3,.3))
        p,u = simulate(truth, torch_gen('cubes', i), cfg)
        def cubes(m): return m.reshape(-1, 4,16,4,16,4,16).movedim((2,4,6), (-3,-2,-1)).flatten(-3)
        t,p,u = cubes(truth[:1])[0],cubes(p),cubes(u)[0]
        full,gone,kept = u.all(-1),~u.any(-1),(u==t).all(-1)
        assert (full|gone|kept).all(), 'a block of the union is full, empty or as it was'
        assert (p.all(-1)|~p.any(-1)|(p==t).all(-1)).all() and not p[:,gone].any()
        chosen = (p.any(-1)&(t.any(-1)&~full)).sum(0)[(t.any(-1)&~full&~gone)]
        assert chosen.min()>=1, 'at least one class in every block that is kept'


def test_simulated_prompts_are_bits_and_depend_on_the_generator_alone():
    truth = blob(3)
    for cfg in PROMPTS.values():
        for i in range(3):
            a,b = (simulate(truth, torch_gen('same', i), cfg) for _ in range(2))
            assert all((x is None and y is None) or (x.dtype==torch.bool and torch.equal(x, y)) for x,y in zip(a, b))
            assert a[0] is None or a[0].shape==truth.shape
    assert torch.equal(truth, blob(3)), 'the truth is left alone'


def test_marks_go_where_the_mask_is_wrong():
    truth,had = blob(2),torch.zeros(2,64,64,64, dtype=torch.bool)
    had[1,:32] = True                                       # half of it right, half of it outside
    for i in range(10):
        got = with_marks(truth, had, torch_gen('marks', i), PromptCfg(radius=(1,1)))
        new,gone = got&~had,had&~got
        assert new[0].any() and not gone[0].any(), 'where there was nothing there is a positive mark'
        near = F.max_pool3d(truth[None].float(), 3, 1, 1)[0]>0
        assert not (new&~near).any(), 'positive marks are centred in the object'
        inner = -F.max_pool3d(-truth[None].float(), 3, 1, 1)[0]>0
        assert not (gone&inner).any(), 'negative marks are centred outside of it'


@settings(max_examples=30, deadline=None)
@given(lo=st.tuples(*[st.integers(0, 20)]*3), size=st.tuples(*[st.integers(1, 20)]*3), seed=st.integers(0, 99))
def test_a_simulated_box_is_nearly_the_bounding_box(lo, size, seed):
    m = torch.zeros(2,40,40,40, dtype=torch.bool)
    m[(0, *[slice(a, a+n) for a,n in zip(lo, size)])] = True
    box = jittered_box(m, torch_gen(seed))
    assert not box[1].any()
    if not box[0].any(): return
    at = box[0].nonzero()
    for d in range(3):
        slack = round(.1*size[d])+1
        a,b = at[:,d].min().item(),at[:,d].max().item()+1
        assert abs(a-lo[d])<=slack and abs(b-lo[d]-size[d])<=slack
    assert box[0].sum()==np.prod((at.amax(0)-at.amin(0)+1).numpy())


def test_drawn_voxels_are_uniform_and_of_their_mask():
    m = torch.zeros(3,9,7,5, dtype=torch.bool)
    m[0,2,3,4] = m[0,8,6,4] = m[0,0,0,0] = m[2] = True
    at,there = sample_voxels(m, 3000, torch_gen('uniform'))
    assert there.tolist()==[True,False,True] and m[0][tuple(at[0].T)].all()
    _,counts = at[0].unique(dim=0, return_counts=True)
    assert len(counts)==3 and counts.min()>880
    _,counts = at[2].unique(dim=0, return_counts=True)
    assert len(counts)==9*7*5
