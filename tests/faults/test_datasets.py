"Data sets as strangers have them: what is in them is trained on, what is left out is said"
import json
import os
import pickle
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import blosc2
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.data import catalogue
from medals.core import UserError, spacing_of
from medals.base.files import read_json, read_lines, write_json, write_lines
from medals.data.batch import to_batch
from medals.data.questions import DataCfg
from medals.data.sampler import Sampler
from medals.data.datasets import sampling
from medals.training.finetune import FinetuneCfg, own_store
from medals.geometry import coarse_axis, plan, rigid
from medals.data.indexing import index, sentences_of
from medals.data.layouts import find_cases
from medals.training.losses import dice_bce, seg_loss
from medals.data.nnunet import is_ignored
from medals.prepare import import_store, load, manifest_row, prepare, recipe_for
from medals.published import LADDER
from medals.data.store import import_case, label_points, open_case, write_case
from medals.training.loop import sample_losses
from medals.training.validate import Validator, held_out_cases
from medals.volume import Volume, phantom
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


VOL,LBL,_ = phantom(shape=(24,28,22), spacing=(8.,8.,8.))


def save(path, x, affine=VOL.affine):
    "A NIfTI file"
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.asarray(x)
    nib.save(nib.Nifti1Image(x.astype(np.uint8) if x.dtype==bool else x, affine), path)


def raw_set(root, cases=('a','b'), voxels=LBL, channels=1, images='imagesTr', truth='labelsTr', **said):
    "A data set as nnU-Net lays it out"
    root.mkdir(parents=True, exist_ok=True)
    for name in cases:
        for c in range(channels): save(root/images/f'{name}_{c:04d}.nii.gz', VOL.data+c)
        save(root/truth/f'{name}.nii.gz', voxels)
    table = dict(channel_names={str(c): f'T{c+1}' for c in range(channels)}, labels={'background': 0, 'left': 1, 'right': 2, 'deep': [3,4]},
                 file_ending='.nii.gz')
    (root/'dataset.json').write_text(json.dumps({**table, **said}))
    return root


def listed(root, to, prompts=''):
    "What the index says, its rows, its classes"
    res = index(root, to, prompts, workers=1)
    return res,read_lines(to),read_json(to.with_suffix('.classes.json'))


def stored(root, tmp, prompts=''):
    "A store of a data set, and what failed"
    index(root, tmp/'l.jsonl', prompts, workers=1)
    fails = prepare(tmp/'l.jsonl', tmp/'st', recipe_for('nano', spacing=(8.,8.,8.), patch=(32,32,32)), workers=1)
    return tmp/'st',fails


@pytest.mark.parametrize('labels,ignored', [
    ({'background': 0, 'left': 1, 'right': 2, 'ignore': 3}, [3]),
    ({'background': 0, 'left': 1, 'both': [1,2], 'ignore': 3, 'Ignored region': 4}, [3,4]),
    ({'background': 0, 'left': 1, 'ignore': [3,4]}, [3,4]),
    ({'0': 'background', '1': 'left', '2': 'right', '3': 'ignore', '4': 'ignore'}, [3,4]),
    ({'background': 0, 'whole': [1,2,3,4], 'ignore': 4}, [4])])
def test_1_2_ignored_voxels_reach_the_loss_and_no_question(tmp_path, labels, ignored):
    root = raw_set(tmp_path/'D', labels=labels)
    res,_,classes = listed(root, tmp_path/'l.jsonl')
    assert classes['D']['ignored']==ignored and set(res['report']['D']['ignored'])==set(ignored)
    assert not any(is_ignored(k) or set(c['values'])&set(ignored) for k,c in classes['D']['classes'].items())
    sampler = Sampler(stored(root, tmp_path)[0], DataCfg(aug='none', forced=.5, strangers=0.))
    for i in range(6):
        s = sampler.sample(i)
        case = open_case(tmp_path/'st/cases'/s.name)
        at = np.rint(np.linalg.inv(case.affine)@s.affine)[:3,3].astype(int)
        truth = case[tuple(slice(a, a+32) for a in at)][1]
        batch = to_batch([s])
        assert np.array_equal(~batch.counted[0,0].numpy(), np.isin(truth, ignored)), 'exactly the ignored voxels do not count'
        assert not (batch.m&~batch.counted).any() and not any('ignore' in k.lower() for k in s.classes)


