"The segmenter: windows, slabs, stages, prompts and memory, on stand-in networks whose answers can be worked out"
import json
import subprocess
import sys
from dataclasses import replace
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from medals.inference import forecast as module
from medals.core import UserError
from medals.scans.axes import AxisOrder
from medals.preprocessing.input_spec import InputSpec, NetGrid, axis_order_to
from medals.geometry import resample
from medals.inference.request import make_request
from medals.inference.inputs import prompt_channels, cover_mask, stage_view
from medals.inference.corrections import REACH, reach
from medals.inference.memory import Sizes
from medals.model import MedalS, ModelCfg
from medals.masks.bitmask import BitMask
from medals.masks.geodesic import FAR, felt_spacing, geodesic, pulled, spread_of
from medals.inference.roi import fine_regions, published_roi
from medals.segment import SegmentRun, Segmenter, Stopped
from medals.base.settings import InferenceCfg
from medals.inference.windows import Windows
from medals.inference.sliding import SCALE, MaskAccumulator, ScoreSlab, LabelWriter, MaskWriter, sliding_window
from medals.spatial import Box, Mask, Point, Scribble, rasterize
from medals.inference.stages import RandomQueries, NetworkStage
from medals.inference.predictor import WindowPredictor, WindowInput
from medals.volume import Volume, phantom
from medals.example import template

CODES = [''.join(p) for axes in permutations(('LR','AP','SI')) for p in product(*axes)]


class Fake(torch.nn.Module):
    "A network of local means: its features are the image, its mean, one, and the prompts, each with the vector of its class"
    def __init__(self): super().__init__(); self.asked = []
    def mask_factors(self, x, q, m=None, which=None):
        self.asked.append((tuple(x.shape[2:]), m is not None))
        def mean(v): return torch.nn.functional.avg_pool3d(v, 5, 1, 2, count_include_pad=False)
        some = q if which is None else q[which]
        given = torch.zeros_like(x) if m is None else mean(torch.einsum('bnxyz,n->bxyz', m.float(), some[:,3])[None])
        own = torch.zeros_like(x) if m is None else mean(m.any(1, keepdim=True).float())
        return torch.cat([x/64, mean(x)/64, torch.ones_like(x), given, own], 1),q[None]


def queries(texts, modality=None):
    "Sentences `a`, `b`, ... find what is brighter than so much; `q...` is random"
    q = torch.zeros(len(texts), 5)
    for row,t in zip(q, texts):
        g = torch.Generator().manual_seed(sum(map(ord, t)))
        row[:] = torch.tensor([1., 1., -3., .5, 2.])+torch.randn(5, generator=g)*.3
    return q


def fake(window=(32,32,32), two=False, **kw):
    frame = InputSpec(spacing=(4.,4.,4.), window=window, modality='mri', **kw)
    coarse = NetworkStage(Fake(), replace(frame, spacing=(8.,8.,8.)), 'coarse')
    stages = [coarse, NetworkStage(Fake(), frame, 'fine')] if two else NetworkStage(Fake(), frame)
    return Segmenter(stages, queries, device='cpu', source='fake')


@pytest.fixture(scope='module')
def head(): return phantom()[0]


# ---- windows and slabs

axes = st.tuples(st.integers(1, 90), st.integers(4, 40).map(lambda n: 2*n), st.integers(0, 60), st.integers(1, 90))

@settings(max_examples=150, deadline=None)
@given(st.tuples(*[axes]*3), st.booleans())
def test_shares_add_up_to_one_everywhere(spec, even):
    shape,window = [a[0] for a in spec],[a[1] for a in spec]
    box = [(min(a[2], a[0]-1), min(a[0], a[2]+a[3])) if even else (0, a[0]) for a in spec]
    box = [(a, max(b, a+1)) for a,b in box]
    tiles = Windows(shape, window, box, even)
    seen = 0
    for axis,(row,w,(lo,hi)) in enumerate(zip(tiles.rows, window, box)):
        total,n = np.zeros(hi-lo),shape[axis]
        for s,a,b,share in row:
            total[a-lo:b-lo] += share
            assert lo<=a<b<=hi and s<=a and b<=s+w and (n<w or 0<=s<=n-w or not even)
        assert np.allclose(total, 1, atol=1e-5)
        seen = max(seen, max(b-a for _,a,b,_ in row))
    assert len(tiles)==sum(len(t) for t,_ in tiles.slabs()) and tiles.open<=max(window)
    upto = [u for _,u in tiles.slabs()]
    assert upto==sorted(upto) and upto[-1]==box[tiles.axis][1]


def test_windows_of_the_published_way():
    for n,w,want in ((341, 224, [0,112,117]), (365, 192, [0,96,173]), (150, 128, [0,22]), (100, 128, [0]), (128, 128, [0])):
        assert list(Windows((n,)*3, (w,)*3, even=False).starts[0])==want


