"Grids that are compared by their corners, masks that are one mask whatever their values, and scores that rounding does not change"
import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import from_matvec
from nibabel.orientations import inv_ornt_aff
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation

from medals import metrics
from medals.masks import postprocess
from medals.training import validate
from medals.cli import EvaluateCfg, main
from medals.core import UserError
from medals.base.files import read_json
from medals.evaluation.evaluate import evaluate, pairs, read_scores, summary
from medals.evaluation.labeling import case_masks
from medals.scans.grids import CORNER_TOLERANCE, corner_gap, grid_difference
from medals.scans.labelmap import components, label_boxes, largest
from medals.studio.slices import agreement
from medals.metrics import challenge_metrics, dice, surface_dice
from medals.prepare import Recipe, load
from medals.spatial import read_marks
from medals.volume import Volume, phantom, write_labels, write_volume

VOL,LBL,NAMES = phantom((24,28,22), (8.,8.,8.))
OBLIQUE = st.tuples(*[st.floats(-1.5, 1.5)]*3)


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    "Pictures are made, and not drawn"
    def save_fig(fig, path, **kwargs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr('medals.evaluation.evaluate.save_fig', save_fig)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    "`medals` in the folder of the test: exit code, stdout, stderr"
    monkeypatch.chdir(tmp_path)
    def run(*words):
        code = main(words)
        out,err = capsys.readouterr()
        said = [o for o in err.splitlines(True) if not o.startswith('evaluate: ')] # lines of progress on a slow machine
        return code,out,''.join(said)
    return run


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
def test_1_7_what_a_header_lost_is_said_everywhere(tmp_path, command, matrix, says):
    "Evaluation, preparation, marks, comparison of results: all refuse, with the same words"
    odd = Volume(LBL, about_middle(VOL, matrix))
    write_volume(tmp_path/'scan.nii.gz', VOL)
    write_labels(tmp_path/'truth.nii.gz', LBL, VOL, NAMES)
    write_labels(tmp_path/'odd.nii.gz', LBL, odd, NAMES)
    mm = literal_gap(VOL.shape, nib.load(tmp_path/'odd.nii.gz').affine, VOL.affine)[0]
    code,_,err = command('evaluate', 'odd.nii.gz', 'truth.nii.gz', '-o', 'o', '--workers', '1')
    assert code==2 and err.count('\n')==1 and says in err and f'up to {mm:.3g} mm' in err and '--same-voxels' in err
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


def test_1_7_prepare_takes_the_flag_and_labels_in_another_axis_order(tmp_path, command):
    for k in range(2): write_volume(tmp_path/'data'/'images'/f'c{k}.nii.gz', VOL)
    turned = VOL.like(LBL).reorient('SPL')
    write_labels(tmp_path/'data'/'labels'/'c0.nii.gz', turned.data, turned)
    write_labels(tmp_path/'data'/'labels'/'c1.nii.gz', LBL, Volume(LBL, np.eye(4)))
    (tmp_path/'p.toml').write_text("name='d'\nmodality='mri'\n[classes]\nhemisphere=1\n")
    assert command('index', 'data', '-o', 'l.jsonl', '--prompts', 'p.toml', '--workers', '1')[0]==0
    do = 'prepare', 'l.jsonl', '-o', 's', '--preset', 'nano', '--workers', '1'
    code,_,err = command(*do)
    assert code==2 and '1 of 2 cases failed' in err and '--same-voxels' in err
    assert command(*do, '--same-voxels')[0]==0
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
    held = validate.HeldOutCase(tmp_path, 'd/c', 'd', 'mri', {'a': [1], 'b': [2]}, (0,1))
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


# ---- 1.5: a mask is a mask, whatever its value

def save(path, x, vol=VOL, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(x).astype(dtype), vol.affine), path)


def score(pred, truth, out, **cfg):
    "Rows, notes and failures"
    return evaluate(pred, truth, EvaluateCfg(out=str(out), workers=1, worst=1, **cfg))


MASK,OTHER = LBL==1,np.roll(LBL==1, 1, 0)
VALUES = {'uint8': 255, 'int16': 2, 'float32': 1.0000001, 'float64': 255., 'int8': -1, 'int32': 70_000}


