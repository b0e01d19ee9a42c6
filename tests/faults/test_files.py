"Files that are written: what others read in them, what they replace, and what is refused before anything runs"
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.cli import main, parser
from medals.core import UserError, asset, read_json, read_toml
from medals.dicom import dicom_series
from medals.evaluate import read_names
from medals.index import read_catalogue
from medals.text import TextEncoder
from medals.volume import Volume, phantom, read_volume, write_volume
from medals.weights import NAMED
from medals.work import read_lines
from test_dicom import frames_of, write_series
from test_volume import affines

hd = pytest.importorskip('highdicom')
pydicom = pytest.importorskip('pydicom')
sitk = pytest.importorskip('SimpleITK')
from medals.dicomseg import check_source, label_of, read_seg, write_seg


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
    for out,says in (('NEW', 'is there already and is not medals-s-coarse'), ('file', 'is a file; name a folder')):
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
