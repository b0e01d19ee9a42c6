"A newcomer in JupyterLab: the tutorial from top to bottom, then by hand. The tests follow each other in one browser"
import io
import json
import shutil
from dataclasses import dataclass

import drive
import numpy as np
import pytest
from PIL import Image

from medals.studio.canvas import Board, compose, slice_image
from medals.base.files import asset
from medals.spatial import Box, Point
from medals.volume import phantom

TUTORIAL = drive.root/'nbs'/'tutorials'/'02_prompt_and_correct.ipynb'


class Desk:
    "The first Studio of the page"
    def __init__(self, nb):
        self.nb,self.page = nb,nb.page
        self.studio = self.page.locator('.medals-studio').first
        self.studio.scroll_into_view_if_needed()
        self.scene = json.loads(nb.ask('import json; print(json.dumps(studio.canvas.scene))'))

    def canvas(self, plane): return self.page.locator('.medals-canvas').nth(plane)
    def tool(self, name): self.studio.locator(f'[data-tool={name}]').click()
    def row(self, sentence): return self.page.locator(f'tr[data-class="{sentence}"]').first
    def value(self, code): return json.loads(self.nb.ask(f'print(json.dumps({code}))'))
    def cursor(self): return self.value('[int(o) for o in studio.canvas.cursor]')

    def where(self, plane, voxel):
        "Where a voxel of the screen is on the page, from the geometry alone"
        col,row = [o for o in range(3) if o!=plane]
        box,(dx,dy) = self.canvas(plane).bounding_box(),[self.scene['spacing'][o] for o in (col, row)]
        cols,rows = [self.scene['shape'][o] for o in (col, row)]
        s = min(box['width']/(cols*dx), box['height']/(rows*dy))
        return box['x']+box['width']/2+(voxel[col]-(cols-1)/2)*s*dx,box['y']+box['height']/2+(voxel[row]-(rows-1)/2)*s*dy


@pytest.fixture(scope='module')
def lab(tmp_path_factory, walk):
    "JupyterLab with the tutorial, all cells run"
    tmp = tmp_path_factory.mktemp('lab')
    folder = tmp/'files'
    folder.mkdir()
    shutil.copy(TUTORIAL, folder)
    with drive.server('lab', folder, tmp) as (base,token), drive.browser() as page:
        nb = walk.step('open the notebook', lambda: drive.Notebook(page, base, token, TUTORIAL.name))
        walk.step('run all cells', nb.run_all)
        page.wait_for_selector('.medals-canvas')
        yield nb


@pytest.fixture
def desk(lab): return Desk(lab)


@pytest.fixture(scope='module')
def place(lab): # A voxel of the screen beside the crosshair
    at = Desk(lab).cursor()
    return [at[0]+12, *at[1:]]


def test_a_sentence_is_completed(desk, walk, shots):
    desk.page.wait_for_timeout(1500)
    desk.page.screenshot(path=shots/'01_opened.png')
    def sentence():
        desk.page.locator('.medals-sentence').first.fill('grey mat')
        desk.page.wait_for_selector('.medals-options li')
        desk.page.screenshot(path=shots/'02_typing.png')
        desk.page.keyboard.press('ArrowDown')
        desk.page.keyboard.press('Enter')
        desk.nb.wait_for("'grey matter' in studio.sentences")
        desk.studio.locator('[data-switch=auto] input').uncheck()  # one run at a time, to be timed
    walk.step('type a sentence', sentence)
    assert desk.value('studio.canvas.active')=='grey matter'
    assert 'understood: grey matter' in desk.page.locator('.medals-understood').first.inner_text()


def test_a_click_lands_on_its_voxel(desk, walk, shots, place):
    desk.tool('point')
    def click():
        desk.page.mouse.click(*desk.where(2, place))
        desk.nb.wait_for("len(studio.marks.get('grey matter', ()))==1")
    walk.step('click a point', click)
    assert desk.value("list(studio.marks['grey matter'][0].at)")==desk.value(f'[int(o) for o in studio.board.screen.voxels({place})]')
    desk.page.screenshot(path=shots/'03_point.png')


def test_a_run_brings_the_mask(desk, walk, shots):
    def run():
        desk.studio.locator('.medals-run').click()
        desk.nb.wait_for("'grey matter' in studio.result.masks and not studio.busy")
    walk.step('run: the mask of the sentence', run)
    assert desk.value("bool(studio.result.masks['grey matter'][studio.marks['grey matter'][0].at])")
    desk.nb.wait_for('studio._shaping is None')
    desk.page.wait_for_timeout(2500)
    assert float(desk.row('grey matter').locator('.medals-figure').first.inner_text())>100
    desk.page.screenshot(path=shots/'04_mask.png')


