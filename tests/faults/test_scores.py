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
from scipy.spatial.transform import Rotation

from medals.cli import EvaluateCfg
from medals.core import CORNER_TOLERANCE, UserError, corner_gap, grid_difference, read_json
from medals.evaluate import evaluate
from medals.look import agreement
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
