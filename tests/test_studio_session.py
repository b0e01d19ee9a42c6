"A working session of random actions: no mark is lost, the screen shows the masks of the kernel, undo brings back every bit"
import json
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from medals.masks.bitmask import BitMask
from medals.studio.board import Board
from medals.studio.history import masks_of_result, same_bits
from medals.studio.journal import SESSION, MaskFiles, read_session, write_session
from medals.core import UserError
from medals.spatial import Box, Point, rasterize
from medals.volume import Volume
from medals.widgets import Stopped, Studio

SHAPE = (14,12,10)
NAMES = ('liver','spleen','left kidney')
names = st.sampled_from(NAMES)
places = st.tuples(st.integers(0, 9), st.integers(0, 9))
planes = st.integers(0, 2)


@dataclass
class Found:
    volume:Volume
    masks:dict
    net:object
    marks:dict = field(default_factory=dict)

    def save(self, out): (out/'saved').touch()

    @property
    def table(self): return [dict(sentence=s, ml=float(m.sum()), presence=1., outcome='found') for s,m in self.masks.items()]

    def refine(self, marks, progress=None): # the marked voxels change, all others stay
        self.net.wait(progress)
        masks = dict(self.masks)
        for s,some in marks.items(): masks[s] = BitMask.of(np.asarray(masks[s])|rasterize([some], self.volume.shape, self.volume.affine)[0])
        return Found(self.volume, masks, self.net, marks)


class Network:
    "Finds a ball for each sentence, another one each time, as an unsteady network would; goes on when it is told to"
    def __init__(self): self.go,self.count = threading.Event(),0; self.go.set()

    def wait(self, progress):
        self.count += 1
        assert self.go.wait(20)
        if progress(1, 1) is False: raise Stopped

    def __call__(self, vol, sentences, spatial=None, progress=None, **_):
        self.wait(progress)
        where = {s: [Point((3+k%8, 3+self.count%7, 4), 2.), *spatial.get(s, ())] for k,s in enumerate(sentences)}
        masks = rasterize([where[s] for s in sentences], vol.shape, vol.affine)
        return Found(vol, {s: BitMask.of(m) for s,m in zip(sentences, masks)}, self, spatial)


def scan():
    x = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint8)
    return Volume(x, np.eye(4)).reorient('PIL')


