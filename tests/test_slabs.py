"Runs on a CPU in slabs against the plain forward pass, and the kernels that convolve"
import math
from statistics import mean

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import medals.model
import medals.unet
from medals.model import MedalS, ModelCfg
from medals.network import finer, kernels, winograd
from medals.unet import ConvBlock


def small_network(seed, dtype=torch.float32):
    "Random in its channels and its weights; norms scale and shift"
    gen = torch.Generator().manual_seed(seed)
    features = tuple(int(o) for o in torch.randint(3, 20, (6,), generator=gen))
    torch.manual_seed(seed)
    model = MedalS(ModelCfg(features=features, query=24, layers=1, heads=2, ffn=32, head=16, aux=False, grey=1/64, signed=True))
    for module in model.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            torch.nn.init.uniform_(module.weight, .5, 2)
            torch.nn.init.normal_(module.bias)
    return model.eval().to(dtype)


def shown(size, b, k, dtype, seed=0):
    "Grey values, queries, and prompts of some of them"
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(b, 1, *size, generator=gen, dtype=dtype)*255
    q = torch.randn(5, 24, generator=gen, dtype=dtype)
    m = torch.rand(b, k, *size, generator=gen)<.2 if k else None
    return x,q,m,list(range(5))[:k] if k else None


def plain(model, *given):
    "With gradients nothing works in slabs"
    with torch.enable_grad(): return [o.detach().double() for o in model.mask_factors(*given)]


def in_slabs(model, rows, monkeypatch, *given):
    "The same in slabs of so many slices of the finest map"
    x = given[0]
    of_a_slice = len(x)*model.cfg.features[0]*x[0,0,0].numel()*max(4, x.element_size())
    monkeypatch.setattr(kernels, 'MAP_SLAB', rows*of_a_slice)
    monkeypatch.setattr(medals.model, 'SLABS_FROM', 0)
    with torch.inference_mode(): return [o.double() for o in model.mask_factors(*given)]


@pytest.mark.parametrize('rows', [1, 3, 7, 1000])
@pytest.mark.parametrize('b, k', [(1,0), (2,2), (1,5)])
def test_slabs_equal_the_plain_forward_pass(rows, b, k, monkeypatch):
    cases = ((64,32,32), torch.float32, True), ((32,64,32), torch.float64, False), ((64,32,32), torch.float32, False)
    for seed,(size,dtype,interleaved) in enumerate(cases):
        model = small_network(seed+10*rows, dtype)
        if interleaved: model = model.to(memory_format=torch.channels_last_3d)
        given = shown(size, b, k, dtype, seed)
        wanted = plain(model, *given)
        got = in_slabs(model, rows, monkeypatch, *given)
        limit = 1e-10 if dtype==torch.float64 else 1e-4
        for a,o in zip(wanted, got): assert (a-o).abs().max()<limit*a.std(), (seed, (a-o).abs().max()/a.std())


@pytest.mark.parametrize('few', [0, 100])
def test_both_ways_of_adding_prompts_work_in_slabs(few, monkeypatch):
    model = small_network(3, torch.float64)
    block,c = model.fusion_conv.convs[0],model.cfg.features[0]
    y,vec,m = torch.randn(2,c,9,8,8).double(),torch.randn(2,20,c).double(),torch.rand(2,20,9,8,8)<.3
    with torch.enable_grad(): wanted = medals.model.add_prompts(block, y.clone(), vec, m, few).detach()
    monkeypatch.setattr(kernels, 'MAP_SLAB', 2*c*64*8)
    with torch.inference_mode(): assert torch.allclose(medals.model.add_prompts(block, y.clone(), vec, m, few), wanted, atol=1e-10)


@pytest.mark.parametrize('k', [0, 3])
def test_slabs_in_half_precision_are_as_near_as_the_plain_way(k, monkeypatch):
    model = small_network(1)
    given = shown((64,32,32), 1, k, torch.float32)
    exact = plain(model, *given)
    with torch.autocast('cpu', torch.bfloat16):
        half = plain(model, *given)
        got = in_slabs(model, 5, monkeypatch, *given)
    for a,b,c in zip(exact, half, got): assert (a-c).square().mean()<=1.5*(a-b).square().mean()


