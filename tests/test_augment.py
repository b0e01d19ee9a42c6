"Augmentation: laws of the draws, geometry, grey values, windows"
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from medals.data.augment import (AUGS, Aug, draw_aug, interpolate, nearest_labels, patch_map, place_published, read_patch, source_region,
                            tone, wide, window_of, window_start)
from medals.core import make_gen
from medals.data.store import open_case, write_case

angles = st.tuples(*[st.floats(-30, 30)]*3)
sizes = st.tuples(*[st.integers(5, 90)]*3)
flips = st.tuples(*[st.booleans()]*3)


def test_published_draws_follow_the_published_list():
    "Probabilities within four standard errors, ranges, and half of the factors below one"
    n = 6000
    got = [draw_aug(make_gen('law', i), AUGS['published']) for i in range(n)]
    def share(test, p): assert abs(np.mean([test(o) for o in got])-p)<4*np.sqrt(p*(1-p)/n)
    share(lambda o: any(o.angles), .2)
    share(lambda o: o.scale!=1, .2)
    share(lambda o: o.moves, .36)
    share(lambda o: o.scale<1, .1)
    for name,p in dict(noise=.1, blur=.1, bright=.15, contrast=.15, coarse=.125, inverse=.1, gamma=.3).items():
        share(lambda o: getattr(o, name)!=getattr(Aug(), name), p)
    for d in range(3): share(lambda o: o.mirror[d], .5)
    share(lambda o: o.gamma<1, .15)
    ranges = dict(scale=(.7,1.4), noise=(0,.1), blur=(0,1), bright=(.75,1.25), contrast=(.75,1.25), coarse=(.5,1), inverse=(.7,1.5),
                  gamma=(.7,1.5))
    for name,(lo,hi) in ranges.items():
        v = np.array([getattr(o, name) for o in got])
        assert v.min()>=lo and v.max()<=hi and v.max()>hi-.05*(hi-lo)
    assert max(abs(a) for o in got for a in o.angles)<=30 and min(o.blur for o in got if o.blur)>=.5
    assert not got[0].relative and not got[0].clip and got[0].cubes


def test_axes_that_may_not_be_mirrored_are_not():
    assert not any(draw_aug(make_gen(i), AUGS['default'], (True,False,True)).mirror[1] for i in range(200))
    assert all(draw_aug(make_gen(i), AUGS['none'])==replace(Aug(), seed=draw_aug(make_gen(i), AUGS['none']).seed) for i in range(5))


@settings(max_examples=60, deadline=None)
@given(a=angles, scale=st.floats(.7, 1.4), flips=flips, shape=sizes, spacing=st.sampled_from([(1,1,1), (1,1,3), (.5,2,1)]))
def test_the_box_holds_all_that_a_patch_needs(a, scale, flips, shape, spacing):
    patch = (14,18,10)
    mat = patch_map(Aug(angles=a, scale=scale, mirror=flips), (np.array(shape)-1)/2, patch, spacing)
    lo,hi = source_region(mat, patch, (0,0,0), shape)
    assert all(0<=i<j<=n for i,j,n in zip(lo, hi, shape))
    at = np.stack(np.meshgrid(*[(0,p-1) for p in patch], indexing='ij'), -1).reshape(-1, 3)@mat[:3,:3].T+mat[:3,3]
    for d in range(3):
        assert lo[d]<=max(at[:,d].min()+1e-3, 0) and hi[d]-1>=min(at[:,d].max()-1e-3, shape[d]-1)
        assert lo[d]>at[:,d].min()-1.001 or lo[d]==0 or lo[d]==shape[d]-1, 'and not more'


