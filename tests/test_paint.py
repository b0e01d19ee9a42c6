"Label maps as training data: images are drawn from them at every look"
import numpy as np
import pytest
import torch

from medals.core import UserError
from medals.data.batch import to_batch
from medals.data.questions import DataCfg
from medals.data.sampler import Sampler
from medals.example import template
from test_data import same, store

TABLE = '''
[painted.MR_heads]
inside = [1,2,3,4,5,6,7,8,9]
[painted.MR_heads.tissues]
"grey matter" = [[1,2],[8]]
"white matter" = [[3,4],[9]]
csf = [[5,6],[7]]
[painted.MR_heads.hidden]
7 = 3
'''
CLASSES = {'left white matter': [3], 'right white matter': [4], 'ventricles': [5,6,7], 'cerebellum': [8,9]}
NONE = dict(holdout=0., forced=.3)


@pytest.fixture(scope='module')
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp('heads')
    labels = np.ascontiguousarray(template()[1][::2,::2,::2]).astype(np.uint8)
    moved = np.roll(labels, 3, 1)
    cases = [(labels, labels), (moved, moved)]
    store(folder, {'MR_heads': dict(modality='mri', classes=CLASSES, frame='RAS', cases=cases)}, patch=(64,64,64))
    (folder/'sets.toml').write_text(TABLE)
    return folder


def test_a_label_map_is_another_image_at_every_look_and_the_same_for_a_key(heads):
    cfg = DataCfg(datasets=str(heads/'sets.toml'), **NONE)
    one,two = Sampler(heads, cfg, seed=1),Sampler(heads, cfg, seed=1)
    drawn = [one.sample(0, i) for i in range(12)]
    for i,s in enumerate(drawn[:3]):
        again = two.sample(0, i)
        a,b = to_batch([s]),to_batch([again])
        assert s.paint.seed==again.paint.seed and torch.equal(a.x, b.x) and torch.equal(a.m, b.m) and np.array_equal(s.labels, again.labels)
    assert len({s.paint.contrast for s in drawn})>2 and len({s.paint.seed for s in drawn})==12
    for s in drawn:
        batch = to_batch([s])
        assert batch.x.shape==(1,1,64,64,64) and 0<=batch.x.min() and batch.x.max()<=255 and batch.x.isfinite().all()
        for name,m in zip(s.classes, batch.m[0]):
            if name in CLASSES and not s.aug.mirror[0]: assert np.array_equal(m.numpy(), np.isin(s.labels, CLASSES[name]))


def test_tissues_differ_in_the_image_as_they_do_in_the_drawn_looks(heads):
    sampler = Sampler(heads, DataCfg(datasets=str(heads/'sets.toml'), **NONE), seed=2)
    agree = []
    for i in range(20):
        s = sampler.sample(1, i)
        x = to_batch([s]).x[0,0].numpy()
        bright = [(s.paint.mean[v], x[s.labels==v].mean()) for v in (3,5) if (s.labels==v).sum()>200]
        if len(bright)==2 and abs(bright[0][0]-bright[1][0])>.3: agree.append((bright[0][0]<bright[1][0])==(bright[0][1]<bright[1][1]))
    assert len(agree)>=5 and np.mean(agree)>=.9


def test_what_was_left_is_asked_for_as_right_in_a_mirrored_head(heads):
    sampler = Sampler(heads, DataCfg(datasets=str(heads/'sets.toml'), **NONE), seed=3)
    mirrored = [s for i in range(40) if (s := sampler.sample(2, i)).aug.mirror[0] and 'right white matter' in s.classes]
    assert mirrored and not any(s.aug.mirror[1] or s.aug.mirror[2] for s in mirrored), 'a head stays upright'
    for s in mirrored:
        m = to_batch([s]).m[0,s.classes.index('right white matter')].numpy()
        assert np.array_equal(m, s.labels==3)


def test_without_a_table_grey_values_are_those_of_the_store(heads):
    plain = Sampler(heads, DataCfg(aug='none', **NONE), seed=1).sample(0, 0)
    off = Sampler(heads, DataCfg(aug='none', datasets=str(heads/'sets.toml'), paint='none', **NONE), seed=1).sample(0, 0)
    assert plain.paint is None and same(plain, off)


@pytest.mark.parametrize('old,new,says', [
    ('csf = [[5,6],[7]]', 'csf = [[5,6],[8]]', 'belongs to two groups'), ('csf = [[5,6],[7]]', 'csf = [5,6]', 'a list of label values'),
    ('csf = [[5,6],[7]]', 'csf = [[5,600]]', 'whole number from 0 to 255'), ('inside =', 'insight =', 'no setting'),
    ('7 = 3', 'seven = 3', 'whole number from 0 to 255'), ('[painted.MR_heads.tissues]', '[painted.MR_heads.tissue]', 'no setting')])
def test_a_table_with_a_mistake_is_one_sentence(heads, tmp_path, old, new, says):
    (tmp_path/'sets.toml').write_text(TABLE.replace(old, new))
    with pytest.raises(UserError, match=says) as e: Sampler(heads, DataCfg(datasets=str(tmp_path/'sets.toml')))
    assert 'sets.toml' in str(e.value)
