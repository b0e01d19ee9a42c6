"Structures that are only there beside another one: what is asked along is seen nowhere else"
from dataclasses import replace

import numpy as np
import pytest

from medals.base.files import read_table
from medals.example import template
from medals.inference.bundles import bundles
from medals.preprocessing.input_spec import Beside
from medals.segment import Segmenter
from medals.spatial import Point
from medals.vocab import resolve, structures

SMALL = tuple(slice(20, 84) for _ in range(3))


@pytest.fixture(scope='module')
def scan():
    vol,_ = template()
    return np.asarray(vol.data)[SMALL].copy(),vol.affine


@pytest.fixture
def segmenter():
    seg = Segmenter.load('nano', 'cpu')
    seg.repertoire = None
    row = Beside(structure='cerebral ventricles', of='white matter', mm=10)
    seg.stages[0].frame = replace(seg.stages[0].frame, beside=(row,))
    return seg


def test_what_is_asked_along_shows_nowhere_and_changes_no_other_mask(scan, segmenter):
    texts = ['cerebral ventricles', 'grey matter']
    with_it = segmenter(scan, texts, 'mri', keep_scores=True)
    segmenter.stages[0].frame = replace(segmenter.stages[0].frame, beside=())
    without = segmenter(scan, texts, 'mri', keep_scores=True)
    assert with_it.manifest['asked_along']==['white matter'] and without.manifest['asked_along']==[]
    for known in (with_it.masks, with_it.scores, with_it.means, with_it.voxel_scores, with_it.ids.values()):
        assert 'white matter' not in known
    assert [row['sentence'] for row in with_it.table]==texts
    for text in texts: assert np.array_equal(with_it.masks[text], without.masks[text]) # all of it lies beside white matter
    assert with_it.masks[texts[0]].any()
    objects = segmenter(scan, texts[:1], 'mri', instance=True)
    assert list(objects.instances)==texts[:1]


def test_marks_and_corrections_find_the_sentences_that_were_asked(scan, segmenter):
    res = segmenter(scan, ['cerebral ventricles', 'grey matter'], 'mri')
    for text in res.masks:
        away = np.argwhere(~res.masks[text])[100].tolist()
        again = res.refine({text: [Point(tuple(away), radius=2)]})
        assert again.masks[text][tuple(away)] and set(again.masks)==set(res.masks)
        for other in set(res.masks)-{text}: assert np.array_equal(again.masks[other], res.masks[other])


def test_nothing_is_left_out_where_every_mask_is_kept_or_marked(scan, segmenter):
    frame = segmenter.stages[0].frame
    nowhere = Beside(structure='cerebral ventricles', of='white matter', mm=0, side='S', share=1.)
    segmenter.stages[0].frame = replace(frame, beside=(nowhere,))
    strict = segmenter(scan, 'cerebral ventricles', 'mri')
    assert not strict.masks['cerebral ventricles'].any() and not strict.table[0]['found']
    assert 'white matter' in strict.table[0]['note']
    everything = segmenter(scan, 'cerebral ventricles', 'mri', presence=0)
    assert everything.masks['cerebral ventricles'].any() and not everything.manifest['asked_along']
    at = tuple(np.argwhere(everything.masks['cerebral ventricles'])[0].tolist())
    marked = segmenter(scan, 'cerebral ventricles', 'mri', {'cerebral ventricles': [Point(at)]})
    assert marked.masks['cerebral ventricles'][at]


def test_the_rows_of_the_bundles_name_what_their_weights_know():
    of_table = read_table('bundles.toml')
    for bundle in bundles():
        for row in of_table[bundle.name].get('beside', ()):
            one = Beside(**row)
            assert one.structure in structures() and one.side in ('', *'RLAPSI')
            assert resolve(one.of).structure in structures()
            assert bundle.knows(one.of, 'mri') and bundle.knows(one.structure, 'mri')


def test_objects_can_be_corrected_where_something_was_asked_along(scan, segmenter):
    texts = ['cerebral ventricles', 'grey matter', 'liver']
    res = segmenter(scan, texts, 'mri', instance=True, min_mm3=20)
    assert res.manifest['asked_along']==['white matter']
    for text in texts:
        away = tuple(np.argwhere(~res.masks[text])[100].tolist())
        again = res.refine({text: [Point(away, radius=2)]})
        assert again.masks[text][away] and again.instances[text][away]
        counted = {row['sentence']: row['objects'] for row in again.table}
        assert counted=={o: len(np.unique(again.instances[o]))-1 for o in texts}
        for other,said in again.remarks.items(): assert f'{other}: {said}' in again.manifest['notes']
        grown = again.refine({text: [Point(away, radius=2.5)]})
        assert grown.instances[text][away]==again.instances[text][away] # the same object keeps its number