class Session(RuleBasedStateMachine):
    @initialize()
    def open(self):
        self.net = Network()
        self.studio = Studio(self.net, scan(), ['liver'])
        self.studio.solid = None  # surfaces have tests of their own
        self.past,self.future,self.running = [],[],False
        self.now,self.state = self.seen(),self.studio.board.now
        self.sent = []
        self.studio.canvas.send = lambda m, buffers=None: self.sent.append((m, buffers))

    def seen(self):
        "Everything that undo promises to bring back"
        board = self.studio.board
        masks = {k: BitMask.of(m).data.tobytes() for k,m in board.masks.items()}
        return board.now.sentences,dict(board.now.marks),masks,board.now.edited

    def post(self, **m):
        if not self.running: self.net.go.set()
        self.studio._message(self.studio.canvas, m, [])

    def step(self, may_land=False, **m):
        "An action, and the states that it leaves behind"
        self.post(**m)
        self.settle()

    def settle(self):
        "Compare the history with our own list of states"
        now,history = self.seen(),self.studio.board.history
        if history.past and history.past[-1] is self.state: # a step; the oldest may have been let go
            self.past.append(self.now)
            self.future = []
            self.past = self.past[len(self.past)-len(history.past):]
        else: assert now==self.now, 'something has changed that is no step'
        self.now,self.state = now,history.now

    # ---- what a hand does

    @rule(sentence=names)
    def add(self, sentence): self.step(type='add', sentence=sentence)

    @rule(sentence=names)
    def remove(self, sentence):
        gone = self.studio.marks.get(sentence)
        self.step(type='remove', sentence=sentence)
        assert sentence not in self.studio.sentences and (gone is None or sentence not in self.studio.marks)

    @rule(sentence=names, other=names)
    def offer(self, sentence, other): self.step(type='offer', sentences=[sentence], instead_of=[other])

    @rule(sentence=names)
    def pick(self, sentence): self.step(type='pick', sentence=sentence, centre=True)

    @rule(tool=st.sampled_from(('point','box','scribble','lasso')), axis=planes, points=st.lists(places, min_size=1, max_size=4),
          index=st.integers(0, 9), positive=st.booleans())
    def mark(self, tool, axis, points, index, positive):
        studio = self.studio
        studio.canvas.tool = {**studio.canvas.tool, 'positive': positive, 'radius': 1.}
        before = {k: list(v) for k,v in studio.marks.items()}
        self.step(type='mark', tool=tool, axis=axis, index=index, points=[list(o) for o in points])
        for k,some in before.items(): assert list(studio.marks[k])[:len(some)]==some, 'a mark was lost'

    @rule(axis=planes, points=st.lists(places, min_size=1, max_size=3), index=st.integers(0, 9),
          tool=st.sampled_from(('brush','rubber','eraser')))
    def pen(self, axis, points, index, tool):
        studio = self.studio
        studio.canvas.tool = {**studio.canvas.tool, 'radius': 1.5}
        before,others = dict(studio.marks),{k: m for k,m in self.seen()[2].items() if k!=studio.canvas.active}
        self.step(type='mark', tool=tool, axis=axis, index=index, points=[list(o) for o in points])
        assert tool=='eraser' or dict(studio.marks)==before
        assert {k: m for k,m in self.seen()[2].items() if k in others}==others, 'a pen has changed the mask of another class'

    @rule(step=st.sampled_from(('grow','shrink','smooth','fill holes','keep largest','nonsense')))
    def clean(self, step): self.step(type='clean', step=step, mm=1.)

    @rule(sentence=names, at=st.tuples(*[st.integers(0, n-1) for n in SHAPE]))
    def from_a_cell(self, sentence, at):
        x,y,z = self.studio.volume.shape
        at = tuple(np.minimum(at, (x-1, y-1, z-1)).tolist())
        self.studio.marks = {**self.studio.marks, sentence: [Box(at, tuple(np.add(at, 1).tolist()))]}
        self.settle()

    # ---- runs, at once and while other things are done

    @rule()
    def run(self):
        if not self.studio.sentences or self.running: return
        before = self.studio.board.now
        self.step(type='run')
        self.studio.wait()
        self.settle()
        assert self.studio.board.answered and self.studio.board.now.marks is before.marks

    @rule()
    def start(self):
        if not self.studio.sentences or self.running: return
        self.net.go.clear()
        self.running = True
        self.post(type='run')

    @rule()
    def finish(self):
        before = self.seen()
        self.net.go.set()
        self.running = False
        self.studio.wait()
        after = self.seen()
        assert after[:2]==before[:2], 'a run has changed sentences or marks'
        assert all(after[2].get(k)==before[2].get(k) or k not in before[3] or self.studio.board.now.asked for k in before[2])
        self.settle()

    # ---- back and forth

    @rule(times=st.integers(1, 4))
    def back(self, times):
        for _ in range(times):
            self.post(type='undo')
            if self.past:
                self.future.append(self.now)
                self.now = self.past.pop()
            assert self.seen()==self.now, 'undo has not brought back the state'
        self.state = self.studio.board.now

    @rule(times=st.integers(1, 4))
    def forth(self, times):
        for _ in range(times):
            self.post(type='redo')
            if self.future:
                self.past.append(self.now)
                self.now = self.future.pop()
            assert self.seen()==self.now
        self.state = self.studio.board.now

    @rule()
    def crash(self):
        "What was written of it brings back every state, to the bit, and the work goes on"
        board = self.studio.board
        with tempfile.TemporaryDirectory() as folder:
            write_session(MaskFiles(folder), board, self.studio._lock, {})
            again = Board(board.vol)
            again.resume(read_session(folder, board.vol)[0])
        def states(o): return [*o.history.past, o.history.now, *o.history.future[::-1]]
        for one,two in zip(states(board), states(again), strict=True):
            for name in ('sentences','marks','edited','step','asked'): assert getattr(one, name)==getattr(two, name)
            first,second = masks_of_result(one.result),masks_of_result(two.result)
            assert first.keys()==second.keys() and all(same_bits(first[k], second[k]) for k in first)
        assert [dict(o) for o in again.table()]==[dict(o) for o in board.table()] and len(again.history.past)==len(board.history.past)

    # ---- what is always true

    @invariant()
    def the_screen_agrees_with_the_kernel(self):
        if not hasattr(self, 'studio'): return
        studio = self.studio
        rows = {row['name']: row for row in studio.canvas.classes}
        assert tuple(rows)==studio.sentences and studio.list.classes==studio.canvas.classes
        assert {k: row['marks'] for k,row in rows.items() if row['marks']}=={k: len(v) for k,v in studio.marks.items()}
        assert studio.canvas.history==dict(undo=len(self.past), redo=len(self.future)) and studio.canvas.active in (*studio.sentences, '')
        self.sent.clear()
        studio._message(studio.canvas, dict(type='slice', view='v', key='k', axis=2, index=4, rect=None, step=1, grey=False), [])
        (m,buffers), = self.sent
        def bits(b): return np.unpackbits(np.frombuffer(zlib.decompress(b), np.uint8), count=m['h']*m['w'])
        shown = {tuple(k): bits(b) for k,b in zip(m['layers'], buffers)}
        for name,mask in studio.board.masks.items():
            plane = studio.board.screen.view(np.asarray(mask))[:,:,4].T
            assert np.array_equal(shown.get(('mask',name), np.zeros(plane.size)), plane.ravel())
        assert {k for kind,k in shown if kind=='mask'}<=set(studio.board.masks)

    def teardown(self):
        if hasattr(self, 'net'): self.net.go.set()


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=12, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck),
                                phases=(Phase.explicit, Phase.reuse, Phase.generate))


