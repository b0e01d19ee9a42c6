"Segmentations of 3D Slicer against pynrrd, slicerio and SimpleITK, and what reads them as truth, marks and training data"
import csv
import itertools
import json

import numpy as np
import pytest

from medals.commands.flags import EvaluateCfg
from medals.core import UserError
from medals.scans.grids import corner_gap
from medals.scans.seg_nrrd import read_seg_nrrd, terminology, write_seg_nrrd
from medals.volume import Volume, phantom, read_labels, segment_paths, write_volume

itk = pytest.importorskip('SimpleITK')
nrrd = pytest.importorskip('nrrd')
slicerio = pytest.importorskip('slicerio')

CODES = [''.join(p) for axes in itertools.permutations(('LR','AP','SI')) for p in itertools.product(*axes)]
COLORS = ['#102030','#ff0000','#00ff80']


def overlapping(shape):
    "Three masks, of which two share voxels"
    rng = np.random.default_rng(0)
    a,b,c = (np.zeros(shape, bool) for _ in range(3))
    a[2:6,1:5,1:4] = True
    b[4:7,3:6,2:5] = rng.random((3,3,3))>.4
    c[0:2,0:2,0:2] = True
    return {'left kidney': a, 'tumour: a|b~c^d': b, 'Niere, rechts': c}


def theirs(path, masks, affine, start=None, old=False):
    "The masks as pynrrd writes them, one layer each, cut to the voxels from `start` on"
    start = start or (0,0,0)
    layers = np.stack([m[tuple(slice(o, None) for o in start)].astype(np.uint8) for m in masks.values()])
    placed = affine[:3].copy()
    placed[:,3] = (affine@[*start, 1])[:3]
    placed *= [[-1],[-1],[1]]
    header = {'space': 'left-posterior-superior', 'kinds': ['list','domain','domain','domain'], 'space origin': placed[:,3],
              'space directions': np.vstack([[np.nan]*3, placed[:,:3].T]),
              'Segmentation_ReferenceImageExtentOffset': ' '.join(map(str, start))}
    for i,name in enumerate(masks):
        header |= {f'Segment{i}_ID': f'Segment_{i+1}', f'Segment{i}_Name': name, f'Segment{i}_Color': '0.5 0.25 1'}
        if not old: header |= {f'Segment{i}_Layer': str(i), f'Segment{i}_LabelValue': '1'}
    nrrd.write(str(path), layers, header)
    return path


@pytest.mark.parametrize('codes', CODES)
def test_overlapping_segments_in_every_orientation(tmp_path, codes):
    vol = phantom((9,8,7), (4.,3.,6.))[0].reorient(codes)
    masks = {k: vol.like(m) for k,m in overlapping(vol.shape).items()}
    file = theirs(tmp_path/'a.seg.nrrd', {k: m.data for k,m in masks.items()}, vol.affine, start=(0,0,0), old=codes[0]=='L')
    tags = {'left kidney': terminology(('123037004','SCT','Anatomical Structure'), ('64033007','SCT','Kidney'), ('7771000','SCT','Left'))}
    write_seg_nrrd(tmp_path/'b.seg.nrrd', {k: m.data for k,m in masks.items()}, vol.shape, vol.affine, COLORS, tags)
    for path in (file, tmp_path/'b.seg.nrrd'):
        paths = segment_paths(path)
        assert list(paths)==list(masks)
        for name,one in paths.items():
            got,said = read_labels(one)
            assert np.array_equal(got.onto(vol).data>0, masks[name].data) and said=={1: name}
            assert corner_gap(vol.shape, got.affine, vol.affine)[0]<1e-6
        with pytest.raises(UserError, match='a label map holds each voxel once'): read_labels(path)
    other = slicerio.read_segmentation(str(tmp_path/'b.seg.nrrd'))
    assert other['voxels'].shape[0]==2
    for segment,(name,m),color in zip(other['segments'], masks.items(), COLORS):
        seen = other['voxels'][segment['layer']]==segment['labelValue']
        assert np.array_equal(seen, m.data) and segment['name']==name
        assert [round(255*o) for o in segment['color']]==[int(color[k:k+2], 16) for k in (1,3,5)]
        lo,hi = np.reshape(segment['extent'], (3,2)).T
        assert np.array_equal(lo, np.argwhere(seen).min(0)) and np.array_equal(hi, np.argwhere(seen).max(0))
    kidney = other['segments'][0]['terminology']
    assert (kidney['type'], kidney['typeModifier'])==(['SCT','64033007','Kidney'], ['SCT','7771000','Left'])
    image = itk.ReadImage(str(tmp_path/'b.seg.nrrd'))
    assert image.GetMetaData('Segment1_Name')==list(masks)[1]
    values = itk.GetArrayFromImage(image).T # `(layers,x,y,z)`
    assert np.array_equal(values[0]==1, masks['left kidney'].data)
    last = tuple(n-1 for n in vol.shape)
    lps = np.array(image.TransformIndexToPhysicalPoint(last))
    assert np.allclose(lps*[-1,-1,1], (vol.affine@[*last, 1])[:3])


