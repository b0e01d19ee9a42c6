"What a run says and does: modalities that do not fit, scans that are none, how long it takes"
import csv
import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from helpers import shared
from medals import vocab
from medals.base import progress
from medals.cli import main
from medals.base.files import asset
from medals.example import template, unseen_view
from medals.preprocessing.input_spec import InputSpec
from medals.inference.request import make_request
from medals.inference.plausible import implausible, scan_facts
from medals.base.progress import LineBar
from medals.segment import Segmenter
from medals.base.settings import InferenceCfg
from medals.inference.stages import INPUT_SPECS, NetworkStage
from medals.text import TextEncoder
from medals.volume import Volume, phantom, read_volume, write_volume


@pytest.fixture(scope='module')
def head(): return unseen_view(*template())[0]


@pytest.fixture(scope='module')
def nano():
    "The bundled network, at one pass a window"
    seg = Segmenter.load('nano', 'cpu')
    net = seg.stages[0]
    return Segmenter(net.model, seg.enc, replace(net.frame, phases=1), 'cpu')


def bare(vol): return replace(vol, modality=None)


class Means(torch.nn.Module):
    "A network of local means"
    def mask_factors(self, x, q, m=None, which=None):
        return torch.cat([x/64, torch.nn.functional.avg_pool3d(x, 5, 1, 2)/64, torch.ones_like(x)], 1),q[None]


def words_to_numbers(texts, modality=None):
    "A query for every sentence, which depends on the modality that it is asked with"
    kinds = [modality]*len(texts) if isinstance(modality, str) else modality
    gens = [torch.Generator().manual_seed(sum(map(ord, f'{t}{m}'))) for t,m in zip(texts, kinds)]
    return torch.stack([torch.tensor([1.,1.,-3.])+torch.randn(3, generator=g)*.3 for g in gens])


def stand_in(two=False, **kw):
    "A segmenter of stand-in networks whose weights know every modality"
    frame = InputSpec(spacing=(4.,4.,4.), window=(32,32,32), **kw)
    coarse = NetworkStage(Means(), replace(frame, spacing=(8.,8.,8.)), 'coarse')
    stages = [coarse, NetworkStage(Means(), frame, 'fine')] if two else NetworkStage(Means(), frame)
    return Segmenter(stages, words_to_numbers, device='cpu')


def same(a, b, sentence):
    "Are mask and numbers of a sentence the same bits?"
    return np.array_equal(a.masks[sentence], b.masks[sentence]) and a.scores[sentence]==b.scores[sentence] \
        and a.means[sentence]==b.means[sentence]


# ---- 5.1: a sentence never changes another's answer

SAID = ('white matter', 'cerebral ventricles on CT', 'left cerebral hemisphere in PET')

def subsets(sentences):
    for n in range(1, len(sentences)+1):
        for some in combinations(sentences, n): yield list(some[::-1])


def uncached(seg):
    "The same networks with an encoder that has seen no sentence yet"
    return Segmenter(seg.stages, TextEncoder.load(asset('nano')/'text', cache=False), device='cpu')


def test_5_1_a_mask_is_the_same_bits_whatever_else_is_asked(head, nano):
    scan = bare(head)
    alone = {s: uncached(nano)(scan, [s], presence=0) for s in SAID}
    known = uncached(nano)(head, SAID[:1], presence=0)
    assert same(known, alone[SAID[0]], SAID[0]) and known.table[0]['voxels']>50_000
    for some in subsets(SAID):
        together = uncached(nano)(scan, some, presence=0)
        assert all(same(together, alone[s], s) for s in some), some


def test_5_1_where_nobody_knows_each_sentence_is_taken_at_its_word(head):
    "Weights of all modalities and a scan of none: CT, MRI and PET in one question, each as if alone"
    seg,scan = stand_in(),bare(head.like(np.asarray(head.data)*5))
    said = ['liver on CT', 'mandible on CT', 'spleen', 'a tumour in PET', 'liver in MRI']
    request = make_request(scan, said)
    assert [(g.modality, g.rule, g.some) for g in request.groups]==[
        ('ct','soft_tissue',(0,)), ('ct','bone',(1,)), ('mri','percentile',(2,4)), ('pet','percentile',(3,))]
    assert 'nothing says what kind of scan this is' in request.notes[0]
    alone = {s: seg(scan, [s], presence=0) for s in said}
    for some in subsets(said):
        together = seg(scan, some, presence=0)
        assert all(same(together, alone[s], s) for s in some), some


