"Archives of scans, as exporters make them and as nobody should make them"
import gzip
import io
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medals.commands.images import find_images, one_series, split_words
from medals.core import UserError
from medals.dicom import find_series
from medals.volume import phantom, read_volume, write_volume
from test_dicom import agrees, write_series

pydicom = pytest.importorskip('pydicom')


@pytest.fixture
def head(): return phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')


def zipped(path, folder):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for f in sorted(folder.rglob('*')): z.write(f, f.relative_to(folder))
    return path

def tarred(path, folder):
    with tarfile.open(path, 'w:'+dict(gz='gz', tgz='gz', bz2='bz2', xz='xz').get(path.suffix[1:], '')) as t: t.add(folder, 'export')
    return path


@pytest.mark.parametrize('name', ['a.zip', 'a.ZIP', 'a.tar', 'a.tar.gz', 'a.tgz', 'a.tar.bz2', 'a.tar.xz'])
def test_a_series_in_an_archive_is_what_simpleitk_reads_from_the_folder(tmp_path, head, name):
    write_series(tmp_path/'e'/'DICOM'/'S1', head, name='IM{k}')
    (tmp_path/'e'/'VIEWER').mkdir()
    (tmp_path/'e'/'VIEWER'/'run.exe').write_bytes(b'MZ'+bytes(500))
    pack = zipped if 'zip' in name.lower() else tarred
    vol = read_volume(pack(tmp_path/name, tmp_path/'e'))
    agrees(vol, tmp_path/'e'/'DICOM'/'S1')
    assert np.array_equal(vol.onto(head).data, head.data) and vol.source.endswith(name) and not vol.notes


