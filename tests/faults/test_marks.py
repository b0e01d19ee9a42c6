"Marks: one file for the Studio and the command line, and nothing in it is taken to mean something else"
import json
import math
import os
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medals.cli import main
from medals.core import UserError
from medals.inference.request import make_request
from medals.spatial import Box, Lasso, Mask, Point, Scribble, rasterize, read_marks, write_marks
from medals.volume import Volume, phantom, read_labels, write_labels, write_volume
from medals.widgets import Studio

DRAWS = int(os.environ.get('MEDALS_DRAWS', 500)) # of random files; 10000 for a thorough look
SHAPE = (7,6,5)
CODES = ('RAS','LPS','PIL','SRA','AIR','ILP')
KINDS = (Point, Box, Scribble, Lasso, Mask)


def scan_of(shape=SHAPE, spacing=(1.,2.,3.), turn=.3):
    "A scan that lies askew in the patient"
    c,s = np.cos(turn),np.sin(turn)
    affine = np.eye(4)
    affine[:3,:3] = np.array([[c,-s,0],[s,c,0],[0,0,1]])@np.diag(spacing)
    affine[:3,3] = (-30.25,10.5,5.125)
    return Volume(np.zeros(shape, np.int16), affine)


SCAN = scan_of()


def write(path, said, encoding='utf-8'):
    path.write_text(said if isinstance(said, str) else json.dumps(said), encoding=encoding)
    return path


def same(a, b):
    "Are two marks equal? Masks are compared voxel by voxel"
    if type(a) is not type(b): return False
    def value(o, f): return getattr(o, f.name)
    return all(np.array_equal(value(a, f), value(b, f)) for f in fields(a))


# ---- strategies: marks that lie on SCAN

def places(unit):
    voxels = st.tuples(*[st.floats(0, n-1, width=32) | st.integers(0, n-1) for n in SHAPE])
    if unit=='voxel': return voxels
    return voxels.map(lambda p: tuple((SCAN.affine@[*p, 1])[:3].tolist()))


@st.composite
def marks(draw):
    kind,unit,positive = draw(st.sampled_from(KINDS)),draw(st.sampled_from(('voxel','mm'))),draw(st.booleans())
    radius = draw(st.floats(0, 9) | st.integers(0, 9))
    if kind is Point: return Point(draw(places(unit)), radius, positive, unit)
    if kind is Scribble: return Scribble(draw(st.lists(places(unit), min_size=1, max_size=4)), radius, positive, unit)
    if kind is Mask:
        bits = draw(st.integers(0, 2**math.prod(SHAPE)-1))
        data = np.array([int(o) for o in f'{bits:0{math.prod(SHAPE)}b}'], bool).reshape(SHAPE)
        return Mask(data, positive, draw(st.sampled_from(('join','replace'))))
    if kind is Box:
        lo = [draw(st.integers(0, n-1)) for n in SHAPE]
        hi = [draw(st.integers(a+1, n+2)) for a,n in zip(lo, SHAPE)]
        if unit=='voxel': return Box(lo, hi, positive)
        return Box(*[(SCAN.affine@[*p, 1])[:3] for p in (lo, hi)], positive, 'mm')
    axis = draw(st.integers(0, 2))
    i = draw(st.integers(0, SHAPE[axis]-1))
    points = [[*p[:axis], i, *p[axis+1:]] for p in draw(st.lists(places('voxel'), min_size=3, max_size=5))]
    if unit=='mm': points = [(SCAN.affine@[*p, 1])[:3] for p in points]
    return Lasso(points, axis, positive, unit)


# ---- one reader, one writer