def test_a_cut_segmentation_lies_on_the_grid_of_its_scan(tmp_path):
    vol = phantom((12,10,9), (4.,3.,6.))[0]
    masks = overlapping(vol.shape)
    del masks['Niere, rechts']
    file = theirs(tmp_path/'a.seg.nrrd', masks, vol.affine, start=(2,1,1))
    for name,path in segment_paths(file).items():
        for codes in ('RAS', 'LPI', 'SAR'):
            scan = vol.reorient(codes)
            assert np.array_equal(read_labels(path)[0].onto(scan).data>0, vol.like(masks[name]).reorient(codes).data)
    small = vol.like(vol.data)
    smaller = Volume(small.data[:5], vol.affine)
    got = read_labels(segment_paths(file)['left kidney'])[0].onto(smaller)
    assert np.array_equal(got.data>0, masks['left kidney'][:5]) and 'lie outside of the scan' in got.notes[-1]
    moved = vol.affine.copy()
    moved[0,3] += 1.5
    with pytest.raises(UserError, match='voxels and not'): read_labels(segment_paths(file)['left kidney'])[0].onto(Volume(vol.data, moved))


def test_segments_that_do_not_overlap_are_a_label_map(tmp_path):
    vol,lbl,names = phantom((9,8,7), (4.,3.,6.))
    write_seg_nrrd(tmp_path/'a.seg.nrrd', {names[i]: lbl==i for i in names}, vol.shape, vol.affine, ['#ff0000']*4)
    got,said = read_labels(tmp_path/'a.seg.nrrd')
    assert np.array_equal(got.onto(vol).data, lbl) and said==names
    assert np.array_equal(itk.GetArrayFromImage(itk.ReadImage(str(tmp_path/'a.seg.nrrd'))).T, lbl)  # also to who knows nothing of segments


def test_names_in_any_script(tmp_path):
    name = '\u809d\u810f \u2014 links\\rechts'
    write_seg_nrrd(tmp_path/'a.seg.nrrd', {name: np.ones((3,4,5), bool)}, (3,4,5), np.eye(4), ['#ff0000'])
    assert list(segment_paths(tmp_path/'a.seg.nrrd'))==[name]
    assert itk.ReadImage(str(tmp_path/'a.seg.nrrd')).GetMetaData('Segment0_Name')==name


