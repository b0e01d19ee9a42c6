"What lasts: a lost connection, a closed tab, a kernel that is killed; and two hundred random actions. Nothing that was done is lost"
import json
import os
import random
import signal

import drive
import pytest

CELLS = '''
import hashlib, json, os, tempfile
from medals.masks.bitmask import BitMask
from medals.example import template, unseen_view
from medals.segment import Segmenter
from medals.widgets import Studio
scan,truth = unseen_view(*template(), spacing=4.)
segmenter = Segmenter.load('nano')
os.chdir(tempfile.mkdtemp())
def bits(mask): return hashlib.sha256(BitMask.of(mask).data.tobytes()).hexdigest()[:12]
def seen(board=None):
    "Sentences, marks and masks, in words that can be compared"
    now = (board or studio.board).now
    marks = {s: [repr(m) for m in some] for s,some in now.marks.items() if some}
    return [list(now.sentences), marks, {s: bits(m) for s,m in studio.board.masks.items()}]
''','''
studio = Studio(segmenter, scan, ['white matter','grey matter'])
studio
'''
SECOND_CELL = '''async () => {
  window.medalsPage.content.activeCellIndex = 1;
  await window.jupyterapp.commands.execute('notebook:run-cell') }'''
SEED = int(os.environ.get('MEDALS_SEED', '7'))
ACTIONS = int(os.environ.get('MEDALS_ACTIONS', '200'))


class Hand:
    "What a person does in the Studio of a page"
    def __init__(self, nb, gen):
        self.nb,self.page,self.gen = nb,nb.page,gen
        self.done = []

    def kernel(self, code): return json.loads(self.nb.ask(f'print(json.dumps({code}))'))
    def seen(self): return self.kernel('seen()')
    def settle(self): self.nb.wait_for('not studio.busy and studio._shaping is None')

    def pane(self):
        "One of the panes that are shown"
        shown = self.page.locator('.medals-canvas:visible')
        return shown.nth(self.gen.randrange(shown.count()))

    def path(self, n):
        pane = self.pane()
        pane.scroll_into_view_if_needed()
        box = pane.bounding_box()
        return [(box['x']+box['width']*self.gen.uniform(.3, .7), box['y']+box['height']*self.gen.uniform(.3, .7)) for _ in range(n)]

    def close_dialogs(self):
        "JupyterLab says that its server was away"
        button = self.page.locator('.jp-Dialog button')
        while button.count():
            button.last.click()
            self.page.wait_for_timeout(300)

    def draw(self, tool, n):
        self.page.locator(f'[data-tool={tool}]').click()
        first,*rest = self.path(n)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for at in rest: self.page.mouse.move(*at, steps=3)
        self.page.mouse.up()

    def key(self, *keys):
        self.pane().focus()
        for key in keys: self.page.keyboard.press(key)

    def held(self, key):
        self.pane().focus()
        self.page.keyboard.down(key)
        self.page.wait_for_timeout(150)
        self.page.keyboard.up(key)

    def some(self, selector):
        found = self.page.locator(selector)
        n = found.count()
        if n: found.nth(self.gen.randrange(n)).click(timeout=5000)

    def sentence(self):
        name = self.gen.choice(['white matter','grey matter','cerebral ventricles','wite mater','right cerebral hemisphere'])
        self.page.locator('.medals-sentence').first.fill(name)
        self.page.keyboard.press('Enter')

    def select(self, selector, options): self.page.locator(selector).first.select_option(self.gen.choice(options))

    def act(self):
        "One action; its name"
        steps = dict(
            point=lambda: self.draw('point', 1), box=lambda: self.draw('box', 2), scribble=lambda: self.draw('scribble', 4),
            lasso=lambda: self.draw('lasso', 4),
            eraser=lambda: self.draw('eraser', 3), brush=lambda: self.draw('brush', 3),
            rubber=lambda: self.draw('rubber', 3), ruler=lambda: self.draw('ruler', 2),
            angle=lambda: (self.draw('angle', 2), self.draw('angle', 1)),
            brush_again=lambda: self.draw('brush', 4), undo=lambda: self.key('Control+z'), redo=lambda: self.key('Control+y'),
            undo_button=lambda: self.some('.medals-undo:not([disabled])'), keys=lambda: self.key(*self.gen.choices('xmof[]r?', k=2)),
            wheel=lambda: (self.pane().hover(), self.page.mouse.wheel(0, self.gen.choice([-100, 100]))),
            before=lambda: self.held('b'),
            alone=lambda: self.held('h'), sentence=self.sentence,
            pick=lambda: self.some('.medals-name'), remove=lambda: self.some('.medals-remove'),
            look=lambda: self.some('tr input[type=checkbox]'), run=lambda: self.some('.medals-run:not([disabled])'),
            clean=lambda: self.select('select[aria-label="Change the mask"]', ['fill holes','keep largest','grow','shrink','smooth']),
            window=lambda: self.select('.medals-presets', ['usual','more contrast']))
        rare = dict(remove=.3, run=.4, sentence=.6)
        name, = self.gen.choices(list(steps), [rare.get(k, 1) for k in steps])
        self.done.append(name)
        steps[name]()
        return name