def test_the_3d_view_is_not_blank(desk, shots):
    solid = desk.page.locator('.jp-OutputArea canvas:not(.medals-canvas)').first
    solid.scroll_into_view_if_needed()
    desk.page.wait_for_timeout(1500)
    png = solid.screenshot()
    (shots/'05_solid.png').write_bytes(png)
    assert drive.ink(png)>.03
    im = np.asarray(Image.open(io.BytesIO(png)).convert('RGB')).astype(int)
    assert (im.max(-1)-im.min(-1)>60).mean()>.02, 'surfaces have the colours of their classes'


def test_a_class_is_switched_off_and_on(desk):
    shown,box = desk.canvas(2).screenshot(),desk.row('grey matter').locator('input[type=checkbox]')
    for on in (False, True):
        box.click()
        desk.nb.wait_for(f"studio.board.looks['grey matter']['visible']=={on}")
        desk.page.wait_for_timeout(1000)
        assert (desk.canvas(2).screenshot()==shown)==on


def test_a_stroke_says_no_and_can_be_taken_back(desk, walk, shots, place):
    desk.tool('scribble')
    desk.studio.locator('.medals-sign').click()
    def stroke():
        x,y = desk.where(2, place)
        desk.page.mouse.move(x+10, y-20)
        desk.page.mouse.down()
        for k in range(8): desk.page.mouse.move(x+10+4*k, y-20+3*k)
        desk.page.screenshot(path=shots/'06_drawing.png')
        desk.page.mouse.up()
        desk.nb.wait_for("len(studio.marks['grey matter'])==2")
    walk.step('draw a correction', stroke)
    m = "studio.marks['grey matter'][1]"
    assert desk.value(f"[type({m}).__name__, {m}.positive, len({m}.points)>4]")==['Scribble', False, True]
    desk.page.screenshot(path=shots/'07_stroke.png')
    desk.canvas(2).focus()
    for key,n in (('Control+z', 1), ('Control+y', 2)):
        desk.page.keyboard.press(key)
        desk.nb.wait_for(f"len(studio.marks['grey matter'])=={n}")


def test_the_correction_is_obeyed(desk, walk, shots):
    def again():
        desk.studio.locator('.medals-run').click()
        desk.nb.wait_for('studio.board.now.asked==(studio.sentences, studio.marks) and not studio.busy')
    walk.step('run again: the corrected mask', again)
    left = desk.nb.ask("from dataclasses import replace; from medals.spatial import rasterize; import numpy as np\n"
                       "no = rasterize([[replace(studio.marks['grey matter'][1], positive=True)]], scan.shape, scan.affine)[0]\n"
                       "print(int((np.asarray(studio.result.masks['grey matter'])&no).sum()), int(no.sum())>3)")
    assert left=='0 True'
    desk.page.wait_for_timeout(1500)
    desk.page.screenshot(path=shots/'08_corrected.png')


def test_it_is_saved(desk, walk, shots):
    def save():
        desk.studio.locator('.medals-out').fill('mine')
        desk.studio.locator('button:has-text("Save")').click()
        desk.nb.wait_for("'saved' in studio.canvas.status['text']")
    walk.step('save', save)
    saved = set(desk.value("os.listdir('mine')"))
    assert {'grey_matter.nii.gz','marks.json','table.csv','labels.nii.gz','overlay.png'}<=saved
    (shots/'walk.json').write_text(json.dumps(walk, indent=1))
    assert not [o for o in desk.page.notes if 'pageerror' in o], desk.page.notes


def test_a_run_can_be_cancelled(desk, shots):
    desk.nb.ask("before = studio.result; studio.add('cerebral hemispheres')")
    desk.studio.locator('.medals-run').click()
    desk.nb.wait_for("studio.canvas.status.get('done', 0)>=1")
    desk.page.screenshot(path=shots/'09_running.png')
    desk.studio.locator('button:has-text("Cancel")').click()
    desk.nb.wait_for('not studio.busy')
    assert 'stopped' in desk.value("studio.canvas.status['text']") and desk.value('studio.result is before')
    desk.nb.ask('studio.undo()')


def test_slices_follow_wheel_and_keys(desk):
    start = desk.cursor()
    desk.canvas(2).hover()
    desk.page.mouse.wheel(0, 100)
    desk.nb.wait_for(f'studio.canvas.cursor[2]=={start[2]+1}')
    desk.canvas(2).focus()
    desk.page.keyboard.press('PageUp')
    desk.nb.wait_for(f'studio.canvas.cursor[2]=={start[2]}')
    for key,axis in (('ArrowRight',0), ('ArrowDown',1)):
        desk.page.keyboard.press(key)
        desk.nb.wait_for(f'studio.canvas.cursor[{axis}]=={start[axis]+1}')


