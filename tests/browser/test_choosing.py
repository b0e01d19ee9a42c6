"A file with several volumes and a folder with several series: chosen in the page, each with its own marks"
import json

import drive
import nibabel as nib
import numpy as np
import pytest
from test_dicom import write_series

from medals.volume import phantom

CELLS = '''
import json
from medals.widgets import Studio
''','''
studio = Studio(None, {path!r}, ['x'])
studio
'''


@pytest.fixture(params=['bold','series'])
def open_(request, tmp_path):
    "A Studio of one of several scans, and the three that there are"
    vol,_,_ = phantom()
    files = tmp_path/'files'
    files.mkdir()
    if request.param=='bold':
        x = np.stack([vol.data, vol.data//2, vol.data[::-1]], -1)
        nib.save(nib.Nifti1Image(x, vol.affine), files/'bold.nii.gz')
        path,first = str(files/'bold.nii.gz'),0
    else:
        folder = files/'dicom'
        folder.mkdir()
        small = phantom((20,24,12), (8.,8.,14.))[0]
        write_series(folder, small.reorient('LPS'), series='1.2.3', name='a{k}.dcm', SeriesNumber=1, SeriesDescription='localizer')
        write_series(folder, vol.reorient('LPS'), series='1.2.4', name='b{k}.dcm', SeriesNumber=2, SeriesDescription='head, thin')
        darker = vol.like(vol.data//2).reorient('LPS')
        write_series(folder, darker, series='1.2.5', name='c{k}.dcm', SeriesNumber=3, SeriesDescription='head, again')
        path,first = str(folder),1
    drive.write_notebook(files/'a.ipynb', CELLS[0], CELLS[1].format(path=path))
    with drive.server('lab', files, tmp_path) as (base,token), drive.browser(1300, 1200) as page:
        nb = drive.Notebook(page, base, token, 'a.ipynb')
        nb.run_all()
        page.wait_for_function("() => [...document.querySelectorAll('.medals-canvas')].filter(c => c.dataset.shown).length>=3")
        yield nb,first,request.param
        assert not [n for n in page.notes if 'pageerror' in n], page.notes


def test_scans_are_chosen_and_their_marks_stay(open_, shots):
    nb,first,kind = open_
    page = nb.page
    menu = page.locator('.medals-choice')
    assert menu.is_visible() and menu.input_value()==str(first) and menu.locator('option').count()==3
    assert 'holds 3 scans' in page.locator('.medals-notes').inner_text()
    canvas = page.locator('.medals-canvas').nth(2)
    page.locator('[data-tool=point]').click()
    canvas.click(position=dict(x=150, y=150))
    nb.wait_for("len(studio.marks.get('x', ()))==1")
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)
    page.screenshot(path=shots/f'70_{kind}.png', full_page=True)
    before = canvas.screenshot()
    for other in {0,1,2}-{first}:
        menu.select_option(str(other))
        nb.wait_for(f'studio.canvas.choice=={other} and not studio.marks')
        page.wait_for_timeout(1200)
        assert canvas.screenshot()!=before
        canvas.hover(position=dict(x=160, y=140))
        page.wait_for_timeout(300)
        said = page.locator('.medals-value').inner_text()
        voxel = [int(o) for o in said.split('voxel ')[1].split(' ·')[0].split(',')]
        value = json.loads(nb.ask(f'print(json.dumps(float(studio.volume.data[tuple({voxel})])))'))
        assert float(said.split('value ')[1].split()[0])==pytest.approx(value, abs=1e-3)
        page.mouse.move(0, 0)
        page.screenshot(path=shots/f'71_{kind}_{other}.png', full_page=True)
    menu.select_option(str(first))
    nb.wait_for(f"studio.canvas.choice=={first} and len(studio.marks.get('x', ()))==1")
    page.wait_for_timeout(1200)
    assert canvas.screenshot()==before
