"Scans as strangers have them: headers that contradict themselves, slices that are not where they should be, names that say little"
import gzip
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.base import files
from medals.core import UserError
from medals.base.files import read_json
from medals.preprocessing.input_spec import placement_warnings
from medals.inference.request import as_volume
from medals.scans.nifti import PLACE, names_inside, read_image
from medals.volume import Volume, ending, is_scan, phantom, read_labels, read_volume, stem, write_labels, write_volume

sitk = pytest.importorskip('SimpleITK')

OBLIQUE = np.array([[-2.,.3,.1,40], [.2,2.4,-.5,-31], [.1,.4,3.,-22], [0,0,0,1]])


def orthogonal(aff=OBLIQUE, spacing=(2.,2.5,3.)):
    "The nearest affine without shear, as ITK and a qform need it"
    u,_,vt = np.linalg.svd(aff[:3,:3]/np.linalg.norm(aff[:3,:3], axis=0))
    out = aff.copy()
    out[:3,:3] = u@vt*spacing
    return out


def numbers(shape=(4,5,6), dtype=np.int16): return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def nifti(path, x=None, aff=None, codes=(1,1), kind=nib.Nifti1Image, **fields):
    "A NIfTI file with any fields of its header overwritten, which nibabel would not write"
    x = numbers() if x is None else x
    header = kind.header_class()
    header.set_data_dtype(x.dtype)
    img = kind(x, None, header)
    aff = orthogonal() if aff is None else aff
    img.header.set_qform(aff, codes[0])
    img.header.set_sform(aff, codes[1])
    nib.save(img, path)
    raw = gzip.decompress(path.read_bytes()) if path.name.endswith('.gz') else path.read_bytes()
    header = kind.header_class(raw[:header.template_dtype.itemsize], check=False)
    for key,value in fields.items(): header[key] = value
    raw = header.binaryblock+raw[len(header.binaryblock):]
    path.write_bytes(gzip.compress(raw) if path.name.endswith('.gz') else raw)
    return path


def raw_header(path):
    "A header as it stands in the file"
    f = gzip.open(path) if path.read_bytes()[:2]==b'\x1f\x8b' else open(path, 'rb')
    with f:
        size = int.from_bytes(f.read(4), 'little')
        f.seek(0)
        return (nib.Nifti1Header if size==348 else nib.Nifti2Header)(f.read(size), check=False)


def place_of(path):
    "Where SimpleITK puts a file: size, spacing, origin and direction"
    img = sitk.ReadImage(str(path))
    return [np.round(o, 4) for o in (img.GetSize(), img.GetSpacing(), img.GetOrigin(), img.GetDirection())]


def lie_together(a, b): return all(np.array_equal(p, q) for p,q in zip(place_of(a), place_of(b)))


# 3.2, 3.3: headers that contradict themselves

PLACES = dict(
    both=dict(), moved_qform=dict(qoffset_x=99), no_rotation=dict(quatern_b=.9, quatern_c=.9),
    small_pixdim=dict(codes=(0,2), pixdim=[1,1,1,1,1,1,1,1]), sform_only=dict(codes=(0,1)), qform_only=dict(codes=(1,0)),
    neither=dict(codes=(0,0)), mirrored=dict(codes=(0,0), pixdim=[-1,-2,2.5,3,1,1,1,1]), talairach=dict(codes=(3,4)),
    left_handed=dict(codes=(1,0), pixdim=[-1,2,2.5,3,0,0,0,0]), meters=dict(xyzt_units=1, pixdim=[1,.002,.0025,.003,1,1,1,1], codes=(0,0)))


@pytest.mark.parametrize('name', PLACES)
@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize('end', ['.nii', '.nii.gz'])
def test_3_2_a_mask_says_of_its_place_what_its_scan_says(tmp_path, name, kind, end):
    scan = nifti(tmp_path/f'scan{end}', kind=kind, **PLACES[name])
    vol = read_volume(scan)
    write_labels(tmp_path/f'mask{end}', (vol.data>30).astype(np.uint8), vol)
    write_volume(tmp_path/f'again{end}', vol)
    for made in (tmp_path/f'mask{end}', tmp_path/f'again{end}'):
        a,b = raw_header(scan),raw_header(made)
        assert type(a) is type(b)
        for key in PLACE: assert a[key].tobytes()==b[key].tobytes(), key
        assert kind is nib.Nifti2Image or lie_together(scan, made) # which ITK does not read
        assert np.array_equal(nib.load(scan).affine, nib.load(made).affine)
    assert np.array_equal(read_labels(tmp_path/f'mask{end}')[0].data, vol.data>30)


