"Names and sentences as strangers write them: the side they mean, one structure or two, what is not meant"
import json
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import here, shared
from medals.prompts.anatomy import structures
from medals.data.augment import AugCfg
from medals.core import UserError
from medals.base.files import read_table
from medals.data.questions import DataCfg
from medals.data.sampler import Sampler
from medals.vocab import check_sentences, counterpart, explain, mirror_kind, resolve, swap_side
from medals.volume import _modality
from medals.prompts.tokens import NO_SIDE, known_words, modality_named
from test_data import body, store

# ---- 1.1 sides
PAIRS = ('left right','Left Right','LEFT RIGHT','L R','l r','lt rt','Lt Rt','LT RT','lft rgt','lh rh','LH RH','sin dex','sinister dexter',
         'sinistra dextra','links rechts')
NAMES = [s.name for s in structures().values() if (s.paired or s.halves) and s.name.islower()
         and not re.search(r'\d| and |,|-|first|second|third', s.name)]


def camel(name): return ''.join(w[:1].upper()+w[1:] for w in name.split())


@st.composite
def spelt(draw, names=NAMES):
    "A structure, and its name on the left and on the right in one of many spellings; {} stands where the side is"
    name = draw(st.sampled_from(names))
    joint = draw(st.sampled_from(' _-.'))
    bare = name.replace(' ', joint)
    ends = f'{{}}~{bare}',f'{bare}~{{}}',f'{bare}~{{}}~1',f'{bare}~{{}}~02',f'01~{{}}~{bare}'
    plain = st.sampled_from([o.replace('~', joint) for o in ends]+[f'{name} ({{}})', f'{name} [{{}}]', f'{name}, {{}}', f'({{}}) {name}',
                            f'{name}: {{}}', f'{{}}. {name}'])
    humps = st.sampled_from([f'{camel(name)}{{}}', f'{{}}{camel(name)}'])
    glued = st.sampled_from([f'{name}{{}}', f'{{}}{name}'])
    atlas = st.sampled_from([f'{{}}.{name}', f'{{}}_{bare}', f'{{}}-{bare}'])
    ways = [(plain, PAIRS), (humps, ('Left Right','L R','Lt Rt','LT RT')), (atlas, ('lh rh',))]
    if name.isalpha() and len(name)>3: ways.append((glued, ('l r','lt rt','left right')))
    frames,pairs = draw(st.sampled_from(ways))
    frame,pair = draw(frames),draw(st.sampled_from(pairs)).split()
    left,right = (frame.format(o) for o in pair)
    loud = draw(st.booleans()) and frames is glued
    return (name, left.upper(), right.upper()) if loud else (name, left, right)


@settings(max_examples=1500, deadline=None)
@given(spelt())
def test_1_1_every_spelling_of_a_side_is_read_and_turned_into_the_other(text):
    name,left,right = text
    assume(not {left.lower(), right.lower()}&(known_words()[1]|NO_SIDE))  # another word, such as insular or kneel
    assume(resolve(f'{name} 1').structure==resolve(f'{name} 2').structure==name)  # but metatarsal 1 is one of the metatarsal bones
    assert [(r.structure, r.side) for r in map(resolve, (left, right))]==[(name, 'left'), (name, 'right')], (left, right)
    assert swap_side(left)==right and swap_side(right)==left
    assert mirror_kind(left)==('fixed' if structures()[name].differ else 'swap')
    assert counterpart(left, ['spleen', left, right])==right


@settings(max_examples=300, deadline=None)
@given(st.text('lrLRtTehigf _-.([,1', max_size=24)|st.lists(st.sampled_from(
    'left right L R lh rh Lt kidney liver of the and LAD LV tooth 11 fdi21 colon middle lobe lung spine'.split()), max_size=6)
       .map(' '.join))
def test_1_1_what_is_swapped_can_be_swapped_back_or_is_refused(text):
    other = swap_side(text)
    if other is None: return
    assert swap_side(other)==text and len(other.split())==len(text.split())
    here,there = resolve(text),resolve(other)
    if mirror_kind(text)=='swap': assert here.structure==there.structure and {here.side, there.side} in ({None}, {'left','right'})


