"Grids that are compared by their corners, masks that are one mask whatever their values, and scores that rounding does not change"
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import from_matvec
from nibabel.orientations import inv_ornt_aff
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation

from medals import metrics, postprocess, validate
from medals.cli import EvaluateCfg
from medals.core import UserError, read_json
from medals.evaluate import evaluate
from medals.grids import CORNER_TOLERANCE, corner_gap, grid_difference
from medals.labelmap import components, label_boxes, largest
from medals.look import agreement
from medals.metrics import challenge_metrics, dice, surface_dice
from medals.prepare import Recipe, load
from medals.spatial import read_marks
from medals.volume import Volume, phantom, write_labels, write_volume

VOL,LBL,NAMES = phantom((24,28,22), (8.,8.,8.))
OBLIQUE = st.tuples(*[st.floats(-1.5, 1.5)]*3)


def about_middle(vol, matrix):
    "The affine of a volume whose placement is changed about its middle, mm"
    middle = (vol.affine@[*(np.array(vol.shape)-1)/2, 1])[:3]
    matrix = np.asarray(matrix, float)
    return from_matvec(matrix, middle-matrix@middle)@vol.affine


def turn(degrees, axis='z'): return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


# ---- 1.7: grids are compared by their corners

def literal_gap(shape, a, b):
    "Each corner of the first grid, looked up one by one in the second"
    mm,voxels = [],[]
    for corner in np.ndindex(2,2,2):
        at = np.array([-.5 if c==0 else n-.5 for c,n in zip(corner, shape)])
        p,q = a[:3,:3]@at+a[:3,3],b[:3,:3]@at+b[:3,3]
        mm.append(np.linalg.norm(p-q))
        voxels.append(np.abs(np.linalg.inv(b[:3,:3])@(p-q)).max())
    return max(mm),max(voxels)


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 600)]*3), angles=OBLIQUE, spacing=st.tuples(*[st.floats(.3, 6)]*3),
       move=st.sampled_from(('no','turn','grow','shift','shear')), size=st.sampled_from((.01,.2,.9,1.2,5.,60.)))
def test_1_7_corners_decide_and_the_cause_is_named(shape, angles, spacing, move, size):
    "A change of known size, in voxels at the worst corner, is accepted below the tolerance, and refused above it with its cause"
    frame = Rotation.from_euler('xyz', angles).as_matrix()
    wanted = from_matvec(frame@np.diag(spacing), [10.,-20.,30.])
    wanted[:3,3] -= wanted[:3,:3]@((np.array(shape)-1)/2)
    change = dict(no=np.eye(3), turn=Rotation.from_rotvec(frame[:,2]*1e-4).as_matrix(), grow=np.eye(3)*1.0001, shift=np.eye(3),
                  shear=np.eye(3)+1e-4*np.outer(frame[:,0], frame[:,1]))[move]
    offset = frame[:,0]*spacing[0]*1e-4 if move=='shift' else np.zeros(3)
    middle = np.array([10.,-20.,30.])
    def moved(times):
        matrix = np.eye(3)+times*(change-np.eye(3))
        return from_matvec(matrix, middle-matrix@middle+times*offset)@wanted
    per = literal_gap(shape, moved(1.), wanted)[1]
    if move=='no' or per*200<size: # too small a grid to tell a turn from nothing
        assert grid_difference(shape, wanted.astype(np.float32), wanted)==''
        return
    affine = moved(size*CORNER_TOLERANCE/per)
    assert corner_gap(shape, affine, wanted)==pytest.approx(literal_gap(shape, affine, wanted))
    why = grid_difference(shape, affine, wanted)
    assert bool(why)==(size>1)
    if why: assert dict(turn='turned by', grow='its voxels are', shift='shifted by', shear='sheared by')[move] in why


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(3)), flips=st.tuples(*[st.sampled_from((1,-1))]*3), angles=OBLIQUE, single=st.booleans())
def test_1_7_turned_and_flipped_axes_of_one_grid_are_no_difference(order, flips, angles, single):
    affine = from_matvec(Rotation.from_euler('xyz', angles).as_matrix()@np.diag([.7,.9,2.5]), [3.,-70.,12.])
    x = np.arange(4*5*6, dtype=np.int16).reshape(4,5,6)
    ornt = np.array([*zip(order, flips)], float)
    turned = nib.orientations.apply_orientation(x, ornt)
    there = affine@inv_ornt_aff(ornt, x.shape)
    if single: there = there.astype(np.float32)
    assert np.array_equal(Volume(turned, there).onto(Volume(x*0, affine)).data, x)


