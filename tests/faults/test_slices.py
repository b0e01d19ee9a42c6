"DICOM slices that lie where no even box has them, and files that lack or contradict what DICOM demands, against SimpleITK and dcm2niix"
import shutil
import subprocess
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals import cli
from medals.inference import dicom_seg as dicomseg
from medals.inference.seg_reader import read_seg
from medals.commands.images import find_images
from medals.core import UserError
from medals.base.files import files_below
from medals.dicom import find_series, series_of
from medals.scans.slice_stack import SliceStack, nearest_voxels, straight_grid, straighten_labels
from medals.volume import Volume, phantom, read_labels, read_volume
from test_dicom import agrees, frames_of, other_object, write_series

pydicom = pytest.importorskip('pydicom')
from pydicom import uid as U


def scene(mm):
    "A made-up patient at places in RAS+ mm: soft edges, no symmetry, nothing at the border"
    x,y,z = np.moveaxis(np.asarray(mm, float), -1, 0)
    def ball(c, r): return 1/(1+np.exp((np.sqrt((x-c[0])**2+(y-c[1])**2+(z-c[2])**2)-r)/2))
    return 1000*ball((6,-4,3), 38)+600*ball((-18,14,-10), 14)+300*ball((20,-20,25), 9)


def planes(row, col, at, shape=(72,80), mm=(1.5,1.5), dtype=np.int16):
    "What a scanner sees on planes in L, P, S: the stored values, and where they are, RAS+ mm"
    i,j = np.indices(shape)
    places = np.stack([p+mm[0]*i[...,None]*row+mm[1]*j[...,None]*col for p in at], 2)*[-1,-1,1]
    return scene(places).round().astype(dtype),places


def series(folder, row, col, at, mm=(1.5,1.5), kind='<i2', **tags):
    "Planes as files, in an order that nothing tells"
    x,places = planes(row, col, at, mm=mm)
    vol = Volume(x, np.diag([*mm, 1., 1.]))
    names = np.random.default_rng(0).permutation(len(at))
    tags = {'InstanceNumber': lambda k: int(names[k])+1, **tags}
    axes = [f'{o:.9f}' for o in (*row, *col)]
    write_series(folder, vol, kind=(kind, (1,0)), name='{k}.tmp', PixelSpacing=[mm[1], mm[0]], ImageOrientationPatient=axes,
                 ImagePositionPatient=lambda k: [f'{o:.6f}' for o in at[k]], **tags)
    for k,n in enumerate(names): (folder/f'{k}.tmp').rename(folder/f'{n:03}.dcm')
    return x,places


def is_upright(vol):
    axes = vol.affine[:3,:3]/vol.spacing
    return np.abs(axes.T@axes-np.eye(3)).max()<1e-4


def error_of(vol, margin=2):
    "Mean difference of a scan to the truth at its own places, inside its border"
    i = np.stack(np.meshgrid(*[np.arange(margin, n-margin) for n in vol.shape], indexing='ij'), -1)
    truth = scene(nib.affines.apply_affine(vol.affine, i))
    return np.abs(vol.data[tuple(np.moveaxis(i, -1, 0))]-truth).mean()


ROW = np.array([1.,0,0])

def tilted(angle, n=28, step=4., start=(-54.,-58,-50), about='x'):
    "Slices of a gantry that leans by an angle while the table moves along z"
    t = np.deg2rad(angle)
    row,col = (ROW, np.array([0, np.cos(t), np.sin(t)])) if about=='x' else (np.array([np.cos(t), 0, np.sin(t)]), np.array([0.,1,0]))
    return row,col,[np.array(start)+[0,0,step*k] for k in range(n)]


# 3.10: a tilted gantry

