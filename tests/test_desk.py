"A day's work in the Studio: what people do, and what must not happen. No browser; `tests/browser` has one"
import io
import json
import os
import threading
import tracemalloc
import zipfile
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import pytest

from medals.core import UserError
from medals.masks.bitmask import BitMask
from medals.segment import Segmenter
from medals.spatial import Box, Mask, Point, Scribble
from medals.studio.board import Board, plane_of
from medals.studio.canvas import layers_of, packed, tile_numbers, tile_of
from medals.studio.hints import doubt, hint, mended
from medals.studio.surfaces import packed_mesh, surface, view3d
from medals.volume import Volume, phantom, write_labels, write_volume
from medals.widgets import Stopped, Studio


@dataclass
class Found:
    "What the Studio asks of a segmentation"
    volume:Volume
    masks:dict
    marks:dict = field(default_factory=dict)
    by:object = None

    @property
    def table(self):
        ml = np.prod(self.volume.spacing)/1000
        said = {True: 'found', False: 'not found'}
        return [dict(sentence=s, ml=float(m.sum()*ml), presence=1., outcome=said[bool(m.any())]) for s,m in self.masks.items()]

    def refine(self, marks, progress=None): return self.by(self.volume, list(self.masks), spatial=marks, progress=progress)
    def save(self, out):
        for name in self.masks: (out/f'{name}.txt').write_text(name)


class Steady:
    "A network that finds a ball of so many voxels for each sentence, and waits where it is told to"
    def __init__(self): self.go,self.inside,self.calls = threading.Event(),threading.Event(),0; self.go.set()

    def __call__(self, vol, sentences, spatial=None, progress=None, **_):
        self.calls += 1
        self.inside.set()
        self.go.wait(20)
        if progress and progress(1, 1) is False: raise Stopped
        m = np.zeros((len(sentences), *vol.shape), bool)
        for k in range(len(sentences)): m[k,10+k:20,10:20,10:20] = True
        return Found(vol, {s: BitMask.of(o) for s,o in zip(sentences, m)}, spatial, self)


def head(): return phantom()[0].reorient('PIL')
def post(studio, **m): studio._message(studio.canvas, m, [])
def bits(studio): return {k: BitMask.of(m).data.tobytes() for k,m in studio.board.masks.items()}
def click(studio, at=(24,28), index=22, **m): post(studio, type='mark', tool='point', axis=2, index=index, points=[list(at)], **m)


@pytest.fixture(scope='module')
def nano(): return Segmenter.load('nano')


# ---- 1 and 7: what is written, and what never is

@pytest.mark.parametrize('name', ['scan.nii.gz', './scan.nii.gz', 'link.nii.gz', 'scan.nii.gz/', 'notes.txt', 'other.nii.gz',
                                  'scan.nii.gz/x', ''])
def test_saving_never_touches_a_file_of_somebody_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_volume('scan.nii.gz', head())
    os.symlink('scan.nii.gz', 'link.nii.gz')
    for other in ('notes.txt','other.nii.gz'): open(other, 'w').write('mine')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    studio = Studio(None, 'scan.nii.gz', ['x'], out='fine')
    click(studio)
    post(studio, type='save', out=name)
    studio._work and studio._work.join(20)
    assert studio.canvas.status['wrong'] and 'errno' not in studio.canvas.status['text'].lower() and len(studio.canvas.status['text'])>15
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()}==before


def test_what_is_saved_is_what_is_on_the_screen(tmp_path):
    studio = Studio(Steady(), head(), ['a','b'], out=tmp_path/'mine')
    studio.run()
    studio.save()
    assert {'a.txt','b.txt'}<={p.name for p in (tmp_path/'mine').iterdir()}
    studio.sentences = ['b']
    studio.save()
    assert 'a.txt' not in {p.name for p in (tmp_path/'mine').iterdir()} and list(studio.result.masks)==['b']
    other = Studio(Steady(), head(), ['c'], out=tmp_path/'mine')
    other.run()
    post(other, type='save', out=str(tmp_path/'mine'))
    assert 'earlier result' in other.canvas.status['text'] and (tmp_path/'mine'/'b.txt').exists() and not (tmp_path/'mine'/'c.txt').exists()
    post(other, type='save', out=str(tmp_path/'mine'))
    other.wait()
    assert (tmp_path/'mine'/'c.txt').exists() and not (tmp_path/'mine'/'b.txt').exists() and 'in place of' in other.canvas.status['text']


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path):
    studio = Studio(None, head(), ['x'])
    def full(out): raise OSError(28, 'No space left on device')
    studio.result = Found(studio.volume, {'x': np.ones(studio.volume.shape, bool)})
    studio.result.save = full
    with pytest.raises(UserError, match='no space left on device'): studio.save(tmp_path/'mine')
    assert 'Errno' not in studio.canvas.status['text'] and not studio.busy


