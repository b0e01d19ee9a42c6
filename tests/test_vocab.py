"What sentences and names are understood to mean"
import contextlib
import io
import json
import re
from collections import defaultdict

import numpy as np
import pytest
from helpers import here, shared
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.prompts.anatomy import other_names, structures
from medals.core import make_gen
from medals.base.files import read_table
from medals.pretraining.noise import typo
from medals.vocab import PREFIX, concepts, explain, published, resolve, say, suggest, swap_side
from medals.prompts.tokens import tokens
from medals.prompts.typos import correct
from medals.prompts.wordforms import word_table

prompts = shared/'data'/'biomedsegfm_prompts.json'
needs_prompts = pytest.mark.skipif(not prompts.exists(), reason=f'no prompt file of the challenge at {prompts}')


# ---- lists of names and sentences
def corpus(name):
    "Rows (text, structure, side, modality) of a list; empty: None, or not to be checked for the modality"
    rows = [o.split('\t') for o in (here/'vocab'/f'{name}.tsv').read_text(encoding='utf-8').splitlines() if o and o[0]!='#']
    return [tuple((r+['']*4)[:4]) for r in rows]


def wrong(rows):
    got = [(r, resolve(r[0])) for r in rows]
    return [(r, g) for r,g in got if ((g.structure or '', g.side or '')!=r[1:3] or r[3] and g.modality!=r[3])]


# share that has to be right; heldout.tsv was annotated before its first run and is not tuned on
@pytest.mark.parametrize('name,share', [
    ('totalsegmentator', 1), ('freesurfer', 1), ('datasets', 1), ('typos', 1), ('tools', .99), ('sentences', .99), ('heldout', .87)])
def test_lists_of_names_and_sentences(name, share):
    rows = corpus(name)
    bad = wrong(rows)
    assert len(bad)<=(1-share)*len(rows), bad


# ---- the prompt file of the challenge
CASES = {'CT': 'ct', 'MR': 'mri', 'US': 'us', 'au': 'pet', 'Mi': 'microscopy'}
NAMES_A_MODALITY = re.compile(
    r'icroscop|ltrastruct|\bEM\b|ight.sheet|PET|\bUS\b|ltraso|chocardio|\bMRE?\b|MRI|agnetic|iffusion|DWI|ADC|FLAIR|\bCTA?\b|'
    r'omputed|omograph|cross-sectional')
OTHER_SPELLING = {  # first sentences that are not the published name of their class
    'Bladder': 'Urinary bladder', 'Urinary_bladder': 'Urinary bladder', 'Myocardium': 'Heart', 'Small Intestine': 'Small bowel',
    'Cell nuclei': 'Nuclei', 'Left renal structure identified via abdominal magnetic resonance': 'Left kidney',
    'Left Ventricle': 'Left ventricle', 'Left Atrium': 'Left atrium', 'Right Atrium': 'Right atrium'}


def classes():
    "Data set, modality, instance flag and sentences of each class"
    for name,d in json.loads(prompts.read_text()).items():
        for k,v in d.items():
            if k!='instance_label': yield name,CASES[name[:2]],bool(d['instance_label']),v


@needs_prompts
def test_the_modality_of_every_sentence():
    for _,mod,_,sentences in classes():
        for s in sentences: assert resolve(s).modality==(mod if NAMES_A_MODALITY.search(s) else None), s


@needs_prompts
def test_all_sentences_of_a_class_mean_one_thing_and_classes_stay_apart():
    seen = defaultdict(set)
    for name,_,instance,sentences in classes():
        got = {(r.structure, r.side) for s in sentences for r in [resolve(s, instance=instance)]}
        assert len(got)==1 and None not in {o[0] for o in got}, (name, sentences[0], got)
        assert not got&seen[name], (name, sentences[0])
        seen[name] |= got


@needs_prompts
def test_the_published_class_of_every_sentence():
    table,n = read_table('published_classes.toml'),0
    for _,mod,instance,sentences in classes():
        name = OTHER_SPELLING.get(sentences[0], sentences[0])
        assert name in table[mod]['lesion' if instance else 'anatomy']
        for s in sentences: assert published(resolve(s, mod, instance), instance)==f'{PREFIX[mod]}_{name}', s
        n += len(sentences)
    assert n>2000


@needs_prompts
def test_sides_of_the_prompt_file_can_be_swapped():
    n = 0
    for *_,sentences in classes():
        for s in sentences:
            sided,other = bool(re.search(r'\b(left|right)\b', s, re.I)),swap_side(s)
            assert swap_side(other)==s and (other!=s)==sided
            if sided:
                a,b = resolve(s),resolve(other)
                assert {a.side, b.side}=={'left','right'} and a.structure==b.structure, s
            n += sided
    assert n>700


