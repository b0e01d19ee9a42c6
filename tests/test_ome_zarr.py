"OME-Zarr: values and places against a second reader, on files that a third program wrote; choices, labels, damaged and hostile stores"
import itertools
import json
import os
import pickle
import shutil
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medals.cli import main
from medals.commands.images import find_images
from medals.core import UserError
from medals.data.indexing import index
from medals.inference.request import make_request
from medals.scans import ome_zarr
from medals.scans.grids import corner_gap
from medals.volume import read_labels, read_volume, write_labels

zarr = pytest.importorskip('zarr', minversion='3')
ngff = pytest.importorskip('ngff_zarr') # reads and writes with zarrs, in Rust, and not with the zarr of Python
writer = pytest.importorskip('ome_zarr.writer')

MM = dict(nanometer=1e-6, micrometer=1e-3, millimeter=1., centimeter=10., meter=1e3)
NAMES = [''.join(o) for o in itertools.permutations('xyz')]


def values(shape=(9,8,7), seed=0):
    return np.random.default_rng(seed).integers(1, 60000, shape).astype(np.uint16)


def by_ngff(path, level=0):
    "Values `(x,y,z)` and affine as ngff-zarr has them"
    image = ngff.from_ngff_zarr(str(path)).images[level]
    dims = list(image.dims)
    x = np.asarray(image.data).transpose([dims.index(o) for o in 'xyz'])
    mm = [MM[str(image.axes_units[o])] if image.axes_units else 1 for o in 'xyz']
    affine = np.diag([*(image.scale[o]*u for o,u in zip('xyz', mm)), 1.])
    affine[:3,3] = [image.translation[o]*u for o,u in zip('xyz', mm)]
    return x,affine


def plain(path, axes='zyx', x=None, unit='millimeter', steps=None, after=None, version='0.4', **more):
    "A store of one level, written by zarr itself"
    x = values() if x is None else x
    group = zarr.open_group(path, mode='w', zarr_format=2 if version=='0.4' else 3)
    group.create_array('0', data=x, chunks=tuple(min(n, 4) for n in x.shape), **more)
    kinds = dict(c='channel', t='time')
    said = [dict(name=o, type=kinds[o]) if o in kinds else dict(name=o, type='space', unit=unit) for o in axes]
    level = dict(path='0', coordinateTransformations=steps or [dict(type='scale', scale=[1]*len(axes))])
    image = dict(axes=said, datasets=[level], **({'coordinateTransformations': after} if after else {}))
    old,new = {'multiscales': [{'version': version, **image}]},{'ome': {'version': version, 'multiscales': [image]}}
    group.attrs.update(old if version=='0.4' else new)
    return group


@pytest.mark.parametrize('end,version', [('.ome.zarr','0.4'), ('.ome.zarr','0.5'), ('.ozx','0.5')])
def test_what_ngff_zarr_writes_lies_where_it_says(tmp_path, end, version):
    x = values((28,24,20))
    image = ngff.to_ngff_image(x.T, dims=['z','y','x'], scale=dict(z=3., y=2., x=1.5), translation=dict(z=10., y=20., x=-30.),
                               axes_units=dict.fromkeys('zyx', 'micrometer'))
    path = tmp_path/f'a{end}'
    ngff.to_ngff_zarr(str(path), ngff.to_multiscales(image, scale_factors=[2], chunks=16), version=version)
    for level in (0,1):
        vol = read_volume(f'{path}#level={level}')
        there,affine = by_ngff(path, level)
        assert np.array_equal(vol.data, there)
        assert corner_gap(vol.shape, vol.affine, affine)[1]<1e-6
    assert not vol.has_orientation and any('left and right' in o for o in vol.notes)
    assert np.array_equal(read_volume(path).data, x) # the finest


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_axes_units_and_transformations(tmp_path_factory, data):
    path = tmp_path_factory.mktemp('z')/'a.zarr'
    axes = data.draw(st.sampled_from(['', 'c', 'tc']))+data.draw(st.sampled_from(NAMES))
    unit = data.draw(st.sampled_from(list(MM)))
    sizes = dict(x=5, y=4, z=3, c=2, t=2)
    x = values(tuple(sizes[o] for o in axes), data.draw(st.integers(0, 99)))
    lengths = st.lists(st.floats(.125, 8), min_size=len(axes), max_size=len(axes))
    def steps(): return [dict(type='scale', scale=data.draw(lengths)), dict(type='translation', translation=data.draw(lengths))]
    first,after = steps(),data.draw(st.sampled_from([None, steps()]))
    version = data.draw(st.sampled_from(['0.4','0.5']))
    plain(path, axes, x, unit, first, after, version)
    spots = {o: data.draw(st.integers(0, 1)) for o in axes if o in 'ct'}
    vol = read_volume(path, series=','.join(f'{k}={v}' for k,v in spots.items()))
    wanted = x[tuple(spots.get(o, slice(None)) for o in axes)]
    space = [o for o in axes if o in 'xyz']
    assert np.array_equal(vol.data, wanted.transpose([space.index(o) for o in 'xyz']))
    at = np.array([1,2,1]) # one voxel through the transformations, number by number
    for column,name in enumerate('xyz'):
        place,n = at[column],axes.index(name)
        for step in [*first, *(after or [])]:
            place = place*step['scale'][n] if step['type']=='scale' else place+step['translation'][n]
        assert np.isclose((vol.affine@[*at, 1])[column], place*MM[unit])
    if not spots and not after and space==list('zyx'): # ngff-zarr passes over the transformation of all levels
        there,affine = by_ngff(path)
        assert np.array_equal(vol.data, there) and corner_gap(vol.shape, vol.affine, affine)[1]<1e-6