@pytest.mark.parametrize('angle', [-25, -8, 3, 15, 30])
@pytest.mark.parametrize('about', 'xy')
def test_3_10_a_tilted_gantry_is_put_straight(tmp_path, angle, about):
    x,places = series(tmp_path/'s', *tilted(angle, about=about))
    vol = read_volume(tmp_path/'s')
    assert is_upright(vol) and vol.data.dtype==np.int16 and vol.modality=='ct'
    assert any('tilted gantry' in o and f'{abs(angle)} degrees' in o for o in vol.notes)
    assert np.allclose(vol.spacing, (1.5, 1.5, 4*np.cos(np.deg2rad(angle))), atol=1e-4)
    assert error_of(vol)<4   # of 1000; an even box is wrong by more than that, see below
    flat = Volume(x, vol.affine)
    assert abs(angle)<5 or error_of(flat)>20
    mask = vol.data>500
    back = vol.on_source(mask)
    assert back.shape==x.shape and back.dtype==bool
    differs = back!=(x>500)
    assert differs.mean()<.003 and (back&(x>500)).sum()*2/(back.sum()+(x>500).sum())>.985
    assert np.array_equal(vol.from_source(back)&mask, mask) # nothing of it is lost on the way


@pytest.mark.parametrize('codes', ['RAS', 'PIL', 'SRP'])
def test_3_10_masks_go_back_from_any_axis_order(tmp_path, codes):
    series(tmp_path/'s', *tilted(15))
    vol = read_volume(tmp_path/'s')
    ids = np.where(vol.data>800, 7, np.where(vol.data>200, 3, 0)).astype(np.uint8)
    turned = vol.reorient(codes)
    there = vol.like(ids).reorient(codes).data
    assert np.array_equal(turned.on_source(there), vol.on_source(ids)) and set(np.unique(vol.on_source(ids)))=={0,3,7}
    back = vol.from_source(vol.on_source(ids))
    assert np.array_equal(turned.from_source(vol.on_source(ids)), Volume(back, vol.affine).reorient(codes).data)


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), lean=st.tuples(st.floats(-3, 3), st.floats(-3, 3)), n=st.integers(2, 7),
       gaps=st.lists(st.floats(1, 5), min_size=6, max_size=6), is_even=st.booleans(), seed=st.integers(0, 99))
def test_3_10_labels_survive_the_way_there_and_back(size, lean, n, gaps, is_even, seed):
    "Onto the straight grid and back to the slices: every pixel has the label that it had"
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3,3)))[0]
    steps,normal = turn[:,:2]*[.7,1.3],np.cross(turn[:,0], turn[:,1])
    heights = np.r_[0, np.cumsum([gaps[0]]*(n-1) if is_even else gaps[:n-1])]
    beside = np.outer(np.arange(n), lean)
    stack = SliceStack(size, steps, np.outer(heights, normal)+beside@steps.T, is_even=is_even)
    ids = np.random.default_rng(seed).integers(0, 5, (*size, n)).astype(np.uint8)
    shape,affine,_ = straight_grid(stack)
    upright = straighten_labels(ids, stack)
    near = nearest_voxels(stack, shape, affine)
    assert upright.shape==shape and (near>=0).all()
    if is_even: assert np.array_equal(upright.ravel()[near], ids)
    corners = np.array([[0,0], [size[0]-1,0], [0,size[1]-1], [size[0]-1,size[1]-1]])
    inside = nib.affines.apply_affine(np.linalg.inv(affine), (stack.at[:,None]+corners@steps.T).reshape(-1, 3))
    assert (inside>-.51).all() and (inside<np.array(shape)-.49).all()


def test_3_10_a_slight_lean_is_not_touched(tmp_path):
    "Less than half a pixel over the whole scan: the values are as stored, and no note is made"
    row,col,at = tilted(0)
    x,_ = series(tmp_path/'s', row, col, [p+[0, .02*k, 0] for k,p in enumerate(at)])
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.data, x) and vol.notes==() and vol.source_grid is None


# 3.1: slices that are not evenly spaced

def stack_at(heights): return ROW, np.array([0.,1,0]), [np.array([-54.,-58,-50])+[0,0,h] for h in heights]


