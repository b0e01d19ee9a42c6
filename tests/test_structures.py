"RTSTRUCT and DICOM SEG of others on their series, and ours in the hands of others: rt-utils, highdicom, SimpleITK, scikit-image"
import warnings
from copy import deepcopy

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from medals.core import UserError
from medals.inference.dicom_seg import write_seg
from medals.inference.rtstruct import write_rtstruct
from medals.inference.seg_reader import read_seg
from medals.scans.contours import filled_lines, lines_around
from medals.scans.dicom_structures import read_structures
from medals.volume import Volume, phantom, read_volume
from test_dicom import write_series
from test_volume import affines

pydicom = pytest.importorskip('pydicom')


STUDY = dict(StudyDate='20200101', StudyTime='120000', StudyID='1', SeriesNumber=1)


def masks_like(vol, seed=0):
    "A ring with an island in its hole, two islands, noise, and nothing"
    x,y,z = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in vol.shape], indexing='ij'))
    r = np.hypot(x, y)
    noise = np.random.default_rng(seed).random(vol.shape)<.5
    return {'ring': (np.abs(r-.65)<.25)|(r<.15), 'two, left': (np.hypot(x-.5, y)<.3)|(np.hypot(x+.5, y-.2)<.3), 'noise': noise&(z>-.5),
            'nothing': np.zeros(vol.shape, bool)}


def back_on(seg, vol): return {row.name: Volume(seg.mask(row), seg.affine).onto(vol).data for row in seg.rows}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 12))
def test_the_inside_of_any_line_is_that_of_scikit_image(seed, n):
    points = np.random.default_rng(seed).uniform(-3, 25, (n,2)) # crossing itself, and reaching beyond the slice
    differ = np.argwhere(filled_lines([points], (22,20))!=polygon2mask((22,20), points))
    sides = np.roll(points, -1, axis=0)-points
    for pixel in differ: # only what lies on the line
        share = np.clip(((pixel-points)*sides).sum(1)/(sides**2).sum(1), 0, 1)
        assert np.linalg.norm(points+share[:,None]*sides-pixel, axis=1).min()<2e-3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(.05, .95), smooth=st.booleans())
def test_lines_around_any_mask_hold_it(seed, share, smooth):
    from scipy.ndimage import gaussian_filter
    x = np.random.default_rng(seed).random((31,23))
    if smooth: x = gaussian_filter(x, 1.5)
    mask = x<np.quantile(x, share)
    lines = lines_around(mask)
    assert np.array_equal(filled_lines(lines, mask.shape), mask)
    odd = np.zeros(mask.shape, int) # a reader that knows nothing of holes and counts crossings
    for line in lines: odd += polygon2mask(mask.shape, line)
    assert np.array_equal(odd%2==1, mask)


@settings(max_examples=10, deadline=None)
@given(aff=affines(), codes=st.sampled_from(('RAS','PIL','SAR')), seed=st.integers(0, 99))
def test_structures_come_back_in_any_orientation(tmp_path_factory, aff, codes, seed):
    tmp,gen = tmp_path_factory.mktemp('rt'),np.random.default_rng(seed)
    scan = Volume(gen.integers(0, 200, (14,11,5)), aff)
    write_series(tmp/'s', scan, 'MR', StudyInstanceUID='1.2.826.0.44', **STUDY)
    vol = scan.reorient(codes)
    masks = {k: scan.like(m).onto(vol).data for k,m in masks_like(scan, seed).items()}
    write_rtstruct(tmp/'rt.dcm', masks, vol, tmp/'s')
    got = back_on(read_structures(tmp/'rt.dcm'), vol)
    assert list(got)==list(masks)
    for name,m in masks.items(): assert np.array_equal(got[name], m), name
    ds = pydicom.dcmread(tmp/'rt.dcm')
    uids = {pydicom.dcmread(f).SOPInstanceUID: pydicom.dcmread(f).ImagePositionPatient for f in (tmp/'s').iterdir()}
    normal = np.cross(*np.reshape(pydicom.dcmread(next((tmp/'s').iterdir())).ImageOrientationPatient, (2,3)).astype(float))
    for roi in ds.ROIContourSequence:
        for line in roi.ContourSequence: # each on the slice that it names
            at = np.array(uids[line.ContourImageSequence[0].ReferencedSOPInstanceUID], float)
            assert np.abs((np.reshape(line.ContourData, (-1,3)).astype(float)-at)@normal).max()<1e-2
    assert (ds.StudyInstanceUID, str(ds.PatientID))==('1.2.826.0.44','7')