def test_2_8_what_the_studio_saves_the_command_line_obeys(tmp_path, capsys):
    vol,_,_ = phantom()
    scan = vol.reorient('PIL')
    write_volume(tmp_path/'head.nii.gz', scan)
    write_volume(tmp_path/'other_order.nii.gz', vol.reorient('RAS'))
    studio = Studio(None, scan, out=tmp_path/'mine')
    whole = np.zeros(scan.shape, bool)
    whole[20:30,20:30,20:30] = True
    studio.marks = {'white matter': [Mask(whole, mode='replace'), Point((40,30,35), 12.), Box((25,25,25), (28,29,27), positive=False)]}
    studio.save()
    want = scan.like(studio.drawn['white matter'].astype(np.uint8)).reorient('RAS').data>0
    own = rasterize([studio.marks['white matter'][1:2], studio.marks['white matter'][2:]], scan.shape, scan.affine)
    set_by_point = scan.like(own[0].astype(np.uint8)).reorient('RAS').data>0
    taken = scan.like(rasterize([replace(studio.marks['white matter'][2], positive=True)], scan.shape, scan.affine)[0].astype(np.uint8))
    taken = taken.reorient('RAS').data>0
    assert want[set_by_point].all() and not want[taken&~set_by_point].any()
    for name,source in (('head','mine'), ('other_order','mine/marks.json')):
        out = tmp_path/f'{name}_wm.nii.gz'
        args = ['segment', tmp_path/f'{name}.nii.gz', 'white matter', '--marks', tmp_path/source, '-o', out, '--presence', '0']
        assert not main(list(map(str, args))), capsys.readouterr().err
        got = read_labels(out)[0].reorient('RAS').data>0
        assert got[set_by_point].all() and not got[taken].any(), name


def test_2_8_the_studio_opens_what_others_write(tmp_path):
    "Both spellings, both layouts of former days, a file or its folder"
    m = np.zeros(SHAPE, bool)
    m[2:4,1:3,2] = True
    write_labels(tmp_path/'m.nii.gz', m.astype(np.uint8), SCAN)
    said = {'a': [dict(kind='Point', at=[1,2,3]), dict(kind='point', at=[1,2,3], radius=2., unit='voxel', positive=False),
                  dict(kind='Mask', file='m.nii.gz', positive=True), dict(kind='mask', data='m.nii.gz', mode='replace')],
            'b': [dict(kind='Lasso', points=[[1,1,1],[4,1,1],[4,4,1]], axis=2, positive=True, unit='voxel')]}
    path = write(tmp_path/'marks.json', said)
    for source in (path, str(path), tmp_path):
        studio = Studio(None, SCAN, marks=source)
        assert studio.marks['a'][:2]==(Point((1,2,3)), Point((1,2,3), 2., False)) and studio.sentences==('a','b')
        assert same(studio.marks['a'][2], Mask(m)) and same(studio.marks['a'][3], Mask(m, mode='replace'))
        assert studio.marks['b']==(Lasso(((1,1,1),(4,1,1),(4,4,1))),)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.dictionaries(st.text(min_size=1).filter(lambda o: o.strip() and o!='@scan'), st.lists(marks(), max_size=4), max_size=3))
def test_2_8_marks_are_read_back_equal(tmp_path, said):
    path = write_marks(tmp_path/'work', said, SCAN)
    for back in (read_marks(path, SCAN), read_marks(tmp_path/'work'), read_marks(path.parent, SCAN)):
        assert list(back)==list(said)
        for k,ms in said.items(): assert len(back[k])==len(ms) and all(map(same, back[k], ms))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mark=marks(), codes=st.sampled_from(CODES))
def test_2_8_a_mark_lands_on_the_same_voxels_in_another_order_of_axes(tmp_path, mark, codes):
    if isinstance(mark, (Point, Scribble)): # a ball so small that it holds no center takes the nearest one, and of two the even one
        mark = replace(mark, radius=round(mark.radius)+2.37)
    path = write_marks(tmp_path/'turned', {'a': [mark]}, SCAN)
    other = SCAN.reorient(codes)
    (back,), = read_marks(path, other).values()
    whole = Mask(np.ones(SHAPE, bool))
    want = rasterize([mark if mark.positive else [whole, mark]], SCAN.shape, SCAN.affine)[0]
    got = rasterize([back if back.positive else [Mask(np.ones(other.shape, bool)), back]], other.shape, other.affine)[0]
    got = other.like(got.astype(np.uint8)).onto(SCAN).data>0
    assert np.array_equal(got, want)