def test_3_2_placements_that_differ_are_told(tmp_path):
    two = np.diag([2.,2,2,1])
    vol = read_volume(nifti(tmp_path/'a.nii', aff=two, codes=(0,1), pixdim=[1,1,1,1,1,1,1,1]))
    assert vol.spacing==(2,2,2) and any('pixdim says 1x1x1 and its sform 2x2x2' in o for o in vol.notes)
    assert read_volume(nifti(tmp_path/'b.nii', aff=two, codes=(0,1))).notes==()
    tiny = [1, 2.0001, 2, 2, 1, 1, 1, 1]   # rounding, which no viewer shows
    assert read_volume(nifti(tmp_path/'c.nii', aff=two, codes=(0,1), pixdim=tiny)).notes==()
    assert any('differ by up to' in o for o in read_volume(nifti(tmp_path/'d.nii', qoffset_x=99)).notes)


def test_3_2_a_changed_affine_is_not_overruled_by_the_old_header(tmp_path):
    vol = read_volume(nifti(tmp_path/'a.nii'))
    moved = vol.affine.copy()
    moved[:3,3] += 5
    write_labels(tmp_path/'m.nii', (vol.data>3).astype(np.uint8), replace(vol, affine=moved))
    assert np.allclose(nib.load(tmp_path/'m.nii').affine, moved, atol=1e-4)
    turned = vol.reorient('PIL')
    write_labels(tmp_path/'t.nii', (turned.data>3).astype(np.uint8), turned)
    assert np.allclose(nib.load(tmp_path/'t.nii').affine, turned.affine, atol=1e-4)
    back = read_labels(tmp_path/'t.nii')[0].reorient(vol.orientation)
    assert np.array_equal(back.data, vol.data>3) and np.allclose(back.affine, vol.affine, atol=1e-4)


# 3.4, 3.5: what is no number

@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.float16])
def test_3_4_arrays_with_what_is_no_number_are_taken_with_a_note(bad, dtype):
    x = numbers(dtype=np.float64)-7
    x[1,2,3] = x[0] = bad
    want = np.where(np.isfinite(x), x, x[np.isfinite(x)].min())
    for image in ((x.astype(dtype), OBLIQUE), Volume(x.astype(dtype), OBLIQUE, notes=('odd',))):
        vol = as_volume(image)
        assert np.array_equal(vol.data, want) and vol.data.dtype==np.float32
        assert vol.notes[-1]==f'31 voxels are NaN or infinite; they are read as {want.min():.6g}, the lowest value'
        assert as_volume(vol).notes==vol.notes


def test_3_4_types_of_arrays():
    mask = numbers()>7
    assert np.array_equal(as_volume((mask, OBLIQUE)).data, mask) and as_volume((mask, OBLIQUE)).data.dtype==np.uint8
    assert as_volume((numbers(dtype='>i4'), OBLIQUE)).data.dtype.isnative
    for bad in (numbers(dtype=complex), numbers().astype(str), numbers().astype(object)):
        for image in ((bad, OBLIQUE), Volume(bad, OBLIQUE)):
            with pytest.raises(UserError, match='one real number per voxel') as e: as_volume(image)
            assert '\n' not in str(e.value)
    with pytest.raises(UserError, match='120 voxels that are NaN or infinite, and no others'): as_volume((numbers()*np.nan, OBLIQUE))


def test_3_12_a_constant_scan_is_told(tmp_path):
    for x in (np.full((4,5,6), 7, np.int16), np.full((4,5,6), -.5, np.float32)):
        says = f'every voxel has the value {x.flat[0]:.6g}'
        np.savez(tmp_path/'MR_a.npz', imgs=x, spacing=np.ones(3))
        for vol in (read_volume(nifti(tmp_path/'a.nii.gz', x)), as_volume((x, OBLIQUE)), read_volume(tmp_path/'MR_a.npz')):
            assert any(says in o for o in vol.notes)
    assert not as_volume((numbers(), OBLIQUE)).notes


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.float16])
def test_3_5_a_nifti_with_what_is_no_number_is_read_with_a_note(tmp_path, bad, dtype):
    x = numbers(dtype=np.float64)-7
    x[1,2,3] = x[0] = bad
    if dtype==np.float16: # NIfTI has none
        np.savez(tmp_path/'MR_a.npz', imgs=x.astype(dtype).transpose(2,1,0), spacing=np.ones(3))
        vol = read_volume(tmp_path/'MR_a.npz')
    else: vol = read_volume(nifti(tmp_path/'a.nii.gz', x.astype(dtype)))
    want = np.where(np.isfinite(x), x, x[np.isfinite(x)].min())
    assert np.array_equal(vol.data, want) and vol.data.dtype==np.float32
    assert f'31 voxels are NaN or infinite; they are read as {want.min():.6g}' in '; '.join(vol.notes)


