"BIDS: cases of derivatives, names of labels, evaluation; what is written is asked of the official validator and of nibabel"
import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest

from medals.cli import EvaluateCfg, main
from medals.commands.cohort import write_result
from medals.commands.images import find_images
from medals.core import UserError
from medals.data.layouts import find_cases
from medals.evaluation.cases import pairs
from medals.evaluation.evaluate import evaluate
from medals.inference.result import Segmentation, check_save
from medals.scans.bids import bids_labels, bids_mask, bids_name, bids_word
from medals.metrics import dice
from medals.scans.grids import corner_gap
from medals.volume import phantom, read_labels, read_volume

vol,lbl,NAMES = phantom((24,28,22), (8.,8.,8.))


def put(root, name, x, affine=None):
    path = root/name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(x, vol.affine if affine is None else affine)
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, path)


def describe(folder, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'dataset_description.json').write_text(json.dumps(dict(Name='heads', BIDSVersion='1.10.0', **more)))
    (folder/'README').write_text('made-up heads for a test\n'*10)


@pytest.fixture
def heads(tmp_path):
    "Two subjects, one with two visits; label maps, masks and probabilities by hand; a template; a time series"
    root = tmp_path/'heads'
    describe(root)
    describe(root/'derivatives'/'manual', DatasetType='derivative', GeneratedBy=[dict(Name='Manual')])
    scans = ('sub-01/ses-a/anat/sub-01_ses-a', 'sub-01/ses-b/anat/sub-01_ses-b', 'sub-02/anat/sub-02')
    for n,scan in enumerate(scans):
        put(root, f'{scan}_T1w.nii.gz', np.asarray(vol.data)+n)
        (root/f'{scan}_T1w.json').write_text('{}')
        put(root, f'derivatives/manual/{scan}_desc-manual_dseg.nii.gz', lbl)
    put(root, 'sub-02/anat/sub-02_FLAIR.nii.gz', np.asarray(vol.data))
    put(root, 'sub-02/func/sub-02_task-rest_bold.nii.gz', np.zeros((4,4,4,3), np.int16))
    made = root/'derivatives'/'manual'
    put(made, 'sub-02/anat/sub-02_label-GM_probseg.nii.gz', (lbl>0).astype(np.float32))
    put(made, 'sub-02/anat/sub-02_label-leftVentricle_mask.nii.gz', (lbl==3).astype(np.uint8))
    put(made, 'sub-02/anat/sub-02_desc-brain_mask.nii.gz', (lbl>0).astype(np.uint8))
    put(made, 'sub-02/anat/sub-02_space-MNI152NLin_desc-manual_dseg.nii.gz', lbl)
    (made/'desc-manual_dseg.tsv').write_text('index\tname\n'+''.join(f'{i}\t{name}\n' for i,name in NAMES.items()))
    return root


def test_cases_of_derivatives(heads):
    for root in (heads, heads/'derivatives'/'manual'):
        found = find_cases(root)
        maps = [row for row in found.rows if 'masks' not in row]
        assert len(maps)==3 and len(found.rows)==4
        for row in maps:
            image,labels = row['data'].rpartition('/')[2],row['labels'].rpartition('/')[2]
            assert image==labels.replace('_desc-manual_dseg', '_T1w')
        classes = [d['classes'] for d in found.catalogue.values() if d['classes']]
        assert [{name: c['values'] for name,c in some.items()} for some in classes]==[{name: [i] for i,name in NAMES.items()}]
        assert any('probseg' in o for o in found.notes)
        assert ['no scan' in why for file,why in found.left_out.items() if 'MNI' in file]==[True]
    scans = find_images([heads], notes := [])
    assert sorted(scans)==['sub-01_ses-a_T1w', 'sub-01_ses-b_T1w', 'sub-02_FLAIR', 'sub-02_T1w'] and 'bold' in notes[0]


def test_sources_say_which_scan(heads):
    made = heads/'derivatives'/'manual'/'sub-02'/'anat'
    sources = ['bids:raw:sub-02/anat/sub-02_FLAIR.nii.gz', '../../../../etc/passwd']
    (made/'sub-02_desc-manual_dseg.json').write_text(json.dumps(dict(Sources=sources)))
    rows = [row for row in find_cases(heads).rows if 'sub-02_desc-manual_dseg' in row['labels']]
    assert [row['data'].rpartition('/')[2] for row in rows]==['sub-02_FLAIR.nii.gz']