@pytest.mark.parametrize('left, right', [
    ('ctx-lh-insula','ctx-rh-insula'), ('lh.hippocampus','rh.hippocampus'), ('L_hippocampus','R_hippocampus'),
    ('Parotid_Lt','Parotid_Rt'), ('Kidney_L_1','Kidney_R_1'), ('Kidney_L1','Kidney_R1'), ('lkid','rkid'), ('LK','RK'),
    ('lkidney','rkidney'), ('KidneyL','KidneyR'), ('Ren sinister','Ren dexter'), ('A. carotis sin.','A. carotis dex.'),
    ('tooth 21','tooth 11'), ('Left kidney (3)','Right kidney (3)'), ('upper_left_canine_pulp_fdi123','upper_right_canine_pulp_fdi113'),
    ('LCorticospinalTract','RCorticospinalTract'), ('7Networks_LH_Vis_1','7Networks_RH_Vis_1'), ('L_V1_ROI','R_V1_ROI'),
    ('AIPS_AIP_l','AIPS_AIP_r'), ('Left-Cerebral-White-Matter','Right-Cerebral-White-Matter'),
    ('ctx_lh_S_unheard_of','ctx_rh_S_unheard_of'), ('rein gauche','rein droite'), ('riñón izquierdo','riñón derecho'),
    ('left thing','right thing')])
def test_1_1_names_keep_their_spelling(left, right):
    assert swap_side(left)==right and swap_side(right)==left and mirror_kind(left)==mirror_kind(right)=='swap'


@pytest.mark.parametrize('name', [
    'middle lobe of the right lung', 'RML', 'lingula', 'LAD', 'LCX', 'left gastric artery', 'right colon',
    'right atrioventricular valve', 'left ventricle', 'LV_myo', 'lung_upper_lobe_left', 'left lobe of the liver', 'lefft kidney'])
def test_1_1_what_has_no_counterpart_is_never_mirrored(name):
    assert mirror_kind(name)=='fixed'


@pytest.mark.parametrize('name', [
    'spleen', 'liver', 'both kidneys', 'left and right lung', 'L-spine', 'vertebra L3', 'psoas_L3', 'RT planning CT of the prostate',
    'bright spot', 'rear part', 'liver segment L3', 'pleural effusion'])
def test_1_1_what_says_no_side_is_left_alone(name):
    assert mirror_kind(name)=='none' and (swap_side(name)==name or ' and ' in name)


SPELLINGS = {
    'ctx-lh-insula': 'ctx-rh-insula', 'lh.hippocampus': 'rh.hippocampus', 'L_hippocampus': 'R_hippocampus', 'Parotid_Lt': 'Parotid_Rt',
    'Kidney_L_1': 'Kidney_R_1', 'left insula': 'right insula', 'Left-Amygdala': 'Right-Amygdala', 'hippocampus_L': 'hippocampus_R',
    'femurLeft': 'femurRight', 'Femur (L)': 'Femur (R)', 'lkid': 'rkid', 'Ren sinister': 'Ren dexter', 'AIPS_AIP_l': 'AIPS_AIP_r',
    'left gizmo': 'right gizmo', 'ctx_lh_S_suborbital': 'ctx_rh_S_suborbital'}


def asked(folder, classes, n=60):
    "`(sentence, side of its mask, mirrored?)` of samples drawn with the default mirroring; in the scan, left is where x is low"
    frames = {k: dict(values=v, sentences=[k, f'{k} in CT', f'segment the {k}']) for k,v in classes.items()}
    made = store(folder, {'CT_set': dict(classes=classes, frame='RAS', cases=[body()])}, patch=(64,48,40))
    (made/'classes.json').write_text(json.dumps({'CT_set': dict(modality='ct', instance=False, classes=frames)}))
    sampler = Sampler(made, DataCfg(aug=AugCfg(turn=0., scale=0.), patch=(64,48,40), queries=40))
    for i in range(n):
        s = sampler.sample(i)
        for q,c in zip(s.query, s.cls):
            if not s.present[c]: continue
            x = np.argwhere(s.table[:,c][s.labels])[:,0].mean()
            yield sampler.sentences[q][0],'left' if x<31.5 else 'right',s.aug.mirror[0]


