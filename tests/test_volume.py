"Volumes through every orientation, type and scaling, and files that are broken"
import gzip
import io
import itertools
import os
import struct
import zipfile

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.core import UserError
from medals.volume import Volume, phantom, read_labels, read_prompts, read_volume, write_labels, write_volume

CODES = [''.join(p) for axes in itertools.permutations(('LR','AP','SI')) for p in itertools.product(*axes)]


@st.composite
def affines(draw):
    "Oblique, anisotropic affines in any orientation"
    turns = [draw(st.floats(-25, 25)) for _ in range(3)]
    spacing = [draw(st.floats(.3, 6)) for _ in range(3)]
    mat = np.eye(3)
    for a,(i,j) in zip(np.deg2rad(turns), ((0,1),(0,2),(1,2))):
        r = np.eye(3)
        r[[i,i,j,j],[i,j,i,j]] = [np.cos(a), -np.sin(a), np.sin(a), np.cos(a)]
        mat = mat@r
    order = draw(st.permutations(range(3)))
    flips = np.array([draw(st.sampled_from((-1,1))) for _ in range(3)])
    aff = np.eye(4)
    aff[:3,:3] = (mat*spacing*flips)[:,list(order)]
    aff[:3,3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return aff


def test_there_are_48_orientations(): assert len(set(CODES))==48


@settings(max_examples=60, deadline=None)
@given(aff=affines(), codes=st.sampled_from(CODES), dtype=st.sampled_from(('int16','uint8','float32')), scaled=st.booleans(),
       seed=st.integers(0, 99))
def test_read_turn_back_write_read(tmp_path_factory, aff, codes, dtype, scaled, seed):
    tmp = tmp_path_factory.mktemp('v')
    x = np.random.default_rng(seed).integers(0, 200, (4,5,6)).astype(dtype)
    img = nib.Nifti1Image(x, aff)
    if scaled: img.header.set_slope_inter(.5, -3)
    nib.save(img, tmp/'a.nii.gz')
    a = read_volume(tmp/'a.nii.gz')
    assert scaled or a.data.dtype==np.dtype(dtype)
    b = a.reorient(codes)
    assert b.orientation==codes
    i = np.unravel_index(b.data.argmax(), b.shape)
    j = np.argwhere(np.isclose(a.data, b.data.max()))
    assert np.abs(nib.affines.apply_affine(a.affine, j)-nib.affines.apply_affine(b.affine, i)).sum(1).min()<1e-3
    c = b.reorient(a.orientation)
    write_volume(tmp/'b.nii.gz', c)
    d = read_volume(tmp/'b.nii.gz')
    assert np.array_equal(a.data, d.data) and np.allclose(a.affine, d.affine, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(aff=affines(), codes=st.sampled_from(CODES))
def test_labels_made_in_another_frame_land_on_the_scan(tmp_path_factory, aff, codes):
    tmp = tmp_path_factory.mktemp('l')
    x = np.random.default_rng(0).integers(0, 3, (4,5,6)).astype(np.int16)
    scan = Volume(x, aff, codes=(1,2))
    there = scan.reorient(codes)
    labels = there.like((there.data>1).astype(np.uint8)).reorient(scan.orientation).data
    write_labels(tmp/'m.nii.gz', labels, scan, {1: 'left kidney'})
    back,names = read_labels(tmp/'m.nii.gz')
    img = nib.load(tmp/'m.nii.gz')
    assert np.array_equal(back.data, x>1) and names=={1: 'left kidney'}
    assert (int(img.header['qform_code']), int(img.header['sform_code']))==(1,2)
    assert np.allclose(img.affine, aff, atol=1e-3)


def nifti(tmp_path, x, name='x.nii.gz', **kw):
    nib.save(nib.Nifti1Image(x, np.eye(4), **kw), tmp_path/name)
    return tmp_path/name


def bad_zero_spacing(tmp_path):
    file = nifti(tmp_path, np.zeros((3,3,3), np.int16), 'z.nii')
    raw = bytearray(file.read_bytes())
    raw[80:92] = struct.pack('<3f', 0, 0, 0)        # pixdim
    raw[252:256] = struct.pack('<2h', 1, 0)         # qform 1, sform 0
    file.write_bytes(bytes(raw))
    return file


def bad_truncated(tmp_path):
    file = nifti(tmp_path, np.random.default_rng(0).integers(0, 999, (30,30,30)).astype(np.int16))
    file.write_bytes(file.read_bytes()[:9000])
    return file


def bad_text(tmp_path):
    (tmp_path/'t.nii.gz').write_text('I am not an image')
    return tmp_path/'t.nii.gz'


def bad_giant(tmp_path):
    file = nifti(tmp_path, np.zeros((3,3,3), np.int16), 'g.nii')
    raw = bytearray(file.read_bytes())
    raw[40:56] = struct.pack('<8h', 3, 30000, 30000, 30000, 1, 1, 1, 1)
    (tmp_path/'g.nii.gz').write_bytes(gzip.compress(bytes(raw)))
    return tmp_path/'g.nii.gz'


BAD = {
    '4D': (lambda t: nifti(t, np.zeros((3,3,3,2), np.int16)), 'one channel or time point'),
    'empty': (lambda t: nifti(t, np.zeros((3,0,3), np.int16)), 'empty|not a readable'),
    'NaN': (lambda t: nifti(t, np.full((3,3,3), np.nan, np.float32)), '27 voxels that are NaN'),
    'RGB': (lambda t: nifti(t, np.zeros((3,3,3), [('R','u1'),('G','u1'),('B','u1')])), 'colours'),
    'truncated': (bad_truncated, 'ends early'), 'text': (bad_text, 'not a readable NIfTI'),
    'zero spacing': (bad_zero_spacing, 'voxel size of zero'),
    'giant': (bad_giant, 'far more than'), 'missing': (lambda t: t/'none.nii.gz', 'no file'), 'folder': (lambda t: t, 'no DICOM files'),
    'unknown': (lambda t: [(t/'a.img2').write_text(''), t/'a.img2'][1], 'unknown kind')}


@pytest.mark.parametrize('kind', BAD)
def test_a_bad_file_is_one_clear_error(tmp_path, kind):
    make,says = BAD[kind]
    with pytest.raises(UserError, match=says) as e: read_volume(make(tmp_path))
    assert '\n' not in str(e.value)


def test_challenge_npz_and_its_prompts(tmp_path):
    x = np.arange(60, dtype=np.uint8).reshape(3,4,5)
    d = {'2': 'right kidney', '11': 'spleen', 'instance_label': 1}
    np.savez_compressed(tmp_path/'MR_case.npz', imgs=x, spacing=np.array([.8,.9,5.]), text_prompts=np.array(d, dtype=object))
    v = read_volume(tmp_path/'MR_case.npz')
    assert v.shape==(5,4,3) and v.spacing==pytest.approx((.8,.9,5.)) and v.modality=='mri' and v.data[4,2,1]==x[1,2,4]
    assert read_prompts(tmp_path/'MR_case.npz')==({2: 'right kidney', 11: 'spleen'}, True)


class Trap:
    def __init__(self, what, *args): self.what,self.args = what,args
    def __reduce__(self): return self.what, self.args


@pytest.mark.parametrize('trap', [Trap(os.system, 'touch sprung'), Trap(eval, '1')])
def test_hostile_prompts_are_refused(tmp_path, trap, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path/'CT_a.npz', imgs=np.zeros((2,2,2), np.uint8), spacing=[1.,1,1], text_prompts=np.array(trap, dtype=object))
    with pytest.raises(UserError, match='code and not text'): read_prompts(tmp_path/'CT_a.npz')
    assert not (tmp_path/'sprung').exists()


def test_labels_need_the_grid_of_the_scan(tmp_path):
    vol,lbl,names = phantom()
    with pytest.raises(UserError, match='do not lie on'): write_labels(tmp_path/'a.nii.gz', lbl[1:], vol, names)
    assert not list(tmp_path.iterdir())


def test_names_come_from_inside_the_file_or_from_beside_it(tmp_path):
    vol,lbl,names = phantom()
    write_labels(tmp_path/'a.nii.gz', lbl, vol, names)
    (tmp_path/'a.medals.json').unlink()
    assert read_labels(tmp_path/'a.nii.gz')[1]==names
    nib.save(nib.Nifti1Image(lbl, vol.affine), tmp_path/'b.nii.gz')
    (tmp_path/'b.json').write_text('{"EchoTime": 0.003}')   # a sidecar of a converter
    assert read_labels(tmp_path/'b.nii.gz')[1]=={}
    write_labels(tmp_path/'b.nii.gz', lbl, vol, names)
    assert (tmp_path/'b.json').read_text()=='{"EchoTime": 0.003}' and read_labels(tmp_path/'b.nii.gz')[1]==names


@pytest.mark.parametrize('codes', [(0,0), (1,0), (0,2), (1,2)])
def test_labels_keep_both_placements_of_the_scan(tmp_path, codes):
    img = nib.Nifti1Image(np.zeros((4,5,6), np.int16), np.diag([-2.,2,3,1]))
    q = np.diag([2.,2,3,1])
    q[:3,3] = 5,6,7
    img.set_sform(np.diag([-2.,2,3,1]), codes[1])
    img.set_qform(q, codes[0])
    nib.save(img, tmp_path/'scan.nii.gz')
    scan = read_volume(tmp_path/'scan.nii.gz')
    write_labels(tmp_path/'m.nii.gz', np.ones(scan.shape, np.uint8), scan)
    a,b = nib.load(tmp_path/'scan.nii.gz'),nib.load(tmp_path/'m.nii.gz')
    assert np.allclose(a.affine, b.affine)
    for k in ('qform_code','sform_code'): assert a.header[k]==b.header[k]
    if codes[0]: assert np.allclose(a.get_qform(), b.get_qform(), atol=1e-5)
    if codes[1]: assert np.allclose(a.get_sform(), b.get_sform(), atol=1e-5)
    if all(codes): assert any('differ by up to' in o for o in scan.notes)


def raw_npz(path, **members):
    with zipfile.ZipFile(path, 'w') as z:
        for k,v in members.items(): z.writestr(k+'.npy', v)
    return path


def npy(x):
    f = io.BytesIO()
    np.save(f, x)
    return f.getvalue()


def liar(shape, dtype='<f8'):
    f = io.BytesIO()
    np.lib.format.write_array_header_1_0(f, dict(descr=dtype, fortran_order=False, shape=shape))
    return f.getvalue()


ONES,CUBE = npy(np.ones(3)),npy(np.ones((3,3,3)))

@pytest.mark.parametrize('bad', [
    dict(imgs=liar((99999,)*3), spacing=ONES), dict(imgs=CUBE[:90], spacing=ONES), dict(imgs=CUBE, spacing=npy(np.array(['a','b','c']))),
    dict(imgs=npy(np.ones((3,3,3), complex)), spacing=ONES), dict(imgs=b'nothing', spacing=ONES), dict(imgs=CUBE),
    dict(imgs=CUBE, spacing=npy(np.zeros(3))), dict(imgs=npy(np.array([['a']])), spacing=ONES), dict(spacing=ONES)])
def test_npz_files_that_lie_are_refused_in_one_sentence(tmp_path, bad):
    with pytest.raises(UserError): read_volume(raw_npz(tmp_path/'MR_x.npz', **bad))


def test_a_hostile_pickle_gets_no_memory(tmp_path):
    "A pickle of a few bytes that asks numpy for an array of many gigabytes"
    class Greedy:
        def __reduce__(self): return np.ndarray, ((10**5,10**5,10**2),)
    for odd in (Greedy(), [Greedy()], {'1': Greedy()}, {'1': {}}, {1.5: 'a'}, 7, None):
        box = np.empty((), object)
        box[()] = odd
        np.savez(tmp_path/'a.npz', imgs=np.zeros((2,2,2)), spacing=np.ones(3), text_prompts=box)
        with pytest.raises(UserError): read_prompts(tmp_path/'a.npz')


def test_a_volume_of_a_file_with_several_has_a_name_everywhere(tmp_path, capsys):
    "By its number from 0, as nibabel has it; in Python, in a label map, and behind --series, --time and --channel"
    from medals import cli
    from medals.commands.images import find_images, one_series, with_choice
    from medals.volume import read_labels
    x = np.stack([np.arange(60).reshape(3,4,5)+100*i for i in range(3)], -1).astype(np.int16)
    nib.save(nib.Nifti1Image(x, np.diag([1,2,3,1])), tmp_path/'four.nii.gz')
    nib.save(nib.MGHImage(x, np.diag([1,2,3,1])), tmp_path/'four.mgz')
    for file in ('four.nii.gz','four.mgz'):
        for n in range(3):
            named = tmp_path/f'{file}#{n}'
            assert np.array_equal(read_volume(named).data, nib.load(tmp_path/file).dataobj[...,n])
            assert read_labels(named)[0].data.max()==100*n+59
            said = [with_choice(tmp_path/file, **{flag: str(n)}) for flag in ('time','channel')]
            assert {*said, one_series(tmp_path/file, str(n))}=={named}
        with pytest.raises(UserError, match='has 3 channels'): read_volume(tmp_path/f'{file}#3')
    assert list(find_images([tmp_path/'four.nii.gz#1']))==['four.nii.gz#1']
    bad = {'no names but numbers': ['--series','t1'], 'holds 3 volumes': [], 'is neither': ['--time','1','--channel','0']}
    for says,extra in bad.items():
        assert cli.main(['segment', str(tmp_path/'four.nii.gz'), 'liver', '--weights', 'nano', '-o', str(tmp_path/'o'), *extra])==2
        assert says in capsys.readouterr().err and not (tmp_path/'o').exists()