# ---- sessions: written by themselves, offered, and read without trust

@pytest.fixture
def kept(tmp_path, monkeypatch):
    "Sessions are kept in a folder of this test"
    monkeypatch.setenv('MEDALS_SESSIONS', str(tmp_path))
    monkeypatch.delenv('IN_TEST', raising=False)
    return tmp_path


def hand(studio, **m): studio._message(studio.canvas, m, [])


def test_work_is_written_by_itself_and_offered(kept):
    first = Studio(Network(), scan(), ['liver'])
    assert not first.canvas.left and not list(kept.iterdir()), 'who only looks leaves nothing behind'
    hand(first, type='run')
    first.wait()
    hand(first, type='mark', tool='brush', axis=2, index=4, points=[[3,3],[6,3]])
    first.keeper.flush()
    found, = kept.iterdir()
    assert not [o for o in found.rglob('*') if o.suffix not in ('.json','.mask')]
    second = Studio(Network(), scan())
    assert '1 sentence, 1 mask, 0 marks' in second.canvas.left
    hand(second, type='take_up')
    assert same_bits(second.board.masks['liver'], first.board.masks['liver']) and second.canvas.steps['undo']=='brush'
    assert second.board.now.edited=={'liver'} and not second.canvas.left
    second.keeper.flush()
    assert len(list(kept.iterdir()))==1, 'what was taken up is written on under a new name'
    second.run()  # everything is asked anew: the network of the first is gone
    assert 'kept as painted: liver' in second.canvas.status['text']
    second.save(kept.parent/'out')
    second.keeper.flush()
    assert not Studio(None, scan()).canvas.left, 'saved work is not offered'
    assert not Studio(None, Volume(np.zeros(SHAPE, np.uint8), np.eye(4))).canvas.left, 'another scan'


def test_a_damaged_session_is_one_sentence_and_opens_nothing(kept):
    first = Studio(None, scan(), ['liver'], session=kept/'mine')
    first.paint('liver', Point((5,5,5), 2.))
    first.keeper.flush()
    mask, = (kept/'mine').glob('*.mask')
    for data in (b'', b'no mask', zlib.compress(bytes(10**7)), zlib.compress(b'1')):
        mask.write_bytes(data)
        with pytest.raises(UserError, match='damaged'): Studio(None, scan(), session=kept/'mine')
    said = json.loads((kept/'mine'/SESSION).read_text())
    for changes in (dict(now=99), dict(states=[]), dict(marks=[dict(kind='spell')]), dict(results=[dict(masks=dict(liver='../../x'))])):
        (kept/'mine'/SESSION).write_text(json.dumps(said|changes))
        with pytest.raises(UserError, match='damaged'): Studio(None, scan(), session=kept/'mine')
    (kept/'mine'/SESSION).write_text('{')
    with pytest.raises(UserError, match='JSON'): Studio(None, scan(), session=kept/'mine')