def puzzle(gen):
    "A lattice with random size, crop, turn and phases, and windows over a random box of it"
    net,k = tuple(gen.integers(5, 24, 3)),int(gen.integers(1, 3))
    size,lo = tuple(gen.integers(5, 40, 3)),[int(o) for o in gen.integers(0, 4, 3)]
    turn = AxisOrder(tuple(int(o) for o in gen.permutation(3)), tuple(bool(o) for o in gen.integers(0, 2, 3)))
    shape = [0,0,0]
    for i,o in enumerate(turn.order): shape[o] = size[i]+lo[i]+2
    box = [sorted(int(o) for o in gen.choice(m+1, 2, replace=False)) for m in net]
    tiles = Windows(net, tuple(2*int(o) for o in gen.integers(2, 8, 3)), box)
    return SimpleNamespace(net=NetGrid(tuple((a, a+s) for a,s in zip(lo, size)), net, k), turn=turn, shape=shape), tiles


def random_answers(gen, tiles, k, whole):
    "Random probabilities for every window, in two groups and two halves, also added up as floats"
    def answers(tile):
        for phase in np.ndindex(k, k, k):
            at = tuple(slice(a*k+f, (b-1)*k+f+1, k) for (a,b),f in zip(tile.keep, phase))
            for rows in (slice(0,2), slice(2,3)):
                p = torch.as_tensor(gen.random((rows.stop-rows.start, *tiles.window), dtype=np.float32))
                half = torch.as_tensor(gen.random(tiles.window)<.5)
                for where in (half, ~half):
                    u,v,w = tile.weight
                    part = (p*where).numpy()[:,*(slice(a-s, b-s) for (a,b),s in zip(tile.keep, tile.at))]
                    whole[(rows, *at)] += part*(u[:,None,None]*v[:,None]*w)
                    yield rows,p,phase,where,1.
    return answers


def onto_scan(x, inner, view):
    "Scores of a box, interpolated in full on the voxels of the scan"
    x = np.pad(x[tuple(slice(*o) for o in inner)], [(a, m-b) for (a,b),m in zip(inner, view.net.fine)], mode='edge')
    out,part = np.zeros(view.turn.of(view.shape), np.float32),tuple(slice(*o) for o in view.net.covered(inner))
    out[tuple(slice(a+p.start, a+p.stop) for (a,_),p in zip(view.net.crop, part))] = resample(x, view.net.size)[part]
    return view.turn.back(out)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_slabs_equal_the_whole_volume(seed):
    "Random answers of overlapping windows, in slabs on the scan, against float sums of everything"
    gen = np.random.default_rng(seed)
    view,tiles = puzzle(gen)
    k,whole,found = view.net.phases,np.zeros((3, *view.net.fine)),MaskAccumulator(3, view.shape, [1])
    sliding_window(tiles, 3, lambda t: t, random_answers(gen, tiles, k, whole), MaskWriter(found, view, tiles.box, .55, 999), k)
    inner = [(a*k, b*k) for a,b in tiles.box]
    for i in range(3):
        want,edge = onto_scan(whole[i].astype(np.float32), inner, view),whole[i][tuple(slice(*o) for o in inner)]
        sure = np.abs(want-.55)>2e-3
        assert np.array_equal(np.asarray(found.bits[i])[sure], (want>.55)[sure])
        assert abs(found.hist[i].sum()-(edge>1/16).sum())<=3+edge.size*.01 and abs(found.peak[i]-edge.max())<1e-3
        if i==1: assert np.abs(found.scores[1]/255-want)[want>.56].max(initial=0)<.01
    assert found.voxels.tolist()==[b.sum() for b in found.bits]


def test_open_scores_are_small():
    tiles = Windows((400,400,900), (64,64,64))
    slab = ScoreSlab(1, tiles)
    assert slab.sums.element_size()==2 and slab.sums.numel()<=400*400*66


# ---- the segmenter as a whole

@pytest.mark.parametrize('two, codes', [(False, CODES[::7]), (True, CODES)])
def test_the_same_masks_in_all_48_orientations(head, two, codes):
    head = Volume(head.data[::2,::2,:30], head.affine@np.diag([2,2,1,1]), 'mri')
    seg = fake(two=two, phases=1 if two else 2)
    want = seg(head, ['a','b'], spatial={'b': Point((10,15,20), radius=9)}, presence=0)
    mm = tuple((head.affine@[10,15,20,1])[:3])
    for c in codes:
        got = seg(head.reorient(c), ['a','b'], spatial={'b': Point(mm, radius=9, unit='mm')}, presence=0)
        for s in ('a','b'):
            assert np.array_equal(got.volume.like(got.masks[s]).reorient('RAS').data, want.masks[s]), c
    assert want.masks['a'].any() and want.masks['b'][10,15,20]


def test_trained_weights_in_many_orientations(head):
    seg = Segmenter.load('nano', 'cpu')
    seg.stages[0].frame = replace(seg.stages[0].frame, phases=1)
    want = seg(head, ['left cerebral hemisphere']).masks['left cerebral hemisphere']
    assert want.any()
    for codes in ('LPS','PIL','SRA','AIR'):
        got = seg(head.reorient(codes), ['left cerebral hemisphere'])
        assert np.array_equal(got.volume.like(got.masks['left cerebral hemisphere']).reorient('RAS').data, want)


def test_same_seed_same_bits(head):
    seg = fake(two=True)
    a,b,c = (seg(head, ['a','b'], blind='random', seed=s, presence=0) for s in (1,1,2))
    assert all(np.array_equal(a.masks[k], b.masks[k]) for k in a.masks) and a.scores==b.scores
    assert any((a.masks[k]!=c.masks[k]).any() for k in a.masks)