UNEVEN = [
    ([3]*40+[3.29]*34, 'changes from 3 to 3.29 mm'), ([5]*12+[2.5]*16, 'changes from 5 to 2.5 mm'),
    ([2.5]*16+[5]*12, 'changes from 2.5 to 5 mm'), ([5]*8+[2.5]*12+[5]*8, 'changes from 5 to 2.5 to 5 mm'),
    ([4,5,3]*8, 'unevenly spaced, 3 to 5 mm'), ([4]*10+[8]+[4]*10, 'about 1 slice is missing'),
    ([4]*10+[12]+[4]*10, 'about 2 slices are missing'), ([4]*10+[8,8]+[4]*9, 'about 1 slice is missing')]

@pytest.mark.parametrize('gaps, says', UNEVEN)
def test_3_1_uneven_slices_are_refused_with_the_reason_or_interpolated(tmp_path, gaps, says):
    heights = np.r_[0, np.cumsum(gaps)]
    series(tmp_path/'s', *stack_at(heights))
    off = np.abs(heights-np.linspace(0, heights[-1], len(heights))).max()
    with pytest.raises(UserError, match=says) as e: read_volume(tmp_path/'s')
    assert f'up to {off:.3g} mm off' in str(e.value) and '--resample' in str(e.value) and '\n' not in str(e.value)
    assert ('missing' in str(e.value))==('missing' in says)
    vol = read_volume(tmp_path/'s', resample=True)
    assert is_upright(vol) and any(says in o and 'interpolated' in o for o in vol.notes)
    assert abs(vol.spacing[2]*(vol.shape[2]-1)-heights[-1])<1e-3 and vol.spacing[2]<=min(gaps)*1.01 and error_of(vol)<9
    found = find_series(tmp_path/'s', resample=True)
    assert found.stack is not None and vol.on_source(vol.data>500).shape==(72,80,len(heights))
    x,_ = planes(*stack_at(heights))
    back = vol.on_source(vol.data>500)
    assert 2*(back&(x>500)).sum()/(back.sum()+(x>500).sum())>.98


def test_3_1_every_slice_lies_within_half_a_slice_of_its_place(tmp_path):
    "Gaps that each are even enough, and add up"
    heights = np.r_[0, np.cumsum([3.]*40+[3.25]*34)]
    series(tmp_path/'s', *stack_at(heights))
    with pytest.raises(UserError, match=r'up to 4\.\d+ mm off'): read_volume(tmp_path/'s')
    heights = np.r_[0, np.cumsum([3., 3.1]*15)]
    x,_ = series(tmp_path/'t', *stack_at(heights))
    vol = read_volume(tmp_path/'t')
    assert np.array_equal(vol.data, x) and vol.notes==() and vol.source_grid is None
    heights = np.r_[0, np.cumsum([3.]*20+[3.12]*20)]
    series(tmp_path/'u', *stack_at(heights))
    vol = read_volume(tmp_path/'u')
    assert vol.source_grid is None and any('off an even grid; they are read as even' in o for o in vol.notes)


def test_3_1_a_lean_and_uneven_distances_together(tmp_path):
    row,col,_ = tilted(12)
    at = [np.array([-54.,-58,-50])+[0,0,h] for h in np.r_[0, np.cumsum([5]*8+[2.5]*24)]]
    x,_ = series(tmp_path/'s', row, col, at)
    with pytest.raises(UserError, match='changes from'): read_volume(tmp_path/'s')
    vol = read_volume(tmp_path/'s', resample=True)
    assert is_upright(vol) and error_of(vol)<9 and len(vol.notes)==2
    back = vol.on_source(vol.data>500)
    assert back.shape==x.shape and 2*(back&(x>500)).sum()/(back.sum()+(x>500).sum())>.98


def test_3_1_an_even_series_is_not_touched_when_asked(tmp_path):
    x,_ = series(tmp_path/'s', *stack_at(4.*np.arange(20)))
    a,b = read_volume(tmp_path/'s'),read_volume(tmp_path/'s', resample=True)
    assert np.array_equal(a.data, x) and np.array_equal(a.data, b.data) and np.array_equal(a.affine, b.affine) and a.notes==b.notes==()


