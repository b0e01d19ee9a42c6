"Files that are written: what others read in them, what they replace, and what is refused before anything runs"
import csv
import os
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import medals.inference.result
import medals.show
from medals.cli import main, parser
from medals.commands.cohort import CohortCfg, question
from medals.core import UserError
from medals.base.files import asset, read_json, read_lines, read_toml, write_json
from medals.dicom import dicom_series
from medals.evaluation.evaluate import read_names
from medals.data.indexing import read_catalogue
from medals.scans.outputs import check_out, file_names
from medals.inference.result import Segmentation
from medals.text import TextEncoder
from medals.volume import Volume, phantom, read_labels, read_volume, write_labels, write_volume
from medals.weights import NAMED
from test_dicom import frames_of, write_series
from test_volume import affines

hd = pytest.importorskip('highdicom')
pydicom = pytest.importorskip('pydicom')
sitk = pytest.importorskip('SimpleITK')
from medals.inference.seg_reader import read_seg
from medals.inference.dicom_seg import check_source, label_of, write_seg


# 2.1 Which slices of a DICOM series are marked changes nothing about where they lie

def places(m, affine):
    "Where the voxels of a mask lie in the patient, RAS mm, sorted"
    return sorted(map(tuple, np.round(np.argwhere(m)@affine[:3,:3].T+affine[:3,3], 2)+0.))


def by_itk(file):
    "Where SimpleITK, which knows nothing of segments, puts what is marked"
    img = sitk.ReadImage(str(file))
    x = sitk.GetArrayFromImage(img).transpose(2,1,0)
    aff = np.eye(4)
    aff[:3,:3] = np.array(img.GetDirection()).reshape(3,3)*img.GetSpacing()
    aff[:3,3] = img.GetOrigin()
    return x>0,np.diag([-1,-1,1,1])@aff


def by_highdicom(file, number=1):
    "Where highdicom puts a segment"
    part = hd.seg.segread(file).get_volume(segment_numbers=[number], rescale_fractional=False)
    return part.array[...,0]>0,np.diag([-1,-1,1,1])@part.affine


def near(a, b, mm=.02):
    "Are two lists of places the same?"
    if len(a)!=len(b): return False
    if not a: return True
    gaps = np.abs(np.array(a)[:,None]-np.array(b)[None]).max(-1)
    return bool((gaps.min(0)<mm).all() and (gaps.min(1)<mm).all())


def series_of(folder, codes='LPS', mm=12., n=12):
    "A coarse series and the scan that is read from it"
    aff = np.diag([2., 3., mm, 1.])
    aff[:3,3] = [-10, 5, 20]
    x = np.random.default_rng(0).integers(0, 200, (7,6,n)).astype(np.int16)
    on = Volume(x, aff).reorient(codes)
    write_series(folder, on, 'MR')
    return read_volume(folder)


CODES = ('LPS', 'LPI', 'RAS', 'PSR', 'AIR', 'LSA', 'RIP') # axial, reversed, sagittal, coronal

