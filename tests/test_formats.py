"NRRD, MetaImage and FreeSurfer files: values and places against other readers, on files that other writers made; damaged and hostile files"
import gzip
import itertools
import re
import struct
import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest

from medals.core import UserError
from medals.scans.grids import corner_gap
from medals.volume import read_labels, read_volume

itk = pytest.importorskip('SimpleITK')
nrrd = pytest.importorskip('nrrd')

CODES = [''.join(p) for axes in itertools.permutations(('LR','AP','SI')) for p in itertools.product(*axes)]
LPS_TO_RAS = np.diag([-1,-1,1,1])
SPACES = {'left-posterior-superior': (-1,-1,1), 'right-anterior-superior': (1,1,1), 'left-anterior-superior': (-1,1,1), 'LPS': (-1,-1,1),
          'RAS': (1,1,1), 'LAS': (-1,1,1), 'scanner-xyz': (-1,-1,1), '3D-right-handed': (-1,-1,1)}


def oblique(codes):
    "An affine in an orientation, oblique and anisotropic, and values of its own"
    rng = np.random.default_rng(CODES.index(codes))
    angles = np.deg2rad([9,-6,12])
    turn = np.eye(3)
    for angle,(i,j) in zip(angles, ((0,1),(0,2),(1,2))):
        r = np.eye(3)
        r[[i,i,j,j],[i,j,i,j]] = [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
        turn = turn@r
    affine = np.eye(4)
    flips = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1,1,1))[:3,:3]
    affine[:3,:3] = turn@np.linalg.inv(flips)@np.diag([.7,1.1,2.5])
    affine[:3,3] = rng.uniform(-90, 90, 3)
    return affine,rng.integers(-999, 999, (5,6,7)).astype(np.int16)


def by_itk(file):
    "Values and affine as SimpleITK has them"
    image = itk.ReadImage(str(file))
    affine = np.eye(4)
    affine[:3,:3] = np.array(image.GetDirection()).reshape(3,3)*image.GetSpacing()
    affine[:3,3] = image.GetOrigin()
    return itk.GetArrayFromImage(image).T,LPS_TO_RAS@affine


def itk_image(x, affine):
    image = itk.GetImageFromArray(x.T)
    lps = LPS_TO_RAS@affine
    spacing = np.linalg.norm(lps[:3,:3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3,:3]/spacing).ravel().tolist())
    image.SetOrigin(lps[:3,3].tolist())
    return image


def write_nrrd(file, x, affine, space, **more):
    signs = np.array(SPACES[space])
    placed = signs[:,None]*affine[:3]
    nrrd.write(str(file), x, {'space': space, 'space directions': placed[:,:3].T, 'space origin': placed[:,3], **more})


@pytest.mark.parametrize('codes', CODES)
def test_every_orientation_lies_where_others_see_it(tmp_path, codes):
    affine,x = oblique(codes)
    space = list(SPACES)[CODES.index(codes)%3]
    write_nrrd(tmp_path/'a.nrrd', x, affine, space, encoding=('gzip','raw')[CODES.index(codes)%2])
    itk.WriteImage(itk_image(x, affine), str(tmp_path/'b.mha'), useCompression=codes[0] in 'LA')
    itk.WriteImage(itk_image(x, affine), str(tmp_path/'c.mhd'), useCompression=codes[1] in 'LA')
    write_nrrd(tmp_path/'d.nhdr', x, affine, 'LPS')
    nib.save(nib.MGHImage(x, affine), tmp_path/'e.mgz')
    for name in ('a.nrrd','b.mha','c.mhd','d.nhdr','e.mgz'):
        vol = read_volume(tmp_path/name)
        if name=='e.mgz':
            other = nib.load(tmp_path/name)
            values,there = np.asarray(other.dataobj),other.affine
        else: values,there = by_itk(tmp_path/name)
        assert vol.data.dtype==np.int16 and np.array_equal(vol.data, values) and np.array_equal(vol.data, x), name
        assert corner_gap(x.shape, vol.affine, there)[0]<1e-4 and corner_gap(x.shape, vol.affine, affine)[0]<2e-3, name
        assert vol.orientation==codes and not vol.notes, name


@pytest.mark.parametrize('space', SPACES)
def test_every_space_is_placed_as_itk_places_it(tmp_path, space):
    affine,x = oblique('LPI')
    write_nrrd(tmp_path/'a.nrrd', x, affine, space)
    vol = read_volume(tmp_path/'a.nrrd')
    assert corner_gap(x.shape, vol.affine, by_itk(tmp_path/'a.nrrd')[1])[0]<1e-6 and corner_gap(x.shape, vol.affine, affine)[0]<1e-6
    assert bool(vol.notes)==(space in ('scanner-xyz', '3D-right-handed'))
    for unit in ('mm','um'): # which ITK does not look at, and viewers do as ITK
        write_nrrd(tmp_path/'a.nrrd', x, affine, space, **{'space units': [unit]*3})
        got = read_volume(tmp_path/'a.nrrd')
        assert np.allclose(got.affine, vol.affine) and any('lengths in um' in o for o in got.notes)==(unit=='um')