@pytest.fixture(scope='module')
def cells(tmp_path_factory):
    "Two channels, two times, two levels and a label map, as ome-zarr writes them"
    from ome_zarr.format import FormatV05
    path = tmp_path_factory.mktemp('cells')/'cells.ome.zarr'
    x = values((2,2,16,24,32), 3)
    um = dict.fromkeys('zyx', 'micrometer')
    group = zarr.open_group(path, mode='w', zarr_format=3)
    writer.write_image(x, group, axes='tczyx', scale_factors=[2], scale=dict(t=1, c=1, z=2, y=.5, x=.5), axes_units=um, fmt=FormatV05())
    group.attrs['ome'] = {**group.attrs['ome'], 'omero': dict(channels=[dict(label='DAPI'), dict(label='actin')])}
    named = dict(properties=[{'label-value': 1, 'class': 'nucleus'}, {'label-value': 2, 'class': 'cell'}])
    labels = (x[0,0]%3).astype(np.uint8)
    writer.write_labels(labels, group, name='parts', axes='zyx', scale=dict(z=2, y=.5, x=.5), axes_units=um, scale_factors=[],
                        fmt=FormatV05(), label_metadata=named)
    return path,x,labels


def test_channel_time_level_and_labels_are_chosen(cells, tmp_path, monkeypatch):
    path,x,labels = cells
    for wish,there in (('c=1,t=0', x[0,1]), ('c=DAPI,t=1', x[1,0]), ('channel=1;time=1', x[1,1])):
        assert np.array_equal(read_volume(f'{path}#{wish}').data, there.T)
    assert read_volume(f'{path}#c=0,t=0,level=1').spacing==(.001,.001,.002)
    wrong = {'': '2 times', 't=0': 'DAPI, actin', 't=0,c=7': "no '7'", 't=0,c=x': "no 'x'", 't=0,c=0,level=9': "no '9'", 'z=1': 'z cannot'}
    for wish,said in wrong.items():
        with pytest.raises(UserError, match=said): read_volume(f'{path}#{wish}' if wish else path)
    ids,names = read_labels(path)
    assert np.array_equal(ids.data, labels.T) and names=={1: 'nucleus', 2: 'cell'}
    assert np.array_equal(read_labels(path/'labels'/'parts')[0].data, ids.data)
    monkeypatch.setattr(ome_zarr, 'MOST_VOXELS', 16*12*16)
    coarse = read_volume(f'{path}#c=0,t=0')
    assert coarse.shape==(16,12,16) and any('level 1 of 0 to 1' in o for o in coarse.notes)


def test_bytes_are_no_grey_values_yet(tmp_path):
    "Values of 0..255 are grey values in a file of the challenge; in a microscope's they are what it counted"
    x = values((8,8,8)).astype(np.uint8)
    plain(tmp_path/'a.zarr', x=x)
    np.savez(tmp_path/'MICRO_a.npz', imgs=x, spacing=[1.,1.,1.])
    rules = [make_request(str(tmp_path/o), ['nucleus'], 'microscopy').groups[0].rule for o in ('a.zarr','MICRO_a.npz')]
    assert rules[0] is not None and rules[1] is None