@pytest.mark.parametrize('codes', CODES)
@pytest.mark.parametrize('which', [(3,), (3,5), (0,2,4), (1,2,5), ()], ids=str)
def test_2_1_any_slices_of_any_orientation_come_back_by_three_readers(tmp_path, codes, which):
    scan,m = series_of(tmp_path/'s', codes),None
    m = np.zeros(scan.shape, bool)
    for i,k in enumerate(which): m[1:4,1+i%2:4,k] = True
    write_seg(tmp_path/'seg.dcm', {'a': m}, scan, tmp_path/'s')
    assert np.array_equal(read_seg(tmp_path/'seg.dcm', scan)['a'], m)
    want = places(m, scan.affine)
    for got in (by_highdicom, by_itk): assert near(places(*got(tmp_path/'seg.dcm')), want), got.__name__
    measures = pydicom.dcmread(tmp_path/'seg.dcm').SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices==pytest.approx(scan.spacing[2], abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(aff=affines(), kept=st.sets(st.integers(0, 8)), seed=st.integers(0, 99), two=st.booleans())
def test_2_1_random_slices_of_oblique_series(tmp_path_factory, aff, kept, seed, two):
    gen,tmp = np.random.default_rng(seed),tmp_path_factory.mktemp('s')
    write_series(tmp/'s', Volume(gen.integers(0, 200, (8,5,9)).astype(np.int16), aff), 'CT', SpacingBetweenSlices='-1')
    scan = read_volume(tmp/'s')
    m = gen.random(scan.shape)<.4
    m[:,:,[k for k in range(9) if k not in kept]] = False
    masks = {'a': m, 'b': ~m} if two else {'a': m}
    write_seg(tmp/'seg.dcm', masks, scan, tmp/'s')
    back = read_seg(tmp/'seg.dcm', scan)
    for number,(k,v) in enumerate(masks.items(), 1):
        assert np.array_equal(back[k], v)
        assert near(places(*by_highdicom(tmp/'seg.dcm', number)), places(v, scan.affine))
    if not two:
        assert near(places(*by_itk(tmp/'seg.dcm')), places(m, scan.affine))
        return
    frames,_ = frames_of(tmp/'seg.dcm') # each on its own slice of the series
    for k,s in enumerate(dicom_series(tmp/'s')[0]): assert np.array_equal(frames.get((1, s.uid), m[:,:,k].T*0), m[:,:,k].T)


@pytest.mark.parametrize('which', [(0,), (4,), (9,), (1,7)], ids=str)
def test_2_1_pixels_that_do_not_fill_whole_bytes(tmp_path, which):
    "SimpleITK 2.5 (GDCM) leaves the last pixels of an image of bits undefined if they do not fill a byte; 105 pixels take 8 frames"
    vol = Volume(np.ones((15,7,10), np.int16), np.diag([-2.,-3.,5.,1.]))
    write_series(tmp_path/'s', vol, 'MR')
    m = np.zeros(vol.shape, bool)
    m[...,list(which)] = True
    for _ in range(5): # what is undefined is zero now and then
        write_seg(tmp_path/'seg.dcm', {'a': m}, vol, tmp_path/'s')
        assert near(places(*by_itk(tmp_path/'seg.dcm')), places(m, vol.affine))
    assert np.array_equal(read_seg(tmp_path/'seg.dcm', vol)['a'], m) and pydicom.dcmread(tmp_path/'seg.dcm').NumberOfFrames==8


@pytest.mark.parametrize('size', [(15,21), (13,19), (18,21), (181,217), (9,7)], ids=str)
def test_2_1_frames_that_begin_within_a_byte_are_read(tmp_path, size):
    "pydicom 3.0 loses pixels of some of them, whoever wrote the file"
    gen = np.random.default_rng(2)
    vol = Volume(np.ones((*size, 9), np.int16), np.diag([-2.,-3.,5.,1.]))
    write_series(tmp_path/'s', vol, 'MR')
    images = [pydicom.dcmread(s.path) for s in dicom_series(tmp_path/'s')[0]]
    for which in ((4,), (0,8), range(9)):
        m = np.zeros(vol.shape, bool)
        m[...,list(which)] = gen.random((*size, len(which)))<.5
        foreign(tmp_path/'other.dcm', images, m.transpose(2,1,0), ['a'])
        assert np.array_equal(read_seg(tmp_path/'other.dcm', vol)['a'], m)
        for masks in ({'a': m}, {'a': m, 'b': ~m}, {'a': m, 'b': m}):
            write_seg(tmp_path/'seg.dcm', masks, vol, tmp_path/'s')
            back = read_seg(tmp_path/'seg.dcm', vol)
            assert all(np.array_equal(back[k], o) for k,o in masks.items())
    cut = pydicom.dcmread(tmp_path/'seg.dcm')
    cut.PixelData = cut.PixelData[:-16]
    cut.save_as(tmp_path/'cut.dcm')
    with pytest.raises(UserError, match='end early'): read_seg(tmp_path/'cut.dcm', vol)


def test_2_1_slices_that_lie_unevenly_by_4_percent(tmp_path):
    vol = phantom((12,14,10), (16.,16.,5.))[0].reorient('LPS')
    off = np.random.default_rng(1).uniform(-.04, .04, 10)*5
    def at(k): return [f'{o:.6f}' for o in (np.diag([-1,-1,1,1])@vol.affine@[0,0,k,1])[:3]+[0, 0, off[k]]]
    write_series(tmp_path/'s', vol, ImagePositionPatient=at)
    scan = read_volume(tmp_path/'s')
    for which in ((4,), (2,7), range(10)):
        m = np.zeros(scan.shape, bool)
        m[2:6,3:9,list(which)] = True
        write_seg(tmp_path/'seg.dcm', {'a': m}, scan, tmp_path/'s')
        assert np.array_equal(read_seg(tmp_path/'seg.dcm', scan)['a'], m)
        for got in (by_highdicom, by_itk): assert near(places(*got(tmp_path/'seg.dcm')), places(m, scan.affine))
    images = [pydicom.dcmread(s.path) for s in dicom_series(tmp_path/'s')[0]] # a writer that keeps the places of the slices
    foreign(tmp_path/'other.dcm', images, m.transpose(2,1,0), ['a'])
    assert np.array_equal(read_seg(tmp_path/'other.dcm', scan)['a'], m)


@pytest.mark.parametrize('n', [1, 3])
def test_2_1_masks_of_nothing_and_a_single_slice(tmp_path, caplog, n):
    scan = series_of(tmp_path/'s', n=1)
    masks = {f'part {i}': np.zeros(scan.shape, bool) for i in range(n)}
    for marked in (False, True):
        masks['part 0'][1:3,1:3] = marked
        check_source(tmp_path/'s')
        write_seg(tmp_path/'seg.dcm', masks, scan, tmp_path/'s')
        back = read_seg(tmp_path/'seg.dcm', scan)
        assert list(back)==list(masks) and all(np.array_equal(back[k], m) for k,m in masks.items())
    assert not caplog.records, 'a library says something that is no concern of the user'


# 2.2 Segmentations of others

def foreign(path, images, pixels, labels, kind='BINARY', said=None, **how):
    "A segmentation that another program has written"
    code = hd.sr.CodedConcept('85756007', 'SCT', 'Tissue')
    told = [hd.seg.SegmentDescription(i, o, code, code, 'MANUAL') for i,o in enumerate(labels, 1)]
    for o,s in zip(told, said or ()): o.SegmentDescription = s
    for o in images:
        if 'SliceThickness' not in o: o.SliceThickness = 5
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made = hd.seg.Segmentation(images, np.ascontiguousarray(pixels), kind, told, hd.UID(), 1, hd.UID(), 1, 'x', 'x', '1', '0', **how)
        made.save_as(path)


@pytest.fixture
def scan(tmp_path): return series_of(tmp_path/'s', 'LPS', n=6)

@pytest.fixture
def images(tmp_path, scan): return [pydicom.dcmread(s.path) for s in dicom_series(tmp_path/'s')[0]]


@pytest.mark.parametrize('what', ['PROBABILITY', 'OCCUPANCY'])
@pytest.mark.parametrize('most', [255, 100, 1])
def test_2_2_probabilities_are_cut_at_a_half(tmp_path, scan, images, what, most):
    p = np.random.default_rng(0).random((6,6,7,2)).astype(np.float32)
    foreign(tmp_path/'f.dcm', images, p, ['a','b'], 'FRACTIONAL', fractional_type=what, max_fractional_value=most)
    back = read_seg(tmp_path/'f.dcm', scan)
    stored = np.rint(p*most)/most
    for i,k in enumerate('ab'): assert np.array_equal(back[k], (stored[...,i]>=.5).transpose(2,1,0))


@pytest.mark.parametrize('n', [3, 255, 400])
@pytest.mark.parametrize('codec', [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.RLELossless])
def test_2_2_label_maps_of_many_segments(tmp_path, scan, images, n, codec):
    ids = np.arange(6*6*7).reshape(6,6,7)*2%(n+1)
    foreign(tmp_path/'f.dcm', images, ids.astype(np.uint16), [f'part {i}' for i in range(1, n+1)], 'LABELMAP', transfer_syntax_uid=codec)
    back = read_seg(tmp_path/'f.dcm', scan.reorient('RSA'))
    assert list(back)==[f'part {i}' for i in range(1, n+1)] # and no background
    for i in range(1, n+1):
        m = scan.reorient('RSA').like(back[f'part {i}']).onto(scan).data
        assert np.array_equal(m, (ids==i).transpose(2,1,0)), i


@pytest.mark.parametrize('empty', [True, False])
def test_2_2_each_frame_may_say_all_by_itself(tmp_path, scan, images, empty):
    "There may be nothing that all frames share"
    m = np.zeros(scan.shape, bool)
    m[1:4,2:5,1:3] = True
    foreign(tmp_path/'other.dcm', images, m.transpose(2,1,0), ['a'])
    ds = pydicom.dcmread(tmp_path/'other.dcm')
    for own in ds.PerFrameFunctionalGroupsSequence:
        for o in ds.SharedFunctionalGroupsSequence[0]: own[o.tag] = o
    del ds.SharedFunctionalGroupsSequence
    if empty: ds.SharedFunctionalGroupsSequence = []
    ds.save_as(tmp_path/'other.dcm')
    assert np.array_equal(read_seg(tmp_path/'other.dcm', scan)['a'], m)


def test_2_2_segments_of_one_name_are_both_kept(tmp_path, scan, images):
    x = np.zeros((6,6,7,4), np.uint8)
    for i in range(4): x[i,1:4,2:5,i] = 1
    foreign(tmp_path/'f.dcm', images, x, ['Lesion','Lesion','Lesion 2','Lesion'], said=['by hand']*4)
    back = read_seg(tmp_path/'f.dcm', scan)
    assert list(back)==['Lesion', 'Lesion 2', 'Lesion 2 2', 'Lesion 3']
    for i,m in enumerate(back.values()): assert np.array_equal(m, x[...,i].transpose(2,1,0)>0)


@pytest.mark.parametrize('label, said, name', [
    ('Liver', 'drawn on Monday', 'Liver'), ('Liver', None, 'Liver'), ('L'*64, 'L'*70, 'L'*70), ('Liver', 'Liver with lesions', 'Liver'),
    ('left/right', 'left\\right', 'left\\right')])
def test_2_2_the_label_names_a_segment_unless_it_was_cut(tmp_path, scan, images, label, said, name):
    foreign(tmp_path/'f.dcm', images, np.ones((6,6,7), np.uint8), [label], said=[said] if said else None)
    assert list(read_seg(tmp_path/'f.dcm', scan))==[name]


def test_2_2_frames_of_another_grid_are_refused_with_the_distance(tmp_path, scan, images):
    foreign(tmp_path/'f.dcm', images, np.ones((6,6,7), np.uint8), ['a'])
    for change,why in (((0,0,5.), '5 mm beside'), ((.8,0,0), '0.8 mm beside'), ((0,0,72.), 'reaches beyond')):
        aff = scan.affine.copy()
        aff[:3,3] += change
        with pytest.raises(UserError, match=f'does not lie on the voxels of .*{why}'): read_seg(tmp_path/'f.dcm', Volume(scan.data, aff))
    fine = np.repeat(scan.data, 2, 2)
    aff = scan.affine@np.diag([1,1,.5,1])
    twice = read_seg(tmp_path/'f.dcm', Volume(fine, aff))['a'] # every other slice of a finer scan
    assert twice[:,:,::2].all() and not twice[:,:,1::2].any()


# 2.7 Text and headers

SAID = ('左肾和肝脏', 'tumour — left', 'left\\right', 'Größe α', 'x'*200, '心'*80, 'two\nlines\tand a tab', '🫀', '"quoted", <b>')

@pytest.mark.parametrize('charset', [None, 'ISO_IR 100', 'ISO_IR 192', ['', 'ISO 2022 IR 87'], 'ISO_IR 999'], ids=str)
def test_2_7_any_sentence_on_a_series_of_any_character_set(tmp_path, charset):
    vol = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
    name = 'Yamada^Tarou=山田^太郎' if isinstance(charset, list) else 'Müller^Jörg' if charset else 'Doe'
    more = dict(SpecificCharacterSet=charset) if charset else {}
    with pydicom.config.disable_value_validation(): write_series(tmp_path/'s', vol, 'MR', PatientName=name, **more)
    masks = {s: vol.data>10*i for i,s in enumerate(SAID)}
    write_seg(tmp_path/'seg.dcm', masks, vol, tmp_path/'s')
    ds = pydicom.dcmread(tmp_path/'seg.dcm')
    assert ds.SpecificCharacterSet=='ISO_IR 192'
    assert str(ds.PatientName)==str(pydicom.dcmread(tmp_path/'s'/'0000.dcm').PatientName)
    for o,s in zip(ds.SegmentSequence, SAID):
        assert o['SegmentLabel'].VM==1 and o.SegmentLabel==label_of(s) and len(o.SegmentLabel)<=64 and o.SegmentDescription==s
    back = read_seg(tmp_path/'seg.dcm', vol)
    assert list(back)==list(SAID) and all(np.array_equal(back[k], m) for k,m in masks.items())


@pytest.mark.parametrize('tag, said, kept', [
    ('StudyDate', '2020-01-01', '20200101'), ('StudyDate', '2020.01.01', '20200101'), ('StudyDate', '20201301', ''),
    ('StudyDate', 'today', ''),
    ('StudyTime', '12:30:59', '123059'), ('StudyTime', 'noon', ''), ('StudyTime', '123059.123456789', '123059.123456'),
    ('PatientBirthDate', '01/02/1970', ''), ('PatientSex', 'Male', 'M'), ('PatientSex', 'female', 'F'), ('PatientSex', 'unknown', ''),
    ('PatientName', 'A^B\\C', 'A^B/C'), ('AccessionNumber', 'A'*30, 'A'*30), ('PatientID', 'P'*80, 'P'*80),
    ('StudyInstanceUID', '1.2.03.x', '1.2.03.x'),
    ('Modality', 'mr scan', 'SEG'), ('Modality', None, 'SEG')])
def test_2_7_headers_of_exporters_are_put_right_and_it_is_said(tmp_path, tag, said, kept):
    vol = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
    with pydicom.config.disable_value_validation(): write_series(tmp_path/'s', vol, 'MR', **{tag: said})
    notes = check_source(tmp_path/'s')
    assert notes==write_seg(tmp_path/'seg.dcm', {'a': vol.data>20}, vol, tmp_path/'s')
    assert str(pydicom.dcmread(tmp_path/'seg.dcm').get(tag))==kept
    changed = said not in (None, kept) and tag!='Modality'
    assert [tag in o for o in notes]==[True]*changed
    assert np.array_equal(read_seg(tmp_path/'seg.dcm', vol)['a'], vol.data>20)


@pytest.mark.parametrize('tag', ['StudyInstanceUID', 'FrameOfReferenceUID', 'SOPInstanceUID', 'SOPClassUID'])
def test_2_7_what_cannot_be_made_up_is_refused_before_the_work(tmp_path, tag):
    vol = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
    write_series(tmp_path/'s', vol, 'MR', **{tag: ''})
    with pytest.raises(UserError, match=f'no {tag}, which a DICOM segmentation must repeat; save as NIfTI'): check_source(tmp_path/'s')


# 2.10 and 4.6 Weights: copied twice, or damaged

def test_2_10_weights_are_copied_into_a_folder_as_often_as_one_likes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path/'home'))
    for _ in range(2): assert main(['download', 'nano', '-o', str(tmp_path/'X')])==0
    assert Path(capsys.readouterr().out.splitlines()[-1])==tmp_path/'X'/'nano'
    assert read_json(tmp_path/'X'/'nano'/'cfg.json')==read_json(asset('nano')/'cfg.json')
    mine = tmp_path/'home'/'weights'/Path(NAMED['medals-s-coarse']).name # as if it had been downloaded
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b'weights')
    for _ in range(2): assert main(['download', 'medals-s-coarse', '-o', str(tmp_path/'NEW')])==0
    assert [f.name for f in (tmp_path/'NEW').iterdir()]==[mine.name] and (tmp_path/'NEW'/mine.name).read_bytes()==b'weights'
    (tmp_path/'NEW'/mine.name).write_bytes(b'my own')
    (tmp_path/'file').write_text('a letter')
    for out,says in (('NEW', 'is there already and is not medals-s-coarse'), ('file', 'is a file, where a folder is needed')):
        assert main(['download', 'medals-s-coarse', '-o', str(tmp_path/out)])==2
        err = capsys.readouterr().err
        assert says in err and err.count('\n')==1
    assert (tmp_path/'NEW'/mine.name).read_bytes()==b'my own' and (tmp_path/'file').read_text()=='a letter'


