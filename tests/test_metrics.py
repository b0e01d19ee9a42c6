"Scores against the published evaluator, literal restatements of their definitions, and what they must not depend on"
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy.optimize import linear_sum_assignment

from helpers import here, shared
from medals.core import UserError
from medals.masks.distances import SURFACES, surface_distances
from medals.metrics import (
    challenge_metrics, chosen_metrics, components, dice, instance_scores, mask_scores, match_objects, surface_dice, surfel_areas, surfels,
    volume_error)

golden = np.load(here/'golden'/'challenge_metrics.npz')
META = json.loads(str(golden['meta']))


@pytest.mark.parametrize('i', range(len(META)))
def test_challenge_mode_is_the_published_evaluator(i):
    r = META[i]
    got = challenge_metrics(golden[f'gt_{i}'], golden[f'seg_{i}'], r['spacing'], r['class_ids'], r['instance_label'], mode='challenge')
    for k in set(r)-{'spacing','class_ids','instance_label'}: assert got[k]==pytest.approx(r[k], abs=1e-15), k
    for k in ({'dsc','nsd'} if r['instance_label'] else {'f1','dsc_tp'}): assert np.isnan(got[k])


def test_real_case_the_axis_mistake():
    "A shift by one slice of 5 mm, and one by 1.7 mm in the plane, of a real label map"
    file = shared/'data'/'challenge'/'CT_AMOS_amos_0018_gts.npz'
    if not file.exists(): pytest.skip('the challenge case is not here')
    with np.load(file) as f: gt,spacing = f['gts'],f['spacing']
    for shift,axis,wrong,right in ((1,0,.987,.763), (2,2,.975,1.)):
        pred = np.roll(gt, shift, axis)
        nsd = [challenge_metrics(gt, pred, spacing, range(1,16), False, mode=m)['nsd'] for m in ('challenge','correct')]
        assert nsd==pytest.approx([wrong, right], abs=6e-4)


@st.composite
def blobs(draw, n, ids=False):
    "Small label maps of some smooth noise"
    shape = tuple(draw(st.integers(2, 14)) for _ in range(3))
    gen = np.random.default_rng(draw(st.integers(0, 9999)))
    def one():
        x = ndi.gaussian_filter(gen.standard_normal(shape), draw(st.sampled_from((.6,1.2))))
        m = x>np.quantile(x, draw(st.sampled_from((0.,.3,.6,.9,1.))))
        return components(m) if ids else m
    return [one() for _ in range(n)]

SPACINGS = st.sampled_from(((1.,1.,1.), (.7,.7,5.), (2.,.5,1.), (.8,.9,1.3)))


def by_distance_map(a, b, spacing, tolerance):
    "The definition: a distance map of each surface over the whole grid, looked up at the other"
    (at,wa),(bt,wb) = surfels(a, spacing),surfels(b, spacing)
    def dist(to):
        m = np.ones(np.array(a.shape)+1, bool)
        m[tuple(to.T)] = False
        return ndi.distance_transform_edt(m, sampling=spacing)
    return (wa[dist(bt)[tuple(at.T)]<=tolerance].sum()+wb[dist(at)[tuple(bt.T)]<=tolerance].sum())/(wa.sum()+wb.sum())


@settings(max_examples=60, deadline=None)
@given(ab=blobs(2), spacing=SPACINGS, tolerance=st.sampled_from((.5,1.,2.,1.4)), data=st.data())
def test_surfaces(ab, spacing, tolerance, data):
    a,b = ab
    nsd = surface_dice(a, b, spacing, tolerance)
    assert 0<=nsd<=1 and nsd==pytest.approx(surface_dice(b, a, spacing, tolerance), abs=1e-12) and dice(a, b)==dice(b, a)
    assert surface_dice(a, a, spacing, tolerance)==1 and nsd<=surface_dice(a, b, spacing, 2*tolerance)
    if a.any() and b.any(): assert nsd==pytest.approx(by_distance_map(a, b, spacing, tolerance), abs=1e-12)
    order = data.draw(st.permutations(range(3)))
    flip = tuple(slice(None, None, data.draw(st.sampled_from((1,-1)))) for _ in range(3))
    turned = [o.transpose(order)[flip] for o in (a, b)]
    assert surface_dice(*turned, [spacing[i] for i in order], tolerance)==pytest.approx(nsd, abs=1e-12)
    wide = [np.pad(o, 3) for o in (a, b)]
    assert surface_dice(*wide, spacing, tolerance)==pytest.approx(nsd, abs=1e-12) and dice(*wide)==dice(a, b)


