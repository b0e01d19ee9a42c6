"The moving picture of the first page: a sentence is typed, its mask comes, a stroke corrects it. MEDALS_SHOTS keeps it"
import io
import json

import drive
import pytest
from PIL import Image

CELLS = '''
import os, tempfile
import numpy as np
from scipy import ndimage
from medals.example import masks_of, template, unseen_view
from medals.metrics import dice
from medals.segment import Segmenter
from medals.spatial import Scribble
from medals.studio.pointer import stamp
from medals.widgets import Studio
os.chdir(tempfile.mkdtemp())
segmenter = Segmenter.load('nano')
scan,truth = unseen_view(*template(), spacing=2.)
want = masks_of(truth.data)['cerebral ventricles']
''','''
studio = Studio(segmenter, scan, height=280)
studio.board.looks['cerebral ventricles'] = dict(colour='#e69f00', visible=True, opacity=.6)
studio
'''
MISSED = '''
found = np.asarray(studio.board.masks['cerebral ventricles'])
screen = studio.board.screen
deep = screen.view(ndimage.distance_transform_edt(want&~found, sampling=scan.spacing))
dsc = dice(want, found)
best = None
for k in np.flatnonzero((deep>=2).sum((0,1))>3).tolist():
    labels,n = ndimage.label(deep[:,:,k]>=2, np.ones((3,3)))
    at = np.argwhere(labels==np.bincount(labels.ravel())[1:].argmax()+1)
    long = int(np.ptp(at, 0).argmax())
    line = [at[at[:,long]==v].mean(0).tolist() for v in np.unique(at[:,long])]
    lo,block = stamp(Scribble(screen.voxels([[*o, k] for o in line]), 2.), scan.shape, scan.affine)
    new = found.copy()
    new[tuple(slice(a, a+m) for a,m in zip(lo, block.shape))] |= block
    gain = dice(want, new)-dsc
    if best is None or gain>best[0]: best = gain,line,k
_,line,k = best
studio.canvas.cursor = [int(line[0][0])+8, int(line[0][1])-8, k]
import json
print(json.dumps(line))
'''
WIDTH = 800  # pixels
MOST = 3_000_000  # bytes


