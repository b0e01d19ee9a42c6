"What a hand does on a screen, and what becomes of it on the voxels of the scan"
import io
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from medals.studio.canvas import Board, History, State, compose, erased, mark_from_pointer, slice_image, stamp
from medals.core import UserError
from medals.segment import InputSpec, Segmenter
from medals.show import WHITE
from medals.studio.surfaces import View3d, reduced, surface, view3d
from medals.spatial import Box, Lasso, Mask, Point, Scribble, rasterize, read_marks, write_marks
from medals.studio.slices import Screen
from medals.volume import Volume, phantom
from medals.widgets import Stopped, Studio, compare, complete, slices, understood

CODES = ('RAS','LPS','PIL','SRA','AIR','ILP')
SHAPE = (14,12,10)
voxels = st.tuples(*[st.integers(0, n-1) for n in SHAPE])
halves = st.tuples(*[st.integers(-1, 2*n-1).map(lambda o: o/2) for n in SHAPE])
spacings = st.tuples(*[st.sampled_from((.5,1.,1.5,3.,5.))]*3)


@dataclass
class Found:
    "What the Studio asks of a segmentation"
    volume:Volume
    masks:dict

    @property
    def table(self):
        ml = np.prod(self.volume.spacing)/1000
        return [dict(sentence=s, ml=float(m.sum()*ml), presence=1.) for s,m in self.masks.items()]

    def save(self, out): self.saved = out


class Calls:
    "A segmenter that finds what is marked, and remembers how it was called"
    def __init__(self, passes=3):
        self.seen,self.passes,self.go,self.inside = [],passes,threading.Event(),threading.Event()
        self.go.set()

    def __call__(self, image, prompts, modality=None, spatial=None, instance=False, progress=None):
        self.seen.append(('all', list(prompts), dict(spatial or {})))
        for i in range(self.passes):
            self.inside.set()
            self.go.wait(20)
            if progress(i+1, self.passes) is False: raise Stopped
        return self.found(image, prompts, spatial or {})

    def found(self, vol, names, marks):
        return Again(vol, dict(zip(names, rasterize([marks.get(s) for s in names], vol.shape, vol.affine))), self)


@dataclass
class Again(Found):
    by:Calls=None

    def refine(self, marks, progress=None):
        self.by.seen.append(('touched', list(self.masks), dict(marks)))
        if progress: progress(1, 1)
        return self.by.found(self.volume, list(self.masks), marks)


def scan(codes='RAS'):
    vol,lbl,names = phantom()
    vol = vol.reorient('RAS')
    return vol.reorient(codes)


def post(studio, **m): studio._message(studio.canvas, m, [])


def sent(studio):
    "Messages to the browser from now on"
    got = []
    studio.canvas.send = lambda m, buffers=None: got.append((m, buffers))
    return got


# ---- positions

@pytest.mark.parametrize('codes', CODES)
def test_a_click_is_the_same_place_in_every_orientation(codes):
    vol = scan(codes)
    studio,at = Studio(None, vol, ['x']),(17,30,12)  # on the screen: towards left, back and feet
    for axis in range(3):
        col,row = [at[o] for o in range(3) if o!=axis]
        studio.marks = {}
        post(studio, type='mark', tool='point', axis=axis, index=at[axis], points=[[0,0], [col+.4,row-.4]])
        (point,), = studio.marks.values()
        mm = vol.affine@[*point.at, 1]
        want = scan('LPI').affine@[*at, 1]
        assert np.allclose(mm, want) and vol.data[point.at]==scan('LPI').data[at]


@pytest.mark.parametrize('codes', CODES)
def test_letters_and_slices_agree_with_the_patient(codes):
    vol = scan(codes)
    s = Screen(vol)
    assert np.array_equal(s.view(vol.data), scan('LPI').data)
    for axis in range(3):
        step = np.eye(3)[axis]
        mm = vol.affine[:3,:3]@(s.voxels(step)-s.voxels((0,0,0)))
        assert np.argmax(np.abs(mm))==axis and mm[axis]<0  # columns and rows run to left, back and feet: R, A, S shrink
        assert np.allclose(s.places(s.voxels((3,4,5))), (3,4,5))