@pytest.mark.parametrize('compat', [False, True])
def test_groups_of_classes_change_nothing(head, compat, monkeypatch):
    "A real network with prompts for some classes: everything at once, and one class at a time"
    torch.manual_seed(0)
    tiny = ModelCfg(features=(8,)*6, query=24, layers=1, heads=2, ffn=16, head=8, aux=False)
    frame = InputSpec(spacing=(6.,6.,3.), window=(32,32,64), modality='mri')
    nets = [NetworkStage(MedalS(tiny).eval(), replace(frame, spacing=s), n) for n,s in (('coarse',(9.,9.,6.)), ('fine',frame.spacing))]
    seg = Segmenter(nets, RandomQueries(24), device='cpu')
    words,marks = list('abcde'),{'c': [Box((10,10,10), (30,30,30))]}
    want = seg(head, words, spatial=marks, compat=compat, presence=0)
    small = lambda need,n,*a: (Sizes(2, 1, 5000),0,0)
    monkeypatch.setattr(module, 'sizes_of', small)
    got = seg(head, words, spatial=marks, compat=compat, presence=0)
    assert got.manifest['passes']==3*want.manifest['passes'], 'three turns of two classes'
    for w in words: assert (got.masks[w]!=want.masks[w]).sum()<=2 and abs(got.scores[w]-want.scores[w])<1e-3
    assert want.masks['c'].any()


def test_out_of_memory_halves_and_goes_on(head, monkeypatch):
    class Tight(Fake):
        def mask_factors(self, x, q, m=None, which=None):
            if sizes['now'].classes>2: raise torch.OutOfMemoryError('CUDA out of memory')
            return super().mask_factors(x, q, m, which)
    sizes = {}
    seg,words = fake(),list('abcdefg')
    want = seg(head, words, presence=0)
    seg.stages[0].model = Tight()
    turn = SegmentRun._turn
    def spy(self, shown, look, t, some, found, size):
        sizes['now'] = size
        return turn(self, shown, look, t, some, found, size)
    monkeypatch.setattr(SegmentRun, '_turn', spy)
    got = seg(head, words, presence=0)
    assert sizes['now'].classes==1 and all(np.array_equal(got.masks[w], want.masks[w]) for w in words) and got.scores==want.scores
    seg.stages[0].model.mask_factors = lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory'))
    with pytest.raises(UserError, match="device='cpu'"): seg(head, words)


def test_overlapping_masks_keep_all_their_voxels(head):
    res = fake()(head, ['a','a too'], spatial={'a': Box((20,20,20), (30,30,30)), 'a too': Box((20,20,20), (30,30,34))})
    assert (res.masks['a']&res.masks['a too'])[20:30,20:30,20:30].all()
    lbl,names = res.labels(priority=['a too','a'])
    assert (lbl[20:30,20:30,20:34]==2).all() and names=={1: 'a', 2: 'a too'}
    with pytest.raises(UserError, match='each sentence once'): res.labels(['a'])


def test_flips_leave_left_and_right_alone(head):
    seg = fake((64,64,64))
    seg(head, 'a', tta=True)
    assert seg.dry_run(head, 'a', tta=True).passes==4
    seen = []
    class Eye(Fake):
        def mask_factors(self, x, q, m=None, which=None):
            seen.append(x[0,0].clone())
            return super().mask_factors(x, q, m, which)
    for axes,flips in (('RAS', ((),(1,),(2,),(1,2))), ('PLS', ((),(0,),(2,),(0,2)))):
        seen.clear()
        eye = Segmenter(Eye(), queries, InputSpec(spacing=(4.,)*3, window=(64,64,64), axes=axes), 'cpu')
        eye(head, 'a', 'mri', tta=True)
        assert len(seen)==4 and all(torch.equal(x, seen[0].flip(f)) for x,f in zip(seen, flips))


def test_progress_counts_and_stops(head):
    seen = []
    fake(two=True)(head, ['a','b'], progress=lambda done,total: seen.append((done,total)))
    assert [d for d,_ in seen]==list(range(1, len(seen)+1)) and seen[-1][0]==seen[-1][1] and all(d<=t for d,t in seen)
    with pytest.raises(Stopped): fake()(head, 'a', progress=lambda done,total: False)


def test_windows_of_nothing_are_not_asked(head):
    wide = Volume(np.pad(head.data, ((0,120),(0,0),(0,0))), head.affine, 'mri')
    wide.data[-1,-1,-1] = 200 # so that the border is not cut off
    seg,wide = fake(),replace(wide, modality='pet')
    res = seg(wide, 'a', presence=0)
    skipped = seg.dry_run(wide, 'a').passes-res.manifest['passes']
    assert skipped>10 and not res.masks['a'][60:150].any()


def test_a_structure_that_is_not_there_is_not_found(head):
    seg = fake()
    low = seg(head, ['a'], presence=0).scores['a']
    assert seg(head, ['a'], presence=min(low+.001, .999)).table[0]['found'] is False
    kept = seg(head, ['a'], presence=.999, spatial={'a': Point((20,20,20))})
    assert kept.masks['a'][20,20,20], 'a user who marks it says that it is there'


