"Masks that end where the grey values of a scan change"
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from medals.core import UserError
from medals.base.files import read_table
from medals.base.settings import InferenceCfg
from medals.inference.edges import EdgeGrey, EdgeWriter, edge_weights, edges_of
from medals.inference.request import make_request
from medals.inference.sliding import SCALE, MaskAccumulator, MaskWriter, ScoreSlab
from medals.inference.windows import Windows
from medals.metrics import dice
from medals.preprocessing.input_spec import InputSpec, NetGrid
from medals.preprocessing.intensity import Grey
from medals.geometry import resample
from medals.scans.axes import AxisOrder, Region
from medals.vocab import structures
from medals.volume import Volume

SIZE = 42   # voxels of the scan, 1 mm
NET = 28    # of the network, 1.5 mm


def scene(seed=0, off=2., noise=8.):
    "A brighter ball in a scan, and scores of a ball that lies some voxels beside it"
    rng = np.random.default_rng(seed)
    x,y,z = np.indices((SIZE,)*3)-SIZE/2+.5
    ball = x*x+y*y+z*z<12**2
    scan = np.where(ball, 150, 90)+rng.normal(0, noise, ball.shape)
    scan = scan.clip(0, 255).round().astype(np.uint8)
    away = np.sqrt((x-off)**2+y*y+z*z)
    p = resample((1/(1+np.exp(away-12))).astype(np.float32), (NET,)*3)
    return scan,ball,p


def masks_from(scan, scores, weight, voxels=2**22, threshold=.5, faint=False):
    "Bool masks, one per array of scores, as a run writes them slab by slab"
    net = NetGrid(Region.whole(scan.shape), (NET,)*3)
    view = SimpleNamespace(net=net, turn=AxisOrder(), shape=scan.shape)
    windows = Windows(net.shape, (16,32,32)) # several slabs
    kept = range(len(scores)) if faint else ()
    found = MaskAccumulator(len(scores), scan.shape, kept, faint)
    how = view, windows.box, threshold, voxels
    image = resample(scan, net.fine, 'uint8')
    if weight is None: writer = MaskWriter(found, *how)
    else: writer = EdgeWriter(found, *how, EdgeGrey(Grey(scan), image, Region.whole(net.fine), (1.5,)*3, [weight]*len(scores)))
    slab = ScoreSlab(len(scores), windows)
    levels = torch.as_tensor(np.stack(scores)*SCALE).round().to(torch.int16)
    for _,upto in windows.slabs():
        held = [slice(None)]*4
        lo,n = slab.first,slab.sums.shape[1+slab.axis]
        held[1+slab.axis] = slice(lo, min(lo+n, NET))
        part = levels[tuple(held)]
        slab.sums.zero_()
        slab.sums.narrow(1+slab.axis, 0, part.shape[1+slab.axis]).copy_(part)
        slab.close(writer(slab, upto))
    writer.finish()
    return found


def test_borders_move_to_where_grey_values_change():
    scan,ball,p = scene()
    before = np.asarray(masks_from(scan, [p], None).bits[0])
    found = masks_from(scan, [p], 1.)
    after = np.asarray(found.bits[0])
    assert dice(after, ball)>.96>dice(before, ball)+.05
    assert found.voxels[0]==after.sum()
    assert found.total[0]/found.voxels[0]>.5 # the mean score of a mask is above the threshold


@pytest.mark.parametrize('threshold', [.008, .5, .99])
def test_no_weight_is_what_the_network_said(threshold):
    scan,_,p = scene()
    plain,none = masks_from(scan, [p], None, threshold=threshold),masks_from(scan, [p], 0., threshold=threshold)
    a,b = (np.asarray(o.bits[0]) for o in (plain, none))
    doubt = abs(resample(p, scan.shape)-threshold)<1/200 # scores are kept as bytes
    assert 0<b.sum()<b.size
    assert not (a!=b)[~doubt].any()
    np.testing.assert_array_equal(plain.hist, none.hist)
    np.testing.assert_array_equal(plain.at, none.at)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 99), off=st.floats(-3, 3), weight=st.floats(.1, 1), noise=st.floats(0, 40))
def test_what_is_certain_or_far_from_a_mask_stays(seed, off, weight, noise):
    scan,_,p = scene(seed, off, noise)
    before = resample(p, scan.shape)
    after = np.asarray(masks_from(scan, [p, np.zeros_like(p), np.full_like(p, .4)], weight).bits[0])
    assert after[before>.99].all() and not after[before<.01].any()
    others = masks_from(scan, [np.zeros_like(p), np.full_like(p, .4)], weight).bits
    assert not any(o.any() for o in others) # what was not found stays so


@pytest.mark.parametrize('voxels', [1, 5000, 2**22])
def test_masks_do_not_depend_on_how_much_is_done_at_a_time(voxels):
    scan,_,p = scene(3)
    whole = masks_from(scan, [p], .7, faint=True)
    parts = masks_from(scan, [p], .7, voxels, faint=True)
    np.testing.assert_array_equal(whole.scores[0], parts.scores[0])
    np.testing.assert_array_equal(whole.bits[0].data, parts.bits[0].data)


def test_scores_and_mask_agree_at_any_threshold():
    scan,_,p = scene(4)
    for threshold in (.3, .5, .7):
        found = masks_from(scan, [p], 1., threshold=threshold, faint=True)
        scores = found.scores[0]/255
        mask = np.asarray(found.bits[0])
        clear = abs(scores-threshold)>1/250
        np.testing.assert_array_equal((scores>threshold)[clear], mask[clear])


def test_a_call_the_weights_and_the_published_way_say_how_much():
    vol = Volume(np.random.default_rng(0).integers(0, 255, (40,)*3).astype(np.uint8), np.eye(4), 'mri')
    def weight(own, **how):
        request = make_request(vol, 'liver', None, None, False, InferenceCfg(**how), InputSpec())
        return edges_of(request, InputSpec(edges=own))
    assert weight(.3)==.3 and weight(.3, edges=0)==0 and weight(0., edges=.6)==.6
    assert weight(.3, compat=True)==0 and weight(.3, compat=True, edges=.6)==0
    for odd in (2, -.5, float('nan')):
        with pytest.raises(UserError, match='edges is a number'): InferenceCfg(edges=odd)


def test_where_a_structure_ends_without_a_change_of_grey_values_they_do_not_count_unless_the_call_says_so():
    vol = Volume(np.random.default_rng(0).integers(0, 255, (40,)*3).astype(np.uint8), np.eye(4), 'mri')
    frame = InputSpec(edges=.8, faint=['nucleus accumbens'])
    def weights(**how):
        asked = ['left accumbens in brain MRI', 'left putamen', 'the right nucleus accumbens']
        return edge_weights(make_request(vol, asked, None, None, False, InferenceCfg(**how), frame), frame)
    assert weights()==[0,.8,0] and weights(edges=.5)==[.5]*3 and weights(compat=True)==[0]*3
    for row in read_table('bundles.toml').values(): # a name that the vocabulary does not know would do nothing
        for name in row.get('faint', ()): assert name in structures()


def test_turned_scans_give_turned_masks():
    scan,_,p = scene(5)
    a = np.asarray(masks_from(scan, [p], 1.).bits[0])
    b = np.asarray(masks_from(scan[::-1,:,::-1].copy(), [p[::-1,:,::-1].copy()], 1.).bits[0])
    assert (a!=b[::-1,:,::-1]).mean()<1e-3 # of two network voxels as near, the first is taken
