"Cohorts scored from files: names, grids, rules, failures, and the command"
import csv
import json
import os
import subprocess
import sys
import time
import warnings
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import here
from medals.cli import EvaluateCfg
from medals.core import UserError
from medals.evaluation.evaluate import align, by_case, case_of, evaluate, interval, pairs, read_names, read_scores, score_case
from medals.evaluation.finished import case_key
from medals.evaluation.labeling import case_masks
from medals.inference.rtstruct import write_rtstruct
from medals.masks.distances import surface_distances
from medals.metrics import challenge_metrics, dice, surface_dice
from medals.volume import Volume, phantom, write_labels, write_volume
from test_dicom import write_series

VOL,LBL,NAMES = phantom((24,28,22), (8.,8.,8.))


def rows_of(file): return list(csv.DictReader(open(file, encoding='utf-8')))
def run(pred, truth, out, **kw): return evaluate(pred, truth, EvaluateCfg(out=str(out), workers=1, worst=1, **kw))
def task(pred, truth, **kw):
    base = dict(case='a', pred=pred, truth=truth, image=None, names={}, mode='correct', instance=False, tolerance=2., modality='')
    return {**base, **kw}


@pytest.fixture
def cohort(tmp_path):
    "Three good cases, one unreadable, one on another grid, one missing, one too many"
    for k in range(6): write_labels(tmp_path/'truth'/f'c{k}_lab.nii.gz', LBL, VOL, NAMES)
    write_volume(tmp_path/'truth'/'c0_img.nii.gz', VOL)
    for k in range(3): write_labels(tmp_path/'pred'/f'c{k}.nii.gz', np.roll(LBL, k, 0), VOL, NAMES)
    (tmp_path/'pred'/'c3.nii.gz').write_text('no image')
    write_labels(tmp_path/'pred'/'c4.nii.gz', LBL[:-1], Volume(VOL.data[:-1], VOL.affine), NAMES)
    write_labels(tmp_path/'pred'/'extra.nii.gz', LBL, VOL, NAMES)
    return tmp_path


def test_a_cohort_by_the_command(cohort):
    cmd = [sys.executable, '-m', 'medals.cli', 'evaluate', 'pred', 'truth', '-o', 'out', '--workers', '1', '--worst', '1']
    p = subprocess.run(cmd, cwd=cohort, capture_output=True, text=True, timeout=300)
    lines = [o for o in p.stderr.splitlines() if not o.startswith('evaluate: ')] # on a slow machine there are lines of progress, too
    assert p.returncode==2 and len(lines)==1 and '2 of 5 cases failed' in lines[0]
    assert '| modality | cases | DSC | NSD |' in p.stdout
    rows = rows_of(cohort/'out'/'table.csv')
    assert list(rows[0])[:4]==['case','sentence','dsc','nsd'] and len(rows)==12
    assert [r['sentence'] for r in rows[:4]]==list(NAMES.values()) and all(float(r['dsc'])==1 for r in rows[:4])
    want = dice(LBL==3, np.roll(LBL, 2, 0)==3),surface_dice(LBL==3, np.roll(LBL, 2, 0)==3, VOL.spacing)
    assert (float(rows[10]['dsc']), float(rows[10]['nsd']))==pytest.approx(want) and rows[10]['case']=='c2'
    why = {r['case']: r['reason'] for r in map(json.loads, open(cohort/'out'/'failed.jsonl'))}
    assert set(why)=={'c3','c4'} and 'not a readable NIfTI' in why['c3'] and 'does not lie on' in why['c4']
    text = (cohort/'out'/'summary.md').read_text()
    assert 'truths without a prediction, which are not in the means: c5' in text and 'predictions without a truth: extra' in text
    assert (cohort/'out'/'scores.png').stat().st_size>5000 and [f.name for f in (cohort/'out'/'overlays').iterdir()]==['c2.png']


def test_a_mistake_is_said(cohort):
    write_labels(cohort/'twice'/'c0_seg.nii.gz', LBL, VOL)
    write_labels(cohort/'twice'/'c0_mask.nii.gz', LBL, VOL)
    for bad,says in (((cohort/'none', cohort/'truth'), 'no file or folder'), ((cohort/'twice', cohort/'truth'), 'several files for c0')):
        with pytest.raises(UserError, match=says): run(*bad, cohort/'o')
    with pytest.raises(UserError, match='correct or challenge'): run(cohort/'pred', cohort/'truth', cohort/'o', mode='fair')
    for odd in (dict(modality='xray'), dict(worst=-1), dict(workers=-1)):
        with pytest.raises(UserError, match=str(*odd.values())):
            evaluate(cohort/'pred', cohort/'truth', EvaluateCfg(**dict(dict(out=str(cohort/'o'), workers=1), **odd)))
    (cohort/'other').mkdir()
    with pytest.raises(UserError, match='matched by name'): run(cohort/'other', cohort/'truth', cohort/'o')
    assert not (cohort/'o').exists()