def opened(base, token, page):
    nb = drive.Notebook(page, base, token, 'a.ipynb')
    nb.run_all()
    page.wait_for_selector('.medals-canvas')
    page.wait_for_timeout(1500)
    return nb


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('lab')
    (tmp/'files').mkdir()
    drive.write_notebook(tmp/'files'/'a.ipynb', *CELLS)
    with drive.server('lab', tmp/'files', tmp) as (base,token), drive.browser(1300, 1200) as page:
        yield Hand(opened(base, token, page), random.Random(SEED)),(base,token)


def shown_is_kept(hand):
    "The list shows the sentences and marks of the kernel"
    hand.page.wait_for_timeout(400)
    table = hand.page.locator('.medals-list tr[data-class]')
    rows = table.evaluate_all('o => o.map(r => r.dataset.class)')
    assert rows==hand.kernel('list(studio.sentences)')
    marks = table.evaluate_all('o => o.map(r => [...r.querySelectorAll(".medals-figure")].pop().textContent)')
    assert [int(o) for o in marks]==hand.kernel('[len(studio.marks.get(s, ())) for s in studio.sentences]')


def test_two_hundred_random_actions(lab, shots):
    hand,_ = lab
    hand.page.locator('[data-switch=auto] input').uncheck()
    hand.page.locator('.medals-run').first.click()
    hand.settle()
    for k in range(ACTIONS):
        hand.act()
        if k%10==9:
            hand.settle()
            shown_is_kept(hand)
    hand.settle()
    shown_is_kept(hand)
    (shots/'random.json').write_text(json.dumps(hand.done))
    hand.page.screenshot(path=shots/'50_after_random.png')
    assert not [n for n in hand.page.notes if 'pageerror' in n], hand.page.notes
    # all the way back and forth: the same state, to the bit
    end = hand.seen()
    states = hand.kernel('[len(studio.board.history.past), len(studio.board.history.future)]')
    hand.nb.ask('while studio.board.history.past: studio.undo()')
    hand.nb.ask(f'for _ in range({states[0]}): studio.redo()')
    assert hand.seen()==end and states[0]>ACTIONS//10


def test_a_lost_connection_and_a_closed_tab(lab, shots):
    hand,(base,token) = lab
    hand.page.locator('.medals-sentence').first.fill('left cerebral hemisphere')  # a class that no brush has touched
    hand.page.keyboard.press('Enter')
    hand.nb.wait_for("studio.canvas.active=='left cerebral hemisphere'")
    before = hand.seen()
    hand.page.context.set_offline(True)
    hand.page.evaluate("() => window.medalsPage.sessionContext.session.kernel._ws?.close()")
    hand.page.wait_for_timeout(1500)
    hand.page.context.set_offline(False)
    hand.page.evaluate("async () => { await window.medalsPage.sessionContext.session.kernel.reconnect() }")
    hand.page.wait_for_function("() => window.medalsPage.sessionContext.session.kernel.connectionStatus === 'connected'")
    hand.page.wait_for_timeout(1500)
    hand.close_dialogs()
    hand.draw('brush', 3)
    hand.nb.wait_for("studio.board.history.names[0]=='brush'")
    after = hand.seen()
    assert after[:2]==before[:2]
    hand.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save') }")
    hand.page.goto('about:blank')  # the tab is closed; the kernel lives
    hand.nb = drive.Notebook(hand.page, base, token, 'a.ipynb')
    assert hand.seen()==after
    hand.page.evaluate(SECOND_CELL)
    hand.page.wait_for_selector('.medals-take-up')
    hand.page.locator('.medals-take-up').first.click()
    hand.nb.wait_for('not studio.canvas.left')
    assert hand.seen()==after
    shown_is_kept(hand)


def test_a_kernel_that_is_killed(lab, shots):
    hand,_ = lab
    hand.draw('brush', 3)
    hand.draw('point', 1)
    hand.settle()
    hand.page.wait_for_timeout(3000)  # the session is written a second after the last change
    before = hand.seen()
    steps = hand.kernel('[len(studio.board.history.past), list(studio.board.history.names)]')
    os.kill(int(hand.nb.ask('print(os.getpid())')), signal.SIGKILL)
    hand.page.wait_for_timeout(6000)  # the server starts another one
    hand.close_dialogs()
    hand.page.evaluate(drive.READY)
    hand.nb.run_all()
    hand.page.wait_for_selector('.medals-take-up')
    hand.page.screenshot(path=shots/'51_left.png')
    hand.page.locator('.medals-take-up').first.click()
    hand.nb.wait_for('not studio.canvas.left')
    assert hand.seen()==before
    assert hand.kernel('[len(studio.board.history.past), list(studio.board.history.names)]')==steps
    hand.page.wait_for_timeout(1500)
    hand.page.screenshot(path=shots/'52_taken_up.png')
    shown_is_kept(hand)
