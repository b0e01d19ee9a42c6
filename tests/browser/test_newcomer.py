"Somebody who has read nothing corrects five structures of a real head and saves them: only what is written on the screen is used"
import csv
import json

import drive
import nibabel as nib
import numpy as np
import pytest
from helpers import shared

SCAN = shared/'data'/'nifti'/'mr_brain_img.nii.gz'
CELLS = '''
import json, os
os.chdir({folder!r})
from medals import Segmenter, Studio
studio = Studio(Segmenter.load({weights!r}), {scan!r})
studio
'''
ASKED = dict(nano=['left cerebral hemisphere','right cerebral hemisphere','grey matter','white matter','cerebral ventricles'])


class Newcomer:
    "Reads the screen, and clicks what is written there"
    def __init__(self, nb): self.nb,self.page = nb,nb.page
    def press(self, words): self.page.get_by_role('button', name=words, exact=True).first.click()
    def said(self): return self.page.locator('.medals-status').first.inner_text()

    def ask(self, name):
        "Types until the name is offered, and takes the offer with the mouse"
        box = self.page.get_by_placeholder('What to segment').first
        box.click()
        for letter in name[:len(name)*2//3]: self.page.keyboard.type(letter)
        offer = self.page.locator('.medals-options li', has_text=name).first
        offer.wait_for()
        offer.click()

    def rest(self, seconds=400):
        "Until nothing goes on"
        self.page.locator('.medals-progress').first.wait_for(state='hidden', timeout=1000*seconds)

    def ml(self, name):
        "Volume in the list, with a pen if a hand has changed it"
        return self.page.locator(f'tr[data-class="{name}"] .medals-figure').first.inner_text()

    def stroke(self, *path):
        canvas = self.page.locator('.medals-canvas').nth(2)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        at = [(box['x']+box['width']*x, box['y']+box['height']*y) for x,y in path]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for o in at[1:]: self.page.mouse.move(*o, steps=4)
        self.page.mouse.up()


@pytest.fixture
def newcomer(tmp_path):
    if not SCAN.exists(): pytest.skip(f'the real head is not here: {SCAN.name} in shared/data/nifti')
    files = tmp_path/'files'
    files.mkdir()
    drive.write_notebook(files/'a.ipynb', CELLS.format(folder=str(files), weights='nano', scan=str(SCAN)))
    with drive.server('lab', files, tmp_path) as (base,token), drive.browser(1300, 1200) as page:
        nb = drive.Notebook(page, base, token, 'a.ipynb')
        nb.run_all()
        page.wait_for_function("() => [...document.querySelectorAll('.medals-canvas')].filter(c => c.dataset.shown).length>=3")
        yield Newcomer(nb),files
        assert not [n for n in page.notes if 'pageerror' in n], page.notes


def test_five_structures_are_corrected_and_saved(newcomer, shots):
    o,files = newcomer
    names = ASKED['nano']
    for name in names: o.ask(name)
    o.page.screenshot(path=shots/'90_asked.png')
    o.press('Run')
    o.page.wait_for_timeout(500)
    o.rest()
    assert 'found' in o.said()
    o.page.wait_for_timeout(1500)
    o.page.screenshot(path=shots/'91_found.png')
    before = {name: o.ml(name) for name in names}
    for i,name in enumerate(names):
        o.press(name)  # in the list
        o.page.wait_for_timeout(400)
        o.press('Rubber' if i%2 else 'Brush')
        assert o.page.locator('.medals-whose').inner_text()==f'for {name}'
        o.stroke((.45, .45), (.55, .5), (.5, .55))
        o.page.wait_for_timeout(1200)
        o.page.screenshot(path=shots/f'92_corrected_{i}.png')
    after = {name: o.ml(name) for name in names}
    assert all('✎' in after[name] for name in names), (before, after)
    o.press('Save')
    o.page.wait_for_function("() => document.querySelector('.medals-status').textContent.startsWith('saved in')", timeout=60_000)
    o.page.screenshot(path=shots/'93_saved.png')
    saved = files/'studio'
    rows = list(csv.DictReader(open(saved/'table.csv')))
    assert [row['sentence'] for row in rows]==names and json.loads((saved/'manifest.json').read_text())['edited by hand']==sorted(names)
    scan = nib.load(SCAN)
    for name in names:
        mask = nib.load(saved/f"{name.replace(' ', '_')}.nii.gz")
        assert mask.shape==scan.shape and np.allclose(mask.affine, scan.affine) and np.asarray(mask.dataobj).any()