def test_1_2_what_the_network_says_of_ignored_voxels_changes_neither_loss_nor_gradient(tmp_path):
    root = raw_set(tmp_path/'D', labels={'background': 0, 'left': 1, 'right': 2, 'ignore': 3})
    sampler = Sampler(stored(root, tmp_path)[0], DataCfg(aug='none', strangers=0.))
    batch = to_batch([sampler.sample(i) for i in range(3)])
    assert not batch.counted.all()
    gen = torch.Generator().manual_seed(0)
    for compat in (False, True):
        z = [torch.randn(3, batch.query.shape[1], *[32//k]*3, generator=gen) for k in (1,2,4)]
        counted = [F.max_pool3d(batch.counted.float(), k)>0 if not compat else batch.counted[...,::k,::k,::k] for k in (1,2,4)]
        wild = [torch.where(c, o, 50*torch.randn(o.shape, generator=gen)).requires_grad_() for c,o in zip(counted, z)]
        losses = sample_losses(wild, batch, compat)
        assert torch.allclose(losses, sample_losses(z, batch, compat), atol=1e-5)
        losses[:,0].sum().backward()
        assert all((o.grad[~c.expand_as(o)]==0).all() and o.grad.abs().sum()>0 for o,c in zip(wild, counted))
        plain = sample_losses(z, replace(batch, counted=None), compat)
        assert not torch.allclose(losses, plain, atol=1e-4), 'as negatives they would have counted'


def test_1_2_the_loss_over_counted_voxels_is_that_of_those_voxels_alone():
    "Against the published formulas on the counted voxels, cut out and put in a row"
    gen = torch.Generator().manual_seed(1)
    z,m = torch.randn(2,3,8,8,8, generator=gen),torch.rand(2,3,8,8,8, generator=gen)<.3
    counted = torch.rand(2,1,8,8,8, generator=gen)<.5
    dice,bce,there = dice_bce(z, m, counted=counted)
    for b in range(2):
        for n in range(3):
            p,t = z[b,n][counted[b,0]],m[b,n][counted[b,0]].float()
            q = p.sigmoid()
            assert abs(dice[b,n]-(1-(2*(q*t).sum()+1e-7)/(q.square().sum()+t.sum()+1e-7)))<1e-5 and there[b,n]==bool(t.any())
            assert abs(bce[b,n]-F.binary_cross_entropy_with_logits(p, t))<1e-5
    none = seg_loss(z, m, counted=torch.zeros_like(counted))[0]
    assert none==0, 'a window in which nothing counts teaches nothing'


def test_1_2_windows_lie_around_voxels_that_count(tmp_path):
    "One slab of sixty is annotated; windows of 32 voxels that were placed anywhere would miss it half the time"
    x,y = np.random.default_rng(0).integers(1, 200, (120,40,40)).astype(np.uint8),np.full((120,40,40), 7, np.uint8)
    y[100:102] = 0
    y[100:102,10:20,10:20] = 1
    folder = tmp_path/'st'
    points = label_points(y, np.random.default_rng(0), background=True)
    write_case(folder/'cases/d/a', x, y, np.eye(4), {'box': [1]}, 'ct', points, ignored=[7])
    write_lines(folder/'manifest.jsonl', [manifest_row(folder, 'd/a')])
    box = dict(values=[1], sentences=['box'])
    write_json(folder/'classes.json', {'d': dict(modality='ct', classes={'box': box}, ignored=[7])})
    write_json(folder/'store.json', dict(recipe=dict(patch=(32,32,32))))
    for cfg in (DataCfg(forced=0.), DataCfg(forced=0., aug='none'), DataCfg(forced=1., fit=1.)):
        sampler = Sampler(folder, cfg)
        for i in range(20): assert to_batch([sampler.sample(i)]).counted.any(), 'some voxel counts'
    assert '0' not in read_lines(folder/'manifest.jsonl')[0]['counts'], 'background is no label'


def test_1_2_validation_scores_only_what_counts(tmp_path):
    root = raw_set(tmp_path/'D', cases=('a','b','c'), labels={'background': 0, 'left': 1, 'ignore': [2,3,4]})
    sampler = Sampler(stored(root, tmp_path)[0], DataCfg(holdout=.3))
    one, = held_out_cases(sampler, sampler.heldout)
    class Everything(torch.nn.Module):
        def forward(self, x, q, m=None): return torch.ones(len(x), len(q), *x.shape[2:])
    validator = Validator([one], torch.zeros(len(sampler.sentences), 4), (32,32,32), prompted=False)
    _,truth,found = validator.segment(Everything(), one)
    labels = open_case(one.folder)[:,:,:][1]
    assert np.array_equal(found['none'][0], ~np.isin(labels, [2,3,4])) and np.array_equal(truth[0], labels==1)


def test_1_5_training_refuses_a_data_set_whose_masks_have_another_value(tmp_path):
    for name in 'abc':
        save(tmp_path/'r/images'/f'{name}.nii.gz', VOL.data)
        save(tmp_path/'r/labels'/f'{name}.nii.gz', np.uint8(255)*(LBL>0))
    (tmp_path/'p.toml').write_text('name = "strokes"\nmodality = "mri"\n[classes]\nlesion = 1\n')
    store,fails = stored(tmp_path/'r', tmp_path, tmp_path/'p.toml')
    assert not fails.rows
    said = r'no class of data set strokes has a voxel in its 3 cases \(lesion is \[1\]\), its labels are \[255\]'
    with pytest.raises(UserError, match=said):
        Sampler(store)
    run = subprocess.run([sys.executable, '-m', 'medals.cli', 'train', str(store), '-o', str(tmp_path/'run'), '--steps', '1'],
                         capture_output=True, text=True)
    assert run.returncode==2 and 'lesion is [1]' in run.stderr and 'Traceback' not in run.stderr


def test_1_5_finetune_says_which_labels_are_no_class(tmp_path, capsys):
    root = raw_set(tmp_path/'D', labels={'background': 0, 'left': 1, 'right': 2, 'deep': [3,4]})
    save(root/'labelsTr/b.nii.gz', np.uint8(255)*(LBL==1))
    own_store(root, FinetuneCfg(out=str(tmp_path/'out'), prompts=''))
    said = capsys.readouterr().err
    assert 'D: no class has label 255 (in 1 case); their voxels are trained as background' in said
    raw_set(tmp_path/'E')
    own_store(tmp_path/'E', FinetuneCfg(out=str(tmp_path/'out2'), prompts=''))
    assert 'no class has' not in capsys.readouterr().err


def test_1_4_a_list_of_scans_alone_is_said_to_have_no_labels(tmp_path):
    root = raw_set(tmp_path/'D', training=['./imagesTr/a.nii.gz', './imagesTr/b.nii.gz'])
    res,rows,_ = listed(root, tmp_path/'l.jsonl')
    assert len(rows)==2 and 'dataset.json lists no case with its label; those in imagesTr and labelsTr are taken' in res['notes']


def test_1_5_masks_of_255_in_a_folder_per_case_are_masks(tmp_path):
    for name in 'ab':
        save(tmp_path/'r'/name/'mri.nii.gz', VOL.data)
        for k,values in (('left', [1]), ('deep', [3,4])): save(tmp_path/'r'/name/'masks'/f'{k}.nii.gz', np.uint8(255)*np.isin(LBL, values))
    store,_ = stored(tmp_path/'r', tmp_path)
    assert all(sum(r['counts'].values()) for r in read_lines(store/'manifest.jsonl')) and Sampler(store).sample(0).present.any()


def test_1_4_the_list_of_dataset_json_is_obeyed_and_the_rest_is_said(tmp_path):
    root = raw_set(tmp_path/'D', cases=('a','b'), labels=['background','left','right','deep','deeper'])
    save(root/'truth/a.nii.gz', LBL*(LBL<3))
    said = read_json(root/'dataset.json')
    training = [dict(image='./imagesTr/a.nii.gz', label='./truth/a.nii.gz'), './imagesTr/c.nii.gz']
    write_json(root/'dataset.json', dict(said, training=training))
    res,rows,_ = listed(root, tmp_path/'l.jsonl')
    assert [os.path.relpath(r[k], root) for r in rows for k in ('data','labels')]==['imagesTr/a_0000.nii.gz','truth/a.nii.gz']
    assert rows[0]['ids']==[1,2]
    left = {os.path.relpath(k, root): v for k,v in res['left_out'].items()}
    assert set(left)=={'labelsTr/a.nii.gz','labelsTr/b.nii.gz','imagesTr/c.nii.gz'} and 'no label' in left['imagesTr/c.nii.gz']
    run = medals('index', root, '-o', tmp_path/'m.jsonl')
    assert run.returncode==0 and 'labelsTr/b.nii.gz: dataset.json does not list it' in run.stdout


def test_1_4_the_table_of_nnunet_2_has_paths_of_its_own(tmp_path, monkeypatch):
    "Outside of the folder, absolute, by an environment variable; two files of one name stay two cases"
    root = raw_set(tmp_path/'D', cases=(), labels={'background': 0, 'left': 1})
    for name in ('p1','p2'):
        save(tmp_path/'elsewhere'/name/'scan.nii.gz', VOL.data)
        save(tmp_path/'elsewhere'/name/'truth.nii.gz', (LBL==1).astype(np.uint8))
    monkeypatch.setenv('ELSEWHERE', str(tmp_path/'elsewhere'))
    table = dict(one=dict(images=['../elsewhere/p1/scan.nii.gz'], label=str(tmp_path/'elsewhere/p1/truth.nii.gz')),
                 two=dict(images=['$ELSEWHERE/p2/scan.nii.gz'], label='${ELSEWHERE}/p2/truth.nii.gz'), three=dict(images=['x.nii.gz']))
    write_json(root/'dataset.json', dict(read_json(root/'dataset.json'), dataset=table))
    store,fails = stored(root, tmp_path)
    assert not fails.rows and [r['name'] for r in read_lines(store/'manifest.jsonl')]==['D/one','D/two']
    assert 'three' in listed(root, tmp_path/'m.jsonl')[0]['left_out']


def test_1_4_every_channel_of_a_decathlon_file_is_a_scan(tmp_path):
    root,grey = tmp_path/'Task01',[VOL.data, VOL.data[::-1], np.minimum(VOL.data, 60)]
    for name in 'ab':
        save(root/'imagesTr'/f'{name}.nii.gz', np.stack(grey, -1))
        save(root/'labelsTr'/f'{name}.nii.gz', LBL)
    training = [dict(image=f'./imagesTr/{o}.nii.gz', label=f'./labelsTr/{o}.nii.gz') for o in 'ab']
    labels = {'0': 'background', '1': 'left', '2': 'right'}
    channels = {'0': 'FLAIR', '1': 'T1/ce', '2': 'T2w'}
    write_json(root/'dataset.json', dict(modality=channels, labels=labels, training=training, numTraining=2))
    res,rows,classes = listed(root, tmp_path/'l.jsonl')
    names = ['Task01-FLAIR','Task01-T1-ce','Task01-T2w']
    assert sorted(classes)==names and len(rows)==6 and not res['failed'].rows and not res['notes']
    store,fails = stored(root, tmp_path)
    assert not fails.rows and sorted(r['name'] for r in read_lines(store/'manifest.jsonl'))==[f'{n}/{o}' for n in names for o in 'ab']
    images = [open_case(store/'cases'/n/'a')[:,:,:][0].astype(int) for n in names]
    assert np.abs(images[0]-images[1][::-1]).max()<=1 and np.abs(images[0]-images[2]).max()>50
    assert set(Sampler(store).groups)==set(names) and Sampler(store).sample(0).present is not None


@pytest.mark.parametrize('change,says', [
    (dict(channels=2, channel_names={'0': 'T1', '1': 'T2', '2': 'T3'}), 'T3'), (dict(channel_names=['T1','T2']), 'there is no number 1')])
def test_1_4_a_channel_that_is_missing_is_named(tmp_path, change, says):
    root = raw_set(tmp_path/'D', cases=('a',), **change)
    if change.get('channels') is None: (root/'imagesTr/a_0000.nii.gz').rename(root/'imagesTr/a.nii.gz')
    res,rows,_ = listed(root, tmp_path/'l.jsonl')
    store,fails = stored(root, tmp_path)
    said = str(res['failed'].rows)+str(fails.rows)
    assert 'a_0002.nii.gz' in said if says=='T3' else says in said


def medals(*args, **env):
    "The command line"
    return subprocess.run([sys.executable, '-m', 'medals.cli', *map(str, args)], capture_output=True, text=True, env={**os.environ, **env})


BRIEF = ('--steps', 1, '--batch', 1, '--holdout', 0, '--device', 'cpu')


def untidy(root):
    "A healthy case, a good one, one whose label has another shape, one that is damaged, and what a Mac leaves behind"
    for name,y in (('good',LBL), ('healthy',LBL*0), ('short',LBL[:-1]), ('sane',LBL)):
        save(root/'images'/f'{name}.nii.gz', VOL.data)
        save(root/'labels'/f'{name}.nii.gz', y)
    (root/'labels/torn.nii.gz').write_bytes(b'torn')
    save(root/'images/torn.nii.gz', VOL.data)
    for o in ('images/._good.nii.gz','labels/._good.nii.gz','images/.DS_Store','__MACOSX/images/._good.nii.gz'):
        (root/o).parent.mkdir(parents=True, exist_ok=True)
        (root/o).write_bytes(b'\0\5\26\7')
    (root/'p.toml').write_text('name = "heads"\nmodality = "mri"\n[classes]\nleft = 1\nright = 2\n')
    return root


def test_1_8_healthy_cases_are_negatives_and_bad_ones_are_left_out(tmp_path):
    root = untidy(tmp_path/'r')
    store,fails = stored(root, tmp_path, root/'p.toml')
    assert sorted(r['name'] for r in read_lines(store/'manifest.jsonl'))==['heads/good','heads/healthy','heads/sane']
    assert [r['case'] for r in fails.rows]==['heads/short'] and '._' not in (tmp_path/'l.jsonl').read_text()
    sampler = Sampler(store, DataCfg(aug='none'))
    drawn = [s for s in (sampler.sample(i) for i in range(40)) if s.name=='heads/healthy']
    assert drawn and all(len(s.query) and not s.present.any() for s in drawn), 'asked for what is absent'
    compat = prepare(tmp_path/'l.jsonl', tmp_path/'pub', recipe_for('nano', compat=True), workers=1)
    assert [r['case'] for r in compat.rows]==['heads/short'], 'the published rules too'


def test_1_8_a_label_that_vanishes_does_not_make_a_healthy_case(tmp_path):
    y = np.zeros(LBL.shape, np.uint8)
    y[12,14,11] = 1
    save(tmp_path/'r/images/a.nii.gz', VOL.data)
    save(tmp_path/'r/labels/a.nii.gz', y)
    (tmp_path/'p.toml').write_text('name = "heads"\nmodality = "mri"\n[classes]\nlesion = 1\n')
    index(tmp_path/'r', tmp_path/'l.jsonl', tmp_path/'p.toml', workers=1)
    fails = prepare(tmp_path/'l.jsonl', tmp_path/'st', recipe_for('nano', spacing=(40.,40.,40.), patch=(32,32,32)), workers=1)
    assert 'every label vanishes' in fails.rows[0]['reason']


def test_1_8_prepare_takes_no_hidden_file_from_an_old_list(tmp_path):
    root = untidy(tmp_path/'r')
    index(root, tmp_path/'l.jsonl', root/'p.toml', workers=1)
    rows = read_lines(tmp_path/'l.jsonl')
    write_lines(tmp_path/'l.jsonl', [*rows[:1], dict(rows[0], data=str(root/'images/._good.nii.gz'))])
    fails = prepare(tmp_path/'l.jsonl', tmp_path/'st', recipe_for('nano'), workers=1)
    assert not fails.rows and len(read_lines(tmp_path/'st/manifest.jsonl'))==1


def test_1_8_finetune_trains_on_what_is_good(tmp_path):
    root = untidy(tmp_path/'r')
    run = medals('finetune', root, '-o', tmp_path/'out', '--prompts', root/'p.toml', *BRIEF)
    assert run.returncode==0, run.stderr
    assert '1 of 5 cases are left out' in run.stderr and 'torn.nii.gz' in run.stderr and 'heads/short' in run.stderr
    assert len(read_lines(tmp_path/'out/store/manifest.jsonl'))==3 and (tmp_path/'out/last').is_dir()


def test_1_8_finetune_ends_in_a_sentence_when_nothing_is_good(tmp_path):
    for name in 'ab': save(tmp_path/'r/images'/f'{name}.nii.gz', VOL.data)
    (tmp_path/'r/labels').mkdir()
    for name in 'ab': (tmp_path/'r/labels'/f'{name}.nii.gz').write_bytes(b'torn')
    (tmp_path/'p.toml').write_text('name = "heads"\nmodality = "mri"\n[classes]\nleft = 1\n')
    with pytest.raises(UserError, match='2 of 2 cases failed'):
        own_store(tmp_path/'r', FinetuneCfg(out=str(tmp_path/'out'), prompts=str(tmp_path/'p.toml')))


@pytest.mark.parametrize('said,want', [
    (dict(labels={'background': '0', 'left': '1', 'right': '2.0'}), {'left': [1], 'right': [2]}),
    (dict(labels=['background','left','right']), {'left': [1], 'right': [2]}),
    (dict(labels={'background': 0.0, 'left': 1.0, 'both': [1, '2']}), {'left': [1], 'both': [1,2]}),
    (dict(labels={'0': 'background', '1': 'left', '2': 'left', '7': 'gone'}), {'left': [1,2], 'gone': [7]}),
    (dict(labels={'left': 1}, channel_names=['T1']), {'left': [1]}),
    (dict(labels={'left': 1}, channel_names='T1'), {'left': [1]}),
    (dict(labels={'left': 1}, channel_names={'T1': 0}), {'left': [1]}),
    (dict(labels={'left': 1}, channel_names={'0': 'T1/ce'}), {'left': [1]}),
    (dict(labels={'left\u00a0 part': 1}, channel_names={'0000': 'T1'}, file_ending='NII.gz'), {'left part': [1]}),
    (dict(labels={'left': 300}, numTraining='many', training=None), {'left': [300]})])
def test_4_2_what_can_be_understood_is_taken_and_trains(tmp_path, said, want):
    root = raw_set(tmp_path/'D', voxels=np.where(LBL==1, 300, LBL.astype(np.int32)) if '300' in str(said) else LBL, **said)
    res,rows,classes = listed(root, tmp_path/'l.jsonl')
    assert {k: c['values'] for k,c in classes['D']['classes'].items()}==want and len(rows)==2
    store,fails = stored(root, tmp_path)
    assert not fails.rows and Sampler(store).sample(0).name.startswith('D/')


@pytest.mark.parametrize('said,says', [
    (dict(labels=None), 'dataset.json lacks labels'), (dict(labels=7), 'labels should be a table of names and ids, got 7'),
    (dict(labels={}), 'should name a class'), (dict(labels={'background': 0}), 'should name a class'),
    (dict(labels={'left': True}), 'labels: left should be a whole number'),
    (dict(labels={'left': -1}), 'labels: left should be a whole number'),
    (dict(labels={'left': 1.5}), 'got 1.5'), (dict(labels={'left': [1,[2]]}), 'left: entry 2 should be a whole number'),
    (dict(labels={'left': []}), 'left has no id'), (dict(labels={'left': [0,1]}), 'ids above 0'),
    (dict(labels={'left': 70000}), 'got 70000'),
    (dict(labels=['background', None]), 'entry 2 should be the name of a label'),
    (dict(labels={'left': 1, 'ignore': 1}), 'which are to be ignored'), (dict(labels={' ': 1}), 'should be the name of a label'),
    (dict(labels={'left': {'id': 1}}), 'labels: left should be a whole number'),
    (dict(channel_names={}), 'channel_names should be the names of channels'),
    (dict(channel_names={'0': None}), 'should be the name of a channel'),
    (dict(channel_names={'0': 'T1', '00': 'T2'}), 'each with a number of its own'),
    (dict(file_ending='.png'), 'file_ending should be one of .nii.gz'),
    (dict(file_ending=3), 'file_ending should be a text'), (dict(training={'a': 1}), 'training should be a list'),
    (dict(training=[{'img': 'a'}]), 'training: entry 1 should be an image and a label'), (dict(dataset=['a']), 'dataset should be a table'),
    (dict(dataset={'a': {'images': ['x'], 'label': 5}}), 'dataset: a: label should be the name of a file, got 5')])
def test_4_2_the_rest_is_one_sentence_with_the_key(tmp_path, said, says):
    root = raw_set(tmp_path/'D', cases=('a',), **said)
    with pytest.raises(UserError) as e: index(root, tmp_path/'l.jsonl', workers=1)
    assert says in str(e.value) and 'dataset.json' in str(e.value) and len(str(e.value))<400 and '\n' not in str(e.value)


@pytest.mark.parametrize('text,says', [
    ('{"labels": {"left": 1, "left": 2}}', "'left' stands twice"), ('{"labels": ', 'not a readable JSON'), ('', 'not a readable JSON'),
    ('['*100_000, 'not a readable JSON'), ('{"labels": '+'1'*5000+'}', 'not a readable JSON'), ('[1]', 'should be a table')])
def test_4_2_a_damaged_file_is_one_sentence(tmp_path, text, says):
    (tmp_path/'dataset.json').write_text(text)
    run = medals('index', tmp_path, '-o', tmp_path/'l.jsonl')
    assert run.returncode==2 and says in run.stderr and len(run.stderr.splitlines())==1 and 'Traceback' not in run.stderr


WORDS = st.sampled_from((
    'background','liver','ignore','T1/ce','CT','0','1','2','1.0','.nii.gz','imagesTr/a.nii.gz','name','modality','values'))
TEXTS = st.one_of(WORDS, st.text(max_size=8))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-2, 9), st.floats(), TEXTS)
def inside(inner): return st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4))


