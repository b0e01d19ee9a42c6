"Cohorts on several workers, killed and taken up again; the challenge container without a container"
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import dask_cluster, shared
from medals.cli import main
from medals.commands.challenge import check_segs
from medals.commands.cohort import (CohortCfg, gather_tables, is_done, load_case, plan_cohort, question, segment_cohort,
                                    shard_of, share_cases)
from medals.commands.images import find_images
from medals.core import UserError
from medals.base.files import EMPTIED, asset, read_json, read_lines, remove_stale, write_json
from medals.example import template
from medals.volume import Volume, phantom, write_volume

ASK = ('white matter', 'cerebral ventricles')
N = 30
WHERE = Path(sys.executable).parent


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "The bundled network with windows of 32x32x64 voxels of 6 mm: what it finds is poor, how it runs is the same"
    folder = tmp_path_factory.mktemp('weights')/'quick'
    shutil.copytree(asset('nano'), folder)
    cfg = read_json(folder/'cfg.json')
    cfg['frame'].update(spacing=[6.,6.,6.], window=[32,32,64], phases=1)
    write_json(folder/'cfg.json', cfg)
    return folder


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "Thirty real cases: blocks of a head MRI, of different sizes"
    folder,(head,_) = tmp_path_factory.mktemp('cohort')/'scans',template()
    x = np.asarray(head.data)[::2,::2,::2]
    aff = head.affine@np.diag([2,2,2,1])
    for i in range(N):
        lo = (i%5*4, i%7*4, i%3*6)
        size = 48+i%4*4
        at = aff.copy()
        at[:3,3] += aff[:3,:3]@lo
        write_volume(folder/f'case_{i:02d}.nii.gz', Volume(x[tuple(slice(o, o+size) for o in lo)], at, 'mri'))
    return folder


def command(scans, out, quick, *flags):
    words = [scans, *ASK, '-o', out, '--weights', quick, '--device', 'cpu', *flags]
    return [sys.executable, '-m', 'medals.cli', 'segment', *map(str, words)]


def env(**more): return {**os.environ, 'OMP_NUM_THREADS': '1', **more}


def start(cmd, **kw): return subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env(), **kw)


def done(out): return {p.parent.name: p.stat().st_mtime_ns for p in out.glob('case_*/manifest.json')}


def wait_for(test, seconds=300):
    end = time.time()+seconds
    while not test():
        assert time.time()<end, 'waited too long'
        time.sleep(.01)


def check_all(scans, out, quick, before):
    "Each case is there once and whole, and what was done before the kill was left alone"
    names = [f'case_{i:02d}' for i in range(N)]
    now = done(out)
    assert sorted(now)==names and {k: now[k] for k in before}==before
    rows = list(csv.DictReader(open(out/'table.csv')))
    assert sorted((r['case'], r['sentence']) for r in rows)==sorted((n, s) for n in names for s in ASK)
    assert not list(out.glob('failed*')) and not list(out.rglob('.medals-*'))
    asked = {read_json(out/n/'manifest.json')['mark']['asked'] for n in names}
    assert len(asked)==1 and all(Path(read_json(out/n/'manifest.json')['mark']['image']).name==f'{n}.nii.gz' for n in names)
    plan = plan_cohort(find_images([scans]), out, CohortCfg(prompts=ASK, weights=str(quick), format='multilabel'))
    assert plan.left()==[]