@pytest.mark.parametrize('codes', CODES)
def test_a_drawn_outline_is_what_rasterize_says(codes):
    vol = scan(codes)
    path = [[11.5,13.5],[11.5,36.5],[33.5,36.5],[33.5,13.5]]
    for axis in range(3):
        studio = Studio(None, vol, ['x'])
        post(studio, type='mark', tool='lasso', axis=axis, index=20, points=path)
        mask = studio.drawn['x']
        assert np.array_equal(mask, rasterize([studio.marks['x']], vol.shape, vol.affine)[0])
        on_screen = Screen(vol).view(mask)
        want = np.zeros(on_screen.shape, bool)
        col,row = [o for o in range(3) if o!=axis]
        want[tuple({axis: 20, col: slice(12,34), row: slice(14,37)}[o] for o in range(3))] = True
        assert np.array_equal(on_screen, want)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(('point','box','scribble','lasso')), a=halves, b=halves, c=halves, spacing=spacings,
       radius=st.sampled_from((0.,1.,2.5,7.)))
def test_a_stamp_is_the_whole_cut_out(kind, a, b, c, spacing, radius):
    aff = np.diag([*spacing, 1.])
    aff[:3,3] = (-30,10,5)
    lo,hi = np.minimum(a, b),np.maximum(a, b)+1
    flat = tuple((*o[:2], c[2]) for o in (a, b, c))
    mark = dict(point=Point(a, radius), box=Box(tuple(lo), tuple(hi)), scribble=Scribble((a,b,c), radius), lasso=Lasso(flat))[kind]
    try: want = rasterize([mark], SHAPE, aff)[0]
    except UserError as e:
        with pytest.raises(UserError, match=str(e).split(' at ')[0].split(' from ')[0]): stamp(mark, SHAPE, aff)
        return
    at,block = stamp(mark, SHAPE, aff)
    got = np.zeros(SHAPE, bool)
    got[tuple(slice(i, i+n) for i,n in zip(at, block.shape))] = block
    assert np.array_equal(got, want)


def test_marks_in_mm_are_shown_where_they_are():
    vol = scan('PIL')
    at = (20,25,15)
    mm = tuple(float(o) for o in (vol.affine@[*at, 1])[:3])
    board = Board(vol)
    board.add('x', Point(mm, radius=6., unit='mm'))
    i,j,k = np.rint(board.screen.places(at)).astype(int)
    layer = slice_image(board, 2, int(k)).layers[('positive','x')]
    assert layer[j,i] and np.array_equal(layer, board.screen.view(board.drawn()['x'])[:,:,k].T)


# ---- what goes to the browser

@pytest.mark.parametrize('codes', ['RAS','PIL'])
def test_the_browser_gets_the_slice_and_one_bit_per_voxel(codes):
    vol = scan(codes)
    studio = Studio(None, vol, ['bright'])
    m = np.asarray(vol.data)>150
    studio.result = Found(vol, {'bright': m})
    got = sent(studio)
    post(studio, type='cut', view='v', axis=1, index=25, rect=[3,4,40,30], pixels=512)
    (head,buffers), = got
    h,w = head['h'],head['w']
    assert (head['view'],head['rect'],head['step'])==('v', (3,4,40,30), 1) and (h,w)==(26,37) and head['layers']==[['mask','bright']]
    lo,hi = studio.canvas.window
    plane = Screen(vol).view(vol.data)[:,25].T[4:30,3:40]
    grey = np.frombuffer(buffers[0], np.uint8).reshape(h, w)
    assert np.abs(grey-np.clip((plane-lo)/(hi-lo)*255, 0, 255)).max()<=.5+1e-3
    bits = np.unpackbits(np.frombuffer(buffers[1], np.uint8), count=h*w).reshape(h, w).astype(bool)
    assert np.array_equal(bits, Screen(vol).view(m)[:,25].T[4:30,3:40])
    json.dumps(head)


