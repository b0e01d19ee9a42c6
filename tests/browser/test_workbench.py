"Each thing that people expect of a workbench, tried with a mouse and keys, at two widths"
import io
import json

import drive
import numpy as np
import pytest
from PIL import Image

CELLS = '''
import tempfile, os
os.chdir(tempfile.mkdtemp())
from medals.example import template, unseen_view
from medals.segment import Segmenter
from medals.widgets import Studio
scan,truth = unseen_view(*template(), spacing=3.)
segmenter = Segmenter.load('nano')
''','''
studio = Studio(segmenter, scan, ['white matter'])
studio
'''


class Bench:
    "The Studio of the page"
    def __init__(self, nb):
        self.nb,self.page = nb,nb.page
        self.studio = self.page.locator('.medals-studio').first

    def canvas(self, plane=2): return self.page.locator('.medals-canvas').nth(plane)
    def value(self, code): return json.loads(self.nb.ask(f'import json; print(json.dumps({code}))'))
    def tool(self, name): self.studio.locator(f'[data-tool={name}]').click()

    def picture(self, plane=2):
        self.page.wait_for_timeout(600)
        shot = np.asarray(Image.open(io.BytesIO(self.canvas(plane).screenshot())).convert('RGB')).astype(int)
        return shot[6:-6,6:-6]  # without the frame of what has the focus

    def stroke(self, *points, plane=2):
        self.canvas(plane).scroll_into_view_if_needed()
        box = self.canvas(plane).bounding_box()
        at = [(box['x']+box['width']*x, box['y']+box['height']*y) for x,y in points]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for x,y in at: self.page.mouse.move(x, y, steps=3)
        self.page.mouse.up()


@pytest.fixture(scope='module', params=[1400,800])
def bench(request, tmp_path_factory):
    tmp = tmp_path_factory.mktemp('lab')
    (tmp/'files').mkdir()
    drive.write_notebook(tmp/'files'/'a.ipynb', *CELLS)
    with drive.server('lab', tmp/'files', tmp) as (base,token), drive.browser(request.param, 1250) as page:
        nb = drive.Notebook(page, base, token, 'a.ipynb')
        nb.run_all()
        page.wait_for_selector('.medals-canvas')
        page.wait_for_timeout(2000)
        o = Bench(nb)
        o.width = request.param
        o.studio.scroll_into_view_if_needed()
        yield o
        assert not [n for n in page.notes if 'pageerror' in n], page.notes


def coloured(rgb): return float((rgb.max(-1)-rgb.min(-1)>25).mean())


def test_a_run_and_what_is_under_the_pointer(bench, shots):
    bench.studio.locator('.medals-run').click()
    bench.nb.wait_for('studio.result is not None and not studio.busy')
    assert coloured(bench.picture())>.02
    bench.canvas().hover(position=dict(x=90, y=120))
    bench.page.wait_for_timeout(400)
    said = bench.studio.locator('.medals-value').inner_text()
    voxel = [int(o) for o in said.split('voxel ')[1].split(' ·')[0].split(',')]
    value = bench.value(f'float(scan.data[tuple({voxel})])')
    assert float(said.split('value ')[1].split()[0])==pytest.approx(value, rel=1e-4) and 'mm' in said
    names = bench.value(f"[k for k,m in studio.board.masks.items() if m[tuple(slice(o,o+1) for o in {voxel})].any()]")
    assert all(name in said for name in names)
    bench.page.screenshot(path=shots/f'30_run_{bench.width}.png', full_page=True)


def test_the_grey_window_by_name_by_number_and_back(bench):
    first = bench.picture()
    bench.studio.locator('.medals-presets').select_option('more contrast')
    bench.nb.wait_for("list(studio.board.window)==[studio.board.windows[2][k] for k in ('lo','hi')]")
    assert np.abs(bench.picture()-first).mean()>2
    bench.studio.locator('[aria-label="window width"]').fill('400')
    bench.page.keyboard.press('Tab')
    bench.nb.wait_for('abs(studio.board.window[1]-studio.board.window[0]-400)<1e-6')
    bench.canvas().focus()
    bench.page.keyboard.press('r')
    bench.nb.wait_for("list(studio.board.window)==[studio.board.windows[0][k] for k in ('lo','hi')]")
    bench.page.mouse.move(0, 0)


