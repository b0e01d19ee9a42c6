#!/usr/bin/env bash
# PyTorch on CPUs that multiply bfloat16 (AVX-512 BF16): a part of the kernel gradient of a 3D convolution is never written where the map has two slices.
#
# Met when a 3D U-Net learnt far too slowly. On windows of 64 voxels its sixth level has 2x2x2 voxels, as in any network that halves them five times.
# In bfloat16 the gradient of the 3x3x3 kernels there holds whatever the memory held before: mostly something small, now and then 1e32. No number
# is infinite, so nothing complains; clipping then divides the gradient of the WHOLE network by that length, and the step is lost. MONAI's DynUNet,
# trained so with noise, has a gradient of endless length within some steps, and weights that are not numbers soon after; float32 has neither.
# What to do: windows of 96 voxels and more, or the deepest level in float32; and write the length of the gradient into the log.
set -euo pipefail
if ! grep -q avx512_bf16 /proc/cpuinfo || grep -q amx_bf16 /proc/cpuinfo; then echo "a CPU with AVX-512 BF16 and without AMX shows it; this is none"; exit 0; fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet torch==2.13.0 monai==1.6.1 numpy==2.4.1
cat >"$dir/try.py" <<'PY'
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet

torch.set_num_threads(1)
print('torch', torch.__version__, torch.backends.cpu.get_cpu_capability())
GREAT = 1e6


def fill_memory(n):
    "Numbers of a million are written to memory, which is given back"
    for kind in (torch.float32, torch.bfloat16):
        kept = [torch.full((n,), GREAT, dtype=kind) for _ in range(4)]
        del kept


def kernel_gradient(x, w, dtype, stride):
    w = w.detach().to(dtype).clone().requires_grad_()
    y = F.conv3d(x.to(dtype), w, stride=stride, padding=1)
    back = torch.ones_like(y)
    fill_memory(w.numel())
    y.backward(back)
    return w.grad.float()


def is_wrong(size, stride, dtype):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(1, 32, *size, generator=gen)
    w = torch.randn(32, 32, 3, 3, 3, generator=gen)
    exact = kernel_gradient(x, w, torch.float32, stride)
    found = [kernel_gradient(x, w, dtype, stride) for _ in range(3)]
    return any(bool(((o-exact).abs()>.1*exact.abs().max()).any()) for o in found)


def lengths(half, steps=30):
    "Of the gradients of a common network on windows of 64 voxels"
    torch.manual_seed(0)
    features = [16, 16, 32, 48, 64, 96]
    net = DynUNet(3, 1, 2, [3]*6, [1, 2, 2, 2, 2, 2], [2]*5, filters=features)
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    found = []
    for _ in range(steps):
        x = torch.randn(1, 1, 64, 64, 64)
        y = (F.avg_pool3d(x, 5, 1, 2)[:,0]>0).long()
        with torch.autocast('cpu', torch.bfloat16, enabled=half): loss = F.cross_entropy(net(x).float(), y)
        opt.zero_grad()
        loss.backward()
        found.append(float(torch.nn.utils.clip_grad_norm_(net.parameters(), 1.)))
        opt.step()
    return found


found = {}
sizes = [(n,4,4) for n in (1,2,3,4)]+[(4,2,4), (4,4,2), (2,2,2)]
for stride in (1,2):
    for dtype in (torch.bfloat16, torch.float16):
        wrong = found[stride, dtype] = [size for size in sizes if is_wrong(size, stride, dtype)]
        print('stride', stride, dtype, 'wrong for maps of', wrong or 'no size')
for half in (False, True):
    norms = lengths(half)
    print('DynUNet in', 'bfloat16:' if half else 'float32: ', 'length of the gradient, step by step', *[f'{n:.2g}' for n in norms])

assert (2,2,2) in found[1, torch.bfloat16], 'the gradient of a map of 2x2x2 is right now'
assert (3,4,4) not in found[1, torch.bfloat16] and not found[1, torch.float16], 'other maps and float16 are wrong as well'
print('as described: with two slices along the first axis a part of the gradient is what lay in memory')
PY
"$dir/venv/bin/python" "$dir/try.py" 2>/dev/null