@pytest.mark.parametrize('matrix, says', [
    (turn(.5), 'turned by 0.5 degrees'), (np.eye(3)*1.0095, '+0.95 %'), (np.diag([1,1,.99]), '-1 %'),
    (np.array([[1,.01,0],[0,1,0],[0,0,1]]), 'sheared by')])
def test_1_7_what_a_header_lost_is_said_everywhere(tmp_path, matrix, says):
    "Evaluation, preparation, marks, comparison of results: all refuse, with the same words"
    odd = Volume(LBL, about_middle(VOL, matrix))
    write_volume(tmp_path/'scan.nii.gz', VOL)
    write_labels(tmp_path/'truth.nii.gz', LBL, VOL, NAMES)
    write_labels(tmp_path/'odd.nii.gz', LBL, odd, NAMES)
    mm = literal_gap(VOL.shape, nib.load(tmp_path/'odd.nii.gz').affine, VOL.affine)[0]
    p = subprocess.run([sys.executable, '-m', 'medals.cli', 'evaluate', 'odd.nii.gz', 'truth.nii.gz', '-o', 'o', '--workers', '1'],
                       cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert p.returncode==2 and p.stderr.count('\n')==1 and says in p.stderr and f'up to {mm:.3g} mm' in p.stderr
    assert '--same-voxels' in p.stderr
    row = dict(data=str(tmp_path/'scan.nii.gz'), labels=str(tmp_path/'odd.nii.gz'), modality='mri')
    with pytest.raises(UserError, match='does not lie on the voxels') as e: load(row, Recipe((8,8,8), (32,32,32)))
    assert says in str(e.value)
    (tmp_path/'marks.json').write_text('{"a": [{"kind": "mask", "data": "odd.nii.gz"}]}')
    with pytest.raises(UserError, match='does not lie on the voxels') as e: read_marks(tmp_path/'marks.json', VOL)
    assert says in str(e.value)
    assert agreement((VOL, {'a': LBL==1}), (odd, {'a': LBL==1}))==[] and agreement((VOL, {'a': LBL==1}), (VOL, {'a': LBL==1}))[0]['dsc']==1


def test_1_7_two_volumes_are_never_described_alike():
    "What `%.3g` cannot tell apart is told apart"
    with pytest.raises(UserError) as e: Volume(LBL, about_middle(VOL, np.eye(3)*1.004)).onto(VOL)
    assert 'its voxels are 8.032x8.032x8.032 mm and not 8x8x8 mm (+0.4 %)' in str(e.value) and 'Volume(' not in str(e.value)
    with pytest.raises(UserError, match='it has 24x28x21 voxels and not 24x28x22') as e: Volume(LBL[...,1:], VOL.affine).onto(VOL)
    assert 'same_voxels' not in str(e.value)
    shifted = VOL.affine.copy()
    shifted[:3,3] += 0,0,4
    with pytest.raises(UserError, match=r'its corners are up to 4 mm \(0.5 voxels\) away: its middle is shifted by 0, 0, 4 mm'):
        Volume(LBL, shifted).onto(VOL)


def test_1_7_a_lost_header_can_be_said(tmp_path):
    write_labels(tmp_path/'truth'/'a.nii.gz', LBL, VOL, NAMES)
    write_labels(tmp_path/'pred'/'a.nii.gz', LBL, Volume(LBL, np.eye(4)), NAMES)
    cfg = dict(workers=1, worst=0)
    *_,fails = evaluate(tmp_path/'pred', tmp_path/'truth', EvaluateCfg(out=str(tmp_path/'o'), **cfg))
    assert 'does not lie on' in fails.rows[0]['reason']
    rows,notes,fails = evaluate(tmp_path/'pred', tmp_path/'truth', EvaluateCfg(out=str(tmp_path/'o'), same_voxels=True, **cfg))
    assert [r['dsc'] for r in rows]==[1]*4 and not fails.rows
    assert any('pred/a.nii.gz was not believed: its corners are up to' in o for o in notes)
    assert 'not believed' in (tmp_path/'o'/'summary.md').read_text()
    write_volume(tmp_path/'scan.nii.gz', VOL)
    row = dict(data=str(tmp_path/'scan.nii.gz'), labels=str(tmp_path/'pred'/'a.nii.gz'), modality='mri', same_voxels=True)
    got = load(row, Recipe((8,8,8), (32,32,32), frame='RAS'))
    assert np.array_equal(got.labels, LBL) and any('not believed' in o for o in got.facts['notes'])
    turned = VOL.like(LBL).reorient('SPL') # where headers agree they are believed
    write_labels(tmp_path/'pred'/'a.nii.gz', turned.data, turned, NAMES)
    rows,notes,_ = evaluate(tmp_path/'pred', tmp_path/'truth', EvaluateCfg(out=str(tmp_path/'o'), same_voxels=True, **cfg))
    assert [r['dsc'] for r in rows]==[1]*4 and not notes
    with pytest.raises(UserError, match='it has'): Volume(LBL[1:], np.eye(4)).onto(VOL, same_voxels=True)


def test_1_7_prepare_takes_the_flag_and_labels_in_another_axis_order(tmp_path):
    for k in range(2): write_volume(tmp_path/'data'/'images'/f'c{k}.nii.gz', VOL)
    turned = VOL.like(LBL).reorient('SPL')
    write_labels(tmp_path/'data'/'labels'/'c0.nii.gz', turned.data, turned)
    write_labels(tmp_path/'data'/'labels'/'c1.nii.gz', LBL, Volume(LBL, np.eye(4)))
    (tmp_path/'p.toml').write_text("name='d'\nmodality='mri'\n[classes]\nhemisphere=1\n")
    def run(*words):
        cmd = [sys.executable, '-m', 'medals.cli', *words, '--workers', '1']
        return subprocess.run(cmd, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run('index', 'data', '-o', 'l.jsonl', '--prompts', 'p.toml').returncode==0
    p = run('prepare', 'l.jsonl', '-o', 's', '--preset', 'nano')
    assert p.returncode==2 and '1 of 2 cases failed' in p.stderr and '--same-voxels' in p.stderr
    assert run('prepare', 'l.jsonl', '-o', 's', '--preset', 'nano', '--same-voxels').returncode==0
    counts = [read_json(tmp_path/'s'/'cases'/'d'/f'c{k}'/'case.json') for k in range(2)]
    sums = [{k: v for k,v in o['sha256'].items() if k!='points.npz'} for o in counts] # points are drawn by the name of the case
    assert len(sums[0])>1 and sums[0]==sums[1] and any('not believed' in o for o in counts[1]['source']['notes'])


# ---- 1.6: a distance that equals the tolerance meets it, whatever the last digits of a header say

def two_cubes(shift):
    a = np.zeros((24,24,24), bool)
    a[4:14,5:15,6:16] = True
    return a,np.roll(a, shift, (0,1,2))


@settings(max_examples=150, deadline=None)
@given(angles=st.tuples(*[st.floats(-.8, .8)]*3), mm=st.floats(.2, 5), steps=st.integers(1, 5), axis=st.integers(0, 2),
       scale=st.floats(-1e-6, 1e-6), single=st.booleans())
def test_1_6_turns_scalings_and_single_precision_do_not_change_a_score(angles, mm, steps, axis, scale, single):
    "Cubes that are moved by a whole number of voxels, at a tolerance of just as many"
    a,b = two_cubes(np.eye(3, dtype=int)[axis]*steps)
    affine = from_matvec(Rotation.from_euler('xyz', angles).as_matrix()*mm*(1+scale), [-90.,126.,-72.])
    if single: affine = affine.astype(np.float32)
    spacing = Volume(a.astype(np.uint8), affine).spacing
    assert surface_dice(a, b, spacing, mm*steps)==1
    assert surface_dice(a, b, spacing, mm*steps*.999)<1, 'a tolerance that is really smaller is not met'


@pytest.mark.parametrize('angles', [(0,0,0), (.3,.2,.1), (.1,-.4,.7)])
def test_1_6_oblique_files_score_as_straight_ones(tmp_path, angles):
    for mm,steps in ((1.,2), (.4,5)):
        a,b = two_cubes((steps,0,0))
        affine = from_matvec(Rotation.from_euler('xyz', angles).as_matrix()*mm, [10.,20.,30.])
        for name,m in (('t', a), ('p', b)):
            nib.save(nib.Nifti1Image(m.astype(np.uint8), affine.astype(np.float32)), tmp_path/f'{name}.nii.gz')
        (row,),*_ = evaluate(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', EvaluateCfg(out=str(tmp_path/'o'), workers=1, worst=0))
        assert row['nsd']==1 and row['dsc']==dice(a, b)


def test_1_6_the_published_evaluator_makes_no_allowance():
    a,b = two_cubes((2,0,0))
    spacing = (np.nextafter(1, 2),)*3 # a hair above 1 mm
    maps = a.astype(np.uint8),b.astype(np.uint8)
    nsd = {m: challenge_metrics(*maps, spacing, [1], False, mode=m)['nsd'] for m in ('correct','challenge')}
    assert nsd['correct']==1 and nsd['challenge']<.8
    assert surface_dice(a, b, spacing)==1 and surface_dice(a, b, spacing, rounding=0)==nsd['challenge']


def test_1_6_tolerances_at_their_ends():
    a,b = two_cubes((1,0,0))
    assert surface_dice(a, a, (.7,.9,5.), 0)==1 and 0<surface_dice(a, b, (1,1,1), 0)<1
    dot,other = np.zeros((2, 5,5,5), bool)
    dot[0,0,0],other[4,4,4] = True,True
    assert surface_dice(dot, dot, (1,1,3), 0)==1 and surface_dice(dot, other, (1,1,1), 0)==0 and surface_dice(dot, other, (1,1,1), 7)==1
    for bad in (-1, -1e-9, float('nan'), float('inf')):
        with pytest.raises(UserError, match='0 mm or more'): surface_dice(a, b, (1,1,1), bad)
    for bad in ((1,1), (1,0,1), (1,1,-1), (1,1,float('nan'))):
        with pytest.raises(UserError, match='voxel size'): surface_dice(a, b, bad)


# ---- one of each: metrics, components and boxes

def test_a_metric_that_is_added_has_a_column_everywhere(tmp_path, monkeypatch):
    def jaccard(truth, pred, spacing): return float((truth&pred).sum()/(truth|pred).sum())
    monkeypatch.setitem(metrics.METRICS, 'jaccard', jaccard)
    write_labels(tmp_path/'t.nii.gz', LBL, VOL, NAMES)
    write_labels(tmp_path/'p.nii.gz', np.roll(LBL, 1, 0), VOL, NAMES)
    rows,*_ = evaluate(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', EvaluateCfg(out=str(tmp_path/'o'), workers=1, worst=0))
    assert [r['jaccard'] for r in rows]==pytest.approx([r['dsc']/(2-r['dsc']) for r in rows])
    table,text = (tmp_path/'o'/'table.csv').read_text(),(tmp_path/'o'/'summary.md').read_text()
    assert table.startswith('case,sentence,dsc,nsd,jaccard,outcome,') and '| DSC | NSD | JACCARD |' in text
    held = validate.Held(tmp_path, 'd/c', 'd', 'mri', {'a': [1], 'b': [2]}, (0,1))
    found = validate.case_rows(held, np.stack([LBL==1, LBL==9]), np.stack([LBL==1, LBL==1]), (8,8,8), 'none', nsd=False)
    assert [(r['dsc'], r['nsd'], r['jaccard']) for r in found]==[(1,None,1), (None,None,None)]
    assert validate.by_class(found)[0]['jaccard']==1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), dtype=st.sampled_from((bool,'uint8','int16','uint16','int32','uint32','int64')), wide=st.booleans())
def test_boxes_and_components_of_any_ids(seed, dtype, wide):
    "Against a look at every voxel; ids with nine digits, as in atlases, need no list of that length"
    gen = np.random.default_rng(seed)
    x = gen.integers(0, 4, gen.integers(1, 7, 3))*gen.integers(0, 2, 1)
    if wide and np.dtype(dtype).itemsize>=4: x = np.where(x>1, x+614_454_277, x)
    x = x.astype(dtype)
    want = {int(v): tuple((int(o.min()), int(o.max())+1) for o in np.nonzero(x==v)) for v in np.unique(x) if v>0}
    assert label_boxes(x)==want and list(label_boxes(x))==sorted(want)
    parts = components(x)
    assert (parts>0).tolist()==(x>0).tolist() and parts.max(initial=0)==sum(ndi.label(x==v)[1] for v in want)
    assert postprocess.components is components is metrics.components
    big = largest(x>0)
    assert big.sum()==max(np.bincount(components(x>0).ravel())[1:], default=0) and not (big&(x==0)).any()
