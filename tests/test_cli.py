"The command as a user types it"
import csv
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medals.volume import phantom, read_labels, write_volume


def medals(*args, **kw):
    cmd = [sys.executable, '-m', 'medals.cli', *map(str, args)]
    return subprocess.run(cmd, capture_output=True, text=True, timeout=600, **kw)


def test_help_names_every_verb_and_flag():
    assert all(v in medals('-h').stdout for v in ('demo','segment','info','download'))
    out = medals('segment', '-h').stdout
    assert '--weights' in out and 'IMAGE' in out.upper() and 'one mask each' in out


@pytest.mark.parametrize('args, says', [
    (('segment','none.nii.gz','liver'), 'no file none.nii.gz'),
    (('segment','none.nii.gz','liver','--weights','/no/where'), 'no weights at'),
    (('segment','x.nii.gz','liver','--colour','red'), '--colour'), (('demo','--steps','many'), 'many'), (('draw',), 'draw'), ((), 'VERB'),
    (('download','medals-xxl'), 'there is nano')])
def test_a_mistake_is_one_line_and_exit_2(args, says, tmp_path):
    p = medals(*args, cwd=tmp_path)
    assert p.returncode==2 and says in p.stderr and p.stderr.count('\n')==1 and 'Traceback' not in p.stderr
    assert not list(tmp_path.iterdir())


def test_segment_writes_masks_on_the_scan(tmp_path):
    vol,_,_ = phantom()
    write_volume(tmp_path/'head.nii.gz', vol.reorient('PIL'))
    p = medals('segment', tmp_path/'head.nii.gz', 'left cerebral hemisphere', 'white matter', '-o', tmp_path/'out')
    assert p.returncode==0, p.stderr
    lbl,names = read_labels(tmp_path/'out'/'left_cerebral_hemisphere.nii.gz')
    scan = nib.load(tmp_path/'head.nii.gz')
    assert lbl.shape==scan.shape and np.allclose(lbl.affine, scan.affine) and names=={1: 'left cerebral hemisphere'}
    rows = list(csv.DictReader(open(tmp_path/'out'/'table.csv')))
    assert [r['sentence'] for r in rows]==['left cerebral hemisphere','white matter']
    made = json.loads((tmp_path/'out'/'manifest.json').read_text())
    assert made['modality']=='mri' and made['weights']=='nano' and (tmp_path/'out'/'overlay.png').stat().st_size>5000


def test_the_demo_works_and_correction_helps(tmp_path):
    pytest.importorskip('nilearn')
    p = medals('demo', '-o', tmp_path/'demo')
    assert p.returncode==0, p.stderr
    rows = list(csv.DictReader(open(tmp_path/'demo'/'table.csv')))
    assert len(rows)==5 and np.mean([float(r['dsc']) for r in rows])>=.80
    fixed = [r for r in rows if r['dsc_corrected']]
    assert len(fixed)==1 and float(fixed[0]['dsc_corrected'])>float(fixed[0]['dsc'])
    assert float(fixed[0]['dsc_corrected'])>.02+float(fixed[0]['dsc'])
    scan = nib.load(tmp_path/'demo'/'scan.nii.gz')
    assert max(scan.header.get_zooms())<=2 and (tmp_path/'demo'/'demo.png').stat().st_size>20000
    masks = [f for f in (tmp_path/'demo').glob('*.nii.gz') if f.name!='scan.nii.gz']
    assert len(masks)==7 and all(np.allclose(nib.load(f).affine, scan.affine) for f in masks)