def test_index_and_evaluate_from_the_command_line(heads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['index', 'heads', '-o', 'list.jsonl', '--workers', '1'])==0
    rows = [json.loads(o) for o in open('list.jsonl')]
    assert sorted(len(row['ids']) for row in rows)==[2,4,4,4] # two masks, one inside of the other, make two labels
    assert any(row.get('files')==['brain','left ventricle'] for row in rows)
    shutil.copytree('heads/derivatives/manual', 'again')
    assert main(['evaluate', 'again', 'heads/derivatives/manual', '-o', 'scores', '--workers', '1'])==0
    scored = [o.split(',') for o in (tmp_path/'scores'/'table.csv').read_text().splitlines()[1:]]
    assert {row[0] for row in scored}=={'sub-01_ses-a', 'sub-01_ses-b', 'sub-02', 'sub-02_space-MNI152NLin'}
    assert all(float(row[2])==1 for row in scored) and {row[1] for row in scored}==set(NAMES.values())
    describe(tmp_path/'bare')
    put(tmp_path/'bare', 'sub-1/anat/sub-1_T1w.nii.gz', np.asarray(vol.data))
    assert main(['index', 'bare', '-o', 'none.jsonl'])==2
    assert capsys.readouterr().err.count('\n')==1


def test_masks_of_one_folder_belong_to_their_runs_and_spaces(tmp_path):
    "Scans of a subject lie in one folder in BIDS: each has its own masks, and one is never the truth of another"
    for side,shift in (('truth', 0), ('pred', 1)):
        describe(tmp_path/side, DatasetType='derivative', GeneratedBy=[dict(Name='Manual')])
        for run in (1,2):
            for name,i in (('brain', 1), ('lesion', 3)):
                x = np.roll(lbl==i, shift*(run-1), 0)
                put(tmp_path/side, f'sub-01/anat/sub-01_run-{run}_label-{name}_mask.nii.gz', x.astype(np.uint8))
        for space in ('T1w','FLAIR'):
            x = np.roll(lbl, 2*shift*(space=='FLAIR'), 0)
            put(tmp_path/side, f'sub-02/anat/sub-02_space-{space}_dseg.nii.gz', x)
        put(tmp_path/side, f'sub-03/anat/sub-03_space-{"T1w" if shift else "FLAIR"}_dseg.nii.gz', lbl) # of two scans
        put(tmp_path/side, f'sub-04/anat/sub-04{"_space-T1w" if shift else ""}_dseg.nii.gz', lbl) # one side does not say it
    scan = np.asarray(vol.data)
    for suffix in ('T1w','FLAIR'): put(tmp_path/'raw', f'sub-02/anat/sub-02_{suffix}.nii.gz', scan)
    found,left,lost = pairs(tmp_path/'pred', tmp_path/'truth', tmp_path/'raw')
    assert sorted(found)==['sub-01_run-1','sub-01_run-2','sub-02_space-FLAIR','sub-02_space-T1w','sub-04']
    assert (left, lost)==(['sub-03_space-T1w'], ['sub-03_space-FLAIR'])
    assert [found[f'sub-02_space-{o}'][2].name for o in ('T1w','FLAIR')]==['sub-02_T1w.nii.gz','sub-02_FLAIR.nii.gz']
    rows,_,fails = evaluate(tmp_path/'pred', tmp_path/'truth', EvaluateCfg(out=str(tmp_path/'o'), workers=1, worst=0))
    dsc = {(row['case'], row['sentence']): row['dsc'] for row in rows}
    assert not fails.rows and [dsc['sub-01_run-1', o] for o in ('brain','lesion')]==[1,1]
    for name,i in (('brain', 1), ('lesion', 3)):
        assert dsc['sub-01_run-2', name]==pytest.approx(dice(lbl==i, np.roll(lbl==i, 1, 0)))
    assert all((dsc[case, name]==1)==(case!='sub-02_space-FLAIR') for case,name in dsc if case[:6]!='sub-01')


def result(path, masks):
    return Segmentation(read_volume(path), masks, {}, {'notes': []})


def said_by_validator(folder):
    run = shutil.which('bids-validator-deno')
    if not run: pytest.skip('the official validator (bids-validator-deno) is not installed')
    done = subprocess.run([run, str(folder), '--format', 'json'], capture_output=True, text=True, timeout=120)
    if not done.stdout.strip().startswith('{'): pytest.skip(f'the official validator does not run here: {done.stderr[:200]}')
    return [issue for issue in json.loads(done.stdout)['issues']['issues'] if issue['severity']=='error']