def rounding(model, given, scales, monkeypatch):
    "Share of the logits that differs in half precision in a run, with so many scales of the encoder in single precision"
    monkeypatch.setattr(medals.unet, 'EXACT_SCALES', scales)
    made = []
    for half in (False, True):
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=half): d,vec = model.mask_factors(*given)
        made.append(torch.einsum('bnc,bcxyz->bnxyz', vec.double(), d.double()))
    exact,rounded = made
    return ((rounded-exact).std()/exact.std()).item()


def wide_network(channels):
    torch.manual_seed(0)
    cfg = ModelCfg(features=(channels,)*6, query=24, layers=1, heads=2, ffn=32, head=16, aux=False)
    return MedalS(cfg).eval().to(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize('limit', [0, float('inf')])
@pytest.mark.parametrize('k', [0, 3])
def test_half_precision_in_a_run_starts_behind_the_finest_scales_of_a_wide_encoder(limit, k, monkeypatch):
    monkeypatch.setattr(medals.model, 'SLABS_FROM', limit)
    given = shown((64,64,32), 1, k, torch.float32)
    wanted = medals.unet.EXACT_SCALES
    wide,narrow = wide_network(medals.unet.EXACT_FROM),wide_network(medals.unet.EXACT_FROM-1)
    assert rounding(wide, given, wanted, monkeypatch)<.6*rounding(wide, given, 0, monkeypatch)
    assert rounding(narrow, given, wanted, monkeypatch)==rounding(narrow, given, 0, monkeypatch)


def test_what_queries_see_is_single_in_a_run_and_half_in_training():
    model = wide_network(32)
    x,q,m,which = shown((32,32,64), 1, 3, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(x, q, deep=False).dtype==torch.float32 # a product of this type, see `safe_product`
        assert model.encode(x).kvs[0][0].dtype==torch.bfloat16
        with torch.inference_mode():
            assert model.encode(x).kvs[0][0].dtype==torch.float32
            assert model(x, q).isfinite().all()
            assert model.mask_factors(x, q, m, which)[1].dtype==torch.float32


def test_a_window_is_plain_below_the_limit_and_in_training(monkeypatch):
    model = small_network(0)
    monkeypatch.setattr(model, '_seen_in_slabs', lambda *a: pytest.fail('in slabs'))
    given = shown((32,32,64), 1, 0, torch.float32)
    with torch.inference_mode(): model.mask_factors(*given)
    monkeypatch.setattr(medals.model, 'SLABS_FROM', 0)
    model.mask_factors(*given)
    with torch.inference_mode(), pytest.raises(pytest.fail.Exception): model.mask_factors(*given)


def kernels_of(model, *given):
    "Names of what a forward pass is computed with"
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen: model.mask_factors(*given)
    return {event.key for event in seen.key_averages()}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this build of PyTorch has no oneDNN, and one convolution only')
@pytest.mark.parametrize('preset, size, limit', [
    ('nano', (32,32,64), 1e15), ('nano', (64,64,64), 1e15), ('nano', (64,96,64), 0), ('medals-s', (32,32,64), 0)])
def test_no_convolution_takes_the_slow_kernel(preset, size, limit, monkeypatch):
    monkeypatch.setattr(medals.model, 'SLABS_FROM', limit)
    model = MedalS(preset).eval()
    x,q = torch.rand(1,1,*size),torch.randn(2,model.cfg.query)
    for m in (None, torch.rand(1,2,*size)<.1):
        convolutions = {o for o in kernels_of(model, x, q, m) if 'conv' in o}
        assert 'aten::mkldnn_convolution' in convolutions and 'aten::slow_conv3d' not in convolutions, convolutions


def fill_memory(sizes):
    "Memory of these sizes is filled with large numbers and given back"
    for kind in (torch.float32, torch.bfloat16):
        kept = [torch.full((n,), 1e30, dtype=kind) for n in sizes]
        del kept


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize('size', [(64, 64, 64), (64, 96, 64), (32, 64, 64), (64, 64, 32), (96, 32, 64)])
def test_gradients_in_half_precision_are_those_of_single_precision(size, layout):
    "torch 2.13 leaves kernel gradients of thin maps unwritten in bfloat16 on CPUs that multiply it"
    torch.manual_seed(0)
    model = MedalS('nano').train().to(memory_format=layout)
    q = torch.randn(5, 96)
    x = torch.rand(1, 1, *size)*255
    m = torch.rand(1, 5, *size)>.5
    kernels_of = {n: p for n,p in model.named_parameters() if p.ndim==5}
    for block in model.modules():
        if not isinstance(block, ConvBlock): continue
        n = block.conv.weight.numel()
        block.register_full_backward_pre_hook(lambda *given, n=n: fill_memory([n//2, n, n, n, 2*n]))

    def gradients(half):
        model.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=half): answers = model(x, q, m, deep=True)
        loss = sum(o.float().square().mean() for o in answers)
        loss.backward()
        return {n: p.grad.clone() for n,p in kernels_of.items()}

    exact,found = gradients(False),gradients(True)
    for name,kernel in exact.items(): assert (found[name]-kernel).norm()<kernel.norm(), name # rounding alone is up to .4 of it


def wide(n, c, out, plane=(48,32)):
    "A wide map with the channels of a voxel beside each other, and a kernel"
    torch.manual_seed(n)
    x = torch.randn(1, c, n, *plane).to(memory_format=torch.channels_last_3d)
    return x,torch.randn(out, c, 3, 3, 3)/(27*c)**.5,torch.randn(out)


@pytest.mark.parametrize('n', [4, 5, 7, 13])
@pytest.mark.parametrize('c, out', [(32,64), (64,32)])
def test_fewer_products_give_the_same_convolution(n, c, out, monkeypatch):
    "With every number of slices that are left over, of strips and of slabs"
    x,w,b = wide(n, c, out)
    exact = torch.nn.functional.conv3d(x.double(), w.double(), b.double(), padding=1)
    seen = []
    monkeypatch.setattr(kernels, 'convolve_winograd', lambda *a: seen.append(a) or winograd.convolve_winograd(*a))
    for strip in (2**21, 2**15):
        monkeypatch.setattr(winograd, 'STRIP', strip)
        with torch.inference_mode():
            whole = kernels.conv3d(x, w, b)
            monkeypatch.setattr(kernels, 'MAP_SLAB', 4*max(c, out)*48*32*4)
            slabs = kernels.convolve_slabs(
                lambda lo,hi: kernels.with_halo(x, lo, hi), lambda part: kernels.conv3d(part, w, b, padding=(0,1,1)), exact.shape, x)
        for made in (whole, slabs): assert (made-exact).abs().max()<3e-5
    assert seen


def test_fewer_products_are_for_runs_in_single_precision(monkeypatch):
    x,w,b = wide(8, 32, 32)
    monkeypatch.setattr(kernels, 'convolve_winograd', lambda *a: pytest.fail('used'))
    kernels.conv3d(x, w, b)
    with torch.inference_mode():
        with torch.autocast('cpu', torch.bfloat16): kernels.conv3d(x, w, b)
        kernels.conv3d(x.double(), w.double(), b.double())
        kernels.conv3d(x.bfloat16(), w.bfloat16(), b.bfloat16())
        kernels.conv3d(x, w, b, stride=2)
        kernels.conv3d(x.contiguous(), w, b)
        with pytest.raises(pytest.fail.Exception): kernels.conv3d(x, w, b)


@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last_3d])
def test_norms_and_averages_of_a_run_in_bfloat16_are_those_of_its_numbers(order):
    torch.manual_seed(0)
    x = (torch.randn(1, 6, 12, 8, 8)*3+5).bfloat16().to(memory_format=order)
    norm = torch.nn.InstanceNorm3d(6, affine=True)
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    exact = torch.nn.functional.leaky_relu(norm(x.float()), .01).detach()
    means = torch.nn.functional.avg_pool3d(x.double(), 4)
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert (kernels.averaged(x, 4, size=3000)-means).abs().max()<1e-5
        made = kernels.norm_act(norm, x.clone(memory_format=torch.preserve_format), size=3000)
    assert made.dtype==torch.bfloat16 and (made-exact).abs().max()<.012


def answers(model, half, layout):
    "Loss of random targets, and gradients of all kernels and biases, of a network in training"
    torch.manual_seed(1)
    x = (torch.rand(1, 1, 64, 64, 64)*255).contiguous(memory_format=layout)
    m = torch.rand(1, 5, 64, 64, 64)>.9
    q = torch.randn(5, 96)
    model.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=half): scales = model(x, q, m, deep=True)
    loss = sum(F.binary_cross_entropy_with_logits(o.float(), torch.rand_like(o.float())) for o in scales)
    loss.backward()
    return loss.item(),{n: p.grad.double().clone() for n,p in model.named_parameters() if p.grad is not None}


def far(a, b):
    "How far gradients are from others, as a share of their length"
    rest,whole = (sum(float(o.square().sum()) for o in parts) for parts in ([b[n]-a[n] for n in b], b.values()))
    return (rest/whole)**.5


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
def test_a_map_that_is_doubled_and_convolved_at_once_teaches_the_same(layout, monkeypatch):
    torch.manual_seed(0)
    model = MedalS('nano').train().to(memory_format=layout)
    for o in model.backbone.decoder.transpconvs: torch.nn.init.normal_(o.bias)
    seen = []
    monkeypatch.setattr(medals.unet, 'convolve_doubled', lambda *a: seen.append(a) or finer.convolve_doubled(*a))
    exact,half = answers(model, False, layout),answers(model, True, layout)
    assert len(seen)==4 # the two finest scales
    monkeypatch.setattr(medals.unet, 'saves_doubling', lambda *a: False)
    plainly,plainly_half = answers(model, False, layout),answers(model, True, layout)
    assert exact[0]==pytest.approx(plainly[0], rel=1e-6) and far(exact[1], plainly[1])<1e-5
    assert far(half[1], plainly[1])<1.1*far(plainly_half[1], plainly[1]) # as close to single precision


def gradients_of(seed, drawn, half):
    "Of a random network in training and a window in which so many of 24 classes have prompts"
    torch.manual_seed(seed)
    model = MedalS('nano').train().to(memory_format=torch.channels_last_3d)
    size = 64,64,32
    x,q = torch.rand(1, 1, *size)*255,torch.randn(24, 96)
    m = torch.rand(1, 24, *size)<.1
    m[:,drawn:] = False
    truth = (torch.rand(24, *size)<.2).float()
    with torch.autocast('cpu', torch.bfloat16, enabled=half): y = model(x.contiguous(memory_format=torch.channels_last_3d), q, m)
    F.binary_cross_entropy_with_logits(y[0].float(), truth).backward()
    return {n: p.grad.double().clone() for n,p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('drawn', [0, 3, 20, 24])
def test_a_step_in_half_precision_is_as_close_to_single_precision_as_the_plain_way(drawn, monkeypatch):
    "24 masks are summed, fewer are convolved as they are"
    seeds = range(24)
    ours = [[gradients_of(seed, drawn, half) for half in (False,True)] for seed in seeds]
    monkeypatch.setattr(kernels, 'LARGE_MAP', float('inf'))
    monkeypatch.setattr(medals.unet, 'saves_doubling', lambda *a: False)
    monkeypatch.setattr(medals.model, 'as_numbers', lambda masks, like: masks.to(like.dtype))
    plainly = [[gradients_of(seed, drawn, half) for half in (False,True)] for seed in seeds]
    of_single = [far(a[0], b[0]) for a,b in zip(ours[:8], plainly)]
    assert min(of_single)<1e-6 and max(of_single)<1e-4 # a number beside the kink of the activation may fall on its other side
    shares = [math.log(far(o[1], p[0])/far(p[1], p[0])) for o,p in zip(ours, plainly)]
    assert mean(shares)<math.log(1.3) # rounding in a single network is a draw, half as much or twice as much: 24 of them say what is usual


def taught(norm_and_act, half, size):
    "What norm and activation give in training, and the gradients of what goes in, scale and shift"
    torch.manual_seed(0)
    norm = torch.nn.InstanceNorm3d(size[1], affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    y = (torch.randn(size)*3+5).bfloat16().to(memory_format=torch.channels_last_3d)
    if not half: y = y.float()
    y.requires_grad_()
    wanted = torch.randn(size).bfloat16()
    made = norm_and_act(norm, y)
    made.backward(wanted.to(made.dtype))
    return [o.detach().double() for o in (made, y.grad, norm.weight.grad, norm.bias.grad)]


@pytest.mark.parametrize('size', [(1, 24, 32, 32, 16), (2, 32, 8, 12, 16), (1, 6, 48, 32, 32)], ids=str)
def test_norm_and_activation_in_half_precision_are_as_exact_as_the_plain_ones(size):
    "Of some hundred thousand numbers the rounding is no draw"
    exact,plainly,ours = ([o.clone() for o in taught(way, half, size)] for way,half in
        ((lambda n,y: F.leaky_relu(n(y)), False), (lambda n,y: F.leaky_relu(n(y)), True), (kernels.norm_act, True)))
    for e,p,o in zip(exact, plainly, ours):
        assert (o-e).norm()<1.05*(p-e).norm()+1e-4*e.norm()
