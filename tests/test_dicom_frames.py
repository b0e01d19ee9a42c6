"Files of many frames and series of several volumes, written by highdicom and read by highdicom and SimpleITK too"
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.core import UserError
from medals.commands.images import find_images
from medals.volume import Volume, phantom, read_volume
from test_dicom import write_series
from test_volume import affines

hd = pytest.importorskip('highdicom')
import pydicom
from pydicom import uid as U

LEGACY = dict(CT=hd.legacy.LegacyConvertedEnhancedCTImage, MR=hd.legacy.LegacyConvertedEnhancedMRImage,
              PT=hd.legacy.LegacyConvertedEnhancedPETImage)
NEEDED = dict(StudyDate='20200101', StudyTime='120000', ContentDate='20200101', ContentTime='120000', AcquisitionNumber=1,
              PositionReferenceIndicator='', Laterality='', BodyPartExamined='HEAD', Manufacturer='a maker')


@pytest.fixture
def head(): return phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')


def enhanced(folder, vol, out, modality='CT', shuffle=None, kind=('<i2',(1,0)), syntax=None, **tags):
    "A classic series as one file, made by highdicom; its frames in any order"
    files = write_series(folder, vol, modality, kind=kind, **{**NEEDED, **tags})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        heads = [pydicom.dcmread(f) for f in files]
        made = LEGACY[modality](heads, U.generate_uid(), 5, U.generate_uid(), 1)
        if shuffle is not None:
            order = list(shuffle)
            pixels = made.pixel_array[order]
            made.PixelData = pixels.astype(kind[0]).tobytes()
            groups = list(made.PerFrameFunctionalGroupsSequence)
            made.PerFrameFunctionalGroupsSequence = pydicom.Sequence([groups[i] for i in order])
        if syntax: made.compress(syntax, generate_instance_uid=False)
        out.parent.mkdir(exist_ok=True)
        made.save_as(out, enforce_file_format=True)
    return out


def by_highdicom(file):
    "Values `(x,y,z)` and affine to RAS+ mm, by highdicom"
    vol = hd.imread(file).get_volume(dtype=np.float64)
    lps = vol.affine # from slice, row and column
    return vol.array, np.diag([-1,-1,1,1])@lps