def test_nrrd_without_a_space_is_placed_as_itk_places_it(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(3,4,5)
    nrrd.write(str(tmp_path/'a.nrrd'), x, {'spacings': [1.,2.,3.]})
    nrrd.write(str(tmp_path/'b.nrrd'), x, {'spacings': [1.,2.,3.], 'axis mins': [5.,6.,7.]})
    for name in ('a.nrrd','b.nrrd'):
        vol = read_volume(tmp_path/name)
        assert np.allclose(vol.affine, by_itk(tmp_path/name)[1]) and vol.spacing==(1,2,3) and 'says nothing of how' in vol.notes[0]


@pytest.mark.parametrize('kind', ['int8','uint8','int16','uint16','int32','uint32','int64','uint64','float32','float64'])
def test_every_type_and_byte_order(tmp_path, kind):
    x = np.random.default_rng(0).integers(0, 99, (4,5,6)).astype(kind)
    image = itk.GetImageFromArray(x.T)
    itk.WriteImage(image, str(tmp_path/'a.nrrd'), useCompression=True)
    itk.WriteImage(image, str(tmp_path/'b.mha'), useCompression=True)
    header = (tmp_path/'a.nrrd').read_bytes().split(b'\n\n')[0]
    header = header.replace(b'encoding: gzip', b'encoding: raw').replace(b'endian: little', b'endian: big')
    (tmp_path/'c.nrrd').write_bytes(header+b'\n\n'+x.astype(x.dtype.newbyteorder('>')).tobytes(order='F'))
    raw = (tmp_path/'b.mha').read_bytes()
    head = re.sub(rb'CompressedDataSize = \d+\n', b'', raw[:raw.index(b'LOCAL\n')+6].replace(b'MSB = False', b'MSB = True')).replace(
        b'CompressedData = True', b'CompressedData = False')
    (tmp_path/'d.mha').write_bytes(head+x.astype(x.dtype.newbyteorder('>')).tobytes(order='F'))
    nrrd.write(str(tmp_path/'e.nrrd'), x, {'encoding': 'ascii'})
    for name in ('a.nrrd','b.mha','c.nrrd','d.mha','e.nrrd'):
        got = read_volume(tmp_path/name).data
        assert np.array_equal(got, x) and np.array_equal(got, by_itk(tmp_path/name)[0]) and got.dtype.isnative, name


def test_channels_and_times_are_chosen_by_number(tmp_path):
    x = np.random.default_rng(0).integers(0, 99, (2,4,5,6)).astype(np.int16)
    directions = np.vstack([np.full(3, np.nan), np.eye(3)])
    kinds = ['list','domain','domain','domain']
    nrrd.write(str(tmp_path/'first.nrrd'), x, {'space': 'LPS', 'kinds': kinds, 'space directions': directions})
    last = {'space': 'LPS', 'kinds': kinds[::-1], 'space directions': directions[[1,2,3,0]]}
    nrrd.write(str(tmp_path/'last.nrrd'), np.moveaxis(x, 0, -1), last)
    itk.WriteImage(itk.JoinSeries([itk.GetImageFromArray(o.T) for o in x]), str(tmp_path/'time.mha'), useCompression=True)
    itk.WriteImage(itk.JoinSeries([itk.GetImageFromArray(o.T) for o in x]), str(tmp_path/'time.nrrd'))
    itk.WriteImage(itk.GetImageFromArray(x.T, isVector=True), str(tmp_path/'vector.mhd'), useCompression=True)
    nib.save(nib.MGHImage(np.moveaxis(x, 0, -1).astype(np.float32), np.eye(4)), tmp_path/'frames.mgz')
    for name in ('first.nrrd','last.nrrd','time.mha','time.nrrd','vector.mhd','frames.mgz'):
        for n in range(2): assert np.array_equal(read_volume(tmp_path/name, series=n).data, x[n]), (name, n)
        with pytest.raises(UserError, match='has 2 channels'): read_volume(tmp_path/name, series=2)
        with pytest.raises(UserError, match='one real number per voxel|one value per voxel'): read_volume(tmp_path/name)


def sample(tmp_path, end, packed=True):
    x = np.random.default_rng(0).integers(0, 999, (30,30,30)).astype(np.int16)
    file = tmp_path/f'x{end}'
    if end.startswith('.mg'): nib.save(nib.MGHImage(x, np.eye(4)), file)
    else: itk.WriteImage(itk.GetImageFromArray(x), str(file), useCompression=packed)
    return file


def edited(tmp_path, end, old, new, packed=True):
    file = sample(tmp_path, end, packed)
    raw = file.read_bytes()
    assert old in raw
    file.write_bytes(raw.replace(old, new, 1))
    return file


def cut(tmp_path, end, packed=True):
    file = sample(tmp_path, end, packed)
    raw = file.read_bytes()
    file.write_bytes(raw[:len(raw)*2//3])
    return file


def bent(tmp_path, end):
    "One bit of the compressed values is another"
    file = sample(tmp_path, end)
    raw = bytearray(file.read_bytes())
    raw[-2000] ^= 16
    file.write_bytes(raw)
    return file


def rgb(tmp_path):
    x = np.zeros((4,5,6,3), np.uint8)
    itk.WriteImage(itk.GetImageFromArray(x, isVector=True), str(tmp_path/'x.nrrd'))
    return tmp_path/'x.nrrd'


def bzip2(tmp_path):
    nrrd.write(str(tmp_path/'x.nrrd'), np.zeros((3,4,5), np.int16), {'encoding': 'bz2'})
    return tmp_path/'x.nrrd'


def complex_numbers(tmp_path):
    itk.WriteImage(itk.GetImageFromArray(np.zeros((4,5,6), np.complex64)), str(tmp_path/'x.nrrd'))
    return tmp_path/'x.nrrd'


def lone(tmp_path, end):
    file = sample(tmp_path, end)
    for other in tmp_path.iterdir():
        if other!=file: other.unlink()
    return file


def secret(tmp_path, end, name):
    (tmp_path/'data').mkdir()
    file = sample(tmp_path/'data', end, packed=False)
    raw = file.with_suffix('.raw').read_bytes()
    (tmp_path/'secret.raw').write_bytes(raw)
    key = b'data file: x.raw' if end=='.nhdr' else b'ElementDataFile = x.raw'
    target = name.replace('HERE', str(tmp_path)).encode()
    file.write_bytes(file.read_bytes().replace(key, key.replace(b'x.raw', target)))
    return file


def mgz_sizes(tmp_path, dims):
    raw = bytearray(gzip.decompress(sample(tmp_path, '.mgz').read_bytes()))
    raw[4:20] = struct.pack('>4i', *dims)
    (tmp_path/'y.mgz').write_bytes(gzip.compress(bytes(raw)))
    return tmp_path/'y.mgz'


def bomb(tmp_path):
    "A stream that is as large as it can be says that it holds far more"
    head = sample(tmp_path, '.mha').read_bytes().split(b'LOCAL\n')[0].replace(b'30 30 30', b'4000 4000 4000')+b'LOCAL\n'
    (tmp_path/'y.mha').write_bytes(head+zlib.compress(bytes(2**20)))
    return tmp_path/'y.mha'


BAD = {
    'nrrd truncated': (lambda t: cut(t, '.nrrd'), 'damaged or incomplete'),
    'nrrd raw truncated': (lambda t: cut(t, '.nrrd', False), 'more than its file can hold'),
    'mha truncated': (lambda t: cut(t, '.mha'), 'damaged or incomplete'),
    'mha raw truncated': (lambda t: cut(t, '.mha', False), 'more than its file can hold'),
    'mgz truncated': (lambda t: cut(t, '.mgz'), 'damaged or incomplete'),
    'mgh truncated': (lambda t: cut(t, '.mgh'), 'damaged or incomplete'),
    'nrrd damaged': (lambda t: bent(t, '.nrrd'), 'damaged or incomplete'),
    'mha damaged': (lambda t: bent(t, '.mha'), 'damaged or incomplete'),
    'mgz damaged': (lambda t: bent(t, '.mgz'), 'damaged or incomplete'),
    'colors': (rgb, 'colours, channels or times'),
    'complex': (complex_numbers, 'values per voxel|not intensities'),
    'nrrd empty': (lambda t: edited(t, '.nrrd', b'sizes: 30 30 30', b'sizes: 30 0 30'), 'can be read|is empty'),
    'mha empty': (lambda t: edited(t, '.mha', b'30 30 30', b'30 0 30'), 'is empty|can be read'),
    'no bytes at all': (lambda t: [(t/'x.nrrd').write_bytes(b''), t/'x.nrrd'][1], 'can be read|nothing that it names|readable'),
    'text': (lambda t: [(t/'x.mha').write_text('I am no image\n'), t/'x.mha'][1], 'no readable'),
    'mgz text': (lambda t: [(t/'x.mgz').write_text('I am no image\n'), t/'x.mgz'][1], 'not a readable MGH'),
    'endless header': (lambda t: [(t/'x.nrrd').write_bytes(b'NRRD0004\n'+b'#'*2**25), t/'x.nrrd'][1], 'header without an end'),
    'giant nrrd': (lambda t: edited(t, '.nrrd', b'sizes: 30 30 30', b'sizes: 90000 90000 90000'), 'more than its file'),
    'giant mha': (lambda t: edited(t, '.mha', b'30 30 30', b'90000 90000 90000'), 'more than its file'),
    'giant beyond 64 bits': (lambda t: edited(t, '.nrrd', b'sizes: 30 30 30', b'sizes:'+3*b' 4000000000'), 'more than|can be read'),
    'bomb': (bomb, 'more than its file'),
    'giant mgz': (lambda t: mgz_sizes(t, (30000,30000,30000,1)), 'far more than it can hold'),
    'negative mgz': (lambda t: mgz_sizes(t, (-30,-30,30,1)), 'is empty|far more'),
    'no frames': (lambda t: mgz_sizes(t, (30,30,30,0)), 'far more than'),
    'nhdr alone': (lambda t: lone(t, '.nhdr'), 'is not beside it'),
    'mhd alone': (lambda t: lone(t, '.mhd'), 'is not beside it'),
    'absolute nhdr': (lambda t: secret(t, '.nhdr', 'HERE/secret.raw'), 'outside its folder'),
    'absolute mhd': (lambda t: secret(t, '.mhd', 'HERE/secret.raw'), 'outside its folder'),
    'parent nhdr': (lambda t: secret(t, '.nhdr', '../secret.raw'), 'outside its folder'),
    'parent mhd': (lambda t: secret(t, '.mhd', '../secret.raw'), 'outside its folder'),
    'Windows mhd': (lambda t: secret(t, '.mhd', 'C:\\secret.raw'), 'outside its folder'),
    'list of files': (lambda t: secret(t, '.mhd', 'LIST\n../secret.raw'), 'outside its folder'),
    'pattern of files': (lambda t: secret(t, '.nhdr', '../secret%d.raw 1 1 1'), 'outside its folder'),
    'two data files': (lambda t: secret(t, '.nhdr', 'x.raw\ndata file: HERE/secret.raw'), 'twice in its header'),
    'bzip2': (bzip2, 'encoding raw or gzip'),
    'flat': (lambda t: edited(t, '.nrrd', b'(1,0,0) (0,1,0)', b'(1,0,0) (1,0,0)'), 'flat|can be read'),
}


@pytest.mark.parametrize('kind', BAD)
def test_a_bad_file_is_one_clear_error(tmp_path, kind, capfd):
    make,says = BAD[kind]
    file = make(tmp_path)
    with pytest.raises(UserError, match=says) as e: read_volume(file)
    assert '\n' not in str(e.value) and len(str(e.value))<400+2*len(str(file))
    with pytest.raises(UserError): read_labels(file)


def test_a_bad_file_ends_the_command_with_2_and_writes_nothing(tmp_path):
    file = cut(tmp_path, '.mha')
    call = [sys.executable, '-m', 'medals.cli', 'segment', str(file), 'brain', '--weights', 'nano', '-o', str(tmp_path/'out')]
    res = subprocess.run(call, capture_output=True, text=True)
    assert res.returncode==2 and 'Traceback' not in res.stderr and not (tmp_path/'out').exists()
    assert len([o for o in res.stderr.splitlines() if 'damaged or incomplete' in o])==1


def test_one_sentence_where_simpleitk_is_missing(tmp_path, monkeypatch):
    file = sample(tmp_path, '.nrrd')
    monkeypatch.setattr('medals.scans.itk_image.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install "medals\[formats\] @ git\+https:'): read_volume(file)


def test_gzip_without_isal_is_the_same(tmp_path, monkeypatch):
    files = [sample(tmp_path, end) for end in ('.nrrd','.mha','.mgz')]
    before = [read_volume(f).data for f in files]
    monkeypatch.setattr('medals.scans.compressed.find_spec', lambda name: None)
    for f,x in zip(files, before): assert np.array_equal(read_volume(f).data, x)


def test_a_slice_is_a_scan_of_one(tmp_path):
    x = np.arange(20, dtype=np.int16).reshape(4,5)
    nrrd.write(str(tmp_path/'a.nrrd'), x, {'spacings': [2.,3.]})
    vol = read_volume(tmp_path/'a.nrrd')
    assert vol.shape==(4,5,1) and vol.spacing==(2,3,1) and np.array_equal(vol.data[...,0], x)