def test_3_5_values_beyond_float32_are_cut_and_told(tmp_path):
    x = numbers(dtype=np.float64)
    x[0,0,0],x[1,1,1] = 1e300,-1e39
    vol = read_volume(nifti(tmp_path/'a.nii', x))
    top = np.finfo(np.float32).max
    assert vol.data.max()==top and vol.data.min()==-top and np.isfinite(vol.data).all() and 'too large' in vol.notes[0]


# 3.7: names and headers that say little

NAMES = ('A.NII', 'A.NII.GZ', 'A.Nii.Gz', 'plain.nii.gz', 'packed.nii', 'a.img', 'a.hdr', 'A.IMG', 'A.HDR', 'a.img.gz', 'a.hdr.gz')

@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('kind', ['nifti1', 'nifti2'])
def test_3_7_a_file_is_what_its_bytes_say(tmp_path, name, order, kind):
    pair = 'img' in name.lower() or 'hdr' in name.lower()
    cls = dict(nifti1=(nib.Nifti1Image, nib.Nifti1Pair), nifti2=(nib.Nifti2Image, nib.Nifti2Pair))[kind][pair]
    x = numbers(dtype=np.dtype(np.int16).newbyteorder(order))
    header = cls.header_class(endianness=order)
    header.set_data_dtype(x.dtype)
    img = cls(x, None, header)
    img.header.set_sform(OBLIQUE, 1)
    img.header.set_qform(orthogonal(), 1)
    nib.save(img, tmp_path/('a.img' if pair else 'a.nii'))
    if not pair:
        raw = (tmp_path/'a.nii').read_bytes()
        (tmp_path/'a.nii').unlink()
        (tmp_path/name).write_bytes(gzip.compress(raw) if name=='packed.nii' or name.endswith(('.GZ','.Gz')) else raw)
    else:
        for half in ('img','hdr'):
            raw,to = (tmp_path/f'a.{half}').read_bytes(),half.upper() if name.isupper() else half
            (tmp_path/f'a.{half}').unlink()
            gz = name.endswith('.gz')
            (tmp_path/f"{stem(name)}.{to}{'.gz' if gz else ''}").write_bytes(gzip.compress(raw) if gz else raw)
    vol = read_volume(tmp_path/name)
    assert np.array_equal(vol.data, numbers()) and np.allclose(vol.affine, OBLIQUE, atol=1e-4) and vol.data.dtype==np.int16
    assert vol.data.dtype.isnative and is_scan(tmp_path/name)==('hdr' not in name.lower()) and stem(name) in ('a','A','plain','packed')
    write_labels(tmp_path/'mask.nii.gz', (vol.data>9).astype(np.uint8), vol)
    assert np.allclose(nib.load(tmp_path/'mask.nii.gz').get_qform(), orthogonal(), atol=1e-4)


def test_3_7_half_of_a_pair_says_what_is_missing(tmp_path):
    img = nib.Nifti1Pair(numbers(), OBLIQUE)
    nib.save(img, tmp_path/'a.img')
    (tmp_path/'a.hdr').rename(tmp_path/'b.hdr')
    for name,says in (('a.img', 'no a.hdr beside it'), ('b.hdr', 'no b.img beside it')):
        with pytest.raises(UserError, match=says): read_volume(tmp_path/name)
    nib.save(nib.Spm2AnalyzeImage(numbers(), np.diag([2,2,2,1])), tmp_path/'s.img')
    with pytest.raises(UserError, match='is Analyze, not NIfTI'): read_volume(tmp_path/'s.hdr')