def test_2_8_voxels_of_another_scan_are_refused_and_mm_are_not(tmp_path):
    path = write_marks(tmp_path/'marks.json', {'a': [Point((1,2,3))]}, SCAN)
    moved = replace(SCAN, affine=SCAN.affine+np.array([[0,0,0,1.5],[0]*4,[0]*4,[0]*4]))
    other = scan_of((8,6,5))
    for scan in (moved, other):
        says = "'a': mark 1: a point counts the voxels of another scan, give it in mm"
        with pytest.raises(UserError, match=says): read_marks(path, scan)
    assert read_marks(path, moved, same_voxels=True)=={'a': [Point((1,2,3))]}
    mm = Point(tuple((SCAN.affine@[3,3,3,1])[:3]), unit='mm')
    path = write_marks(tmp_path/'marks.json', {'a': [mm]}, SCAN)
    assert read_marks(path, moved)==read_marks(path, other)=={'a': [mm]}
    path = write_marks(tmp_path/'masks', {'a': [Mask(np.ones(SHAPE, bool))]}, SCAN)
    with pytest.raises(UserError, match="'a': mark 1: .*does not lie on"): read_marks(path, moved)


def test_2_8_saving_again_leaves_nothing_old_and_touches_nothing_foreign(tmp_path):
    m = np.arange(math.prod(SHAPE)).reshape(SHAPE)%2==0
    foreign = {'mark_2.nii.gz': b'mine', 'mark_3.json': b'{"my": "notes"}', 'drawn.txt': b'x'}
    for name,text in foreign.items(): (tmp_path/name).write_bytes(text)
    write_marks(tmp_path, {'a': [Mask(m), Mask(~m)], 'b': [Mask(m)]}, SCAN)
    assert all((tmp_path/k).read_bytes()==v for k,v in foreign.items())
    many = {o.name for o in tmp_path.glob('*.nii.gz')}
    write_marks(tmp_path, {'a': [Mask(~m)]}, SCAN)
    left = {o.name for o in tmp_path.glob('*.nii.gz')}
    assert len(many)==4 and len(left)==2 and 'mark_2.nii.gz' in left
    assert all((tmp_path/k).read_bytes()==v for k,v in foreign.items())
    assert np.array_equal(read_marks(tmp_path, SCAN)['a'][0].data, ~m)


def test_2_8_masks_that_somebody_else_named_are_not_ours_to_remove(tmp_path):
    write_labels(tmp_path/'mark_1.nii.gz', np.full(SHAPE, 7, np.uint8), SCAN)
    write(tmp_path/'marks.json', {'a': [dict(kind='mask', data='mark_1.nii.gz')]})
    studio = Studio(None, SCAN, marks=tmp_path, out=tmp_path)
    studio.marks = {'a': [Point((1,1,1))]}
    with pytest.raises(UserError, match='did not write it'): studio.save() # nor is the list of marks that names them
    assert isinstance(read_marks(tmp_path, SCAN)['a'][0], Mask) and (read_labels(tmp_path/'mark_1.nii.gz')[0].data==7).all()


def test_2_8_a_save_that_breaks_off_leaves_the_old_marks(tmp_path, monkeypatch):
    m = np.ones(SHAPE, bool)
    write_marks(tmp_path, {'a': [Mask(m), Point((1,1,1))]}, SCAN)
    import medals.spatial
    def broken(*args): raise OSError('disk full')
    monkeypatch.setattr(medals.spatial, 'write_json', broken)
    with pytest.raises(OSError): write_marks(tmp_path, {'a': [Mask(~m)]}, SCAN)
    mask,point = read_marks(tmp_path, SCAN)['a']
    assert mask.data.all() and point==Point((1,1,1))