def test_rt_utils_and_ours_read_each_other(tmp_path):
    "Square pixels and slices: rt-utils takes the two numbers of others in the wrong order"
    rt_utils = pytest.importorskip('rt_utils')
    aff = np.diag([-.7,-.7,3,1.])
    aff[:3,3] = 30,40,-10
    vol = Volume(np.random.default_rng(0).integers(0, 200, (60,60,8)), aff)
    write_series(tmp_path/'s', vol, **STUDY)
    masks = masks_like(vol)
    some = {k: masks[k] for k in ('ring','two, left')} # its lines go through pixels, and lose noise
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs = rt_utils.RTStructBuilder.create_new(dicom_series_path=str(tmp_path/'s'))
        for name,m in some.items(): theirs.add_roi(mask=m.transpose(1,0,2), name=name)
        theirs.save(str(tmp_path/'theirs.dcm'))
        got = back_on(read_structures(tmp_path/'theirs.dcm'), vol)
        for name,m in some.items(): assert np.array_equal(got[name], m), name
        write_rtstruct(tmp_path/'ours.dcm', some, vol, tmp_path/'s')
        read = rt_utils.RTStructBuilder.create_from(dicom_series_path=str(tmp_path/'s'), rt_struct_path=str(tmp_path/'ours.dcm'))
        for name,m in some.items(): # it rounds corners to whole pixels, so the border is its own
            seen = read.get_roi_mask_by_name(name).transpose(1,0,2)
            assert 2*(seen&m).sum()/(seen.sum()+m.sum())>.93, name
            assert not seen[30:32,38:40].any() if name=='ring' else True


def plan(folder, change=None, data=None, kind='CLOSED_PLANAR'):
    "A box of columns 3 to 8 and rows 2 to 6 on the third slice, and a hole in it"
    vol = phantom((12,14,6), (16.,16.,18.))[0].reorient('LPS')
    write_series(folder/'s', vol, **STUDY)
    mask = np.zeros(vol.shape, bool)
    mask[3:9,2:7,2] = True
    mask[5:7,4,2] = False
    write_rtstruct(folder/'rt.dcm', {'box': mask}, vol, folder/'s')
    if change:
        ds = pydicom.dcmread(folder/'rt.dcm')
        change(ds)
        ds.save_as(folder/'rt.dcm')
    return vol,mask


def line(ds): return ds.ROIContourSequence[0].ContourSequence[0]
def point(ds): line(ds).ContourGeometricType = 'POINT'
def away(ds): line(ds).ContourData = [float(o)+5000*(i%3==2) for i,o in enumerate(line(ds).ContourData)]
def across(ds): line(ds).ContourData = [float(o)+100*(i%6==2) for i,o in enumerate(line(ds).ContourData)]
def wide(ds): line(ds).ContourData = [float(o)*1e6 if i%3<2 else o for i,o in enumerate(line(ds).ContourData)]
def two(ds): line(ds).ContourData = line(ds).ContourData[:-1]
def nan(ds): line(ds).ContourData = ['nan',*line(ds).ContourData[1:]]
def foreign(ds):
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = '1.2.3'
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = '1.2.4'
def beside(change):
    "A file in which a second structure is changed, and the first is not"
    def both(ds):
        for items in (ds.StructureSetROISequence, ds.ROIContourSequence): items.insert(0, deepcopy(items[0]))
        ds.StructureSetROISequence[0].ROIName = 'other'
        ds.StructureSetROISequence[0].ROINumber = ds.ROIContourSequence[0].ReferencedROINumber = 99
        change(ds) # the first in the file
    return both
def bare(ds): del ds.StructureSetROISequence
def none(ds): ds.StructureSetROISequence = []

BAD = [(point, 'points or open lines only'), (away, 'lies beyond the slices'), (across, 'goes across slices'),
       (wide, 'far beyond the slices'), (two, 'three numbers each'), (nan, 'three numbers each'), (foreign, 'was drawn on series 1.2.3'),
       (bare, 'damaged'), (none, 'holds no structure')]