VALUES = st.recursive(LEAVES, inside, max_leaves=8)
KNOWN = ('labels','channel_names','modality','file_ending','training','dataset','numTraining','name','classes','image','instance','ignore',
         'datasets')
EXAMPLES = int(os.environ.get('MEDALS_DRAWS', 300)) # of random files; 10000 for a thorough look


@pytest.fixture(scope='module')
def some_set(tmp_path_factory):
    return raw_set(tmp_path_factory.mktemp('fuzz')/'D', cases=('a',))


@contextmanager
def quick():
    "Sentences are not what is tested"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, 'sentences_of', lambda name, modality, n=8: [name])
        yield


def survives(make):
    "Does it do its work, or say one sentence?"
    try: make()
    except UserError as e: assert str(e) and '\n' not in str(e)


@settings(max_examples=EXAMPLES, deadline=None)
@given(said=st.dictionaries(st.one_of(st.sampled_from(KNOWN), TEXTS), VALUES, max_size=6))
def test_4_2_no_dataset_json_ends_in_a_traceback(some_set, said):
    before = (some_set/'dataset.json').read_text()
    try:
        for table in (said, dict(json.loads(before), **said)):
            (some_set/'dataset.json').write_text(json.dumps(table))
            with quick(): survives(lambda: find_cases(some_set))
    finally: (some_set/'dataset.json').write_text(before)