@pytest.mark.parametrize('shape', [(4,5,1), (4,5)])
@pytest.mark.parametrize('codes', [(0,0), (1,0), (0,1), (1,1)])
def test_3_7_one_slice_needs_no_thickness(tmp_path, shape, codes):
    fields = dict(pixdim=[1,2,2.5,0,0,0,0,0])
    if codes[1]: fields.update(srow_x=[2,0,0,7], srow_y=[0,2.5,0,8], srow_z=[0,0,0,9])
    scan = nifti(tmp_path/'a.nii', numbers(shape), np.diag([2,2.5,1,1]), codes, **fields)
    vol = read_volume(scan)
    assert vol.shape==(4,5,1) and np.allclose(vol.spacing, (2,2.5,1)) and np.array_equal(vol.data[...,0], numbers(shape).reshape(4,5))
    assert any('no thickness' in o for o in vol.notes)
    write_labels(tmp_path/'m.nii', (vol.data>3).astype(np.uint8), vol)
    a,b = raw_header(scan),raw_header(tmp_path/'m.nii')
    assert a['dim'].tolist()==b['dim'].tolist() and all(a[k].tobytes()==b[k].tobytes() for k in PLACE)
    assert np.array_equal(read_labels(tmp_path/'m.nii')[0].data, vol.data>3)
    if codes!=(0,1): assert lie_together(scan, tmp_path/'m.nii')


@pytest.mark.parametrize('rows', [np.zeros((3,4)), np.full((3,4), np.nan), np.ones((3,4)), np.diag([1.,1,0])@np.eye(3,4)])
@pytest.mark.parametrize('codes', [(1,1), (0,1)])
def test_3_7_an_sform_that_places_nothing_is_passed_over(tmp_path, rows, codes):
    fields = dict(zip(('srow_x','srow_y','srow_z'), rows))
    scan = nifti(tmp_path/'a.nii', codes=codes, **fields)
    vol = read_volume(scan)
    used = 'qform' if codes[0] else 'pixdim'
    assert any(f'sform places no voxel; its {used} is used' in o for o in vol.notes)
    assert np.allclose(vol.spacing, (2,2.5,3))
    if codes[0]: assert np.allclose(vol.affine, orthogonal(), atol=1e-4)
    else: assert any('does not say how the patient lies' in o for o in vol.notes)
    write_labels(tmp_path/'m.nii', (vol.data>3).astype(np.uint8), vol)
    assert all(raw_header(scan)[k].tobytes()==raw_header(tmp_path/'m.nii')[k].tobytes() for k in PLACE)
    assert np.allclose(read_labels(tmp_path/'m.nii')[0].affine, vol.affine)


@pytest.mark.parametrize('shape', [(4,5,6,1), (4,5,6,1,1), (4,5,6,1,1,1,1), (4,1,6), (1,1,1)])
def test_3_7_axes_of_one_are_no_axes(tmp_path, shape):
    vol = read_volume(nifti(tmp_path/'a.nii', numbers(shape)))
    assert vol.shape==shape[:3] and np.array_equal(vol.data, numbers(shape[:3]))


def test_3_7_what_cannot_be_read_is_refused_in_one_true_sentence(tmp_path):
    bad = {
        'zero.nii': (dict(codes=(1,0), pixdim=[1,2,0,3,1,1,1,1]), 'voxel size of zero'),
        'nan.nii': (dict(codes=(0,0), pixdim=[1,np.nan,1,1,1,1,1,1]), 'no sound voxel size'),
        'time.nii': (dict(x=numbers((4,5,6,3))), 'one channel or time point'), 'row.nii': (dict(x=numbers((7,))), 'has three axes'),
        'vector.nii': (dict(x=numbers((4,5,6,1,3))), 'holds 3 volumes'), 'far.nii': (dict(vox_offset=1e12), 'far more than'),
        'complex.nii': (dict(x=numbers(dtype=np.complex64)), 'holds complex64 values'), 'type.nii': (dict(datatype=77), 'of type 77'),
        'negative.nii': (dict(dim=[3,4,-5,6,1,1,1,1]), 'is empty|far more')}
    for name,(fields,says) in bad.items():
        with pytest.raises(UserError, match=says) as e: read_volume(nifti(tmp_path/name, **fields))
        assert '\n' not in str(e.value) and name in str(e.value)

def test_3_7_a_damaged_stream_is_refused(tmp_path):
    whole = nifti(tmp_path/'w.nii.gz', numbers((40,40,40)))
    for cut in (0, 1, 3, 100, 2000, whole.stat().st_size-9):
        (tmp_path/'cut.nii.gz').write_bytes(whole.read_bytes()[:cut])
        with pytest.raises(UserError, match='ends early|not a readable') as e: read_volume(tmp_path/'cut.nii.gz')
        assert '\n' not in str(e.value)