@pytest.mark.parametrize('row, col', [((0,1,0),(0,0,-1)), ((1,0,0),(0,0,-1)), ((0,-1,0),(0,0,1)), ((-1,0,0),(0,-1,0))])
def test_3_1_in_any_plane_and_position(tmp_path, row, col):
    "Sagittal, coronal, prone: even as SimpleITK reads them, uneven on an even grid, leaning put straight"
    row,col = np.array(row, float),np.array(col, float)
    normal = np.cross(row, col)
    start = -54*row-58*col-50*normal
    series(tmp_path/'even', row, col, [start+4*k*normal for k in range(26)])
    agrees(read_volume(tmp_path/'even'), tmp_path/'even')
    series(tmp_path/'uneven', row, col, [start+h*normal for h in np.r_[0, np.cumsum([5]*8+[2.5]*24)]])
    series(tmp_path/'lean', row, col, [start+4*k*normal+.6*k*col for k in range(26)])
    for name in ('uneven','lean'):
        vol = read_volume(tmp_path/name, resample=name=='uneven')
        assert is_upright(vol) and error_of(vol)<9, name


# DICOM SEG on the slices as they are

KINDS = dict(lean=(tilted(15), False), more=(tilted(-28, about='y'), False), uneven=(stack_at(np.r_[0, np.cumsum([5]*8+[2.5]*24)]), True),
             both=((*tilted(12)[:2], [np.array([-54.,-58,-50])+[0,0,h] for h in np.r_[0, np.cumsum([5]*8+[2.5]*24)]]), True))

@pytest.mark.parametrize('kind', KINDS)
def test_3_10_a_seg_lies_on_the_slices_as_they_are(tmp_path, kind):
    pytest.importorskip('highdicom')
    (row,col,at),resample = KINDS[kind]
    x,places = series(tmp_path/'s', row, col, at)
    vol = read_volume(tmp_path/'s', resample=resample)
    masks = {'large': vol.data>500, 'small': vol.data>1200, 'nothing': vol.data>5000}
    dicomseg.write_seg(tmp_path/'seg.dcm', masks, vol, tmp_path/'s')
    seen,_ = frames_of(tmp_path/'seg.dcm')
    slices = find_series(tmp_path/'s', resample=True).slices
    for n,m in enumerate(masks.values(), 1):
        on = vol.on_source(m)
        for k,s in enumerate(slices): assert np.array_equal(seen.pop((n, s.uid), np.zeros(s.size[::-1], bool)), on[:,:,k].T)
    assert not seen
    ds = pydicom.dcmread(tmp_path/'seg.dcm')
    back = np.zeros(x.shape, bool) # by what the frames say of their place, and nothing else
    for g,f in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array):
        if g.SegmentIdentificationSequence[0].ReferencedSegmentNumber!=1: continue
        place = np.array(g.PlanePositionSequence[0].ImagePositionPatient, float)*[-1,-1,1]
        k = np.linalg.norm(places[0,0]-place, axis=1).argmin()
        assert np.abs(places[0,0,k]-place).max()<1e-3
        back[:,:,k] = f.T
    assert 2*(back&(x>500)).sum()/(back.sum()+(x>500).sum())>.98
    for like in (vol, vol.reorient('PIL')):
        got = read_seg(tmp_path/'seg.dcm', like)
        for name,m in masks.items():
            turned = vol.like(vol.from_source(vol.on_source(m))).onto(like).data
            assert np.array_equal(got[name], turned)


def test_3_10_a_seg_of_other_slices_is_refused(tmp_path):
    pytest.importorskip('highdicom')
    series(tmp_path/'a', *tilted(15))
    series(tmp_path/'b', *tilted(20))
    series(tmp_path/'c', *tilted(0))
    a,b,c = (read_volume(tmp_path/o) for o in 'abc')
    for vol,source in ((a, 'b'), (c, 'a'), (a, 'c')):
        with pytest.raises(UserError, match='does not lie on the voxels') as e:
            dicomseg.write_seg(tmp_path/'x.dcm', {'m': vol.data>500}, vol, tmp_path/source)
        assert '\n' not in str(e.value)
    dicomseg.write_seg(tmp_path/'a.dcm', {'m': a.data>500}, a, tmp_path/'a')
    for vol in (b, c):
        with pytest.raises(UserError, match='the scan that it was made on'): read_seg(tmp_path/'a.dcm', vol)