@pytest.mark.parametrize('change, says', BAD, ids=[o[0].__name__ for o in BAD])
def test_structures_that_cannot_be_laid_are_refused_in_one_sentence(tmp_path, change, says):
    own = tmp_path/'study'/'rt' # a folder of its own: what others keep two levels above is theirs
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        plan(own, change)
    with pytest.raises(UserError, match=says) as e: read_structures(own/'rt.dcm')
    assert '\n' not in str(e.value) and len(str(e.value))<500


@pytest.mark.parametrize('change, says', BAD[:4], ids=[o[0].__name__ for o in BAD[:4]])
def test_one_structure_that_cannot_be_laid_does_not_keep_the_others_away(tmp_path, change, says):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        vol,mask = plan(tmp_path, beside(change))
    seg = read_structures(tmp_path/'rt.dcm')
    assert [row.name for row in seg.rows]==['box'] and np.array_equal(back_on(seg, vol)['box'], mask)
    assert len(seg.notes)==1 and says in seg.notes[0] and 'other' in seg.notes[0] and 'left out' in seg.notes[0]


def test_lines_of_the_kind_xor_take_from_each_other_what_they_share(tmp_path):
    def crossing(ds):
        for one,column in ((line(ds), 0), (deepcopy(line(ds)), 2)):
            one.ContourGeometricType = 'CLOSEDPLANAR_XOR'
            one.ContourData = [float(o)+16*column*(i%3==0) for i,o in enumerate(line(ds).ContourData)]
            if column: ds.ROIContourSequence[0].ContourSequence.append(one)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        vol,mask = plan(tmp_path, crossing)
    want = mask^np.roll(mask, 2, 0)
    assert np.array_equal(back_on(read_structures(tmp_path/'rt.dcm'), vol)['box'], want)


