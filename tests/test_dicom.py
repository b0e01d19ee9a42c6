"DICOM series as scanners, archives and accidents leave them, against SimpleITK's reader"
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import shared
from medals.inference import dicom_seg as dicomseg
from medals.inference.seg_reader import read_seg
from medals.core import UserError
from medals.inference.modality import Guess, guess_modality
from medals.volume import Volume, dicom_series, phantom, read_volume, write_volume
from test_volume import affines

pydicom = pytest.importorskip('pydicom')
from pydicom import data, uid as U

CLASSES = dict(CT=U.CTImageStorage, MR=U.MRImageStorage, PT=U.PositronEmissionTomographyImageStorage, US=U.UltrasoundImageStorage)


def header(vol, k, modality, series, dtype, scale):
    "Slice `k` of a volume as a data set without pixels"
    lps,mm,ds = np.diag([-1,-1,1,1])@vol.affine,vol.spacing,pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    bits = 8*np.dtype(dtype).itemsize
    facts = dict(
        SOPClassUID=CLASSES[modality], SOPInstanceUID=f'{series}.{k+1}', StudyInstanceUID='1.2.826.0.2', SeriesInstanceUID=series,
        FrameOfReferenceUID='1.2.826.0.3', Modality=modality, SeriesDescription=f'{modality} of a test', InstanceNumber=k+1,
        PatientName='Doe', PatientID='7', SliceThickness=f'{mm[2]:.9f}', PixelSpacing=[f'{mm[1]:.9f}', f'{mm[0]:.9f}'],
        ImagePositionPatient=[f'{o:.7f}'[:16] for o in (lps@[0,0,k,1])[:3]],
        ImageOrientationPatient=[f'{o:.9f}' for o in (lps[:3,:2]/mm[:2]).T.ravel()],
        Columns=vol.shape[0], Rows=vol.shape[1], SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2',
        BitsAllocated=bits, BitsStored=bits, HighBit=bits-1, PixelRepresentation=int(np.dtype(dtype).kind=='i'),
        RescaleSlope=scale[0], RescaleIntercept=scale[1])
    facts.update({o: '' for o in ('PatientBirthDate', 'PatientSex', 'StudyDate', 'StudyTime', 'AccessionNumber', 'StudyID')})
    for t,v in facts.items(): setattr(ds, t, v)
    ds.file_meta.MediaStorageSOPClassUID,ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID,ds.SOPInstanceUID
    return ds


EXPLICIT = U.ExplicitVRLittleEndian

def write_series(folder, vol, modality='CT', series='1.2.826.0.1', name='{k:04}.dcm', syntax=EXPLICIT, kind=('<i2',(1,0)), **tags):
    "A volume of stored values as one file per slice; a tag, and the scale, may be a function of the slice number"
    folder.mkdir(parents=True, exist_ok=True)
    dtype,scale = np.dtype(kind[0]).newbyteorder('<' if syntax.is_little_endian else '>'),kind[1]
    files = [folder/name.format(k=k) for k in range(vol.shape[2])]
    for k,file in enumerate(files):
        ds = header(vol, k, modality, series, dtype, scale(k) if callable(scale) else scale)
        ds.file_meta.TransferSyntaxUID = EXPLICIT if syntax.is_compressed else syntax
        ds.PixelData = vol.data[:,:,k].T.astype(dtype).tobytes()
        if len(ds.PixelData)%2: ds.PixelData += b'\0'
        for t,v in tags.items():
            v = v(k) if callable(v) else v
            if v is None: del ds[t]
            else: setattr(ds, t, v)
        if syntax.is_compressed: ds.compress(syntax, generate_instance_uid=False)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            ds.save_as(file, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True)
    return files


@pytest.fixture
def head(): return phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')


