"Data sets as strangers have them: what is in them is trained on, what is left out is said"
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.geometry import LADDER, coarse_axis, plan
from test_plan import COARSE, FINE, KEYS, literal


def test_1_9_half_a_voxel_goes_where_single_precision_sends_it():
    got = plan((64,96,20), (.9,.9,8), *COARSE, ['CT_Airways'], compat=True)
    assert got.shape==(195,187,119) and got.size_of((64,96,20))==got.shape


@st.composite
def half_voxels(draw):
    "A size, a spacing and a network for which some axis falls on half a voxel, or next to it"
    target,patch = draw(st.sampled_from((COARSE, FINE)))
    shape,spacing = [],[]
    for c in patch:
        rung = draw(st.sampled_from(LADDER[:14]))
        n = draw(st.sampled_from([o for o in range(3, 1000) if o*rung%1==.5] or [8]))
        long = draw(st.integers(c, 1000))
        shape.append(draw(st.sampled_from((n, long))))
        spacing.append(draw(st.sampled_from((.3,.6,.7,.8,.9,1.,1.1,1.2,1.25,1.3,1.7,2.1,2.4,2.7,3.3,3.6,3.9,5.,8.))))
    return tuple(shape),tuple(spacing),(target, patch)


@pytest.mark.skipif(np.__version__<'2', reason='the restatement leaves it to NumPy 2 to stay in single precision')
@settings(max_examples=1500, deadline=None)
@given(half_voxels(), st.sampled_from(('prepare','coarse','fine')), st.sampled_from(KEYS))
def test_1_9_plans_are_the_literal_rules_to_the_last_digit(scan, stage, key):
    shape,spacing,net = scan
    got = plan(shape, spacing, *net, key, stage, True)
    s,t,size = literal(shape, spacing, *net, key, stage)
    assert got.shape==size and got.spacing==tuple(map(float, s))
    assert tuple(np.float32(got.target))==tuple(np.float32(t)) and [type(o) for o in got.target]==[float]*3
    assert coarse_axis(*got.exact)==coarse_axis(np.array(s), np.array(t, np.array(s).dtype))


@pytest.mark.parametrize('stage,size', dict(prepare=188, coarse=187, fine=187).items())
def test_1_9_preparation_rounds_in_double_and_inference_in_single_precision(stage, size):
    assert plan((96,96,96), (1,1,1), (1,1,1), (192,192,192), (), stage, True).shape==(size,)*3, '96/.512 is 187.5 or a little less'