@pytest.mark.parametrize('names', [
    'Gl_parotis_li Gl_parotis_re', 'Lunge_li Lunge_re', 'hipocampo_izq hipocampo_der', 'poumon_G poumon_D', 'rim_E rim_D', 'LIFG RIFG',
    'LHV RHV', 'LVM RVM', 'Lthal Rthal', 'UL1 UR1', 'lens_sxt lens_dxt', '左肾 右肾', '左側海馬 右側海馬', 'левая_почка правая_почка',
    'lewa_nerka prawa_nerka', 'vänster_njure höger_njure', 'høyre_nyre venstre_nyre', 'sol_böbrek sağ_böbrek', '왼쪽_신장 오른쪽_신장'])
def test_1_1_sides_in_words_that_are_not_read_are_never_mirrored(names):
    names = names.split()
    assert all(mirror_kind(o, (), names)!='none' for o in names)
    assert 'fixed' in {mirror_kind(o, (), names) for o in names}
    sideless = ('liver','spleen','vertebra L3','kidney 1','kidney 2')
    assert {mirror_kind(o, (), sideless) for o in sideless}=={'none'}


@pytest.mark.parametrize('left, right', [('STNleft','STNright'), ('lAMY','rAMY'), ('lIFG','rIFG')])
def test_1_1_sides_written_together_with_capitals(left, right):
    assert swap_side(left)==right and swap_side(right)==left and mirror_kind(left)==mirror_kind(right)=='swap'


def test_1_1_a_data_set_with_sides_that_are_not_read_is_not_mirrored(tmp_path):
    for i,pair in enumerate((('LIFG','RIFG'), ('左肾','右肾'), ('Lunge li','Lunge re'))):
        got = list(asked(tmp_path/str(i), {pair[0]: [3], pair[1]: [4]}, 40))
        assert {m for *_,m in got}=={False} and {s for t,s,_ in got if pair[0] in t}=={'left'}


def test_1_1_masks_lie_on_the_side_that_the_sentence_asks_for(tmp_path):
    classes = {name: [label] for pair in SPELLINGS.items() for name,label in zip(pair, (3, 4))}
    want = {name: side for pair in SPELLINGS.items() for name,side in zip(pair, ('left','right'))}
    got = list(asked(tmp_path/'a', classes))
    assert len(got)>1500 and {m for *_,m in got}=={True, False}
    wrong = [(t, side) for t,side,_ in got if want[re.sub(' in CT$|^segment the ', '', t)]!=side]
    assert not wrong, f'{len(wrong)} of {len(got)}: {wrong[:5]}'
    alone = list(asked(tmp_path/'b', {'Parotid_Lt': [3], 'left kidney': [3], 'Kidney_R': [4], 'lobe': [5]}))
    assert {(t.replace('segment the ', '').replace(' in CT', ''), s) for t,s,_ in alone if 'lobe' not in t}=={
        ('Parotid_Lt','left'), ('Parotid_Rt','right'), ('left kidney','left'), ('Kidney_R','right')}, 'pairs are found by what they mean'


@pytest.mark.parametrize('odd', ['RML', 'left ventricle of the heart', 'right colon', 'LV_myo'])
def test_1_1_a_data_set_with_a_class_without_counterpart_is_not_mirrored(tmp_path, odd):
    got = list(asked(tmp_path/'a', {odd: [3], 'left kidney': [3], 'right kidney': [4]}, 40))
    assert {m for *_,m in got}=={False}
    assert {(t, s) for t,s,_ in got if t in ('left kidney','right kidney')}=={('left kidney','left'), ('right kidney','right')}


def test_1_1_sentences_that_say_the_side_alone_are_swapped_too(tmp_path):
    "The class is called 'lobe'; only its sentences say which one"
    made = store(tmp_path/'a', {'CT_set': dict(classes={'lobe': [3]}, frame='RAS', cases=[body()])}, patch=(64,48,40))
    said = dict(modality='ct', instance=False, classes={'lobe': dict(values=[3], sentences=['the left lobe'])})
    (made/'classes.json').write_text(json.dumps({'CT_set': said}))
    sampler = Sampler(made, DataCfg(aug=AugCfg(turn=0., scale=0.), patch=(64,48,40)))
    seen = {(s.aug.mirror[0], sampler.sentences[s.query[0]][0]) for s in map(sampler.sample, range(30))}
    assert seen=={(False,'the left lobe'), (True,'the right lobe')}