def test_things_are_hidden_and_shown(bench, shots):
    bench.canvas().focus()
    full = bench.picture()
    bench.page.keyboard.down('h')
    alone = bench.picture()
    bench.page.keyboard.up('h')
    assert coloured(alone)<.005<coloured(full) and np.array_equal(bench.picture(), full)
    bench.page.keyboard.press('o')
    outline = bench.picture()
    assert .001<coloured(outline)<coloured(full)
    bench.page.screenshot(path=shots/f'31_outline_{bench.width}.png', full_page=True)
    bench.page.keyboard.press('o')
    bench.page.keyboard.press('?')
    assert bench.studio.locator('.medals-help').is_visible()
    bench.page.screenshot(path=shots/f'32_help_{bench.width}.png', full_page=True)
    bench.page.keyboard.press('?')
    bench.page.keyboard.press('f')
    bench.page.wait_for_timeout(600)
    assert bench.canvas().bounding_box()['height']>600 and not bench.canvas(0).is_visible()
    bench.page.screenshot(path=shots/f'33_large_{bench.width}.png', full_page=True)
    bench.page.keyboard.press('f')
    bench.page.wait_for_timeout(600)
    assert bench.canvas(0).is_visible()


def test_the_mask_is_painted_and_taken_back(bench, shots):
    before = bench.value("int(studio.board.masks['white matter'].sum())")
    bench.tool('brush')
    bench.stroke((.2, .2), (.35, .2))
    bench.nb.wait_for("studio.board.history.names[0]=='brush'")
    assert bench.value("int(studio.board.masks['white matter'].sum())")>before
    bench.page.wait_for_timeout(800)
    bench.page.screenshot(path=shots/f'34_brush_{bench.width}.png', full_page=True)
    bench.studio.locator('[aria-label="mm"]').fill('3')
    bench.studio.locator('select[aria-label="Change the mask"]').select_option('grow')
    bench.nb.wait_for("studio.board.history.names[0]=='grow'")
    assert bench.studio.locator('.medals-undo').inner_text()=='Undo: grow'
    for _ in range(2): bench.studio.locator('.medals-undo').click()
    bench.nb.wait_for(f"int(studio.board.masks['white matter'].sum())=={before}")
    bench.tool('move')


def test_a_mark_is_followed_by_a_run(bench):
    bench.tool('point')
    bench.stroke((.5, .5), (.5, .5))
    bench.nb.wait_for("len(studio.marks.get('white matter', ()))==1 and not studio.busy and studio.board.answered")
    bench.tool('move')


def test_hints_are_clicked(bench, shots):
    box = bench.page.locator('.medals-sentence').first
    box.fill('wite mater')
    box.press('Enter')
    bench.nb.wait_for("'wite mater' in studio.sentences")
    bench.page.wait_for_timeout(500)
    bench.page.screenshot(path=shots/f'35_hints_{bench.width}.png', full_page=True)
    bench.page.locator('tr[data-class="wite mater"] .medals-offer').first.click()
    bench.nb.wait_for("studio.sentences==('white matter',)")
    box.fill('laft cerebral hemisfere')
    box.press('Enter')
    bench.nb.wait_for("'left cerebral hemisphere' in studio.sentences")


def test_a_class_leads_to_its_middle(bench):
    bench.nb.ask("studio.at = (1,1,1)")
    bench.page.locator('tr[data-class="white matter"] .medals-name').click()
    bench.nb.wait_for("studio.at!=(1,1,1) and studio.board.masks['white matter'][tuple(slice(o, o+1) for o in studio.at)].all()")


def test_nothing_covers_anything_down_to_600_pixels(bench, shots):
    bench.page.set_viewport_size(dict(width=600, height=1250))
    bench.page.wait_for_timeout(1500)
    bench.page.screenshot(path=shots/f'36_narrow_{bench.width}.png', full_page=True)
    boxes = [bench.page.locator(o).first.bounding_box() for o in ('.medals-list', '.medals-solid-box')]
    a,b = boxes
    apart = a['x']+a['width']<=b['x']+1 or a['y']+a['height']<=b['y']+1
    assert apart, boxes
    bench.page.set_viewport_size(dict(width=bench.width, height=1250))
