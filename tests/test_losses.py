"Losses: the published numbers, gradients, chunks, thin structures"
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss

from medals.core import torch_gen
from medals.training import losses
from medals.training.losses import dice_bce, seg_loss, shrink_masks, targets

SHAPE = (32,16,24)


def example(b=2, n=5, c=3, dtype=torch.float32):
    "Logits at four scales, masks of which one is empty, classes of the queries, some of them padding"
    gen = torch_gen('losses')
    z = [torch.randn((b, n, *[s//k for s in SHAPE]), generator=gen).mul(3).to(dtype).requires_grad_() for k in (1,2,4,8)]
    m = torch.rand((b, c, *SHAPE), generator=gen)>.7
    m[1,2] = False
    cls = torch.randint(0, c, (b,n), generator=gen)
    valid = torch.ones(b, n, dtype=torch.bool)
    valid[1,3:] = False
    return z,m,cls,valid


def published(z, m, cls, valid):
    "The published loss, with MONAI's Dice and PyTorch's cross-entropy, on a float mask per query"
    q,total = valid.float(),0.
    own = m[torch.arange(len(m))[:,None], cls].float()
    dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1e-7, smooth_dr=1e-7, reduction='none')
    for w,o in zip((8/15, 4/15, 2/15, 1/15), z):
        t = F.interpolate(own, size=o.shape[2:], mode='nearest')
        each = dice(o, t).flatten(1),F.binary_cross_entropy_with_logits(o, t, reduction='none').mean((2,3,4))
        total = total+w*sum((e*q).sum()/(q.sum()+1e-14) for e in each)
    return total


def test_compat_is_the_published_loss_and_so_are_its_gradients():
    z,m,cls,valid = example()
    ours,theirs = seg_loss(z, m, cls, valid, compat=True)[0],published(z, m, cls, valid)
    assert abs(ours.item()-theirs.item())<1e-5
    for a,b in zip(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)): assert (a-b).abs().max()<1e-6*b.abs().max()+1e-8


@pytest.mark.parametrize('compat', [False, True])
def test_chunks_and_padding_change_nothing(compat):
    z,m,cls,valid = example()
    want = seg_loss(z, m, cls, valid, compat, chunk=1)[0]
    grads = torch.autograd.grad(want, z)
    for chunk in (2, 3, 99):
        got = seg_loss(z, m, cls, valid, compat, chunk=chunk)[0]
        assert abs(got-want)<1e-6
        for a,b in zip(torch.autograd.grad(got, z), grads): assert torch.allclose(a, b, atol=1e-9)
    assert all((g[1,3:]==0).all() for g in grads), 'queries that pad the batch get no gradient'
    alone = seg_loss([o[:1] for o in z], m[:1], cls[:1], valid[:1], compat)[0]
    twice = seg_loss([o[[0,0]] for o in z], m[[0,0]], cls[[0,0]], valid[[0,0]], compat)[0]
    assert abs(alone-twice)<1e-6


def test_an_absent_class_is_taught_by_cross_entropy_alone():
    z,m,_,_ = example()
    cls = torch.full((2,5), 2)
    loss,parts = seg_loss(z[0][1:], m[1:], cls[1:])
    assert parts['dice']==0 and abs(loss-parts['bce'])<1e-6 and not dice_bce(z[0][1:], m[1:], cls[1:])[2].any()
    assert seg_loss(z[0][1:], m[1:], cls[1:], compat=True)[1]['dice']>.99


def test_logits_of_half_precision_get_gradients_of_half_precision():
    z,m,cls,valid = example(dtype=torch.bfloat16)
    loss,_ = seg_loss(z, m, cls, valid)
    loss.backward()
    full = [o.detach().float().requires_grad_() for o in z]
    want = torch.autograd.grad(seg_loss(full, m, cls, valid)[0], full)
    assert loss.dtype==torch.float32 and abs(loss-seg_loss(full, m, cls, valid)[0])<1e-5
    for o,g in zip(z, want): assert o.grad.dtype==torch.bfloat16 and (o.grad.float()-g).abs().max()<.01*g.abs().max()


def test_extreme_logits_stay_finite():
    m = torch.rand((1, 2, *SHAPE), generator=torch_gen(0))>.5
    z = torch.where(m, -1e4, 1e4).requires_grad_()
    loss,_ = seg_loss(z, m)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()
    dice,bce,there = dice_bce(z, m)
    assert there.all() and (dice>.99).all() and torch.allclose(bce, torch.tensor(1e4))


@settings(max_examples=40, deadline=None)
@given(a=st.tuples(*[st.integers(0, 31)]*3), b=st.tuples(*[st.integers(0, 31)]*3), step=st.sampled_from([2,4,8]))
def test_a_line_of_one_voxel_survives_at_every_scale(a, b, step):
    m = torch.zeros(1, 1, 32, 32, 32, dtype=torch.bool)
    at = (torch.tensor(a)+(torch.tensor(b)-torch.tensor(a))*torch.linspace(0, 1, 99)[:,None]).round().long()
    m[0,0,at[:,0],at[:,1],at[:,2]] = True
    low,anything = shrink_masks(m, (step,)*3),F.max_pool3d(m.float(), step)>0
    assert torch.equal(low, anything) or step==2, 'half a coarse voxel is possible only for voxels of 2x2x2'
    near = F.max_pool3d(low.float(), 3, 1, 1)>0
    assert (anything&~near).sum()==0, 'no part of the line is further than a coarse voxel from the target'


@settings(max_examples=40, deadline=None)
@given(lo=st.tuples(*[st.integers(0, 12)]*3), size=st.tuples(*[st.integers(16, 19)]*3))
def test_large_structures_keep_their_size(lo, size):
    m = torch.zeros(1, 1, 32, 32, 32, dtype=torch.bool)
    m[(0, 0, *[slice(a, a+n) for a,n in zip(lo, size)])] = True
    for step in (2,4):
        low = shrink_masks(m, (step,)*3).nonzero()[:,2:]
        for d in range(3): assert abs((low[:,d].max()-low[:,d].min()+1)*step-size[d])<=step


def test_targets_follow_the_shapes_of_the_logits():
    m = torch.rand(1, 2, 32, 16, 24)>.9
    sizes = [(32,16,24), (16,8,12), (8,4,6), (4,2,3)]
    for compat in (False, True): assert [tuple(o.shape[2:]) for o in targets(m, sizes, compat)]==sizes
    assert torch.equal(targets(m, sizes, True)[3], m[:,:,::8,::8,::8])


@pytest.mark.parametrize('n', [1, 63, 64, 1000])
@pytest.mark.parametrize('scale', [.1, 3, 30, 1000])
def test_a_logarithm_of_a_product_is_the_sum_of_logarithms(n, scale):
    "Cross-entropy of few and many voxels, of small and of endless logits"
    torch.manual_seed(n)
    z = torch.randn(3, n)*scale
    t = (torch.rand(3, n)<.3).float()
    sums = torch.zeros(3, 3)
    losses._add_sums(sums, z.clone(), t)
    exact = F.binary_cross_entropy_with_logits(z.double(), t.double(), reduction='none')
    assert ((sums[:,2]-exact.sum(-1)).abs()<=1e-5*exact.sum(-1)+1e-7*n*max(1, scale)).all()