# ---- 4.4 two structures, and what is not meant
@pytest.mark.parametrize('text, names', [
    ('spleen, liver', 'spleen and liver'), ('liver and spleen', 'liver and spleen'), ('liver & spleen', None), ('liver+spleen', None),
    ('liver/spleen', None), ('liver; spleen', None), ('liver\nspleen', None), ('liver plus spleen', None),
    ('liver as well as the spleen', None), ('liver together with the spleen', None),
    ('Segment the liver and the spleen in abdominal CT', 'liver and spleen'),
    ('liver, spleen and pancreas', 'liver, spleen and pancreas'), ('left kidney and right lung', 'left kidney and right lung'),
    ('kidney and kidney tumour', None), ('kidney and tumour', None), ('grey and white matter', 'white matter and grey matter'),
    ('femoral head and neck', 'femoral head and femoral neck'), ('hepatic artery and vein', None),
    ('medial and lateral meniscus', None), ('gluteus maximus and medius', None), ('superior and inferior vena cava', None),
    ('third and fourth ventricle', None), ('vertebrae L3 and L4', None), ('ascending/descending aorta', None),
    ('tumour of the liver and the spleen', None), ('CT of the chest showing heart and aorta', None), ('hippocampus, amygdala', None),
    ('Leber und Milz', None), ('foie et pancréas', None), ('hígado y bazo', None), ('brain and hippocampus', None)])
def test_4_4_two_structures_are_said(text, names):
    got = resolve(text)
    assert re.search(r'names (two|three) structures, .*; ask for them one by one$', got.problem or ''), got.problem
    assert names is None or f'structures, {names};' in got.problem
    assert explain(text)['problem']==got.problem
    with pytest.raises(UserError, match='ask for them one by one'): check_sentences(['liver', text])


@pytest.mark.parametrize('text, structure', [
    ('no tumor', None), ('not the liver', None), ('everything except the liver', None), ('all organs but the liver', None),
    ('without tumour', None), ('absence of tumour', None), ('non-liver tissue', None), ("don't segment the liver", None),
    ('no evidence of a pleural effusion', None), ('liver without tumour', 'liver'), ('liver minus the vessels', 'liver'),
    ('left kidney, no cyst', 'kidney'), ('lung excluding nodules', 'lung'), ('tumour-free liver', None),
    ('right kidney, not left', 'kidney'), ('spleen instead of the liver', 'spleen'), ('spleen, not liver', 'spleen'),
    ('Leber ohne Tumor', 'liver'), ('any organ other than the spleen', None)])
def test_4_4_negation_is_said_not_to_be_understood(text, structure):
    got = resolve(text)
    assert 'negation is not understood' in (got.problem or '') and got.structure==structure, got
    with pytest.raises(UserError, match='negation is not understood'): check_sentences([text])
    if text=='right kidney, not left': assert got.side=='right'


@pytest.mark.parametrize('text, structure', [
    ('left kidney and right kidney', 'kidney'), ('left kidney, right kidney', 'kidney'), ('kidney left + kidney right', 'kidney'),
    ('Left-Hippocampus and Right-Hippocampus', 'hippocampus'), ('left ventricle and right ventricle', 'ventricle of the heart'),
    ('lesion in the left lung and in the right lung', 'lung lesion'), ('left and right kidney', 'kidney')])
def test_4_4_both_sides_of_one_thing_are_no_single_side(text, structure):
    got = resolve(text)
    assert (got.structure, got.side, got.problem)==(structure, None, None)


@pytest.mark.parametrize('text', ['lung nodule not in left lung', 'nodule in the right lung, not in the left lung', 'skip the spleen',
                                  'lesion not within the liver', 'nicht die Leber', 'pas de foie', 'senza tumor'])
def test_4_4_negation_before_a_place_and_in_other_languages(text):
    assert 'negation is not understood' in (resolve(text).problem or '')


ONE_THING = """grey and white matter junction|ctx_lh_G_and_S_frontomargin|head and neck|head and neck cancer|adrenal glands|lungs
both kidneys|left and right kidney|left and right kidneys on CT|kidney, left|portal vein and splenic vein|jejunum and ileum
trachea and bronchi|midbrain, pons and medulla|necrotic and enhancing tumour core|spine, vertebra L3|brain, hippocampus
left lung, lower lobe|low-dose chest CT: solid nodule, left lower lobe|CT of the abdomen and pelvis
Head and neck CT, brainstem|PET/CT lesion|L4/L5 disc|prostate/uterus|C1-C7|kidney (renal)|vertebra C1 (atlas)|liver
no-reflow area|non-enhancing tumor core|non-small cell lung cancer|non-contrast head CT showing an intracerebral bleed
CT without contrast showing the liver|rib no. 3|non-WM-hypointensities|non_coronary_cusp
splenic parenchyma, portal venous phase|non-Hodgkin lymphoma|H&E histology, cell nuclei|tumour in the left kidney
the spleen, as seen on portal venous CT|carotid artery, right, on CTA|liver in the abdomen|cortex and deep nuclei
GTVp and GTVn|inferior frontal gyrus, opercular part|lateral and third ventricles|left parahippocampal and ambient gyrus
mri t2 right knee, anterior cruciate ligament|bladder, urinary|something and nothing""".replace('\n', '|').split('|')