# ---- coarse to fine

def test_specks_do_not_inflate_a_region_and_what_is_missed_gets_a_window():
    net = NetGrid(((0,400),)*3, (400,)*3)
    m = np.zeros((400,400,400), bool)
    m[180:240,180:240,180:240] = True
    m[5:8,5:8,390:393] = True
    assert fine_regions([BitMask.of(m)], [], net, AxisOrder(), m.shape, (96,96,96))==[((162,258),)*3]
    two = fine_regions([BitMask.of(m)], [(20,20,20)], net, AxisOrder(), m.shape, (96,96,96))
    assert two==[((0,96),)*3, ((162,258),)*3]
    m[100:160,100:160,100:160] = True
    assert len(fine_regions([BitMask.of(m)], [], net, AxisOrder(), m.shape, (96,96,96)))==1, 'overlapping boxes are one'


def test_the_second_look_is_where_the_first_one_found_something(head):
    seg = fake(two=True)
    coarse,both = seg(head, ['a'], stages='coarse', presence=0),seg(head, ['a'], presence=0)
    look = both.manifest['looks'][-1]
    assert look['stage']=='fine' and coarse.masks['a'].any()
    fine = seg.stages[1].model.asked
    assert any(p for _,p in fine), 'the first answer is shown as a prompt'
    given = [Mask(coarse.masks['a'], mode='replace')]
    n = len(seg.stages[0].model.asked)
    own = seg(head, ['a'], spatial={'a': given}, presence=0)
    assert len(seg.stages[0].model.asked)==n and own.manifest['looks'][0]['stage']=='fine', 'own masks replace the first look'


@pytest.mark.parametrize('inst, soft, want', [(False, False, 1), (False, True, 2), (True, False, 3), (True, True, 4)])
def test_passes_per_window_are_the_published_ones(head, inst, soft, want):
    frame,model = InputSpec(spacing=(4.,)*3, window=(64,64,64), iterations=1),Fake()
    request = make_request(head, ['a'], 'mri', instance=inst, cfg=InferenceCfg(compat=True))
    stage = NetworkStage(model, frame, 'fine')
    predictor = Segmenter([stage], queries, device='cpu').predictor(request, stage, [0], queries(['a']))
    m = np.zeros((1,64,64,64), bool)
    m[:,20:40,20:40,20:40] = True
    list(predictor.predict(WindowInput(np.full((64,64,64), 90, np.uint8), ids=[0] if soft else [], soft=m if soft else None), (0,1)))
    assert len(model.asked)==want==predictor.passes(soft)


def test_every_voxel_is_decided_while_its_own_prompt_is_hidden():
    class Copy(Fake):
        def mask_factors(self, x, q, m=None, which=None):
            given = m if m is not None else torch.zeros_like(x)
            return given.float()*20-10,torch.ones(1,1,1)
    m = torch.zeros(1,32,32,32, dtype=torch.bool)
    m[0,8:24,8:24,8:24] = True
    for blind in ('checker','random'):
        predictor = WindowPredictor(NetworkStage(Copy(), InputSpec(spacing=(1.,)*3, window=(32,32,32))), torch.ones(1,1), blind=blind)
        told = sum(p*w for _,p,_,w,_ in predictor.predict(WindowInput(np.ones((32,32,32), np.uint8), ids=[0], soft=m.numpy()), (0,1)))
        assert told.max()<.01, 'a network that copies its prompt finds nothing'
        both = WindowInput(np.ones((32,32,32), np.uint8), ids=[0], soft=m.numpy(), hard=m.numpy())
        mark = sum(p*w for _,p,_,w,_ in predictor.predict(both, (0,1)))
        assert ((mark>.5)==m).all(), 'a mark of the user is never hidden'


# ---- the published way

def lone(shape, spacing, name='CT_x.npz', fill=0):
    return Volume(np.full(shape, fill, np.uint8), np.diag([*spacing, 1.]), codes=(0,0), source=name)


@pytest.mark.parametrize('shape, spacing, n, coarse, fine', [
    ((512,512,63), (.846,.846,5), 15, (341,341,123,9), (365,365,315,27)),
    ((218,182,70), (1,1,1), 4, (182,218,109,1), (182,218,171,2)),
    ((64,64,40), (2,2,6), 'PET_Lesion', (195,195,122,1), (156,156,191,1))])
def test_compat_plans_windows_as_published(shape, spacing, n, coarse, fine, monkeypatch):
    "Vectors of the specification, through the segmenter: rows are the second axis of a file"
    monkeypatch.setattr('medals.inference.request.vocab.published', lambda r,i: n if isinstance(n, str) else None)
    frame = InputSpec(axes='PLS', fill=True)
    published = ('coarse',(1.5,1.5,3.),(224,224,128)),('fine',(1.,1.,1.),(192,192,192))
    stages = [NetworkStage(Fake(), replace(frame, spacing=s, window=w), k) for k,s,w in published]
    words = [f'structure {i}' for i in range(1 if isinstance(n, str) else n)]
    rows = Segmenter(stages, queries, device='cpu').dry_run(lone(shape, spacing), words, 'ct', compat=True, max_memory=99.).rows
    assert [(*r['voxels'], r['windows']) for r in rows]==[coarse, fine]


