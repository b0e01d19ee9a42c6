"What weights know: not known is not the same as not found; which bundle is asked; a first look over a large scan"
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from medals.cli import main
from medals.core import UserError
from medals.example import template
from medals.inference import pipeline
from medals.inference.bundles import bundles, choose_bundle
from medals.inference.stages import NetworkStage, RandomQueries
from medals.model import MedalS, ModelCfg
from medals.network.repertoire import Repertoire, TrainedClass, read_classes
from medals.preprocessing.input_spec import InputSpec
from medals.prompts.marks import NAMELESS
from medals.segment import Segmenter
from medals.spatial import Point
from medals.text import TextEncoder
from medals.vocab import resolve, structures
from medals.volume import Volume, phantom
from medals.weights import find_model

NANO = next(bundle for bundle in bundles() if bundle.name=='nano')


def test_of_all_structures_only_those_that_were_trained_are_known():
    known = Repertoire(NANO.classes, None)
    trained = {(resolve(c.name).structure, resolve(c.name).side) for c in NANO.classes}
    seen = Counter()
    for s in structures().values():
        for side in ('left','right',None) if s.paired else (None,):
            text = f'{side} {s.name}' if side else s.name
            got = resolve(text)
            if not got.structure: continue
            both = side is None and {(got.structure,'left'),(got.structure,'right')}<=trained
            expected = (got.structure, got.side) in trained or both
            assert known.knows(text) is expected, (s.name, side)
            seen[expected] += 1
    assert seen[True]>=5 and seen[False]>300


def test_words_that_the_vocabulary_does_not_have_are_compared_by_the_encoder():
    classes = [TrainedClass(name='Blorpian duct', sentences=('the duct of Blorp',)), TrainedClass(name='brain')]
    known = Repertoire(classes, TextEncoder.load('small'))
    assert known.about('blorpian duct').known and known.about('the duct of blorp').known
    far = known.about('asdf qwer')
    assert not far.known and far.nearest in ('Blorpian duct','brain') and -1<=far.alike<.6
    assert not known.about('liver').known, 'what the vocabulary understands is not left to the encoder'


def test_an_unknown_structure_is_not_known_until_somebody_marks_it():
    seg = Segmenter.load('nano', 'cpu')
    seg.stages[0].frame = replace(seg.stages[0].frame, phases=1)
    vol = phantom((48,56,48), (4.,4.,4.))[0]
    res = seg(vol, ['trachea','white matter'])
    row = res.table[0]
    assert (row['outcome'], row['voxels'], row['presence'])==('not known', 0, 0)
    assert res.unknown['trachea'].nearest in [c.name for c in NANO.classes] and 'closest' in row['note']
    assert res.table[1]['outcome'] in ('found','not found') and 'white matter' not in res.unknown
    marked = res.refine({'trachea': Point((24,28,24))})
    assert marked.table[0]['outcome']=='found' and marked.masks['trachea'][24,28,24]
    assert seg(vol, NAMELESS, spatial={NAMELESS: Point((24,28,24))}).table[0]['outcome']=='found'
    assert not seg(vol, ['trachea'], presence=0).unknown, 'who keeps every mask keeps this one'


NAMES = ('left kidney','right kidney','liver','brain','spleen','left lung','hippocampus')

@settings(max_examples=60, deadline=None)
@given(sets=st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=4),
       asked=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
       kinds=st.lists(st.sampled_from(('ct','mri')), min_size=4, max_size=4),
       scan=st.sampled_from(('ct','mri',None)))
def test_the_bundle_that_knows_most_is_chosen(sets, asked, kinds, scan):
    made = []
    for i,(names,kind) in enumerate(zip(sets, kinds)):
        classes = tuple(TrainedClass(name=name, modalities=(kind,)) for name in sorted(names))
        made.append(replace(NANO, name=f'w{i}', classes=classes))
    counts = [len(names&set(asked)) if scan in (kind, None) else 0 for names,kind in zip(sets, kinds)]
    if not any(counts): counts = [len(names&set(asked)) for names in sets]
    choice = choose_bundle(asked, scan, tuple(made))
    assert choice.name==f'w{int(np.argmax(counts))}'
    assert choice.name not in choice.others.values()