@pytest.mark.parametrize('spacing', [(1.,1.,1.), (.7,.7,5.), (2.,.5,1.)])
def test_the_areas_are_the_published_table(spacing):
    "MONAI carries the published table of surface elements, with the bits in the opposite order"
    from monai.metrics.utils import create_table_neighbour_code_to_surface_area
    table,_ = create_table_neighbour_code_to_surface_area(spacing)
    flipped = [int(f'{c:08b}'[::-1], 2) for c in range(256)]
    assert np.allclose(surfel_areas(spacing)[flipped], table.numpy(), rtol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_surface_dice_is_monais_with_subvoxels():
    from monai.metrics import compute_surface_dice
    gen = np.random.default_rng(0)
    a,b = (ndi.gaussian_filter(gen.standard_normal((30,31,32)), 3)>0 for _ in range(2))
    y,p = (torch.as_tensor(o)[None,None] for o in (a, b))
    want = compute_surface_dice(p, y, [2.], include_background=True, spacing=(.8,.9,1.7), use_subvoxels=True)
    assert surface_dice(a, b, (.8,.9,1.7))==pytest.approx(float(want), abs=1e-5)


def hungarian(gt, pred, threshold=.5):
    "The published matching: an assignment over the table of all pairs"
    a,b = [np.unique(o[o>0]) for o in (gt, pred)]
    iou = np.array([[((gt==i)&(pred==j)).sum()/((gt==i)|(pred==j)).sum() for j in b] for i in a]).reshape(len(a), len(b))
    i,j = linear_sum_assignment(-(iou>=threshold).astype(float)-iou/(2*max(1, min(len(a), len(b)))))
    good = iou[i,j][iou[i,j]>=threshold]
    return len(good),(2*good/(1+good)).mean() if len(good) else 0.


@settings(max_examples=80, deadline=None)
@given(maps=blobs(1, ids=True), seed=st.integers(0, 999))
def test_objects(maps, seed):
    gt,gen = maps[0],np.random.default_rng(seed)
    pred = np.where(gen.random(gt.shape)<.25, gen.integers(0, gt.max()+2, gt.shape), gt)
    got = instance_scores(gt, pred)
    tp,dsc = hungarian(gt, pred)
    assert got['tp']==tp and (np.isnan(got['dsc_tp']) or got['dsc_tp']==pytest.approx(dsc, abs=1e-12))
    ids = np.r_[0, 1+gen.permutation(500)]
    named = instance_scores(ids[gt], np.r_[0, 7+gen.permutation(500)][pred])
    assert named==pytest.approx(got, nan_ok=True)
    other = instance_scores(pred, gt)
    assert (other['tp'],other['fp'],other['fn'])==(got['tp'],got['fn'],got['fp'])
    if gt.any(): assert instance_scores(gt, ids[gt])['f1']==1


def test_one_object_over_two_counts_once_and_pairs_are_real():
    gt,pred = np.repeat([1,2], 4).reshape(8,1,1),np.ones((8,1,1), int)
    pairs,dsc,n,m = match_objects(gt, pred)
    assert len(pairs)==1 and dsc[0]==pytest.approx(2/3) and (n,m)==(2,1)
    with pytest.raises(UserError, match='several partners'): match_objects(gt, pred, .3)


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int32])
def test_more_than_255_objects(dtype):
    "600 cells: right as they are, and lost where ids are kept in a byte"
    n = 600 if dtype!=np.uint8 else 250
    ids = np.zeros(1000, dtype)
    ids[np.random.default_rng(0).permutation(1000)[:n]] = 1+np.random.default_rng(1).permutation(n)
    gt = np.kron(ids.reshape(10,10,10), np.pad(np.ones((2,2,2), dtype), ((0,1),)*3))
    right = challenge_metrics(gt, gt>0, (1,1,1), [1], True)
    assert (right['f1'],right['tp'],right['dsc_tp'])==(1,n,1)
    assert challenge_metrics(gt, gt.astype(np.uint8), (1,1,1), [1], True, mode='challenge')['f1']==1 # a copy of the wrapped truth
    wrapped = challenge_metrics(gt, gt>0, (1,1,1), [1], True, mode='challenge')
    assert wrapped['f1']<.1 if n>255 else wrapped['f1']==1


@pytest.mark.parametrize('mode, instance', list(itertools.product(('correct','challenge'), (False,True))))
def test_nothing_crashes_on_nothing(mode, instance):
    some,none = np.zeros((4,5,6), np.uint8),np.zeros((4,5,6), np.uint8)
    some[1:3] = 1
    for a,b in itertools.product((some, none), repeat=2):
        got = challenge_metrics(a, b, (1,2,3), [1,2], instance, mode=mode)
        assert all(np.isnan(v) or 0<=v<=1 for v in (got[k] for k in ('dsc','nsd','f1','dsc_tp')))


