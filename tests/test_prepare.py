"From files to a store: golden numbers, broken cases, kills, a cluster, and the real small data set"
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import dask_cluster, here, shared
from medals.core import UserError, make_gen
from medals.data.indexing import index, read_catalogue
from medals.prepare import Recipe, check_store, import_store, prepare, prepare_npz, recipe_for
from medals.data.store import label_points, open_case, read_pickle, write_case
from medals.volume import Volume, phantom, write_volume
from medals.base.parallel import Failed, run_tasks
from medals.base.files import read_lines


def compare_golden(path, tmp_path):
    "Shapes, boxes, spacing, label and point counts exactly; grey values to a thousandth of their range"
    with np.load(path, allow_pickle=False) as z:
        for k,m in enumerate(json.loads(str(z['meta']))):
            np.savez(tmp_path/f'{k}.npz', imgs=z[f'imgs_{k}'], gts=z[f'gts_{k}'], spacing=m['spacing'])
            p = prepare_npz(tmp_path/f'{k}.npz', m['target'], m['crop'], m['dataset'], compat=True, dtype='float32')
            step = tuple(slice(None, None, s) for s in m['stride'])
            ids,n = np.unique(p.labels, return_counts=True)
            assert p.image.shape==tuple(m['out_shape']) and p.image.dtype==m['img_dtype'] and p.labels.dtype==m['seg_dtype']
            assert [list(b) for b in p.bbox]==m['props']['bbox_used_for_cropping'] and list(p.plan.spacing)==m['props']['spacing']
            assert dict(zip(map(str, ids.tolist()), n.tolist()))==m['seg_counts']
            assert {str(i): len(v) for i,v in p.locations.items()}==m['props']['class_locations']
            assert np.abs(p.image[0][step]-z[f'img_{k}']).max()<.255 and np.array_equal(p.labels[0][step], z[f'seg_{k}'])
            for i,v in p.locations.items(): assert (p.labels[0][tuple(v.T)]==i).all()


def test_compat_gives_the_published_numbers(tmp_path): compare_golden(here/'golden'/'prepare.npz', tmp_path)


@pytest.mark.skipif(not shared.exists(), reason='the whole set of golden numbers is not on this machine')
def test_compat_gives_all_published_numbers(tmp_path): compare_golden(shared/'golden'/'prepare.npz', tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(-40, 60)]*3), st.tuples(*[st.integers(1, 50)]*3))
def test_a_window_is_a_padded_slice(some_case, lo, size):
    case,x,y = some_case
    pad = [(60, 120)]*3
    at = tuple(slice(a+60, a+60+n) for a,n in zip(lo, size))
    img,lbl = case[tuple(slice(a, a+n) if a else slice(None, a+n) for a,n in zip(lo, size))]
    assert np.array_equal(img, np.pad(x, pad)[at]) and np.array_equal(lbl, np.pad(y, pad)[at])


@pytest.fixture(scope='module')
def some_case(tmp_path_factory):
    vol,lbl,_ = phantom()
    folder = tmp_path_factory.mktemp('case')/'a'
    write_case(folder, vol.data.astype(np.uint8), lbl, vol.affine, {'left': [1]})
    return open_case(folder),vol.data.astype(np.uint8),lbl


def test_points_are_of_their_label_and_small_ones_keep_all():
    lbl = np.zeros((40,40,40), np.uint16)
    lbl[5:35,5:35,5:35],lbl[1,1,1],lbl[38,38,30:40] = 7,300,65535
    p = label_points(lbl, make_gen(0))
    assert p['ids'].tolist()==[7,300,65535] and p['counts'].tolist()==[27000,1,10]
    assert np.diff(p['offsets']).tolist()==[10000,1,10]
    for i,a,b in zip(p['ids'], p['offsets'], p['offsets'][1:]):
        assert (lbl[tuple(p['points'][a:b].T)]==i).all() and len(np.unique(p['points'][a:b], axis=0))==b-a


def data_set(root, n, size=(30,34,32), gen=None):
    "Challenge files by rule"
    gen = gen or np.random.default_rng(0)
    folder = root/'3D_train_npz_all/CT/CT_boxes'
    folder.mkdir(parents=True)
    for i in range(n):
        x,y = gen.integers(1, 255, size).astype(np.uint8),np.zeros(size, np.uint8)
        y[5:20,4:20,6:16],y[8:12,22:30,20:28] = 1,2+i%2
        np.savez_compressed(folder/f'CT_boxes_{i:03d}.npz', imgs=x, gts=y, spacing=[.8,.9,2.])
    words = {'1': ['large box', 'box in CT'], '2': ['small box'], '4': ['ghost'], 'instance_label': 0}
    (root/'prompts.json').write_text(json.dumps({'CT_boxes': words}))
    return folder