PARTS = ('cfg.json', 'model.safetensors', 'text/config.json', 'text/text.json', 'text/text.safetensors', 'text/tokenizer.json')
DAMAGE = dict(
    gone=lambda raw: None, empty=lambda raw: b'', half=lambda raw: raw[:len(raw)//2], short=lambda raw: raw.rstrip()[:-1],
    noise=lambda raw: bytes(200), list=lambda raw: b'[]', object=lambda raw: b'{}', other=lambda raw: raw[:-9]+b'\x81'*9)

@pytest.mark.parametrize('part', PARTS)
def test_4_6_any_damage_to_a_folder_of_weights_is_one_sentence(tmp_path, monkeypatch, capsys, part):
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path/'home')) # no query is known yet
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path/'head.nii.gz', phantom((12,14,10), (16.,16.,18.))[0])
    for name,damage in DAMAGE.items():
        shutil.rmtree(tmp_path/'w', ignore_errors=True)
        shutil.copytree(asset('nano'), tmp_path/'w')
        raw = damage((tmp_path/'w'/part).read_bytes())
        if raw is None: (tmp_path/'w'/part).unlink()
        else: (tmp_path/'w'/part).write_bytes(raw)
        assert main(['segment', 'head.nii.gz', '--weights', 'w', 'white matter'])==2, name
        err = capsys.readouterr().err
        assert err.startswith('medals segment: w') and err.count('\n')==1 and len(err)<500, (name, err)
        assert not (tmp_path/'out').exists()


