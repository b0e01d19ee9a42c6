"The command as a user types it"
import csv
import errno
import gzip
import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medals.base.files import read_table
from medals.cli import VERBS, main, parser
from medals.volume import phantom, read_labels, write_volume


HERE = Path(__file__)  # a file that is there


def medals(*args, **kw):
    cmd = [sys.executable, '-m', 'medals.cli', *map(str, args)]
    return subprocess.run(cmd, capture_output=True, text=True, timeout=600, **kw)


def test_examples_can_be_typed_and_groups_name_flags():
    about = read_table('flags.toml')
    assert set(about['examples'])=={fn.__name__ for fn in VERBS}
    known = set()
    for verb,line in about['examples'].items():
        first,*words = shlex.split(line)
        known |= set(vars(parser(verb).parse_args(words)))
        assert first=='medals' and words[0]==verb
    named = [o for groups in about['groups'].values() for names in groups.values() for o in names.split()]
    assert not set(named)-known
    assert all(len(' '.join(g.values()).split())==len(set(' '.join(g.values()).split())) for g in about['groups'].values())


def test_help_names_every_verb_and_flag():
    assert all(v in medals('-h').stdout for v in ('demo','segment','info','download'))
    out = medals('segment', '-h').stdout
    assert '--weights' in out and 'Scans (' in out and '--shard' in out and 'one mask each' in out


@pytest.mark.parametrize('args, says', [
    (('segment','none.nii.gz','liver'), 'no file none.nii.gz'), (('segment','./none','liver'), 'no file ./none'),
    (('segment','liver','CT of the prostate/uterus'), 'name a scan, or several, got none'),
    (('segment','a.nii','b.nii','liver'), 'no file a.nii'),
    (('segment',HERE.parent/'helpers.py',HERE,'liver','-o','x.npz'), 'need a folder'),
    (('segment',HERE,'liver','--workers','-3'), 'got -3'),
    (('segment',HERE,HERE.parent/'helpers.py','liver','--shard','3/2'), 'like 3/16'), (('challenge','none'), 'no .npz in none'),
    (('segment',HERE,'liver','--weights','/no/where'), 'no weights at'), (('segment',HERE,'liver','--weights','random:x'), 'random:nano'),
    (('segment',HERE,'liver','--stages','last'), 'both, coarse, fine'), (('segment',HERE,'liver','--format','jpeg'), 'one of nifti'),
    (('segment',HERE,'liver','-o','x.npz','--format','nifti'), 'names a npz file'),
    (('segment',HERE,'liver','--marks','none.json'), 'none.json'),
    (('segment','x.nii.gz','liver','--colour','red'), '--colour'),
    (('demo','--steps','many'), 'many'), (('draw',), 'draw'), ((), 'VERB'),
    (('download','medals-xxl'), 'there is nano')])
def test_a_mistake_is_one_line_and_exit_2(args, says, tmp_path):
    p = medals(*args, cwd=tmp_path)
    assert p.returncode==2 and says in p.stderr and p.stderr.count('\n')==1 and 'Traceback' not in p.stderr
    assert not list(tmp_path.iterdir())


def test_segment_writes_masks_on_the_scan(tmp_path):
    vol,_,_ = phantom()
    write_volume(tmp_path/'head.nii.gz', vol.reorient('PIL'))
    p = medals('segment', tmp_path/'head.nii.gz', 'left cerebral hemisphere', 'white matter', '--weights', 'nano', '-o', tmp_path/'out')
    assert p.returncode==0, p.stderr
    lbl,names = read_labels(tmp_path/'out'/'left_cerebral_hemisphere.nii.gz')
    scan = nib.load(tmp_path/'head.nii.gz')
    assert lbl.shape==scan.shape and np.allclose(lbl.affine, scan.affine) and names=={1: 'left cerebral hemisphere'}
    rows = list(csv.DictReader(open(tmp_path/'out'/'table.csv')))
    assert [r['sentence'] for r in rows]==['left cerebral hemisphere','white matter']
    made = json.loads((tmp_path/'out'/'manifest.json').read_text())
    assert made['modality']=='mri' and made['weights']=='nano' and (tmp_path/'out'/'overlay.png').stat().st_size>5000


def test_segment_takes_a_challenge_file_with_its_own_sentences_and_numbers(tmp_path):
    vol,lbl,_ = phantom()
    prompts = np.array({'3': 'white matter in brain MRI', '7': 'left cerebral hemisphere', 'instance_label': 0}, dtype=object)
    grey = vol.data.clip(0, 255).astype(np.uint8).transpose(2,1,0)
    np.savez(tmp_path/'MR_case.npz', imgs=grey, spacing=np.array(vol.spacing), text_prompts=prompts)
    p = medals('segment', 'MR_case.npz', '-o', 'segs/MR_case.npz', '--compat', cwd=tmp_path)
    assert p.returncode==0, p.stderr
    with np.load(tmp_path/'segs'/'MR_case.npz') as z: assert z['segs'].shape==vol.shape[::-1] and set(np.unique(z['segs']))<={0,3,7}
    p = medals('segment', 'MR_case.npz', '--dry-run', cwd=tmp_path)
    assert p.returncode==0 and '2 sentences (grey values)' in p.stdout and 'at most' in p.stdout and not (tmp_path/'out').exists()


