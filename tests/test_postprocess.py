"Objects told apart: balls in contact, tissue without gaps, and what must stay whole"
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from helpers import shared
from medals.core import UserError
from medals.metrics import instance_scores
from medals.masks.postprocess import instances
from medals.volume import read_labels, read_volume


def far(shape, at, spacing=(1,1,1), stretch=(1,1,1)):
    axes = np.meshgrid(*[(np.arange(n)*s-a)/f for n,s,a,f in zip(shape, spacing, at, stretch)], indexing='ij')
    return np.sqrt(sum(o**2 for o in axes))


def chain(gen, n, spacing):
    "Balls in a bent row, each in contact with the next, and which is which"
    r = gen.uniform(6, 10, n)
    at = [np.array([12.,30,30])]
    for i in range(1, n):
        step = np.array([1, *gen.uniform(-.7, .7, 2)])
        at.append(at[-1]+step/np.linalg.norm(step)*(r[i-1]+r[i])*gen.uniform(.88, 1.))
    shape = tuple(int(o) for o in (np.max(at, 0)+14)/spacing)
    ids = np.zeros(shape, np.int32)
    for i,(c,q) in enumerate(zip(at, r), 1): ids[(far(shape, c, spacing)<q)&(ids==0)] = i
    return ids


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(1, 4), spacing=st.sampled_from(((1.,1.,1.), (1.,1.,2.5), (.8,1.5,1.))), data=st.data())
def test_balls_in_contact_are_told_apart_in_any_axis_order(seed, n, spacing, data):
    truth = chain(np.random.default_rng(seed), n, spacing)
    got = instances(truth>0, None, spacing, 30)
    assert got.dtype==np.int32 and got.max()==n and instance_scores(truth, got)['f1']==1 and ((got>0)==(truth>0)).all()
    sizes = np.bincount(got.ravel())[1:]
    assert list(sizes)==sorted(sizes, reverse=True)
    assert np.array_equal(got, instances(truth>0, None, spacing, 30))
    order = data.draw(st.permutations(range(3)))
    flip = tuple(slice(None, None, data.draw(st.sampled_from((1,-1)))) for _ in range(3))
    turned = instances(truth.transpose(order)[flip]>0, None, [spacing[i] for i in order], 30)
    assert instance_scores(got.transpose(order)[flip], turned)['dsc_tp']>.99


@pytest.mark.parametrize('stretch', [(1,1,1), (2.5,1,1), (1,1.8,.7), (3,3,.5)])
@pytest.mark.parametrize('spacing', [(1,1,1), (1,1,3)])
def test_one_object_stays_one(stretch, spacing):
    shape = (70,70,60) if spacing[2]==1 else (70,70,20)
    assert instances(far(shape, (35,35,30), spacing, stretch)<9, None, spacing).max()==1


def test_a_brick_a_tube_and_a_ball_cut_by_the_end_of_the_scan_stay_whole():
    brick,tube = np.zeros((40,30,20), bool),np.zeros((40,30,20), bool)
    brick[4:36,8:20,5:15] = True
    tube[:,10:14,9:12] = True
    for m in (brick, tube, far((40,30,20), (0,15,10))<12, np.ones((9,9,9), bool)): assert instances(m).max()==1


def test_small_things_are_left_out_alone_and_kept_as_pieces():
    m = np.zeros((40,20,20), bool)
    m[2:12,5:15,5:15] = True                  # 1000 voxels
    m[20:24,5:9,5:9] = True                   # 64 voxels
    m[12:14,9:11,9:11] = m[14:17,8:12,8:12] = True # a knob on a stalk
    whole = [np.count_nonzero(instances(m, None, (1,1,2), v)) for v in (0, 128, 129, 3000)]
    assert whole==[m.sum(), m.sum(), m.sum()-64, 0]
    assert instances(m, None, (1,1,2), 129).max()==1 and instances(m, None, (1,1,2), 0).max()==3
    assert instances(m, touching='components').max()==2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999))
def test_components_are_components(seed):
    m = np.random.default_rng(seed).random((9,8,7))<.35
    got,want = instances(m, touching='components'),ndi.label(m)[0]
    pairs = {(a,b) for a,b in zip(got.ravel().tolist(), want.ravel().tolist())}
    assert len(pairs)==len({a for a,_ in pairs})==len({b for _,b in pairs})


def test_ids_survive_a_correction():
    truth = chain(np.random.default_rng(5), 4, (1.,1.,1.))
    first = instances(truth>0)
    m = (truth>0)&(first!=2)
    m[:6,:6,:6] = True
    again = instances(m, before=first)
    for i in (1,3,4): assert (again[first==i]==i).all()
    assert set(np.unique(again))=={0,1,3,4,5} and (again[:6,:6,:6]==5).all()


def test_real_plant_cells():
    "50 cells that fill the block: their union told apart by the image, and the cells without their membranes by shape"
    folder = shared/'data'/'nifti'
    if not folder.exists(): pytest.skip('the microscopy case is not here')
    scan,truth = read_volume(folder/'micro_ovule_img.nii.gz'),read_labels(folder/'micro_ovule_lab.nii.gz')[0].data
    score = 1-(scan.data-scan.data.min())/np.ptp(scan.data.astype(float)) # membranes are bright
    by_image = instance_scores(truth, instances(truth>0, score, scan.spacing))
    inner = truth*(ndi.minimum_filter(truth, footprint=ndi.generate_binary_structure(3, 1))==ndi.maximum_filter(
        truth, footprint=ndi.generate_binary_structure(3, 1)))
    by_shape = instance_scores(inner, instances(inner>0, None, scan.spacing))
    assert by_image['f1']>.87 and by_image['dsc_tp']>.94 and by_shape['f1']>.98
    assert instance_scores(truth, instances(truth>0, None, scan.spacing))['f1']==0 # without image or gaps there is nothing to go by


def test_mistakes_are_said():
    m = np.ones((3,3,3), bool)
    with pytest.raises(UserError, match='split or components'): instances(m, touching='watershed')
    with pytest.raises(UserError, match='does not lie on'): instances(m, np.ones((3,3)))
    assert instances(m&~m).max()==0