def test_a_large_slice_is_reduced_and_its_marks_land_on_its_own_voxels():
    x = np.zeros((3000,2000,3), np.uint8)
    x[1000,500,1] = 255
    vol = Volume(x, np.diag([.1,.1,1.,1.]))
    studio = Studio(None, vol, ['cell'])
    studio.result = Found(vol, {'cell': x>0})
    got = sent(studio)
    post(studio, type='cut', view='v', axis=2, index=1, rect=[0,0,3000,2000], pixels=512)
    head,buffers = got[0]
    assert head['step']==6 and max(head['h'],head['w'])<=512 and len(buffers[0])==head['h']*head['w']
    assert np.unpackbits(np.frombuffer(buffers[1], np.uint8)).sum()==1  # a single voxel is still there
    i,j = (int(o) for o in Screen(vol).places((1000,500,1))[:2])
    post(studio, type='mark', tool='point', axis=2, index=1, points=[[i+.2,j+.3]])
    assert studio.marks['cell'][0].at==(1000,500,1)
    post(studio, type='cut', view='v', axis=2, index=1, rect=[i-50,j-50,i+50,j+50], pixels=512)
    assert got[-1][0]['step']==1


def test_hidden_masks_and_the_other_looks_reach_the_picture():
    vol = scan()
    board = Board(vol, ['a'])
    board.set_result(Found(vol, {'a': np.ones(vol.shape, bool)}))
    c = slice_image(board, 2, 20)
    board.looks['a'].update(colour='#00ff00', opacity=1.)
    assert (compose(c, board.looks)==(0,255,0)).all()
    board.looks['a']['visible'] = False
    assert np.array_equal(compose(c, board.looks)[...,0], c.grey)


def test_packed_masks_are_cut_like_arrays():
    class Packed:
        "A mask that is no array: it has a shape, a box, and is sliced"
        def __init__(self, m): self.m,self.shape = m,m.shape
        def __getitem__(self, at): return self.m[at]
        def box(self): return tuple((int(o.min()), int(o.max())+1) for o in np.nonzero(self.m))
        def any(self): return self.m.any()
    vol = scan('PIL')
    m = np.asarray(vol.data)>150
    one,two = Board(vol),Board(vol)
    one.set_result(Found(vol, {'x': m}))
    two.set_result(Found(vol, {'x': Packed(m)}))
    for axis in range(3):
        a,b = (slice_image(o, axis, 15).layers[('mask','x')] for o in (one, two))
        assert np.array_equal(a, b)
    assert np.array_equal(surface(m, vol.affine)[0], surface(Packed(m), vol.affine)[0])


# ---- undo, redo, erase

def test_undo_and_redo_go_through_every_state():
    studio = Studio(None, scan(), ['x'])
    seen = [studio.marks]
    for k in range(4):
        post(studio, type='mark', tool='point', axis=2, index=20, points=[[10+k,20]])
        seen.append(studio.marks)
    assert studio.canvas.history==dict(undo=4, redo=0)
    for want in seen[-2::-1]:
        post(studio, type='undo')
        assert studio.marks==want and studio.canvas.classes[0]['marks']==len(want.get('x', ()))
    for want in seen[1:]:
        post(studio, type='redo')
        assert studio.marks==want
    post(studio, type='undo')
    studio.add('x', Point((1,2,3)))
    assert studio.canvas.history['redo']==0 and len(studio.marks['x'])==4


def test_old_masks_are_let_go():
    h = History(State())
    for k in range(40): h.do(result=object(), sentences=(str(k),))
    assert len({id(o.result) for o in h.past})==5
    for k in range(60): h.undo()
    assert h.now.sentences==('34',)


def test_the_eraser_takes_what_it_touches_and_nothing_else():
    studio = Studio(None, scan('AIR'), ['x','y'])
    for s in ('x','y'):
        post(studio, type='pick', sentence=s)
        for c in (10,30): post(studio, type='mark', tool='scribble', axis=0, index=20, points=[[c,10],[c,14]])
    studio.canvas.tool = dict(name='eraser', positive=False, radius=2., depth=0)
    post(studio, type='mark', tool='eraser', axis=0, index=20, points=[[8,12],[12,12]])
    assert len(studio.marks['y'])==1 and len(studio.marks['x'])==2
    assert np.rint(Screen(studio.volume).places(studio.marks['y'][0].points[0])[1])==30
    before = studio.canvas.history['undo']
    post(studio, type='mark', tool='eraser', axis=0, index=20, points=[[45,2]])
    assert studio.canvas.history['undo']==before