def test_keys_choose_tools_and_never_reach_the_cells(desk):
    cells,positive = desk.page.locator('.jp-Cell').count(),desk.value("studio.canvas.tool['positive']")
    desk.canvas(2).focus()
    for key in ('3','x'): desk.page.keyboard.press(key)
    desk.nb.wait_for(f"studio.canvas.tool['name']=='box' and studio.canvas.tool['positive']!={positive}")
    for key in 'abdm': desk.page.keyboard.press(key)  # commands of the notebook
    desk.page.wait_for_timeout(300)
    assert desk.page.locator('.jp-Cell').count()==cells
    n = desk.value('len(studio.marks.get(studio.canvas.active, ()))')
    desk.page.keyboard.press('Enter')  # a point at the crosshair
    desk.nb.wait_for(f'len(studio.marks.get(studio.canvas.active, ()))=={n+1}')
    assert desk.value('list(studio.marks[studio.canvas.active][-1].at)==list(studio.at)')
    desk.page.keyboard.press('Control+z')
    desk.page.keyboard.press('1')


def test_the_grey_window_is_dragged_and_the_slice_is_zoomed(desk, shots):
    lo,hi = desk.value('list(studio.canvas.window)')
    box = desk.canvas(2).bounding_box()
    desk.page.mouse.move(box['x']+100, box['y']+100)
    desk.page.mouse.down(button='right')
    desk.page.mouse.move(box['x']+140, box['y']+120, steps=4)
    desk.page.mouse.up(button='right')
    desk.nb.wait_for(f'studio.board.window[1]-studio.board.window[0]>{(hi-lo)*1.05}')
    assert not desk.page.locator('.lm-Menu:visible').count(), 'a menu of JupyterLab has opened'
    desk.page.keyboard.down('Control')
    desk.page.mouse.wheel(0, -300)
    desk.page.keyboard.up('Control')
    desk.page.wait_for_timeout(1000)
    desk.page.screenshot(path=shots/'10_zoomed.png')
    desk.canvas(2).dblclick()


def test_the_studio_answers_while_a_cell_is_busy(desk):
    desk.page.evaluate('''() => {
      window.idle = false;
      window.busyCell = window.medalsPage.sessionContext.session.kernel.requestExecute({ code: 'import time; time.sleep(12)' }).done
        .then(() => { window.idle = true }) }''')
    before = desk.canvas(2).screenshot()
    desk.canvas(2).hover()
    for _ in range(6): desk.page.mouse.wheel(0, 100)
    desk.page.wait_for_timeout(3000)
    after = desk.canvas(2).screenshot()
    assert not desk.page.evaluate('() => window.idle')
    a,b = (np.asarray(Image.open(io.BytesIO(o)).convert('L')).astype(int) for o in (before, after))
    assert (np.abs(a-b)>20).mean()>.02, 'the slice did not change while a cell was running'
    desk.page.evaluate('() => window.busyCell')


@dataclass
class Found:
    volume:object
    masks:dict
    table:tuple=()


def test_the_browser_composes_as_python_does(lab):
    vol,lbl,names = phantom()
    board = Board(vol)
    board.set_result(Found(vol, {n: lbl==k for k,n in names.items()}))
    board.add('left lateral ventricle', Point((30,28,24), 15.), Box((5,20,15), (20,30,30), positive=False))
    board.looks['right cerebral hemisphere'].update(opacity=.6, colour='#12ab34')
    board.looks['right lateral ventricle'].update(visible=False)
    kinds = set()
    for axis,i in ((0,20), (1,28), (2,22)):
        c = slice_image(board, axis, i)
        kinds |= set(c.layers)
        h,w = c.grey.shape
        layers = [[kind, name, np.packbits(m).tolist()] for (kind,name),m in c.layers.items()]
        js = lab.page.evaluate('''async ([code, cut, looks]) => {
          const m = await import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
          const layers = cut.layers.map(([kind, name, bits]) => ({ kind, name, mask: m.unpack(new Uint8Array(bits), cut.w * cut.h) }));
          return [...m.compose({ ...cut, grey: new Uint8Array(cut.grey), layers }, looks).data] }''',
          [(asset('studio')/'picture.js').read_text()+'\nexport { compose, unpack };',
           dict(h=h, w=w, grey=c.grey.ravel().tolist(), layers=layers), board.looks])
        js = np.array(js).reshape(h, w, 4)
        assert (js[...,3]==255).all() and np.abs(js[...,:3]-compose(c, board.looks).astype(int)).max()<=1
    assert {k for k,_ in kinds}=={'mask','positive','negative'} and len(kinds)>=5