def test_3_6_a_seg_of_slices_with_frames_of_reference_of_their_own(tmp_path):
    pytest.importorskip('highdicom')
    head = phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')
    files = write_series(tmp_path/'s', head, FrameOfReferenceUID=lambda k: f'1.2.{k}', RescaleSlope='')
    for f in files: f.write_bytes(f.read_bytes()[132:]) # and without preamble
    vol = read_volume(tmp_path/'s')
    notes = dicomseg.write_seg(tmp_path/'seg.dcm', {'m': vol.data>100}, vol, tmp_path/'s')
    assert np.array_equal(read_seg(tmp_path/'seg.dcm', vol)['m'], vol.data>100) and any('frames of reference' in o for o in notes)


# 3.6: what is lacking or wrong in files

@pytest.fixture
def head(): return phantom((12,14,10), (16.,16.,18.))[0].reorient('LPS')


def bare(file):
    "A file without its preamble and without the group that says how it is encoded"
    ds = pydicom.dcmread(file)
    is_implicit = ds.file_meta.TransferSyntaxUID.is_implicit_VR
    from pydicom.filewriter import dcmwrite
    from pydicom.filebase import DicomBytesIO
    buffer = DicomBytesIO()
    del ds.file_meta
    ds.preamble = None
    dcmwrite(buffer, ds, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
    file.write_bytes(buffer.getvalue())


@pytest.mark.parametrize('syntax', [U.ExplicitVRLittleEndian, U.ImplicitVRLittleEndian])
@pytest.mark.parametrize('name', ['{k:04}.dcm', 'IM{k:04}'])
@pytest.mark.parametrize('cut', ['preamble', 'all'])
def test_3_6_files_that_lost_their_preamble_are_read(tmp_path, head, syntax, name, cut):
    files = write_series(tmp_path/'s', head, syntax=syntax, name=name)
    for f in files:
        if cut=='preamble': f.write_bytes(f.read_bytes()[132:])
        else: bare(f)
        assert f.read_bytes()[128:132]!=b'DICM'
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.onto(head).data, head.data) and read_volume(files[2]).shape==vol.shape
    if cut=='all': agrees(vol, tmp_path/'s') # SimpleITK wants the preamble where there is a group 2


def test_3_6_hidden_files_are_no_slices(tmp_path, head):
    files = write_series(tmp_path/'s', head)
    for f in files: f.with_name('._'+f.name).write_bytes(b'\0\5\x16\7\0\2\0\0Mac OS X'+bytes(300))
    (tmp_path/'s'/'.DS_Store').write_bytes(bytes(99))
    (tmp_path/'s'/'._copy.dcm').write_bytes(files[0].read_bytes())
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.onto(head).data, head.data) and vol.notes==()


def test_3_6_a_frame_of_reference_per_slice_is_read_with_a_note(tmp_path, head):
    for name,make in (('each', lambda k: f'1.2.{k}'), ('halves', lambda k: f'1.2.{k//5}'), ('some', lambda k: '1.2.3' if k%2 else None)):
        write_series(tmp_path/name, head, FrameOfReferenceUID=make)
        vol = read_volume(tmp_path/name)
        agrees(vol, tmp_path/name)
        assert any('frames of reference' in o for o in vol.notes)


@pytest.mark.parametrize('modality', ['CT', 'MR', 'PT'])
@pytest.mark.parametrize('slope, inter, want', [
    ('', '', (1,0)), (None, None, (1,0)), ('', -24, (1,-24)), (2, '', (2,0)), (2, None, (2,0)), (None, -24, (1,-24)), (0, 0, (1,0)),
    (2, -24, (2,-24))])
def test_3_6_slopes_that_say_nothing_scale_nothing(tmp_path, head, modality, slope, inter, want):
    write_series(tmp_path/'s', head, modality, RescaleSlope=slope, RescaleIntercept=inter)
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.onto(head).data, head.data*want[0]+want[1])
    agrees(vol, tmp_path/'s')