def test_what_is_written_is_bids(heads):
    out = heads/'derivatives'/'medals'
    apart = {NAMES[i]: lbl==i for i in (1,2)}
    nested = {'brain': lbl>0, 'left lateral ventricle': lbl==3, 'nothing': lbl>9}
    scan = heads/'sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz'
    result(scan, nested).save(out, 'bids')
    result(scan, apart).save(out, 'bids') # takes the place of the masks
    write_result(result(heads/'sub-02/anat/sub-02_T1w.nii.gz', nested), out/'sub-02_T1w', dict(n=1), 'bids')
    result(heads/'sub-02/anat/sub-02_FLAIR.nii.gz', apart).save(out, 'bids')
    assert said_by_validator(out)==[]
    files = {o.name for o in out.rglob('*.nii.gz')}
    masks = {f'sub-02_label-{o}_desc-medals_mask.nii.gz' for o in ('brain','leftLateralVentricle','nothing')}
    assert files=={'sub-01_ses-a_desc-medals_dseg.nii.gz', 'sub-02_desc-medalsFLAIR_dseg.nii.gz', *masks}
    file = out/'sub-01/ses-a/anat/sub-01_ses-a_desc-medals_dseg.nii.gz'
    image = nib.load(file)
    assert np.array_equal(np.asarray(image.dataobj), np.where(lbl<3, lbl, 0)) and corner_gap(lbl.shape, image.affine, vol.affine)[1]<.01
    assert bids_labels(file)[0]=={1: NAMES[1], 2: NAMES[2]}==read_labels(file)[1]
    about = json.loads((out/'dataset_description.json').read_text())
    assert about['DatasetType']=='derivative' and about['GeneratedBy'][0]['Name']=='medals' and about['DatasetLinks']=={'raw': '../..'}
    side = json.loads(file.with_name('sub-01_ses-a_desc-medals_dseg.json').read_text())
    assert side['Sources']==['bids:raw:sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz']
    brain = nib.load(out/'sub-02/anat/sub-02_label-brain_desc-medals_mask.nii.gz')
    assert np.array_equal(np.asarray(brain.dataobj)>0, lbl>0)
    assert json.loads((out/'sub-02_T1w'/'manifest.json').read_text())['mark']=={'n': 1}
    cases = [row for row in find_cases(heads).rows if '/medals/' in row['labels']]
    assert len(cases)==3 # what was written is read


def test_files_of_others_stay(heads, tmp_path):
    scan = heads/'sub-02/anat/sub-02_T1w.nii.gz'
    for out in (heads, heads/'derivatives'/'manual'):
        with pytest.raises(UserError, match='did not make'): check_save(out, 'bids', str(scan), ['brain'])
    out = tmp_path/'own'
    result(scan, {'brain': lbl>0}).save(out, 'bids')
    file = out/'sub-02/anat/sub-02_desc-medals_dseg.nii.gz'
    nib.save(nib.Nifti1Image(lbl, vol.affine), file) # corrected in a viewer
    with pytest.raises(UserError, match='there already'): check_save(out, 'bids', str(scan), ['brain'])
    assert said_by_validator(out)==[]


def test_a_scan_with_another_name_becomes_a_subject(tmp_path):
    put(tmp_path, 'my head.2.nii.gz', np.asarray(vol.data))
    result(tmp_path/'my head.2.nii.gz', {'brain': lbl>0}).save(tmp_path/'out', 'bids')
    assert said_by_validator(tmp_path/'out')==[]
    assert (tmp_path/'out/sub-myHead2/anat/sub-myHead2_desc-medals_dseg.tsv').read_text().startswith('index\tname\tcolor\n1\tbrain\t#')


def test_names_and_tables(tmp_path):
    assert bids_name('sub-1_T1w.nii.gz').suffix=='T1w' and bids_name('x_T1w.nii.gz') is None and bids_name('sub-1_.nii') is None
    assert [bids_mask(f'sub-1_label-{o}_mask.nii.gz') for o in ('leftKidney','GM','brain')]==['left kidney','GM','brain']
    assert bids_word('left  kidney!')=='leftKidney' and bids_word('\u809d')=='mask'
    put(tmp_path, 'sub-1_dseg.nii.gz', lbl)
    assert read_labels(tmp_path/'sub-1_dseg.nii.gz')[1][1]=='grey matter' # the list of BIDS, which is said
    put(tmp_path, 'sub-2_dseg.nii.gz', (lbl==1).astype(np.uint8))
    assert read_labels(tmp_path/'sub-2_dseg.nii.gz')[1]=={} # one label says nothing
    (tmp_path/'sub-1_dseg.tsv').write_bytes(b'index\tname\n1\t\xff\n')
    with pytest.raises(UserError, match='not text'): read_labels(tmp_path/'sub-1_dseg.nii.gz')