def test_the_published_region_by_hand():
    "Section 3.8: s' from the whole shape with T=1; half ranges of 1.1 or of 96 mm; clipped, not shifted"
    # 300x300x100 at 1 mm, two classes: no rule changes the spacing; r = max(1.1*n/2, 95)
    assert published_roi(((100,150),(0,20),(40,60)), (300,300,100), (1,1,1), ['a','b'])==((29,220),(0,105),(0,100))
    # one class, 500 voxels > 2*192: s' = 384/500 = .768, so half a patch is 125 voxels, less one
    assert published_roi(((200,300),(200,300),(40,60)), (500,500,100), (1,1,1), ['a'])==((125,374),(125,374),(0,100))
    # airways: margin 1.5, and the 1.6 patch limit holds for CT_Airway Tree but not for CT_Airways
    big = ((100,240),)*3
    a,b = (published_roi(big, (320,320,320), (1,1,1), [k], 1.5) for k in ('CT_Airway Tree','CT_Airways'))
    assert a==((64,275),)*3 and b==((64,275),)*3
    small = ((150,170),)*3
    a,b = (published_roi(small, (320,320,320), (1,1,1), [k], 1.5) for k in ('CT_Airway Tree','CT_Airways'))
    assert a==((60,259),)*3 and b==((64,255),)*3


def test_the_published_decision_by_hand():
    net = NetGrid(((0,2),(0,2),(0,2)), (2,2,2))
    labels,found = LabelWriter(net),MaskAccumulator(3, (2,2,2))
    scores = torch.tensor([[.6,.49,.5,.2,.9,0,.3,.7],[.6,.2,.4,.5,.95,0,.51,.69],[.7,.4,.1,.49,.1,0,.5,.69]]).reshape(3,2,2,2)
    tiles = Windows((2,2,2), (2,2,2), even=False)
    for some in ([0,1],[2]): # in two turns
        told = (slice(0, len(some)), scores[some], (0,0,0), None, 1.)
        sliding_window(tiles, len(some), lambda t: t, lambda t, told=told: [told], labels.start(some))
    labels.finish(found, AxisOrder())
    got = sum((i+1)*np.asarray(b).astype(int) for i,b in enumerate(found.bits)).ravel().tolist()
    assert got==[3,0,1,2,2,0,2,1], 'the highest of at least one half; the first of equals'
    assert abs(labels.best.max()-.95*SCALE)<2


def test_compat_gives_every_voxel_to_one_class_and_skips_as_the_table_says(head, monkeypatch):
    seg = fake(two=True)
    res = seg(head, ['a','b','c'], compat=True)
    total = sum(m.astype(int) for m in res.masks.values())
    assert total.max()==1 and [o['stage'] for o in res.manifest['looks']]==['coarse','fine']
    for key,want in (('US_Soleus', ['coarse']), ('Microscopy_Synaptic clefts', ['fine']), ('CT_Liver', ['coarse','fine'])):
        monkeypatch.setattr('medals.inference.request.vocab.published', lambda r,i,key=key: key)
        looks = seg(head, ['a'], compat=True).manifest['looks']
        assert [o['stage'] for o in looks]==want and looks[-1]['rule']=='percentile'


def test_an_empty_first_stage_sends_the_published_way_everywhere_and_ours_nowhere(head):
    seg = fake(two=True)
    seg.stages[0].model.mask_factors = lambda x,q,m=None,which=None: (torch.full_like(x, -20.),torch.ones(1,len(q),1))
    assert [o['stage'] for o in seg(head, ['a'], compat=True).manifest['looks']]==['coarse','fine']
    ours = seg(head, ['a'])
    assert [o['stage'] for o in ours.manifest['looks']]==['coarse'] and not ours.masks['a'].any()


# ---- marks

def pieces_with(change, mark):
    "Are all changed voxels in one piece with the mark?"
    lab,_ = ndi.label(change|mark, np.ones((3,3,3)))
    return len(np.unique(lab[mark]))==1==lab.max()


@pytest.mark.parametrize('wrong', [None, [Point((20,20,20))], Point((20,20,20)), 'a', 3])
def test_marks_that_are_no_marks_by_sentence_are_refused_in_a_sentence(head, wrong):
    first = fake((32,32,32))(head, ['a'], presence=0)
    before = first.masks.bits['a'].data.copy()
    with pytest.raises(UserError, match=r'marks should be \{sentence: \[marks\]\}, got'): first.refine(wrong)
    assert np.array_equal(first.masks.bits['a'].data, before)