def test_a_series_is_looked_for_near_and_what_is_broken_elsewhere_does_not_matter(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        vol,mask = plan(tmp_path/'study'/'plan')
    study = tmp_path/'study'
    (study/'plan'/'s').rename(study/'ct') # a series in the folder beside, as exports lay it
    (study/'other').mkdir()
    (study/'other'/'0001.dcm').write_bytes(b'no DICOM')
    assert np.array_equal(back_on(read_structures(study/'plan'/'rt.dcm'), vol)['box'], mask)
    deep = study/'a'/'b'/'c'
    deep.parent.mkdir(parents=True)
    (study/'ct').rename(deep) # in no export does a series lie that far away
    again = (study/'plan'/'rt.dcm').rename(study/'plan'/'again.dcm') # what was read is remembered by its name
    with pytest.raises(UserError, match='no file of that lies in'): read_structures(again)


def test_what_is_left_out_is_said(tmp_path):
    def more(ds):
        roi = ds.ROIContourSequence[0]
        one,far = deepcopy(line(ds)),deepcopy(line(ds))
        one.ContourGeometricType = 'POINT'
        roi.ContourSequence.append(one)
        far.ContourData = [float(o)+18*2*(i%3==2) for i,o in enumerate(line(ds).ContourData)]
        roi.ContourSequence.append(far)
    vol,mask = plan(tmp_path, more)
    seg = read_structures(tmp_path/'rt.dcm')
    assert any('points or open lines' in o for o in seg.notes) and any('nothing is drawn on 1 slices' in o for o in seg.notes)
    got = back_on(seg, vol)['box']
    assert np.array_equal(got[:,:,2], mask[:,:,2]) and np.array_equal(got[:,:,4], mask[:,:,2])


def test_a_series_that_was_renamed_is_found_by_its_coordinates(tmp_path):
    def renamed(ds):
        study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = '1.2.3'
    vol,mask = plan(tmp_path, renamed)
    seg = read_structures(tmp_path/'rt.dcm')
    assert np.array_equal(back_on(seg, vol)['box'], mask) and 'names another series' in seg.notes[0]


@pytest.mark.parametrize('kind', ['BINARY','LABELMAP','FRACTIONAL'])
def test_every_kind_of_seg_is_what_highdicom_reads_and_lies_on_its_series(tmp_path, kind):
    hd = pytest.importorskip('highdicom')
    aff = np.diag([-.7,-1.1,3,1.])
    vol = Volume(np.random.default_rng(0).integers(0, 200, (20,16,8)), aff)
    write_series(tmp_path/'s', vol, **STUDY)
    masks = masks_like(vol)
    if kind=='LABELMAP': masks = {'a': masks['noise'], 'b': masks['ring']&~masks['noise'], 'nothing': masks['nothing']}
    if kind=='FRACTIONAL': masks = {k: m*np.float32(.8)+~m*np.float32(.2) for k,m in masks.items()}
    assert write_seg(tmp_path/'seg.dcm', masks, vol, tmp_path/'s', kind=kind)==[]
    seg = hd.seg.segread(str(tmp_path/'seg.dcm'))
    assert seg.segmentation_type.value==kind
    theirs = seg.get_volume(combine_segments=False, rescale_fractional=True, allow_missing_positions=True) # slices, rows, columns, segments
    to_ras = np.diag([-1,-1,1,1])@theirs.affine
    index = np.argwhere(np.ones(theirs.spatial_shape, bool))
    at = nib.affines.apply_affine(np.linalg.inv(vol.affine)@to_ras, index)
    near = np.rint(at).astype(int)
    assert np.abs(at-near).max()<1e-3
    ours,laid = read_seg(tmp_path/'seg.dcm', vol),back_on(read_structures(tmp_path/'seg.dcm'), vol)
    for i,(name,m) in enumerate(masks.items()):
        assert np.allclose(theirs.array[...,i][tuple(index.T)], m[tuple(near.T)], atol=1/255), name
        assert np.array_equal(ours[name], m>=.5) and np.array_equal(laid[name], m>=.5), name


def test_overlap_in_a_label_map_is_a_note(tmp_path):
    pytest.importorskip('highdicom')
    vol = phantom((12,14,6), (16.,16.,18.))[0].reorient('LPS')
    write_series(tmp_path/'s', vol, **STUDY)
    small = np.zeros(vol.shape, bool)
    small[4:6,4:6,2] = True
    notes = write_seg(tmp_path/'seg.dcm', {'all': vol.data>=0, 'small': small}, vol, tmp_path/'s', kind='LABELMAP')
    assert 'all 1,004 of 1,008' in notes[0]
    assert read_seg(tmp_path/'seg.dcm', vol)['small'].sum()==4
    for mask,kind,says in ((vol.data*2., 'FRACTIONAL', 'from 0 to 1'), (small, 'SURFACE', 'and not .SURFACE')):
        with pytest.raises(UserError, match=says): write_seg(tmp_path/'f.dcm', {'a': mask}, vol, tmp_path/'s', kind=kind)
    assert not (tmp_path/'f.dcm').exists()


def test_masks_of_a_file_of_many_frames_name_its_frames(tmp_path):
    from test_dicom_frames import enhanced
    vol = phantom((12,14,6), (16.,16.,18.))[0].reorient('LPS')
    file = enhanced(tmp_path/'s', vol, tmp_path/'e'/'one.dcm', 'CT', [3,1,0,5,4,2])
    mask = np.zeros(vol.shape, bool)
    mask[4:6,4:9,1:4] = True
    write_seg(tmp_path/'seg.dcm', {'box': mask}, vol, tmp_path/'e')
    write_rtstruct(tmp_path/'rt.dcm', {'box': mask}, vol, tmp_path/'e')
    whole = pydicom.dcmread(file)
    heights = [float(g.PlanePositionSequence[0].ImagePositionPatient[2]) for g in whole.PerFrameFunctionalGroupsSequence]
    seg = pydicom.dcmread(tmp_path/'seg.dcm')
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID==whole.SOPInstanceUID
        height = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        assert heights[source.ReferencedFrameNumber-1]==pytest.approx(height, abs=1e-3)
    for contour in pydicom.dcmread(tmp_path/'rt.dcm').ROIContourSequence[0].ContourSequence:
        image = contour.ContourImageSequence[0]
        assert heights[image.ReferencedFrameNumber-1]==pytest.approx(float(contour.ContourData[2]), abs=1e-3)
    for name in ('seg.dcm','rt.dcm'):
        (tmp_path/'e'/name).write_bytes((tmp_path/name).read_bytes())
        assert np.array_equal(back_on(read_structures(tmp_path/'e'/name), vol)['box'], mask)


def test_structures_on_leaning_slices(tmp_path):
    vol = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
    write_series(tmp_path/'s', vol, ImagePositionPatient=lambda k: [f'{o:.5f}' for o in (0., 6.*k, 18.*k)], **STUDY)
    scan = read_volume(tmp_path/'s')
    mask = np.zeros(scan.shape, bool)
    mask[3:9,5:9,2:7] = True
    mask[5:7,6:8,2:7] = False
    write_rtstruct(tmp_path/'rt.dcm', {'box': mask}, scan, tmp_path/'s')
    seg = read_structures(tmp_path/'rt.dcm')
    got = Volume(seg.mask(seg.rows[0]), seg.affine).onto(scan).data
    assert np.array_equal(scan.on_source(got), scan.on_source(mask)) and 2*(got&mask).sum()/(got.sum()+mask.sum())>.9


# Where masks are read: scores, training and marks

def patients(folder, n=2):
    "Exports of two patients: a series and its structures, which overlap"
    truth = {}
    for i in range(n):
        vol,lbl,_ = phantom((24,28,10), (8.,8.,18.), seed=i)
        vol = vol.reorient('LPS')
        lbl = phantom((24,28,10), (8.,8.,18.))[0].like(lbl).reorient('LPS').data
        write_series(folder/f'p{i}'/'MR', vol, 'MR', series=f'1.2.826.0.{i+1}', **STUDY)
        masks = {'brain': lbl>0, 'cerebral ventricles': lbl>2}
        (folder/f'p{i}'/'RT').mkdir()
        write_rtstruct(folder/f'p{i}'/'RT'/'RS.dcm', masks, vol, folder/f'p{i}'/'MR')
        truth[f'p{i}'] = vol,masks
    return truth


def test_structures_are_a_truth_for_scores(tmp_path):
    import csv

    from medals import cli
    from medals.volume import write_labels
    truth = patients(tmp_path/'data')
    for case,(vol,masks) in truth.items():
        worse = masks['cerebral ventricles'].copy()
        worse[:,:,5] = False
        write_labels(tmp_path/'pred'/case/'brain.nii.gz', masks['brain'].astype(np.uint8), vol)
        write_labels(tmp_path/'pred'/case/'cerebral_ventricles.nii.gz', worse.astype(np.uint8), vol)
        want = 2*(worse&masks['cerebral ventricles']).sum()/(worse.sum()+masks['cerebral ventricles'].sum())
    assert cli.main(['evaluate', str(tmp_path/'pred'/'p1'), str(tmp_path/'data'/'p1'/'RT'/'RS.dcm'), '-o', str(tmp_path/'one')])==0
    rows = {r['sentence']: float(r['dsc']) for r in csv.DictReader(open(tmp_path/'one'/'table.csv'))}
    assert rows['brain']==1 and rows['cerebral ventricles']==pytest.approx(want, abs=1e-3) # though they overlap


def test_an_export_of_structures_is_a_data_set(tmp_path):
    from medals.base.files import read_json, read_lines
    from medals.data.indexing import index
    from medals.data.recipe import Recipe, load
    truth = patients(tmp_path/'data')
    (tmp_path/'data'/'p1'/'RT'/'lost.dcm').write_bytes((tmp_path/'data'/'p1'/'RT'/'RS.dcm').read_bytes())
    lost = pydicom.dcmread(tmp_path/'data'/'p1'/'RT'/'lost.dcm')
    lost.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = '1.2.9'
    lost.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = '1.2.8'
    lost.save_as(tmp_path/'data'/'p1'/'RT'/'lost.dcm')
    got = index(tmp_path/'data', tmp_path/'i.jsonl', workers=1)
    assert not got['failed'].rows and 'series 1.2.9' in next(iter(got['left_out'].values()))
    rows = read_lines(tmp_path/'i.jsonl')
    classes = read_json(tmp_path/'i.classes.json')['data-mr']['classes']
    assert [row['case'] for row in rows]==['p0_RT_RS','p1_RT_RS'] and {row['modality'] for row in rows}=={'mri'}
    for row,(vol,masks) in zip(rows, truth.values()):
        found = load(row, Recipe((8.,8.,8.), (16,16,16)))
        for name,mask in masks.items():
            seen = np.isin(found.labels, classes[name]['values'])
            want = vol.like(mask).reorient(found.orientation).data
            assert np.array_equal(seen, want), name


def test_a_structure_is_a_mark(tmp_path):
    from medals.base.files import write_json
    from medals.spatial import read_marks
    (vol,masks), = patients(tmp_path/'data', 1).values()
    write_json(tmp_path/'data'/'p0'/'marks.json', {'cerebral ventricles': [dict(kind='mask', data='RT/RS.dcm#cerebral ventricles')]})
    scan = read_volume(tmp_path/'data'/'p0'/'MR')
    (mark,) = read_marks(tmp_path/'data'/'p0'/'marks.json', scan)['cerebral ventricles']
    assert np.array_equal(mark.data, vol.like(masks['cerebral ventricles']).onto(scan).data)


def test_a_file_of_structures_is_marks_for_an_archive(tmp_path):
    "By the meaning of names; in the Studio and for a series in a zip file"
    import shutil

    from medals.spatial import read_marks
    (vol,masks), = patients(tmp_path/'data', 1).values()
    shutil.make_archive(str(tmp_path/'scan'), 'zip', tmp_path/'data'/'p0'/'MR')
    rt = tmp_path/'data'/'p0'/'RT'/'RS.dcm'
    scan = read_volume(tmp_path/'scan.zip')
    marks = read_marks(rt, scan, sentences=['brain in MRI','liver'])
    want = vol.like(masks['brain']).onto(scan).data
    assert list(marks)==['brain in MRI'] and np.array_equal(marks['brain in MRI'][0].data, want)
    assert list(read_marks(rt, scan))==list(masks)
    with pytest.raises(UserError, match="no mask of 'liver'; there is brain, cere"): read_marks(rt, scan, sentences=['liver'])
    pytest.importorskip('anywidget')
    from medals.widgets import Studio
    studio = Studio(None, tmp_path/'scan.zip', ['brain in MRI'], marks=rt, out=str(tmp_path/'out'))
    assert np.array_equal(studio.drawn['brain in MRI'], want) and np.array_equal(studio.volume.data, scan.data)


def test_scores_of_voxels_as_a_dicom_seg(tmp_path, capsys):
    "What highdicom reads back as fractions is the mask at one half, for those who read bits alone, and more than the mask"
    hd = pytest.importorskip('highdicom')
    from medals import cli
    patients(tmp_path/'data', 1)
    series = tmp_path/'data'/'p0'/'MR'
    words = ['segment', str(series), 'brain in MRI', 'heart in MRI', '--weights', 'nano', '--presence', '0'] # nano knows neither
    for kind in ('fractional','seg'): assert cli.main([*words, '-o', str(tmp_path/kind), '--format', f'dicom{kind}'])==0
    scan = read_volume(series)
    masks,half = (read_seg(tmp_path/kind/'masks.dcm', scan) for kind in ('seg','fractional'))
    assert list(masks)==list(half) and all(np.array_equal(masks[name], half[name]) for name in masks) and masks['brain in MRI'].any()
    seg = hd.seg.segread(tmp_path/'fractional'/'masks.dcm')
    assert (seg.SegmentationType, seg.SegmentationFractionalType, seg.MaximumFractionalValue)==('FRACTIONAL','PROBABILITY',255)
    scores = seg.get_volume(combine_segments=False, rescale_fractional=True)
    first = scores.array[...,0]
    placed = Volume(first, np.diag([-1,-1,1,1])@scores.affine, is_part=True).onto(scan).data
    brain = np.asarray(masks['brain in MRI'])
    assert np.array_equal(placed>=.5, brain) and len(np.unique(placed))>50 and .02<placed[~brain].max()<.5
    assert cli.main([*words, '-o', str(tmp_path/'no'), '--format', 'dicomfractional', '--compat'])==2
    assert 'leave that out' in capsys.readouterr().err and not (tmp_path/'no').exists()