@settings(max_examples=EXAMPLES, deadline=None)
@given(said=VALUES, one=st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=6))
def test_4_2_no_prompt_file_ends_in_a_traceback(some_set, said, one):
    good = dict(name='heads', modality='mri', classes={'left': 1}, image='imagesTr/*_0000.nii.gz', labels='labelsTr/*.nii.gz')
    for value in (said, {**good, **one}, dict(datasets=[good, said]), dict(CT_a=said)):
        (some_set.parent/'p.json').write_text(json.dumps(value))
        with quick(): survives(lambda: find_cases(some_set, some_set.parent/'p.json'))


@settings(max_examples=30, deadline=None)
@given(TEXTS.filter(str.strip), st.sampled_from(('ct','mri','us','pet','microscopy')))
def test_4_2_every_name_gets_sentences(name, modality):
    said = sentences_of(name, modality)
    assert said[0] and all(isinstance(o, str) for o in said)


@settings(max_examples=EXAMPLES, deadline=None)
@given(said=st.dictionaries(st.sampled_from(('weights','frames','painted','other')), st.one_of(VALUES, inside(LEAVES)), max_size=3))
def test_4_2_no_table_of_weights_ends_in_a_traceback(some_set, said):
    path = some_set.parent/'w.json'
    path.write_text(json.dumps(said))
    sampling.cache_clear()
    survives(lambda: sampling(str(path)))