@pytest.mark.parametrize('tag', ['ImageOrientationPatient', 'PixelSpacing'])
def test_3_6_what_a_few_slices_lack_is_taken_from_the_others(tmp_path, head, tag):
    files = write_series(tmp_path/'s', head)
    for f in files[3:5]:
        ds = pydicom.dcmread(f)
        if f is files[3]: del ds[tag]
        else: setattr(ds, tag, None)
        ds.save_as(f)
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.onto(head).data, head.data) and any(o.startswith('2 of 10 slices do not give their') for o in vol.notes)


@pytest.mark.parametrize('gone', ['InstanceNumber', 'SliceThickness', 'SeriesDescription', 'Modality', 'SOPClassUID', 'FrameOfReferenceUID',
                                  'StudyInstanceUID', 'SeriesInstanceUID', 'SpacingBetweenSlices', 'BitsStored'])
def test_3_6_tags_that_place_nothing_may_be_missing(tmp_path, head, gone):
    files = write_series(tmp_path/'s', head, SpacingBetweenSlices=-18)
    for f in files:
        ds = pydicom.dcmread(f)
        del ds[gone]
        if gone=='BitsStored': ds.BitsStored = 16
        ds.save_as(f)
    vol = read_volume(tmp_path/'s')
    assert np.array_equal(vol.onto(head).data, head.data) and not any('frames' in o for o in vol.notes)


def test_3_6_one_slice_takes_its_thickness_from_where_it_is_said(tmp_path, head):
    lost,empty = dict(SliceThickness=None, SpacingBetweenSlices=7),dict(SliceThickness='', SpacingBetweenSlices=-7)
    for tags,mm in ((dict(), 18), (lost, 7), (empty, 7)):
        folder = tmp_path/f'{len(tags)}{mm}{tags.get("SliceThickness")}'
        for f in write_series(folder, head, **tags)[1:]: f.unlink()
        assert read_volume(folder).spacing[2]==pytest.approx(mm)


def test_3_6_files_of_others_and_broken_ones(tmp_path, head):
    write_series(tmp_path/'s', head)
    (tmp_path/'s'/'notes.txt').write_text('\2\0 this is no element')
    (tmp_path/'s'/'empty').write_bytes(b'')
    (tmp_path/'s'/'Thumbs.db').write_bytes(b'\xd0\xcf\x11\xe0'+bytes(500))
    assert np.array_equal(read_volume(tmp_path/'s').onto(head).data, head.data)
    (tmp_path/'s'/'cut.dcm').write_bytes(b'\x08\0\x05\0CS\x0a\0ISO_IR 100')
    damaged = []
    assert list(series_of(files_below(tmp_path/'s'), damaged))[0]=='1.2.826.0.1' or damaged


# 5.5: folders with several series

def study(folder, head):
    "Two scans and a list of findings in one folder, a third scan in two folders, and what is no scan"
    write_series(folder/'a', head, 'MR', '1.2.1', name='t1-{k}.dcm', SeriesNumber=3, SeriesDescription='T1 MPRAGE')
    write_series(folder/'a', head.reorient('PSR'), 'MR', '1.2.2', name='s{k}.dcm', SeriesNumber=12, SeriesDescription='T2 sagittal')
    files = write_series(folder/'b', head, 'CT', '1.2.3', name='c{k}.dcm', SeriesNumber=1, SeriesDescription='head')
    (folder/'c').mkdir()
    for f in files[5:]: f.rename(folder/'c'/f.name)
    other_object(folder/'d', U.BasicTextSRStorage)
    return folder