def test_a_correction_stays_near_its_mark_and_never_goes_the_other_way(head):
    seg = fake((32,32,32))
    seg.stages[0].frame = replace(seg.stages[0].frame, spacing=(2.,2.,2.))
    first = seg(head, ['a','b'], presence=0)
    model = seg.stages[0].model
    model.asked.clear()
    depth = ndi.distance_transform_edt(~first.masks['a'])
    spot = Point(tuple(int(n) for n in np.unravel_index(depth.argmax(), depth.shape)), radius=9.)
    seen = []
    second = first.refine({'a': [spot]}, preview=seen.append)
    mark = rasterize([spot], head.shape, head.affine)[0]
    away = ndi.distance_transform_edt(~mark, sampling=head.spacing)
    part = reach(BitMask.of(mark).box(), head)
    view = stage_view(make_request(head, ['a']), seg.stages[0].frame)
    box = view.net.around(view.turn.region(part, head.shape))
    tiles = Windows(view.net.shape, second.manifest['looks'][0]['window'], box)
    assert len(model.asked)==len(tiles)==second.manifest['passes'] and second.manifest['refined']
    for res in (seen[0], second):
        assert np.array_equal(res.masks['b'], first.masks['b'])
        changed = res.masks['a']^first.masks['a']
        assert changed.any() and not changed[away>REACH].any() and pieces_with(changed, mark)
        assert res.masks['a'][mark].all() and not (first.masks['a']&~res.masks['a']).any()
    assert second.refine({'a': [spot]}) is second, 'a mark that is known already asks nothing'
    stroke = Scribble(((30,28,22),(34,28,22)), positive=False)
    third = second.refine({'a': [stroke]})
    assert not third.masks['a'][30:35,28,22].any() and third.marks['a'][0] is spot
    assert not (third.masks['a']&~second.masks['a']).any()
    kept = seg(head, ['a','b'], presence=0, keep_scores=True)
    better = kept.refine({'a': [spot]})
    assert np.array_equal(better.masks['a'], second.masks['a']) and np.array_equal(better.voxel_scores['b'], kept.voxel_scores['b'])
    for one in (kept, better):
        for text,levels in one.voxel_scores.items(): assert np.array_equal(levels>=128, one.masks[text]) # 128 of 255 is one half
    assert np.array_equal(better.voxel_scores['a']!=kept.voxel_scores['a'], better.masks['a']!=kept.masks['a'])


def test_a_click_on_a_thin_error_does_not_paint_over_its_other_side(head):
    seg = fake((32,32,32))
    head = Volume(np.asarray(head.data), np.eye(4), 'mri')
    first = seg(head, ['a'], presence=0)
    plain = np.zeros(head.shape, bool)
    plain[:20] = True # all on one side of a plane belongs to it, and a click just beyond says a little more does
    flat = replace(first, masks={'a': plain})
    flat.again = first.again
    click = Point((20,28,20))
    seen = []
    flat.refine({'a': [click]}, preview=seen.append)
    drawn = rasterize([click], head.shape, head.affine)[0]
    held, = seen[0].held['a']
    assert .9<held.radius<1 and seen[0].marks['a']==[click], 'it ends before the first voxel that is right'
    assert seen[0].masks['a'][click.at] and seen[0].masks['a'][plain].all()
    later = seen[0].refine({'a': [Point((40,10,30), positive=False)]})
    assert later.masks['a'][click.at] and len(later.held['a'])==2
    away = Point((12,28,20), positive=False)
    beside = Point((14,28,20)) # of the usual size, and right already; its ball would reach a click of the other sign
    both = flat.refine({'a': [away]}).refine({'a': [beside]}).refine({'a': [Point((13,28,20))]})
    assert [bool(both.masks['a'][at]) for at in (away.at, beside.at, (13,28,20))]==[False,True,True]
    over = both.refine({'a': [Scribble(((10,28,20),(16,28,20)), radius=1.)]}) # a stroke that is drawn over a click counts
    assert over.masks['a'][10:17,28,20].all()
    chosen = flat.refine({'a': [replace(click, radius=4.)]}) # a size that was chosen is what was drawn
    assert chosen.masks['a'][rasterize([replace(click, radius=4.)], head.shape, head.affine)[0]].all()
    nothing = replace(first, masks={'a': np.zeros(head.shape, bool)})
    nothing.again = first.again
    assert nothing.refine({'a': [click]}).masks['a'][drawn].all(), 'where nothing was there is no border'


def test_earlier_marks_hold_and_an_equal_mask_is_known(head):
    seg = fake((32,32,32))
    first = seg(head, ['a'], presence=0)
    a,b = Point((24,28,22)),Point((24,28,25), positive=False)
    later = first.refine({'a': [a]}).refine({'a': [a, b]})
    at_once = first.refine({'a': [a, b]})
    for mark,inside in ((a, True), (b, False)):
        own = rasterize([replace(mark, positive=True)], head.shape, head.affine)[0]
        if mark is a: own &= ~rasterize([replace(b, positive=True)], head.shape, head.affine)[0]
        for res in (later, at_once): assert (res.masks['a'][own]==inside).all()
    block = first.masks['a'].copy()
    block[20:26,20:30,20:26] = True
    joined = first.refine({'a': [Mask(block)]})
    assert joined.refine({'a': [Mask(block.copy())]}) is joined
    assert not (first.masks['a']&~joined.masks['a']).any(), 'a mask that joins takes nothing away'
    less = first.refine({'a': [Mask(block, positive=False)]})
    assert not (less.masks['a']&~first.masks['a']).any(), 'and one that takes away adds nothing'