def test_the_published_names_lead_back_to_themselves():
    table = read_table('published_classes.toml')
    names = [(m, g, o) for m in PREFIX for g,v in table[m].items() for o in v]
    assert len(names)==243
    for mod,group,o in names: assert published(resolve(o, mod, group=='lesion'), group=='lesion')==f'{PREFIX[mod]}_{o}'
    for o in ('left adrenal vein on CT', 'something', 'liver'): assert published(resolve(o)) is None


def test_what_the_rule_of_letters_gets_wrong():
    def got(text): return [getattr(resolve(text), o) for o in ('modality','structure','side')]
    assert got('Urinary bladder in pelvic CT')==['ct','urinary bladder',None]
    assert got('STATUS of the liver')==[None,'liver',None]
    assert got('left and right kidney')==[None,'kidney',None]
    assert got('lower lobe of the left lung')==[None,'lower lobe of the lung','left']
    assert got('Kidney in abdominal CT')==['ct','kidney',None]
    assert got('cervical vertebra C3')==[None,'vertebra C3',None]
    assert got('pleural effusion')==[None,'pleural effusion',None]
    assert resolve('Liver', 'MR').modality=='mri' and resolve('Liver in CT', 'nonsense').modality=='ct'


# ---- properties
PARTS = sorted({o for s in structures().values() for o in s.spoken}|set('left right and in CT showing , / L ( )'.split()))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gets_an_answer(text):
    res = resolve(text)
    assert res.structure is None or res.structure in structures()
    assert res.side in (None,'left','right')
    explain(text)
    other = swap_side(text)  # None where swapping it again would not give it back, as of lefT
    assert other is None or len(tokens(other))==len(tokens(text)) and swap_side(other)==text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=8))
def test_any_jumble_of_names_gets_an_answer(words):
    text = ' '.join(words)
    assert resolve(text).structure in {None, *structures()}
    assert len(tokens(swap_side(text)))==len(tokens(text))


def test_a_very_long_text_is_read_only_in_part():
    for text in ('kidney '*10000, 'x'*100000, None, 5, b'liver'): resolve(text)


def camel(name): return ''.join(w[:1].upper()+w[1:] for w in name.split())
def plural(name): return f'the {name}s' if name[-1].isalpha() and name[-1] not in 'sxaei' and not name.endswith('teeth') else name
def underscores(name): return name.replace(' ', '_')


@pytest.mark.parametrize('form', [str, str.upper, underscores, camel, plural])
def test_every_structure_is_found_by_its_own_name(form):
    bad = []
    for s in structures().values():
        name = form(s.name)
        for side in ('left','right') if s.paired or s.halves else (None,):
            joint = '_' if '_' in name else ' '
            for text in (name,) if not side else (f'{side}{joint}{name}', f'{name}{joint}{side}', f'{name}_{side[0].upper()}'):
                r = resolve(text)
                if (r.structure,r.side)!=(s.name, side or s.side): bad.append((text, r))
    assert not bad, bad[:20]


def test_sentences_made_from_the_table_lead_back():
    gen,bad = make_gen('lead back'),[]
    for name,side in concepts():
        text = say(name, side, structures()[name].mod[0], gen)
        r = resolve(text)
        if (r.structure,r.side)!=(name,side): bad.append((text, r))
        assert swap_side(swap_side(text))==text
        if side in ('left','right') and not structures()[name].side:
            o = resolve(swap_side(text))
            assert (o.structure,o.side)==(name,'right' if side=='left' else 'left'), text
    assert len(bad)<=.005*len(concepts()), bad


# ---- typing errors
def test_known_words_are_never_changed():
    t = word_table()
    words = {o.low for s in structures().values() for text in s.spoken for o in tokens(text)}|set(t['kinds'])|t['others']
    assert not {o: correct(o) for o in words if correct(o)!=o}
    for a,b in (('ilium','ileum'), ('humeral','femoral'), ('C3','L3'), ('laryngeal','pharyngeal'), ('brachial','bronchial'),
                ('metacarpal','metatarsal'), ('perineum','peritoneum'), ('prosthetic','prostatic'), ('coracoid','cricoid'),
                ('ureter','urethra'), ('neuroblastoma','nephroblastoma')):
        assert resolve(a).structure is None or resolve(a).structure!=resolve(b).structure, (a, b)
    for o in 'value center vertical store event personal lived noise median action'.split(): assert resolve(o).structure is None, o


def related(a, b):
    "Is one structure a part of the other, or of the same region?"
    def chain(o):
        while o:
            yield o
            o = structures()[o].part or structures()[o].of
    return set(chain(a))&set(chain(b)) or structures()[a].region==structures()[b].region


def test_one_letter_wrong_is_mostly_forgiven():
    gen,right,astray,n = np.random.default_rng(7),0,[],0
    names = [(o, s.name) for s in structures().values() for o in (s.name, *s.also) if resolve(o).structure==s.name]
    while n<1500:
        text,name = names[gen.integers(len(names))]
        words = list(re.finditer('[A-Za-z]{5,}', text))
        if not words: continue
        m = words[gen.integers(len(words))]
        got = resolve(text[:m.start()]+typo(m[0], gen)+text[m.end():]).structure
        n,right = n+1,right+(got==name)
        if got and got!=name and not related(got, name): astray.append((text, m[0], got))
    assert right>.97*n and len(astray)<.005*n, (right/n, astray)