def test_a_whole_mask_can_be_erased_too():
    vol = scan()
    board = Board(vol)
    m = np.zeros(vol.shape, bool)
    m[10:14,10:14,10:14] = True
    board.add('x', Mask(m), Point((40,40,30), 2.))
    at = board.screen.places((11,11,11))
    assert erased(board, 'x', mark_from_pointer(board.screen, 'scribble', 2, int(at[2]), [at[:2]]))==board.now.marks['x'][1:]


# ---- the Python side of the widget

def test_what_a_cell_sets_is_in_the_synced_state():
    studio = Studio(None, scan())
    version = studio.canvas.version
    studio.marks = {'liver': [Point((10,20,15)), Box((5,5,5), (9,9,9), False)], 'spleen': Point((1,1,1))}
    state = studio.canvas.get_state()
    assert [(c['name'],c['marks']) for c in state['classes']]==[('liver',2), ('spleen',1)] and state['version']>version
    assert studio.list.get_state()['classes']==state['classes'] and state['active']=='spleen'
    with pytest.raises(AttributeError): studio.marks['liver'].append(Point((0,0,0)))  # a change behind its back is no change
    studio.at = (3,4,5)
    assert studio.at==(3,4,5) and studio.canvas.cursor==[int(o) for o in Screen(studio.volume).places((3,4,5))]
    studio.sentences = ['spleen']
    assert list(studio.marks)==['spleen'] and [c['name'] for c in studio.canvas.classes]==['spleen']
    post(studio, type='look', sentence='spleen', visible=False, opacity=.8, name='evil')
    assert not studio.canvas.classes[0]['visible'] and studio.canvas.classes[0]['name']=='spleen'


@pytest.mark.parametrize('m, says', [
    (dict(type='mark', tool='point', axis=2, index=3, points=[[1,1]]), 'add a sentence first'), (dict(type='run'), 'without a segmenter'),
    (dict(type='save', out=' '), 'name a folder'), (dict(type='add', sentence='  '), 'at least one word')])
def test_a_mistake_in_the_browser_is_said_there(m, says):
    studio = Studio(None, scan())
    post(studio, **m)
    assert says in studio.canvas.status['text'] and studio.canvas.status['wrong']
    post(studio, type='what')
    assert studio.sentences==()


def test_a_bad_mark_changes_nothing():
    studio = Studio(None, scan(), ['x'])
    for bad,says in ((Point((999,0,0)), 'outside'), (Mask(np.zeros((2,2,2), bool)), 'does not lie'), ('here', 'is not a mark')):
        with pytest.raises(UserError, match=says): studio.marks = {'x': [bad]}
    assert studio.marks=={} and studio.canvas.history['undo']==0
    with pytest.raises(UserError, match='do not lie on'): studio.result = Found(Volume(np.zeros((3,3,3)), np.eye(4)), {})


# ---- running

def test_a_correction_runs_only_what_it_touches():
    seg = Calls()
    studio = Studio(seg, scan(), ['x','y'])
    studio.run()
    assert [o[0] for o in seg.seen]==['all'] and not studio.canvas.status['stale']
    post(studio, type='mark', tool='point', axis=2, index=20, points=[[10,20]])
    assert studio.canvas.status['stale']
    studio.run()
    assert seg.seen[1][0]=='touched' and list(seg.seen[1][2])==['y'] and studio.result.masks['y'].any()
    studio.add('z')
    studio.run()
    assert [o[0] for o in seg.seen]==['all','touched','all'] and list(studio.result.masks)==['x','y','z']
    post(studio, type='undo')
    assert list(studio.result.masks)==['x','y']


class Bright(torch.nn.Module):
    "A network that finds what is bright, or what its prompt says"
    def forward(self, x, q, m=None):
        y = (x-100).expand(-1, len(q), -1, -1, -1)/10
        return y if m is None else torch.where(m, 9., y)


@pytest.fixture(scope='module')
def network(): # Windows of 32 voxels of 3 mm: several are needed
    frame = InputSpec(spacing=(3.,3.,3.), window=(32,32,32), modality='mri')
    return Segmenter(Bright(), lambda texts,modality: torch.zeros(len(texts), 4), frame, 'cpu')


