"What is written, format by format, against readers that know nothing of medals; and every format in from the command line"
import csv
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medals.core import UserError
from medals.inference.result import FORMATS, Segmentation
from medals.scans.outputs import is_ours
from medals.volume import Volume, phantom, read_labels, read_volume

itk = pytest.importorskip('SimpleITK')
trimesh = pytest.importorskip('trimesh')


def result(codes='RAS', **more):
    vol,lbl,names = phantom((24,28,22), (8.,7.,9.))
    vol = vol.reorient(codes)
    lbl = Volume(lbl, phantom((24,28,22), (8.,7.,9.))[0].affine).reorient(codes).data
    masks = {'left hemisphere': (lbl==1)|(lbl==3), 'left ventricle': lbl==3, 'right hemisphere': lbl==2, **more}
    return Segmentation(vol, masks, {}, {'sentences': dict(enumerate(masks))})


@pytest.mark.parametrize('codes', ['RAS','LPS','SAR','PIL'])
@pytest.mark.parametrize('name', ['m.nrrd','m.mha'])
def test_label_maps_lie_where_itk_sees_them(tmp_path, name, codes):
    res = result(codes)
    res.save(tmp_path/name)
    lbl,names = res.labels()
    image = itk.ReadImage(str(tmp_path/name))
    assert np.array_equal(itk.GetArrayFromImage(image).T, lbl)
    for corner in ((0,0,0), (23,0,5), tuple(n-1 for n in lbl.shape)):
        here = np.array(image.TransformIndexToPhysicalPoint(tuple(min(a, b-1) for a,b in zip(corner, lbl.shape))))*[-1,-1,1]
        there = res.volume.affine@[*(min(a, b-1) for a,b in zip(corner, lbl.shape)), 1]
        assert np.allclose(here, there[:3])
    back,said = read_labels(tmp_path/name)
    assert said==names and np.array_equal(back.onto(res.volume).data, lbl)


@pytest.mark.parametrize('codes', ['RAS','LAS','PIL'])
@pytest.mark.parametrize('format', ['stl','obj','glb'])
def test_surfaces_are_closed_and_in_place(tmp_path, format, codes):
    res = result(codes, nothing=np.zeros(result(codes).volume.shape, bool))
    res.save(tmp_path/'out', format)
    if format=='glb':
        scene = trimesh.load(tmp_path/'out'/'masks.glb')
        assert set(scene.geometry)==set(res.masks)-{'nothing'}
        viewer = scene.dump() if hasattr(scene, 'dump') else scene.to_mesh()
        height = np.ptp(np.concatenate([o.vertices[:,1] for o in viewer]))
        assert .1<height<.2  # metres
        bodies = {k: g.copy() for k,g in scene.geometry.items()}
    else:
        files = {k: tmp_path/'out'/f"{k.replace(' ', '_')}.{format}" for k in res.masks}
        assert not files.pop('nothing').exists() and b'SPACE=LPS' in files['left ventricle'].read_bytes()[:80]
        bodies = {k: trimesh.load(f, process=True) for k,f in files.items()}
    voxel = np.prod(res.volume.spacing)
    for name,body in bodies.items():
        body.merge_vertices()
        assert body.is_watertight and body.is_winding_consistent and body.volume>0
        at = np.argwhere(res.masks[name])
        middle = (res.volume.affine@[*at.mean(0), 1])[:3]*[-1,-1,1]
        assert np.allclose(body.center_mass, middle, atol=2)
        if name!='left ventricle': assert abs(body.volume/voxel/len(at)-1)<.03
    assert 'no surface of nothing' in json.loads((tmp_path/'out'/'manifest.json').read_text())['notes'][-1]


@pytest.mark.parametrize('name', ['m.nrrd','m.mha','m.seg.nrrd','m.glb'])
def test_a_mask_that_was_corrected_elsewhere_is_not_replaced(tmp_path, name):
    res = result()
    for _ in range(2): res.save(tmp_path/name)  # our own is
    assert is_ours(tmp_path/name)
    if name=='m.glb':
        scene = trimesh.load(tmp_path/name)
        scene.export(tmp_path/name)
    else:
        image = itk.ReadImage(str(tmp_path/name))  # which keeps all remarks
        itk.WriteImage(image, str(tmp_path/name), useCompression=True)
    before = (tmp_path/name).read_bytes()
    with pytest.raises(UserError, match='medals did not write it like that'): res.save(tmp_path/name)
    assert (tmp_path/name).read_bytes()==before