@settings(max_examples=20, deadline=None)
@given(a=angles, scale=st.floats(.7, 1.4), flips=flips, seed=st.integers(0, 99))
def test_labels_and_grey_values_agree_with_scipy(a, scale, flips, seed):
    x = (make_gen(seed).random((30,26,22))*255).astype(np.uint8)
    patch = (16,20,12)
    mat = patch_map(Aug(angles=a, scale=scale, mirror=flips), (14.2,12.9,11.1), patch, (1,1,2))
    want = ndi.affine_transform(x.astype(float), mat[:3,:3], mat[:3,3], patch, order=1, mode='grid-constant')
    assert np.abs(interpolate(torch.as_tensor(x)[None], mat, patch)[0].numpy()-want).max()<.05
    at = np.stack(np.meshgrid(*map(np.arange, patch), indexing='ij'), -1)@mat[:3,:3].T+mat[:3,3]
    near = np.round(at).astype(int)
    inside = ((near>=0)&(near<x.shape)).all(-1)
    want = np.where(inside, x[tuple(np.clip(near, 0, np.array(x.shape)-1).transpose(3,0,1,2))], 0)
    sure = (np.abs(at-np.floor(at)-.5)>1e-3).all(-1)
    assert np.array_equal(nearest_labels(x, mat, patch)[sure], want[sure])


def test_a_turn_is_a_turn_in_the_patient():
    "Distances in mm between voxels of the patch are kept, also where voxels are flat; as cubes they are not"
    spacing = np.array([1.5,1.5,3.])
    for cubes in (False,True):
        m = patch_map(Aug(angles=(20.,10.,-15.), cubes=cubes), (50,50,50), (32,32,32), spacing)[:3,:3]*spacing[:,None]
        mm = np.linalg.norm(m, axis=0)
        assert np.allclose(mm, spacing)!=cubes


def test_larger_windows_are_the_published_ones():
    sizes = {(224,224,128): (359,303,262), (192,192,192): (308,308,308), (192,192,96): (308,252,210), (288,288,96): (462,349,267)}
    assert {k: wide(k) for k in sizes}==sizes


shapes = st.tuples(*[st.integers(20, 500)]*3)


@settings(max_examples=100, deadline=None)
@given(shape=shapes, seed=st.integers(0, 999), forced=st.booleans())
def test_windows_stay_inside_or_around_the_scan(shape, seed, forced):
    patch,gen = np.array((192,160,64)),make_gen('inside', seed)
    at = [int(gen.integers(n)) for n in shape] if forced else None
    lo = window_start(shape, patch, gen, at)
    for a,p,n in zip(lo, patch, shape): assert (0<=a<=n-p) if n>=p else (n-p<=a<=0)
    if forced: assert ((lo<=at)&(at<lo+patch)).all()


@settings(max_examples=100, deadline=None)
@given(shape=shapes, seed=st.integers(0, 999))
def test_published_windows_have_the_published_borders(shape, seed):
    "Random ones: the patch in the middle lies inside the scan; around a voxel: only the lower border holds"
    patch,gen = np.array((192,192,192)),make_gen('published', seed)
    lo = place_published(shape, patch, gen)+58
    for a,p,n in zip(lo, patch, shape): assert (0<=a<=n-p+1) if n>=p else (n-p)//2-1<=a<=(n-p)//2+1
    at = np.array(shape)-1
    assert (place_published(shape, patch, gen, at)>=at-154).all() and (place_published(shape, patch, gen, (0,0,0))<=0).all()


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    gen = make_gen('case')
    folder = tmp_path_factory.mktemp('case')/'c'
    x,y = (gen.random((50,44,40))*255).astype(np.uint8),gen.integers(0, 4, (50,44,40)).astype(np.uint8)
    write_case(folder, x, y, np.diag([1.,1.,2.,1.]), {'a': [1]})
    return open_case(folder),x,y


@settings(max_examples=40, deadline=None)
@given(a=st.one_of(st.just((0.,0.,0.)), angles), scale=st.sampled_from([1.,.7123,1.3917]), flips=flips, seed=st.integers(0, 99),
       published=st.booleans(), forced=st.booleans())