@pytest.mark.parametrize('name, case, rank', [
    ('a.nii.gz','a',1), ('a_seg.nii','a',0), ('CT_AMOS_amos_0018_gts.npz','CT_AMOS_amos_0018',0), ('x_0000.nii.gz','x',2),
    ('a-label.nii.gz','a',0), ('amos_0018.nii.gz','amos_0018',1), ('seg.nii.gz','seg',1), ('a_IMG.nii.gz','a',2)])
def test_names_of_cases(name, case, rank): assert case_of(name)==(case, rank)


def test_names_as_a_mac_spells_them(tmp_path):
    for side,how in (('truth', 'NFC'), ('pred', 'NFD')): write_labels(tmp_path/side/normalize(how, 'Jörg.nii.gz'), LBL, VOL, NAMES)
    rows,_,_ = run(tmp_path/'pred', tmp_path/'truth', tmp_path/'o')
    assert {row['dsc'] for row in rows}=={1}


def test_a_case_is_scored_again_if_anything_that_it_was_read_from_changes(tmp_path):
    "Values beside a header, the table of names above a label map, and the series under an RTSTRUCT"
    image = sitk.GetImageFromArray(LBL.T)
    for name in ('a.mhd','b.nhdr'): sitk.WriteImage(image, tmp_path/name)
    nib.save(nib.Nifti1Pair(LBL, VOL.affine), tmp_path/'c.img')
    write_labels(tmp_path/'sub-1'/'anat'/'sub-1_dseg.nii.gz', LBL, VOL)
    (tmp_path/'dseg.tsv').write_text('index\tname\n1\tbrain\n')
    (tmp_path/'dataset_description.json').write_text('{}')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        write_series(tmp_path/'s', VOL)
        write_rtstruct(tmp_path/'rt.dcm', {'box': LBL==1}, VOL, tmp_path/'s')
    kept = {'a.mhd': 'a.raw', 'b.nhdr': 'b.raw', 'c.img': 'c.hdr', 'sub-1/anat/sub-1_dseg.nii.gz': 'dseg.tsv',
            'rt.dcm': next((tmp_path/'s').iterdir())}
    for name,other in kept.items():
        one = task(tmp_path/name, tmp_path/name)
        before = case_key(one)
        assert case_key(one)==before
        os.utime(tmp_path/other, (1,1))
        assert case_key(one)!=before, name


def test_other_axes_and_other_ids_are_no_difference(tmp_path):
    turned = VOL.like(LBL).reorient('SPL')
    ids = np.array([0,7,3,9,250], np.uint8)
    write_labels(tmp_path/'truth'/'a.nii.gz', LBL, VOL, NAMES)
    said = {7: 'left hemisphere of the brain in MRI', 3: 'Right Cerebral-Hemisphere', 9: NAMES[3], 250: NAMES[4]}
    write_labels(tmp_path/'pred'/'a.nii.gz', ids[turned.data], turned, said)
    rows,notes,_ = run(tmp_path/'pred', tmp_path/'truth', tmp_path/'o')
    assert [r['dsc'] for r in rows]==[1]*4 and not notes and {r['modality'] for r in rows}=={'mri'}


def test_a_folder_of_masks_per_case_keeps_overlaps(tmp_path):
    brain = np.isin(LBL, (1,2,3,4))
    (tmp_path/'truth'/'a').mkdir(parents=True)
    for side in ('truth','pred'):
        for name,m in {'whole_brain': brain, 'lateral_ventricle_left': LBL==3, 'liver': np.zeros_like(brain)}.items():
            m = np.ones_like(m) if (side,name)==('pred','liver') else m
            write_labels(tmp_path/side/'a'/f'{name}.nii.gz', m.astype(np.uint8), VOL)
    write_labels(tmp_path/'pred'/'a'/'labels.nii.gz', LBL, VOL, NAMES)        # as segment writes it, beside the masks
    write_labels(tmp_path/'pred'/'a'/'kidney.nii.gz', (LBL==4).astype(np.uint8), VOL)
    rows,notes,_ = run(tmp_path/'pred', tmp_path/'truth', tmp_path/'o')
    got = {r['sentence']: (r['dsc'], r['outcome']) for r in rows}
    assert got=={'whole_brain': (1,'found'), 'lateral_ventricle_left': (1,'found'), 'liver': (0,'invented')}
    assert notes==['classes that no truth knows, not scored: kidney']
    write_labels(tmp_path/'ids'/'a.nii.gz', LBL, VOL)
    with pytest.raises(UserError, match='give --names'): score_case(task(tmp_path/'pred'/'a', tmp_path/'ids'/'a.nii.gz'))
    named = score_case(task(tmp_path/'pred'/'a', tmp_path/'ids'/'a.nii.gz', names={3: 'Lateral ventricle, left'}))['rows']
    assert {r['sentence']: r['dsc'] for r in named}['Lateral ventricle, left']==1