@pytest.mark.parametrize('text,says', [
    ('[weights]\na = nan', 'weights: a should be a number of 0 or more'), ('weights = 3', 'weights should be a table'),
    ('[weights]\na = true', 'weights: a'), ('[frames]\na = 3', 'such as PLS'), ('\ufeff[weights]\na = "2"', None)])
def test_4_2_weights_are_numbers_and_frames_are_frames(tmp_path, text, says):
    (tmp_path/'w.toml').write_text(text, encoding='utf-8')
    if says is None: assert sampling(str(tmp_path/'w.toml'))['weights']['a']==2
    else:
        with pytest.raises(UserError, match=says): sampling(str(tmp_path/'w.toml'))


ORGANS = {'liver': [1,3], 'kidney_left': [2], 'tumour': [3], 'vertebrae_T1': [4]}


def organ_folder(root, layout, cases=('s1','s2'), skip=()):
    "Cases with one file per mask; the tumour lies in the liver"
    for case in cases:
        scan,masks = dict(total=(f'{case}/ct.nii.gz', f'{case}/segmentations'), sites=(f'north/{case}/ct.nii.gz', f'north/{case}/masks'),
                          split=(f'imagesTr/{case}_0000.nii.gz', f'labelsTr/{case}'), flat=(f'{case}/ct.nii.gz', case),
                          named=(f'{case}/{case}_ct.nii.gz', f'{case}/seg'))[layout]
        save(root/scan, VOL.data)
        for k,values in ORGANS.items():
            name = f'{case}_{k}_mask' if layout=='named' else k
            if (case, k) not in skip: save(root/masks/f'{name}.nii.gz', np.isin(LBL, values).astype(np.uint8))
        (root/masks/'._liver.nii.gz').write_bytes(b'a Mac')
    return root