def test_what_is_cut_out_is_what_the_matrix_says(case, a, scale, flips, seed, published, forced):
    c,x,y = case
    patch,gen = (32,32,32),make_gen('cut', seed)
    aug = Aug(angles=a, scale=scale, mirror=flips, cubes=published)
    at = tuple(int(gen.integers(n)) for n in c.shape) if forced else None
    mat,lo,hi = window_of(c, aug, patch, gen, at, published)
    image,labels,warp = read_patch(c, aug, patch, mat, lo, hi)
    assert labels.shape==patch and (warp is None)==(not aug.moves)
    if not published and forced:
        q = np.linalg.solve(mat[:3,:3], np.array(at)-mat[:3,3])
        assert (q>-.501).all() and (q<np.array(patch)-.499).all(), 'the voxel lies in the patch'
    if warp is None:
        assert image.shape==patch
        image = np.pad(x, 40)[tuple(np.round(o).astype(int)+40 for o in np.ix_(*[mat[d,d]*np.arange(32)+mat[d,3] for d in range(3)]))]
        assert np.array_equal(read_patch(c, aug, patch, mat, lo, hi)[0], image)
    elif not published:
        whole = interpolate(torch.as_tensor(x)[None], mat, patch)
        part = interpolate(torch.as_tensor(image)[None], warp, patch)
        assert (whole-part).abs().max()<.05 and (nearest_labels(y, mat, patch)!=labels).mean()<.002


def test_the_published_windows_show_nothing_beyond_the_larger_window(tmp_path):
    x = np.full((700,20,20), 9, np.uint8)
    write_case(tmp_path/'c', x, x, np.eye(4), {'a': [9]})
    c = open_case(tmp_path/'c')
    for i in range(10):
        mat,lo,hi = window_of(c, Aug(angles=(0.,0.,30.), scale=1.4), (32,32,32), make_gen(i), published=True)
        assert hi[0]-lo[0]<=wide((32,32,32))[0] and 0<=lo[0]<hi[0]<=700


@pytest.mark.parametrize('name', ['noise', 'blur', 'bright', 'contrast', 'coarse', 'inverse', 'gamma'])
def test_grey_values_change_as_they_are_told(name):
    x = torch.as_tensor(ndi.gaussian_filter(make_gen('grey').random((24,28,20)), 2)).float()[None]
    x = (x-x.min())/(x.max()-x.min())*200+20
    value = dict(noise=.3, blur=1., bright=1.2, contrast=.7, coarse=.5, inverse=1.4, gamma=.7)[name]
    aug = Aug(**{name: value}, seed=3)
    y = tone(x, aug)
    assert y.shape==x.shape and type(y) is torch.Tensor and not torch.equal(x, y) and torch.equal(y, tone(x, aug))
    assert 0<=y.min() and y.max()<=255
    d = (y-x).abs()
    if name=='noise': assert abs((y-x).std()/x.std()-.3)<.02 and not torch.equal(y, tone(x, replace(aug, seed=4)))
    if name=='blur': assert (y[0]-torch.as_tensor(ndi.gaussian_filter(x[0].numpy(), 1., mode='mirror'))).abs().max()<2
    if name=='bright': assert torch.allclose(y, (x*1.2).clamp(max=255))
    if name=='contrast': assert torch.allclose(y-x.mean(), (x-x.mean())*.7, atol=1e-3)
    if name=='coarse': assert d.mean()<8
    if name in ('inverse','gamma'): assert abs(y.mean()-x.mean())<.2 and abs(y.std()-x.std())<.2


def test_published_noise_is_in_grey_levels_and_nothing_is_clipped():
    x = torch.full((1,20,20,20), 250.)
    y = tone(x, Aug(noise=.1, relative=False, clip=False, bright=1.2))
    assert y.max()>299 and abs((y/1.2).std()-.1)<.01
    assert {f.name for f in fields(Aug)}>={'noise','relative','clip'}