@pytest.mark.parametrize('text', ONE_THING)
def test_4_4_one_thing_is_left_in_peace(text):
    assert resolve(text).problem is None
    check_sentences([text])


def test_4_4_every_name_in_the_tables_and_every_sentence_of_the_examples_can_be_asked():
    for s in structures().values():
        for o in s.spoken: assert resolve(o).problem is None, o
    for f in ('mini/prompts.json', 'biomedsegfm_prompts.json'):
        if not (shared/'data'/f).exists(): continue
        for d in json.loads((shared/'data'/f).read_text()).values():
            for k,v in d.items():
                if k!='instance_label': check_sentences(v)


SINGLE = [s.name for s in structures().values() if s.kind in ('organ','gland','bone') and s.name.isalpha() and s.region!='body'
          and not any(o.part==s.name or o.of==s.name for o in structures().values()) and not s.part]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SINGLE), min_size=2, max_size=3, unique=True),
       st.sampled_from((' and ', ', ', ' & ', '; ', ' plus ', '/', ', and the ')))
def test_4_4_any_list_of_organs_is_no_single_one(names, joint):
    assume(resolve(' '.join(names)).structure in names)  # patella and cartilage make a third name
    got = resolve(joint.join(names))
    assert got.structure in names and f"names {({2: 'two', 3: 'three'})[len(names)]} structures" in (got.problem or ''), got.problem


# ---- 4.5 names of atlases and tools
def rows(name):
    lines = (here/'vocab'/name).read_text(encoding='utf-8').splitlines()
    return [tuple((o.split('\t')+['']*2)[:3]) for o in lines if o and o[0]!='#']


@pytest.mark.parametrize('name, least', [('freesurfer_table.tsv', 1266), ('totalsegmentator.tsv', 430)])
def test_4_5_every_name_of_public_tables_means_what_it_says_or_nothing(name, least):
    some = rows(name)
    bad = [(r, g.structure, g.side) for r in some for g in [resolve(r[0])] if (g.structure or '', g.side or '')!=r[1:]]
    assert len(some)>=least and not bad, bad[:20]


def test_4_5_the_two_sides_of_an_atlas_are_two_sides_of_one_thing():
    "The table itself, without our reading of it: what differs by left and right only is one structure on two sides, or nothing"
    names = {r[0] for r in rows('freesurfer_table.tsv')}
    turned = {n: re.sub(r'Left|left|(?<![a-z])lh(?![a-z])', lambda m: dict(Left='Right', left='right', lh='rh')[m[0]], n) for n in names}
    pairs = [(a, b) for a,b in turned.items() if a!=b and b in names]
    assert len(pairs)>500
    for a,b in pairs:
        assert swap_side(a)==b and swap_side(b)==a and mirror_kind(a)=='swap', a
        assert resolve(a).structure==resolve(b).structure and {resolve(a).side, resolve(b).side} in ({None}, {'left','right'})


@pytest.mark.parametrize('text, structure, side', [
    ('non-WM-hypointensities', 'hypointensities outside the white matter', None), ('Left-Cerebral-Exterior', None, None),
    ('wm-lh-precentral', 'white matter of the precentral gyrus', 'left'),
    ('ctx_lh_G_and_S_frontomargin', 'frontomarginal gyrus', 'left'), ('lkid', 'kidney', 'left'), ('LK', 'kidney', 'left'),
    ('rkid', 'kidney', 'right'), ('lh.R_something', None, None), ('ctx-lh-unknown', None, None), ('basolateral nucleus', None, None),
    ('basolateral nucleus of the amygdala', 'basolateral nucleus of the amygdala', None),
    ('basal nucleus of the left amygdala', 'basal nucleus of the amygdala', 'left'), ('basal nuclei', 'basal ganglia', None),
    ('psoas_L3_left', 'psoas major', 'left'), ('cell nuclei', 'cell nuclei', None), ('cochlear nucleus', 'cochlear nucleus', None),
    ('Left-External-IliacA', 'external iliac artery', 'left')])