def test_4_6_a_damaged_cache_of_queries_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv('MEDALS_HOME', str(tmp_path))
    want = TextEncoder.load(asset('nano')/'text')(['liver'], 'ct')
    for raw in (b'', b'\x93NUMPY', bytes(300)):
        for f in tmp_path.rglob('*.npy'): f.write_bytes(raw)
        assert torch.equal(TextEncoder.load(asset('nano')/'text')(['liver'], 'ct'), want)


# 3.9 What is typed and what editors write

@pytest.mark.parametrize('words', [
    ['a.nii', '--weights', 'W', 'white matter'], ['--weights', 'W', 'a.nii', 'white matter'], ['a.nii', 'white matter', '--weights=W'],
    ['-o', 'x', 'a.nii', '--tta', '--weights', 'W', 'white matter', '--seed', '3']], ids=' '.join)
def test_3_9_words_stand_before_between_and_behind_flags(words):
    args = parser('segment').parse_args(['segment', *words])
    assert args.words==['a.nii', 'white matter'] and args.weights=='W'


def test_3_9_every_verb_takes_its_words_anywhere(capsys):
    for verb,*words in ('evaluate','p','t'), ('index','r'), ('prepare','l'), ('finetune','d'), ('challenge','i'), ('train','s','t'):
        first,*rest = words
        args = parser(verb).parse_args([verb, first, '-o', 'x', *rest])
        given = [v for k,v in vars(args).items() if v in (*words, words)]
        assert given in (words, [words]) and args.out=='x', verb
    assert parser('info').parse_args(['info', '--modality', 'ct', 'left kidney']).text=='left kidney'
    odd = {'--colour red': ['segment','a.nii','liver','--colour','red'], 'unrecognized arguments: c': ['evaluate','a','b','c']}
    for says,words in odd.items():
        with pytest.raises(SystemExit) as e: main(words)
        err = capsys.readouterr().err
        assert e.value.code==2 and says in err and f'try medals {words[0]} -h' in err and err.count('\n')==1