def test_twice_one_name_and_odd_fields(tmp_path):
    masks = overlapping((9,8,7))
    file = theirs(tmp_path/'a.seg.nrrd', masks, np.eye(4))
    raw = file.read_bytes()
    twice = raw.replace(b'Segment1_Name:=tumour: a|b~c^d', b'Segment1_Name:=left kidney')
    twice = twice.replace(b'Segment2_Color:=0.5', b'Segment2_Color:=x')
    (tmp_path/'b.seg.nrrd').write_bytes(twice)
    rows = read_seg_nrrd(tmp_path/'b.seg.nrrd').rows
    assert [r.name for r in rows][:2]==['left kidney', 'left kidney 2'] and rows[2].color==''
    for old,new in ((b'Layer:=1', b'Layer:=7'), (b'Layer:=1', b'Layer:=-1'), (b'LabelValue:=1', b'LabelValue:=a')):
        (tmp_path/'c.seg.nrrd').write_bytes(raw.replace(b'Segment1_'+old, b'Segment1_'+new))
        with pytest.raises(UserError, match='layer|whole number'): read_labels(tmp_path/'c.seg.nrrd')
    with pytest.raises(UserError, match="no segment 'liver'; there is left kidney"): read_labels(f'{file}#liver')
    with pytest.raises(UserError, match='no file'): read_labels(tmp_path/'none.seg.nrrd#liver')


def test_truth_and_prediction_with_overlapping_segments(tmp_path):
    from medals.evaluation.evaluate import evaluate
    vol = phantom((12,10,9), (4.,3.,6.))[0]
    masks = overlapping(vol.shape)
    for side,start in (('truth', (2,1,1)), ('pred', (0,0,0))):
        (tmp_path/side).mkdir()
        some = {k: m for k,m in masks.items() if side=='pred' or 'Niere' not in k}
        theirs(tmp_path/side/'case.seg.nrrd', some, vol.affine, start)
    (tmp_path/'scans').mkdir()
    write_volume(tmp_path/'scans'/'case.nii.gz', vol)
    for images in ('', str(tmp_path/'scans')):
        cfg = EvaluateCfg(out=str(tmp_path/f'out{len(images)}'), images=images, workers=1)
        evaluate(tmp_path/'pred', tmp_path/'truth', cfg)
        rows = list(csv.DictReader((tmp_path/f'out{len(images)}'/'table.csv').open()))
        assert {row['sentence']: float(row['dsc']) for row in rows if row['sentence'] in masks}=={k: 1 for k in list(masks)[:2]}


def test_marks_name_a_segment(tmp_path):
    from medals.spatial import read_marks
    vol = phantom((12,10,9), (4.,3.,6.))[0]
    masks = overlapping(vol.shape)
    theirs(tmp_path/'a.seg.nrrd', masks, vol.affine)
    (tmp_path/'marks.json').write_text(json.dumps({'kidney': [dict(kind='mask', data='a.seg.nrrd#left kidney')]}))
    marks = read_marks(tmp_path/'marks.json', vol)
    assert np.array_equal(marks['kidney'][0].data>0, masks['left kidney'])


def test_training_data_with_overlapping_segments(tmp_path):
    from medals.data.indexing import index
    from medals.data.recipe import Recipe, load
    for k in range(2):
        vol = phantom((12,10,9), (4.,3.,6.), seed=k)[0]
        for side in ('images','labels'): (tmp_path/side).mkdir(exist_ok=True)
        write_volume(tmp_path/'images'/f'c{k}.nii.gz', vol)
        theirs(tmp_path/'labels'/f'c{k}.seg.nrrd', dict(list(overlapping(vol.shape).items())[:2]), vol.affine, start=(2*k,k,k))
    prompts = 'name = "x"\nmodality = "mri"\n[classes]\n"left kidney" = ["Left Kidney"]\n"tumour" = ["tumour: a|b~c^d"]\n'
    (tmp_path/'p.toml').write_text(prompts)
    index(tmp_path, tmp_path/'cases.jsonl', str(tmp_path/'p.toml'), workers=1)
    rows = [json.loads(o) for o in (tmp_path/'cases.jsonl').read_text().splitlines()]
    assert len(rows)==2 and all('masks' in row for row in rows)
    classes = json.loads((tmp_path/'cases.classes.json').read_text())['x']['classes']
    for row in rows:
        case = load(row, Recipe(spacing=(4.,3.,6.), patch=(16,16,16)))
        for name,mask in list(overlapping((12,10,9)).items())[:2]:
            got = np.isin(case.labels, classes[name.split(':')[0]]['values'])
            assert got.sum()==mask.sum()