def test_lists_of_classes_that_were_made_by_hand(tmp_path):
    odd_sizes = '[5, 1]', '[1]', '["a", "b"]', '3', '[NaN, 2]'
    fields = ['"colour": 1', '"sure": "x"', '"sure": null', '"sure": 1.2', *(f'"ml": {size}' for size in odd_sizes)]
    rows = [f'{{"classes": [{{"name": "a", {field}}}]}}' for field in fields]
    for text in ('[]', '{"classes": 3}', '{', *rows):
        (tmp_path/'classes.json').write_text(text)
        with pytest.raises(UserError) as e: read_classes(tmp_path)
        assert '\n' not in str(e.value) and 'classes.json' in str(e.value)


def test_models_and_the_choice_on_the_command_line(tmp_path, capsys):
    assert main(['models'])==0 and 'nano' in capsys.readouterr().out
    assert main(['models','nano'])==0
    out = capsys.readouterr().out
    assert all(c.name in out for c in NANO.classes)
    assert main(['models','huge'])==2 and 'there is' in capsys.readouterr().err
    assert {c['name'] for c in json.loads((NANO.folder/'classes.json').read_text())['classes']}=={c.name for c in NANO.classes}


class Bright(torch.nn.Module):
    "Marks what is bright"
    def forward(self, x, q, m=None): return (x-128).expand(-1, len(q), -1, -1, -1)

def bright_scan(at, radius):
    x = np.random.default_rng(1).integers(1, 60, (90,80,120)).astype(np.uint8)
    places = np.ogrid[:90,:80,:120]
    if radius: x[sum((o-c)**2 for o,c in zip(places, at))<radius**2] = 250
    return Volume(x, np.diag([8.,8.,8.,1.]), 'mri')

@pytest.mark.parametrize('at', [(30,40,95), (14,13,14), (60,50,60)])
def test_a_large_scan_takes_few_passes_and_gives_the_same_mask(at, monkeypatch):
    frame = InputSpec(spacing=(8.,8.,8.), window=(32,32,32), modality='mri', phases=2)
    seg = Segmenter(NetworkStage(Bright(), frame), RandomQueries(8), device='cpu')
    scan = bright_scan(at, 13)
    quick = seg(scan, 'ball')
    plan = seg.dry_run(scan, 'ball')
    promised = plan.passes
    assert pipeline.AFAR_FIRST in plan.notes
    monkeypatch.setattr(pipeline.SegmentRun, 'is_large', lambda *args: False)
    whole = seg(scan, 'ball')
    assert np.array_equal(quick.masks['ball'], whole.masks['ball']) and quick.masks['ball'].any()
    assert quick.manifest['passes']<=84<whole.manifest['passes'] and quick.manifest['passes']<=promised


@pytest.mark.parametrize('axis', range(3))
def test_what_leads_out_of_the_part_that_was_seen_from_afar_is_followed(axis, monkeypatch):
    "A thread that is too thin to be seen from afar, from one end of the scan to the other"
    frame = InputSpec(spacing=(8.,8.,8.), window=(32,32,32), modality='mri', phases=2)
    seg = Segmenter(NetworkStage(Bright(), frame), RandomQueries(8), device='cpu')
    scan = bright_scan((40,40,70), 13)
    along = [40,40,70]
    along[axis] = slice(None)
    scan.data[tuple(along)] = 250
    quick = seg(scan, 'cord')
    monkeypatch.setattr(pipeline.SegmentRun, 'is_large', lambda *args: False)
    whole = seg(scan, 'cord')
    assert whole.masks['cord'][tuple(along)].all() and np.array_equal(quick.masks['cord'], whole.masks['cord'])
    assert quick.manifest['passes']<whole.manifest['passes']/5


