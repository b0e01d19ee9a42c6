"Samples from keys: the same anywhere, windows and questions as promised, sides that stay true, broken cases, dead workers"
import json
import os
import signal
from argparse import ArgumentParser
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import shared
from medals.data.augment import AUGS, Aug, AugCfg, interpolate
from medals.core import UserError, add_flags, dict_cfg, flags_cfg, make_gen
from medals.base.files import read_lines, write_json, write_lines
from medals.data.batch import masks, to_batch
from medals.data.datasets import held_out
from medals.data.questions import DATA_PRESETS, DataCfg, pick_classes, pick_sentences, questions
from medals.data.sampler import CaseError, Sampler, batches
from medals.data.indexing import index
from medals.prepare import manifest_row, prepare, recipe_for
from medals.data.simulate import PROMPTS, PromptCfg
from medals.data.store import open_case, write_case
from medals.prompts.marks import NAMELESS
from medals.vocab import mirror_kind, swap_side

PATCH = (32,32,32)


def store(folder, sets, patch=PATCH):
    "A store of `{data set: dict(classes, cases, modality, frame)}`; a case is `(image, labels)`"
    rows,said = [],{}
    for name,d in sets.items():
        said[name] = dict(modality=d.get('modality', 'ct'), instance=False, classes={
            k: dict(values=v, sentences=[k, f'{k} in CT', f'a scan of the {k}']) for k,v in d['classes'].items()})
        for i,(x,y) in enumerate(d['cases']):
            at,aff = folder/f'cases/{name}/{i:03d}',np.diag([1.,1.,1.5,1.])
            write_case(at, x, y, aff, d['classes'], said[name]['modality'], orientation=d.get('frame'))
            row = manifest_row(folder, f'{name}/{i:03d}')
            rows.append({**row, 'counts': {**row['counts'], 9: 0}}) # as stores with the published points say it
    write_json(folder/'classes.json', said)
    write_json(folder/'store.json', dict(format=1, recipe=dict(patch=patch, spacing=(1,1,1.5), frame='RAS')))
    write_lines(folder/'manifest.jsonl', rows)
    return folder


def body(shape=(64,48,40), seed=0, dtype=np.uint8, step=1):
    "Two halves, one to the left (low x), two small things in each, and something in the middle"
    y = np.zeros(shape, dtype)
    h = shape[0]//2
    y[4:h],y[h:-4] = 1*step,2*step
    y[8:14,10:16,10:16],y[-14:-8,10:16,10:16],y[h-4:h+4,30:36,20:24] = 3*step,4*step,5*step
    return make_gen('body', seed).integers(1, 255, shape).astype(np.uint8),y


SIDED = {'left lung': [1,3], 'right lung': [2,4], 'left kidney': [3], 'right kidney': [4], 'spleen': [5], 'liver': [9]}


@pytest.fixture(scope='module')
def sided(tmp_path_factory):
    return store(tmp_path_factory.mktemp('sided'), {'CT_body': dict(classes=SIDED, frame='RAS', cases=[body(seed=i) for i in range(3)])})


