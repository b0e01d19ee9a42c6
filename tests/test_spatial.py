"Marks in any frame"
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.core import UserError, torch_gen
from medals.spatial import Box, Lasso, Mask, Point, PromptCfg, Scribble, rasterize, simulate

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


@pytest.mark.parametrize('mark, says', [
    (Point((99,0,0)), 'outside the scan'), (Box((3,3,3), (3,9,9)), 'is empty'), (Box((50,50,50), (60,60,60)), 'outside'),
    (Mask(np.zeros((2,2,2), bool)), 'does not lie on'), (Lasso(((1,1,1),(2,2,2)), axis=2), 'three points'), ('here', 'is not a mark'),
    (Point((1,1,1), unit='cm'), "'voxel' or 'mm'")])
def test_a_bad_mark_is_one_clear_error(mark, says):
    with pytest.raises(UserError, match=says): rasterize([mark], SHAPE, np.eye(4))


def test_simulated_prompts_have_the_promised_shares():
    import torch
    truth = torch.zeros(4,24,24,24, dtype=torch.bool)
    truth[:3,6:18,6:18,6:18] = True
    cfg = PromptCfg()
    got = [simulate(truth, torch_gen('share', i), cfg) for i in range(400)]
    assert abs(np.mean([not o.any() for o in got])-cfg.none)<.08
    given = torch.stack([o[:3] for o in got if o.any()])
    prompted = given.flatten(2).any(-1).float().mean().item()
    assert abs(prompted-(1-cfg.absent))<.08
    inside = (given&truth[:3]).sum()/given.sum()
    assert inside>.8