def test_nothing_in_a_large_scan_is_one_quick_look_and_marks_need_none():
    class Nothing(torch.nn.Module):
        def forward(self, x, q, m=None): return torch.full((len(x), len(q), *x.shape[2:]), -20.)
    frame = InputSpec(spacing=(8.,8.,8.), window=(32,32,32), modality='mri', phases=2)
    seg = Segmenter(NetworkStage(Nothing(), frame), RandomQueries(8), device='cpu')
    scan = bright_scan((0,0,0), 0)
    res = seg(scan, 'ball')
    assert res.manifest['passes']<=12 and not res.masks['ball'].any() and res.manifest['looks']
    marked = seg(scan, 'ball', spatial={'ball': Point((20,20,20))})
    assert marked.manifest['passes']>12 and marked.masks['ball'][20,20,20]
    again = res.refine({'ball': Point((20,20,20))})
    assert again.masks['ball'][20,20,20]


def test_a_folder_of_the_name_of_weights_does_not_hide_them(tmp_path, monkeypatch):
    "People keep their scans of brains in a folder called brain"
    (tmp_path/'brain').mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model('brain').name=='brain' and (find_model('brain')/'cfg.json').exists()


def test_what_was_learnt_in_mri_is_not_known_in_ct():
    "A belly in CT holds no brain: the network is not even asked, and who wants to see what it marks can"
    gen = np.random.default_rng(0)
    hu = np.full((40,40,40), -1000, np.int16)
    hu[6:-6,6:-6,6:-6] = gen.integers(-80, 80, (28,28,28))
    belly = Volume(hu, np.diag([4.,4.,4.,1.]))
    segmenter = Segmenter.load('nano')
    res = segmenter(belly, ['white matter'])
    row, = res.table
    assert (row['outcome'],res.manifest['passes'])==('not known',0) and 'only in mri' in row['note']
    assert segmenter(belly, ['white matter'], presence=0).manifest['passes']>0
    again = segmenter(belly, ['white matter'], modality='mri')
    assert again.table[0]['outcome']!='not known' and again.manifest['passes']>0
    segmenter.repertoire.wording = lambda text, modality: 'white matter'
    other, = segmenter(belly, ['weisse Substanz']).table
    assert other['outcome']=='not known' and 'asked as' not in other['note'] # it was not asked
    corrected = res.refine({'white matter': [Point((20,20,20))]}) # a mark is asked all the same
    assert corrected.masks['white matter'][20,20,20] and corrected.manifest['passes']>0


def test_what_was_seen_in_mri_is_not_known_in_a_ct_unless_nobody_says_that_it_is_one():
    seg = Segmenter.load('nano', 'cpu')
    seg.stages[0].frame = replace(seg.stages[0].frame, phases=1)
    vol = phantom((48,56,48), (4.,4.,4.))[0]
    ct = seg(vol, ['white matter'], modality='ct')
    row = ct.table[0]
    assert (row['outcome'], row['voxels'], row['score'])==('not known', 0, '') and 'only in mri' in row['note'] and 'say so' in row['note']
    assert ct.unknown['white matter'].elsewhere==('mri',)
    assert not seg(vol, ['white matter'], modality='ct', presence=0).unknown, 'who keeps every mask keeps this one'
    assert not seg(replace(vol, modality=None), ['white matter']).unknown and not seg(vol, ['white matter'], modality='mri').unknown
    here = Point((24,28,24))
    assert seg(vol, ['white matter'], modality='ct', spatial={'white matter': here}).table[0]['outcome']=='found'


def test_all_bundles_say_what_kind_of_scan_they_take_one_for():
    kinds = {bundle.name: Segmenter.load(bundle.name, 'cpu').stages[0].frame.modality for bundle in bundles()}
    assert kinds==dict(nano='mri', brain='mri', hippocampus='mri', headneck='ct')