# ---- the tables
def test_the_table_of_structures_is_sound():
    table = structures()
    rows = [r for g in read_table('structures.toml')['group'] for r in g['rows']]
    assert len(table)==sum(len(r.get('each', [1])) for r in rows), 'two rows with one name'
    for s in table.values():
        assert s.part in {None, *table} and s.of in {None, *table} and s.side in (None,'left','right')
        assert s.mod and set(s.mod)<=set(PREFIX) and s.window in (None,'soft_tissue','bone','lung')
        assert s.window or s.mod[0]=='microscopy', s.name
        assert not (s.paired and s.halves) and not (s.side and s.paired)
    assert (table['lung'].window,table['femur'].window,table['liver'].window,table['rib 3'].window)==('lung','bone','soft_tissue','bone')
    codes = [s.snomed for s in table.values() if s.snomed]
    assert len(codes)>300 and len(codes)==len(set(codes))


def test_codes_are_those_of_dicom():
    concepts = pytest.importorskip('pydicom.sr._concepts_dict').concepts['SCT']
    meaning = defaultdict(set)
    for v in concepts.values():
        for code,(text,_) in v.items(): meaning[code].add(text)
    for s in structures().values():
        if s.snomed: assert any(resolve(o).structure==s.name for o in meaning[s.snomed]), (s.name, s.snomed, meaning[s.snomed])


def test_suggestions_and_explanations():
    assert suggest('hepatc vain')[0]=='hepatic vein' and suggest('xyzzy')==[] and len(suggest('kidney', 2))==2
    d = explain('tumour in the left kidny on CT', instance=True)
    assert (d['structure'],d['side'],d['published'],d['corrected'])==('kidney tumour','left',None,{'kidny': 'kidney'})
    assert explain('Kidney lesions on CT', instance=True)['published']=='CT_Kidney lesions'
    assert explain('wobble')['structure'] is None


def test_the_command_explains_and_lists():
    from medals.cli import main
    def run(*argv):
        out,err = io.StringIO(),io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(['info', *argv])
        return code,out.getvalue(),err.getvalue()
    code,out,_ = run('lefft kidny in abdominal CT')
    assert code==0 and 'CT_Left kidney' in out and 'lefft read as left' in out
    code,out,_ = run('--list')
    assert code==0 and 'urinary bladder' in out and 'rib 1 2 3 4 5 6 7 8 9 10 11 12*' in ' '.join(out.split())
    code,out,_ = run('--list', 'heart')
    assert code==0 and 'atrium' in out and 'liver' not in out
    code,_,err = run('--list', 'nowhere')
    assert code==2 and err.count('\n')==1
    assert 'torch' in run()[1]


# ---- other languages and short names
def test_every_name_of_other_languages_leads_to_its_structure():
    "Rare meanings of short names need the words beside them; nothing else in the table is ambiguous"
    context = {'LV': 'brain', 'PV': 'abdomen', 'LCA': 'knee', 'SMG': 'neck'}
    sides = {'kidney': ('linke Niere','rein gauche','riñón izquierdo','ren sinister','LK'),
             'lung': ('linker Lungenflügel','poumon gauche','pulmón izquierdo','pulmo sinister')}
    assert set(other_names()['structures'])<=set(structures())
    for s in structures().values():
        for k,names in other_names()['structures'].get(s.name, {}).items():
            for o in names:
                text = f'{o} on MRI of the {context[o]}' if k=='maybe' else o
                r = resolve(text)
                assert (r.structure, r.side)==(s.name, s.side or (k if k in ('left','right') else None)), text
    for name,texts in sides.items():
        for o in texts: assert resolve(o)==resolve(f'left {name}') and resolve(swap_side(o)).side=='right', o
    assert explain('LV')['may_mean']==['lateral ventricle'] and explain('LV of the brain')['structure']=='lateral ventricle'


def test_words_of_other_languages_change_no_english_ones():
    "A typing error is corrected to an English word; a foreign word is left as it is"
    assert correct('lever')!='leber' and correct('niere')=='niere' and correct('kidny')=='kidney'
    for text in ('heart rate', 'die cast', 'main menu'): assert (resolve(text).structure in (None,'heart')), text


def test_of_equal_names_the_first_in_the_text_counts():
    assert (resolve('FDI 34 24').structure, resolve('FDI 24 34').structure)==('lower first premolar', 'upper first premolar')
    found = explain('S_orbital_med-olfact costalis S_collateral_transverse_post')['found']
    assert found.index('olfactory sulcus')<found.index('posterior transverse collateral sulcus')
