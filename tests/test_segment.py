"The segmenter, whatever way the scan is stored"
import numpy as np
import pytest
import torch

from medals.core import UserError
from medals.segment import Frame, Segmenter

from medals.volume import phantom


class Bright(torch.nn.Module):
    "A stand-in network that finds what is bright, or what its prompt says"
    def forward(self, x, q, m=None):
        y = (x-100).expand(-1, len(q), -1, -1, -1)/10
        return y if m is None else torch.where(m, 9., y)


@pytest.fixture
def bright():
    frame = Frame(spacing=(4.,4.,4.), window=(64,64,64), modality='mri')
    return Segmenter(Bright(), lambda texts, modality: torch.zeros(len(texts), 4), frame, 'cpu')


@pytest.mark.parametrize('codes', ['RAS','LPS','PIL','SRA','AIR','ILP'])
def test_the_same_mask_in_every_orientation(bright, codes):
    vol,_,_ = phantom()
    want = bright(vol, ['skull']).masks['skull']
    got = bright(vol.reorient(codes), ['skull'])
    assert np.array_equal(got.volume.like(got.masks['skull']).reorient('RAS').data, want)
    truth = vol.data>np.percentile(vol.data[vol.data!=0], 99.5)*100/255
    assert want.any() and (want!=truth).mean()<.08


def test_trained_weights_in_two_orientations():
    vol,_,_ = phantom()
    seg = Segmenter.load('nano', 'cpu')
    a,b = (seg(v, ['left cerebral hemisphere']) for v in (vol, vol.reorient('PIL')))
    m = b.volume.like(b.masks['left cerebral hemisphere']).reorient('RAS').data
    assert np.array_equal(a.masks['left cerebral hemisphere'], m)


def test_same_input_same_bits():
    vol,_,_ = phantom()
    seg = Segmenter.load('nano', 'cpu')
    a,b = (seg(vol, ['white matter','cerebral ventricles']) for _ in range(2))
    assert all(np.array_equal(a.masks[k], b.masks[k]) for k in a.masks) and a.scores==b.scores


def test_windows_agree_with_the_whole(bright):
    vol,_,_ = phantom()
    whole = bright(vol, ['skull']).masks['skull']
    small = Segmenter(Bright(), bright.enc, Frame(spacing=(4.,4.,4.), window=(32,32,32), modality='mri'), 'cpu')
    assert np.array_equal(small(vol, ['skull']).masks['skull'], whole)


def test_overlapping_masks_keep_all_their_voxels(bright):
    vol,_,_ = phantom()
    res = bright(vol, ['a','b'])
    assert np.array_equal(res.masks['a'], res.masks['b']) and res.masks['a'].any()
    lbl,names = res.labels(priority=['b','a'])
    assert set(np.unique(lbl))=={0,2} and names=={1: 'a', 2: 'b'}


@pytest.mark.parametrize('args, says', [(dict(prompts=[]), 'one or more sentences'), (dict(prompts=['x'], modality='xray'), 'xray'),
    (dict(prompts=['x'], spatial={'y': []}), 'marks for'), (dict(prompts=['x'], instance=True), 'instance')])
def test_bad_questions_are_one_clear_error(args, says):
    vol,_,_ = phantom()
    with pytest.raises(UserError, match=says): Segmenter.load('nano', 'cpu')(vol, **args)