def test_words_that_the_encoder_does_not_have_are_asked_by_the_name_of_the_class():
    known = Segmenter.load('brain', 'cpu').repertoire
    meant = {'Hirnstamm': 'brainstem', 'brian stem': 'brainstem', 'ventricular system': 'cerebral ventricles'}
    meant['left ventricle'] = 'left lateral ventricle'
    assert {text: known.wording(text) for text in meant}==meant
    as_they_are = 'brainstem','Brainstem','left caudate','Kleinhirn','ventricles','liver','asdf qwer',NAMELESS
    for text in as_they_are: assert known.wording(text)==text
    assert known.knows('ventricles') and not known.knows('ventricle of the heart') and not known.knows('left ventricle of the heart')
    seg = Segmenter.load('nano', 'cpu')
    seg.stages[0].frame = replace(seg.stages[0].frame, phases=1)
    seg.repertoire.wording = lambda text, modality: 'white matter' if text=='weisse Substanz' else text
    res = seg(phantom((48,56,48), (4.,4.,4.))[0], ['weisse Substanz','white matter'])
    a,b = res.masks['weisse Substanz'],res.masks['white matter']
    assert np.array_equal(a, b) and res.table[0]['note'].endswith("asked as 'white matter'") and 'asked as' not in res.table[1]['note']


def test_home_says_of_the_bundled_weights_what_their_lists_say():
    home = (Path(__file__).resolve().parents[1]/'README.md').read_text(encoding='utf-8')
    def number(x): return f'{x:.2f}'.lstrip('0')
    for bundle in bundles():
        row = next(o for o in home.splitlines() if o.startswith(f'| `{bundle.name}`'))
        assert f'in the package, {bundle.megabytes:.1f} MB' in row
        scored = [c.dsc for c in bundle.classes if c.dsc is not None]
        whole = f'{len(bundle.classes)} structures',f'mean of {len(scored)} {number(np.mean(scored))}' if scored else ''
        if bundle.name=='brain': assert all(o in row for o in whole)
        elif scored: assert all(number(dsc) in row for dsc in scored)


def test_weights_that_know_parts_look_where_others_found_the_part(capsys, tmp_path):
    "anterior hippocampus in a whole head: before, these weights saw 37 ml of it all over a head"
    head,_ = template()
    found = Segmenter.load('hippocampus')(head, ['anterior hippocampus', 'posterior hippocampus'], 'mri')
    both = Segmenter.load('brain')(head, ['left hippocampus', 'right hippocampus'], 'mri')
    near = distance_transform_edt(~np.any([np.asarray(o) for o in both.masks.values()], 0), sampling=head.spacing)
    for row,mask in zip(found.table, found.masks.values()):
        assert row['found'] and .8<row['ml']<9
        assert near[np.asarray(mask)].max()<=8
    assert found.manifest['passes']<80 and any('found by the weights brain' in note for note in found.manifest['notes'])
    body,*_ = phantom()
    nothing = Segmenter.load('hippocampus')(replace(body, modality='mri'), ['anterior hippocampus'])
    assert not nothing.masks['anterior hippocampus'].any() and nothing.manifest['passes']==0
    later = nothing.refine({'anterior hippocampus': [Point(tuple(n//2 for n in body.shape), radius=8)]})
    assert later.masks['anterior hippocampus'].any()


def mean(*words):
    script = Path(__file__).resolve().parents[1]/'sh'/'mean.py'
    return subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True)


def test_the_mean_of_weights_lies_between_them(tmp_path):
    from medals.weights import load_model, save_model
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ends.append(MedalS('nano'))
        save_model(ends[-1], tmp_path/str(seed), torch.float32)
    assert not mean(tmp_path/'m', f'{tmp_path/"0"}=3', f'{tmp_path/"1"}=1').stderr
    mixed = load_model(tmp_path/'m').state_dict()
    for name,value in mixed.items():
        wanted = .75*ends[0].state_dict()[name]+.25*ends[1].state_dict()[name]
        assert torch.allclose(value, wanted, atol=1e-6)
    save_model(MedalS(ModelCfg(features=(8,)*6, query=96)), tmp_path/'other', torch.float32)
    refused = mean(tmp_path/'n', f'{tmp_path/"0"}=1', f'{tmp_path/"other"}=1')
    assert refused.returncode==1 and 'another network' in refused.stderr and not (tmp_path/'n').exists()
    for words in (['a'], ['a=x'], [f'{tmp_path/"0"}=-1']): assert 'mean.py: ' in mean(tmp_path/'n', *words).stderr