@pytest.mark.parametrize('codes', ['RAS','PIL'])
def test_a_real_segmenter_corrects_what_was_drawn(network, codes):
    studio = Studio(network, scan(codes), ['skull','ventricle'])
    passes = [[],[]]
    studio.canvas.observe(lambda c: passes[studio.result is not None].append(c['new'].get('total', 0)), 'status')
    before,first = studio.run(),studio.canvas.status['text']
    post(studio, type='pick', sentence='skull')
    studio.canvas.tool = {**studio.canvas.tool, 'positive': False, 'radius': 6.}
    post(studio, type='mark', tool='point', axis=2, index=20, points=[[24,4]])
    no = rasterize([replace(studio.marks['skull'][0], positive=True)], studio.volume.shape, studio.volume.affine)[0]
    after = studio.run()
    a,b,other = (np.asarray(o) for o in (before.masks['skull'], after.masks['skull'], after.masks['ventricle']))
    assert 'done' in first and (a&no).any() and not (b&no).any() and b.any()
    assert (other==np.asarray(before.masks['ventricle'])).all()
    assert max(passes[1])<max(passes[0]), 'only the windows that were touched'
    post(studio, type='undo')
    assert studio.result is before


def test_a_segmentation_is_shown_as_it_is(network):
    res = network(scan(), ['skull','ventricle'])
    assert slices(res).snapshot()==slices(res.volume, res.masks).snapshot()==slices(res.volume, dict(res.masks.bits)).snapshot()
    assert list(view3d(res).masks)==list(view3d(res.volume, res.masks).masks)==[k for k,m in res.masks.items() if m.any()]
    assert [r['dsc'] for r in compare(res, res).rows]==[1.,1.]


def test_the_kernel_stays_free_and_a_run_can_be_cancelled():
    seg = Calls()
    studio = Studio(seg, scan(), ['x'])
    seg.go.clear()
    post(studio, type='run')
    assert seg.inside.wait(20) and studio.busy and studio.canvas.status['busy']
    got = sent(studio)
    post(studio, type='cut', view='v', axis=0, index=3, rect=None, pixels=64)     # slices are served meanwhile
    assert got[0][0]['type']=='cut'
    post(studio, type='mark', tool='point', axis=2, index=20, points=[[10,20]])   # and marks are drawn
    with pytest.raises(UserError, match='is going on'): studio.run()
    post(studio, type='cancel')
    seg.go.set()
    studio.wait()
    assert 'stopped' in studio.canvas.status['text'] and studio.result is None and len(studio.marks['x'])==1 and not studio.busy
    studio.run()
    assert studio.result.masks['x'].any()


def test_progress_is_shown_and_an_error_is_raised_where_one_waits():
    studio = Studio(Calls(), scan(), ['x'])
    seen = []
    studio.canvas.observe(lambda c: seen.append(c['new']), 'status')
    studio.run()
    assert [(o['done'],o['total']) for o in seen if o.get('total')]==[(1,3),(2,3),(3,3)] and 'done' in seen[-1]['text']
    def broken(*args, **kwargs): raise UserError('no memory for that')
    studio.segmenter = broken
    studio.add('y')
    with pytest.raises(UserError, match='no memory'): studio.run()
    assert studio.canvas.status['wrong'] and list(studio.result.masks)==['x']


def test_saved_work_goes_on_another_day(tmp_path):
    vol = scan('PIL')
    m = np.zeros(vol.shape, bool)
    m[3:9,4:12,5:7] = True
    studio = Studio(None, vol, out=tmp_path/'mine')
    lasso = Lasso(((1.5,2,4),(8,2,4),(8,9.25,4)), 2, False)
    studio.marks = {'a': [Point((1,2,3)), lasso], 'b': [Mask(m), Scribble(((1,1,1),(5,5,5)), 2.5)]}
    post(studio, type='save', out=str(tmp_path/'mine'))
    studio.wait()
    assert 'saved' in studio.canvas.status['text']
    again = Studio(None, vol, marks=tmp_path/'mine')
    assert again.marks['a']==studio.marks['a'] and again.marks['b'][1:]==studio.marks['b'][1:]
    assert all(np.array_equal(again.drawn[k], studio.drawn[k]) for k in 'ab')
    rows = json.loads((tmp_path/'mine'/'marks.json').read_text())
    rows['a'][0]['kind'] = 'Star'
    (tmp_path/'odd.json').write_text(json.dumps(rows))
    with pytest.raises(UserError, match="kind 'Star'"): read_marks(tmp_path/'odd.json')
    write_marks(tmp_path/'none', {}, vol)
    assert read_marks(tmp_path/'none')=={}