def by_itk(folder, uid=''):
    "Values, and the world coordinates (RAS) of some voxels, by SimpleITK"
    sitk = pytest.importorskip('SimpleITK')
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), uid))
    img = reader.Execute()
    x = sitk.GetArrayFromImage(img).transpose(2,1,0)
    idx = np.argwhere(np.ones((3,3,3)))*(np.array(x.shape)-1)//2
    return x,idx,np.array([img.TransformIndexToPhysicalPoint([int(o) for o in i]) for i in idx])*[-1,-1,1]


def agrees(vol, folder):
    "Do our voxels lie where SimpleITK puts them, with the values that it reads?"
    x,idx,mm = by_itk(folder)
    ours = nib.affines.apply_affine(np.linalg.inv(vol.affine), mm)
    near = np.rint(ours).astype(int)
    assert np.abs(nib.affines.apply_affine(vol.affine, near)-mm).max()<1e-3
    assert np.allclose(vol.data[tuple(near.T)], x[tuple(idx.T)], atol=1e-3, rtol=1e-6)
    assert vol.shape==x.shape and np.isclose(vol.data.astype(float).sum(), x.astype(float).sum(), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(aff=affines(), dtype=st.sampled_from(('i2','u2','u1')), scale=st.sampled_from(((1,0), (1,-1024), (2.5,-3))), seed=st.integers(0, 99))
def test_oblique_series_lie_where_simpleitk_puts_them(tmp_path_factory, aff, dtype, scale, seed):
    tmp,gen = tmp_path_factory.mktemp('s'),np.random.default_rng(seed)
    vol = Volume(gen.integers(0, 250, (7,6,5)), aff)
    order = gen.permutation(5)
    write_series(tmp, vol, kind=(dtype, scale), name='{k}.dcm', InstanceNumber=lambda k: int(order[k])+1)
    for k,to in enumerate(order): (tmp/f'{k}.dcm').rename(tmp/f'x{to}.dcm') # neither names nor numbers tell the order
    got = read_volume(tmp)
    agrees(got, tmp)
    back = got.onto(vol) # the very voxels that were written
    assert np.allclose(back.data, vol.data*scale[0]+scale[1], atol=1e-4)
    assert got.data.dtype==(np.float32 if scale[0]==2.5 else np.int16) and got.modality=='ct'
    assert np.linalg.det(got.affine)>0 and np.linalg.det(np.diag([-1,-1,1,1])@got.affine)>0


@pytest.mark.parametrize('syntax', [U.ImplicitVRLittleEndian, U.ExplicitVRBigEndian, U.RLELossless], ids=lambda o: o.name)
def test_transfer_syntaxes_that_need_no_decoder(tmp_path, head, syntax):
    write_series(tmp_path/'a', head, syntax=syntax)
    assert np.array_equal(read_volume(tmp_path/'a').onto(head).data, head.data)
    agrees(read_volume(tmp_path/'a'), tmp_path/'a')


def test_twelve_of_sixteen_bits_and_a_scale_per_slice(tmp_path, head):
    "Unused high bits are not values, and PET scales each slice by its own maximum"
    write_series(tmp_path/'a', head, BitsStored=12, HighBit=11)
    agrees(read_volume(tmp_path/'a'), tmp_path/'a')
    write_series(tmp_path/'b', head, 'PT', kind=('<i2', lambda k: (1+.25*k, 0)))
    got = read_volume(tmp_path/'b')
    assert got.modality=='pet' and got.data.dtype==np.float32
    assert np.allclose(got.onto(head).data, head.data*(1+.25*np.arange(head.shape[2])))


@pytest.mark.parametrize('modality, name', [('CT','ct'), ('MR','mri'), ('PT','pet'), ('US','us')])
def test_the_modality_is_in_the_tags_unless_it_is_given(tmp_path, head, modality, name):
    write_series(tmp_path, head, modality)
    assert read_volume(tmp_path).modality==name and read_volume(tmp_path, 'microscopy').modality=='microscopy'


def test_archives_without_endings_in_nested_folders_with_clutter(tmp_path, head):
    files = write_series(tmp_path/'DICOM'/'PA000'/'SE1', head, name='IM{k:06}')
    (tmp_path/'DICOM'/'README.txt').write_text('exported by a viewer')
    (tmp_path/'DICOM'/'preview.jpg').write_bytes(b'\xff\xd8\xff\xe0')
    (tmp_path/'empty').mkdir()
    os.symlink(tmp_path, tmp_path/'DICOM'/'loop') # a folder that contains itself
    vol = read_volume(tmp_path)
    assert np.array_equal(vol.onto(head).data, head.data) and not vol.notes
    for one in (files[3], tmp_path/'DICOM'/'PA000'/'SE1'): assert read_volume(one).shape==vol.shape


def test_a_nifti_survives_the_way_through_dicom(tmp_path, head):
    write_volume(tmp_path/'a.nii.gz', head)
    a = read_volume(tmp_path/'a.nii.gz')
    write_series(tmp_path/'d', a, 'MR')
    write_volume(tmp_path/'b.nii.gz', read_volume(tmp_path/'d').onto(a))
    b = read_volume(tmp_path/'b.nii.gz')
    assert np.array_equal(a.data, b.data) and np.allclose(a.affine, b.affine, atol=1e-3)


@pytest.mark.parametrize('name', ['ct_abdomen', 'mr_brain', 'ct_chest'])
def test_real_scans_written_as_series(tmp_path, name):
    file = shared/'data'/'nifti'/f'{name}_img.nii.gz'
    if not file.exists(): pytest.skip('the real scans are not here')
    vol = read_volume(file)
    whole = vol.like(vol.data.round().astype(np.int16))
    write_series(tmp_path, whole, 'CT' if 'ct' in name else 'MR', kind=('<i2', (1,-1024)))
    got = read_volume(tmp_path)
    agrees(got, tmp_path)
    assert np.array_equal(got.onto(vol).data, whole.data.astype(int)-1024)


# Several series, and what is no image

def test_mixed_series_are_listed_and_can_be_named(tmp_path, head):
    write_series(tmp_path/'a', head)
    write_series(tmp_path/'a', head.reorient('PSR'), series='1.2.826.0.9', name='s{k}.dcm', SeriesDescription='scout, sagittal')
    with pytest.raises(UserError, match='2 series') as e: read_volume(tmp_path/'a')
    assert all(o in str(e.value) for o in ('1.2.826.0.1', '1.2.826.0.9', 'CT of a test', 'scout, sagittal', '10 files'))
    assert np.array_equal(read_volume(f'{tmp_path}/a#1.2.826.0.9').onto(head).data, head.data)
    assert read_volume(tmp_path/'a', series='1.2.826.0.1').shape==head.shape
    with pytest.raises(UserError, match='no series 1.2.3; name one'): read_volume(f'{tmp_path}/a#1.2.3')
    with pytest.raises(UserError, match='no file or folder'): read_volume(f'{tmp_path}/none#1.2.3')


def other_object(folder, kind, **tags):
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = U.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = '1.2.826.0.77'
    ds.SeriesInstanceUID,ds.Modality = '1.2.826.0.7','OT'
    for t,v in tags.items(): setattr(ds, t, v)
    folder.mkdir(exist_ok=True)
    ds.save_as(folder/'other.dcm', enforce_file_format=True)


def test_objects_without_an_image_are_left_out_with_a_note_or_refused(tmp_path, head):
    write_series(tmp_path/'a', head)
    other_object(tmp_path/'a', U.RTStructureSetStorage)
    vol = read_volume(tmp_path/'a')
    assert vol.shape==head.shape and 'RT Structure Set' in vol.notes[0]
    other_object(tmp_path/'a', U.RTStructureSetStorage, SeriesInstanceUID='1.2.826.0.1')
    with pytest.raises(UserError, match='holds no image, it is RT Structure Set'): read_volume(tmp_path/'a')
    other_object(tmp_path/'b', U.BasicTextSRStorage)
    with pytest.raises(UserError, match='holds no image, it is Basic Text SR'): read_volume(tmp_path/'b')


def shift(vol, at): return lambda k: [f'{o:.6f}' for o in at((np.diag([-1,-1,1,1])@vol.affine@[0,0,k,1])[:3], k)]

def uneven(t, v): write_series(t, v, ImagePositionPatient=shift(v, lambda p,k: p+[0, 0, 4*(k%3)]))
def missing(t, v): [f.unlink() for f in write_series(t, v)[4:6]]
def doubled(t, v): (t/'again.dcm').write_bytes(write_series(t, v)[4].read_bytes())
def times(t, v): [write_series(t, v, name=f'{i}-{{k}}.dcm', InstanceNumber=i) for i in range(3)]
def rows(t, v): write_series(t, v, Rows=lambda k: 14-2*(k==3), PixelData=lambda k: bytes(2*12*(14-2*(k==3))))
def turned(t, v): write_series(t, v, ImageOrientationPatient=lambda k: [1,0,0,0,1,0] if k else [0,1,0,0,0,-1])
def pixels(t, v): write_series(t, v, PixelSpacing=lambda k: [1,1] if k else [1,2])
def frames(t, v): write_series(t, v, NumberOfFrames=2, PixelData=bytes(2*2*12*14))
def colours(t, v): write_series(t, v, PhotometricInterpretation='RGB', SamplesPerPixel=3, PlanarConfiguration=0)
def nowhere(t, v): write_series(t, v, ImagePositionPatient=None)
def nan(t, v): write_series(t, v, ImagePositionPatient=['nan','0','0'])
def crooked(t, v): write_series(t, v, ImageOrientationPatient=[1,0,0,1,0,0])
def spaceless(t, v): write_series(t, v, PixelSpacing=[0,0])
def single(t, v): write_series(t, v.reorient('LPS'), SliceThickness=None) and [o.unlink() for o in sorted(t.iterdir())[1:]]
def mpeg(t, v): [recode(f, U.MPEG2MPML) for f in write_series(t, v)]
def lossless(t, v): [recode(f, U.JPEGLosslessSV1) for f in write_series(t, v)]
def short(t, v): write_series(t, v, PixelData=bytes(24))
def giant(t, v): write_series(t, v, Rows=60000, Columns=60000)
def text(t, v): [t.mkdir(), (t/'a.dcm').write_text('I am not an image')]
def empty(t, v): t.mkdir()
def cut(t, v): [f.write_bytes(f.read_bytes()[:300]) for f in write_series(t, v)]


def recode(file, syntax):
    "A file that claims to be compressed in some way"
    ds = pydicom.dcmread(file)
    ds.PixelData = pydicom.encaps.encapsulate([b'\xff\xd8\xff\xc3\x00\x0b'+bytes(40)])
    ds['PixelData'].VR = 'OB'
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(file, enforce_file_format=True)


def liar(t, v):
    "A header that declares four gigabytes in one tag"
    for f in write_series(t, v):
        raw = f.read_bytes()
        at = raw.index(b'\x08\x00\x3e\x10LO')
        f.write_bytes(raw[:at]+b'\x08\x00\x3e\x10UN\0\0\xf0\xff\xff\xff'+raw[at+8:])


def deep(t, v):
    "Sequences inside sequences, ten thousand levels"
    for f in write_series(t, v):
        raw = f.read_bytes()
        at = raw.index(b'\x08\x00\x3e\x10LO')
        f.write_bytes(raw[:at]+(b'\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff')*10_000)


def deflated(t, v): write_series(t, v, syntax=U.DeflatedExplicitVRLittleEndian)


BAD = [
    (uneven, 'unevenly spaced'), (missing, 'about 2 slices are missing'), (doubled, '1 doubled slices'),
    (times, '20 doubled slices.*time points'), (rows, 'size varies'), (turned, 'orientation varies'), (pixels, 'pixel spacing varies'),
    (frames, '2 frames in one file'), (colours, r'colours \(RGB\)'), (nowhere, 'does not say where'), (nan, 'does not say where'),
    (crooked, 'no right angle'), (spaceless, 'does not say where'), (single, 'one image without a thickness'),
    (mpeg, 'cannot be decoded, MPEG2'), (lossless, r'cannot be decoded, JPEG Lossless.*medals\[dicom\]'),
    (short, 'cannot be decoded, Explicit.*copy it again'), (giant, 'too short for 60000x60000'), (text, 'not a readable DICOM'),
    (empty, 'no DICOM files'), (cut, 'holds no image, it is cut off'), (liar, 'holds no image'),
    (deflated, 'could be of any size'), (deep, 'not a readable DICOM file .RecursionError')]


@pytest.mark.parametrize('make, says', BAD, ids=[o[0].__name__ for o in BAD])
def test_what_is_no_sound_volume_is_refused_in_one_sentence(tmp_path, head, make, says):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        make(tmp_path/'s', head)
    with pytest.raises(UserError, match=says) as e: read_volume(tmp_path/'s')
    assert '\n' not in str(e.value) and len(str(e.value))<600


def test_a_slight_drift_and_rounded_positions_are_no_tilt(tmp_path, head):
    "Positions rounded to tenths of a millimetre, as some scanners write them"
    write_series(tmp_path, head, ImagePositionPatient=shift(head, lambda p,k: np.round(p+[0, .01*k, .03*(k%2)], 1)))
    assert np.abs(read_volume(tmp_path).affine-head.affine).max()<.06


def test_one_thick_slice_is_a_volume(tmp_path, head):
    for f in write_series(tmp_path, head)[1:]: f.unlink()
    vol = read_volume(tmp_path)
    assert vol.shape==(12,14,1) and vol.spacing==pytest.approx(head.spacing)


def test_the_order_of_slices_is_told_without_pixels(tmp_path, head):
    files = write_series(tmp_path, head)
    slices,aff,notes = dicom_series(tmp_path)
    assert [s.path for s in slices]==files and notes==() and np.allclose(aff, head.affine, atol=1e-4)


TEST_FILES = Path(data.__file__).parent/'test_files'
BUNDLED = sorted(f.name for f in (TEST_FILES).iterdir() if f.suffix=='.dcm')

@pytest.mark.parametrize('name', BUNDLED)
def test_files_from_many_makers_are_read_like_simpleitk_does_or_refused(tmp_path, name):
    "The files that pydicom ships for its own tests: MR and CT in many encodings, doses, reports, colours, damaged ones"
    shutil.copy(TEST_FILES/name, tmp_path/name)
    try: vol = read_volume(tmp_path)
    except UserError as e: assert '\n' not in str(e) and len(str(e))<700
    else: agrees(vol, tmp_path)


# What kind of scan is it?

def test_modalities_of_real_scans():
    folder = shared/'data'
    if not folder.exists(): pytest.skip('the real scans are not here')
    truth = {'ct_abdomen': 'ct', 'ct_chest': 'ct', 'ct_headneck': 'ct', 'mr_brain': None, 'mr_spine': None, 'micro_ovule': None}
    for name,want in truth.items(): # a NIfTI says nothing: only Hounsfield units give themselves away
        got = guess_modality(read_volume(folder/'nifti'/f'{name}_img.nii.gz'))
        assert (got.modality, got.by)==((want,'values') if want else (None,'nobody')), name
    for f in [*sorted(folder.glob('mini/*/*/*/*.npz'))[::8], *folder.glob('challenge/*_00[0-9][0-9].npz')]:
        got,kind = guess_modality(read_volume(f)),f.name.split('_')[0].lower()
        assert (got.modality, got.by)==(dict(mr='mri').get(kind, kind), 'file')
        bare = replace(read_volume(f), modality=None)
        assert guess_modality(bare).modality is None # 0..255 may be anything
        assert guess_modality(bare, [f'something by {kind.upper()}']).by=='sentences'


def test_witnesses_are_heard_in_order(head):
    ct = Volume(np.where(head.data>20, 40, -1000).astype(np.int16), head.affine)
    assert guess_modality(ct)==Guess('ct', 'values', guess_modality(ct).why)
    said = guess_modality(ct, ['liver in MRI', 'liver in MRI', 'liver in CT'])
    assert (said.modality, said.by)==('mri','sentences') and 'Hounsfield' in said.doubt and 'named by 2 of 3' in said.why
    file = guess_modality(replace(ct, modality='pet'), 'liver in MRI')
    assert (file.modality, file.by)==('pet','file') and 'name mri' in file.doubt
    arg = guess_modality(replace(ct, modality='pet'), 'liver in MRI', 'US')
    assert (arg.modality, arg.by)==('us','argument')
    with pytest.raises(UserError, match='not known'): guess_modality(ct, modality='xray')


NOT_CT = ('z-scores', 'phase', 'MR', 'padding', 'shifted CT')

@pytest.mark.parametrize('make', [
    lambda g: g.normal(0, 1, (20,20,20)), lambda g: g.uniform(-4096, 4095, (20,20,20)), lambda g: g.gamma(2, 300, (20,20,20)),
    lambda g: np.full((20,20,20), -2000.), lambda g: g.integers(0, 4000, (20,20,20))], ids=NOT_CT)
def test_what_is_no_hounsfield_unit(make):
    assert guess_modality(Volume(make(np.random.default_rng(0)), np.eye(4))).modality is None


# DICOM SEG

def frames_of(file):
    "Every frame of a SEG by pydicom alone: `{(segment number, uid of the source slice): bool (rows,columns)}`"
    ds = pydicom.dcmread(file)
    pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    def key(g): return (g.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
                        g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
    return {key(g): f>0 for g,f in zip(ds.PerFrameFunctionalGroupsSequence, pixels)},ds


def same_slices(file, masks, series, vol):
    "Is every frame the mask on its source slice, and is nothing left out?"
    seen,ds = frames_of(file)
    slices,aff,_ = dicom_series(series)
    grid = read_volume(series)
    for n,(name,m) in enumerate(masks.items(), 1):
        m = vol.like(m).onto(grid).data
        for k,s in enumerate(slices):
            assert np.array_equal(seen.pop((n, s.uid), np.zeros(s.size[::-1], bool)), m[:,:,k].T), (name, k)
    assert not seen
    return ds


@settings(max_examples=10, deadline=None)
@given(aff=affines(), codes=st.sampled_from(('RAS','PIL','SAR')), overlap=st.booleans(), seed=st.integers(0, 99))
def test_masks_come_back_from_dicom_seg_exactly(tmp_path_factory, aff, codes, overlap, seed):
    hd,gen,tmp = pytest.importorskip('highdicom'),np.random.default_rng(seed),tmp_path_factory.mktemp('seg')
    assert hd
    scan = Volume(gen.integers(0, 200, (9,8,7)), aff)
    write_series(tmp/'s', scan, 'MR', StudyInstanceUID='1.2.826.0.44')
    vol = scan.reorient(codes) # the masks were made in other axes
    ids = gen.integers(0, 4, vol.shape)
    long = 'something of no name that is said in more than sixty-four characters, as users do'
    masks = {'left kidney': ids==1, long: (ids==2)|(overlap&(ids==1)), 'nothing': ids>9}
    dicomseg.write_seg(tmp/'seg.dcm', masks, vol, tmp/'s')
    ds = same_slices(tmp/'seg.dcm', masks, tmp/'s', vol)
    for like in (vol, read_volume(tmp/'s')):
        back = read_seg(tmp/'seg.dcm', like)
        assert list(back)==list(masks)
        for k,m in masks.items(): assert np.array_equal(vol.like(m).onto(like).data, back[k])
    assert ds.StudyInstanceUID=='1.2.826.0.44' and str(ds.PatientID)=='7' and ds.Modality=='SEG'


def test_a_seg_says_what_its_segments_are(tmp_path, head):
    pytest.importorskip('highdicom')
    write_series(tmp_path/'s', head)
    write_series(tmp_path/'s', head.reorient('PSR'), series='1.2.826.0.9', name='s{k}.dcm')
    ids = np.arange(head.data.size).reshape(head.shape)//6
    masks = {f'nucleus {i}': ids==i for i in range(1, 260)}
    own = {'nucleus 1': (('91723000','SCT','Anatomical structure'), ('64033007','SCT','Kidney'), 'left')}
    with pytest.raises(UserError, match='2 series'): dicomseg.write_seg(tmp_path/'a.dcm', masks, head, tmp_path/'s')
    dicomseg.write_seg(tmp_path/'a.dcm', masks, head, f'{tmp_path}/s#1.2.826.0.1', own)
    ds = same_slices(tmp_path/'a.dcm', masks, f'{tmp_path}/s#1.2.826.0.1', head)
    kind = ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning)==('64033007','Left')
    assert ds.SegmentSequence[5].SegmentedPropertyTypeCodeSequence[0].CodeMeaning=='Tissue'


def test_a_seg_beside_its_series_does_not_disturb_it(tmp_path, head):
    pytest.importorskip('highdicom')
    write_series(tmp_path/'s', head)
    dicomseg.write_seg(tmp_path/'s'/'seg.dcm', {'all': head.data>0}, head, tmp_path/'s')
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.onto(head).data, head.data) and 'Segmentation' in vol.notes[0]