def test_one_file_of_either_kind(cells, tmp_path):
    path,x,labels = cells
    for name,root in (('bare.zarr.zip', ''), ('folder.ome.zarr.zip', f'{path.name}/')):
        with zipfile.ZipFile(tmp_path/name, 'w') as z:
            for f in sorted(path.rglob('*')):
                if f.is_file(): z.write(f, root+f.relative_to(path).as_posix())
        assert np.array_equal(read_volume(f'{tmp_path/name}#c=1,t=1').data, x[1,1].T)
        assert np.array_equal(read_labels(tmp_path/name/'labels'/'parts')[0].data, labels.T)


def test_orientation_of_axes_is_believed(tmp_path):
    group = plain(tmp_path/'a.zarr', steps=[dict(type='scale', scale=[3,2,1]), dict(type='translation', translation=[30,20,10])])
    said = group.attrs['multiscales']
    for axis,points in zip(said[0]['axes'], ('inferior-to-superior','anterior-to-posterior','right-to-left')):
        axis['orientation'] = dict(type='anatomical', value=points)
    group.attrs['multiscales'] = said
    vol = read_volume(tmp_path/'a.zarr')
    lps = ngff.from_ngff_zarr(str(tmp_path/'a.zarr')).images[0]
    assert vol.has_orientation and vol.orientation=='LPS'
    assert np.allclose(vol.affine[:3,3], np.array([lps.translation[o] for o in 'xyz'])*[-1,-1,1])


def test_commands_see_one_scan_in_a_store(cells, tmp_path, monkeypatch):
    path,x,labels = cells
    folder = tmp_path/'set'
    shutil.copytree(path, folder/'a.ome.zarr')
    shutil.copytree(path, folder/'b.ome.zarr')
    assert list(find_images([folder]))==['a','b']
    truth,names = read_labels(folder/'a.ome.zarr')
    for case in 'ab': write_labels(tmp_path/'pred'/f'{case}.nii.gz', truth.data, truth, names)
    both = ['pred', 'set', '-o', 'scores'],['pred/a.nii.gz', 'set/a.ome.zarr/labels/parts', '-o', 'one']
    monkeypatch.chdir(tmp_path)
    for words in both: assert main(['evaluate', *words, '--workers', '1'])==0
    for out in ('scores','one'):
        scored = [o.split(',') for o in (tmp_path/out/'table.csv').read_text().splitlines()[1:]]
        assert scored and all(float(o[2])==1 for o in scored)
    (tmp_path/'cells.toml').write_text('name = "cells"\nmodality = "microscopy"\nimage = "*.ome.zarr#c=1,t=0"\n'
                                       'labels = "*.ome.zarr/labels/parts"\nclasses = {nucleus = 1, cell = 2}')
    index(folder, tmp_path/'list.jsonl', tmp_path/'cells.toml', workers=1)
    rows = [json.loads(o) for o in (tmp_path/'list.jsonl').read_text().splitlines()]
    assert [row['ids'] for row in rows]==[[1,2],[1,2]]
    assert np.array_equal(read_volume(rows[0]['data']).data, x[0,1].T)


class Evil:
    def __reduce__(self): return os.mkdir,('pwned',)


def attrs_of(root): return json.loads((root/'.zattrs').read_text())


def edit(name, **change):
    def apply(root):
        file = root/name
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return apply


def image(**change):
    def apply(root):
        said = attrs_of(root)
        said['multiscales'][0].update(change)
        (root/'.zattrs').write_text(json.dumps(said))
    return apply


def step(*steps): return image(datasets=[dict(path='0', coordinateTransformations=list(steps))])


def pickled(root):
    edit('0/.zarray', compressor=None, filters=[dict(id='delta', dtype='<u2'), dict(id='pickle')])(root)
    for file in (root/'0').glob('[0-9]*'): file.write_bytes(pickle.dumps(Evil()))


def bomb(packing, block):
    "Chunks that become far more than their array says"
    def apply(root):
        edit('0/.zarray', compressor=dict(id=packing))(root)
        for file in (root/'0').glob('[0-9]*'): file.write_bytes(block)
    return apply