def test_an_export_of_several_series_is_listed_and_one_is_chosen(tmp_path, head):
    write_series(tmp_path/'e'/'a', head)
    write_series(tmp_path/'e'/'b', head.like(head.data//2), series='1.2.826.0.9', SeriesDescription='bone', SeriesNumber=4)
    file = zipped(tmp_path/'x.zip', tmp_path/'e')
    with pytest.raises(UserError, match='holds 2 series') as e: read_volume(file)
    assert all(o in str(e.value) for o in ('x.zip', 'number 4', 'bone', 'CT', '10 files of 12x14', '--series'))
    assert 'medals-' not in str(e.value)
    word = one_series(str(file), 'bone')
    assert word==f'{file}#1.2.826.0.9' and split_words([word, 'liver'])[0]==[word]
    (found,) = find_images([word]).values()
    for vol in (read_volume(found), read_volume(file, series='4'), read_volume(file, series='1.2.826.0.9')):
        assert np.array_equal(vol.onto(head).data, head.data//2)
    assert len(find_images([file], every=True))==2
    assert len(find_series(word).slices)==10


def test_one_readable_file_of_several_in_an_archive(tmp_path, head):
    write_volume(tmp_path/'e'/'p1'/'t1.nii.gz', head)
    write_volume(tmp_path/'e'/'p2'/'t2.nii.gz', head.like(head.data//2))
    file = tarred(tmp_path/'x.tar.gz', tmp_path/'e')
    with pytest.raises(UserError, match='holds 2 scans') as e: read_volume(file)
    assert 'p2/t2.nii.gz' in str(e.value)
    assert np.array_equal(read_volume(file, series='t2').data, head.data//2)
    assert np.array_equal(read_volume(one_series(str(file), 't2')).data, head.data//2)
    with pytest.raises(UserError, match='none of them called t3'): read_volume(file, series='t3')


def test_a_folder_of_archives_is_a_cohort_unless_there_are_scans(tmp_path, head):
    write_series(tmp_path/'e', head)
    (tmp_path/'zips').mkdir()
    for n in 'ab': zipped(tmp_path/'zips'/f'{n}.zip', tmp_path/'e')
    assert set(find_images([tmp_path/'zips']))=={'a','b'}
    write_volume(tmp_path/'zips'/'c.nii.gz', head)
    assert set(find_images([tmp_path/'zips']))=={'c'}


def test_a_dicomdir_stands_for_its_disc(tmp_path, head):
    from pydicom.fileset import FileSet
    disc = FileSet()
    files = write_series(tmp_path/'s', head, StudyDate='20200101', StudyTime='120000', StudyID='1', SeriesNumber=1)
    for f in files: disc.add(pydicom.dcmread(f))
    disc.write(tmp_path/'disc')
    for place in (tmp_path/'disc', tmp_path/'disc'/'DICOMDIR', zipped(tmp_path/'disc.zip', tmp_path/'disc')):
        vol = read_volume(place)
        assert np.array_equal(vol.onto(head).data, head.data) and not vol.notes


def zip_of(path, *members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for info,data in members: z.writestr(info, data)
    return path

def linked(path):
    info = zipfile.ZipInfo('a.nii')
    info.external_attr = (stat.S_IFLNK|0o777)<<16
    return zip_of(path, (info, '/etc/passwd'))

def encrypted(path):
    raw = bytearray(zip_of(path, ('a.nii', b'abc')).read_bytes())
    raw[6] |= 1
    raw[raw.index(b'PK\1\2')+8] |= 1
    path.write_bytes(raw)
    return path

def claims(path):
    "A member that says it has four gigabytes"
    raw = bytearray(zip_of(path, ('a.nii', b'abc')).read_bytes())
    at = raw.index(b'PK\1\2')
    raw[at+24:at+28] = b'\xf0\xff\xff\xff'
    path.write_bytes(raw)
    return path

def long_header(path):
    "A tar whose extended header would fill the memory"
    info = tarfile.TarInfo('pax')
    info.type,info.size = tarfile.XHDTYPE,2**35
    with gzip.open(path.with_suffix('.tgz'), 'wb') as f:
        f.write(info.tobuf(tarfile.GNU_FORMAT))
        f.write(bytes(10**6))
    return path.with_suffix('.tgz')

def hard_link(path):
    path = path.with_suffix('.tar')
    with tarfile.open(path, 'w') as t:
        info = tarfile.TarInfo('b.nii')
        info.type,info.linkname = tarfile.LNKTYPE,'../../x'
        t.addfile(info)
    return path

def empty_tar(path):
    path = path.with_suffix('.tar')
    path.write_bytes(bytes(10240))
    return path

def no_scan(path): return zip_of(path, ('a.txt', 'hello'))
def up(path): return zip_of(path, ('x/../../../a.nii', 'abc'))
def root(path): return zip_of(path, ('/tmp/a.nii', 'abc'))
def drive(path): return zip_of(path, ('C:\\a.nii', 'abc'))
def inner(path): return zip_of(path, ('b.nii.gz', b'\x1f\x8bxx'))
def noise(path):
    path.write_bytes(os.urandom(500))
    return path
def cut(path):
    zip_of(path, ('a.nii', os.urandom(5000)))
    path.write_bytes(path.read_bytes()[:3000])
    return path
def short_tar(path):
    path = path.with_suffix('.tgz')
    with tarfile.open(path, 'w:gz') as t:
        info = tarfile.TarInfo('a.nii')
        info.size = 5000
        t.addfile(info, io.BytesIO(os.urandom(5000)))
    path.write_bytes(path.read_bytes()[:3000])
    return path

NO_SCAN = 'no file that could be a scan'

BAD = [
    (linked, 'holds a link'), (encrypted, 'encrypted'), (claims, 'which no scan does'), (long_header, 'damaged'),
    (hard_link, 'holds a link'), (empty_tar, NO_SCAN), (no_scan, NO_SCAN), (up, 'would lead out'), (root, 'would lead out'),
    (drive, 'would lead out'),
    (inner, 'damaged|ends early|not a'), (noise, 'damaged'), (cut, 'damaged'), (short_tar, 'damaged')]

@pytest.mark.parametrize('make, says', BAD, ids=[o[0].__name__ for o in BAD])
def test_hostile_archives_are_refused_in_one_sentence(tmp_path, make, says):
    file = make(tmp_path/'x.zip')
    before = set(os.listdir(tmp_path))
    with pytest.raises(UserError, match=says) as e: read_volume(file)
    assert '\n' not in str(e.value) and len(str(e.value))<500 and set(os.listdir(tmp_path))==before
    assert not Path(tempfile.gettempdir(), 'a.nii').exists()