# ---- words

def test_words_are_completed_and_understood():
    assert complete('left kid')[0]=='left kidney' and complete('')==[] and 'liver' in complete('hepat')
    assert 'left kidney' in complete('left kidnee') and all(o.startswith('right') for o in complete('right '))
    assert understood('the left kidney', 'ct')=='understood: kidney · left side · CT' and 'as it is' in understood('qwertyuiop')
    studio = Studio(None, scan())
    post(studio, type='typing', text='left kid')
    assert studio.canvas.understood['text']=='left kid' and studio.canvas.understood['options'][0]=='left kidney'


# ---- pictures and surfaces

def shades(png):
    im = np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))
    return im,len(np.unique(im.reshape(-1, 3), axis=0))


def test_snapshots_show_something():
    vol,lbl,names = phantom()
    masks = {n: lbl==k for k,n in names.items()}
    studio = Studio(None, vol, ['x'])
    empty = studio.snapshot()
    studio.result = Found(vol, masks)
    full = studio.snapshot()
    assert full==studio.snapshot() and full!=empty
    for png in (full, slices(vol, lbl, names).snapshot(), compare((vol, masks), (vol, masks)).snapshot(), View3d(vol, masks).snapshot()):
        im,n = shades(png)
        assert n>30 and im.shape[0]>100 and (im.astype(int).max(-1)-im.min(-1)>60).mean()>.01


@pytest.mark.parametrize('codes', ['RAS','PIL','LPS'])
def test_surfaces_lie_where_the_masks_are(codes):
    vol,lbl,_ = phantom()
    turned = vol.like((lbl==2).astype(np.uint8)).reorient(codes)
    p,t = surface(turned.data>0, turned.affine)
    at = np.argwhere(turned.data>0)@turned.affine[:3,:3].T+turned.affine[:3,3]
    assert np.allclose(p.mean(0), at.mean(0), atol=6) and np.allclose(np.ptp(p, axis=0), np.ptp(at, axis=0)+4, atol=8)
    a,b,c = (p[t[:,i]] for i in range(3))
    assert abs((a*np.cross(b, c)).sum()/6/(len(at)*64)-1)<.05  # closed, looking outwards, of the right volume


def test_small_and_reduced_masks_keep_a_surface():
    m = np.zeros((200,150,90), bool)
    assert len(surface(m, np.eye(4))[1])==0
    m[100,75,45] = True
    assert len(surface(m, np.eye(4))[1])>=8
    m[20:180,20:130,20:80] = True
    x,aff,step = reduced(m, np.eye(4))
    assert step==3 and max(x.shape)<=96
    p,_ = surface(m, np.eye(4))
    assert np.allclose(p.min(0), (19.5,19.5,19.5), atol=1.) and np.allclose(p.max(0), (179.5,129.5,79.5), atol=1.)


def test_3d_falls_back_with_a_reason():
    vol,lbl,names = phantom()
    with pytest.warns(UserWarning, match='cannot be used here'): v = view3d(vol, lbl, names, backend='itkwidgets')
    assert isinstance(v, View3d)


def test_widgets_can_be_imported_without_what_is_optional():
    code = '''import sys
for o in ('anywidget','ipyniivue','itkwidgets'): sys.modules[o] = None
from medals.volume import phantom
from medals.widgets import Studio, slices
from medals.core import UserError
vol,lbl,names = phantom()
slices(vol, lbl, names).snapshot()
try: Studio(None, vol)
except UserError as e: print(e)'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'pip install "medals[widgets] @ git+' in out.stdout, out.stderr


def test_an_l_is_an_l_wherever_it_falls_on_the_pixels():
    "A thin foot between two rows of pixels vanishes, and left reads as inferior"
    for dx,dy in np.ndindex(6, 6):
        fig = Figure(figsize=(.5,.5), dpi=80, facecolor='k')
        fig.text(.5+dx/240, .5+dy/240, 'L', ha='center', va='center', fontsize=7, **WHITE)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        seen = np.asarray(canvas.buffer_rgba())[...,0]
        xs = np.flatnonzero((seen>100).any(0))
        assert len(xs) and xs[-1]-xs[0]>=2, (dx, dy)