def test_a_folder_of_cases_is_no_case(tmp_path):
    "The same sub-folder on both sides, with label maps in it"
    for side in ('truth','pred'):
        for k in range(2): write_labels(tmp_path/side/'labelsTr'/f'c{k}.nii.gz', LBL, VOL, NAMES)
    assert list(pairs(tmp_path/'pred', tmp_path/'truth')[0])==['c0','c1'] and pairs(tmp_path/'pred', tmp_path/'truth')[1:]==([],[])


def test_what_was_not_asked_is_told_and_what_was_missed_counts(tmp_path):
    for k in range(2): write_labels(tmp_path/'truth'/f'c{k}.nii.gz', LBL, VOL, NAMES)
    write_labels(tmp_path/'pred'/'c0.nii.gz', np.where(LBL<3, LBL, 0), VOL, {i: NAMES[i] for i in (1,2)})
    write_labels(tmp_path/'pred'/'c1.nii.gz', np.where(LBL<2, LBL, 0), VOL, {1: NAMES[1]})
    rows,notes,_ = run(tmp_path/'pred', tmp_path/'truth', tmp_path/'o')
    assert [(r['case'], r['sentence'], r['outcome']) for r in rows]==[
        ('c0',NAMES[1],'found'), ('c0',NAMES[2],'found'), ('c1',NAMES[1],'found'), ('c1',NAMES[2],'missed')]
    assert notes==[f'classes that no prediction names, not scored: {NAMES[3]}, {NAMES[4]}']
    write_labels(tmp_path/'odd'/'c0.nii.gz', LBL, VOL, {1: 'liver'})
    with pytest.raises(UserError, match='no class of the predictions .liver. is'): run(tmp_path/'odd', tmp_path/'truth', tmp_path/'q')


def test_one_pair_of_files_needs_no_names(tmp_path):
    write_labels(tmp_path/'x.nii.gz', LBL, VOL, NAMES)
    write_labels(tmp_path/'y_seg.nii.gz', LBL, VOL)
    assert list(pairs(tmp_path/'x.nii.gz', tmp_path/'y_seg.nii.gz')[0])==['y']
    rows,*_ = run(tmp_path/'x.nii.gz', tmp_path/'y_seg.nii.gz', tmp_path/'o')
    assert [r['sentence'] for r in rows]==list(NAMES.values()) and all(r['nsd']==1 for r in rows)


def challenge_files(folder):
    "The golden cases as files of the challenge; predictions hold nothing but `segs`"
    with np.load(here/'golden'/'challenge_metrics.npz') as z:
        meta = json.loads(str(z['meta']))
        for i,r in enumerate(meta):
            prompts = {str(k): f'structure {k} in CT' for k in r['class_ids']}|{'instance_label': r['instance_label']}
            for f in ('truth','pred','images'): (folder/f).mkdir(exist_ok=True)
            np.savez(folder/'images'/f'CT_{i}.npz', imgs=z[f'gt_{i}'], spacing=r['spacing'], text_prompts=np.array(prompts, dtype=object))
            np.savez(folder/'truth'/f'CT_{i}_gts.npz', gts=z[f'gt_{i}'], spacing=r['spacing'])
            np.savez(folder/'pred'/f'CT_{i}.npz', segs=z[f'seg_{i}'].astype(np.int16))
    return meta


def test_the_evaluators_columns(tmp_path):
    meta = challenge_files(tmp_path)
    _,_,fails = run(tmp_path/'pred', tmp_path/'truth', tmp_path/'o', mode='challenge', images=str(tmp_path/'images'))
    rows = rows_of(tmp_path/'o'/'challenge.csv')
    assert not fails.rows and list(rows[0])==['CaseName','RunningTime','DSC','NSD','F1','DSC_TP'] and len(rows)==len(meta)
    for i,(r,want) in enumerate(zip(rows, meta)):
        assert r['CaseName']==f'CT_{i}'
        for c in ('DSC','NSD','F1','DSC_TP'): assert r[c]==(str(round(want[c.lower()], 4)) if c.lower() in want else '')
    table = rows_of(tmp_path/'o'/'table.csv')
    said = {r['sentence'] for r in table if r['case']=='CT_0'}
    assert {r['modality'] for r in table}=={'ct'} and said=={f'structure {k} in CT' for k in (1,2,5,9)}