def test_a_folder_of_one_format_replaces_that_of_another(tmp_path):
    res = result()
    for format,how in FORMATS.items():
        if how.on_series or how.tree or format=='npz': continue  # they need a DICOM series, or gather in one folder
        res.save(tmp_path/'out', format)
        kinds = {f.name.split('.', 1)[1] for f in (tmp_path/'out').iterdir()}-{'json','csv','png','medals.json'}
        assert len(kinds)==1, (format, kinds)


def inputs(folder):
    "One scan in every format that is read from a file"
    vol = phantom((24,28,22), (8.,7.,9.))[0]
    nib.save(nib.Nifti1Image(vol.data, vol.affine), folder/'a.nii.gz')
    nib.save(nib.MGHImage(vol.data, vol.affine), folder/'b.mgz')
    lps = np.diag([-1,-1,1,1])@vol.affine
    image = itk.GetImageFromArray(vol.data.T)
    image.SetSpacing(vol.spacing)
    image.SetOrigin(lps[:3,3].tolist())
    image.SetDirection((lps[:3,:3]/vol.spacing).ravel().tolist())
    for name in ('c.nrrd','d.nhdr','e.mha','f.mhd'): itk.WriteImage(image, str(folder/name), useCompression=True)
    return vol


def test_every_format_from_the_command_line(tmp_path):
    scans = tmp_path/'scans'
    scans.mkdir()
    vol = inputs(scans)
    call = [sys.executable, '-m', 'medals.cli', 'segment', str(scans), 'white matter', '--weights', 'nano', '-o', str(tmp_path/'out'),
            '--format', 'segnrrd']
    res = subprocess.run(call, capture_output=True, text=True, env={**os.environ, 'HF_HUB_OFFLINE': '1'})
    assert res.returncode==0, res.stderr
    tables = sorted((tmp_path/'out').glob('*/table.csv'))
    assert len(tables)==6
    voxels = {f.parent.name: next(csv.DictReader(f.open()))['voxels'] for f in tables}
    assert len(set(voxels.values()))==1, voxels
    first = None
    for f in sorted((tmp_path/'out').glob('*/masks.seg.nrrd')):
        mask = read_labels(f)[0].onto(vol).data
        first = mask if first is None else first
        assert np.array_equal(mask, first)


def test_the_studio_takes_every_format(tmp_path):
    from medals.widgets import Studio
    vol = inputs(tmp_path)
    for f in sorted(tmp_path.iterdir()):
        if f.suffix in ('.raw','.zraw') or f.name.endswith('.raw.gz'): continue
        studio = Studio(None, read_volume(f))
        assert np.array_equal(studio.volume.data, vol.data), f.name


def test_a_result_is_pickled_without_its_network_and_copied_with_it():
    import copy
    import pickle
    vol,truth,names = phantom(seed=0)
    masks = {name: truth==number for number,name in names.items()}
    res = Segmentation(vol, masks, dict.fromkeys(masks, .9), {'made': ['here']}, again=lambda *given: 'asked')
    for made in (copy.copy(res), copy.deepcopy(res)):
        assert made.refine({})=='asked' and type(made) is Segmentation
    deep,sent = copy.deepcopy(res),pickle.loads(pickle.dumps(res))
    deep.manifest['made'].append('there')
    assert res.manifest=={'made': ['here']} and sent.manifest==res.manifest and sent.ids==res.ids
    for name,mask in masks.items(): assert (sent.masks[name]==mask).all() and (deep.masks[name]==mask).all()
    assert (sent.volume.data==vol.data).all() and res.again
    with pytest.raises(UserError, match='network is not here'): sent.refine({})


def test_a_format_that_loses_objects_says_so(tmp_path):
    vol,lbl,_ = phantom((12,14,10), (16.,16.,16.))
    masks = {'lesion': lbl==3, 'brain': lbl>0}
    for format,how in FORMATS.items():
        if how.on_series: continue
        for n in (1,2):
            res = Segmentation(vol, masks, {}, {}, instances={name: masks[name].astype(np.int32) for name in list(masks)[:n]})
            res.save(tmp_path/f'{format}{n}', format)
            lost = not (format=='nifti' or format=='npz' and n==1)
            assert any('objects are not told apart' in o for o in res.manifest.get('notes', ()))==lost, (format, n)