def listing(tmp_path, n, **kw):
    data_set(tmp_path/'raw', n, **kw)
    index(tmp_path/'raw', tmp_path/'train.jsonl', tmp_path/'raw/prompts.json', workers=1)
    return tmp_path/'train.jsonl'


def test_the_index_reports_what_does_not_fit_and_goes_on_where_it_stopped(tmp_path):
    folder = data_set(tmp_path/'raw', 4)
    before = {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    (tmp_path/'.train.jsonl.part').write_text('{"data": "/gone.npz"}\n{"cut o')
    res = index(tmp_path/'raw', tmp_path/'train.jsonl', tmp_path/'raw/prompts.json', workers=1)
    assert res['report']['CT_boxes']==dict(cases=4, ids_without_class={3: 2}, classes_without_voxels=['ghost'])
    assert {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}==before
    rows = read_lines(tmp_path/'train.jsonl')
    assert [r['data'] for r in rows]==sorted(map(str, before)) and rows[0]['modality']=='ct' and not list(tmp_path.glob('.*.part'))
    os.utime(folder/'CT_boxes_001.npz', (1, 1))
    seen = []
    import medals.data.indexing as module
    look = module.look
    try:
        module.look = lambda row: seen.append(row['data']) or look(row)
        index(tmp_path/'raw', tmp_path/'train.jsonl', tmp_path/'raw/prompts.json', workers=1)
    finally: module.look = look
    assert seen==[str(folder/'CT_boxes_001.npz')], 'only the changed file is read again'


def test_own_pairs_and_regions_in_any_orientation(tmp_path):
    vol,lbl,names = phantom(shape=(40,44,36))
    (tmp_path/'raw').mkdir()
    for case,codes in (('a','RAS'), ('b','PIL')):
        there = Volume(lbl, vol.affine).reorient(codes)
        write_volume(tmp_path/f'raw/{case}_img.nii.gz', vol.reorient(codes))
        nib.save(nib.Nifti1Image(there.data, there.affine), tmp_path/f'raw/{case}_lab.nii.gz')
    (tmp_path/'d.json').write_text(json.dumps(dict(name='heads', modality='MR', classes={'left hemisphere': 1, 'ventricles': [3,4]})))
    index(tmp_path/'raw', tmp_path/'t.jsonl', tmp_path/'d.json', workers=1)
    prepare(tmp_path/'t.jsonl', tmp_path/'st', recipe_for('nano', spacing=(5.,5.,5.)), workers=1).stop(2)
    a,b = (open_case(tmp_path/f'st/cases/heads/{c}_img') for c in 'ab')
    assert a.meta['orientation']==b.meta['orientation']=='RAS' and b.meta['source']['orientation']=='PIL'
    assert all(np.array_equal(p, q) for p,q in zip(a[:,:,:], b[:,:,:])) and np.allclose(a.affine, b.affine, atol=1e-4)
    assert a.meta['classes']['ventricles']==[3,4] and (np.isin(a.points['ids'], [3,4]).sum())==2
    center = (a.affine@[*np.argwhere(np.isin(a[:,:,:][1], [3,4])).mean(0), 1])[:3]
    true = (vol.affine@[*np.argwhere(np.isin(lbl, [3,4])).mean(0), 1])[:3]
    assert np.abs(center-true).max()<1, 'nothing moves'


def broken(folder):
    good = dict(np.load(folder/'CT_boxes_000.npz'))
    def save(name, **kw): np.savez(folder/f'CT_boxes_{name}.npz', **{**good, **kw})
    (folder/'CT_boxes_cut.npz').write_bytes((folder/'CT_boxes_000.npz').read_bytes()[:3000])
    save('shape', imgs=good['imgs'][1:])
    save('range', gts=good['gts'].astype(np.int32)*40000)
    save('minus', gts=-good['gts'].astype(np.int16))
    save('nan', imgs=np.where(good['imgs']>100, np.nan, good['imgs'].astype(np.float32))) # read, with a note
    save('empty', gts=good['gts']*0)
    save('zero', spacing=[1.,0.,1.])
    save('half', gts=good['gts']*.5)
    box = np.empty((), object)
    box[()] = Hostile()
    save('hostile', gts=box)


class Hostile:
    def __reduce__(self): return os.mkdir, ('hostile_was_here',)


def test_broken_cases_are_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = data_set(tmp_path/'raw', 2)
    listed = index(tmp_path/'raw', tmp_path/'train.jsonl', tmp_path/'raw/prompts.json', workers=1)
    broken(folder)
    rows = read_lines(tmp_path/'train.jsonl')
    extra = [dict(rows[0], data=str(f), labels=str(f)) for f in sorted(folder.glob('*_[a-z]*.npz')) if not re.search(r'\d', f.stem)]
    (tmp_path/'train.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows+extra))
    run = subprocess.run([sys.executable, '-m', 'medals.cli', 'prepare', 'train.jsonl', '-o', 'st', '--preset', 'nano', '--workers', '2'],
                         capture_output=True, text=True, cwd=tmp_path)
    assert listed['failed'].rows==[] and run.returncode==2 and '7 of 11 cases failed' in run.stderr and 'Traceback' not in run.stderr
    why = {r['case'].split('_')[-1]: r['reason'] for r in read_lines(tmp_path/'st/failed.jsonl')}
    want = dict(cut='damaged|not a readable', shape='differ in shape', range='allowed is 0 to 65535', minus='is 0 to 65535',
                zero='three positive numbers', half='fractions', hostile='not a plain array')
    assert set(why)==set(want) and all(re.search(v, why[k]) for k,v in want.items()), why
    done = [r['name'].split('_')[-1] for r in read_lines(tmp_path/'st/manifest.jsonl')]
    assert len(done)==4 and 'nan' in done and not (tmp_path/'hostile_was_here').exists()


def cases_of(store):
    "Names of the cases that are complete; `os.walk` takes it lightly when a temporary folder vanishes meanwhile"
    return sorted(Path(folder).name for folder,_,files in os.walk(store/'cases') if 'case.json' in files and '.medals-' not in folder)


def wait_for(test, seconds=120):
    end = time.time()+seconds
    while not test():
        assert time.time()<end, 'waited too long'
        time.sleep(.02)


def test_a_killed_run_leaves_no_half_case_and_is_taken_up_again(tmp_path):
    rows,store = listing(tmp_path, 14, size=(60,90,90)),tmp_path/'st'
    cmd = [sys.executable, '-m', 'medals.cli', 'prepare', str(rows), '-o', str(store), '--preset', 'coarse', '--workers', '2']
    run = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(cases_of(store))>=3)
    run.send_signal(signal.SIGKILL)
    run.wait()
    time.sleep(1)
    half = cases_of(store)
    assert 3<=len(half)<14
    for c in half: open_case(store/'cases/CT_boxes'/c).check()
    when = {c: (store/'cases/CT_boxes'/c/'image.b2nd').stat().st_mtime_ns for c in half}
    assert subprocess.run(cmd, capture_output=True).returncode==0
    assert len(cases_of(store))==14==len(read_lines(store/'manifest.jsonl')) and not list(store.rglob('.medals-*'))
    assert all((store/'cases/CT_boxes'/c/'image.b2nd').stat().st_mtime_ns==t for c,t in when.items()), 'done cases are left alone'
    assert check_store(store, workers=1).rows==[]


def test_a_changed_source_or_recipe_is_prepared_again(tmp_path):
    rows,store = listing(tmp_path, 2),tmp_path/'st'
    def when(): return [(store/f'cases/CT_boxes/CT_boxes_00{i}/image.b2nd').stat().st_mtime_ns for i in (0,1)]
    prepare(rows, store, recipe_for('nano'), workers=1).stop(2)
    first = when()
    f = tmp_path/'raw/3D_train_npz_all/CT/CT_boxes/CT_boxes_001.npz'
    np.savez(f, **{**dict(np.load(f)), 'spacing': [1.,1.,1.]})
    index(tmp_path/'raw', rows, tmp_path/'raw/prompts.json', workers=1)
    prepare(rows, store, recipe_for('nano'), workers=1).stop(2)
    second = when()
    assert second[0]==first[0] and second[1]!=first[1]
    prepare(rows, store, recipe_for('nano', dtype='float16'), workers=1).stop(2)
    assert when()[0]!=second[0] and open_case(store/'cases/CT_boxes/CT_boxes_000').image.dtype==np.float16


def test_a_cluster_that_loses_a_worker_prepares_every_case_once(tmp_path):
    pytest.importorskip('distributed', reason='Dask is not installed')
    rows,store = listing(tmp_path, 16, size=(60,90,90)),tmp_path/'st'
    with dask_cluster(tmp_path) as (address,helpers):
        cmd = [sys.executable, '-m', 'medals.cli', 'prepare', str(rows), '-o', str(store), '--preset', 'coarse', '--scheduler', address]
        main = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: len(cases_of(store))>=5)
            helpers[0].send_signal(signal.SIGKILL)
            out,err = main.communicate(timeout=240)
        finally: main.kill()
    assert main.returncode==0, err
    listed = sorted(r['name'].split('/')[1] for r in read_lines(store/'manifest.jsonl'))
    assert cases_of(store)==listed==[f'CT_boxes_{i:03d}' for i in range(16)]
    assert check_store(store, workers=1).rows==[] and '16 cases' in out