def test_the_correct_way_on_challenge_files(tmp_path):
    challenge_files(tmp_path)
    rows,*_ = run(tmp_path/'pred', tmp_path/'truth', tmp_path/'o', images=str(tmp_path/'images'))
    with np.load(here/'golden'/'challenge_metrics.npz') as z:
        meta = json.loads(str(z['meta']))
        for i,r in enumerate(meta):
            want = challenge_metrics(z[f'gt_{i}'], z[f'seg_{i}'], r['spacing'], r['class_ids'], r['instance_label'])
            for s in ('f1','dsc_tp') if r['instance_label'] else ('dsc','nsd'):
                assert by_case(rows, s)['ct'][f'CT_{i}']==pytest.approx(want[s]), (i, s)


def test_objects_of_nifti_files(tmp_path):
    gt = np.zeros((12,12,12), np.int16)
    for i,c in enumerate(np.ndindex(3,3,3), 1): gt[tuple(slice(4*o, 4*o+3) for o in c)] = i
    vol = Volume(np.zeros(gt.shape, np.int16), np.eye(4))
    write_labels(tmp_path/'t.nii.gz', gt, vol, {1: 'nuclei in microscopy'})
    for name,x,f1 in (('mask', gt>0, 1), ('half', np.where(gt<14, gt, 0), 26/40), ('none', gt*0, 0)):
        write_labels(tmp_path/f'{name}.nii.gz', x.astype(np.int16), vol)
        row, = score_case(task(tmp_path/f'{name}.nii.gz', tmp_path/'t.nii.gz', instance=True))['rows']
        assert row['f1']==pytest.approx(f1) and row['modality']=='microscopy' and row['sentence']=='nuclei in microscopy'


def test_the_modality_comes_from_names_or_from_the_scan(tmp_path):
    ct = VOL.like(np.where(VOL.data>30, 40, -1000).astype(np.int16))
    write_volume(tmp_path/'scan.nii.gz', ct)
    write_labels(tmp_path/'x.nii.gz', LBL, VOL)
    def kind(**kw): return {r['modality'] for r in score_case(task(tmp_path/'x.nii.gz', tmp_path/'x.nii.gz', **kw))['rows']}
    assert kind()=={'unknown'} and kind(image=tmp_path/'scan.nii.gz')=={'ct'} and kind(names={1: 'brain in MRI'})=={'mri'}
    assert kind(names={1: 'brain in MRI'}, modality='us')=={'us'}


def test_names_of_ids(tmp_path):
    own = {'1': 'liver', '4': 'spleen'}
    for d in (own, {'names': own}, {'labels': {'background': 0, 'liver': 1, 'spleen': 4}}):
        (tmp_path/'n.json').write_text(json.dumps(d))
        assert read_names(tmp_path/'n.json')=={1: 'liver', 4: 'spleen'}
    for d in ([1], {'a': 'b'}, {'1': 2.5}):
        (tmp_path/'n.json').write_text(json.dumps(d))
        with pytest.raises(UserError, match='a name to each label id'): read_names(tmp_path/'n.json')
    write_labels(tmp_path/'x.nii.gz', LBL, VOL)
    a = case_masks(tmp_path/'x.nii.gz')
    assert [r[0] for r in align(a, a, {1: 'one'})[0]]==['one','label 2','label 3','label 4']


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30), seed=st.integers(0, 9))
def test_intervals(values, seed):
    mean,lo,hi = interval(values, 400, seed)
    assert lo-1e-9<=mean<=hi+1e-9 and (mean,lo,hi)==interval(values, 400, seed) and mean==pytest.approx(np.mean(values))
    assert interval([values, [.5,.5]], 400, seed)[0]==pytest.approx((np.mean(values)+.5)/2)


def test_an_interval_covers_what_it_should():
    gen = np.random.default_rng(0)
    hits = [lo<.7<hi for _,lo,hi in (interval(gen.beta(7, 3, 40), 400, i) for i in range(200))]
    assert .88<np.mean(hits)<.99


