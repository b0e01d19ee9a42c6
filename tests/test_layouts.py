"Truths and predictions as people keep them: label maps and masks of any format, in files and in folders, scored against each other"
import shutil

import nibabel as nib
import numpy as np
import pytest

from medals.data.indexing import index
from medals.evaluation.cases import pairs
from medals.evaluation.scoring import score_case
from medals.inference.dicom_seg import write_seg
from medals.inference.rtstruct import write_rtstruct
from medals.scans.dicom_structures import ALONE, read_structures
from medals.scans.itk_writer import write_itk_image
from medals.scans.seg_nrrd import write_seg_nrrd
from medals.volume import Volume, phantom, write_labels, write_volume
from test_dicom import write_series

hd = pytest.importorskip('highdicom')
pytest.importorskip('SimpleITK')

LPS_TO_RAS = np.diag([-1,-1,1,1])
STUDY = dict(StudyDate='20200101', StudyTime='120000', StudyID='1', SeriesNumber=1)
CT = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
NAMES = {1: 'liver', 2: 'left kidney', 3: 'spleen'}
LIVER,KIDNEY,SPLEEN = np.zeros((3, *CT.shape), bool)
LIVER[2:7,2:9,1:4] = KIDNEY[8:11,3:7,2:8] = SPLEEN[2:4,10:13,6:9] = True


def write_map(file, masks, names):
    "Masks as ids in a file of any ending"
    ids = sum(m*i for i,m in enumerate(masks.values(), 1)).astype(np.uint8)
    end = ''.join(file.suffixes)
    if end=='.nii.gz': write_labels(file, ids, CT, names)
    elif end=='.mgz': nib.save(nib.MGHImage(ids, CT.affine), file)
    elif end=='.seg.nrrd': write_seg_nrrd(file, masks, CT.shape, CT.affine, ['#ff0000']*len(masks))
    else: write_itk_image(file, ids, CT.affine, names, dict.fromkeys(names, '#ff0000'))


def on_series(kind, masks, case):
    "DICOM with its series: one file for all, or one each; or without the series"
    write_series(case/'CT', CT, series=f'1.2.826.0.{case.name[1:]}', **STUDY)
    if kind=='rtstruct': write_rtstruct(case/'RS.dcm', masks, CT, case/'CT')
    elif kind=='labelmap': write_seg(case/'SEG'/'seg.dcm', masks, CT, case/'CT', kind='LABELMAP')
    elif kind=='seg': write_seg(case/'seg.dcm', masks, CT, case/'CT')
    else:
        for name,m in masks.items(): write_seg(case/f'{name}.dcm', {name: m}, CT, case/'CT')
    if kind=='segs alone':
        shutil.rmtree(case/'CT')


def write_case(kind, root, case, masks):
    "The masks of a case in one of `KINDS`"
    root.mkdir(exist_ok=True)
    where,end = kind.split(' ', 1)
    if where=='dicom': return on_series(end, masks, root/case)
    if where=='map': return write_map(root/f'{case}{end}', masks, NAMES)
    folder = root/case
    if where=='totalsegmentator': folder = folder/'segmentations'
    folder.mkdir(parents=True)
    if where!='masks': write_volume(root/case/'ct.nii.gz', CT)
    if where=='kits': return write_map(folder/f'segmentation{end}', masks, NAMES)
    for name,m in masks.items(): write_map(folder/f"{name.replace(' ', '_')}{end}", {name: m}, {})


KINDS = ('map .nrrd','map .mha','map .seg.nrrd','masks .nii.gz','masks .nrrd','masks .mgz','masks .seg.nrrd','totalsegmentator .nii.gz',
         'kits .nii.gz','kits .mha','dicom labelmap','dicom rtstruct','dicom segs','dicom segs alone')


@pytest.mark.parametrize('kind', KINDS)
def test_one_table_whatever_the_truth_and_the_predictions_are_kept_in(tmp_path, kind):
    truth = dict(zip(NAMES.values(), (LIVER,KIDNEY,SPLEEN)))
    pred = {name: np.roll(m, n, 1) for n,(name,m) in enumerate(truth.items())}
    sides = dict(truth=truth, pred=pred)
    for side,masks in sides.items():
        for case in ('s1','s2'):
            write_case(kind, tmp_path/side, case, masks)
            write_case('masks .nii.gz', tmp_path/f'{side} folders', case, masks)
    want = {n: 2*(truth[n]&pred[n]).sum()/(truth[n].sum()+pred[n].sum()) for n in truth}
    how = dict(mode='correct', instance=False, tolerance=2., modality='ct', names={}, metrics=('dsc',))
    for a,b in (('truth','pred'), ('truth','pred folders'), ('truth folders','pred')):
        found,*alone = pairs(tmp_path/b, tmp_path/a)
        assert list(found)==['s1','s2'] and alone==[[],[]]
        for case,(there,here,image) in found.items():
            res = score_case(dict(how, case=case, pred=there, truth=here, image=image))
            assert {r['sentence'].replace('_', ' '): r['dsc'] for r in res['rows']}==pytest.approx(want), (a, b, res['notes'])
            assert (ALONE in res['notes'])==(kind=='dicom segs alone')


def test_a_seg_without_its_series_lies_where_highdicom_has_it(tmp_path):
    tmp_path = tmp_path/'study'/'p' # what others keep two levels above is theirs
    tmp_path.mkdir(parents=True)
    on_series('seg', {'liver': LIVER, 'left kidney': KIDNEY}, tmp_path/'s1')
    there = read_structures(tmp_path/'s1'/'seg.dcm')
    (tmp_path/'s1'/'seg.dcm').rename(tmp_path/'alone.dcm')
    shutil.rmtree(tmp_path/'s1')
    seg = read_structures(tmp_path/'alone.dcm')
    theirs = hd.seg.segread(tmp_path/'alone.dcm').get_volume(combine_segments=True, skip_overlap_checks=True)
    assert ALONE in seg.notes and not there.notes and seg.layers[0].size==theirs.array.size
    ours = Volume(seg.layers[0]>0, seg.affine, is_part=True)
    placed = Volume(theirs.array>0, LPS_TO_RAS@theirs.affine, is_part=True)
    assert np.array_equal(ours.onto(CT).data, LIVER|KIDNEY) and np.array_equal(placed.onto(CT).data, LIVER|KIDNEY)


def test_a_second_scan_in_a_folder_of_masks_is_no_mask(tmp_path):
    gen = np.random.default_rng(3)
    folder = tmp_path/'set'/'s1'
    folder.mkdir(parents=True)
    aff = np.diag([2.,2.,2.,1.])
    size = (12,10,8)
    files = dict(ct=gen.integers(-900, 900, size), liver=gen.integers(0, 2, size))
    files['002'] = gen.integers(0, 900, size)
    for name,data in files.items():
        nib.save(nib.Nifti1Image(data.astype(np.int16), aff), folder/f'{name}.nii.gz')
    res = index(tmp_path/'set', tmp_path/'list.jsonl', workers=1)
    assert len(res['failed'].rows)==1 and 'as a scan does' in str(res['failed'].rows[0])
    (folder/'002.nii.gz').unlink()
    assert not index(tmp_path/'set', tmp_path/'list.jsonl', workers=1)['failed'].rows