def same(vol, array, affine):
    "Does every voxel of ours have the value and the place of theirs?"
    i = np.argwhere(np.ones(vol.shape, bool))
    places = nib.affines.apply_affine(vol.affine, i)
    theirs = nib.affines.apply_affine(np.linalg.inv(affine), places)
    near = np.rint(theirs).astype(int)
    assert np.abs(theirs-near).max()<2e-3
    assert sorted(vol.shape)==sorted(array.shape)
    assert np.allclose(vol.data[tuple(i.T)], array[tuple(near.T)], rtol=1e-6, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(aff=affines(), modality=st.sampled_from(('CT','MR','PT')), slopes=st.sampled_from(('one','each')), seed=st.integers(0, 99))
def test_frames_lie_where_highdicom_puts_them_in_any_order(tmp_path_factory, aff, modality, slopes, seed):
    tmp,gen = tmp_path_factory.mktemp('e'),np.random.default_rng(seed)
    vol = Volume(gen.integers(0, 250, (7,6,5)), aff)
    scale = (1,-1024) if slopes=='one' else lambda k: (1+.25*k, -3)
    file = enhanced(tmp/'s', vol, tmp/'e'/'one.dcm', modality, gen.permutation(5), ('<i2', scale))
    got = read_volume(file)
    same(got, *by_highdicom(file))
    factors = np.array([scale if slopes=='one' else scale(k) for k in range(5)])
    assert np.allclose(got.onto(vol).data, vol.data*factors[:,0]+factors[:,1], atol=1e-4)
    assert got.modality==dict(CT='ct', MR='mri', PT='pet')[modality]
    assert got.shape==read_volume(tmp/'s').shape and np.allclose(got.affine, read_volume(tmp/'s').affine, atol=1e-4)


@pytest.mark.parametrize('syntax', [U.RLELossless, U.JPEG2000Lossless], ids=lambda o: o.name)
def test_packed_frames(tmp_path, syntax):
    if syntax==U.JPEG2000Lossless: pytest.importorskip('openjpeg')
    head = phantom((48,56,6))[0].reorient('LPS')
    file = enhanced(tmp_path/'s', head, tmp_path/'e'/'one.dcm', 'MR', reversed(range(6)), syntax=syntax)
    assert np.array_equal(read_volume(file).onto(head).data, head.data)


def test_simpleitk_puts_frames_there_too(tmp_path, head):
    sitk = pytest.importorskip('SimpleITK')
    file = enhanced(tmp_path/'s', head, tmp_path/'e'/'one.dcm', 'CT')
    img = sitk.ReadImage(str(file))
    affine = np.eye(4)
    affine[:3,:3] = np.array(img.GetDirection()).reshape(3,3)*img.GetSpacing()
    affine[:3,3] = img.GetOrigin()
    same(read_volume(tmp_path/'e'), sitk.GetArrayFromImage(img).transpose(2,1,0), np.diag([-1,-1,1,1])@affine)


def test_frames_that_lean_or_lie_unevenly_are_treated_as_files_are(tmp_path, head):
    def lean(k): return [f'{o:.5f}' for o in (0., 6.*k, 18.*k)]
    file = enhanced(tmp_path/'s', head, tmp_path/'e'/'one.dcm', 'CT', ImagePositionPatient=lean)
    ours,files = read_volume(file),read_volume(tmp_path/'s')
    assert ours.source_grid is not None and np.array_equal(ours.data, files.data) and 'tilted' in ours.notes[0]
    def gaps(k): return [0., 0., 18.*k+30*(k>5)]
    file = enhanced(tmp_path/'u', head, tmp_path/'f'/'one.dcm', 'CT', ImagePositionPatient=gaps)
    with pytest.raises(UserError, match='frame .* of one.dcm') as e: read_volume(file)
    assert '--resample' in str(e.value)
    assert np.array_equal(read_volume(file, resample=True).data, read_volume(tmp_path/'u', resample=True).data)


def test_several_volumes_in_one_file_are_chosen_by_number_or_by_what_they_are(tmp_path, head):
    vols = [head.like(head.data//(i+1)) for i in range(3)]
    both = []
    for i,v in enumerate(vols):
        files = write_series(tmp_path/'s', v, 'MR', name=f'{i}-{{k}}.dcm', EchoTime=[80,20,5][i],
                             SOPInstanceUID=lambda k: f'1.2.826.0.1.{i}.{k+1}', **NEEDED)
        both += map(pydicom.dcmread, files)
    # as a series of files
    with pytest.raises(UserError, match='holds 3 series') as e: read_volume(tmp_path/'s')
    assert 'echo time 5 ms' in str(e.value) and '1.2.826.0.1:2' in str(e.value)
    for word,i in (('echo time 80', 0), ('1.2.826.0.1:1', 1), ('0', 2), ('1.2.826.0.1:2', 0)):
        assert np.array_equal(read_volume(tmp_path/'s', series=word).onto(head).data, vols[i].data), word
    assert len(find_images([tmp_path/'s'], every=True))==3
    # as one file
    made = LEGACY['MR'](both, U.generate_uid(), 5, U.generate_uid(), 1)
    echo_of = {ds.SOPInstanceUID: float(ds.EchoTime) for ds in both}
    for group in made.PerFrameFunctionalGroupsSequence:
        item = pydicom.Dataset()
        item.EffectiveEchoTime = echo_of[group.ConversionSourceAttributesSequence[0].ReferencedSOPInstanceUID]
        group.MREchoSequence = [item]
    (tmp_path/'e').mkdir()
    made.save_as(tmp_path/'e'/'one.dcm')
    for word,i in (('echo time 80', 0), ('1', 1), ('0', 2)):
        assert np.array_equal(read_volume(tmp_path/'e', series=word).onto(head).data, vols[i].data), word
    with pytest.raises(UserError, match='3 series.*30 frames|3 series.*10 frames'): read_volume(tmp_path/'e'/'one.dcm')


def hurt(file, change):
    ds = pydicom.dcmread(file)
    change(ds)
    ds.save_as(file)

def lost(ds): del ds.PerFrameFunctionalGroupsSequence
def fewer(ds): ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:4]
def huge(ds): ds.Rows = ds.Columns = 60000
def many(ds): ds.NumberOfFrames = 2000000000
def clip(ds): ds.SOPClassUID = U.UltrasoundMultiFrameImageStorage
def tiles(ds): ds.SOPClassUID = U.VLWholeSlideMicroscopyImageStorage
def nowhere(ds): [g.PlanePositionSequence.clear() for g in ds.PerFrameFunctionalGroupsSequence]
def short(ds): ds.PixelData = ds.PixelData[:500]
def words(ds): ds.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence = []

BAD = [(lost, 'does not say where each of them lies'), (fewer, 'says of 4 where they lie'), (huge, 'too short for 60000x60000'),
       (many, 'too short'), (clip, 'moments and not slices'), (tiles, 'tiles of one plane'), (nowhere, 'does not say where'),
       (short, 'cannot be decoded'), (words, 'does not say where')]

@pytest.mark.parametrize('change, says', BAD, ids=[o[0].__name__ for o in BAD])
def test_what_is_no_volume_is_refused_in_one_sentence(tmp_path, head, change, says):
    file = enhanced(tmp_path/'s', head, tmp_path/'e'/'one.dcm', 'CT')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        hurt(file, change)
    with pytest.raises(UserError, match=says) as e: read_volume(file)
    assert '\n' not in str(e.value) and len(str(e.value))<700


def test_a_truncated_file_is_refused(tmp_path, head):
    file = enhanced(tmp_path/'s', head, tmp_path/'e'/'one.dcm', 'CT')
    raw = file.read_bytes()
    for n in (140, 400, 2000, len(raw)//2, len(raw)-200):
        file.write_bytes(raw[:n])
        with pytest.raises(UserError) as e: read_volume(file)
        assert '\n' not in str(e.value)

