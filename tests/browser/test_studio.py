"A newcomer in JupyterLab: the tutorial from top to bottom, then by hand"
import io
import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import drive
from medals.board import Board, compose, cut
from medals.core import asset
from medals.spatial import Box, Point
from medals.volume import phantom

TUTORIAL = drive.root/'nbs'/'tutorials'/'02_prompt_and_correct.ipynb'


@pytest.fixture(scope='module')
def lab(tmp_path_factory, walk):
    "JupyterLab with the tutorial, all cells run"
    tmp = tmp_path_factory.mktemp('lab')
    folder = tmp/'files'
    folder.mkdir()
    shutil.copy(TUTORIAL, folder)
    with drive.server('lab', folder, tmp) as (base,token), drive.browser() as page:
        nb = walk.step('open the notebook', lambda: drive.Notebook(page, base, token, TUTORIAL.name))
        nb.folder = folder
        walk.step('run all cells', nb.run_all)
        page.wait_for_selector('.medals-canvas')
        yield nb


def where(page, plane, voxel):
    "Client position of a voxel of the screen in a plane of the first Studio, from the geometry alone"
    scene = SCENE
    col,row = [o for o in range(3) if o!=plane]
    box = page.locator('.medals-canvas').nth(plane).bounding_box()
    cols,rows = scene['shape'][col],scene['shape'][row]
    dx,dy = scene['spacing'][col],scene['spacing'][row]
    s = min(box['width']/(cols*dx), box['height']/(rows*dy))
    return (box['x']+box['width']/2+(voxel[col]-(cols-1)/2)*s*dx, box['y']+box['height']/2+(voxel[row]-(rows-1)/2)*s*dy)


SCENE = {}


def test_the_whole_way(lab, walk, shots):
    page = lab.page
    studio = page.locator('.medals-studio').first
    studio.scroll_into_view_if_needed()
    SCENE.update(json.loads(lab.ask('import json; print(json.dumps(studio.canvas.scene))')))
    page.wait_for_timeout(1500)
    page.screenshot(path=shots/'01_opened.png')

    # a sentence, completed
    def sentence():
        page.locator('.medals-sentence').first.fill('grey mat')
        page.wait_for_selector('.medals-options li')
        page.screenshot(path=shots/'02_typing.png')
        page.keyboard.press('ArrowDown')
        page.keyboard.press('Enter')
        lab.wait_for("'grey matter' in studio.sentences")
    walk.step('type a sentence', sentence)
    assert lab.ask('print(studio.canvas.active)')=='grey matter'

    # a point in a slice
    at = json.loads(lab.ask('print([int(o) for o in studio.canvas.cursor])'))
    at[0] += 12
    studio.locator('[data-tool=point]').click()
    def click():
        page.mouse.click(*where(page, 2, at))
        lab.wait_for("len(studio.marks.get('grey matter', ()))==1")
    walk.step('click a point', click)
    want = json.loads(lab.ask(f'print([int(o) for o in studio.board.screen.voxels({at})])'))
    assert json.loads(lab.ask("print(list(studio.marks['grey matter'][0].at))"))==want
    page.screenshot(path=shots/'03_point.png')

    # run, and the mask
    def run():
        studio.locator('.medals-run').click()
        lab.wait_for("studio.result is not None and 'grey matter' in studio.result.masks and not studio.busy")
    walk.step('run: the mask of the sentence', run)
    assert lab.ask(f"print(bool(studio.result.masks['grey matter'][tuple({want})]))")=='True'
    lab.wait_for('studio._shaping is None')
    page.wait_for_timeout(2500)
    page.screenshot(path=shots/'04_mask.png')

    # the masks are on the screen, in the slices and in 3D
    row = page.locator('tr[data-class="grey matter"]').first
    assert float(row.locator('.medals-figure').first.inner_text())>100
    solid = page.locator('.jp-OutputArea canvas:not(.medals-canvas)').first
    solid.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    png = solid.screenshot()
    (shots/'05_solid.png').write_bytes(png)
    assert drive.ink(png)>.03, 'the 3D canvas is blank'

    # a class off and on
    studio.scroll_into_view_if_needed()
    canvas = page.locator('.medals-canvas').nth(2)
    with_mask = canvas.screenshot()
    row.locator('input[type=checkbox]').click()
    lab.wait_for("not studio.board.looks['grey matter']['visible']")
    page.wait_for_timeout(800)
    without = canvas.screenshot()
    assert without!=with_mask
    row.locator('input[type=checkbox]').click()
    lab.wait_for("studio.board.looks['grey matter']['visible']")
    page.wait_for_timeout(800)
    assert canvas.screenshot()==with_mask

    # a correction with a stroke that says no, and the way back
    studio.locator('[data-tool=scribble]').click()
    studio.locator('.medals-sign').click()
    def stroke():
        x,y = where(page, 2, at)
        page.mouse.move(x+10, y-20)
        page.mouse.down()
        for k in range(8): page.mouse.move(x+10+4*k, y-20+3*k)
        page.screenshot(path=shots/'06_drawing.png')
        page.mouse.up()
        lab.wait_for("len(studio.marks['grey matter'])==2")
    walk.step('draw a correction', stroke)
    assert lab.ask("m = studio.marks['grey matter'][1]; print(type(m).__name__, m.positive, len(m.points)>4)")=='Scribble False True'
    page.screenshot(path=shots/'07_stroke.png')
    canvas.focus()
    page.keyboard.press('Control+z')
    lab.wait_for("len(studio.marks['grey matter'])==1")
    page.keyboard.press('Control+y')
    lab.wait_for("len(studio.marks['grey matter'])==2")
    def again():
        studio.locator('.medals-run').click()
        lab.wait_for("studio.board.now.asked[1]==studio.board.now.marks and not studio.busy")
    walk.step('run again: the corrected mask', again)
    assert lab.ask("from medals.spatial import rasterize; import numpy as np\n"
                   "no = rasterize([[type(m)(m.points, m.radius)]], scan.shape, scan.affine)[0]\n"
                   "print(int((np.asarray(studio.result.masks['grey matter'])&no).sum()), int(no.sum())>3)")=='0 True'
    page.wait_for_timeout(1500)
    page.screenshot(path=shots/'08_corrected.png')

    # to disk
    def save():
        studio.locator('.medals-out').fill('mine')
        studio.locator('button:has-text("Save")').click()
        lab.wait_for('"saved" in studio.canvas.status["text"]')
    walk.step('save', save)
    saved = {p.name for p in (lab.folder/'mine').iterdir()}
    assert {'grey_matter.nii.gz','marks.json','table.csv','labels.nii.gz','overlay.png'}<=saved
    (shots/'walk.json').write_text(json.dumps(walk, indent=1))
    assert not [o for o in page.notes if 'pageerror' in o], page.notes