def test_two_workers_one_killed_and_taken_up_again(tmp_path, scans, quick):
    out = tmp_path/'out'
    flags = ('--format', 'multilabel', '--shard')
    first,second = (start(command(scans, out, quick, *flags, f'{i}/2')) for i in (1,2))
    mine = plan_cohort(find_images([scans]), out, CohortCfg(prompts=ASK, weights=str(quick)), (1,2)).mine
    wait_for(lambda: len(set(done(out))&set(mine))>=len(mine)//2 or second.poll() is not None)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    text,err = first.communicate(timeout=500)
    assert first.returncode==0, err
    assert f'share 1 of 2: {N-len(mine)} of {N} scans' in text and f'{N-len(mine)} were done now, 0 failed' in text
    before = done(out)
    assert set(before)>=set(share_cases({k: m['bytes'] for k,m in plan_cohort(find_images([scans]), out, CohortCfg()).marks.items()}, 0, 2))
    assert len(mine)//2<=len(set(before)&set(mine))<len(mine)
    again = subprocess.run(command(scans, out, quick, *flags, '2/2'), capture_output=True, text=True, env=env())
    assert again.returncode==0, again.stderr
    assert f'{N-len(before)} were done now' in again.stdout
    check_all(scans, out, quick, before)


def test_a_cluster_that_loses_a_worker_segments_every_case_once(tmp_path, scans, quick):
    pytest.importorskip('distributed', reason='Dask is not installed')
    out = tmp_path/'out'
    with dask_cluster(tmp_path, env=env()) as (address,helpers):
        main = start(command(scans, out, quick, '--format', 'multilabel', '--scheduler', address))
        try:
            wait_for(lambda: len(done(out))>=N//3 or main.poll() is not None)
            before = done(out)
            helpers[0].send_signal(signal.SIGKILL)
            text,err = main.communicate(timeout=500)
        finally: main.kill()
    assert main.returncode==0, err
    assert N//3<=len(before)<N and f'{N} were done now, 0 failed' in text
    check_all(scans, out, quick, before)


def test_torchrun_takes_shares_and_survives_a_broken_case(tmp_path, scans, quick):
    some,out = tmp_path/'some',tmp_path/'out'
    some.mkdir()
    for i in range(6): shutil.copy(scans/f'case_{i:02d}.nii.gz', some)
    (some/'broken.nii.gz').write_bytes(b'not a scan')
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '--no-python']
    p = subprocess.run([*launch, *command(some, out, quick)], capture_output=True, text=True, env=env())
    assert p.returncode==0, p.stderr
    assert sorted(done(out))==[f'case_{i:02d}' for i in range(6)]
    failed = [r for f in out.glob('failed-*of2.jsonl') for r in read_lines(f)]
    assert [r['case'] for r in failed]==['broken'] and 'not a readable NIfTI' in failed[0]['reason']
    assert 'share 1 of 2' in p.stdout and 'share 2 of 2' in p.stdout
    assert len(list(csv.DictReader(open(out/'table.csv'))))==12 and (out/'case_03/overlay.png').stat().st_size>3000


def test_results_of_another_question_or_scan_are_made_again(tmp_path, scans, quick):
    one,out = tmp_path/'in/a.nii.gz',tmp_path/'in/out'
    one.parent.mkdir()
    shutil.copy(scans/'case_00.nii.gz', one)
    cfg = CohortCfg(prompts=ASK, weights=str(quick), device='cpu')
    def left(**kw): return plan_cohort(find_images([tmp_path/'in']), out, replace(cfg, **kw)).left()
    assert segment_cohort(plan_cohort(find_images([tmp_path/'in']), out, cfg)).rows==[]
    assert left()==[] and left(device='cuda:7')==[] and left(max_memory=3)==[]  # and the masks in out are no scans
    other = (dict(prompts=('liver',)), dict(threshold=.4), dict(modality='ct'), dict(weights='nano'))
    assert all(left(**o)==['a'] for o in other)
    stale = plan_cohort(find_images([tmp_path/'in']), out, CohortCfg(prompts=('liver',)))
    assert gather_tables(stale)==[] and len(gather_tables(plan_cohort(find_images([tmp_path/'in']), out, cfg)))==2
    before = question(cfg)
    os.utime(quick/'cfg.json', (1,2e9))
    assert question(cfg)!=before
    os.utime(one)
    assert left()==['a']
    (out/'a/manifest.json').write_text('{"cut o')
    assert not is_done(out/'a', {})


def test_every_file_gets_a_name_of_its_own(tmp_path):
    def make(*names):
        for n in names:
            (tmp_path/n).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path/n).touch()
    make('d/a/x.nii', 'd/b/x.nii', 'd/b/x.npz', 'd/c/a-x.nii.gz', 'd/c/.hidden.nii', 'd/notes.txt', 'e/notes.txt')
    found = find_images([tmp_path/'d'])
    assert len(found)==4 and len(set(found.values()))==4 and not any('/' in k for k in found)
    assert found==find_images([tmp_path/'d/b', tmp_path/'d/a', tmp_path/'d/c/*.gz', tmp_path/'d'])
    with pytest.raises(UserError, match='no scan'): find_images([tmp_path/'e'])
    with pytest.raises(UserError, match='no file'): find_images([tmp_path/'d/*.mha'])


def test_shares_are_complete_and_even():
    gen = np.random.default_rng(0)
    for n in (1,2,7,40):
        sizes = {f'c{i}': int(b) for i,b in enumerate(gen.integers(1, 1000, 33))}
        parts = [share_cases(sizes, i, n) for i in range(n)]
        assert sorted(sum(parts, []))==sorted(sizes)
        load = [sum(sizes[k] for k in p) for p in parts]
        assert max(load)-min(load)<=max(sizes.values())
        assert all([sizes[k] for k in p]==sorted((sizes[k] for k in p), reverse=True) for p in parts)
    for bad in ('3', '0/2', '3/2', 'a/b', '1/2/3'):
        with pytest.raises(UserError): shard_of(bad)
    slurm = [shard_of('', dict(SLURM_ARRAY_TASK_ID=str(i), SLURM_ARRAY_TASK_MIN='0', SLURM_ARRAY_TASK_MAX='15', SLURM_ARRAY_TASK_COUNT='16',
                               RANK=str(r), WORLD_SIZE='2')) for i in range(16) for r in (0,1)]
    assert slurm==[(i, 32) for i in range(32)]