@pytest.mark.parametrize('dtype', VALUES)
@pytest.mark.parametrize('swap', [False, True])
def test_1_5_two_masks_are_one_class_whatever_their_values(tmp_path, dtype, swap):
    "Single files, flat folders and one folder per case; the truth may be the odd one, or the prediction"
    odd,plain = (OTHER*VALUES[dtype], MASK.astype(int)) if swap else (MASK*VALUES[dtype], OTHER.astype(int))
    sides = ('pred','truth') if swap else ('truth','pred')
    for side,x,kind in ((sides[0], odd, dtype), (sides[1], plain, 'uint8')):
        save(tmp_path/'files'/f'{side}.nii.gz', x, dtype=kind)
        for k in range(2): save(tmp_path/'flat'/side/f'c{k}.nii.gz', x, dtype=kind)
        for k in range(2): save(tmp_path/'cases'/side/f'case{k}'/'tumour.nii.gz', x, dtype=kind)
        for k in range(2): save(tmp_path/'seg'/side/f'case{k}'/'seg.nii.gz', x, dtype=kind)
    want = dice(MASK, OTHER),surface_dice(MASK, OTHER, VOL.spacing)
    for layout in ('files','flat','cases','seg'):
        pred,truth = (tmp_path/layout/(s+('.nii.gz' if layout=='files' else '')) for s in ('pred','truth'))
        rows,notes,fails = score(pred, truth, tmp_path/'o')
        assert [(r['dsc'], r['nsd'], r['outcome']) for r in rows]==[(*want,'found')]*(1 if layout=='files' else 2), layout
        assert not fails.rows and len({r['structure'] for r in rows})==1
        differ = dtype in ('uint8','int16','float64','int32') # the others are stored, or read, as 1
        assert bool([o for o in notes if 'taken as the same class' in o])==(differ and layout!='cases'), (layout, notes)


def test_1_5_ids_of_classes_are_no_masks(tmp_path):
    "A case with one class found for the other stays wrong, if another case shows that values are ids, or names do"
    for k,(t,p) in enumerate(((2,1), (1,1))):
        save(tmp_path/'t'/f'c{k}.nii.gz', MASK*t)
        save(tmp_path/'p'/f'c{k}.nii.gz', MASK*p)
    rows,notes,_ = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert [(r['case'], r['sentence'], r['outcome']) for r in rows]==[
        ('c0','label 1','invented'), ('c0','label 2','missed'), ('c1','label 1','found')] and not notes
    save(tmp_path/'one'/'c0.nii.gz', MASK*2)
    (tmp_path/'n.json').write_text('{"1": "liver", "2": "spleen"}')
    rows,*_ = score(tmp_path/'p'/'c0.nii.gz', tmp_path/'one'/'c0.nii.gz', tmp_path/'o', names=str(tmp_path/'n.json'))
    assert [(r['sentence'], r['outcome']) for r in rows]==[('liver','invented'), ('spleen','missed')]
    write_labels(tmp_path/'named'/'c0.nii.gz', MASK*2, VOL, {2: 'spleen'})
    write_labels(tmp_path/'other'/'c0.nii.gz', MASK*1, VOL, {1: 'liver'})
    with pytest.raises(UserError, match='no class of the predictions'): score(tmp_path/'other', tmp_path/'named', tmp_path/'o')


def test_1_5_mixed_values_healthy_cases_and_one_name(tmp_path):
    "255 in some truths and 1 in others, one truth and one prediction without a voxel, a prediction with the name of its sentence"
    for k,(t,p) in enumerate(((255,1), (1,1), (255,0), (0,1), (0,0))):
        save(tmp_path/'t'/f'c{k}.nii.gz', MASK*t)
        write_labels(tmp_path/'p'/f'c{k}.nii.gz', OTHER*p, VOL, {1: 'liver lesion in CT'})
    rows,notes,_ = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert [r['outcome'] for r in rows]==['found','found','missed','invented','absent']
    assert {r['sentence'] for r in rows}=={'liver lesion in CT'} and rows[4]['dsc']==''
    says = 'truths hold one mask (value 1 or 255) and predictions one (value 1): they are taken as the same class'
    assert notes==[says]
    assert 'taken as the same class' in (tmp_path/'o'/'summary.md').read_text() and len(list((tmp_path/'o'/'overlays').iterdir()))==1