def test_a_session_that_a_hand_has_changed_opens_nothing_and_is_one_sentence(kept):
    first = Studio(Network(), scan(), ['liver'], session=kept/'mine')
    first.run()
    first.paint('liver', Point((5,5,5), 2.))
    first.keeper.flush()
    text = (kept/'mine'/SESSION).read_text()
    for said in ('[1]', '3', '"x"', 'null', '{"a": 1}', '{"writer": {"pid": null}}'):
        (kept/'mine'/SESSION).write_text(said)
        with pytest.raises(UserError, match='damaged'): Studio(None, scan(), session=kept/'mine')
    good = json.loads(text)
    odd_row = [dict(good['results'][0], table=[dict(sentence=None)])]
    look = good['looks']['liver']
    changed = [dict(looks=3), dict(looks=[1]), dict(looks=dict(liver=7)), dict(results=odd_row)]
    changed += [dict(looks=dict(liver=look|odd)) for odd in (dict(opacity=None), dict(opacity=7), dict(colour='red'))]
    for changes in changed:
        (kept/'mine'/SESSION).write_text(json.dumps(good|changes))
        studio = Studio(None, scan(), session=False)
        with pytest.raises(UserError, match='damaged'): studio.take_up(kept/'mine')
        assert not studio.sentences
    for cursor in ([None]*3, [[1],2,3], [1e99,0,0], 'abc'): # where one looked is no work
        (kept/'mine'/SESSION).write_text(json.dumps(good|dict(cursor=cursor, out=[1], active={})))
        studio.take_up(kept/'mine')
    one,two = list((kept/'mine').glob('*.mask'))[:2]
    one.write_bytes(two.read_bytes())
    with pytest.raises(UserError, match='not what was written'): studio.take_up(kept/'mine')
    first.keeper.files.known.clear()
    first.keeper.write()
    studio.take_up(kept/'mine')
    assert same_bits(studio.board.masks['liver'], first.board.masks['liver']), 'a mask that was changed is written anew'


@pytest.mark.parametrize('named', [True, False])
def test_a_cell_that_runs_again_goes_on_and_the_studio_above_it_writes_no_more(kept, named):
    how = dict(session=kept/'mine') if named else {}
    first = Studio(None, scan(), ['liver'], **how)
    if not named: hand(first, type='undo') # a word from a browser
    first.paint('liver', Point((5,5,5), 2.)) # not a second ago, so that it is not on the disk
    if not named: first.keeper.flush()
    second = Studio(None, scan(), **how)
    if not named: hand(second, type='take_up')
    assert same_bits(second.board.masks['liver'], first.board.masks['liver'])
    second.paint('liver', Point((2,2,2), 2.))
    second.keeper.flush()
    assert first.keeper is None and ('opened later' in ' '.join(first.canvas.notes))==named
    first.paint('liver', Point((8,8,8), 1.))
    second.paint('liver', Point((3,2,2), 2.), on=False)
    second.keeper.flush()
    third = Studio(None, scan(), session=False)
    third.take_up(second.keeper.files.folder)
    assert same_bits(third.board.masks['liver'], second.board.masks['liver'])


def test_a_folder_that_cannot_be_written_is_said(kept):
    (kept/'file').write_text('')
    studio = Studio(None, scan(), ['liver'], session=kept/'file'/'session')
    studio.paint('liver', Point((5,5,5), 2.))
    studio.keeper.flush()
    assert 'not written by itself' in studio.canvas.notes[-1]


def test_the_folder_stays_small(kept):
    studio = Studio(None, scan(), ['liver'], session=kept/'mine')
    for k in range(10): studio.paint('liver', Point((1+k,5,5), 1.))
    studio.keeper.flush()
    before = len(list((kept/'mine').glob('*.mask')))
    for _ in range(9): studio.undo()
    studio.paint('liver', Point((2,5,5), 3.))
    studio.keeper.flush()
    assert len(list((kept/'mine').glob('*.mask')))<before, 'masks of states that are gone are removed'
    start = time.monotonic()
    studio.paint('liver', Point((3,5,5), 3.))
    while studio.keeper.waiting and time.monotonic()-start<20: time.sleep(.05)
    assert not studio.keeper.waiting
    studio.keeper.flush() # nothing waits: only until the thread has written
    assert len(read_session(kept/'mine', studio.volume)[0].states)==len(studio.board.history.past)+1


def test_a_sentence_that_comes_back_is_asked_anew():
    "Its mask went with it, so that the old answer is no answer"
    studio = Studio(Network(), scan(), ['liver'])
    studio.run()
    hand(studio, type='offer', sentences=['spleen'], instead_of=['liver'])
    hand(studio, type='offer', sentences=['liver'], instead_of=['spleen'])
    assert not studio.board.answered and not studio.board.masks
    studio.run()
    assert set(studio.board.masks)=={'liver'}