@pytest.mark.parametrize('coding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_3_9_byte_order_marks(tmp_path, coding):
    def write(name, text):
        mark = '\ufeff' if coding=='utf-16-le' else '' # with the other names Python writes it itself
        (tmp_path/name).write_bytes((mark+text).replace('\n', '\r\n').encode(coding))
        return tmp_path/name
    assert read_json(write('a.json', '{"1": "左肾"}'))=={'1': '左肾'}
    assert read_toml(write('a.toml', 'organ = "Größe"\nn = 3\n'))==dict(organ='Größe', n=3)
    toml = 'name = "own"\nmodality = "ct"\n[classes]\nliver = 1\n'
    assert list(read_catalogue(write('p.toml', toml))['own']['classes'])==['liver']
    assert read_lines(write('l.jsonl', '{"a": 1}\n{"a": 2}\n'))==[dict(a=1), dict(a=2)]
    assert read_names(write('n.json', '{"1": "liver"}'))=={1: 'liver'}


@pytest.mark.parametrize('raw, says', [
    ('{"a": "Schädel"}'.encode('latin-1'), 'save it as UTF-8'), (b'\xff\xfe{', 'save it as UTF-8'), (b'{', 'not readable JSON'),
    (b'', 'not readable JSON'), (b'['*100_000, 'not readable JSON')], ids=('latin','half','open','empty','deep'))
def test_3_9_what_is_no_json_is_one_sentence(tmp_path, raw, says):
    (tmp_path/'a.json').write_bytes(raw)
    with pytest.raises(UserError, match=says) as e: read_json(tmp_path/'a.json')
    assert 'a.json' in str(e.value) and '\n' not in str(e.value)


# 2.3 What an output may replace

@pytest.fixture
def idle(monkeypatch):
    "No network runs, and no weights are read"
    def never(*args, **kwargs): raise AssertionError('something ran')
    verbs = ('evaluation.evaluate.run_tasks', 'data.indexing.run_tasks', 'prepare.prepare', 'prepare.import_store', 'training.train.train',
             'training.finetune.process_group')
    for where in ('segment.Segmenter.load', *verbs):
        monkeypatch.setattr(f'medals.{where}', never)


def state(folder):
    "Everything below a folder, byte for byte"
    return {o.relative_to(folder).as_posix(): o.read_bytes() if o.is_file() else None for o in Path(folder).rglob('*')}


READ,OTHERS = 'is what is read here','medals did not write it'

def refused(capsys, words, says):
    assert main([str(o) for o in words])==2, words
    said = [o for o in capsys.readouterr().err.splitlines() if ' so far, ' not in o] # how far it is
    assert len(said)==1 and says in said[0] and len(said[0])<600, said


def spellings(tmp_path, file):
    "Other names of a file or folder"
    (tmp_path/'symbolic').mkdir()
    link = tmp_path/'symbolic'/file.name
    link.symlink_to(file, file.is_dir())
    yield from (file, f'{file.parent}/../{file.parent.name}/{file.name}', f'./{file.name}', link)
    if file.is_dir(): yield from (f'{file}/', f'{file}/.')
    else:
        (tmp_path/'hard').mkdir()
        (tmp_path/'hard'/file.name).hardlink_to(file)
        yield tmp_path/'hard'/file.name


def test_2_3_the_scan_is_never_the_output(tmp_path, idle, monkeypatch, capsys):
    (tmp_path/'w').mkdir()
    monkeypatch.chdir(tmp_path/'w')
    head = phantom((12,14,10), (16.,16.,18.))[0]
    write_volume(tmp_path/'w'/'scan.nii.gz', head)
    write_series(tmp_path/'w'/'dicom', head.reorient('LPS'), 'MR')
    np.savez(tmp_path/'w'/'MR_case.npz', imgs=head.data.astype(np.uint8), spacing=np.ones(3))
    shutil.copytree(asset('nano'), tmp_path/'w'/'weights')
    before = state(tmp_path/'w')
    for name in ('scan.nii.gz', 'MR_case.npz', 'dicom', 'weights'):
        (tmp_path/name).mkdir()
        for out in spellings(tmp_path/name, tmp_path/'w'/name):
            scan = 'scan.nii.gz' if name=='weights' else name
            refused(capsys, ['segment', scan, 'liver', '--weights', 'weights', '-o', out], READ)
    slice_ = next((tmp_path/'w'/'dicom').iterdir())
    for out,says in ((slice_, OTHERS), ('dicom/0003.dcm', OTHERS), ('scan.nii.gz/masks', 'is a file')):
        refused(capsys, ['segment', 'dicom' if 'dicom' in str(out) else 'scan.nii.gz', 'liver', '-o', out], says)
    refused(capsys, ['segment', 'dicom#1.2.826.0.1', 'liver', '-o', 'dicom'], READ)
    refused(capsys, ['segment', 'dicom', 'scan.nii.gz', 'liver', '-o', 'dicom'], READ) # a cohort
    assert state(tmp_path/'w')==before


def test_2_3_a_scan_whose_name_is_that_of_a_mask(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    head = phantom((12,14,10), (16.,16.,18.))[0]
    for name in ('liver.nii.gz', 'labels.nii.gz'):
        write_volume(tmp_path/name, head)
        refused(capsys, ['segment', name, 'liver', '-o', '.'], name)
        refused(capsys, ['segment', name, 'liver', '-o', '.', '--instance'], name)
        (tmp_path/name).unlink()
    write_labels(tmp_path/'liver.nii.gz', head.data>0, head, {1: 'liver'}) # a mask of medals is the scan this time
    refused(capsys, ['segment', 'liver.nii.gz', 'liver', '-o', '.'], READ)


def test_2_3_marks_and_the_masks_they_name(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    head = phantom((12,14,10), (16.,16.,18.))[0]
    write_volume(tmp_path/'scan.nii.gz', head)
    write_labels(tmp_path/'lesion.nii.gz', head.data>0, head, {1: 'lesion'})
    (tmp_path/'lesion.json').write_text('{"lesion": [{"kind": "mask", "data": "lesion.nii.gz"}]}')
    before = state(tmp_path)
    for out in ('lesion.nii.gz', '.', 'lesion.json'):
        refused(capsys, ['segment', 'scan.nii.gz', 'lesion', '--marks', 'lesion.json', '-o', out], READ)
    assert state(tmp_path)==before


def test_2_3_no_verb_replaces_what_it_reads(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('pred', 'truth', 'images', 'data', 'store', 'weights'): (tmp_path/name).mkdir()
    (tmp_path/'names.json').write_text('{"1": "liver"}')
    (tmp_path/'list.jsonl').write_text('{"data": "a", "labels": "b"}\n')
    (tmp_path/'p.classes.json').write_text('{}')
    (tmp_path/'data'/'dataset.json').write_text('{}')
    np.savez(tmp_path/'data'/'CT_1.npz', imgs=np.zeros((2,2,2), np.uint8), spacing=np.ones(3))
    before = state(tmp_path)
    for words,says in (
        (['evaluate', 'pred', 'truth', '-o', 'pred'], READ), (['evaluate', 'pred', 'truth', '-o', './truth/'], READ),
        (['evaluate', 'pred', 'truth', '--images', 'images', '-o', 'images'], READ),
        (['evaluate', 'pred', 'truth', '-o', 'names.json'], 'looks like a file'),
        (['evaluate', 'pred', 'truth', '-o', 'scores.csv'], 'looks like a file'),
        (['index', 'data', '-o', 'data'], READ), (['index', 'data', '-o', 'data/dataset.json'], OTHERS),
        (['index', 'data', '--prompts', 'p.classes.json', '-o', 'p.classes.json'], READ),
        (['index', 'data', '--prompts', 'p.classes.json', '-o', 'p.jsonl'], READ), (['index', 'data', '-o', 'pred'], 'is a folder'),
        (['prepare', 'list.jsonl', '-o', 'list.jsonl'], READ), (['prepare', 'store', '--prompts', 'names.json', '-o', 'store'], READ),
        (['train', 'data', 'store', '-o', 'store'], READ), (['train', 'store', '--weights', 'weights', '-o', 'weights'], READ),
        (['train', 'store', '--val-store', 'images', '-o', 'images'], READ), (['finetune', 'data', '-o', 'data'], READ),
        (['finetune', 'data', '--replay', 'store', '-o', 'store'], READ), (['challenge', 'data', '-o', 'data'], READ)):
        refused(capsys, words, says)
    assert state(tmp_path)==before


def test_2_3_what_others_wrote_is_not_replaced(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    head,lbl,names = phantom((12,14,10), (16.,16.,18.))
    write_volume(tmp_path/'scan.nii.gz', head)
    for d in ('truth', 'out', 'inputs', 'outputs', 'scores'): (tmp_path/d).mkdir()
    write_volume(tmp_path/'truth'/'case.nii.gz', head.like(lbl)) # a label map that a person has drawn
    write_volume(tmp_path/'out'/'liver.nii.gz', head.like(lbl))
    (tmp_path/'scores'/'table.csv').write_text('name,age\n')
    grey = np.zeros((2,2,2), np.uint8)
    for d in ('inputs', 'outputs'): np.savez(tmp_path/d/'CT_1.npz', imgs=grey, spacing=np.ones(3), gts=grey)
    before = state(tmp_path)
    refused(capsys, ['segment', 'scan.nii.gz', 'liver', '-o', 'truth/case.nii.gz'], OTHERS)
    refused(capsys, ['segment', 'scan.nii.gz', 'liver', '-o', 'out'], 'liver.nii.gz is there already')
    refused(capsys, ['segment', 'scan.nii.gz', 'spleen', '-o', 'outputs/CT_1.npz'], OTHERS)
    refused(capsys, ['challenge', 'inputs', '-o', 'outputs'], OTHERS)
    refused(capsys, ['evaluate', 'out', 'truth', '-o', 'scores'], 'a table of another kind')
    assert state(tmp_path)==before


def test_2_3_every_verb_may_replace_what_it_wrote_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path/'d'/'imagesTr'/'a_0000.nii.gz', phantom((12,14,10), (16.,16.,18.))[0])
    head,lbl,_ = phantom((12,14,10), (16.,16.,18.))
    write_labels(tmp_path/'d'/'labelsTr'/'a.nii.gz', lbl, head, {1: 'brain'})
    write_json(tmp_path/'d'/'dataset.json', dict(labels=dict(background=0, brain=1), channel_names={'0': 'CT'}, file_ending='.nii.gz'))
    for _ in range(2):
        for words in (['index', 'd', '-o', 'train.jsonl', '--workers', '1'], ['knowledge', 'structures', '-o', 'k.jsonl'],
                      ['evaluate', 'd/labelsTr', 'd/labelsTr', '-o', 'scores', '--workers', '1']):
            assert main(words)==0, capsys.readouterr().err
    (tmp_path/'k.jsonl').write_text('{"my": "own"}\n')
    capsys.readouterr()
    refused(capsys, ['knowledge', 'structures', '-o', 'k.jsonl'], OTHERS)


def result(tmp_path, **masks):
    "A result without a network"
    head,lbl,_ = phantom((12,14,10), (16.,16.,18.))
    write_volume(tmp_path/'scan.nii.gz', head)
    scan = read_volume(tmp_path/'scan.nii.gz')
    masks = masks or dict(brain=lbl>0, left=np.isin(lbl, (1,3)), ventricle=lbl==3)
    return Segmentation(scan, masks, dict.fromkeys(masks, .9), dict(medals='0.2', sentences=dict(enumerate(masks, 1)), notes=[]))


def test_2_3_results_and_the_studio_ask_the_same_place(tmp_path):
    res = result(tmp_path)
    before = state(tmp_path)
    for out,says in (('scan.nii.gz', READ), ('scan.nii.gz/x', 'is a file'), ('x.foo', 'as .nii, .nii.gz, .npz, .dcm')):
        with pytest.raises(UserError, match=says): res.save(tmp_path/out)
    pytest.importorskip('anywidget')
    from medals.widgets import Studio
    studio = Studio(None, res.volume, out=str(tmp_path/'scan.nii.gz'))
    with pytest.raises(UserError, match=READ): studio.save()
    with pytest.raises(UserError, match='looks like a file'): studio.save(tmp_path/'a.nii.gz')
    assert state(tmp_path)==before


# 2.4 Names beside a label map

@pytest.mark.parametrize('foreign', ['{"EchoTime": 0.003, "names": "Siemens"}', '[1, 2]', '{"broken": ', '', '\xff\xfe'])
def test_2_4_files_of_others_beside_a_label_map_stay(tmp_path, foreign):
    res = result(tmp_path)
    (tmp_path/'T1.json').write_bytes(foreign.encode('latin-1'))
    res.save(tmp_path/'T1.nii.gz')
    assert (tmp_path/'T1.json').read_bytes()==foreign.encode('latin-1')
    names = {1: 'brain', 2: 'left', 3: 'ventricle'}
    assert read_labels(tmp_path/'T1.nii.gz')[1]==names
    side = read_json(tmp_path/'T1.medals.json')
    assert side['names']=={str(k): v for k,v in names.items()} and side['colours'].keys()=={'1','2','3'}
    bare = nib.Nifti1Image(np.asarray(nib.load(tmp_path/'T1.nii.gz').dataobj), np.diag([16.,16.,18.,1.]))
    nib.save(bare, tmp_path/'T1.nii.gz') # a viewer has saved it and dropped what stood in the header
    assert read_labels(tmp_path/'T1.nii.gz')[1]==names
    (tmp_path/'T1.medals.json').unlink()
    assert read_labels(tmp_path/'T1.nii.gz')[1]=={}
    (tmp_path/'T1.json').write_text('{"names": {"1": "brain"}, "colours": {"1": "#ff0000"}}') # as version 0.1.0 wrote it
    assert read_labels(tmp_path/'T1.nii.gz')[1]=={1: 'brain'}


def test_2_4_marks_beside_the_output_stay(tmp_path, quick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path/'head.nii.gz', phantom((24,28,22), (8.,8.,9.))[0])
    (tmp_path/'lesion.json').write_text('{"white matter": [{"kind": "point", "at": [6,7,5], "radius": 20}]}')
    before = (tmp_path/'lesion.json').read_bytes()
    assert main(['segment', 'head.nii.gz', 'white matter', '--weights', quick, '--marks', 'lesion.json', '-o', 'lesion.nii.gz'])==0
    assert (tmp_path/'lesion.json').read_bytes()==before
    assert read_labels(tmp_path/'lesion.nii.gz')[1]=={1: 'white matter'}


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "The bundled weights, asked once per window"
    folder = tmp_path_factory.mktemp('weights')/'quick'
    shutil.copytree(asset('nano'), folder)
    made = read_json(folder/'cfg.json')
    write_json(folder/'cfg.json', {**made, 'frame': {**made['frame'], 'phases': 1}})
    return str(folder)


# 2.5 A second result in the same folder

def masks_in(folder): return sorted(o.name for o in Path(folder).glob('*.nii.gz'))


def test_2_5_the_earlier_result_goes_and_other_files_stay(tmp_path):
    res,out = result(tmp_path),tmp_path/'out'
    res.instances = {s: m.astype(np.int32) for s,m in res.masks.items()}
    res.save(out)
    assert len(masks_in(out))==7 and read_json(out/'manifest.json')['files']==sorted(o.name for o in out.iterdir())
    (out/'brain_manual.nii.gz').write_bytes(b'a day of work')
    (out/'T1.json').write_text('{"EchoTime": 3}')
    (out/'ventricle.json').write_text('{"EchoTime": 3}')
    (out/'sub').mkdir()
    (out/'sub'/'ventricle.nii.gz').write_bytes(b'more of it')
    few = result(tmp_path, left=res.masks['left'])
    few.save(out)
    assert masks_in(out)==['brain_manual.nii.gz', 'labels.nii.gz', 'left.nii.gz']
    assert {'T1.json', 'ventricle.json', 'sub/ventricle.nii.gz', 'left.medals.json'}<=set(state(out))
    assert 'brain.medals.json' not in state(out)
    for format,maps in (('multilabel', ['labels.nii.gz']), ('nifti', ['labels.nii.gz', 'left.nii.gz'])):
        few.save(out, format)
        assert masks_in(out)==['brain_manual.nii.gz', *maps]
    rows = list(csv.DictReader(open(out/'table.csv')))
    assert [r['sentence'] for r in rows]==['left']


def test_2_5_a_folder_of_version_0_1_0(tmp_path):
    "It kept no list, and put names into `NAME.json`"
    res,out = result(tmp_path),tmp_path/'out'
    res.save(out)
    for o in out.glob('*.medals.json'): o.rename(out/o.name.replace('.medals',''))
    made = read_json(out/'manifest.json')
    del made['files']
    write_json(out/'manifest.json', made)
    (out/'liver.json').write_text('{"EchoTime": 3}')
    result(tmp_path, left=res.masks['left']).save(out)
    assert sorted(o.name for o in out.iterdir())==[
        'labels.medals.json', 'labels.nii.gz', 'left.medals.json', 'left.nii.gz', 'liver.json', 'manifest.json', 'overlay.png', 'table.csv']


def test_2_5_a_mask_that_somebody_corrected_stays(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    res = result(tmp_path)
    res.save('out')
    mine = sitk.ReadImage('out/left.nii.gz')
    sitk.WriteImage(mine*0, 'out/left.nii.gz') # corrected in a viewer
    before = state(tmp_path)
    refused(capsys, ['segment', 'scan.nii.gz', 'left', '-o', 'out'], 'left.nii.gz is there already')
    with pytest.raises(UserError, match='left.nii.gz is there already'): res.save('out')
    assert state(tmp_path)==before
    result(tmp_path, brain=res.masks['brain']).save('out') # which does not need that name
    assert masks_in('out')==['brain.nii.gz', 'labels.nii.gz', 'left.nii.gz'] and not np.any(read_labels('out/left.nii.gz')[0].data)


def test_2_5_old_masks_are_not_scored(tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path/'head.nii.gz', phantom((24,28,22), (8.,8.,9.))[0])
    run = ['segment', 'head.nii.gz', '--weights', quick, '-o', 'out/head', 'white matter']
    assert main([*run, 'grey matter', 'cerebral ventricles'])==0
    assert main(['segment', 'head.nii.gz', '--weights', quick, '-o', 'truth/head', 'white matter', 'grey matter'])==0
    assert main(run)==0 and masks_in('out/head')==['labels.nii.gz', 'white_matter.nii.gz']
    assert main(['evaluate', 'out', 'truth', '-o', 'scores', '--workers', '1'])==0
    assert [r['sentence'] for r in csv.DictReader(open('scores/table.csv')) if r['dsc'] not in ('', '0.0')]==['white matter']


@pytest.mark.parametrize('weights', ['nano', 'random:nano', 'no/such/folder'])
def test_6_a_cohort_is_resumed_whatever_else_lies_in_the_working_folder(tmp_path, monkeypatch, weights):
    "Weights that have a name are no file here"
    monkeypatch.chdir(tmp_path)
    before = question(CohortCfg(prompts=('liver',), weights=weights))
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'a.nii.gz').write_bytes(b'a result')
    assert question(CohortCfg(prompts=('liver',), weights=weights))==before


def test_2_5_a_cohort_replaces_its_cases_only(tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    head = phantom((24,28,22), (8.,8.,9.))[0]
    for name in ('a/t1.nii.gz', 'b/t1.nii.gz'):
        (tmp_path/'scans'/name).parent.mkdir(parents=True)
        write_volume(tmp_path/'scans'/name, head)
    run = ['segment', 'scans', '--weights', quick, '-o', 'out', 'white matter']
    assert main([*run, 'grey matter'])==0
    cases = sorted(o.name for o in Path('out').iterdir() if o.is_dir())
    assert cases==['a-t1', 'b-t1'] # scans of one name do not take each other's place
    (tmp_path/'out'/'a-t1'/'by_hand.nii.gz').write_bytes(b'a day of work')
    assert main(run)==0
    assert masks_in('out/b-t1')==['labels.nii.gz', 'white_matter.nii.gz']
    assert masks_in('out/a-t1')==['by_hand.nii.gz', *masks_in('out/b-t1')]
    assert main(run)==0 and '2 were done before' in capsys.readouterr().out
    (tmp_path/'out'/'b-t1'/'grey_matter.nii.gz').write_bytes(b'drawn by hand')
    assert main([*run, 'grey matter'])==2
    assert '1 of 2 cases failed' in capsys.readouterr().err and (tmp_path/'out'/'b-t1'/'grey_matter.nii.gz').read_bytes()==b'drawn by hand'
    refused(capsys, ['segment', 'scans/a/t1.nii.gz', 'white matter', '--weights', quick, '-o', 'out'], 'table.csv is there already')
    write_volume(tmp_path/'more'/'t2.nii.gz', head)
    assert main(['segment', 'more', 'more/t2.nii.gz', '--weights', quick, '-o', 'out', 'white matter'])==0 # a cohort of one
    assert 'a-t1, b-t1: results of other scans' in ''.join(capsys.readouterr())
    assert main(['segment', 'scans/a/t1.nii.gz', 'white matter', '--weights', quick, '-o', 'one'])==0
    capsys.readouterr()
    refused(capsys, ['segment', 'scans', 'white matter', '--weights', quick, '-o', 'one'], 'the result of one scan')


def test_2_5_the_studio_leaves_no_old_drawings(tmp_path):
    pytest.importorskip('anywidget')
    from medals.spatial import Point
    from medals.widgets import Studio
    studio = Studio(None, result(tmp_path).volume, marks={'a': [Point((3,3,3), 20.)], 'b': [Point((6,6,6), 20.)]})
    studio.save(tmp_path/'out')
    assert masks_in(tmp_path/'out')==['drawn_1.nii.gz', 'drawn_2.nii.gz']
    studio.marks = {'b': [Point((6,6,6), 20.)]}
    studio.save(tmp_path/'out')
    assert masks_in(tmp_path/'out')==['drawn_1.nii.gz'] and read_labels(tmp_path/'out'/'drawn_1.nii.gz')[1]=={1: 'b'}


# 2.6 Endings of an output

@pytest.mark.parametrize('name', ['x.stl', 'x.nhdr', 'x.mhd', 'x.foo', 'x.img', 'x.mgz', 'x.png', 'x.JSON', 'x.tar.gz', 'X.OBJ'])
def test_2_6_other_formats_are_refused_with_those_there_are(tmp_path, idle, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    res = result(tmp_path)
    kinds = '.nii, .nii.gz, .npz, .dcm, .nrrd, .seg.nrrd, .mha, .glb, or into a folder'
    refused(capsys, ['segment', 'scan.nii.gz', 'liver', '-o', name], kinds)
    with pytest.raises(UserError, match='put a slash behind it'): res.save(name)
    assert sorted(o.name for o in tmp_path.iterdir())==['scan.nii.gz']


@pytest.mark.parametrize('name', ['x.NII.GZ', 'x.Nii', 'x.nii', 'X.nii.gz', 'x.NPZ', 'deep/er/x.NII.gz', 'x.NRRD', 'x.mha'])
def test_2_6_endings_in_any_case(tmp_path, name):
    res = result(tmp_path)
    for _ in range(2): res.save(tmp_path/name)
    written = [o.name for o in (tmp_path/name).parent.iterdir() if o.suffix!='.json' and o.name!='scan.nii.gz']
    assert written==[Path(name).name]
    got,_ = read_labels(tmp_path/name)
    want = res.labels()[0]
    assert np.array_equal(got.data, want)


@pytest.mark.parametrize('name', ['run.v2', 'sub-01_1.5T', '2026.11.28', 'x.nrrd/', 'masks', '.hidden'])
def test_2_6_folders_with_dots(tmp_path, name):
    result(tmp_path).save(f'{tmp_path}/{name}')
    assert (tmp_path/name/'labels.nii.gz').is_file()


# 2.9 One meaning of a column

def test_2_9_presence_is_a_number_and_outcome_the_word(tmp_path):
    res = result(tmp_path)
    res.masks.bits['left'].data[:] = 0
    rows = {r['sentence']: r for r in res.table}
    assert [rows[k]['outcome'] for k in ('brain', 'left')]==['found', 'not found']
    assert all(isinstance(r['presence'], float) and isinstance(r['outcome'], str) for r in rows.values())
    assert [r['found'] for r in rows.values()]==[True, False, True]


# 5.3 Masks that overlap

def test_5_3_what_a_label_map_hides_is_said_and_can_be_chosen(tmp_path):
    res = result(tmp_path)
    sizes = {s: int(m.sum()) for s,m in res.masks.items()}
    for out in ('out', 'x.nii.gz', 'x.npz'):
        res.manifest['notes'] = ['something else']
        res.save(tmp_path/out)
        other,note = res.manifest['notes']
        hidden = sizes['left']-sizes['ventricle']
        assert other=='something else' and f"left {hidden:,} of {sizes['left']:,}" in note and 'ventricle' not in note
        assert f"brain {sizes['brain']-sizes['left']:,} of {sizes['brain']:,}" in note
    assert note in read_json(tmp_path/'out'/'manifest.json')['notes']
    wins = {'smallest': 'ventricle', 'last': 'ventricle', 'first': 'brain', 'left; ventricle': 'left', 'brain': 'brain'}
    for priority,shown in wins.items():
        res.save(tmp_path/'x.nii.gz', priority=priority)
        lbl,names = read_labels(tmp_path/'x.nii.gz')
        number = {v: k for k,v in names.items()}[shown]
        assert (lbl.data==number).sum()==sizes[shown], priority
    with pytest.raises(UserError, match="priority 'liver' is not one of the sentences"): res.save(tmp_path/'x.nii.gz', priority='liver')
    apart = result(tmp_path, ventricle=res.masks['ventricle'], rest=res.masks['left']&~res.masks['ventricle'])
    apart.save(tmp_path/'apart')
    assert read_json(tmp_path/'apart'/'manifest.json')['notes']==[]


def test_5_3_the_flag_is_checked_before_the_network_and_obeyed(tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path/'head.nii.gz', phantom((24,28,22), (8.,8.,9.))[0])
    run = ['segment', 'head.nii.gz', '--weights', quick, 'white matter', 'left cerebral hemisphere']
    refused(capsys, [*run, '-o', 'bad', '--priority', 'liver'], "priority 'liver' is not one")
    shown = {}
    for who in ('first', 'left cerebral hemisphere'):
        assert main([*run, '-o', 'out', '--priority', who])==0
        assert 'note: a label map holds each voxel once' in ''.join(capsys.readouterr())
        lbl = read_labels('out/labels.nii.gz')[0].data
        shown[who] = [int((lbl==i).sum()) for i in (1,2)]
    whole = [int(read_labels(f'out/{o}.nii.gz')[0].data.sum()) for o in ('white_matter', 'left_cerebral_hemisphere')]
    assert shown['first'][0]==whole[0] and shown['left cerebral hemisphere'][1]==whole[1] and shown['first'][1]<whole[1]


# Neighbours: names, places and accidents

def test_sentences_of_one_name_and_names_that_are_taken(tmp_path):
    m = np.zeros((12,14,10), bool)
    sentences = ['Liver!', 'liver', 'labels', 'liver objects', '左肾', '右肾', 'x'*300, 'x'*301, 'table', 'manifest']
    masks = {s: np.arange(m.size).reshape(m.shape)==i for i,s in enumerate(sentences)}
    res = result(tmp_path, **masks)
    res.instances = {s: m.astype(np.int32)*7 for s,m in masks.items()}
    res.save(tmp_path/'out')
    files = [o for o in masks_in(tmp_path/'out') if o!='labels.nii.gz']
    assert len(files)==2*len(sentences) and max(map(len, files))<120
    for i,s in enumerate(sentences):
        name = file_names(sentences)[s]
        lbl,names = read_labels(tmp_path/'out'/f'{name}.nii.gz')
        assert names=={1: s} and lbl.data.ravel()[i]==1 and lbl.data.sum()==1
        assert read_labels(tmp_path/'out'/f'{name}_objects.nii.gz')[0].data.ravel()[i]==7
    assert read_labels(tmp_path/'out'/'labels.nii.gz')[1]==dict(enumerate(sentences, 1))


def test_three_hundred_masks(tmp_path):
    masks = {f'nucleus {i}': np.arange(1680).reshape(12,14,10)==i for i in range(300)}
    res = result(tmp_path, **masks)
    for name in ('x.nii.gz', 'x.npz'):
        res.save(tmp_path/name)
        assert np.array_equal(read_labels(tmp_path/name)[0].data.ravel()[:300], np.arange(1, 301))


def test_places_where_nothing_can_be_written(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result(tmp_path)
    (tmp_path/'file').write_text('a letter')
    said = {'file, where a folder is needed': ('file', 'file/x/y', 'file/x.nii.gz'),
            'nothing can be written in': ('/proc/x', '/proc/x.nii.gz')}
    for out,says in ((' ', 'needs a name'), *((o, k) for k,outs in said.items() for o in outs)):
        refused(capsys, ['segment', 'scan.nii.gz', 'liver', '-o', out], says)
    (tmp_path/'out'/'labels.nii.gz').mkdir(parents=True)
    refused(capsys, ['segment', 'scan.nii.gz', 'liver', '-o', 'out'], 'is a folder, where a file')
    (tmp_path/'x.medals.json').mkdir()
    refused(capsys, ['segment', 'scan.nii.gz', 'liver', '-o', 'x.nii.gz'], 'is a folder, where a file')
    assert (tmp_path/'file').read_text()=='a letter'


@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='needs users as Unix knows them')
def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    (tmp_path/'closed').mkdir()
    def deny(*args, **kwargs): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr('medals.scans.outputs.tempfile.TemporaryFile', deny) # root may write everywhere
    with pytest.raises(UserError, match='nothing can be written in .*closed .Permission denied'): check_out(tmp_path/'closed'/'x'/'y')


def test_the_home_folder_a_trailing_slash_and_relative_paths(tmp_path, monkeypatch):
    (tmp_path/'home').mkdir()
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    monkeypatch.chdir(tmp_path)
    res = result(tmp_path)
    for out in ('~/a/', '~/b.nii.gz', 'c/', './d/../e'): res.save(out)
    assert {'home/a/labels.nii.gz', 'home/b.nii.gz', 'c/labels.nii.gz', 'e/labels.nii.gz'}<=set(state(tmp_path))
    assert not (tmp_path/'~').exists()


@pytest.mark.parametrize('at', ['write_table', 'save_fig', 'write_labels'])
def test_a_full_disk_and_a_crash_leave_the_earlier_result(tmp_path, monkeypatch, at):
    res = result(tmp_path)
    res.save(tmp_path/'out')
    before,calls = state(tmp_path),[]
    home = medals.show if at=='save_fig' else medals.inference.result
    kept = getattr(home, at)
    def full(*args, **kwargs):
        calls.append(args)
        if len(calls)<=(at=='write_labels'): return kept(*args, **kwargs)
        next(o for o in args if isinstance(o, Path)).parent.joinpath('half').write_bytes(b'written so far')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(home, at, full)
    other = result(tmp_path, brain=res.masks['brain'], new=res.masks['left'])
    with pytest.raises(OSError, match='No space left'): other.save(tmp_path/'out')
    assert state(tmp_path)==before


def test_a_full_disk_is_one_sentence(tmp_path, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result(tmp_path)
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('medals.volume.open_gzip', full)
    for out in ('out', 'x.nii.gz'):
        refused(capsys, ['segment', 'scan.nii.gz', 'white matter', '--weights', quick, '-o', out], 'No space left on device')
    assert not [o for o in state(tmp_path) if 'medals-' in o or o.startswith('x')]


def test_a_sentence_may_be_the_name_of_the_folder(tmp_path, quick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result(tmp_path)
    for _ in range(2): assert main(['segment', 'scan.nii.gz', 'brain', '--weights', quick, '-o', 'brain'])==0
    assert masks_in('brain')==['brain.nii.gz', 'labels.nii.gz']


def test_2_3_a_folder_of_the_studio_whose_marks_are_read(tmp_path, idle, monkeypatch, capsys):
    "A new result would replace the earlier one in the folder, and with it the marks"
    pytest.importorskip('anywidget')
    from medals.spatial import Mask, Point
    from medals.widgets import Studio
    monkeypatch.chdir(tmp_path)
    vol = result(tmp_path).volume
    Studio(None, vol, marks={'a': [Point((3,3,3), 20.), Mask(np.asarray(vol.data)>0)]}).save('studio')
    before = state(tmp_path)
    for marks in ('studio', 'studio/marks.json'): refused(capsys, ['segment', 'scan.nii.gz', 'a', '--marks', marks, '-o', 'studio'], READ)
    assert state(tmp_path)==before and 'studio/marks.json' in before


def test_a_result_beside_its_scan_does_not_hide_it(tmp_path):
    from medals.commands.images import find_images
    res = result(tmp_path)
    res.manifest['scan'] = str(tmp_path/'scan.nii.gz')
    res.save(tmp_path)
    assert [p.name for p in find_images([tmp_path]).values()]==['scan.nii.gz']


def test_bytes_that_are_no_text_are_refused_before_the_network(tmp_path, idle, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result(tmp_path)
    word = b'Gr\xf6\xdfe'.decode('utf-8', 'surrogateescape') # as a terminal in Latin-1 hands it over
    for out in ('out', 'x.nii.gz'): refused(capsys, ['segment', 'scan.nii.gz', word, '-o', out], 'type it in UTF-8')