# ---- 2 and 10: what a slice costs

@pytest.mark.parametrize('codes', ['RAS','PIL','AIR'])
def test_a_slice_is_cut_without_a_copy_of_the_scan(codes):
    x = np.random.default_rng(0).integers(-1000, 2000, (96,112,80)).astype(np.int16)
    vol = Volume(x, np.diag([1.,1,1,1])).reorient(codes)
    board = Board(vol)
    for axis in range(3):
        assert np.shares_memory(plane_of(board.x, axis, 7), np.asarray(vol.data))
        tracemalloc.start()
        tile = tile_of(board, axis, 7)
        data = packed(tile.numbers)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak<10*tile.numbers.nbytes+300_000, 'zlib itself takes a quarter of a megabyte'
        assert np.array_equal(tile_numbers(data, tile.numbers.shape, 2), plane_of(board.x, axis, 7))


@pytest.mark.parametrize('dtype', ['uint8','bool','int16','uint16','int32','float32','float64'])
def test_values_come_back_from_a_tile(dtype):
    x = np.random.default_rng(1).normal(500, 300, (20,30,10)).clip(0, 60000)
    x = (x>500 if dtype=='bool' else x).astype(dtype)
    board = Board(Volume(x, np.eye(4)))
    tile = tile_of(board, 2, 4)
    back = tile_numbers(packed(tile.numbers), tile.numbers.shape, tile.numbers.dtype.itemsize)*tile.scale+tile.offset
    assert np.abs(back-plane_of(board.x, 2, 4)).max()<=float(x.max())/60000
    assert tile.numbers.dtype in (np.uint8, np.int16)


def test_a_browser_gets_little():
    studio = Studio(None, head(), ['x'])
    got = []
    studio.canvas.send = lambda m, buffers=None: got.append((m, buffers))
    post(studio, type='slice', view='v', key='k', axis=2, index=20, rect=None, step=1)
    post(studio, type='slice', view='v', key='k', axis=2, index=20, rect=[0,0,10,10], step=1, grey=False)
    post(studio, type='slice', view='v', key='k', axis=2, index=10**6, rect=[-5,-5,10**6,10**6], step=-3)
    (m,data),(again,bare),(far,_) = got
    assert len(data)==1 and sum(map(len, data))<m['h']*m['w'] and again['layers']==[] and bare==[] and far['rect']==m['rect']
    own = sum(len(o._esm) for o in (studio.canvas, studio.list, studio.solid.viewer))
    shared = {o.script for o in (studio.canvas, studio.list, studio.solid.viewer, Studio(None, head()).canvas)}
    assert own<6000 and len(shared)==1, 'a second Studio brings no script'
    script, = shared
    assert sum(map(len, script.code.values()))+len(script.style)<120_000, 'the front ends of a Studio are small'
    lbl = phantom()[1]
    _,mesh = packed_mesh(*surface(lbl==2, np.eye(4), 72))
    assert sum(map(len, mesh))<60_000


def test_a_mask_that_is_the_same_is_not_sent_again():
    studio = Studio(Steady(), head(), ['a','b'])
    studio.run()
    studio.wait()
    first = {row['name']: row['mesh'] for row in studio.solid.viewer.bodies}
    studio.add('a', Point((30,30,30)))
    studio.run()
    studio.board.looks['a']['colour'] = '#123456'
    studio._show(fetch=False)
    studio.wait()
    assert {row['name']: row['mesh'] for row in studio.solid.viewer.bodies}==first
    assert studio.solid.viewer.bodies[0]['colour']=='#123456'


# ---- 3 and 4: words

