"`slices` and `compare` in JupyterLab: the panes of the Studio, to look at"
import io
import json

import drive
import numpy as np
import pytest
from PIL import Image

CELLS = '''
import json
import numpy as np
from medals.volume import phantom
from medals.widgets import compare, slices, view3d
vol,lbl,names = phantom()
masks = {n: lbl==k for k,n in names.items()}
shrunk = {k: m&np.roll(m, 3, 0) for k,m in masks.items()}
''','''
s = slices(vol, lbl, names)
s
''','''
c = compare((vol, masks), (vol, shrunk), ('truth', 'shrunk'))
c
''','''
view3d(vol, lbl, names)
'''


@pytest.fixture(scope='module')
def nb(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('lab')
    (tmp/'files').mkdir()
    drive.write_notebook(tmp/'files'/'a.ipynb', *CELLS)
    with drive.server('lab', tmp/'files', tmp) as (base,token), drive.browser(1300, 1500) as page:
        nb = drive.Notebook(page, base, token, 'a.ipynb')
        nb.run_all()
        page.wait_for_function("() => [...document.querySelectorAll('.medals-canvas')].filter(c => c.dataset.shown).length>=3")
        nb.where = base,token,tmp/'files'
        yield nb


def picture(nb, view, plane=2):
    nb.page.mouse.move(0, 0)
    nb.page.wait_for_timeout(700)
    shot = nb.page.locator('.medals-studio').nth(view).locator('.medals-canvas').nth(plane).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert('RGB')).astype(int)


def test_slices_are_looked_at_and_nothing_is_drawn(nb, shots):
    page = nb.page
    view = page.locator('.medals-studio').nth(0)
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots/'80_slices.png', full_page=True)
    shown = [o.inner_text() for o in view.locator('button:visible').all()]
    assert shown[:3]==['Move','Ruler','Angle'] and not {'Run','Save','Brush','Undo','Add'}&set(shown)
    canvas = view.locator('.medals-canvas').nth(2)
    start = json.loads(nb.ask('print(json.dumps(list(s.canvas.cursor)))'))
    canvas.hover(position=dict(x=150, y=130))
    page.wait_for_timeout(300)
    said = view.locator('.medals-value').inner_text()
    voxel = [int(o) for o in said.split('voxel ')[1].split(' ·')[0].split(',')]
    value = json.loads(nb.ask(f'print(json.dumps([float(vol.data[tuple({voxel})]), names.get(int(lbl[tuple({voxel})]))]))'))
    assert float(said.split('value ')[1].split()[0])==value[0] and (value[1] is None or value[1] in said)
    page.mouse.wheel(0, 100)
    nb.wait_for(f's.canvas.cursor[2]=={start[2]+1}')
    before = picture(nb, 0)
    page.locator('.medals-list').nth(0).locator('input[type=checkbox]').first.click()
    nb.wait_for(f"len(s.visible)=={len(json.loads(nb.ask('print(json.dumps(list(s.masks)))')))-1}")
    hidden = picture(nb, 0)
    assert (np.abs(hidden-before).max(-1)>20).mean()>.01
    canvas.focus()
    for key in ('7','2','Enter','Control+z'): page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert nb.ask("print(s.canvas.tool['name'], s.board.now.marks)")=='move {}'


def test_two_sets_of_masks_show_where_they_differ(nb, shots):
    page = nb.page
    view = page.locator('.medals-studio').nth(1)
    view.scroll_into_view_if_needed()
    rgb = picture(nb, 1)
    page.screenshot(path=shots/'81_compare.png', full_page=True)
    red = (rgb[...,0]>150)&(rgb[...,1]<110)&(rgb[...,2]<110)
    assert red.mean()>.01
    assert 'only in truth' in view.locator('.medals-key').inner_text() and 'only in shrunk' in view.locator('.medals-key').inner_text()
    row = page.locator('.medals-list').nth(1).locator('tr[data-class]').first.inner_text()
    dsc = json.loads(nb.ask("print(json.dumps(c.rows[0]['dsc']))"))
    assert float(row.split('DSC ')[1].split()[0])==pytest.approx(dsc, abs=1e-3)
    assert not [o for o in page.notes if 'pageerror' in o], page.notes


def test_a_saved_notebook_keeps_pictures(nb):
    nb.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save') }")
    saved = json.loads((nb.where[2]/'a.ipynb').read_text())
    kinds = [set(c['outputs'][0]['data']) for c in saved['cells'][1:]]
    assert all({'image/png','application/vnd.jupyter.widget-view+json'}<=o for o in kinds), kinds