@pytest.mark.parametrize('odd', [3.4e38, -3.4e38, 1e300, np.inf, np.nan])
def test_fill_values_beside_a_mark_do_no_harm(odd):
    gen = np.random.default_rng(0)
    grey = gen.normal(100, 10, (24,24,16))
    mark = np.zeros(grey.shape, bool)
    mark[12,12,8] = True
    usual = geodesic(grey, mark, (1.,1.,1.))
    grey[4,4,4] = odd
    spoilt = geodesic(grey, mark, (1.,1.,1.))
    assert np.isfinite(spoilt).all() and np.abs(spoilt-usual)[8:,8:].max()<2


def test_a_mark_under_a_microscope_reaches_voxels_not_millimetres():
    shape = (80,80,40)
    mark = np.zeros(shape, bool)
    mark[40,40,20] = True
    none = np.zeros(shape, bool)
    for mm in (.15, .01, 1e-4):
        spacing = felt_spacing((mm,)*3)
        far = geodesic(np.zeros(shape), mark, spacing)
        found = pulled(none, np.full(shape, .02), far, True, 8., spread_of(none, mark, True, spacing))
        assert 100<found.sum()<found.size*.8 and np.allclose(spacing, spacing[0])
    assert tuple(felt_spacing((1.,1.,3.)))==(1.,1.,3.)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), positive=st.booleans(), strength=st.sampled_from((0.,2.,8.)),
       mm=st.sampled_from(((1.,1.,1.),(.5,.5,3.),(2.,1.,1.))))
def test_what_a_mark_pulls_is_one_piece_and_only_one_way(seed, positive, strength, mm):
    gen = np.random.default_rng(seed)
    shape = (18,16,10)
    grey = ndi.gaussian_filter(gen.normal(size=shape), 2).astype(np.float32)
    before = ndi.gaussian_filter(gen.normal(size=shape), 2)>0
    scores = gen.random(shape).astype(np.float32)
    mark = np.zeros(shape, bool)
    mark[9,8,gen.integers(10)] = True
    far = geodesic(grey, mark, mm)
    straight = ndi.distance_transform_edt(~mark, sampling=mm)
    assert (far[mark]==0).all() and (far>=straight-2*max(*mm, 1.5)).all(), 'no path is shorter than a straight line, but for coarse voxels'
    after = pulled(before, scores, far, positive, strength, spread_of(before, mark, positive, mm))
    change = after^before
    assert (after[change]==positive).all() and not change[far>=FAR].any() and (after[mark]==positive).all() or not strength
    assert pieces_with(change, mark) or not change.any()
    weaker = pulled(before, scores, far, positive, strength/2, spread_of(before, mark, positive, mm))
    assert not ((weaker^before)&~change).any(), 'a stronger pull changes no less'


def test_objects_keep_their_ids_after_a_correction():
    "Three balls; one is taken away by a mark, a new one is drawn"
    at,x = np.stack(np.meshgrid(*[np.arange(40)]*3, indexing='ij'), -1),np.full((40,40,40), 10, np.int16)
    for c,r in ((10,6), (20,4), (30,5)): x[((at-c)**2).sum(-1)<r*r] = 200
    seg = fake()
    first = seg((x, np.diag([4.,4.,4.,1.])), ['a'], 'mri', instance=True, presence=0)
    ids = first.instances['a']
    a,b,c = (int(ids[o,o,o]) for o in (10,20,30))
    assert sorted((a,b,c))==[1,2,3]==list(np.unique(ids))[1:] and a<c<b, 'from the largest to the smallest'
    marks = [Box((13,13,13), (26,26,26), positive=False), Box((5,30,5), (9,34,9))]
    second = first.refine({'a': marks})
    again = second.instances['a']
    assert again[10,10,10]==a and again[30,30,30]==c and b not in again and again[7,32,7]>3
    assert np.array_equal(second.masks['a'], again>0) and np.array_equal(first.instances['a'], ids), 'the first result is as it was'
    large = seg((x, np.diag([4.,4.,4.,1.])), ['a'], 'mri', instance=True, presence=0, min_mm3=64*350)
    assert large.instances['a'].max()==2 and not large.masks['a'][20,20,20]


def test_masks_join_or_replace_what_was_found(head):
    seg = fake(two=True)
    m = np.zeros(head.shape, bool)
    m[20:24,20:24,20:24] = True
    for mode in ('join','replace'):
        request = make_request(head, ['a'], spatial={'a': Mask(m, mode=mode)})
        view = stage_view(request, seg.stages[1].frame)
        part = [(0,n) for n in view.net.fine]
        soft,hard = prompt_channels(request, view, part, [0], {0: BitMask.of(head.data>100)})
        assert hard==[None] and (soft[0].sum()>5000)==(mode=='join') and soft[0].any()
    with pytest.raises(UserError, match="'join' or 'replace'"): Mask(m, mode='add')


@settings(max_examples=30, deadline=None)
@given(at=st.tuples(*[st.integers(0, n-1) for n in (48,56,44)]), spacing=st.floats(2.5, 14), codes=st.sampled_from(CODES))
def test_no_mark_is_too_small_to_be_seen(at, spacing, codes):
    vol = phantom()[0]
    dot = np.zeros(vol.shape, bool)
    dot[at] = True
    scan,there = vol.reorient(codes),vol.like(dot).reorient(codes).data
    view = stage_view(make_request(replace(scan, modality='ct'), 'a'), InputSpec(spacing=(spacing,)*3, window=(32,32,32)))
    got = cover_mask(BitMask.of(there), view, [(0,n) for n in view.net.fine])
    inside = all(a<=i<b for i,(a,b) in zip(np.argwhere(view.turn(there))[0], view.net.crop))
    assert (got is not None and got.any())==inside