@pytest.mark.parametrize('typed, meant', [
    ('laft cerebral hemisfere', 'left cerebral hemisphere'), ('cerebral hemisphere, rigth', 'cerebral hemisphere, right'),
    ('lef kidny', 'left kidney'),
    ('whtie matter', 'white matter'), ('white matter', 'white matter'), ('Left Kidney', 'Left Kidney'), ('asdf qwer', 'asdf qwer'),
    ('linker Hippocampus', 'linker Hippocampus'), ('lift', 'lift')])
def test_slips_are_mended_before_they_are_asked(typed, meant):
    assert mended(typed)==meant
    studio = Studio(Steady(), head())
    post(studio, type='add', sentence=typed)
    assert studio.sentences==(meant,)
    if typed!=meant: # and the user has the last word
        offer = studio.canvas.understood['offers'][0]
        post(studio, type='offer', sentences=offer['sentences'], instead_of=offer['instead_of'])
        assert studio.sentences==(typed,)


def test_what_the_weights_do_not_know_is_marked_everywhere(nano):
    said = hint('cer', 'mri', nano.repertoire)
    assert said['known'][0] is True and False in said['known'] and said['known']==sorted(said['known'], reverse=True)
    for nonsense in ('asdf qwer','liver','trachea'):
        about = doubt(nonsense, 'mri', nano.repertoire)
        assert 'not known to these weights' in about['line'] and about['offers'][0]['label'] in {c.name for c in nano.repertoire.classes}
    assert doubt('white matter', 'mri', nano.repertoire)=={}
    studio = Studio(nano, head(), ['wite mater'])
    row = studio.canvas.classes[0]
    assert row['doubt']['offers'][0]['label']=='white matter'
    studio.add('wite mater', Point((20,20,20)))
    post(studio, type='offer', sentences=['white matter'], instead_of=['wite mater'])
    assert studio.sentences==('white matter',) and len(studio.marks['white matter'])==1
    post(studio, type='undo')
    assert list(studio.marks)==['wite mater']


def test_a_scan_that_does_not_fit_the_weights_is_said_at_once(nano):
    x = np.full((40,40,40), -1000, np.int16)
    x[8:32,8:32,8:32] = np.random.default_rng(0).normal(40, 20, (24,24,24))
    studio = Studio(nano, Volume(x, np.diag([4.,4,4,1])))
    assert any('trained on mri only' in o for o in studio.canvas.notes)
    assert Studio(nano, head()).canvas.notes==[]


def test_one_sentence_for_many(nano):
    studio = Studio(nano, head())
    post(studio, type='add', sentence='all structures of the brain')
    assert set(studio.sentences)=={c.name for c in nano.repertoire.classes}
    post(studio, type='offer', **{k: studio.canvas.understood['offers'][0][k] for k in ('sentences','instead_of')})
    assert studio.sentences==('all structures of the brain',)


@pytest.mark.parametrize('again', ['White Matter', ' white  matter ', 'WHITE MATTER.'])
def test_one_class_has_one_row(again):
    studio = Studio(Steady(), head(), ['white matter', again])
    post(studio, type='add', sentence=again)
    studio.add(again, Point((20,20,20)))
    studio.marks = {**studio.marks, again: [Point((20,20,20))]}
    assert studio.sentences==('white matter',)
    studio.run()
    studio.result = Found(studio.volume, {again: np.ones(studio.volume.shape, bool)})
    assert studio.sentences==('white matter',) and studio.board.masks['white matter'].any() and studio.canvas.classes[0]['ml']>0


# ---- 5: what is said

def test_what_is_said_is_true_now():
    studio = Studio(Steady(), head(), ['a'])
    def says(): return studio.canvas.status['text'],studio.canvas.status['wrong']
    post(studio, type='save', out='')
    assert says()[1]
    click(studio)
    post(studio, type='pick', sentence='a')
    post(studio, type='look', sentence='a', opacity=.2)
    assert not says()[1] and 'folder' not in says()[0]
    studio.run()
    assert 'done' in says()[0] and '1 found' in says()[0]
    post(studio, type='undo')
    assert says()==('undone: run', False)
    post(studio, type='redo')
    assert says()==('done again: run', False)
    for _ in range(9): post(studio, type='undo')
    assert says()[0]=='there is nothing more'


def test_not_found_is_no_number():
    studio = Studio(Steady(), head(), ['a'])
    studio.result = Found(studio.volume, {'a': np.zeros(studio.volume.shape, bool)})
    assert studio.canvas.classes[0]['outcome']=='not found'
    assert b'PNG' in studio.snapshot()[:8]