@pytest.mark.parametrize('layout', ['total','sites','split','flat','named'])
def test_4_3_one_mask_per_organ_is_trained_on_voxel_for_voxel(tmp_path, layout):
    root = organ_folder(tmp_path/'r', layout)
    prompts = ''
    if layout=='split': # whose scans do not tell their modality
        prompts = tmp_path/'p.toml'
        prompts.write_text('name = "r"\nmodality = "ct"\n[classes]\n'+''.join(f'{k} = "{k}"\n' for k in ORGANS))
        with pytest.raises(UserError, match='do not tell their modality'): find_cases(root)
    res,rows,classes = listed(root, tmp_path/'l.jsonl', prompts)
    assert set(classes['r']['classes'])==set(ORGANS) and classes['r']['modality']=='ct' and len(rows)==2 and not res['left_out']
    store,fails = stored(root, tmp_path, prompts)
    case = '_'.join(['north']*(layout=='sites')+['s1'])
    assert not fails.rows and [r['name'] for r in read_lines(store/'manifest.jsonl')][0]==f'r/{case}'
    one = open_case(store/'cases/r'/case)
    whole = one[tuple(slice(0, n) for n in one.shape)][1]
    at = np.linalg.inv(one.affine)@VOL.affine
    for k,values in ORGANS.items():
        there = np.isin(LBL, values)
        back = np.argwhere(there)@np.round(at[:3,:3]).astype(int).T+np.round(at[:3,3]).astype(int)
        found = np.isin(whole, classes['r']['classes'][k]['values'])
        assert found.sum()==there.sum() and found[tuple(back.T)].all(), 'overlapping masks are whole, both of them'
    assert Sampler(store).sample(0).present.any()