def test_what_a_seg_needs(tmp_path, head, monkeypatch):
    pytest.importorskip('highdicom')
    write_series(tmp_path/'s', head)
    m,moved = {'all': head.data>0},head.affine.copy()
    moved[0,3] += 3
    for bad,says in (((m, head, None), 'refers to the slices'), ((m, head, tmp_path/'none'), 'refers to the slices'),
                     (({}, head, tmp_path/'s'), 'no mask'), ((m, Volume(head.data, moved), tmp_path/'s'), 'does not lie on the voxels')):
        with pytest.raises(UserError, match=says): dicomseg.write_seg(tmp_path/'o.dcm', *bad)
    dicomseg.write_seg(tmp_path/'o.dcm', m, head, tmp_path/'s')
    with pytest.raises(UserError, match='does not lie on the voxels'): read_seg(tmp_path/'o.dcm', phantom()[0])
    with pytest.raises(UserError, match='not a readable DICOM SEG'): read_seg(tmp_path/'s'/'0000.dcm', head)
    gone = {o: None for o in (*dicomseg.EMPTY, 'SliceThickness')} # as exporters and anonymisers leave a series
    write_series(tmp_path/'bare', head, **gone)
    dicomseg.write_seg(tmp_path/'bare.dcm', m, head, tmp_path/'bare')
    assert np.array_equal(read_seg(tmp_path/'bare.dcm', head)['all'], m['all'])
    write_series(tmp_path/'lost', head, FrameOfReferenceUID=None)
    with pytest.raises(UserError, match='no FrameOfReferenceUID'): dicomseg.write_seg(tmp_path/'q.dcm', m, head, tmp_path/'lost')
    assert not (tmp_path/'q.dcm').exists()
    monkeypatch.setitem(sys.modules, 'highdicom', None)
    with pytest.raises(UserError, match=r'medals\[dicom\]'): dicomseg.write_seg(tmp_path/'p.dcm', m, head, tmp_path/'s')
    assert not (tmp_path/'p.dcm').exists()