# ---- 6: undo and a run

def test_undo_during_a_run_is_not_reverted_by_it():
    net = Steady()
    studio = Studio(net, head(), ['a'])
    studio.add('b')
    net.go.clear()
    post(studio, type='run')
    assert net.inside.wait(20)
    post(studio, type='undo')
    net.go.set()
    studio.wait()
    assert studio.sentences==('a',) and studio.result is None and studio.canvas.history==dict(undo=0, redo=1)
    post(studio, type='redo')
    assert studio.sentences==('a','b')


def test_what_is_done_during_a_run_stays_done():
    net = Steady()
    studio = Studio(net, head(), ['a','b','c'])
    studio.run()
    net.go.clear(), net.inside.clear()
    studio.add('a', Point((24,28,22)))
    post(studio, type='run')
    assert net.inside.wait(20)
    studio.paint('b', Scribble(((5,5,5),(9,5,5)), 6.))
    painted = bits(studio)['b']
    studio.sentences = ['a','b']
    studio.add('a', Point((20,20,20)))
    net.go.set()
    studio.wait()
    assert studio.sentences==('a','b') and bits(studio)['b']==painted and len(studio.marks['a'])==2 and studio.canvas.status['stale']


def test_a_run_that_changes_nothing_is_no_step():
    studio = Studio(Steady(), head(), ['a'])
    studio.run()
    studio.add('a', Point((24,28,22)))
    n = studio.canvas.history['undo']
    studio.run()
    assert studio.canvas.history['undo']==n and not studio.canvas.status['stale'] and 'nothing has changed' in studio.canvas.status['text']


def test_a_mark_may_be_followed_by_a_run():
    net = Steady()
    studio = Studio(net, head(), ['a'])
    click(studio)
    assert net.calls==0
    click(studio, at=(20,20), run=True)
    studio.wait()
    assert net.calls==1 and studio.board.answered
    net.go.clear(), net.inside.clear()
    for k in range(4): click(studio, at=(20,20+k), run=True)
    assert net.inside.wait(20)
    net.go.set()
    studio.wait()
    assert studio.board.answered and net.calls<=3, 'one run is remembered, not one for each mark'


# ---- 8: grey windows

def test_a_ct_opens_on_soft_tissue_and_has_the_usual_windows():
    x = np.full((40,40,40), -1000, np.int16)
    x[8:32,8:32,8:32] = np.random.default_rng(0).normal(40, 20, (24,24,24))
    studio = Studio(None, Volume(x, np.eye(4)))
    assert studio.canvas.window==[-160,240]
    assert {'brain','soft tissue','lung','bone','stroke'}<={w['name'] for w in studio.canvas.scene['windows']}
    studio.canvas.window = [0,80]
    assert studio.board.window==(0,80)
    mri = Studio(None, head()).canvas.scene['windows']
    assert len(mri)>2 and all(w['lo']<w['hi'] for w in mri)


# ---- 11: air, and what is not installed

def test_a_point_in_the_air_is_asked_back():
    studio = Studio(Steady(), head(), ['a'])
    click(studio, at=(0,0), index=0)
    assert not studio.marks and 'air' in studio.canvas.status['text']
    click(studio)
    assert len(studio.marks['a'])==1, 'a point inside is taken at once'
    for n in (1,2):
        click(studio, at=(0,0), index=0)
        assert len(studio.marks['a'])==n
    studio.canvas.tool = {**studio.canvas.tool, 'positive': False}
    click(studio, at=(47,0), index=0)
    assert len(studio.marks['a'])==3, 'that nothing is there needs no second word'


@pytest.mark.parametrize('backend', ['ipyniivue','itkwidgets'])
def test_a_viewer_that_is_not_there_is_replaced(monkeypatch, backend):
    import sys
    for name in ('ipyniivue','itkwidgets'): monkeypatch.setitem(sys.modules, name, None)
    vol,lbl,names = phantom()
    with pytest.warns(UserWarning, match=f'{backend} cannot be used here'): v = view3d(vol, lbl, names, backend=backend)
    assert v.viewer.bodies and 'ipyniivue' not in str(Studio(None, vol).solid)


# ---- the brush

