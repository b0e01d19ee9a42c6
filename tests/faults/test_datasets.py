"Data sets as strangers have them: what is in them is trained on, what is left out is said"
import json
import pickle

import blosc2
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.core import UserError, spacing_of
from medals.geometry import coarse_axis, plan, rigid
from medals.published import LADDER
from medals.prepare import import_store
from medals.store import import_case, open_case
from medals.volume import Volume
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


def as_nnunet_keeps(folder, x, y, affine, target, order=(0,1,2), header='sitk_stuff', protocol=4):
    "One case as nnU-Net's preprocessing writes it: axes in reading order, turned, cut, resampled, mean 0 and deviation 1"
    x,y,spacing = x.transpose(2,1,0),y.transpose(2,1,0),spacing_of(affine)[::-1]
    lps = np.diag([-1,-1,1,1])@affine
    kept = dict(sitk_stuff=dict(spacing=tuple(spacing[::-1]), origin=tuple(lps[:3,3].tolist()),
                                direction=tuple((lps[:3,:3]/spacing_of(affine)).ravel().tolist())),
                nibabel_stuff=dict(original_affine=affine), published=None)[header]
    x,y,turned = x.transpose(order),y.transpose(order),[spacing[i] for i in order]
    box = [[int(o.min()), int(o.max())+1] for o in np.nonzero(x)]
    cut = tuple(slice(*o) for o in box)
    size = [round(s/t*(b-a)) for s,t,(a,b) in zip(turned, target, box)]
    img = F.interpolate(torch.as_tensor(x[cut].copy()).float()[None,None], size, mode='trilinear')[0].numpy()
    seg = F.interpolate(torch.as_tensor(y[cut].copy()).float()[None,None], size, mode='nearest-exact')[0].numpy().astype(np.int16)
    props = dict(spacing=list(map(float, spacing)), shape_before_cropping=x.shape, bbox_used_for_cropping=box,
                 shape_after_cropping_and_before_resampling=x[cut].shape, class_locations={(1,np.int64(2)): seg, 3: []})
    if kept: props[header] = kept
    folder.mkdir(parents=True, exist_ok=True)
    blosc2.asarray(((img-img.mean())/img.std()).astype(np.float32), urlpath=str(folder/'a.b2nd'), mode='w')
    blosc2.asarray(seg, urlpath=str(folder/'a_seg.b2nd'), mode='w')
    (folder/'a.pkl').write_bytes(pickle.dumps(props, protocol=protocol))


def odd_scan(spacing, shape=(40,48,30)):
    "An oblique scan with a black border and a block in it, and where the middle of the block is"
    x,y = np.zeros(shape, np.float32),np.zeros(shape, np.uint8)
    x[4:-3,5:-6,2:-1] = np.random.default_rng(0).normal(100, 9, (33,37,27))
    y[13:21,16:25,9:15] = 2
    affine = Volume(x, rigid((9,-4,12))@np.diag([-1,-1,1,1])@np.diag([*spacing, 1.])).affine.copy()
    affine[:3,3] = 10,-20,30
    return x,y,affine,(affine@[16.5,20,11.5,1])[:3]


@pytest.mark.parametrize('header', ['sitk_stuff','nibabel_stuff'])
@pytest.mark.parametrize('spacing,target,order,protocol', [
    ((2.,2.,2.), (1.,1.,1.), (0,1,2), 2), ((1.,1.,5.), (2.5,1.,1.), (0,1,2), 4), ((2.,1.,3.), (1.,1.,1.), (0,1,2), 5),
    ((1.,3.,2.), (3.,2.,1.), (1,0,2), 4), ((3.,1.,2.), (3.,2.,1.), (2,0,1), 4)])
def test_1_3_a_case_of_nnunet_has_its_size_and_its_place(tmp_path, header, spacing, target, order, protocol):
    x,y,affine,middle = odd_scan(spacing)
    as_nnunet_keeps(tmp_path/'plans_3d', x, y, affine, target, order, header, protocol)
    (tmp_path/'plans.json').write_text(json.dumps(dict(transpose_forward=order)))
    catalogue = dict(Dataset001=dict(modality='mri', instance=False, classes={'block': dict(values=[2], sentences=['block'])}))
    import_store(tmp_path/'plans_3d', tmp_path/'st', catalogue, workers=1).stop(1)
    case = open_case(tmp_path/'st/cases/Dataset001/a')
    img,seg = case[:,:,:]
    assert np.allclose(spacing_of(case.affine), target, rtol=.03), 'the voxels of the array, not those of the scan'
    assert np.abs((case.affine@[*np.argwhere(seg==2).mean(0),1])[:3]-middle).max()<.6*max(target)
    facing = ''.join(nib.aff2axcodes(affine))[::-1]
    assert case.meta['orientation']==''.join(facing[i] for i in order) and case.meta['notes']==[]
    assert img.dtype==np.uint8 and 60<img[seg==2].mean()<200, 'grey values that training can use'


def test_1_3_without_plans_the_most_cubic_order_is_taken_and_said(tmp_path):
    x,y,affine,middle = odd_scan((1.,3.,2.))
    as_nnunet_keeps(tmp_path/'some'/'d', x, y, affine, (1.,1.,1.), (1,0,2))
    import_case(tmp_path/'some/d/a.b2nd', tmp_path/'a', {'block': [2]}, 'mri')
    case = open_case(tmp_path/'a')
    assert np.allclose(spacing_of(case.affine), 1, rtol=.03) and 'no plans' in case.meta['notes'][0] and case.meta['orientation'] is None
    assert np.abs((case.affine@[*np.argwhere(case[:,:,:][1]==2).mean(0),1])[:3]-middle).max()<.6


@pytest.mark.parametrize('change,says', [
    (dict(spacing=[1.,0.,1.]), 'gives spacing as'), (dict(spacing='1 mm'), 'gives spacing as'),
    (dict(shape_after_cropping_and_before_resampling=(3,3)), 'gives shape_after')])
def test_1_3_a_pickle_that_cannot_be_is_one_sentence(tmp_path, change, says):
    as_nnunet_keeps(tmp_path/'d', *odd_scan((2.,2.,2.))[:3], (1.,1.,1.))
    f = tmp_path/'d/a.pkl'
    f.write_bytes(pickle.dumps({**pickle.loads(f.read_bytes()), **change}))
    with pytest.raises(UserError, match=says): import_case(tmp_path/'d/a.b2nd', tmp_path/'a', {'block': [2]})


def test_1_3_two_configurations_of_one_data_set_are_not_mixed(tmp_path):
    for name in ('plans_2d','plans_3d_fullres'): as_nnunet_keeps(tmp_path/name, *odd_scan((2.,2.,2.))[:3], (1.,1.,1.))
    catalogue = dict(Dataset001=dict(modality='mri', instance=False, classes={'block': dict(values=[2], sentences=['block'])}))
    with pytest.raises(UserError, match='plans_2d and in plans_3d_fullres'): import_store(tmp_path, tmp_path/'st', catalogue, workers=1)