def test_4_5_odd_names(text, structure, side):
    assert (resolve(text).structure, resolve(text).side)==(structure, side)


# ---- names of modalities, and what a sentence says of its own
def test_one_table_of_modalities():
    from medals.inference.modality import guess_modality
    from medals.volume import MODALITY_NAMES, phantom
    table,vol = read_table('modalities.toml'),phantom((8,8,8), (20.,20.,20.))[0]
    assert MODALITY_NAMES==table and set(table.values())=={'ct','mri','us','pet','microscopy'}
    for name,want in table.items():
        assert modality_named(name.upper())==resolve('liver', name).modality==guess_modality(vol, modality=name).modality==want
    for name,want in {'Ultrasound': 'us', 'PET/CT': 'pet', 'US-3D': 'us', 'x-ray': None}.items():
        assert modality_named(name)==want==resolve('liver', name).modality
        if want: assert _modality(name)==want
        else:
            with pytest.raises(UserError, match="'x-ray' is not known; it is one of ct, mri"): _modality(name)


def test_5_1_what_a_sentence_names_is_known_beside_what_was_given():
    assert [resolve(o, 'mri').named for o in ('liver in CT', 'liver', 'PET of the lung')]==['ct', None, 'pet']
    assert {resolve(o, 'mri').modality for o in ('liver in CT', 'liver')}=={'mri'}


# ---- where sentences are used
def test_4_4_a_run_refuses_before_it_starts(tmp_path, capsys):
    from medals.cli import main
    from medals.volume import phantom, write_volume
    scan = tmp_path/'scan.nii.gz'
    write_volume(scan, phantom((24,28,22), (8.,8.,8.))[0])
    write_volume(tmp_path/'other.nii.gz', phantom((24,28,22), (8.,8.,8.))[0])
    for text,says in (('spleen, liver','names two structures'), ('no tumor','negation is not understood')):
        for scans in ([str(scan)], [str(scan), str(tmp_path/'other.nii.gz')]):
            assert main(['segment', *scans, 'white matter', text, '-o', str(tmp_path/'out')])==2
            err = capsys.readouterr().err
            assert says in err and err.count('\n')==1 and not (tmp_path/'out').exists()


def test_4_4_a_class_of_two_is_neither_of_them():
    from medals.inference.dicom_seg import code_of
    from medals.evaluation.labeling import meaning_of
    from medals.widgets import understood
    assert code_of('liver')[1]!=code_of('liver and spleen')[1]==code_of('gizmo')[1]
    assert meaning_of("liver") and not meaning_of("liver and spleen") and not meaning_of("no tumour")
    assert 'names two structures' in understood('liver and spleen') and understood('liver')=='understood: liver'


def test_4_4_weights_that_learned_a_class_of_two_may_be_asked_for_it(tmp_path):
    from medals.base.files import write_json
    from medals.preprocessing.input_spec import InputSpec
    from medals.inference.request import make_request
    from medals.training.train import frame_of
    from medals.volume import phantom
    classes = {'cerebellum and brainstem': dict(values=[1], sentences=['the hind part of the brain'])}
    classes['left kidney'] = dict(values=[2], sentences=['left kidney'])
    write_json(tmp_path/'classes.json', dict(MR_x=dict(modality='mri', instance=False, classes=classes)))
    write_json(tmp_path/'store.json', dict(recipe=dict(spacing=(3,3,3), frame='RAS', fill=False)))
    frame = InputSpec(**frame_of([tmp_path], (64,96,64), {'mri'}, True))
    assert frame.joint==('cerebellum and brainstem',)
    scan = phantom((24,28,22), (8.,8.,8.))[0]
    assert make_request(scan, ['Cerebellum and brainstem', 'left kidney'], frame=frame).texts[0]=='Cerebellum and brainstem'
    with pytest.raises(UserError, match='names two structures'): make_request(scan, ['spleen, liver'], frame=frame)
    with pytest.raises(UserError, match='names two structures'): make_request(scan, ['Cerebellum and brainstem'])