def test_the_mask_is_painted_and_cleaned():
    studio = Studio(None, head(), ['a','b'])
    post(studio, type='pick', sentence='a')
    studio.canvas.tool = {**studio.canvas.tool, 'name': 'brush', 'radius': 8.}
    post(studio, type='mark', tool='brush', axis=2, index=22, points=[[20,20],[26,20]])
    one = bits(studio)['a']
    assert studio.board.masks['a'].any() and 'b' not in studio.board.masks and studio.canvas.classes[0]['edited']
    post(studio, type='mark', tool='rubber', axis=2, index=22, points=[[20,20]])
    post(studio, type='clean', step='grow', mm=4)
    post(studio, type='clean', step='fill holes')
    post(studio, type='clean', step='polish')
    assert 'is no step' in studio.canvas.status['text']
    names = []
    while studio.canvas.history['undo']:
        names.append(studio.canvas.steps['undo'])
        post(studio, type='undo')
        if names[-1]=='rubber': assert bits(studio)['a']==one
    assert names[-2:]==['rubber','brush'] and 'grow' in names and not studio.board.masks


def test_the_brush_keeps_between_two_values():
    vol = head()
    studio = Studio(None, vol, ['a'])
    studio.canvas.tool = {**studio.canvas.tool, 'name': 'brush', 'radius': 30., 'limits': [100,400]}
    post(studio, type='mark', tool='brush', axis=2, index=22, points=[[24,28]])
    inside = np.asarray(vol.data)[np.asarray(studio.board.masks['a'])]
    assert len(inside) and inside.min()>=100 and inside.max()<=400
    studio.canvas.tool = {**studio.canvas.tool, 'limits': [5000,6000]}
    post(studio, type='mark', tool='brush', axis=2, index=22, points=[[24,28]])
    assert 'nothing was painted' in studio.canvas.status['text']


def test_a_hand_has_the_last_word_over_a_whole_run():
    studio = Studio(Steady(), head(), ['a'])
    studio.run()
    studio.paint('a', Scribble(((40,40,30),), 6.))
    painted = bits(studio)['a']
    studio.add('b')
    studio.run()
    assert bits(studio)['a']==painted and 'kept as painted: a' in studio.canvas.status['text'] and 'b' in studio.board.masks


def test_a_painted_result_is_saved_and_names_the_hand(tmp_path):
    studio = Studio(None, head(), ['a','b'], out=tmp_path/'mine')
    studio.paint('b', Scribble(((20,20,20),), 9.))
    studio.paint('a', Scribble(((30,30,30),), 9.))
    studio.save()
    made = json.loads((tmp_path/'mine'/'manifest.json').read_text())
    assert made['edited by hand']==['a','b'] and (tmp_path/'mine'/'labels.nii.gz').exists()
    lbl,names = studio.result.labels()
    assert set(names.values())=={'a','b'} and set(np.unique(lbl))=={0,*names}


def test_a_class_leads_to_its_middle():
    studio = Studio(Steady(), head(), ['a','b'])
    post(studio, type='pick', sentence='a', centre=True)
    assert studio.canvas.active=='a' and not studio.canvas.status['wrong'], 'nothing to go to is no mistake'
    studio.run()
    post(studio, type='pick', sentence='b', centre=True)
    assert studio.board.masks['b'][tuple(slice(o, o+1) for o in studio.at)].all()
    horseshoe = np.zeros(studio.volume.shape, bool)
    horseshoe[10:30,10:12,20] = horseshoe[10:12,10:30,20] = horseshoe[28:30,10:30,20] = True
    studio.result = Found(studio.volume, {'b': horseshoe})
    post(studio, type='pick', sentence='b', centre=True)
    assert horseshoe[studio.at]
    studio.marks = {'a': [Box((3,3,3), (6,6,6)), Mask(horseshoe)]}
    studio.go_to('a')
    assert horseshoe[studio.at]


def test_masks_of_somebody_else_are_a_start(tmp_path):
    vol,lbl,names = phantom()
    write_labels(tmp_path/'theirs.nii.gz', lbl, vol, names)
    studio = Studio(None, head(), out=tmp_path/'mine')  # the same head on other axes
    post(studio, type='load', path=str(tmp_path/'theirs.nii.gz'))
    assert studio.sentences==tuple(names.values()) and studio.canvas.history['undo']==1
    for number,name in names.items():
        turned = vol.like((lbl==number).astype(np.uint8)).reorient('RAS').reorient('PIL').data
        assert np.array_equal(np.asarray(studio.board.masks[name]), turned>0)
    click(studio)
    studio.save()
    again = Studio(None, head())
    again.load(tmp_path/'mine')
    assert again.marks==studio.marks and bits(again)==bits(studio)
    post(again, type='undo')
    assert again.sentences==()
    post(again, type='load', path=' ')
    assert again.canvas.status['wrong']