def test_4_3_a_mask_that_is_missing_is_not_asked_for(tmp_path):
    root = organ_folder(tmp_path/'r', 'total', skip={('s2','tumour')})
    res,rows,classes = listed(root, tmp_path/'l.jsonl')
    assert res['report']['r']['masks_missing']=={'tumour': 1} and [r['unknown'] for r in rows]==[[],['tumour']]
    sampler = Sampler(stored(root, tmp_path)[0], DataCfg(aug='none', blank=4, least=4, strangers=0.))
    drawn = [sampler.sample(i) for i in range(40)]
    assert {s.name for s in drawn if 'tumour' in s.classes}=={'r/s1'} and {s.name for s in drawn}=={'r/s1','r/s2'}
    assert 'tumour' not in held_out_cases(sampler, [r for r in sampler.cases if r['name']=='r/s2'])[0].classes


def test_4_3_masks_keep_their_labels_when_cases_come_later(tmp_path):
    root = organ_folder(tmp_path/'r', 'total', cases=('s1',), skip={('s1','tumour')})
    _,_,first = listed(root, tmp_path/'l.jsonl')
    organ_folder(root, 'total', cases=('s0',))
    _,rows,then = listed(root, tmp_path/'l.jsonl')
    assert then['r']['masks'][:len(first['r']['masks'])]==first['r']['masks'] and ['liver','tumour'] in then['r']['masks']
    (root/'s0/segmentations/tumour.nii.gz').unlink()
    with pytest.raises(UserError, match='masks changed since'): load(rows[0], recipe_for('nano'))


@pytest.mark.parametrize('prompts', [False, True])
@pytest.mark.parametrize('name', ['ignore', 'Ignore_region', 'void'])
def test_1_2_a_mask_of_what_does_not_count_is_no_class(tmp_path, name, prompts):
    root = organ_folder(tmp_path/'r', 'total')
    for case in ('s1','s2'): save(root/case/'segmentations'/f'{name}.nii.gz', (LBL==2).astype(np.uint8))
    text = 'name = "r"\nmodality = "ct"\n[classes]\n'+''.join(f'{k} = "{k}"\n' for k in ORGANS)
    (tmp_path/'p.toml').write_text(text)
    store,fails = stored(root, tmp_path, tmp_path/'p.toml' if prompts else '')
    classes = read_json(store/'classes.json')['r']
    assert not fails.rows and set(classes['classes'])==set(ORGANS) and classes['ignored']
    sampler = Sampler(store, DataCfg(aug='none', forced=.5, strangers=0.))
    for i in range(6):
        s = sampler.sample(i)
        case = open_case(tmp_path/'st/cases'/s.name)
        at = np.rint(np.linalg.inv(case.affine)@s.affine)[:3,3].astype(int)
        truth = case[tuple(slice(a, a+n) for a,n in zip(at, s.labels.shape))][1]
        assert np.array_equal(~to_batch([s]).counted[0,0].numpy(), np.isin(truth, classes['ignored']))


def test_4_3_finetune_takes_the_most_common_layout(tmp_path):
    root = organ_folder(tmp_path/'r', 'total')
    store = own_store(root, FinetuneCfg(out=str(tmp_path/'out'), prompts=''))
    assert len(read_lines(tmp_path/'out/store/manifest.jsonl'))==2 and Sampler(store).sample(0).present.any()


@pytest.mark.parametrize('change,says', [
    (lambda r: save(r/'s1/segmentations/liver.nii.gz', LBL[:-1]), 'it has 23x28x22 voxels|24x28x22'),
    (lambda r: save(r/'s1/segmentations/liver.nii.gz', LBL*.3), 'fractions'),
    (lambda r: (r/'s1/segmentations/liver.nii.gz').write_bytes(b'torn'), 'not a readable NIfTI'),
    (lambda r: save(r/'s1/segmentations/liver.nii', LBL), 'liver.nii and liver.nii.gz'),
    (lambda r: (r/'s1/ct.nii.gz').write_bytes(b'torn'), 'not a readable NIfTI')])
def test_4_3_a_bad_mask_costs_its_own_case(tmp_path, change, says):
    root = organ_folder(tmp_path/'r', 'total')
    change(root)
    index(root, tmp_path/'l.jsonl', workers=1)
    fails = prepare(tmp_path/'l.jsonl', tmp_path/'st', recipe_for('nano'), workers=1)
    reasons = [r['reason'] for r in [*read_lines(tmp_path/'l.failed.jsonl'), *fails.rows]]
    assert len(reasons)==1 and re.search(says, reasons[0]), reasons
    assert [r['name'] for r in read_lines(tmp_path/'st/manifest.jsonl')]==['r/s2']