# ---- questions, memory, files

@pytest.mark.parametrize('args, says', [(dict(prompts=[]), 'one or more sentences'), (dict(prompts=['x'], modality='xray'), 'xray'),
    (dict(prompts=['x'], spatial={'y': []}), 'marks for'), (dict(prompts={0: 'x'}), 'from 1 on'),
    (dict(prompts=['x'], stages='fine'), 'one stage'), (dict(prompts=['x'], threshold=1.5), 'from 0 to 1'),
    (dict(prompts=['x'], max_memory=.01), 'raise max_memory')])
def test_bad_questions_are_one_clear_error(head, args, says):
    with pytest.raises(UserError, match=says): fake()(head, **args)


@pytest.mark.parametrize('aff', [np.diag([1e6,1,1,1]), np.diag([1.,1.,.001,1]), np.diag([99.,99,99,1])*3])
def test_absurd_sizes_are_refused(head, aff):
    aff[3,3] = 1
    with pytest.raises(UserError, match='cannot be right'): fake()((head.data, aff), 'a')


def test_a_dark_scan_is_looked_at_whole(head):
    res = fake()(head.like(np.zeros_like(head.data)), 'a')
    assert res.manifest['looks'][0]['cut']==tuple((0,n) for n in axis_order_to(head, 'RAS').of(head.shape)) and not res.masks['a'].any()


PROMISE = """
import json, resource, sys
import numpy as np, torch
from medals.preprocessing.input_spec import InputSpec
from medals.segment import Segmenter
from medals.inference.stages import NetworkStage
from types import SimpleNamespace
class Fake(torch.nn.Module):
    cfg = SimpleNamespace(features=(2,))
    def mask_factors(self, x, q, m=None, which=None): return torch.cat([x/64, torch.ones_like(x)], 1),q[None]
def queries(texts, modality): return torch.tensor([[2., -3.-i/20] for i in range(len(texts))])
seg = Segmenter(NetworkStage(Fake(), InputSpec(spacing=(1.,)*3, window=(96,96,96))), queries, device='cpu')
shape = json.loads(sys.argv[1])
x = np.zeros(shape, np.int16)
at = np.stack(np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing='ij'), -1)
x[:] = 1000*((at**2).sum(-1)<.8)+np.random.default_rng(0).integers(1, 90, shape, dtype=np.int16)
del at
scan = (x, np.diag([1.,1,1,1])+np.eye(4, k=3)*5)
words = [f'w{i}' for i in range(int(sys.argv[2]))]
plan = seg.dry_run(scan, words, 'mri', max_memory=float(sys.argv[3]))
before = plan.now
open('/proc/self/clear_refs', 'w').write('5')
res = seg(scan, words, 'mri', max_memory=float(sys.argv[3]), presence=0)
peak = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))/2**20
turns = plan.passes/plan.rows[0]['windows']
print(json.dumps(dict(promised=plan.now+plan.host, peak=peak, now=before, turns=turns, voxels=[b.sum() for b in res.masks.bits.values()])))
"""


@pytest.mark.skipif(sys.platform!='linux', reason='the peak of a process is read from /proc')
def test_a_run_keeps_its_promise_of_memory():
    "40 classes on 160^3 voxels would be 655 MB as float scores; here the peak of the process is measured"
    def run(limit):
        cmd = [sys.executable, '-c', PROMISE, '[160,160,160]', '40', str(limit)]
        return json.loads(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout)
    a,b = run(8),run(.66)
    for r in (a, b): assert r['peak']<=r['promised'] and r['peak']-r['now']>=.35*(r['promised']-r['now']), r
    assert a['turns']==1 and b['turns']>1 and b['promised']<=.66 and a['voxels']==b['voxels'] and min(a['voxels'])>5*10**5
    assert a['peak']-a['now']<.5, 'less than the float scores, with all masks and the network'


@pytest.mark.parametrize('radius', [.5, 3.])
def test_what_is_marked_is_an_object_however_small_objects_may_be(radius):
    vol,_ = template()
    part = tuple(slice(20, 84) for _ in range(3))
    scan = np.asarray(vol.data)[part].copy(),vol.affine
    at,text = (60,60,60),'cerebral ventricles'
    seg = Segmenter.load('nano', 'cpu')
    how = dict(modality='mri', instance=True, min_mm3=500)
    clicked = seg(scan, text, **how).refine({text: [Point(at, radius=radius)]})
    asked = seg(scan, text, spatial={text: [Point(at, radius=radius)]}, **how)
    for res in (clicked, asked):
        assert res.masks[text][at] and res.instances[text][at]
        assert np.array_equal(res.masks[text], res.instances[text]>0)
    taken_back = clicked.refine({text: [Point(at, radius=radius, positive=False)]})
    assert not taken_back.masks[text][at]