def test_5_5_each_folder_with_a_series_is_a_scan_and_of_a_mixed_one_a_series_is_named(tmp_path, head):
    folder,notes = study(tmp_path/'study', head),[]
    assert sorted(find_images([folder], notes).values())==[folder/'a', tmp_path/'study#1.2.3']
    with pytest.raises(UserError, match='2 series; name one of these'): read_volume(folder/'a')
    assert read_volume(tmp_path/'study#1.2.3').shape==(12,14,10)
    found = find_images([folder], every=True)
    assert sorted(found.values())==[folder/'a#1.2.1', folder/'a#1.2.2', tmp_path/'study#1.2.3']
    for p in found.values(): assert read_volume(p).shape in ((12,14,10), head.reorient('PSR').shape)
    told = '; '.join(notes)
    assert all(o in told for o in ('3 series; each folder is a scan', '--series', 'T1 MPRAGE', 'number 12', 'left out', 'Basic Text SR'))
    with pytest.raises(UserError, match='4 series; name one of these') as e: read_volume(folder)
    assert all(o in str(e.value) for o in ('T1 MPRAGE', 'T2 sagittal', 'number 1,'))
    assert find_images([folder/'d'/'..'/'b']).keys()=={'b'}


@pytest.mark.parametrize('word, uid', [('1.2.2', '1.2.2'), ('12', '1.2.2'), ('3', '1.2.1'), ('mprage', '1.2.1'), ('HEAD', '1.2.3')])
def test_5_5_one_series_is_named_by_uid_number_or_description(tmp_path, head, word, uid):
    folder = study(tmp_path/'study', head)
    want = read_volume(folder, series=uid)
    for got in (read_volume(folder, series=word), read_volume(f'{folder}#{word}')):
        assert np.array_equal(got.data, want.data) and np.array_equal(got.affine, want.affine)
    for bad,says in (('99', 'has no series 99; name one'), ('T', 'has 2 series T; name one'), ('1.2', 'has no series 1.2')):
        with pytest.raises(UserError, match=says): read_volume(folder, series=bad)


def test_5_5_several_files_of_a_series_are_one_scan(tmp_path, head):
    files = write_series(tmp_path/'ct', head, name='IM{k}')
    assert find_images(files)=={'ct': tmp_path/'ct'} and find_images(files[:2])=={'ct': tmp_path/'ct'}
    assert find_images([f'{tmp_path}/ct/IM*'])=={'ct': tmp_path/'ct'}
    assert find_images(files[:1])=={'IM0': files[0]}
    more = write_series(tmp_path/'ct', head, series='1.2.9', name='x{k}.dcm')
    assert find_images(more)=={'ct#1.2.9': tmp_path/'ct#1.2.9'}
    assert find_images([*files, *more])=={'ct': tmp_path/'ct'} # which of them is asked when it is read
    assert set(find_images([*files, *more], every=True).values())=={tmp_path/'ct#1.2.826.0.1', tmp_path/'ct#1.2.9'}


def test_5_5_segment_takes_each_series_or_the_one_that_is_named(tmp_path, head, monkeypatch, capsys):
    folder = study(tmp_path/'study', head)
    monkeypatch.chdir(tmp_path)
    asked = []
    def one(image, sentences, cfg): asked.append(image)
    def many(images, sentences, cfg): asked.append(sorted(map(str, images.values())))
    monkeypatch.setattr(cli, '_one_scan', one)
    monkeypatch.setattr(cli, '_many_scans', many)
    def run(*words): return cli.main(['segment', *words, 'liver', '-o', 'out']),asked[-1] if asked else None
    assert run('study')==(0, sorted(map(str, find_images([folder]).values())))
    assert 'note: ' in capsys.readouterr().err
    assert run('study', '--series', 'all')==(0, sorted(map(str, find_images([folder], every=True).values())))
    assert run('study/a')==(0, 'study/a') # which asks for one of the two when it is read
    for word in ('1.2.2', '12', 'sagittal'): assert run('study', '--series', word)==(0, 'study#1.2.2')
    assert run('study/b')==(0, 'study/b') # and its half below c stays out
    assert run(*[f'study/a/t1-{k}.dcm' for k in range(10)])==(0, f'{tmp_path}/study/a#1.2.1')
    assert run('study/a/t1-3.dcm')==(0, 'study/a/t1-3.dcm')
    asked.clear()
    for words,says in ((('study', '--series', '99'), 'has no series 99'), (('study/a/t1-1.dcm', '--series', '3'), 'is none')):
        assert run(*words)[0]==2 and says in capsys.readouterr().err and not asked