def test_a_worker_that_dies_costs_its_own_case(tmp_path, monkeypatch):
    (tmp_path/'deadly.py').write_text('import os\ndef run(x):\n    if x==2: os.kill(os.getpid(), 9)\n    return x*x\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path)+os.pathsep+os.environ.get('PYTHONPATH', ''))
    monkeypatch.syspath_prepend(tmp_path)
    from deadly import run
    got = dict(run_tasks(run, {str(i): i for i in range(6)}, workers=2))
    assert {k: v for k,v in got.items() if k!='2'}=={str(i): i*i for i in range(6) if i!=2}
    assert isinstance(got['2'], Failed) and 'died' in got['2'].reason


def test_an_old_store_is_taken_over_and_a_hostile_one_refused(tmp_path):
    vol,lbl,_ = phantom()
    old = tmp_path/'old/CT_boxes'
    old.mkdir(parents=True)
    for name in 'ab':
        blosc2.asarray(vol.data[None].astype(np.float32).clip(0, 255), urlpath=str(old/f'{name}.b2nd'), mode='w')
        blosc2.asarray((lbl[None].astype(np.int16)-(vol.data[None]==0)), urlpath=str(old/f'{name}_seg.b2nd'), mode='w')
        props = dict(spacing=np.array([4.,4.,4.]), shape_before_cropping=(48,56,44), bbox_used_for_cropping=[[0,48],[0,56],[0,44]],
                     class_locations={1: np.zeros((5,4), np.int64), 2: []}, scale=np.float64(2.5))
        (old/f'{name}.pkl').write_bytes(pickle.dumps(props, protocol=4 if name=='a' else 2))
    assert read_pickle(old/'a.pkl')['scale']==2.5 and read_pickle(old/'b.pkl')['class_locations'][1].shape==(5,4)
    data_set(tmp_path/'raw', 0)
    catalogue = read_catalogue(tmp_path/'raw/prompts.json')
    import_store(tmp_path/'old', tmp_path/'st', catalogue, workers=1).stop(2)
    case = open_case(tmp_path/'st/cases/CT_boxes/b')
    img,seg = case[:,:,:]
    assert np.array_equal(seg, lbl) and img.dtype==np.uint8 and np.array_equal(img, vol.data.clip(0, 255))
    (old/'a.pkl').write_bytes(pickle.dumps(dict(spacing=Hostile())))
    fails = import_store(tmp_path/'old', tmp_path/'st2', catalogue, workers=1)
    assert [r['case'] for r in fails.rows]==['CT_boxes/a'] and 'which is code' in fails.rows[0]['reason']
    assert not Path('hostile_was_here').exists() and len(read_lines(tmp_path/'st2/manifest.jsonl'))==1


def test_settings_that_make_no_sense_are_refused(tmp_path):
    a = tmp_path/'a.jsonl'
    for make in (lambda: recipe_for('huge'), lambda: Recipe((1,1,1), (9,9,9), dtype='int4'), lambda: check_store(tmp_path),
                 lambda: prepare(a, tmp_path/'s', recipe_for('nano')), lambda: index(tmp_path/'none', a), lambda: index(tmp_path, a)):
        with pytest.raises(UserError): make()


@pytest.mark.skipif(not shared.exists(), reason='the real small data set is not on this machine')
def test_the_real_small_data_set(tmp_path):
    root = shared/'data'/'mini'
    res = index(root, tmp_path/'t.jsonl', root/'prompts.json')
    assert sum(r['cases'] for r in res['report'].values())==92 and res['failed'].rows==[]
    rows = read_lines(tmp_path/'t.jsonl')[::9]
    (tmp_path/'t.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    prepare(tmp_path/'t.jsonl', tmp_path/'st', recipe_for('coarse')).stop(len(rows))
    for r in read_lines(tmp_path/'st/manifest.jsonl'):
        case = open_case(tmp_path/'st/cases'/r['name'])
        with np.load(case.meta['mark']['data']) as z: (ids,n),voxel = np.unique(z['gts'], return_counts=True),np.prod(z['spacing'])
        true = dict(zip(ids.tolist(), n*voxel))
        mm3 = np.prod(np.linalg.norm(case.affine[:3,:3], axis=0))
        for i,n in r['counts'].items():
            if true[int(i)]>3000: assert .8<n*mm3/true[int(i)]<1.25, (r['name'], i)
