"The same widgets in Notebook 7 and Voila, and itkwidgets in JupyterLab"
import os
import subprocess
import sys
from pathlib import Path

import drive
import pytest

CELLS = '''
import torch
from medals.segment import InputSpec, Segmenter
from medals.volume import phantom
from medals.widgets import Studio, compare, slices
class Bright(torch.nn.Module):
    def forward(self, x, q, m=None):
        y = (x-100).expand(-1, len(q), -1, -1, -1)/10
        return y if m is None else torch.where(m, 9., y)
frame = InputSpec(spacing=(4.,4.,4.), window=(64,64,64), modality='mri')
seg = Segmenter(Bright(), lambda texts,modality: torch.zeros(len(texts), 4), frame, 'cpu')
vol,lbl,names = phantom()
''','''
studio = Studio(seg, vol.reorient('PIL'), ['skull'])
studio
''','''
slices(vol, lbl, names)
'''


@pytest.fixture(params=['notebook','voila'])
def front(request, tmp_path):
    "A page with a Studio and slices"
    folder = tmp_path/'files'
    folder.mkdir()
    drive.write_notebook(folder/'a.ipynb', *CELLS)
    kind = request.param
    with drive.server(kind, folder, tmp_path) as (base,token), drive.browser() as page:
        if kind=='voila': page.goto(f'{base}/voila/render/a.ipynb?token={token}')
        else:
            nb = drive.Notebook(page, base, token, 'a.ipynb', kind)
            page.notes.clear()  # a settings error of Notebook 7's own, before any cell has run
            nb.run_all()
        page.wait_for_selector('.medals-canvas')
        page.kind = kind
        yield page


def test_the_studio_works_in_other_front_ends(front, shots):
    page,marks = front,lambda: front.locator('tr[data-class=skull] .medals-figure').nth(2).inner_text()
    page.wait_for_timeout(2500)
    solid = page.locator('canvas:not(.medals-canvas)').first
    assert drive.ink(page.locator('.medals-canvas').nth(2).screenshot())>.2
    assert drive.ink(solid.screenshot())>.03
    page.locator('[data-tool=point]').click()
    page.locator('.medals-canvas').nth(2).click(position=dict(x=150, y=150))
    page.wait_for_function("() => document.querySelectorAll('tr[data-class=skull] .medals-figure')[2].textContent === '1'")
    assert marks()=='1'
    page.locator('.medals-run').click()
    page.wait_for_function("() => parseFloat(document.querySelectorAll('tr[data-class=skull] .medals-figure')[0].textContent) > 100")
    page.locator('.medals-sentence').fill('left kid')
    page.wait_for_selector('.medals-options li')
    page.keyboard.press('Escape')
    page.locator('button:has-text("Undo")').click()
    page.wait_for_timeout(2500)
    page.screenshot(path=shots/f'20_{page.kind}.png', full_page=True)
    assert drive.ink(solid.screenshot())>.03
    view = page.locator('.medals-studio').nth(1).locator('.medals-canvas').nth(2)
    view.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    before = view.screenshot()
    view.hover()
    for _ in range(6): page.mouse.wheel(0, 100)
    page.wait_for_timeout(1500)
    assert drive.ink(before)>.2 and view.screenshot()!=before
    page.screenshot(path=shots/f'21_{page.kind}_slices.png', full_page=True)
    assert not [o for o in page.notes if 'pageerror' in o], page.notes


@pytest.fixture
def itk():
    "A Python with itkwidgets, see sh/test_browser.sh"
    python = os.environ.get('MEDALS_ITK_PYTHON', sys.executable)
    lost = subprocess.run([python, '-c', 'import imjoy_jupyterlab_extension, itkwidgets'], capture_output=True).returncode
    if lost: pytest.skip("itkwidgets is not installed; sh/test_browser.sh makes an environment for it")
    return Path(python)


def test_itkwidgets_renders_scan_and_labels(itk, tmp_path, shots):
    "Its web addresses are answered from npm packages"
    (tmp_path/'files').mkdir()
    first = CELLS[0].replace('slices', 'view3d')
    drive.write_notebook(tmp_path/'files'/'a.ipynb', first, "view3d(vol, lbl, names, backend='itkwidgets')")
    packages = drive.Packages(os.environ.get('MEDALS_NPM') or tmp_path/'npm')
    share = Path(sys.prefix)/'share'/'jupyter'
    kw = dict(python=itk, env={'JUPYTER_PATH': str(share)}, more=[f'--LabApp.app_dir={share}/lab'])
    with drive.server('lab', tmp_path/'files', tmp_path, **kw) as (base,token), drive.browser() as page:
        page.context.route('**/*', packages)
        assert _itk_ink(page, base, token, shots)>.02, packages.refused
    assert any('itkVtkViewer.js' in o for o in packages.asked)


def _itk_ink(page, base, token, shots, tries=3, seconds=60):
    "How much of the viewer is not background; the viewer does not always draw at the first try"
    for _ in range(tries):
        drive.Notebook(page, base, token, 'a.ipynb').run_all()
        frame = page.wait_for_selector('iframe')
        for _ in range(seconds//3):
            page.wait_for_timeout(3000)
            page.screenshot(path=shots/'30_itkwidgets.png')
            ink = drive.coloured(frame.screenshot())
            if ink>.02: return ink
    return 0.