def test_everything_goes_to_ones_own_disk():
    studio = Studio(None, head(), ['a'])
    click(studio)
    studio.paint('a', Scribble(((20,20,20),), 9.))
    got = []
    studio.canvas.send = lambda m, buffers=None: got.append((m, buffers))
    post(studio, type='download', view='v')
    (m,data), = got
    assert m['view']=='v' and {'a.nii.gz','marks.json','manifest.json'}<=set(zipfile.ZipFile(io.BytesIO(data[0])).namelist())


@pytest.mark.parametrize('do, says', [
    (lambda s: s.paint('liver', None), 'a stroke is one mark'),
    (lambda s: s.paint('liver', [Point((1,2,3)), Point((1,2,4))]), 'a stroke is one mark'),
    (lambda s: s.paint('liver', (1,2,3)), 'is not a mark'),
    (lambda s: s.paint(None, Point((1,2,3))), 'a sentence should be text'),
    (lambda s: s.paint('liver', Point((1,2,3)), limits=5), 'limits should be two numbers'),
    (lambda s: s.paint('liver', Point((1,2,3)), limits=('a','b')), 'limits should be two numbers'),
    (lambda s: s.paint('liver', Point((1,2,3)), limits=(9,1)), 'limits should be two numbers'),
    (lambda s: s.clean('liver', None), 'is no step; there is fill holes'),
    (lambda s: s.clean('liver', ['grow']), 'is no step'),
    (lambda s: s.clean('liver', 'grow', 'x'), 'mm should be a distance'),
    (lambda s: s.clean('liver', 'grow', float('nan')), 'mm should be a distance'),
    (lambda s: s.clean(['liver'], 'grow'), 'a sentence should be text'),
    (lambda s: s.add(None), 'a sentence should be text'),
    (lambda s: s.load(None), 'name a folder'),
    (lambda s: s.compare_with(3), 'compare with a folder'),
    (lambda s: s.compare_with({'liver': np.zeros((2,2,2))}), 'does not lie on the scan'),
    (lambda s: setattr(s, 'sentences', None), 'sentences should be a list'),
    (lambda s: setattr(s, 'at', None), 'three numbers'),
    (lambda s: setattr(s, 'result', 3), 'a result is a Segmentation'),
])
def test_what_makes_no_sense_is_one_clear_sentence_and_no_step(do, says):
    vol = phantom()[0]
    studio = Studio(None, vol, ['liver'])
    studio.paint('liver', Point((10,12,13), 5.))
    before = studio.board.now
    with pytest.raises(UserError, match=says): do(studio)
    assert studio.board.now is before


def test_a_slice_shows_where_two_readers_differ_and_what_was_before():
    vol = phantom()[0]
    studio = Studio(None, vol, ['liver'])
    studio.paint('liver', Point((10,12,13), 5.))
    first = np.asarray(studio.board.masks['liver'])
    studio.paint('liver', Point((14,12,13), 5.))
    second = np.asarray(studio.board.masks['liver'])
    rect = (0, 0, *(studio.board.screen.shape[o] for o in (0, 1)))
    k = int(round(studio.board.screen.places((12,12,13))[2]))
    def planes(**how): return {kind: m for (kind,_),m in layers_of(studio.board, 2, k, rect, **how).items()}
    def cut(m): return studio.board.screen.view(m)[:,:,k].T
    assert np.array_equal(planes(before=True)['mask'], cut(first)) and np.array_equal(planes()['mask'], cut(second))
    steps = len(studio.board.history.past)
    studio.compare_with({' Liver': first}, 'reader two')
    seen = planes()
    assert np.array_equal(seen['mask'], cut(first&second)) and np.array_equal(seen['more'], cut(second&~first)) and 'less' not in seen
    row, = studio.canvas.classes
    want = 2*(first&second).sum()/(first.sum()+second.sum())
    assert abs(row['against']['dsc']-want)<1e-9 and studio.canvas.against=='reader two' and len(studio.board.history.past)==steps
    studio.compare_with(None)
    assert set(planes())=={'mask'} and studio.canvas.classes[0]['against'] is None