def test_1_5_a_value_and_the_only_name_of_a_file(tmp_path):
    write_labels(tmp_path/'t.nii.gz', MASK*255, VOL, {1: 'liver'})
    write_labels(tmp_path/'p.nii.gz', OTHER*1, VOL, {1: 'liver'})
    (row,),notes,_ = score(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', tmp_path/'o')
    assert (row['sentence'], row['dsc'])==('liver', dice(MASK, OTHER)) and not notes


def test_1_5_ids_with_nothing_in_common_are_told(tmp_path):
    save(tmp_path/'t.nii.gz', LBL)
    save(tmp_path/'p.nii.gz', np.where(LBL>0, LBL+10, 0))
    rows,notes,_ = score(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', tmp_path/'o')
    assert {r['outcome'] for r in rows}=={'missed','invented'}
    assert [r['sentence'] for r in rows]==[f'label {i}' for i in (1,2,3,4,11,12,13,14)]
    says = 'no label id of a prediction (11, 12, 13, 14) is one of a truth (1, 2, 3, 4), so nothing can agree'
    assert notes==[f'{says}; name the ids with --names']
    write_labels(tmp_path/'p.nii.gz', np.where(LBL>0, 2-(LBL==1), 0), VOL, {1: 'liver', 2: 'spleen'}) # named, and the truth is a mask
    save(tmp_path/'t.nii.gz', MASK*255)
    rows,notes,_ = score(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', tmp_path/'o')
    assert [r['outcome'] for r in rows]==['invented','invented','missed'] and 'prediction (1, 2) is one of a truth (255)' in notes[0]


def test_1_5_probabilities_become_a_mask_and_that_is_said(tmp_path):
    soft = ndi.gaussian_filter(MASK.astype(float), 1)
    save(tmp_path/'t.nii.gz', MASK)
    save(tmp_path/'p.nii.gz', soft, dtype=np.float32)
    (row,),notes,_ = score(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', tmp_path/'o')
    assert row['dsc']==dice(MASK, soft.astype(np.float32)>=.5) and 'fractions from 0 to 1' in notes[0]
    np.savez(tmp_path/'T.npz', gts=MASK.transpose(2,1,0).astype(np.uint8), spacing=VOL.spacing)
    np.savez(tmp_path/'P.npz', segs=soft.transpose(2,1,0).astype(np.float32))
    (row,),notes,_ = score(tmp_path/'P.npz', tmp_path/'T.npz', tmp_path/'o')
    assert row['dsc']==dice(MASK, soft.astype(np.float32)>=.5) and 'fractions from 0 to 1' in notes[0]
    save(tmp_path/'p.nii.gz', soft*3, dtype=np.float32)
    *_,fails = score(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', tmp_path/'o')
    assert 'fractions in it' in fails.rows[0]['reason']
    nan = np.where(OTHER, np.nan, MASK)
    save(tmp_path/'p.nii.gz', nan, dtype=np.float32)
    (row,),notes,_ = score(tmp_path/'p.nii.gz', tmp_path/'t.nii.gz', tmp_path/'o')
    assert row['dsc']==dice(MASK, MASK&~OTHER) and 'NaN' in notes[0]


# ---- 2.9: one meaning of `presence`

def test_2_9_the_word_is_the_outcome_and_old_tables_are_understood(tmp_path):
    for k in range(3): write_labels(tmp_path/'t'/f'c{k}.nii.gz', LBL, VOL, NAMES)
    for k in range(3): write_labels(tmp_path/'p'/f'c{k}.nii.gz', np.where(LBL>k, np.roll(LBL, k, 1), 0), VOL, NAMES)
    rows,notes,_ = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    file = tmp_path/'o'/'table.csv'
    head = file.read_text().splitlines()[0]
    assert head=='case,sentence,dsc,nsd,outcome,ml,truth_ml,modality,structure,f1,dsc_tp,tp,fp,fn'
    assert {r['outcome'] for r in rows}<={'found','missed','invented','absent'} and read_scores(file)==rows
    file.write_text(file.read_text().replace(',outcome,', ',presence,'))
    old = read_scores(file)
    assert old==rows and summary(old, notes=notes)==(tmp_path/'o'/'summary.md').read_text()
    (tmp_path/'x.csv').write_text('a,b\n1,2\n')
    with pytest.raises(UserError, match='no table of scores'): read_scores(tmp_path/'x.csv')
    assert challenge_metrics(LBL, LBL, VOL.spacing, [1], False)['classes'][1]['outcome']=='found'


# ---- 4.3: TotalSegmentator's layout

ORGANS = {'liver': 1, 'spleen': 2, 'kidney_left': 3, 'kidney_right': 4}

def total(root, cases, dx=0):
    "Cases as TotalSegmentator's data set has them; organs that are absent have empty files"
    for case in cases:
        write_volume(root/case/'ct.nii.gz', VOL)
        for name,i in ORGANS.items(): save(root/case/'segmentations'/f'{name}.nii.gz', np.roll(LBL==i, dx, 0))
        save(root/case/'segmentations'/'gallbladder.nii.gz', LBL*0)


@pytest.mark.parametrize('cases', [('s0000',), ('s0000','s0001','s0002')])
def test_4_3_masks_of_totalsegmentator(tmp_path, cases):
    "Against itself, label maps, and folders as medals writes them"
    total(tmp_path/'t', cases)
    total(tmp_path/'same', cases, 1)
    for case in cases:
        moved = np.roll(LBL, 1, 0)
        write_labels(tmp_path/'maps'/f'{case}.nii.gz', np.where(moved>0, moved+10, 0), VOL, {i+10: n for n,i in ORGANS.items()})
        folder = tmp_path/'medals'/case
        for name,i in ORGANS.items():
            sentence = f"{' '.join(name.split('_')[::-1])} in CT"
            write_labels(folder/f"{sentence.replace(' ', '_')}.nii.gz", np.roll(LBL==i, 1, 0).astype(np.uint8), VOL, {1: sentence})
        write_labels(folder/'labels.nii.gz', LBL, VOL, {i: n for n,i in ORGANS.items()})
        write_labels(folder/'liver_in_ct_objects.nii.gz', LBL, VOL)
        (folder/'manifest.json').write_text('{"medals": "0.1"}')
    for side in ('t','same','maps','medals'):
        back = score(tmp_path/'t', tmp_path/side, tmp_path/'o') # both ways
        got = score(tmp_path/side, tmp_path/'t', tmp_path/'o')
        for rows,notes,fails in (back, got):
            assert not fails.rows and {r['case'] for r in rows}==set(cases), side
            assert not [o for o in notes if 'without' in o], (side, notes)
            for r in rows:
                if r['truth_ml']==0: continue
                organ = '_'.join(r['structure'].split()[::-1])
                shift = 0 if side=='t' else 1
                assert r['dsc']==dice(LBL==ORGANS[organ], np.roll(LBL==ORGANS[organ], shift, 0)), (side, r)
    rows,*_ = score(tmp_path/'same', tmp_path/'t', tmp_path/'o')
    assert {r['sentence'] for r in rows}=={*ORGANS, 'gallbladder'} and {r['modality'] for r in rows}=={'ct'}


def test_4_3_the_folders_of_one_case(tmp_path):
    "The case, its folder of masks, or what medals wrote of it; a label map as a file"
    total(tmp_path/'t', ['s0007'])
    total(tmp_path/'p', ['x'], 1)
    write_labels(tmp_path/'map.nii.gz', LBL, VOL, {i: n for n,i in ORGANS.items()})
    for name,i in ORGANS.items(): save(tmp_path/'flat'/f'{name}.nii.gz', LBL==i)
    truths = tmp_path/'t'/'s0007',tmp_path/'t'/'s0007'/'segmentations'
    for truth in truths:
        for pred,dx in ((tmp_path/'p'/'x', 1), (tmp_path/'p'/'x'/'segmentations', 1), (tmp_path/'flat', 0), (tmp_path/'map.nii.gz', 0)):
            rows,notes,fails = score(pred, truth, tmp_path/'o')
            assert not fails.rows and {r['case'] for r in rows}=={'s0007'}, (pred, truth)
            want = {n: dice(LBL==i, np.roll(LBL==i, dx, 0)) for n,i in ORGANS.items()}
            assert {r['sentence']: r['dsc'] for r in rows if r['dsc']!=''}==want
        rows,*_ = score(truth, tmp_path/'map.nii.gz', tmp_path/'o')
        assert [r['dsc'] for r in rows]==[1]*4


def test_4_3_folders_of_cases_are_no_masks(tmp_path):
    "Binary label maps of several cases below a folder of one name, on one grid or on several"
    for side in ('t','p'):
        for k in range(3): save(tmp_path/side/'labelsTr'/f'c{k}.nii.gz', MASK)
        for k in range(3): save(tmp_path/side/'site'/f'd{k}.nii.gz', MASK[k:], Volume(MASK[k:], VOL.affine))
        for k in range(1, 4): save(tmp_path/(side+'flat')/f'c{k}.nii.gz', MASK) # no vertebrae
        for k in range(2): save(tmp_path/(side+'liver')/f'liver_{k}.nii.gz', MASK)
    assert list(pairs(tmp_path/'p', tmp_path/'t')[0])==['c0','c1','c2','d0','d1','d2']
    assert list(pairs(tmp_path/'pflat', tmp_path/'tflat')[0])==['c1','c2','c3']
    assert list(pairs(tmp_path/'pliver', tmp_path/'tliver')[0])==['liver_0','liver_1']


def test_4_3_images_and_labels_side_by_side(tmp_path):
    "nnU-Net's raw layout as the truth, scans of the same name in a folder of their own"
    for k in range(2):
        write_volume(tmp_path/'d'/'imagesTr'/f'c{k}.nii.gz', VOL)
        save(tmp_path/'d'/'labelsTr'/f'c{k}.nii.gz', LBL)
        save(tmp_path/'p'/f'c{k}.nii.gz', LBL)
    found,*alone = pairs(tmp_path/'p', tmp_path/'d')
    folders = {c: (t.parent.name, i.parent.name) for c,(_,t,i) in found.items()}
    assert folders=={f'c{k}': ('labelsTr','imagesTr') for k in range(2)} and alone==[[],[]]


def test_4_3_what_is_hidden_empty_doubled_or_named_alike(tmp_path):
    for name in ('a','a1','a10','a_b'):
        save(tmp_path/'t'/f'{name}.nii.gz', LBL)
        save(tmp_path/'p'/f'{name}_seg.NII.GZ', LBL)
    for folder in ('t','p'):
        (tmp_path/folder/'._a.nii.gz').write_bytes(b'Mac')
        save(tmp_path/folder/'.cache'/'a.nii.gz', LBL)
        (tmp_path/folder/'empty').mkdir()
    found,*alone = pairs(tmp_path/'p', tmp_path/'t')
    assert list(found)==['a','a1','a10','a_b'] and alone==[[],[]]
    rows,notes,fails = score(tmp_path/'p', tmp_path/'t', tmp_path/'t'/'scores') # below the truth, and twice
    assert score(tmp_path/'p', tmp_path/'t', tmp_path/'t'/'scores')[0]==rows and not notes and not fails.rows
    save(tmp_path/'t'/'sub'/'a.nii.gz', LBL)
    with pytest.raises(UserError, match='several files for a: a.nii.gz, sub/a.nii.gz'): pairs(tmp_path/'p', tmp_path/'t')
    with pytest.raises(UserError, match='nothing'): pairs(tmp_path/'p'/'empty', tmp_path/'t')
    save(tmp_path/'m'/'x'/'liver.nii.gz', MASK)
    save(tmp_path/'m'/'x'/'liver.nii', MASK)
    with pytest.raises(UserError, match='two masks called liver'): case_masks(tmp_path/'m'/'x')
    *_,fails = score(tmp_path/'p'/'empty', tmp_path/'t'/'a.nii.gz', tmp_path/'o')
    assert 'holds no masks' in fails.rows[0]['reason']


def test_4_3_a_label_map_among_masks_and_masks_of_two_grids(tmp_path):
    for name,i in ORGANS.items(): save(tmp_path/'t'/'a'/f'{name}.nii.gz', LBL==i)
    for name,i in ORGANS.items(): save(tmp_path/'p'/'a'/f'{name}.nii.gz', LBL==i)
    save(tmp_path/'p'/'a'/'all.nii.gz', LBL)
    rows,notes,_ = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert len(rows)==4 and {r['dsc'] for r in rows}=={1} and any('all.nii.gz holds several labels' in o for o in notes)
    save(tmp_path/'t'/'a'/'spleen.nii.gz', LBL==2, Volume(LBL, about_middle(VOL, turn(2))))
    *_,fails = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert 'turned by 2 degrees' in fails.rows[0]['reason']


# ---- 1.2: voxels that do not count

@pytest.mark.parametrize('way', ['dataset.json','flag','names in the file','a mask file','several'])
def test_1_2_ignored_voxels_are_in_no_score(tmp_path, way):
    "They are taken from truth and prediction, volumes included; what differs elsewhere still counts"
    ignored = {5} if way!='several' else {5,9}
    gone = np.zeros_like(LBL, bool)
    gone[10:13] = True
    parts = np.where(np.arange(len(LBL))[:,None,None]<12, 5, max(ignored))
    truth = np.where(gone, parts, LBL)
    pred = np.where(gone, 2, np.roll(LBL, 1, 1))
    root = tmp_path/'d'/'labelsTr'
    names = {i: n for n,i in ORGANS.items()}
    if way=='a mask file':
        for n,i in ORGANS.items(): save(root/'c0'/f'{n}.nii.gz', truth==i)
        save(root/'c0'/'ignore.nii.gz', gone)
    else: write_labels(root/'c0.nii.gz', truth, VOL, {**names, 5: 'Ignore'} if way=='names in the file' else None)
    write_labels(tmp_path/'p'/'c0.nii.gz', pred, VOL, names if way in ('names in the file','a mask file') else None)
    cfg = dict(ignore=tuple(ignored)) if way in ('flag','several') else {}
    if way=='dataset.json':
        labels = {'background': 0, **ORGANS, 'ignore': 5}
        (tmp_path/'d'/'dataset.json').write_text(json.dumps(dict(labels=labels)))
    rows,notes,fails = score(tmp_path/'p', root, tmp_path/'o', **cfg)
    want = {}
    for n,i in ORGANS.items():
        masks = (truth==i)&~gone,(pred==i)&~gone
        want[f'label {i}' if cfg else n] = dice(*masks),surface_dice(*masks, VOL.spacing)
    assert not fails.rows and {r['sentence']: (r['dsc'], r['nsd']) for r in rows}==want and all(0<o[0]<1 for o in want.values())
    assert next(r['ml'] for r in rows if r['sentence'] in ('spleen','label 2'))==pytest.approx(((pred==2)&~gone).sum()*.512)
    if way in ('dataset.json','flag','several'): assert any('are in no score: '+', '.join(map(str, sorted(ignored))) in o for o in notes)


def test_1_2_regions_names_and_objects(tmp_path):
    "A dataset.json with regions, as nnU-Net has them; objects and the published rules leave voxels out as well"
    (tmp_path/'t').mkdir()
    labels = {'background': 0, 'whole brain': [1,2,3], 'left lateral ventricle': 3, 'ignore': 4}
    (tmp_path/'t'/'dataset.json').write_text(json.dumps(dict(labels=labels)))
    save(tmp_path/'t'/'a.nii.gz', LBL)
    save(tmp_path/'p'/'a.nii.gz', np.where(LBL==2, 1, LBL))
    rows,notes,_ = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert {r['sentence']: r['dsc'] for r in rows}=={'whole brain': 1, 'left lateral ventricle': 1}
    assert any('dataset.json' in o for o in notes)
    save(tmp_path/'m'/'a'/'whole_brain.nii.gz', np.isin(LBL, (1,2)))
    save(tmp_path/'m'/'a'/'lateral_ventricle_left.nii.gz', LBL==3)
    rows,*_ = score(tmp_path/'m', tmp_path/'t', tmp_path/'o')
    want = dice(np.isin(LBL, (1,2,3)), np.isin(LBL, (1,2)))
    assert {r['sentence']: r['dsc'] for r in rows}=={'whole brain': want, 'left lateral ventricle': 1}
    cells = np.zeros((20,8,8), int)
    cells[1:4,2:5,2:5],cells[8:11,2:5,2:5],cells[15:18,2:5,2:5] = 1,2,3
    vol = Volume(cells, np.eye(4))
    for name,x in (('T', cells), ('P', np.where(cells==1, 1, 0)+(cells==3)*7)): save(tmp_path/f'{name}.nii.gz', x, vol)
    assert score(tmp_path/'P.nii.gz', tmp_path/'T.nii.gz', tmp_path/'o', instance=True)[0][0]['f1']==pytest.approx(.8)
    assert score(tmp_path/'P.nii.gz', tmp_path/'T.nii.gz', tmp_path/'o', instance=True, ignore=(2,))[0][0]['f1']==1
    (tmp_path/'t'/'dataset.json').write_text('{"labels": 3}')
    rows,notes,_ = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert [r['sentence'] for r in rows]==[f'label {i}' for i in (1,2,3,4)] and 'was not understood' in notes[0]


def test_1_2_the_flag_on_the_command_line(tmp_path, command):
    save(tmp_path/'t.nii.gz', LBL)
    save(tmp_path/'p.nii.gz', np.where(LBL==4, 3, LBL))
    do = 'evaluate', 'p.nii.gz', 't.nii.gz', '-o', 'o', '--workers', '1'
    code,out,_ = command(*do, '--ignore', '4')
    assert code==0 and 'are in no score: 4' in out
    assert [float(r['dsc']) for r in read_scores(tmp_path/'o'/'table.csv')]==[1]*3
    code,_,err = command(*do, '--tolerance=-1')
    assert code==2 and err.count('\n')==1 and '0 mm or more' in err


def test_what_an_earlier_run_left_does_not_stay(tmp_path):
    for k in range(2):
        save(tmp_path/'t'/f'c{k}.nii.gz', LBL)
        save(tmp_path/'p'/f'c{k}.nii.gz', LBL)
    score(tmp_path/'p', tmp_path/'t', tmp_path/'o', mode='challenge')
    assert (tmp_path/'o'/'challenge.csv').exists()
    (tmp_path/'o'/'mine.txt').write_text('mine')
    score(tmp_path/'p'/'c1.nii.gz', tmp_path/'t'/'c1.nii.gz', tmp_path/'o')
    left = sorted(f.name for f in (tmp_path/'o').rglob('*') if f.is_file())
    assert left==['c1.png','finished.jsonl','mine.txt','scores.png','summary.md','table.csv']


@pytest.mark.parametrize('image', ['on another grid','damaged'])
def test_a_scan_that_does_not_fit_costs_a_picture_and_no_score(tmp_path, image):
    for side in 'tp': save(tmp_path/side/'c0.nii.gz', LBL)
    if image=='damaged': (tmp_path/'t'/'c0_img.nii.gz').write_bytes(b'cut off')
    else: write_volume(tmp_path/'t'/'c0_img.nii.gz', Volume(VOL.data, about_middle(VOL, turn(3))))
    rows,notes,fails = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert [r['dsc'] for r in rows]==[1]*4 and not fails.rows
    assert 'c0: the picture is without its scan' in notes[-1] and notes[-1] in (tmp_path/'o'/'summary.md').read_text()


def test_4_3_one_case_below_a_folder_and_one_given_as_such(tmp_path):
    total(tmp_path/'t', ['s0003'])
    for name,i in ORGANS.items(): save(tmp_path/'out'/'masks'/f'{name}.nii.gz', np.roll(LBL==i, 1, 0)*255)
    for pred,truth,case in ((tmp_path/'out', tmp_path/'t', 's0003'), (tmp_path/'t', tmp_path/'out', 'out')):
        rows,*_ = score(pred, truth, tmp_path/'o')
        assert {(r['case'], r['sentence']): r['dsc'] for r in rows if r['dsc']!=''}=={
            (case, n): dice(LBL==i, np.roll(LBL==i, 1, 0)) for n,i in ORGANS.items()}


def test_nothing_in_any_file_is_no_mistake_and_a_missing_list_is(tmp_path):
    for side in 'tp': save(tmp_path/side/'a.nii.gz', LBL*0)
    rows,notes,fails = score(tmp_path/'p', tmp_path/'t', tmp_path/'o')
    assert rows==[] and not fails.rows and notes==['no file has a label, so there is nothing to score']
    none = str(tmp_path/'none.json')
    with pytest.raises(UserError, match='no file .*none.json'): score(tmp_path/'p', tmp_path/'t', tmp_path/'o', names=none)