def test_a_dicom_folder_is_one_scan_and_a_folder_of_them_is_two(tmp_path):
    from test_dicom import write_series
    head = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
    write_series(tmp_path/'study/ann/t1', head, 'MR', '1.2.3', name='IM{k}')
    (tmp_path/'study/ann/DICOMDIR').write_text('no image')
    assert find_images([tmp_path/'study'])=={'study': tmp_path/'study'}
    write_series(tmp_path/'study/bob/t1', head, 'MR', '1.2.4', name='IM{k}')
    (tmp_path/'study/cut').mkdir()
    (tmp_path/'study/cut/1.dcm').write_bytes(b'cut off')
    found = find_images([tmp_path/'study'])
    assert found=={'ann-t1': tmp_path/'study/ann/t1', 'bob-t1': tmp_path/'study/bob/t1', 'cut': tmp_path/'study/cut'}
    assert load_case(found['bob-t1'], CohortCfg(prompts=ASK))[0].shape==(12,14,10)
    assert find_images([f'{tmp_path}/study#1.2.4'])=={'study#1.2.4': tmp_path/'study#1.2.4'}


def case(path, **words):
    x = np.asarray(template()[0].data)[::4,::4,::4].transpose(2,1,0)
    np.savez_compressed(path, imgs=x, spacing=np.array([4.,4.,4.]), text_prompts=np.array(words, dtype=object))
    return path


def test_the_container_script_as_it_is(tmp_path, quick, capfd):
    "predict.sh in an empty folder with one case; then a case that cannot be done"
    for o in ('inputs','outputs'): (tmp_path/o).mkdir()
    source = case(tmp_path/'inputs/MR_head.npz', **{'3': 'white matter in brain MRI', '12': 'cerebral ventricles', 'instance_label': 0})
    shutil.copy(Path(__file__).parents[1]/'sh/predict.sh', tmp_path)
    more = dict(MEDALS_WEIGHTS=str(quick), PATH=f'{WHERE}{os.pathsep}{os.defpath}')
    p = subprocess.run(['/bin/bash', '-c', 'sh predict.sh'], cwd=tmp_path, capture_output=True, text=True, env=env(**more))
    assert p.returncode==0, p.stderr
    check_segs(tmp_path/'outputs/MR_head.npz', source)
    with np.load(tmp_path/'outputs/MR_head.npz') as z: assert set(np.unique(z['segs']))>{0} and z['segs'].dtype==np.uint8
    assert [o.name for o in (tmp_path/'outputs').iterdir()]==['MR_head.npz'] and 'MR_head' in p.stdout
    wrong = tmp_path/'wrong.npz'
    np.savez(wrong, segs=np.full((39,46,37), 5, np.uint8))
    with pytest.raises(UserError, match='5.*nobody asked'): check_segs(wrong, source)
    case(tmp_path/'inputs/MR_head.npz', **{'three': 'white matter'})
    assert main(['challenge', f'{tmp_path}/inputs', '-o', f'{tmp_path}/outputs', '--weights', str(quick)])==2
    err = capfd.readouterr().err
    assert err.count('\n')==1 and 'one sentence per label id' in err
    with np.load(tmp_path/'outputs/MR_head.npz') as z: assert z['segs'].max()==0


@pytest.mark.skipif(not shared.exists(), reason='the real small data set is not on this machine')
def test_thirty_real_cases_on_two_processes(tmp_path, quick):
    files = sorted((shared/'data/mini/3D_train_npz_all').rglob('MR_*.npz'))[:N]
    words = [*files, 'hippocampus', '-o', tmp_path/'out', '--weights', quick, '--workers', '2', '--format', 'npz']
    cmd = [sys.executable, '-m', 'medals.cli', 'segment', *map(str, words)]
    p = start(cmd)
    wait_for(lambda: len(list(tmp_path.glob('out/*/manifest.json')))>=N//3 or p.poll() is not None)
    p.send_signal(signal.SIGKILL)
    p.communicate()
    time.sleep(1)
    half = {f: f.stat().st_mtime_ns for f in tmp_path.glob('out/*/manifest.json')}
    again = subprocess.run(cmd, capture_output=True, text=True, env=env())
    assert again.returncode==0, again.stderr
    assert N//3<=len(half)<N and all(f.stat().st_mtime_ns==t for f,t in half.items())
    marks = [json.loads(f.read_text())['mark']['image'] for f in tmp_path.glob('out/*/manifest.json')]
    assert sorted(marks)==sorted(map(str, files)) and len(list(csv.DictReader(open(tmp_path/'out/table.csv'))))==N


def test_what_a_kill_leaves_behind_goes(tmp_path):
    "A kill between the last rename and the removal of the emptied folder leaves an empty one in a finished case"
    for case,files in (('a', ()), ('b', ('kept.txt',))):
        (tmp_path/case/EMPTIED).mkdir(parents=True)
        for name in files: (tmp_path/case/EMPTIED/name).write_text('somebody else put this here')
    remove_stale(tmp_path)
    assert not (tmp_path/'a'/EMPTIED).exists() and (tmp_path/'b'/EMPTIED/'kept.txt').exists()