class Film:
    "Frames of a part of a page, and how long each is seen"
    def __init__(self, page):
        self.page,self.frames = page,[]
        self.box = page.locator('.jp-OutputArea-child').last.bounding_box()

    def take(self, ms=120):
        png = self.page.screenshot(clip=dict(self.box, height=min(self.box['height'], 860)))
        image = Image.open(io.BytesIO(png)).convert('RGB')
        self.frames.append((image.resize((WIDTH, round(image.height*WIDTH/image.width)), Image.LANCZOS), ms))

    def still(self, path):
        "What is seen now, for a page"
        png = self.page.screenshot(clip=dict(self.box, height=min(self.box['height'], 860)))
        Image.open(io.BytesIO(png)).convert('RGB').quantize(200).save(path, optimize=True)

    def save(self, path):
        "As an animation whose frames have the colours of all of them"
        small = [image.resize((image.width//4, image.height//4)) for image,_ in self.frames]
        sheet = Image.new('RGB', (small[0].width, sum(o.height for o in small)))
        top = 0
        for o in small:
            sheet.paste(o, (0, top))
            top += o.height
        colours = sheet.quantize(160, Image.Quantize.MAXCOVERAGE)
        first,*rest = [image.quantize(palette=colours, dither=Image.Dither.NONE) for image,_ in self.frames]
        first.save(path, save_all=True, append_images=rest, duration=[ms for _,ms in self.frames], loop=0, optimize=True)


@pytest.fixture(scope='module')
def nb(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp('lab')
    (tmp_path/'files').mkdir()
    drive.write_notebook(tmp_path/'files'/'a.ipynb', *CELLS)
    with drive.server('lab', tmp_path/'files', tmp_path) as (base,token), drive.browser(1240, 1150) as page:
        nb = drive.Notebook(page, base, token, 'a.ipynb')
        page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
        nb.run_all()
        page.wait_for_selector('.medals-canvas')
        page.wait_for_timeout(2500)
        yield nb


def test_a_film_of_a_sentence_a_mask_and_a_stroke(nb, shots): # noqa: PLR0915 a script, from top to bottom
    page = nb.page
    page.locator('.medals-studio').scroll_into_view_if_needed()
    page.evaluate("() => document.querySelector('.medals-studio').scrollIntoView()")
    page.wait_for_timeout(800)
    film = Film(page)
    film.take(1200)
    box = page.locator('.medals-sentence')
    box.click()
    for letter in 'cerebral ventr':
        page.keyboard.type(letter)
        page.wait_for_timeout(60)
        film.take(90)
    page.wait_for_selector('.medals-options li')
    film.take(700)
    page.keyboard.press('ArrowDown')
    film.still(shots/'walk_type.png')
    film.take(500)
    page.keyboard.press('Enter')
    nb.wait_for("'cerebral ventricles' in studio.sentences")
    page.wait_for_timeout(300)
    film.take(600)
    page.locator('.medals-run').click()
    for _ in range(200):
        film.take(150)
        if nb.ask('print(studio.busy)')=='False': break
        page.wait_for_timeout(900)
    nb.wait_for('studio.result is not None and studio._shaping is None')
    page.wait_for_timeout(1500)
    film.still(shots/'walk_mask.png')
    film.take(1500)
    line = json.loads(nb.ask(MISSED))
    page.wait_for_timeout(1200)
    page.locator('.medals-large').nth(2).click()
    page.wait_for_timeout(1500)
    film.take(1500)
    page.locator('[data-tool=brush]').click()
    page.locator('[aria-label^="Radius"]').fill('2')
    page.keyboard.press('Tab')
    page.wait_for_timeout(300)
    film.take(500)
    scene = json.loads(nb.ask('import json; print(json.dumps(studio.canvas.scene))'))
    area,(cols,rows),(dx,dy) = page.locator('.medals-canvas').nth(2).bounding_box(),scene['shape'][:2],scene['spacing'][:2]
    s = min(area['width']/(cols*dx), area['height']/(rows*dy))
    def there(c, r): return area['x']+area['width']/2+(c-(cols-1)/2)*s*dx,area['y']+area['height']/2+(r-(rows-1)/2)*s*dy
    page.mouse.move(*there(*line[0]))
    page.mouse.down()
    for (c,r),(d,q) in zip(line, [*line[1:], line[-1]]):
        for part in (0, .5):
            page.mouse.move(*there(c+part*(d-c), r+part*(q-r)), steps=2)
            film.take(130)
    page.mouse.up()
    film.take(300)
    nb.wait_for("studio.board.history.names[0]=='brush'")
    page.wait_for_timeout(900)
    film.still(shots/'walk_brush.png')
    film.take(900)
    for held in (True, False, True, False): # before and after
        (page.keyboard.down if held else page.keyboard.up)('b')
        page.wait_for_timeout(700)
        film.take(700)
    page.mouse.move(5, 5)
    page.wait_for_timeout(1500)
    film.take(1500)
    page.locator('.medals-large').nth(2).click()
    nb.wait_for('studio._shaping is None')
    page.wait_for_timeout(1800)
    film.still(shots/'walk_corrected.png')
    film.take(3000)
    film.save(shots/'studio.gif')
    assert (shots/'studio.gif').stat().st_size<MOST
    assert nb.ask("print(dice(want, np.asarray(studio.board.masks['cerebral ventricles']))>dsc)")=='True', 'the stroke has made it better'
    assert not [n for n in page.notes if 'pageerror' in n], page.notes


NUMBERED = """() => {
  const studio = document.querySelector('.medals-studio'), seen = e => e.offsetParent && !e.closest('[hidden]');
  const found = [...studio.querySelectorAll('button, input, select, progress, .medals-status, .medals-value')].filter(seen)
    .filter(e => !e.matches('.medals-pane *') || e.closest('.medals-pane').dataset.plane === 'axial');
  const list = document.querySelector('.medals-list tbody tr');
  const more = list ? [...list.querySelectorAll('input, button, .medals-figure')] : [];
  const solid = document.querySelector('.medals-solid'), rows = [];
  [...found, ...more, solid].forEach((e, i) => {
    const box = e.getBoundingClientRect(), badge = document.createElement('div');
    badge.className = 'medals-badge';
    badge.textContent = i + 1;
    const left = box.width > 300 ? box.left + 3 : box.right - 13;
    Object.assign(badge.style, { position: 'fixed', left: `${left}px`, top: `${box.top - 7}px`, minWidth: '16px', height: '16px',
      borderRadius: '8px', background: '#c2185b', color: '#fff', font: 'bold 10px sans-serif', textAlign: 'center',
      lineHeight: '16px', zIndex: 99 });
    document.body.append(badge);
    rows.push([i + 1, e.getAttribute('aria-label') || e.textContent || e.className, e.title || (e.closest('label') || e).title || '']);
  });
  return rows }"""


def test_every_button_has_a_number_in_a_picture(nb, shots):
    page = nb.page
    page.set_viewport_size(dict(width=1500, height=1150))
    page.evaluate("() => document.querySelector('.medals-studio').scrollIntoView()")
    page.wait_for_timeout(1200)
    rows = page.evaluate(NUMBERED)
    box = page.locator('.jp-OutputArea-child').last.bounding_box()
    png = page.screenshot(clip=dict(box, y=box['y']-2, width=box['width']+12, height=min(box['height'], 900)))
    Image.open(io.BytesIO(png)).convert('RGB').quantize(200).save(shots/'studio_numbers.png', optimize=True)
    (shots/'studio_numbers.json').write_text(json.dumps(rows, indent=0))
    assert len(rows)>40 and all(name or title for _,name,title in rows)
    walk = (drive.root/'nbs'/'explanations'/'newcomers_walk.ipynb').read_text()
    lost = [name for _,name,title in rows if title and title.split(' (')[0].split(':')[0][:40] not in walk and name not in walk]
    assert not lost, f'the walk does not speak of {lost}'