def test_meshes_of_the_last_steps_are_made_once():
    vol = phantom()[0]
    studio = Studio(None, vol, ['liver'])
    studio.paint('liver', Point((10,12,13), 5.))
    studio.wait()
    first = studio.solid.viewer.bodies[0]['mesh']
    studio.paint('liver', Point((14,12,13), 5.))
    studio.wait()
    second = studio.solid.viewer.bodies[0]['mesh']
    for number,step in ((first, studio.undo), (second, studio.redo)):
        step()
        studio.wait()
        assert studio.solid.viewer.bodies[0]['mesh']==number
    for k in range(20):
        studio.paint('liver', Point((14+k%5,12+k,13), 3.))
        studio.wait()
    assert len(studio.solid.ready)<=14


# ---- one of several scans

def bold(folder, count=3):
    vol,_,_ = phantom()
    x = np.stack([vol.data//(i+1) for i in range(count)], -1)
    nib.save(nib.Nifti1Image(x, vol.affine), folder/'bold.nii.gz')
    return folder/'bold.nii.gz'


def test_the_volumes_of_a_file_are_chosen_and_keep_their_work(tmp_path):
    studio = Studio(None, bold(tmp_path), ['x'])
    assert (len(studio.canvas.choices), studio.canvas.choice)==(3, 0) and 'holds 3 scans' in studio.canvas.notes[0]
    post(studio, type='mark', tool='point', axis=2, index=20, points=[[20,20]])
    studio.board.looks['x']['colour'] = '#123456'
    first = studio.board.now
    scene = studio.canvas.scene['scan']
    post(studio, type='choose', number=2)
    assert studio.volume.data.max()<phantom()[0].data.max()/2 and studio.marks=={} and studio.sentences==('x',)
    assert studio.canvas.scene['scan']!=scene and studio.canvas.history==dict(undo=0, redo=0)
    assert studio.board.looks['x']['colour']=='#123456' and studio.canvas.notes==[]
    studio.wait()
    assert studio.solid.volume is studio.volume
    post(studio, type='choose', number=0)
    assert studio.board.now is first and studio.canvas.history['undo']==1
    post(studio, type='undo')
    assert studio.marks=={}


@pytest.mark.parametrize('wrong', [3, -1, 'T2', '', None, 1.5, True])
def test_a_scan_that_is_not_there_is_said_with_those_that_are(tmp_path, wrong):
    studio = Studio(None, bold(tmp_path), ['x'])
    with pytest.raises(UserError, match='choose one of 0 .volume 0.'): studio.choose(wrong)
    with pytest.raises(UserError, match='only this scan'): Studio(None, head()).choose(0)
    assert studio.canvas.choice==0


def test_a_named_volume_opens_and_the_others_are_offered(tmp_path):
    studio = Studio(None, f'{bold(tmp_path)}#1')
    assert studio.canvas.choice==1 and len(studio.canvas.choices)==3 and studio.canvas.notes==[]
    with pytest.raises(UserError, match='there is no number 7'): Studio(None, f'{tmp_path}/bold.nii.gz#7')


def test_a_series_that_cannot_be_read_leaves_the_one_that_is_shown(tmp_path):
    studio = Studio(None, bold(tmp_path), ['x'])
    (tmp_path/'bold.nii.gz').write_bytes((tmp_path/'bold.nii.gz').read_bytes()[:400])
    volume = studio.volume
    post(studio, type='choose', number=1)
    assert studio.canvas.status['wrong'] and studio.volume is volume and studio.canvas.choice==0
    post(studio, type='choose', number='many')
    assert studio.canvas.status['wrong']


def test_each_volume_has_a_session_of_its_own(tmp_path):
    path = bold(tmp_path)
    studio = Studio(None, path, ['x'], session=tmp_path/'kept')
    studio.add('x', Point((20,20,20)))
    studio.choose(1)
    studio.add('x', Point((9,9,9)))
    studio.add('x', Point((10,9,9)))
    studio.keeper.flush()
    studio.choose(0)
    again = Studio(None, path, session=tmp_path/'kept')
    assert len(again.marks['x'])==1
    again.choose('volume 1')
    assert len(again.marks['x'])==2