def test_inventions_count_and_what_is_rightly_absent_does_not():
    gt,pred = np.zeros((2, 8,8,8), np.uint8)
    gt[2:6,2:6,2:6] = pred[2:6,2:6,2:6] = 1
    pred[0,0,:3] = 2
    free = challenge_metrics(gt, pred, (1,1,1), [1,2,3], False, mode='challenge')
    fair = challenge_metrics(gt, pred, (1,1,1), [1,2,3], False)
    assert free['dsc']==1 and fair['dsc']==fair['nsd']==.5 and (fair['tp'],fair['fp'],fair['fn'])==(1,1,0)
    assert [r['outcome'] for r in fair['classes'].values()]==['found','invented','absent'] and list(free['classes'])==[1]
    assert np.isnan(challenge_metrics(gt*0, pred*0, (1,1,1), [1], False)['dsc'])


def test_a_volume_without_background_loses_a_label_in_the_published_way():
    gt = np.ones((4,4,4), np.uint8)
    gt[2:] = 2
    assert list(challenge_metrics(gt, gt, (1,1,1), [1,2], False, mode='challenge')['classes'])==[2]
    assert list(challenge_metrics(gt, gt, (1,1,1), [1,2], False)['classes'])==[1,2]


def test_mistakes_are_said():
    x = np.zeros((3,3,3), int)
    with pytest.raises(UserError, match='one grid'): dice(x, x[1:])
    with pytest.raises(UserError, match='z,y,x'): challenge_metrics(x, x[1:], (1,1,1), [1], False)
    with pytest.raises(UserError, match='correct or challenge'): challenge_metrics(x, x, (1,1,1), [1], False, mode='Challenge')
    with pytest.raises(UserError, match='whole numbers'): instance_scores(x-1, x)


def test_label_ids_are_not_bits():
    "Masks given as label ids mean what is not zero"
    a,b = np.full((4,4,4), 2),np.full((4,4,4), 4)
    assert dice(a, b)==1 and surface_dice(a, b, (1,1,1))==1


@pytest.mark.filterwarnings('ignore')
@settings(max_examples=25, deadline=None)
@given(ab=blobs(2), spacing=SPACINGS, percent=st.sampled_from((50, 90, 95, 100)))
def test_distances_are_those_of_monai_and_of_surface_distance(ab, spacing, percent):
    "Each by its own convention: centres of border voxels, and elements by their area"
    deepmind = pytest.importorskip('surface_distance')
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
    a,b = ab
    if not (a.any() and b.any()): return
    got = surface_distances(a, b, spacing, 'voxels')
    y,p = (torch.as_tensor(o)[None,None] for o in (a, b))
    how = dict(include_background=True, spacing=spacing)
    assert got.percentile(percent)==pytest.approx(float(compute_hausdorff_distance(p, y, percentile=percent, **how)), rel=1e-5)
    assert got.mean==pytest.approx(float(compute_average_surface_distance(p, y, symmetric=True, **how)), rel=1e-5, abs=1e-6)
    got,want = surface_distances(a, b, spacing),deepmind.compute_surface_distances(a, b, spacing)
    # at the very edge between two distances the last digit of an area decides
    near = [deepmind.compute_robust_hausdorff(want, min(100, percent+o)) for o in (-1e-6, 0, 1e-6)]
    assert any(got.percentile(percent)==pytest.approx(o) for o in near)
    areas = want['surfel_areas_gt'].sum(),want['surfel_areas_pred'].sum()
    assert got.mean==pytest.approx(np.average(deepmind.compute_average_surface_distance(want), weights=areas))


@settings(max_examples=30, deadline=None)
@given(ab=blobs(2), spacing=SPACINGS, surface=st.sampled_from(SURFACES))
def test_distances_hold_what_distances_should(ab, spacing, surface):
    "Zero only between equals, the same both ways, and the mean below the largest; nothing beside a mask is infinitely far"
    a,b = ab
    there,back = surface_distances(a, b, spacing, surface),surface_distances(b, a, spacing, surface)
    assert there.mean==pytest.approx(back.mean) and there.percentile()==pytest.approx(back.percentile())
    assert surface_distances(a, a, spacing, surface).percentile(100)==0
    if a.any() and b.any(): assert there.mean<=there.percentile(100)<np.inf and (there.percentile(100)==0)==(a==b).all()
    else: assert there.mean==there.percentile()==(np.inf if a.any()!=b.any() else 0)
    if a.any(): assert volume_error(a, b)==pytest.approx(b.sum()/a.sum()-1)


def test_metrics_are_measured_where_they_are_named():
    a,b = np.zeros((2, 9,9,9), bool)
    a[2:6,2:6,2:6] = b[3:7,2:6,2:6] = True
    everything = mask_scores(a, b, (2,1,1), wanted=chosen_metrics('all'))
    assert list(mask_scores(a, b, (2,1,1)))==['dsc','nsd'] and everything['hd']==everything['hd95_voxels']==2 and everything['rve']==0
    assert chosen_metrics('')==('dsc','nsd') and chosen_metrics('assd, HD95')==('dsc','hd95','assd')
    with pytest.raises(UserError, match='no metric hd99; there is dsc, nsd, rve, hd95'): chosen_metrics('hd95,hd99')
