"A page with several Studios: the script comes once, also to a page that is reloaded, and a saved page needs no kernel"
import json
import os
import subprocess
import sys

import drive
import pytest

CELLS = '''
from medals.volume import phantom
from medals.widgets import Studio, slices, view3d
vol,lbl,names = phantom()
''','''
one = Studio(None, vol, ['x'])
one
''','''
two = Studio(None, vol, ['y'])
two
'''
CELL = '''async i => {
  window.medalsPage.content.activeCellIndex = i;
  await window.jupyterapp.commands.execute('notebook:run-cell') }'''
SCRIPT = 'class Pane'  # a line of it


class Wire:
    "What goes to the browser"
    def __init__(self, page):
        self.bytes = self.scripts = 0
        page.on('websocket', lambda ws: ws.on('framereceived', self.heard))

    def heard(self, data):
        self.bytes += len(data)
        raw = data if isinstance(data, bytes) else data.encode()
        self.scripts += raw.count(SCRIPT.encode())

    def since(self):
        had = self.bytes,self.scripts
        self.bytes = self.scripts = 0
        return had


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('lab')
    (tmp/'files').mkdir()
    drive.write_notebook(tmp/'files'/'a.ipynb', *CELLS)
    with drive.server('lab', tmp/'files', tmp) as (base,token), drive.browser(1300, 1200) as page:
        wire = Wire(page)
        yield drive.Notebook(page, base, token, 'a.ipynb'),wire,(base,token),tmp/'files'


def panes(page, count):
    page.wait_for_function(f"() => [...document.querySelectorAll('.medals-canvas')].filter(c => c.dataset.shown).length>={count}")
    page.wait_for_timeout(1000)


def test_a_second_studio_brings_no_script(lab, shots):
    nb,wire,_,_ = lab
    nb.page.evaluate(CELL, 0)
    wire.since()
    nb.page.evaluate(CELL, 1)
    panes(nb.page, 3)
    first = wire.since()
    nb.page.evaluate(CELL, 2)
    panes(nb.page, 6)
    second = wire.since()
    nb.page.screenshot(path=shots/'60_two_studios.png', full_page=True)
    assert first[1]==1 and second[1]==0
    assert second[0]<first[0]-50_000, (first, second)
    assert nb.page.evaluate("() => [...document.querySelectorAll('style')].filter(s => s.id.startsWith('medals-style')).length")==1


def test_a_page_that_is_reloaded_gets_it_again_and_once(lab, shots):
    nb,wire,(base,token),_ = lab
    nb.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save') }")
    nb.page.goto('about:blank')
    wire.since()
    nb = drive.Notebook(nb.page, base, token, 'a.ipynb')
    nb.page.wait_for_timeout(3000)
    panes(nb.page, 3)
    nb.page.locator('.medals-studio').first.scroll_into_view_if_needed()
    nb.page.screenshot(path=shots/'61_reloaded.png', full_page=True)
    assert wire.since()[1]==1
    box = nb.page.locator('.medals-sentence').first
    box.fill('z')
    box.press('Enter')
    nb.wait_for("'z' in one.sentences")
    assert not [o for o in nb.page.notes if 'pageerror' in o], nb.page.notes


def test_widgets_that_are_all_closed_come_again(lab):
    nb = lab[0]
    nb.ask('from ipywidgets import Widget; Widget.close_all()')
    nb.page.evaluate(CELL, 1)
    panes(nb.page, 3)
    assert json.loads(nb.ask('import json; print(json.dumps(list(one.sentences)))'))==['x']


def test_a_saved_page_has_all_that_it_needs(lab, shots):
    "Run without a browser, saved with its widgets, and opened while nobody knows them in a kernel"
    nbclient = pytest.importorskip('nbclient')
    import nbformat
    page,(base,token),folder = lab[0].page,*lab[2:]
    drive.write_notebook(folder/'b.ipynb', *CELLS)
    nb = nbformat.read(folder/'b.ipynb', 4)
    nbclient.NotebookClient(nb, timeout=300, kernel_name='python3').execute()
    saved = nb.metadata['widgets']['application/vnd.jupyter.widget-state+json']['state'].values()
    assert sum('code' in o['state'] and SCRIPT in o['state']['code'].get('slices', '') for o in saved)==1
    nbformat.write(nb, folder/'b.ipynb')
    trust = [sys.executable, '-m', 'jupyter', 'trust', 'b.ipynb']
    subprocess.run(trust, cwd=folder, env={**os.environ, **drive.settings(folder.parent, sys.executable)}, check=True)
    page.notes.clear()
    drive.Notebook(page, base, token, 'b.ipynb')
    page.wait_for_function("() => document.querySelectorAll('.medals-studio').length>=1")
    page.wait_for_timeout(1500)
    page.screenshot(path=shots/'62_saved.png', full_page=True)
    assert page.locator('.medals-sentence').first.is_visible()
    assert not [o for o in page.notes if 'pageerror' in o], page.notes