def challenge_case(path, vol, *sentences):
    said = dict({str(i+1): s for i,s in enumerate(sentences)}, instance_label=0)
    grey = np.asarray(vol.data).clip(0, 255).astype(np.uint8).transpose(2,1,0)
    np.savez_compressed(path, imgs=grey, spacing=np.array(vol.spacing), text_prompts=np.array(said, dtype=object))
    return path


def test_5_1_the_sentences_inside_a_challenge_file_say_what_it_is(tmp_path, head):
    "As before: their majority, over the values and what the weights were trained on, and however few of them are asked"
    said = ['Liver in abdominal CT', 'CT of the spleen', 'Aorta', 'Pancreas in MRI']
    path = challenge_case(tmp_path/'case_0001.npz', head, *said)
    for frame in (InputSpec(), INPUT_SPECS['nano']):
        for prompts in (None, said, said[2:], ['Aorta'], ['Pancreas in MRI','Liver']):
            request = make_request(path, prompts, frame=frame)
            assert (request.modality, {g.modality for g in request.groups})==('ct', {'ct'}), prompts
            assert request.why=='sentences: named by 2 of 4 sentences'
    assert make_request(challenge_case(tmp_path/'MR_0001.npz', head, *said)).why=='file: from the tags or the name of the file'
    assert make_request(path, modality='us').modality=='us'


def test_5_1_the_published_way_lets_sentences_vote(head):
    request = make_request(bare(head), ['spleen', 'liver in CT', 'aorta in CT', 'pancreas in MRI'], cfg=InferenceCfg(compat=True))
    assert (request.modality, {g.modality for g in request.groups})==('ct', {'ct'})


def test_5_1_what_one_sentence_skips_another_does_not(head, monkeypatch):
    "Muscles in ultrasound need no second stage, synaptic clefts no first one, everything else both"
    class Said(str): structure,problem = None,''
    keys = {'soleus': 'US_Soleus', 'clefts': 'Microscopy_Synaptic clefts'}
    monkeypatch.setattr(vocab, 'resolve', lambda text, *_: Said(text))
    monkeypatch.setattr(vocab, 'published', lambda said, _: keys.get(said))
    seg = stand_in(two=True)
    alone = {s: seg(head, [s], presence=0) for s in ('soleus','clefts','brain')}
    stages = {s: [o['stage'] for o in r.manifest['looks']] for s,r in alone.items()}
    assert stages['soleus']==['coarse'] and stages['clefts']==['fine'] and stages['brain'][0]=='coarse' and 'fine' in stages['brain']
    for some in subsets(list(alone)):
        together = seg(head, some, presence=0)
        assert all(same(together, alone[s], s) for s in some), some


def test_5_1_a_conflict_is_said_in_table_manifest_and_on_stderr(tmp_path, head, capsys):
    write_volume(tmp_path/'head.nii.gz', bare(head))
    out = tmp_path/'out'
    assert main(['segment', f'{tmp_path}/head.nii.gz', 'white matter', 'cerebral ventricles on CT', '-o', str(out)])==0
    err = capsys.readouterr().err
    clash = 'the sentence speaks of ct, and the scan is taken for mri'
    assert f'note: cerebral ventricles on CT: {clash}' in err and err.count(clash)==1
    made = json.loads((out/'manifest.json').read_text())
    assert f'cerebral ventricles on CT: {clash}' in made['notes'] and made['modality']=='mri'
    plain,odd = csv.DictReader(open(out/'table.csv'))
    assert clash in odd['note'] and clash not in plain['note']


# ---- 5.2: a scan that the weights do not know

def hounsfield(head):
    "The head with the values that a CT of it would have"
    x = np.asarray(head.data, float)
    return bare(head.like(np.where(x>20, 40, -1000).astype(np.int16)))


def hot_spots(head):
    "Most of a head dim, two spots bright, as in PET"
    x = np.asarray(head.data, np.float32)/255
    x[40:54,60:74,50:64] = 12
    x[60:74,40:54,60:74] = 15
    return bare(head.like(x))