def same(a, b):
    "Are two samples equal in every field?"
    def eq(u, v): return np.array_equal(u, v) if isinstance(u, np.ndarray) else u==v
    return all(eq(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_a_sample_depends_on_seed_and_key_and_on_nothing_else(sided):
    one,two = Sampler(sided, seed=3),Sampler(str(sided), seed=3)
    keys = [(step, i) for step in range(4) for i in range(4)]
    first = [one.sample(*k) for k in keys]
    assert all(same(a, two.sample(*k)) for a,k in reversed(list(zip(first, keys)))), 'neither the order nor the instance matters'
    assert len({a.labels.tobytes()+a.image.tobytes() for a in first})==len(keys), 'no two keys give the same sample'
    assert not any(same(a, Sampler(sided, seed=4).sample(*k)) for a,k in zip(first, keys))


def test_workers_change_nothing_and_a_later_start_goes_on_the_same(sided):
    sampler = Sampler(sided, seed=3)
    def keys(start, stop): return [[(s, 2*r+i) for i in range(2)] for s in range(start, stop) for r in range(2)]
    want = [[sampler.sample(*k) for k in some] for some in keys(0, 4)]
    for workers,start in ((2,0), (0,2)):
        got = list(batches(sampler, keys(start, 4), workers))
        assert len(got)==len(want[2*start:]) and all(same(a, b) for x,y in zip(got, want[2*start:]) for a,b in zip(x, y))


def test_data_sets_are_drawn_by_weight_over_root_of_their_size(tmp_path):
    x,y = body()
    small = dict(classes={'spleen': [5]}, cases=[(x,y)])
    folder = store(tmp_path/'a', {'autoPET': small, 'CT_Aorta': dict(small, cases=[(x,y)]*9), 'mine': dict(small, cases=[(x,y)]*4)})
    sampler = Sampler(folder)
    want = {'CT_Aorta': 1.*3, 'autoPET': 5.*1, 'mine': 1.*2}
    assert all(abs(sampler.chances[k]-v/10)<1e-9 for k,v in want.items())
    got = [sampler.sample(i).name for i in range(400)]
    for k,v in want.items(): assert abs(np.mean([o.startswith(k) for o in got])-v/10)<4*np.sqrt(v/10*(1-v/10)/400)
    assert len({o for o in got if o.startswith('CT_Aorta')})==9
    (tmp_path/'own.toml').write_text('[weights]\nautoPET = 0\nmine = 3\n')
    assert Sampler(folder, DataCfg(datasets=str(tmp_path/'own.toml'))).chances=={'CT_Aorta': 1/3, 'autoPET': 0, 'mine': 2/3}
    bad = {'[weight]\na = 1': 'there is', '[weights]\na = "x"': 'a should be', '[frames]\na = "LRS"': 'such as PLS', '[': 'not a readable'}
    for text,says in bad.items():
        (tmp_path/'bad.toml').write_text(text)
        with pytest.raises(UserError, match=says): Sampler(folder, DataCfg(datasets=str(tmp_path/'bad.toml')))


def test_held_out_cases_are_never_drawn(tmp_path):
    folder = store(tmp_path/'a', {'set': dict(classes={'spleen': [5]}, cases=[body(seed=i) for i in range(12)])})
    sampler = Sampler(folder, DataCfg(holdout=.4))
    out = {r['name'] for r in sampler.heldout}
    assert out==held_out([f'set/{i:03d}' for i in range(12)], .4) and len(out)==5
    many = [f'{k}/{i}' for k,n in (('a',40), ('b',3), ('c',1)) for i in range(n)]
    assert {k: sum(o[0]==k for o in held_out(many, .25)) for k in 'abc'}==dict(a=10, b=1, c=0)
    assert len(held_out(many, .25)&held_out(many+['a/new'], .25))>=10, 'a new case changes next to nothing'
    assert not out&{sampler.sample(i).name for i in range(100)}
    (tmp_path/'list.txt').write_text('set/003\n\n 005\n')
    assert {r['name'] for r in Sampler(folder, DataCfg(exclude=str(tmp_path/'list.txt'))).heldout}=={'set/003','set/005'}
    with pytest.raises(UserError, match='nothing is left'): Sampler(folder, DataCfg(holdout=1.))
    with pytest.raises(UserError, match='is not there'): Sampler(folder, DataCfg(exclude='nowhere.txt'))


def test_stores_that_do_not_fit_together_are_refused(sided, tmp_path):
    other = store(tmp_path/'b', {'CT_other': dict(classes={'spleen': [5]}, cases=[body()])})
    assert set(Sampler([sided, other]).groups)=={'CT_body','CT_other'}
    one = dict(classes={'spleen': [5]}, cases=[body()])
    for name,sets,patch,says in (('c', {'CT_x': one}, (64,64,64), 'differ in patch'), ('d', {'CT_body': one}, PATCH, 'different classes'),
                                 ('e', {'x': dict(one, modality=None)}, PATCH, 'has no modality')):
        with pytest.raises(UserError, match=says): Sampler([sided, store(tmp_path/name, sets, patch)])
    with pytest.raises(UserError, match='not a store'): Sampler(tmp_path)


def test_the_numbers_of_published_questions():
    "Three present: nothing absent; four: one; ten: three; more than 32: 32 of them; none: 32 absent; sentences fill up to 32"
    cfg = DATA_PRESETS['published']
    for p,n,want in ((3,40,(3,0)), (4,40,(4,1)), (10,40,(10,3)), (31,40,(31,1)), (40,46,(32,0)), (0,46,(0,32)), (0,5,(0,5)), (4,4,(4,0))):
        for i in range(5):
            got,more = pick_classes(np.arange(n)<p, cfg, make_gen('pick', i))
            assert ((got<p).sum(), (got>=p).sum())==want and len(set(got))==len(got)
    for lengths in ([10], [10,3], [11]*4, [2]*3, [9]*32):
        asks = [np.arange(k)+100*i for i,k in enumerate(lengths)]
        said,cls = pick_sentences(asks, cfg, make_gen('say', *lengths))
        assert len(said)==min(32, sum(lengths)) and len(set(said))==len(said) and all(s//100==c for s,c in zip(said, cls))
        counts = np.bincount(cls, minlength=len(lengths))
        assert all(counts[i]<=lengths[i] for i in range(len(lengths)))
        assert counts.max()-min(c for c,k in zip(counts, lengths) if c<k or k>=counts.max())<=1, 'class by class in turn'


@settings(max_examples=100, deadline=None)
@given(present=st.lists(st.booleans(), min_size=1, max_size=60), queries=st.integers(1, 40), forced=st.integers(0, 59), seed=st.integers(0))
def test_default_questions_hold_their_promises(present, queries, forced, seed):
    here,cfg = np.array(present),DataCfg(queries=queries)
    forced = forced%len(here)
    got,more = pick_classes(here, cfg, make_gen(seed), forced)
    assert len(got)<=queries and len(set(got))==len(got) and list(got)==sorted(got)
    assert forced in got or not here[forced] and here[got].sum()==min(queries, here.sum())
    p = here[got].sum()
    assert p==min(queries, here.sum())
    room = queries-p
    assert (~here[got]).sum()+more==min(room, max(1, int(.33*p)) if p else 4)


@pytest.mark.parametrize('aug', ['none', 'default'])
def test_the_forced_class_is_in_the_window_and_asked_for(sided, aug):
    "Even a structure of 6 voxels at the border, in turned windows, with room for one question only"
    strong = aug if aug=='none' else replace(AUGS['default'], turn=1., scales=(.7,1.1), scale=1.)
    sampler = Sampler(sided, DataCfg(forced=1., queries=1, aug=strong))
    asked = [sampler.sample(i) for i in range(60)]
    assert all(s.present.all() and len(s.query)==1 for s in asked)
    seen = {s.classes[0] for s in asked}
    assert seen==set(SIDED)-{'liver'}, 'every class that a case has is forced in turn'
    assert {sampler.sets['CT_body'].names[i] for r in sampler.cases for i in r['here']}==seen


def test_left_stays_left_in_every_mirror(sided):
    "In a RAS store what is called left always lies at lower x, whichever axes were mirrored"
    sampler,seen = Sampler(sided, DataCfg(aug=AugCfg(turn=0., scale=0.), patch=(64,48,40))),set()
    for i in range(40):
        s = sampler.sample(i)
        seen.add(s.aug.mirror)
        at = {n: np.argwhere(s.table[:,k][s.labels])[:,0].mean() for k,n in enumerate(s.classes) if s.present[k]}
        assert at['left lung']<at['right lung'] and at['left kidney']<at['right kidney']
        for k,n in enumerate(s.classes):
            words = {sampler.sentences[q][0] for q,c in zip(s.query, s.cls) if c==k}
            assert all(n in w for w in words), 'a class is asked for under the name that it has in the mirror'
    assert len(seen)==8
    assert all(s.table[:,list(s.classes).index('left kidney')][3 if not s.aug.mirror[0] else 4] for s in map(sampler.sample, range(10)))


def test_published_mirrors_leave_the_words_alone(sided):
    sampler = Sampler(sided, replace(DATA_PRESETS['published'], patch=(64,48,40)))
    s = next(s for s in map(sampler.sample, range(40)) if s.aug.mirror[0] and not s.aug.moves)
    c = list(s.classes).index('left kidney')
    assert s.table[3,c] and not s.table[4,c]


def test_mirrors_need_to_know_where_left_is(tmp_path):
    def mirrored(folder, **kw):
        sampler = Sampler(folder, DataCfg(**kw))
        return np.any([sampler.sample(i).aug.mirror for i in range(60)], 0).tolist()
    x,y = body()
    one = {'left kidney': [3]}
    unknown = store(tmp_path/'a', {'s': dict(classes=SIDED, cases=[(x,y)])})
    assert mirrored(unknown)==[False]*3 and mirrored(unknown, published=True)==[True]*3
    assert mirrored(store(tmp_path/'b', {'s': dict(classes={'spleen': [5]}, cases=[(x,y)])}))==[True]*3
    (tmp_path/'own.toml').write_text('[frames]\ns = "PLS"\n')
    assert mirrored(unknown, datasets=str(tmp_path/'own.toml'))==[True]*3
    heart = store(tmp_path/'c', {'s': dict(classes={'left ventricle of the heart': [3]}, cases=[(x,y)], frame='PLS')})
    assert mirrored(heart)==[True,False,True], 'a left ventricle does not become a right one'
    alone = Sampler(store(tmp_path/'d', {'s': dict(classes=one, cases=[(x,y)], frame='RAS')}))
    words = {(s.aug.mirror[0], alone.sentences[s.query[0]][0].lower()) for s in map(alone.sample, range(80))}
    assert all(('right' if m else 'left') in w for m,w in words) and len(words)==6, 'without a counterpart the words are exchanged'


@pytest.mark.parametrize('name, says, want', [
    ('Left kidney', (), 'swap'), ('kidney_R', (), 'swap'), ('Spleen', (), 'none'), ('Left and right lung', (), 'none'),
    ('lobe', ('the left lobe',), 'swap'),
    ('Left ventricle of the heart', (), 'fixed'), ('bright spot', ('a brightly lit leftover',), 'none')])
def test_classes_know_whether_they_have_a_side(name, says, want): assert mirror_kind(name, says)==want


@given(st.text('lrLRefightLEFT _-', max_size=30))
def test_swapping_sides_twice_changes_nothing(text):
    once = swap_side(text)
    assert once is None or swap_side(once)==text


@pytest.mark.parametrize('dtype, step', [(np.uint8,1), (np.uint16,300)])
def test_classes_are_sets_of_values_and_instances_are_all(tmp_path, dtype, step):
    x,y = body(dtype=dtype, step=step)
    classes = {'a': [step,3*step], 'b': [5*step], 'objects': None}
    folder = store(tmp_path/'s', {'s': dict(classes=classes, cases=[(x,y)])})
    sampler = Sampler(folder, DataCfg(aug='none', patch=(64,48,40), strangers=0.))
    s = sampler.sample(0)
    assert s.labels.dtype==np.uint8 and s.table.shape==(256,3) and s.present.all()
    m = masks(torch.as_tensor(s.labels), s.table).numpy()
    for k,v in classes.items(): assert np.array_equal(m[s.classes.index(k)], y>0 if v is None else np.isin(y, v))


def test_a_single_class_is_not_the_only_question(tmp_path):
    "Where it is, something of another body region is asked for too; where regions are not known, nothing is"
    x,y = body()
    sampler = Sampler(store(tmp_path/'a', {'MR_brain': dict(classes={'hippocampus': [3]}, cases=[(x,y)], modality='mri')}),
                      DataCfg(forced=1., aug='none', strangers=1.))
    got = [sampler.sample(i) for i in range(20)]
    assert all(s.present.tolist()==[True,False] and sampler.sentences[s.query[1]][1]=='mri' for s in got)
    assert len({s.classes[1] for s in got})>5 and not any('hippoc' in s.classes[1] for s in got)
    unknown = store(tmp_path/'b', {'MR_x': dict(classes={'gizmo': [3]}, cases=[(x,y)], modality='mri')})
    odd = Sampler(unknown, DataCfg(forced=1., aug='none', strangers=1.))
    assert all(s.present.tolist()==[True] for s in map(odd.sample, range(10)))


def test_published_samples_have_a_channel_per_sentence(sided):
    sampler = Sampler(sided, DATA_PRESETS['published'])
    for i in range(10):
        s = sampler.sample(i)
        assert s.cls.tolist()==list(range(len(s.query))) and len(s.classes)==len(s.query)==min(32, 3*len(set(s.classes)))
    assert len(Sampler(sided).sample(0).query)==len(Sampler(sided).sample(0).classes)


def test_a_batch_is_what_the_samples_say(sided):
    sampler = Sampler(sided, DataCfg(prompt=replace(PROMPTS['default'], none=0.)))
    drawn = [sampler.sample(i) for i in range(60)]
    most = max((s for s in drawn if not s.aug.moves), key=lambda s: len(s.classes))
    some = [most, next(s for s in drawn if s.aug.moves and len(s.classes)<len(most.classes))]
    some[0] = replace(some[0], query=np.append(some[0].query, some[0].query[:1]), cls=np.append(some[0].cls, some[0].cls[:1]))
    b = to_batch(some)
    nq,nc = max(len(s.query) for s in some),max(len(s.classes) for s in some)
    assert b.x.shape==(2,1,*PATCH) and b.x.dtype==torch.float32 and 0<=b.x.min() and b.x.max()<=255
    assert b.query.shape==b.cls.shape==b.valid.shape==(2,nq) and b.m.shape==b.p.shape==(2,nc,*PATCH) and b.m.dtype==b.p.dtype==torch.bool
    assert b.fg is None and b.names==[s.name for s in some] and b.valid.sum(1).tolist()==[len(s.query) for s in some]
    for i,s in enumerate(some):
        for c in range(len(s.classes)): assert np.array_equal(b.m[i,c].numpy(), s.table[:,c][s.labels])
        assert not b.m[i,len(s.classes):].any() and b.query[i,:len(s.query)].tolist()==s.query.tolist()
    p = b.prompts()
    assert torch.equal(p[0,-1], b.p[0,0]) and not p[1,len(some[1].query):].any()
    again = to_batch(some)
    assert torch.equal(b.x, again.x) and torch.equal(b.p, again.p)
    pub = Sampler(sided, replace(DATA_PRESETS['published'], prompt=replace(PROMPTS['published'], none=0.)))
    b = to_batch([pub.sample(0)])
    assert b.fg.shape==(1,1,*PATCH) and b.fg.dtype==torch.bool
    assert to_batch([replace(o, prompt=PROMPTS['none']) for o in some]).p is None


def test_grey_values_and_labels_come_from_where_the_affine_says(sided):
    still = dict.fromkeys(('noise','blur','bright','contrast','coarse','inverse','gamma'), 0.)
    sampler = Sampler(sided, DataCfg(aug=AugCfg(**still, turn=.5)))
    for i in range(12):
        s = sampler.sample(i)
        case = open_case(sided/'cases'/s.name)
        mat = np.linalg.inv(case.affine)@s.affine
        whole = interpolate(torch.as_tensor(case.image[:])[None], mat, PATCH)
        assert (to_batch([s]).x[0]-whole).abs().max()<.1


def test_a_sample_is_two_bytes_per_voxel_and_small_tables(sided):
    for s in map(Sampler(sided, DataCfg(aug='none')).sample, range(5)): assert s.nbytes<2*32**3+10_000


def test_windows_zoom_to_the_class_when_asked(sided):
    sampler = Sampler(sided, DataCfg(forced=1., fit=1., queries=1, aug=AUGS['none'], insist=True))
    scales = {}
    for s in map(sampler.sample, range(60)): scales.setdefault(s.classes[0].split()[-1], []).append(s.aug.scale)
    assert all(.5<=o<=1 for o in scales['kidney']), 'closer to what is small'
    assert all(1<=o<=2 for o in scales['lung']), 'further from what is large'


def damage(folder, name):
    "One of the ways in which a case can be broken"
    f = folder/name
    if name=='image.b2nd': f.write_bytes(f.read_bytes()[:100])
    elif name=='labels.b2nd': f.unlink()
    elif name=='points.npz': f.write_bytes(b'PK\x03\x04')
    else: f.write_text('{"shape": [1')


@pytest.mark.parametrize('name', ['image.b2nd', 'labels.b2nd', 'points.npz', 'case.json'])
def test_a_broken_case_is_named_or_passed_over(tmp_path, name):
    folder = store(tmp_path/'a', {'s': dict(classes={'spleen': [5]}, cases=[body(seed=i) for i in range(3)])})
    damage(folder/'cases/s/001', name)
    with pytest.raises(CaseError, match=r'case s/001 cannot be read.*prepare it again'):
        for i in range(40): Sampler(folder, DataCfg(forced=1.)).sample(i)
    sampler = Sampler(folder, DataCfg(forced=1., patience=2))
    got = [sampler.sample(i) for i in range(40)]
    told = [t for s in got for t in s.trouble]
    assert {s.name for s in got}=={'s/000','s/002'} and len(told)==2 and {t[0] for t in told}=={'s/001'}
    fresh = Sampler(folder, DataCfg(forced=1., patience=2))
    assert all(np.array_equal(fresh.sample(i).labels, got[i].labels) for i in (39, 20)), 'its place is taken by what the key says'
    for other in ('000','002'): damage(folder/'cases/s'/other, name)
    with pytest.raises(UserError, match='20 cases in a row'): Sampler(folder, DataCfg(forced=1., patience=99)).sample(0)


class Deadly(Sampler):
    "A sampler whose process is killed at one key"
    def sample(self, *key):
        if key==(2,0): os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(*key)


def test_a_dead_worker_and_a_broken_case_end_in_a_sentence(sided, tmp_path):
    asked,got = [],[]
    def endless():
        while True:
            asked.append(len(asked))
            yield [(asked[-1],0)]
    with pytest.raises(UserError, match='a process that draws samples died'):
        for some in batches(Deadly(sided), endless(), workers=1, ahead=3): got.append(some)
    assert len(got)<=2 and len(asked)<=6, 'keys are asked for as they are needed'
    folder = store(tmp_path/'a', {'s': dict(classes={'spleen': [5]}, cases=[body()])})
    damage(folder/'cases/s/000', 'image.b2nd')
    with pytest.raises(UserError, match='case s/000 cannot be read'): next(batches(Sampler(folder), [[(0,0)]], workers=1))


def test_settings_are_flags_and_json(sided):
    parser = ArgumentParser()
    add_flags(parser, DataCfg)
    args = parser.parse_args(['--patch', '64,96,64', '--forced', '.5', '--no-insist', '--aug', 'published'])
    cfg = flags_cfg(args, DataCfg)
    assert cfg==DataCfg(patch=(64,96,64), forced=.5, insist=False, aug='published')
    assert dict_cfg(DataCfg, json.loads(json.dumps(asdict(cfg))))==cfg
    second = parser.parse_args(['--patch', '64,96,64', '--forced-share', '.5', '--no-always-ask-forced', '--aug', 'published'])
    saved = dict(patch=[64,96,64], forced_share=.5, always_ask_forced=False, aug='published')
    assert flags_cfg(second, DataCfg)==cfg==dict_cfg(DataCfg, saved)
    with pytest.raises(UserError, match='are one setting'): dict_cfg(DataCfg, dict(forced=.5, forced_share=.2))
    own = DataCfg(aug=AugCfg(turn=.7), prompt=PromptCfg(block=(4,), none=0.))
    back = Sampler(sided, dict_cfg(DataCfg, json.loads(json.dumps(asdict(own)))))
    assert (back.aug, back.prompt)==(own.aug, own.prompt)
    for bad in (dict(aug='strong'), dict(prompt='x'), dict(patch=(1,2)), dict(queries=0)):
        with pytest.raises(UserError): DataCfg(**bad)


def test_sentences_form_one_list_without_repeats(sided):
    sampler = Sampler(sided)
    assert len(set(sampler.sentences))==len(sampler.sentences) and all(m=='ct' for _,m in sampler.sentences)
    q = sampler.sets['CT_body']
    assert [sampler.sentences[o[0]][0] for o in q.asks]==list(SIDED) and q.mirrored[0]==q.asks[1] and q.mirrored[4]==q.asks[4]
    seen = {}
    plain = dict(modality='ct', classes={k: dict(values=v, sentences=[k]) for k,v in SIDED.items()})
    again = questions(plain, lambda *o: seen.setdefault(o, len(seen)))
    assert again.called[:2]==('right lung','left lung')


mini = shared/'data/mini'


@pytest.mark.skipif(not mini.exists(), reason='the small real data set is not on this machine')
def test_real_cases(tmp_path):
    "Two head and neck CT and two hippocampus MR: truth in the right place, sides not mirrored, prompts near the truth"
    index(mini, tmp_path/'t.jsonl', mini/'prompts.json', workers=1)
    rows = [r for k in ('CT_headneck','MR_hippocampus') for r in [o for o in read_lines(tmp_path/'t.jsonl') if o['dataset']==k][:2]]
    write_lines(tmp_path/'t.jsonl', rows)
    prepare(tmp_path/'t.jsonl', tmp_path/'st', recipe_for('nano', spacing=(2.,2.,2.), patch=(64,64,64)), workers=1).stop(4)
    sampler = Sampler(tmp_path/'st', DataCfg(forced=1., prompt=replace(PROMPTS['default'], none=0.)))
    seen = set()
    for i in range(12):
        s = sampler.sample(i)
        assert s.present.any() and (s.dataset!='CT_headneck' or not any(s.aug.mirror))
        b = to_batch([s])
        seen |= {c for c,p in zip(s.classes, s.present) if p}
        case = open_case(tmp_path/'st/cases'/s.name)
        want = interpolate(torch.as_tensor(case.image[:])[None], np.linalg.inv(case.affine)@s.affine, (64,64,64))
        if s.aug==replace(Aug(), **{k: getattr(s.aug, k) for k in ('angles','scale','mirror','seed')}): assert (b.x[0]-want).abs().max()<.1
        assert b.m.any() and (b.p is None or not (b.p&~b.m).all())
    assert {'Left parotid gland','Anterior hippocampus'}<=seen


def test_one_in_eight_marked_structures_loses_its_name(sided):
    sampler = Sampler(sided, DataCfg(aug='none'))
    plain = Sampler(sided, DataCfg(aug='none', nameless=0.))
    assert set(sampler.sentences)-set(plain.sentences)=={(NAMELESS, kind) for _,kind in plain.sentences}
    shown = nameless = 0
    for i in range(60):
        a,b = (to_batch([s.sample(i)]) for s in (sampler, plain))
        prompts = a.prompts()
        index = sampler.nameless[sampler.sample(i).modality]
        lost = a.query[0]==index
        assert torch.equal(a.query[0][~lost], b.query[0][~lost])
        has = torch.zeros_like(lost) if prompts is None else prompts[0].flatten(1).any(1)
        assert not (lost&~has).any(), 'who has no mark keeps the name'
        shown += int(has.sum())
        nameless += int(lost.sum())
    assert shown>30 and .03<nameless/shown<.3
    assert DATA_PRESETS['published'].nameless==0


def test_classes_that_are_always_asked(tmp_path):
    "In every window in which they are, also where there is room for few; a name that no store has is refused"
    x,y = body()
    classes = {'hippocampus': [1], 'amygdala': [2], 'thalamus': [3]}
    place = store(tmp_path/'a', {'MR_brain': dict(classes=classes, cases=[(x,y)], modality='mri')})
    sampler = Sampler(place, DataCfg(aug='none', queries=2, least=0, negatives=0., always=' thalamus, '))
    seen = [sampler.sample(i) for i in range(30)]
    with_thalamus = [s for s in seen if (s.labels==3).any()]
    assert with_thalamus and all('thalamus' in s.classes for s in with_thalamus)
    with pytest.raises(UserError, match='always names kidney, and the stores have the classes amygdala'):
        Sampler(place, DataCfg(always='kidney,thalamus'))