def test_3_7_scales_that_say_nothing_scale_nothing(tmp_path):
    for slope,inter,want in ((0,5,(1,0)), (np.nan,5,(1,0)), (np.inf,0,(1,0)), (2,-3,(2,-3)), (2,np.nan,(2,0))):
        file = nifti(tmp_path/'a.nii')
        raw = bytearray(file.read_bytes())
        raw[112:120] = struct.pack('<2f', slope, inter)
        file.write_bytes(bytes(raw))
        vol = read_volume(file)
        assert np.array_equal(vol.data, numbers()*want[0]+want[1])
        assert ('scl_inter' in '; '.join(vol.notes))==(slope==2 and np.isnan(inter))


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, 351), value=st.integers(0, 255), at2=st.integers(0, 351), value2=st.integers(0, 255))
def test_3_7_any_byte_of_a_header_may_be_wrong(tmp_path_factory, at, value, at2, value2):
    "Either it is read, and a mask lies where it lies, or it is refused in one sentence"
    tmp = tmp_path_factory.mktemp('n')
    raw = bytearray(nifti(tmp/'a.nii').read_bytes())
    raw[at],raw[at2] = value,value2
    (tmp/'a.nii').write_bytes(bytes(raw))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            vol = read_volume(tmp/'a.nii')
            names_inside(tmp/'a.nii')
    except UserError as e: assert '\n' not in str(e) and len(str(e))<500
    else:
        assert np.isfinite(vol.data).all() and np.isfinite(vol.affine).all()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            write_labels(tmp/'m.nii', np.ones(vol.shape, np.uint8), vol)
            assert np.array_equal(read_labels(tmp/'m.nii')[0].affine, vol.affine)


@pytest.mark.parametrize('at,value', [(40,8), (40,40), (41,1)])
def test_3_7_billions_of_volumes_that_a_header_claims_are_not_listed(tmp_path, at, value):
    "A wrong number of axes turns the order of bytes: each volume had a name, 20 GB of them"
    raw = bytearray(nifti(tmp_path/'a.nii').read_bytes())
    raw[at] = value
    (tmp_path/'a.nii').write_bytes(bytes(raw))
    tracemalloc.start()
    with pytest.raises(UserError, match='voxels'): read_volume(tmp_path/'a.nii')
    _,most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most<50e6


def test_3_7_what_is_a_scan_by_its_name():
    scans = ['a.nii', 'b.NII.GZ', 'c.npz', 'D.NPZ', 'e.img', 'F.IMG', 'g.img.gz', 'a.b.nii.gz', 'h.mgz', 'i.seg.nrrd', 'j.MHA']
    others = ['._a.nii.gz', '.nii.gz', '.hidden.nii', 'a.hdr', 'a.dcm', 'a.txt', 'nii', 'a.nii.json', 'a.png', 'a.gz', 'a.nii.bak',
              'a.mgz.bak', 'a.raw']
    assert [o for o in scans+others if is_scan(o)]==scans and [o for o in scans+others if is_scan(f'x/{o}')]==scans
    assert [stem(o) for o in scans]==['a', 'b', 'c', 'D', 'e', 'F', 'g', 'a.b', 'h', 'i', 'j'] and ending('A.NII.gz')=='.nii.gz'


# 3.8: names that others put into a label map

CARET = '''<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>
<VolumeInformation Index="0">   <LabelTable>
<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0"><![CDATA[???]]></Label>
<Label Key="1" Red="0.2" Green="0.3" Blue="0.4" Alpha="1"><![CDATA[spleen]]></Label>
<Label Key="23" Red="1" Green="1" Blue="1" Alpha="1"><![CDATA[rippe links & größer]]></Label>
</LabelTable>  <StudyMetaDataLinkSet>  </StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>
</VolumeInformation></CaretExtension>'''


@pytest.mark.parametrize('code', [0, 30, 6])
@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
def test_3_8_names_of_totalsegmentator_are_read(tmp_path, code, kind):
    img = kind(np.ones((3,3,3), np.uint8), np.eye(4))
    img.header.extensions.append(nib.nifti1.Nifti1Extension(6, b'made by somebody'))
    img.header.extensions.append(nib.nifti1.Nifti1Extension(code, CARET.encode()))
    nib.save(img, tmp_path/'seg.nii.gz')
    assert read_labels(tmp_path/'seg.nii.gz')[1]=={1: 'spleen', 23: 'rippe links & größer'}