def test_5_2_a_ct_under_mri_weights_is_said_in_one_line(tmp_path, head):
    write_volume(tmp_path/'scan.nii.gz', hounsfield(head))
    cmd = [sys.executable, '-m', 'medals.cli', 'segment', 'scan.nii.gz', 'white matter', '-o', 'out']
    p = subprocess.run(cmd, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert p.returncode==0, p.stderr
    lines = [o for o in p.stderr.splitlines() if 'ct (values' in o]
    assert len(lines)==1 and 'Hounsfield' in lines[0] and 'trained on mri only' in lines[0]
    made = json.loads((tmp_path/'out/manifest.json').read_text())
    assert lines[0]=='note: '+next(o for o in made['notes'] if 'ct (values' in o)
    rows = list(csv.DictReader(open(tmp_path/'out/table.csv')))
    assert lines[0].removeprefix('note: ') in rows[0]['note']
    dry = subprocess.run([*cmd[:-2], '--dry-run'], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert lines[0] in (dry.stdout+dry.stderr).splitlines(), 'before the network runs as well'


@pytest.mark.parametrize('tag, kind', [('PT','pet'), ('US','us'), ('CT','ct')])
def test_5_2_a_dicom_tag_is_compared_with_what_the_weights_know(tmp_path, head, nano, tag, kind):
    from test_dicom import write_series
    small = replace(head, data=np.asarray(head.data)[::4,::4,::4], affine=head.affine@np.diag([4.,4.,4.,1.])).reorient('LPS')
    write_series(tmp_path/'scan', small, tag)
    notes = make_request(tmp_path/'scan', 'white matter', frame=nano.stages[0].frame).notes
    assert sum(f'the scan is {kind} (file: from the tags' in o and 'mri only' in o for o in notes)==1


def test_5_2_what_the_file_does_not_say_is_said(tmp_path, head, nano):
    "A PET or an ultrasound as NIfTI looks like anything; a name, a header, a JSON file or the values may give it away"
    spec = nano.stages[0].frame
    def notes(name, vol, **kw):
        write_volume(tmp_path/name, vol)
        return ' | '.join(make_request(tmp_path/name, 'white matter', frame=spec, **kw).notes)
    assert 'taken for mri, what the weights were trained on' in notes('scan.nii.gz', bare(head))
    assert notes('sub-01_T1w.nii.gz', bare(head))=='', 'the name agrees'
    assert 'the name of the file speaks of pet' in notes('sub-01_pet.nii.gz', bare(head))
    assert 'the name of the file speaks of us' in notes('us_thyroid.nii.gz', bare(head))
    assert 'as in PET' in notes('a.nii.gz', hot_spots(head)) and 'as in PET' not in notes('b.nii.gz', bare(head))
    assert 'as in PET' not in notes('a.nii.gz', hot_spots(head), modality='mri')
    for said,kind in (('PT','pet'), ('MR','mri'), ('US','us')):
        (tmp_path/'c.json').write_text(json.dumps({'Modality': said, 'Manufacturer': 'x'}))
        job_notes = notes('c.nii.gz', bare(head))
        assert (job_notes=='')==(kind=='mri') and ('mri only' in job_notes)==(kind!='mri')
    (tmp_path/'d.json').write_text('[1, 2]')
    assert 'taken for mri' in notes('d.nii.gz', bare(head))


def test_5_2_weights_that_know_more_or_do_not_say_are_believed(head):
    ct = hounsfield(head)
    for spec,clash in ((INPUT_SPECS['coarse'], False), (InputSpec(), False), (InputSpec(modality='ct'), False),
                       (InputSpec(modality='mri'), True),
                       (InputSpec(modalities=('mri','pet')), True), (InputSpec(modalities=['ct','mri']), False)):
        assert any('were trained on' in o for o in make_request(ct, 'liver', frame=spec).notes)==clash, spec
    assert make_request(bare(head), 'liver', 'ct', frame=INPUT_SPECS['nano']).notes[0].startswith('the scan is ct (argument')


# ---- 5.6: how far it is, and how long it will take

LONG = """
import sys, time
import numpy as np, torch
from medals.preprocessing.input_spec import InputSpec
from medals.base.progress import LineBar
from medals.segment import Segmenter
from medals.inference.stages import NetworkStage
class Slow(torch.nn.Module):
    def mask_factors(self, x, q, m=None, which=None):
        time.sleep(float(sys.argv[1]))
        return x/64-2,q[None]
seg = Segmenter(NetworkStage(Slow(), InputSpec(spacing=(2.,)*3, window=(32,32,32))), lambda t, m: torch.ones(len(t), 1), device='cpu')
x = np.random.default_rng(0).integers(0, 900, (80,80,80)).astype(np.int16)
seg((x, np.diag([2.,2.,2.,1.])), ['a'], 'pet')
"""

def log_of(seconds, tmp_path):
    "What a run with stderr in a file has said, and when it began and ended"
    with open(tmp_path/'log', 'w+') as f:
        p = subprocess.Popen([sys.executable, '-c', LONG, str(seconds)], stderr=f, stdout=subprocess.DEVNULL)
        p.wait(timeout=300)
        f.seek(0)
        return p.returncode,f.read().splitlines()


def test_5_6_a_log_says_from_the_first_second_how_far_a_run_is(tmp_path):
    code,lines = log_of(.15, tmp_path) # 64 passes, ten seconds
    told = [re.fullmatch(r'segment: (\d+) of (\d+), (\d+)%, (\S+) so far, (.*)', o) for o in lines]
    assert code==0 and all(told) and 2<=len(lines)<12, lines
    done = [int(m[1]) for m in told]
    assert done==sorted(done) and done[0]<20 and {m[2] for m in told}=={'64'} and told[-1][5].startswith('about ')
    assert told[0][4] in ('00:01','00:02') and '\r' not in (tmp_path/'log').read_text()


def test_5_6_what_is_quick_says_nothing(capfd, monkeypatch):
    monkeypatch.setattr(progress, 'FIRST_LINE', 60.)
    assert isinstance(progress.progress(range(3)), LineBar) and sum(progress.progress(range(1000)))==499500
    assert capfd.readouterr().err==''


def test_5_6_a_run_that_fails_falls_silent():
    "No thread of a bar stays; those of other tests may end meanwhile"
    still,threads = LineBar.open,set(threading.enumerate())
    for _ in range(50):
        with pytest.raises(ZeroDivisionError), LineBar(total=3): 1/0
        list(LineBar(range(3)))
    bar = LineBar(total=3)
    bar.update()
    del bar
    for _ in range(100):
        if set(threading.enumerate())<=threads: break
        time.sleep(.05)
    assert LineBar.open==still and set(threading.enumerate())<=threads


def test_5_6_a_dry_run_tells_the_time_and_how_it_is_known(head, nano):
    nano.speed.clear()
    plan = nano.dry_run(head, ['white matter', 'liver'])
    assert plan.seconds==plan.passes*plan.speed[''][0] and .01<plan.seconds<60
    assert 'measured on a window of 64x64x64 voxels' in repr(plan).splitlines()[-1]
    took = nano(head, ['white matter', 'liver']).manifest['seconds']['network']
    again = nano.dry_run(head, ['white matter', 'liver'])
    assert again.seconds==pytest.approx(took, rel=.01) and 'as in the run before' in repr(again)
    assert .2<plan.seconds/took<5, 'what was measured is about what it took'


@pytest.mark.parametrize('more, says', [
    (('--priority', 'liver'), "priority 'liver' is not one of the sentences"),
    (('--format', 'dicomseg'), 'name their folder, or save as NIfTI'),
    (('--shard', '3/2'), "shard '3/2' should be like 3/16")])
def test_5_6_a_dry_run_refuses_what_the_run_would(tmp_path, monkeypatch, capsys, more, says):
    monkeypatch.chdir(tmp_path)
    write_volume('head.nii.gz', phantom((24,28,22), (8.,8.,8.))[0])
    for dry in ((), ('--dry-run',)):
        assert main(['segment', 'head.nii.gz', 'white matter', *more, *dry])==2
        assert says in capsys.readouterr().err and sorted(o.name for o in tmp_path.iterdir())==['head.nii.gz']


def test_5_6_a_dry_run_of_two_stages_and_of_many_windows():
    seg = stand_in(two=True)
    big = (np.random.default_rng(0).integers(0, 900, (300,300,500)).astype(np.int16), np.diag([2.,2.,2.,1.]))
    plan = seg.dry_run(big, ['a'], 'pet', max_memory=50.)
    assert plan.passes>500 and set(plan.speed)=={'coarse','fine'} and plan.seconds>0
    assert ' a pass of coarse, measured' in repr(plan) and ' a pass of fine, measured' in repr(plan)


# ---- 3.12: scans that are none

MADE = dict(
    constant=lambda g, i: np.full((64,64,64), 100, np.int16), zeros=lambda g, i: np.zeros((64,64,64), np.uint8),
    negative=lambda g, i: np.full((64,64,64), -1000., np.float32), one_voxel=lambda g, i: np.where((i==30).all(0), 7, 100).astype(np.int16),
    a_few_voxels=lambda g, i: np.where((i%16==3).all(0), 900, 100).astype(np.int16),
    ramp=lambda g, i: i[0].astype(np.float32), ramp_of_steps=lambda g, i: (i.sum(0)//6).astype(np.uint8),
    slow_wave=lambda g, i: np.sin(i[1]/9)*1000, ball=lambda g, i: np.exp(-((i-32)**2).sum(0)/900)*1000,
    white=lambda g, i: g.normal(0, 1, (64,64,64)), uniform=lambda g, i: g.integers(0, 256, (64,64,64)).astype(np.uint8),
    poisson=lambda g, i: g.poisson(4, (64,64,64)).astype(np.int16), poisson_on_a_ramp=lambda g, i: g.poisson(i[2]+5.),
    salt=lambda g, i: (g.random((64,64,64))>.98)*255., noise_in_a_frame=lambda g, i: np.pad(g.normal(100, 9, (56,56,56)), 4),
    frame=lambda g, i: np.pad(np.zeros((60,60,60), np.int16), 2, constant_values=200),
    frame_of_noise=lambda g, i: np.where((i>3).all(0)&(i<60).all(0), 0, g.integers(100, 200, (64,64,64))))

@pytest.mark.parametrize('name', MADE)
def test_3_12_nothing_is_found_where_nothing_is_to_be_seen(nano, name):
    x = MADE[name](np.random.default_rng(0), np.indices((64,64,64)))
    scan = Volume(x, np.diag([3.,3.,3.,1.]))
    res = nano(scan, ['white matter', 'left cerebral hemisphere', 'cerebral ventricles'])
    assert not any(r['found'] for r in res.table), [(r['sentence'], r['ml']) for r in res.table]
    odd = [o for o in res.manifest['notes'] if any(w in o for w in ('nothing to see', 'noise', 'around nothing'))]
    assert odd and all(any(o in r['note'] for o in odd) for r in res.table)


CUT = dict(one_slice=((0,110), (0,110), (54,55)), three_slices=((0,110), (50,53), (0,110)), cube_of_20_mm=((50,60),)*3)

@pytest.mark.parametrize('name', CUT)
def test_3_12_too_little_of_a_head_is_said(head, nano, name):
    box = tuple(slice(*o) for o in CUT[name])
    res = nano((np.ascontiguousarray(np.asarray(head.data)[box]), head.affine), ['white matter'], 'mri')
    says = {'one_slice': 'only 1 voxels thick', 'three_slices': 'only 3 voxels thick', 'cube_of_20_mm': 'is 20x20x20 mm'}[name]
    assert says in ' '.join(res.manifest['notes']) and says in res.table[0]['note']


WRONG = [(.1, 'smaller than any part of a patient'), (.001, 'smaller than any'), (10, 'larger than any patient')]

@pytest.mark.parametrize('times, says', WRONG)
def test_3_12_a_wrong_unit_is_said(head, nano, times, says):
    scan = replace(head, affine=head.affine@np.diag([times]*3+[1]))
    assert any(says in o for o in make_request(scan, 'white matter', frame=nano.stages[0].frame).notes)
    notes = make_request(scan, 'white matter', frame=INPUT_SPECS['fine']).notes
    assert any(says in o for o in notes), 'also by weights that fill their window'


def test_3_12_a_real_head_is_not_doubted(head, nano):
    x = np.asarray(head.data)
    scaled = head.like(x*1000.-7),head.like(x.astype(np.float32)/255)
    for vol in (head, replace(template()[0], modality='mri'), head.reorient('PIL'), *scaled):
        res = nano(vol, ['white matter'])
        assert res.manifest['notes']==[] and res.table[0]['found'] and res.table[0]['note']=='', vol
    mask = nano(head.like((x>60).astype(np.uint8)), ['white matter'])
    assert any('as a label map has' in o for o in mask.manifest['notes'])


@pytest.mark.skipif(not shared.exists(), reason='the real scans are not on this machine')
def test_3_12_real_scans_are_not_doubted():
    files = [*shared.glob('data/nifti/*_img.nii.gz'), *shared.glob('data/challenge/*_00[0-9][0-9].npz'),
             *sorted(shared.glob('data/mini/*/*/*/*.npz'))[::5], *shared.glob('data/fetal/*_img.nii.gz')]
    assert len(files)>30
    for f in files:
        vol = read_volume(f)
        odd = implausible(scan_facts(np.asarray(vol.data), vol.spacing, (3.,3.,3.)), INPUT_SPECS['fine'], vol.modality)
        assert odd==[], (f.name, odd)


def test_3_12_what_a_user_marks_stays(nano):
    from medals.spatial import Box
    scan = (np.full((64,64,64), 100, np.int16), np.diag([3.,3.,3.,1.]))
    res = nano(scan, ['white matter','grey matter'], 'mri', spatial={'white matter': Box((20,20,20), (30,30,30))})
    assert res.masks['white matter'][20:30,20:30,20:30].all() and not res.table[1]['found']