ZSTD = b'\x28\xb5\x2f\xfd\x00\x38'+4000*((2**20+2).to_bytes(3, 'little')+b'\0') # no size, but parts of 128 kB in four bytes each
AXES = [dict(name=o, type='space', unit='millimeter') for o in 'zyx']
HARM = {
    'nothing there': lambda root: [f.unlink() for f in (root/'0').glob('[0-9]*')],
    'cut chunk': lambda root: next((root/'0').glob('[0-9]*')).write_bytes(b'\x02\x01'),
    'no array': lambda root: shutil.rmtree(root/'0'),
    'no attributes': lambda root: (root/'.zattrs').unlink(),
    'no JSON': lambda root: (root/'.zattrs').write_text('{'),
    'deep JSON': lambda root: (root/'.zattrs').write_text('['*10**5),
    'a list': lambda root: (root/'.zattrs').write_text('[]'),
    'a terabyte': edit('0/.zarray', shape=[10**6]*3),
    'negative': edit('0/.zarray', shape=[-5,8,9]),
    'a huge chunk': edit('0/.zarray', chunks=[10**5]*3),
    'countless chunks': edit('0/.zarray', shape=[800]*3, chunks=[1]*3),
    'objects': edit('0/.zarray', dtype='|O', filters=[dict(id='pickle')]),
    'pickle': pickled,
    'a zlib bomb': bomb('zlib', zlib.compress(bytes(2**28))),
    'a zstd bomb': bomb('zstd', ZSTD),
    'a blosc bomb': bomb('blosc', b'\x02\x01\x21\x01'+(2**31-17).to_bytes(4, 'little')+bytes(40)),
    'packed twice': edit('0/.zarray', filters=[dict(id='zlib', level=1)]),
    'complex': edit('0/.zarray', dtype='<c8'),
    'unknown codec': edit('0/.zarray', compressor=dict(id='nonesuch')),
    'four axes': edit('0/.zarray', shape=[2,7,8,9], chunks=[1,4,4,4]),
    'old version': image(version='0.1'),
    'new version': image(version='0.6'),
    'axes as text': image(axes=['z','y','x']),
    'two x': image(axes=[AXES[0], AXES[2], AXES[2]]),
    'a furlong': image(axes=[dict(AXES[0], unit='furlong'), *AXES[1:]]),
    'way out': image(datasets=[dict(path='../../x', coordinateTransformations=[])]),
    'no levels': image(datasets=[]),
    'no images': lambda root: (root/'.zattrs').write_text('{"multiscales": []}'),
    'size zero': step(dict(type='scale', scale=[0,1,1])),
    'mirror': step(dict(type='scale', scale=[1,-1,1])),
    'infinite': step(dict(type='scale', scale=[1e308,1,1]), dict(type='scale', scale=[1e308,1,1])),
    'no number': step(dict(type='scale', scale=['a',1,1])),
    'two numbers': step(dict(type='scale', scale=[1,1])),
    'rotation': step(dict(type='rotation', rotation=[1]*9)),
    'a plate': lambda root: (root/'.zattrs').write_text('{"plate": {"wells": []}}'),
}


@pytest.mark.parametrize('harm', HARM)
def test_what_is_wrong_is_one_sentence(tmp_path, harm, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain('a.zarr', x=values((7,8,9)))
    HARM[harm](tmp_path/'a.zarr')
    assert main(['segment', 'a.zarr', 'liver', '-o', 'out'])==2
    said = capsys.readouterr().err
    assert said.count('\n')==1 and 'Traceback' not in said and 'a.zarr' in said
    assert ('stands for far more' in said)==('bomb' in harm)
    assert not (tmp_path/'out').exists() and not (tmp_path/'pwned').exists()


def test_lost_chunks_are_said_and_bombs_are_not_unpacked(tmp_path):
    plain(tmp_path/'a.zarr')
    next((tmp_path/'a.zarr'/'0').glob('[0-9]*')).unlink()
    assert any('1 of 12 chunks are not in the store' in o for o in read_volume(tmp_path/'a.zarr').notes)
    with zipfile.ZipFile(tmp_path/'b.ozx', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('0/c/0', bytes(2*10**7))
    raw = bytearray((tmp_path/'b.ozx').read_bytes())
    at = raw.rindex(b'PK\x01\x02')
    raw[at+24:at+28] = (2**32-2).to_bytes(4, 'little') # what it says it becomes
    (tmp_path/'b.ozx').write_bytes(raw)
    with pytest.raises(UserError, match='which no scan does'): read_volume(tmp_path/'b.ozx')


def test_without_zarr_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    from medals.scans import ome_metadata
    plain(tmp_path/'a.zarr')
    monkeypatch.setattr(ome_metadata, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install "medals\[formats\] @ git\+https:'): read_volume(tmp_path/'a.zarr')