def test_2_8_a_saved_studio_forgets_what_is_drawn_no_more(tmp_path):
    studio = Studio(None, SCAN, out=tmp_path)
    studio.marks = {'a': [Point((1,1,1))], 'b': [Point((2,2,2))], 'c': [Box((0,0,0), (2,2,2))]}
    studio.save()
    studio.marks = {'b': [Point((2,2,2))]}
    studio.save()
    assert [o.name for o in tmp_path.glob('drawn_*.nii.gz')]==['drawn_1.nii.gz']
    assert read_labels(tmp_path/'drawn_1.nii.gz')[1]=={1: 'b'}


@pytest.mark.parametrize('code', ['utf-8','utf-8-sig','utf-16','utf-32'])
def test_3_9_marks_in_any_encoding_of_unicode(tmp_path, code):
    said = {'Leber, links, größer': [dict(kind='point', at=[1,2,3])]}
    path = write(tmp_path/'m.json', json.dumps(said, ensure_ascii=False), code)
    assert read_marks(path, SCAN)=={'Leber, links, größer': [Point((1,2,3))]}


# ---- what is typed

POINT,BOX = dict(kind='point', at=[1,2,3]),dict(kind='box', lo=[1,1,1], hi=[3,3,3])
STROKE,LOOP = dict(kind='scribble', points=[[1,1,1],[2,2,2]]),dict(kind='lasso', points=[[1,1,1],[4,1,1],[4,4,1]])
MASK = dict(kind='mask', data='m.nii.gz')
WRONG = [
    *[(POINT, dict(positive=v), 'positive of a point should be true or false') for v in ('false', 'no', 'true', -1, 0, 1, None, [], 0.)],
    *[(POINT, dict(at=v), 'at of a point should be three numbers') for v in (
        [], [1], [1,2], [1,2,3,4], [1,2,3,4,5,6], '1,2,3', 'xyz', None, math.nan, [1,2,math.nan], [1,2,math.inf], [1,2,None], [1,2,'3'],
        [True,1,1], [[1,2,3]], [1,2,[3]], {'x': 1}, 5, 1e300, [1e300,1,1], [10**400,0,0], [-10**4000,0,0], [1e7,0,0])],
    *[(POINT, dict(radius=v), 'radius of a point should be a number of mm') for v in (
        '3', -3, -1e-9, math.nan, math.inf, True, None, [3], 1e300)],
    *[(POINT, dict(unit=v), "unit of a point should be 'voxel' or 'mm'") for v in ('cm', 'voxels', 'MM', '', None, 1, ['mm'], {})],
    *[(BOX, {k: v}, f'{k} of a box should be three numbers') for k in ('lo','hi') for v in ([1,2], [1,2,3,4], '9', None, [1,2,math.nan])],
    *[(BOX, dict(lo=v), 'is empty') for v in ([3,1,1], [1,4,1], [9,9,9])],
    *[(STROKE, dict(points=v), 'points of a scribble should be a list of positions') for v in (
        [], [[]], [[1,2]], [[1,1],[2,2]], [1,2,3], [[1,2,3],[1,2]], '1', None, {}, [[1,2,3], None], [['1','2','3']])],
    *[(LOOP, dict(axis=v), 'axis of a lasso should be 0, 1 or 2') for v in (5, 3, -1, 'z', '2', 1.5, None, True, [2], math.nan)],
    (LOOP, dict(points=[[1,1,1],[2,2,1]]), 'should be three points or more, got 2'),
    (LOOP, dict(points=[[1,1],[4,1],[4,4]]), 'points of a lasso should be a list of positions'),
    (LOOP, dict(points=[[1,1,0],[4,1,2],[4,4,4]]), 'should lie in one slice of axis 2'),
    *[(MASK, dict(data=v), 'data of a mask should be the name of a file') for v in (
        [[[1]]], [], None, 3, True, {}, '', '.', 'none.nii.gz', '..', 'a\0b', 'x'*5000)],
    (MASK, dict(data='other.nii.gz'), 'does not lie on'), (MASK, dict(data='notes.txt'), 'notes.txt'),
    (MASK, dict(data='broken.nii.gz'), 'broken'),
    *[(MASK, dict(mode=v), "mode of a mask should be 'join' or 'replace'") for v in ('add', '', None, 1, ['join'])],
    (MASK, dict(unit='mm'), "a mask with 'unit'"), (MASK, dict(file='m.nii.gz'), "a mask with 'file'"),
    (POINT, dict(file='m.nii.gz'), "a point with 'file'"), (BOX, dict(radius=3), "a box with 'radius'"),
    (POINT, dict(size=3), "a point with 'size', which is no field of it; it has at, radius, positive, unit"),
    *[(POINT, dict(kind=v), 'no known kind') for v in ('star', '', None, 3, ['point'], {}, True)],
    (POINT, dict(at=[7,2,3]), 'outside the scan'), (POINT, dict(at=[-1,2,3]), 'outside the scan'),
    (BOX, dict(lo=[50]*3, hi=[60]*3), 'outside the scan'), (POINT, dict(at=[900,2,3], unit='mm'), 'is it of this scan'),
    (STROKE, dict(points=[[1,1,1],[1,1,99]]), r'at voxel \(1.0, 1.0, 99.0\) lies outside'),
    (BOX, dict(lo=[0,0,.1], hi=[.1,.1,.2], unit='mm'), 'is empty'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Files that a mask may name"
    out = tmp_path_factory.mktemp('marks')
    m = np.zeros(SHAPE, np.uint8)
    m[2:4,1:3,2] = 1
    write_labels(out/'m.nii.gz', m, SCAN)
    write_labels(out/'other.nii.gz', np.ones((3,3,3), np.uint8), scan_of((3,3,3)))
    (out/'broken.nii.gz').write_bytes(b'nothing')
    (out/'notes.txt').write_text('a note')
    return out


@pytest.mark.parametrize('base, change, says', WRONG, ids=range(len(WRONG)))
def test_4_1_every_field_says_what_it_may_hold(folder, base, change, says):
    path = write(folder/'wrong.json', {'liver': [POINT, {**base, **change}]})
    with pytest.raises(UserError, match=says) as e: read_marks(path, SCAN)
    said = str(e.value)
    assert said.startswith(str(path)) and "sentence 'liver': mark 2: " in said and '\n' not in said and len(said)<600


@pytest.mark.parametrize('base', [POINT, BOX, STROKE, LOOP, MASK], ids=lambda o: o['kind'])
def test_4_1_what_is_missing_is_named(folder, base):
    for k in set(base)-{'kind'}:
        path = write(folder/'missing.json', {'liver': [{a: b for a,b in base.items() if a!=k}]})
        says = f"'liver': mark 1: {k} of a {base['kind']} is missing; it should be"
        with pytest.raises(UserError, match=says): read_marks(path, SCAN)
    assert len(read_marks(write(folder/'whole.json', {'liver': [base]}), SCAN)['liver'])==1


@pytest.mark.parametrize('text, says', [
    ('[]', 'should hold a list of marks per sentence'), ('3', 'a list of marks per sentence'),
    ('null', 'a list of marks per sentence'), ('"liver"', 'a list of marks per sentence'),
    ('{"liver": {"kind": "point", "at": [1,2,3]}}', "'liver': a sentence should have a list of marks"),
    ('{"liver": null}', 'should have a list'), ('{"liver": [[1,2,3]]}', 'mark 1: a mark should be a dictionary'),
    ('{"liver": ["point"]}', 'a dictionary'), ('{"": []}', 'at least one word'), ('{" ": []}', 'at least one word'),
    ('{"liver": [], "liver": []}', "'liver' stands twice in one table"),
    ('{"liver": [{"kind": "point", "at": [1,2,3], "at": [0,0,0]}]}', "'at' stands twice in one table"),
    ('', 'not readable JSON'), ('{"liver": [', 'not readable JSON'), ('['*100_000, 'not readable JSON'),
    ('{"liver": [{"kind": "point", "at": [' + '1'*5000 + ',0,0]}]}', 'not readable JSON'),
    ('{"@scan": 3}', '@scan should have shape'), ('{"@scan": {"shape": [7,6,5]}}', 'and affine, 4 x 4'),
    ('{"@scan": {"shape": [7,6,5], "affine": [[1,0,0,0],[0,1,0,0],[0,0,0,0],[0,0,0,1]]}}',
     '@scan has a voxel size of zero'),
    ('{"@scan": {"shape": [1000000,1000000,1000000], "affine": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]},'
     '"a": [{"kind": "point", "at": [1,1,1]}]}', 'another scan'),
    ('{"@scan": {"shape": [7,6,-5], "affine": []}}', '@scan should have'),
    ('{"@scan": {"shape": [7,6,5.5], "affine": []}}', '@scan should have')])
def test_4_1_a_file_that_is_no_list_of_marks(tmp_path, text, says):
    path = write(tmp_path/'odd.json', text)
    with pytest.raises(UserError, match=says) as e: read_marks(path, SCAN)
    assert str(path) in str(e.value) and '\n' not in str(e.value)


def test_4_1_nothing_is_asked_of_empty_lists(tmp_path):
    assert read_marks(write(tmp_path/'a.json', {'liver': []}), SCAN)=={'liver': []}
    assert read_marks(write(tmp_path/'a.json', {}), SCAN)=={}


@pytest.mark.parametrize('make', [
    lambda: Point('123'), lambda: Point((1,2)), lambda: Point(np.zeros((3,1))), lambda: Point((1,2,float('nan'))),
    lambda: Point((10**5000,0,0)),
    lambda: Point((1,2,3), -3), lambda: Point((1,2,3), '3'), lambda: Point((1,2,3), np.nan), lambda: Point((1,2,3), positive='no'),
    lambda: Point((1,2,3), positive=-1), lambda: Point((1,2,3), unit=None), lambda: Box((3,3,3), (1,9,9)), lambda: Box((1,1), (2,2)),
    lambda: Scribble(()), lambda: Scribble((1,2,3)), lambda: Scribble([(1,2)]), lambda: Lasso([(1,1,1),(2,2,1)]),
    lambda: Lasso([(1,1,1)]*3, 5),
    lambda: Lasso([(1,1,1)]*3, 'z'), lambda: Lasso([(1,1,1)]*3, -1),
    lambda: Mask([1,2,3]), lambda: Mask([[1,2],[3]]), lambda: Mask('m.nii.gz'),
    lambda: Mask(None), lambda: Mask(np.zeros((0,3,3), bool)),
    lambda: Mask(np.full(SHAPE, .3)), lambda: Mask(np.full(SHAPE, np.nan)),
    lambda: Mask(np.ones(SHAPE, bool), mode='add'), lambda: Mask(np.ones(SHAPE, bool), positive=1),
    lambda: Mask(np.ones(SHAPE, object)),
    lambda: replace(Point((1,2,3)), radius=-1)])
def test_4_1_a_wrong_mark_cannot_be_made_in_python(make):
    with pytest.raises(UserError) as e: make()
    assert '\n' not in str(e.value)


def test_4_1_numbers_of_numpy_are_numbers():
    want = Point((1,2,3), 2.5, False)
    got = Point(np.array([1,2,3]), np.float32(2.5), np.False_)
    assert got==want and hash(got)==hash(want) and all(type(o) is int for o in got.at) and type(got.radius) is float
    assert Box(np.zeros(3), np.int16([1,2,3]))==Box((0,0,0), (1,2,3)) and Lasso(np.eye(3), np.int64(1)).axis==1
    data = np.zeros(SHAPE, bool)
    assert Mask(data).data is data and Mask(np.full(SHAPE, 3)).data.all() and Mask(np.ones(SHAPE)).data.dtype==bool


def test_4_1_no_network_runs_on_a_mark_that_is_not_on_the_scan():
    head = phantom()[0]
    for bad in (Point((999,0,0)), Mask(np.ones(SHAPE, bool)), Box((90,90,90), (99,99,99)), 'here', [None], [Point((1,1,1)), 3]):
        says = 'outside the scan|does not lie|is not a mark'
        with pytest.raises(UserError, match=says): make_request(head, ['a'], spatial={'a': bad})
    with pytest.raises(UserError, match='should be {sentence'): make_request(head, ['a'], spatial=[Point((1,1,1))])


def test_4_1_a_wrong_file_ends_the_command_before_it_begins(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path/'head.nii.gz', phantom()[0])
    import medals.segment
    def never(*args, **kwargs): raise AssertionError('weights were loaded')
    monkeypatch.setattr(medals.segment.Segmenter, 'load', never)
    two,said_false = '{"liver": [{"kind": "point", "at": [1,2]}]}','{"liver": [{"kind": "Point", "at": [1,2,3], "positive": "false"}]}'
    for text in ('[]', two, said_false, '\ufeff{'):
        write(tmp_path/'m.json', text)
        with pytest.raises(SystemExit) as e: raise SystemExit(main(['segment', 'head.nii.gz', 'liver', '--marks', 'm.json']))
        said = capsys.readouterr().err
        assert e.value.code==2 and said.count('\n')==1 and 'm.json' in said and 'Traceback' not in said
    assert sorted(o.name for o in tmp_path.iterdir())==['head.nii.gz','m.json']


# ---- random files

numbers = st.integers() | st.floats() | st.integers(-2, 7) | st.sampled_from((10**30, -10**400, 1e308, .5, 2.5))
words = st.text(max_size=4) | st.sampled_from((
    'voxel','mm','join','replace','m.nii.gz','other.nii.gz','broken.nii.gz','notes.txt','.','/','\0','\ud800'))
leaves = st.none() | st.booleans() | numbers | words
triples = st.lists(st.integers(0, 5) | st.floats(0, 5) | leaves, min_size=3, max_size=3)
anything = st.recursive(leaves | triples, lambda o: st.lists(o, max_size=4) | st.dictionaries(words, o, max_size=3), max_leaves=8)
kinds = st.sampled_from(('point','Point','box','BOX','scribble','Lasso','mask','Mask')) | anything
usual = dict(at=triples, lo=triples, hi=triples, points=st.lists(triples, max_size=4), radius=numbers, axis=st.integers(-1, 3),
             positive=st.booleans(), unit=st.sampled_from(('voxel','mm')), mode=st.sampled_from(('join','replace')), data=words, file=words)
rows = st.fixed_dictionaries(dict(kind=kinds), optional={k: v | anything for k,v in usual.items()}) | anything
own = {'point': ('at',), 'box': ('lo','hi'), 'scribble': ('points',), 'lasso': ('points',), 'mask': ('data',)}
more = {f: usual[f] | anything for f in ('radius','positive','unit','axis','mode')}
likely = st.sampled_from(tuple(own)).flatmap(lambda k: st.fixed_dictionaries(
    {'kind': st.just(k), **{f: usual[f] for f in own[k]}}, optional=more))
affines = st.lists(st.lists(numbers, min_size=4, max_size=4), max_size=4) | st.sampled_from((
    SCAN.affine.tolist(), np.diag([1,1,0,1]).tolist()))
grids = st.fixed_dictionaries(dict(shape=triples | st.just(list(SHAPE)), affine=affines)) | anything
files = st.dictionaries(words, st.lists(likely | rows, max_size=3) | anything, max_size=3)


@settings(max_examples=DRAWS, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=files | anything, grid=st.none() | grids, scan=st.sampled_from((SCAN, SCAN.reorient('PIL'), None)))
def test_4_1_no_file_of_marks_ends_in_a_traceback(folder, said, grid, scan):
    "Either marks that can be drawn, written and read again, or one sentence"
    if isinstance(said, dict) and grid is not None: said = {**said, '@scan': grid}
    path = write(folder/'random.json', json.dumps(said))
    try: found = read_marks(path, scan)
    except UserError as e:
        assert str(path) in str(e) and '\n' not in str(e).replace(str(path), '')
        return
    assert list(found)==[k for k in said if k!='@scan'] and [len(v) for v in found.values()]==[len(v) for k,v in said.items() if k!='@scan']
    for k,ms in found.items():
        for mark,row in zip(ms, said[k]):
            assert type(mark).__name__.lower()==row['kind'].lower()
            for f in set(row)-{'kind','data','file'}:
                moved = scan is not None and '@scan' in said and f in ('at','lo','hi','points','axis')
                assert moved or np.array_equal(getattr(mark, f), row[f]), 'a value is what the file says'
    if scan is None: return
    rasterize(list(found.values()), scan.shape, scan.affine)
    again = read_marks(write_marks(folder/'again', found, scan), scan)
    assert all(same(a, b) for k in found for a,b in zip(found[k], again[k]))


@settings(max_examples=DRAWS, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=60) | st.tuples(st.integers(0, 400), st.binary(max_size=3)))
def test_4_1_no_bytes_end_in_a_traceback(folder, raw):
    if isinstance(raw, tuple):
        whole = json.dumps({'a': [POINT, BOX, STROKE, LOOP, MASK]}).encode()
        raw = whole[:raw[0]]+raw[1]+whole[raw[0]+1:]
    (folder/'bytes.json').write_bytes(raw)
    try: read_marks(folder/'bytes.json', SCAN)
    except UserError: pass


# ---- the same place, however it was drawn or stored

@settings(max_examples=100, deadline=None)
@given(a=st.tuples(*[st.floats(-1, 2*n) for n in SHAPE]), size=st.tuples(*[st.floats(0, 9)]*3), codes=st.sampled_from(CODES))
def test_2_8_a_box_in_mm_holds_the_centers_in_it_in_every_order_of_axes(a, size, codes):
    scan = Volume(np.zeros(SHAPE, np.uint8), np.diag([1.,2.,3.,1.]))
    lo,hi = np.array(a),np.add(a, size)
    centers = np.stack(np.meshgrid(*[np.arange(n)*s for n,s in zip(SHAPE, (1,2,3))], indexing='ij'), -1)
    assume(all((np.abs(centers-end)>.01).all() for end in (lo, hi)))
    want = ((centers>=lo)&(centers<hi)).all(-1)
    other = scan.reorient(codes)
    for corners in ((lo, hi), (hi, lo)):
        try: got = rasterize([Box(*corners, unit='mm')], other.shape, other.affine)[0]
        except UserError: got = np.zeros(other.shape, bool)
        assert np.array_equal(other.like(got.astype(np.uint8)).onto(scan).data>0, want)


def test_2_8_boxes_in_mm_that_share_a_side_share_no_voxel():
    for codes in CODES:
        scan = scan_of(turn=0.).reorient(codes)
        edges = [scan_of(turn=0.).affine@[*p, 1] for p in ((0,0,0), (3,6,5), (7,6,5))]
        a = Box(edges[0][:3], edges[1][:3], unit='mm')
        b = Box((edges[1][0], *edges[0][1:3]), edges[2][:3], unit='mm')
        one,two = rasterize([a, b], scan.shape, scan.affine)
        assert not (one&two).any() and (one|two).all() and one.sum()==3*6*5


@settings(max_examples=100, deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=6, unique=True), start=st.integers(0, 5))
def test_2_8_an_outline_is_the_same_clockwise_and_counterclockwise(points, start):
    loop = [(*p, 1) for p in points]
    again = (loop[start%len(loop):]+loop[:start%len(loop)])[::-1]
    u,v = np.array(points, float).T
    assume(abs((u*np.roll(v, -1)-v*np.roll(u, -1)).sum())>0)
    a,b = rasterize([Lasso(loop), Lasso(again)], (9,9,3), np.eye(4))
    assert np.array_equal(a, b)