@pytest.mark.parametrize('layout', ['upper','nested','mixed'])
def test_pairs_are_found_in_folders_below_and_with_any_ending(tmp_path, layout):
    for name in 'ab':
        image,label = dict(upper=(f'images/{name}.NII.GZ', f'labels/{name}.nii.gz'),
                           nested=(f'images/north/{name}.nii.gz', f'labels/north/{name}.nii.gz'),
                           mixed=(f'images/{name}_0000.nii.gz', f'labels/{name}.nii'))[layout]
        save(tmp_path/'r'/label, LBL)
        save(tmp_path/'r'/image.lower(), VOL.data)
        (tmp_path/'r'/image.lower()).rename(tmp_path/'r'/image)
    (tmp_path/'p.toml').write_text('name = "heads"\nmodality = "mri"\n[classes]\nleft = 1\n')
    store,fails = stored(tmp_path/'r', tmp_path, tmp_path/'p.toml')
    assert not fails.rows and len(read_lines(store/'manifest.jsonl'))==2
    image,label = dict(upper=('images/*.nii.gz','labels/*.nii.gz'), nested=('images/*/*.nii.gz','labels/*/*.nii.gz'),
                       mixed=('images/*_0000.nii.gz','labels/*.nii'))[layout]
    said = f'name = "heads"\nmodality = "mri"\nimage = "{image}"\nlabels = "{label}"\n[classes]\nleft = 1\n'
    (tmp_path/'q.toml').write_text(said)
    assert len(find_cases(tmp_path/'r', tmp_path/'q.toml').rows)==2


@pytest.mark.parametrize('voxels,says', [
    (LBL.astype(np.float32), None), (LBL+.3, 'fractions'), (-LBL.astype(np.int16), 'from -4 to 0'),
    (LBL.astype(np.int32)*30000, 'allowed is 0 to 65535'),
    (np.stack([LBL,LBL], -1), 'take one channel'), (LBL[...,None], None), (LBL.astype(np.uint16)*300, None)])
def test_odd_label_files_are_read_or_named(tmp_path, voxels, says):
    root = raw_set(tmp_path/'D', cases=('good',), labels={'background': 0, 'left': 1, 'far': 300})
    save(root/'imagesTr/odd_0000.nii.gz', VOL.data)
    save(root/'labelsTr/odd.nii.gz', voxels)
    store,fails = stored(root, tmp_path)
    reasons = [r['reason'] for r in [*read_lines(tmp_path/'l.failed.jsonl'), *fails.rows]]
    assert len(read_lines(store/'manifest.jsonl'))==(2 if says is None else 1)
    assert not reasons if says is None else len(reasons)==1 and says in reasons[0], reasons


def test_labels_that_nobody_listed_are_told_and_missing_files_are_named(tmp_path):
    root = raw_set(tmp_path/'D', cases=('a','b','c'), labels={'background': 0, 'left': 1})
    (root/'imagesTr/b_0000.nii.gz').unlink()
    (root/'labelsTr/c.nii.gz').unlink()
    res,rows,_ = listed(root, tmp_path/'l.jsonl')
    assert res['report']['D']['ids_without_class']=={2: 1, 3: 1, 4: 1} and len(rows)==1
    assert 'has no image' in res['failed'].rows[0]['reason'] and [os.path.basename(k) for k in res['left_out']]==['c_0000.nii.gz']


def test_one_scan_may_be_in_two_data_sets_but_not_twice_in_one(tmp_path):
    for name in 'ab':
        save(tmp_path/'r/scans'/f'{name}.nii.gz', VOL.data)
        for k in ('organs','lesions'): save(tmp_path/'r'/k/f'{name}.nii.gz', LBL)
    head = '[[datasets]]\nmodality = "ct"\nimage = "scans/*.nii.gz"\n'
    rows = [f'{head}name = "{k}"\nlabels = "{k}/*.nii.gz"\n[datasets.classes]\nleft = 1\n' for k in ('organs','lesions')]
    (tmp_path/'p.toml').write_text(''.join(rows))
    assert [r['name'] for r in read_lines(stored(tmp_path/'r', tmp_path, tmp_path/'p.toml')[0]/'manifest.jsonl')]==[
        'lesions/a','lesions/b','organs/a','organs/b']
    (tmp_path/'p.toml').write_text(rows[0]+rows[0])
    with pytest.raises(UserError, match='two data sets are called organs'): find_cases(tmp_path/'r', tmp_path/'p.toml')


def test_1_2_an_imported_case_is_looked_at_where_it_counts(tmp_path):
    x,y,affine,_ = odd_scan((2.,2.,2.))
    y[:,:,20:] = 9
    as_nnunet_keeps(tmp_path/'plans_3d', x, y, affine, (2.,2.,2.))
    (tmp_path/'plans_3d/plans.json').write_text(json.dumps(dict(transpose_forward=[0,1,2])))
    write_json(tmp_path/'dataset.json', dict(channel_names=['T1'], labels=dict(background=0, block=2, ignore=9)))
    run = medals('prepare', tmp_path/'plans_3d', '--prompts', tmp_path/'dataset.json', '-o', tmp_path/'st')
    assert run.returncode==0, run.stderr
    sampler = Sampler(tmp_path/'st', DataCfg(patch=(32,32,32)))
    drawn = [to_batch([sampler.sample(i)]).counted for i in range(10)]
    assert any(c is not None and not c.all() for c in drawn) and all(c is None or c.any() for c in drawn)


def test_linked_folders_are_followed_and_a_link_back_ends(tmp_path):
    organ_folder(tmp_path/'far', 'total', cases=('s1',))
    (tmp_path/'r').mkdir()
    (tmp_path/'r/s1').symlink_to(tmp_path/'far/s1')
    (tmp_path/'r/loop').symlink_to(tmp_path/'r')
    assert [r['case'] for r in find_cases(tmp_path/'r').rows]==['s1']