def test_hands_and_keys(lab, shots):
    page = lab.page
    studio = page.locator('.medals-studio').first
    studio.scroll_into_view_if_needed()
    canvas = page.locator('.medals-canvas').nth(2)
    cells = page.locator('.jp-Cell').count()
    def cursor(): return json.loads(lab.ask('print([int(o) for o in studio.canvas.cursor])'))
    start = cursor()
    canvas.hover()
    page.mouse.wheel(0, 100)
    lab.wait_for(f'studio.canvas.cursor[2]=={start[2]+1}')
    canvas.focus()
    page.keyboard.press('PageUp')
    lab.wait_for(f'studio.canvas.cursor[2]=={start[2]}')
    for key,axis in (('ArrowRight',0), ('ArrowDown',1)):
        page.keyboard.press(key)
        lab.wait_for(f'studio.canvas.cursor[{axis}]=={start[axis]+1}')
    page.keyboard.press('3')
    lab.wait_for("studio.canvas.tool['name']=='box'")
    before = lab.ask("print(studio.canvas.tool['positive'])")
    page.keyboard.press('x')
    lab.wait_for(f"studio.canvas.tool['positive']!={before}")
    for key in 'abdm': page.keyboard.press(key) # commands of the notebook: they must not reach its cells
    assert page.locator('.jp-Cell').count()==cells
    page.keyboard.press('1')
    n = len(json.loads(lab.ask("print([1 for m in studio.marks.get(studio.canvas.active, ())])")))
    page.keyboard.press('Enter')
    lab.wait_for(f"len(studio.marks.get(studio.canvas.active, ()))=={n+1}")
    at = lab.ask("print(list(studio.marks[studio.canvas.active][-1].at)==list(studio.at))")
    assert at=='True'
    page.keyboard.press('Control+z')
    lo,hi = json.loads(lab.ask('print(list(studio.canvas.window))'))
    box = canvas.bounding_box()
    page.mouse.move(box['x']+100, box['y']+100)
    page.mouse.down(button='right')
    page.mouse.move(box['x']+140, box['y']+120, steps=4)
    page.mouse.up(button='right')
    lab.wait_for(f'studio.board.window[1]-studio.board.window[0]>{(hi-lo)*1.05}')
    page.keyboard.down('Control')
    page.mouse.wheel(0, -300)
    page.keyboard.up('Control')
    page.wait_for_timeout(1000)
    page.screenshot(path=shots/'09_zoomed.png')
    canvas.dblclick()
    page.wait_for_timeout(300)


def test_the_studio_answers_while_a_cell_is_busy(lab):
    page = lab.page
    page.evaluate('''() => {
      const k = window.medalsPage.sessionContext.session.kernel;
      window.idle = false;
      window.busyCell = k.requestExecute({ code: 'import time; time.sleep(12)' }).done.then(() => { window.idle = true }) }''')
    page.locator('.medals-studio').first.scroll_into_view_if_needed()
    canvas = page.locator('.medals-canvas').nth(2)
    before = canvas.screenshot()
    canvas.hover()
    for _ in range(6): page.mouse.wheel(0, 100)
    page.wait_for_timeout(2500)
    after = canvas.screenshot()
    assert not page.evaluate('() => window.idle')
    a,b = (np.asarray(o) for o in map(picture, (before, after)))
    assert (np.abs(a.astype(int)-b)>20).mean()>.02, 'the slice did not change while a cell was running'
    page.evaluate('() => window.busyCell')


def picture(png):
    return Image.open(io.BytesIO(png)).convert('L')


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
        c = cut(board, axis, i)
        kinds |= set(c.layers)
        h,w = c.grey.shape
        js = lab.page.evaluate('''async ([code, cut, looks]) => {
          const m = await import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
          const layers = cut.layers.map(([kind, name, bits]) => ({ kind, name, mask: m.unpack(new Uint8Array(bits), cut.w * cut.h) }));
          return [...m.compose({ ...cut, grey: new Uint8Array(cut.grey), layers }, looks).data] }''',
          [(asset('studio')/'slices.js').read_text(), dict(h=h, w=w, grey=c.grey.ravel().tolist(), layers=[
              [kind, name, np.packbits(m).tolist()] for (kind,name),m in c.layers.items()]), board.looks])
        js = np.array(js).reshape(h, w, 4)
        assert (js[...,3]==255).all() and np.abs(js[...,:3]-compose(c, board.looks).astype(int)).max()<=1
    assert {k for k,_ in kinds}=={'mask','positive','negative'} and len(kinds)>=5