def test_3_8_extensions_that_are_no_names_are_passed_over(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><CaretExtension><Label Key="1">&z;</Label></CaretExtension>'
    odd = ['{"names": 3}', '{"names": {"a": "b"}}', '[1]', '<a', '<Label Key="x">y</Label>', bomb, CARET.encode('utf-16'), '', '\0\0']
    for o in odd:
        img = nib.Nifti1Image(np.ones((3,3,3), np.uint8), np.eye(4))
        img.header.extensions.append(nib.nifti1.Nifti1Extension(0, o if isinstance(o, bytes) else o.encode()))
        nib.save(img, tmp_path/'a.nii')
        assert read_labels(tmp_path/'a.nii')[1]=={}, o
    raw = bytearray((tmp_path/'a.nii').read_bytes())
    raw[352:356] = struct.pack('<i', 2**31-1) # an extension of two gigabytes
    (tmp_path/'a.nii').write_bytes(bytes(raw))
    assert names_inside(tmp_path/'a.nii')=={} and read_image(tmp_path/'a.nii')[0].shape==(3,3,3)


def test_6_types_and_slopes_as_nibabel_reads_them(tmp_path):
    for dtype in (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64):
        for slope in (None, (.5,-3), (-2,7)):
            img = nib.Nifti1Image(numbers(dtype=dtype), OBLIQUE, dtype=dtype)
            if slope: img.header.set_slope_inter(*slope)
            nib.save(img, tmp_path/'a.nii.gz')
            want,got = nib.load(tmp_path/'a.nii.gz'),read_volume(tmp_path/'a.nii.gz')
            assert np.array_equal(got.data, want.get_fdata(dtype=np.float32)) and np.allclose(got.affine, want.affine)
            assert got.data.dtype==(np.float32 if slope or np.dtype(dtype).kind=='f' else dtype) and got.notes==()



def test_3_7_a_stream_whose_checksum_is_wrong_is_damaged(tmp_path):
    file = nifti(tmp_path/'w.nii.gz', numbers((20,20,20)))
    raw = bytearray(file.read_bytes())
    raw[-6] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(UserError, match='ends early or is damaged'): read_volume(file)


# 3.12: sizes that no patient has

@pytest.mark.parametrize('factor, says', [(.1, 'lengths in cm or m'), (.001, 'lengths in cm or m'), (20, 'more than a patient')])
def test_3_12_sizes_that_no_patient_has_are_told(tmp_path, factor, says):
    vol,_,_ = phantom()
    scaled = Volume(vol.data, np.diag([factor,factor,factor,1.])@vol.affine)
    write_volume(tmp_path/'a.nii.gz', scaled)
    for image in (tmp_path/'a.nii.gz', scaled):
        assert any(says in o for o in placement_warnings(as_volume(image)))
    small = replace(scaled, modality='microscopy')
    assert factor>1 or not any(says in o for o in placement_warnings(small))
    assert not any('in all' in o for o in placement_warnings(vol))


def test_3_12_one_slice_is_told():
    vol,_,_ = phantom()
    assert any('single slice' in o for o in placement_warnings(Volume(vol.data[:,:,:1], vol.affine)))


# 3.13: no home that can be written to

@pytest.mark.parametrize('home', ['/dev/null/none', '/proc/none'])
def test_3_13_without_a_writable_home_a_scan_is_segmented_with_one_note(tmp_path, home):
    vol,_,_ = phantom((24,28,22), (8.,8.,8.))
    write_volume(tmp_path/'a.nii.gz', vol)
    env = {k: v for k,v in os.environ.items() if k not in ('MEDALS_HOME','XDG_CACHE_HOME','HF_HOME','MPLCONFIGDIR')}
    cmd = [sys.executable, '-m', 'medals.cli', 'segment', 'a.nii.gz', 'left hippocampus', 'white matter', '--modality', 'mri', '-o', 'out']
    run = subprocess.run(cmd, cwd=tmp_path, env={**env, 'HOME': home}, capture_output=True, text=True)
    assert run.returncode==0 and 'Traceback' not in run.stderr, run.stderr
    notes = read_json(tmp_path/'out/manifest.json')['notes']
    assert sum('cannot be kept in' in o for o in notes)==1
    assert (run.stdout+run.stderr).count('cannot be kept in')==1 and 'Errno' not in run.stderr and 'atplotlib' not in run.stderr


def test_3_13_who_has_no_home_gets_one(monkeypatch):
    monkeypatch.delenv('MEDALS_HOME', raising=False)
    def nobody(*args): raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(files.Path, 'home', nobody)
    assert files.cache_dir().parent==files.Path(tempfile.gettempdir())