def test_distances_in_the_table_and_the_summary(tmp_path):
    "One class found, one missed, one invented, one absent: what is infinite is counted, and in no mean"
    truth,pred = (np.where(np.isin(LBL, own), LBL, 0).astype(np.uint8) for own in ((1,2), (1,3)))
    for k in range(2):
        write_labels(tmp_path/'t'/f'c{k}.nii.gz', truth, VOL, NAMES)
        write_labels(tmp_path/'p'/f'c{k}.nii.gz', np.roll(pred, k, 0), VOL, NAMES)
    rows,*_ = run(tmp_path/'p', tmp_path/'t', tmp_path/'o', metrics='hd95,assd,rve')
    first = {r['outcome']: (r['rve'], r['hd95'], r['assd']) for r in rows if r['case']=='c0'}
    assert first==dict(found=(0,0,0), missed=(-1,np.inf,np.inf), invented=(np.inf,)*3, absent=('',)*3)
    table = rows_of(tmp_path/'o'/'table.csv')
    assert list(table[0])[:6]==['case','sentence','dsc','rve','hd95','assd'] and table[1]['hd95']=='inf'
    assert read_scores(tmp_path/'o'/'table.csv')==rows
    text = (tmp_path/'o'/'summary.md').read_text()
    want = np.mean([0, surface_distances(LBL==1, np.roll(LBL==1, 1, 0), VOL.spacing).percentile()])
    assert '| DSC | RVE | HD95 | ASSD |' in text and f'{want:.3f} (0.000-8.000), 4 inf' in text and 'a distance is infinite' in text
    for bad,says in ((dict(metrics='hd95,iou'), 'no metric iou'), (dict(metrics='nsd', mode='challenge'), 'metrics of their own')):
        with pytest.raises(UserError, match=says): run(tmp_path/'p', tmp_path/'t', tmp_path/'o2', **bad)


def killed_after(cmd, cwd, file, cases):
    "Start a command, kill it when its file holds some cases; how many there are"
    p = subprocess.Popen(cmd, cwd=cwd, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not (file.exists() and file.read_bytes().count(b'\n')>cases):
        assert p.poll() is None and time.monotonic()-begun<120
        time.sleep(.002)
    p.kill()
    p.wait()
    return file.read_bytes().count(b'\n')-1


def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path):
    "The same table and summary, byte for byte, as of a run that nobody stopped"
    vol,lbl,names = phantom((48,56,30), (4.,4.,6.))
    for k in range(9):
        write_labels(tmp_path/'t'/f'c{k}.nii.gz', lbl, vol, names)
        write_labels(tmp_path/'p'/f'c{k}.nii.gz', np.roll(np.where(lbl==k%5, 0, lbl), k%3, 0), vol, names)
    (tmp_path/'p'/'c8.nii.gz').write_text('no image')
    run(tmp_path/'p', tmp_path/'t', tmp_path/'whole', metrics='all')
    cmd = [sys.executable, '-m', 'medals.cli', 'evaluate', 'p', 't', '-o', 'o', '--workers', '1', '--worst', '1', '--metrics', 'all']
    n = killed_after(cmd, tmp_path, tmp_path/'o'/'finished.jsonl', 3)
    assert 3<=n<8 and not (tmp_path/'o'/'table.csv').exists()
    with open(tmp_path/'o'/'finished.jsonl', 'a') as f: f.write('{"case": "c7", "key": "0') # the disk was full, too
    p = subprocess.run(cmd, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert f'{n} of 9 cases were scored before, {9-n} are left' in p.stdout and '1 of 9 cases failed' in p.stderr
    for name in ('table.csv','summary.md'): assert (tmp_path/'o'/name).read_bytes()==(tmp_path/'whole'/name).read_bytes()


def test_what_has_changed_is_scored_again(cohort):
    said = []
    def again(**kw): return evaluate(cohort/'pred', cohort/'truth', EvaluateCfg(out=str(cohort/'o'), workers=1, worst=0, **kw), said.append)
    first,*_ = again(metrics='rve')
    write_labels(cohort/'pred'/'c3.nii.gz', LBL, VOL, NAMES) # failed before
    os.utime(cohort/'truth'/'c0_lab.nii.gz', (1, 1))
    rows,_,fails = again(metrics='rve')
    assert said==['2 of 5 cases were scored before, 3 are left']
    assert [r for r in rows if r['case']!='c3']==first and {r['case'] for r in fails.rows}=={'c4'}
    rows,*_ = again()
    assert 'were scored with other settings (metrics); all are scored anew' in said[-1] and 'rve' not in rows[0]
    (cohort/'o'/'finished.jsonl').write_text('{"mine": 1}')
    with pytest.raises(UserError, match='medals did not write it'): again()
    assert (cohort/'o'/'finished.jsonl').read_text()=='{"mine": 1}'