def test_3_1_segment_interpolates_uneven_slices_when_asked(tmp_path, monkeypatch, capsys):
    heights = np.r_[0, np.cumsum([5]*8+[2.5]*24)]
    series(tmp_path/'s', *stack_at(heights))
    monkeypatch.chdir(tmp_path)
    words = ['segment', 's', 'white matter', '--modality', 'ct', '-o', 'out']
    assert cli.main(words)==2 and '--resample' in capsys.readouterr().err and not (tmp_path/'out').exists()
    assert cli.main([*words, '--resample'])==0
    err = capsys.readouterr().err
    vol,(made,_) = read_volume(tmp_path/'s', resample=True),read_labels(tmp_path/'out/labels.nii.gz')
    assert 'changes from 5 to 2.5 mm' in err and made.shape==vol.shape and np.allclose(made.affine, vol.affine, atol=1e-3)
    if dicomseg_is_there(): # on the slices that are there
        assert cli.main([*words[:-1], 'seg.dcm', '--resample'])==0
        assert pydicom.dcmread('seg.dcm').Rows==80


def dicomseg_is_there():
    try: import highdicom
    except ImportError: return False
    return bool(highdicom)


# dcm2niix

def test_3_10_dcm2niix_agrees_where_it_puts_a_tilted_series_right(tmp_path):
    "Of the four ways in which a gantry may lean and be said to lean, version 1.0.20260724 puts one where the slices are"
    tool = shutil.which('dcm2niix')
    if not tool: pytest.skip('dcm2niix is not installed')
    x,places = series(tmp_path/'s', *tilted(-15), GantryDetectorTilt='15')
    (tmp_path/'o').mkdir()
    subprocess.run([tool, '-f', 'x', '-o', tmp_path/'o', tmp_path/'s'], check=True, capture_output=True)
    theirs = nib.load(next((tmp_path/'o').glob('*Tilt*.nii*')))
    vol = read_volume(tmp_path/'s')
    def middle(data, aff): return nib.affines.apply_affine(aff, np.argwhere(data>500)).mean(0)
    truth = places[x>500].mean(0)
    assert np.abs(middle(vol.data, vol.affine)-truth).max()<.1 and np.abs(middle(theirs.get_fdata(), theirs.affine)-truth).max()<.1


@pytest.mark.parametrize('about', [(ROW, (0,1,0)), ((0,1,0), (0,0,-1)), ((.8,.6,0), (-.36,.48,.8))])
def test_6_dcm2niix_puts_an_even_series_where_we_do(tmp_path, about):
    tool = shutil.which('dcm2niix')
    if not tool: pytest.skip('dcm2niix is not installed')
    row,col = (np.array(o, float) for o in about)
    normal = np.cross(row, col)
    series(tmp_path/'s', row, col, [-54*row-58*col+(4*k-50)*normal for k in range(26)], SoftwareVersions='1')
    (tmp_path/'o').mkdir()
    subprocess.run([tool, '-f', 'x', '-o', tmp_path/'o', tmp_path/'s'], check=True, capture_output=True)
    theirs,ours = read_volume(tmp_path/'o'/'x.nii'),read_volume(tmp_path/'s')
    assert np.array_equal(theirs.onto(ours).data, ours.data)


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 899), st.integers(0, 255)), min_size=1, max_size=4), bare=st.booleans(),
       cut=st.integers(1, 4000))
def test_3_6_any_byte_of_a_file_may_be_wrong(tmp_path_factory, changes, bare, cut):
    "Either the series is read or it is refused in one sentence"
    folder = tmp_path_factory.mktemp('b')
    files = write_series(folder, phantom((6,7,4), (30.,30.,40.))[0].reorient('LPS'))
    raw = bytearray(files[1].read_bytes()[132 if bare else 0:])
    for at,value in changes: raw[at%len(raw)] = value
    files[1].write_bytes(bytes(raw[:cut] if cut<600 else raw))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: assert np.isfinite(read_volume(folder).data).all()
        except UserError as e: assert '\n' not in str(e) and len(str(e))<700