def test_marks_from_a_file_are_obeyed(tmp_path):
    vol,_,_ = phantom()
    write_volume(tmp_path/'head.nii.gz', vol.reorient('PIL'))
    mm = (vol.affine@[20,30,20,1])[:3].tolist()
    (tmp_path/'marks.json').write_text(json.dumps({'white matter': [dict(kind='point', at=mm, radius=12, unit='mm')]}))
    p = medals('segment', 'head.nii.gz', 'white matter', '--marks', 'marks.json', '-o', 'wm.nii.gz', cwd=tmp_path)
    assert p.returncode==0, p.stderr
    lbl,names = read_labels(tmp_path/'wm.nii.gz')
    assert lbl.reorient('RAS').data[20,30,20]==1 and names=={1: 'white matter'}
    side = json.loads((tmp_path/'wm.medals.json').read_text())
    assert side['colours']=={'1': '#e69f00'}
    (tmp_path/'marks.json').write_text('{"white matter": [{"kind": "circle"}]}')
    p = medals('segment', 'head.nii.gz', 'white matter', '--marks', 'marks.json', cwd=tmp_path)
    assert p.returncode==2 and 'no known kind' in p.stderr and p.stderr.count('\n')==1


def test_one_series_of_several_is_segmented_into_a_dicom_segmentation(tmp_path, capsys, monkeypatch):
    pytest.importorskip('highdicom')
    from medals.inference.seg_reader import read_seg
    from medals.volume import read_volume
    from test_dicom import write_series
    monkeypatch.chdir(tmp_path)
    vol = phantom()[0].reorient('LPS')
    write_series(tmp_path/'scan', vol, 'MR', '1.2.826.0.7')
    write_series(tmp_path/'scan', vol.like(vol.data//2), 'CT', '1.2.826.0.8', name='b{k:04}.dcm')
    assert main(['segment', 'scan', 'white matter'])==2 and 'scan#1.2.826.0.7' in capsys.readouterr().err
    assert main(['segment', 'scan#1.2.826.0.9', 'white matter'])==2 and 'has no series 1.2.826.0.9' in capsys.readouterr().err
    assert main(['segment', 'scan#1.2.826.0.7', 'left cerebral hemisphere', '--weights', 'nano', '-o', 'seg.dcm'])==0
    mask = read_seg('seg.dcm', read_volume('scan#1.2.826.0.7'))['left cerebral hemisphere']
    mm = vol.affine@np.append(np.argwhere(mask).mean(0), 1)
    assert mask.any() and mm[0]<-10, 'the left half lies on the left'
    write_volume(tmp_path/'head.nii', vol)
    assert main(['segment', 'head.nii', 'white matter', '--format', 'dicomseg'])==2
    assert 'refers to the slices' in capsys.readouterr().err and not (tmp_path/'out').exists()


def hostile(tmp_path):
    "Files that are not what they say"
    from medals.volume import Volume
    good = np.random.default_rng(0).integers(0, 99, (20,20,20)).astype(np.int16)
    nib.save(nib.Nifti1Image(good, np.eye(4)), tmp_path/'good.nii')
    raw = bytearray((tmp_path/'good.nii').read_bytes())
    raw[40:56] = struct.pack('<8h', 3, 32000, 32000, 32000, 1, 1, 1, 1)
    (tmp_path/'terabytes.nii').write_bytes(bytes(raw))
    (tmp_path/'terabytes.nii.gz').write_bytes(gzip.compress(bytes(raw)))
    (tmp_path/'cut.nii.gz').write_bytes(gzip.compress(bytes(raw[:300])))
    (tmp_path/'text.nii.gz').write_text('I am a letter')
    (tmp_path/'text.npz').write_text('I am a letter')
    (tmp_path/'text.dcm').write_text('I am a letter')
    write_volume(tmp_path/'absurd.nii', Volume(good, np.diag([1e6,1.,1.,1.])))
    write_volume(tmp_path/'flat.nii', Volume(good, np.diag([1e-4,1.,1.,1.])))
    nib.save(nib.Nifti1Image(np.zeros((4,4,4,3), np.int16), np.eye(4)), tmp_path/'movie.nii')
    box = np.empty((), object)
    box[()] = Trap()
    np.savez(tmp_path/'CT_pickle.npz', imgs=good.astype(np.uint8), spacing=np.ones(3), text_prompts=box)
    box = np.empty((2,2,2), object)
    box[:] = Trap()
    np.savez(tmp_path/'CT_object.npz', imgs=box, spacing=np.ones(3))
    return sorted(f.name for f in tmp_path.iterdir() if f.name!='good.nii')


class Trap:
    def __reduce__(self): return os.mkdir, ('sprung',)


def test_damaged_and_hostile_files_end_in_one_line_with_nothing_written(tmp_path):
    files = hostile(tmp_path)
    code = "import sys\nfrom medals.cli import main\nfor f in sys.argv[1:]:\n" \
           "    words = [] if 'pickle' in f else ['liver']\n    print(f, main(['segment', f, *words, '-o', 'out']), file=sys.stderr)"
    p = subprocess.run([sys.executable, '-c', code, *files], capture_output=True, text=True, cwd=tmp_path)
    said = p.stderr.splitlines()
    assert p.returncode==0 and 'Traceback' not in p.stderr and len(said)==2*len(files), p.stderr
    for f,why,end in zip(files, said[::2], said[1::2]): assert why.startswith('medals segment: ') and f in why+end and end==f'{f} 2', why
    assert len(files)==11 and not (tmp_path/'out').exists() and not (tmp_path/'sprung').exists()


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


def test_a_full_disk_is_said_with_what_to_do(monkeypatch, capsys):
    def full(): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('medals.inference.bundles.bundle_rows', full)
    assert main(['models'])==2
    said = capsys.readouterr().err
    assert 'make room' in said and said.count('\n')==1
