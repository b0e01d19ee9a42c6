#!/usr/bin/env bash
# PyTorch on CPU, float32: a 3D convolution of ONE scan can take a kernel that is many times slower per scan than the same convolution of TWO.
#
# Met while timing a small 3D U-Net, which sees one window at a time. torch picks oneDNN for a single scan only if
# channels x depth x height exceeds 20480; the width is not looked at (the rule was made for images). At or below that, and that is most
# levels of a 3D U-Net, it unfolds the input and multiplies ("slow_conv3d"). A second scan in the batch, or bfloat16, brings oneDNN back.
# What to do: nothing warns; profile, or call torch.mkldnn_convolution, or put two windows into a batch.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.1
cat >"$dir/try.py" <<'PY'
import time

import torch
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)
SLOW,FAST = 'aten::slow_conv3d','aten::mkldnn_convolution'


def kernel(conv, x):
    "What a call is computed with"
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen: conv(x)
    names = {o.key for o in seen.key_averages()}
    return SLOW if SLOW in names else FAST if FAST in names else 'another'


def ms_per_scan(conv, x):
    "The best of seven calls"
    best = float('inf')
    with torch.inference_mode():
        conv(x)
        for _ in range(7):
            begun = time.perf_counter()
            conv(x)
            best = min(best, time.perf_counter()-begun)
    return 1000*best/len(x)


print('torch', torch.__version__, 'oneDNN', torch.backends.mkldnn.is_available())
print('| batch, channels, depth, height, width | channels x depth x height | type | kernel | ms per scan |')
found = {}
for channels,depth,height,width in ((16,32,40,32), (16,32,41,32), (48,16,16,16), (16,8,8,512)):
    conv = torch.nn.Conv3d(channels, channels, 3, padding=1)
    for batch,dtype in ((1, torch.float32), (2, torch.float32), (1, torch.bfloat16)):
        x = torch.zeros(batch, channels, depth, height, width, dtype=dtype)
        conv = conv.to(dtype)
        used = kernel(conv, x)
        found[batch, channels*depth*height, str(dtype)[6:]] = used
        row = (batch, channels, depth, height, width), channels*depth*height, str(dtype)[6:], used, f'{ms_per_scan(conv, x):.2f}'
        print('|', ' | '.join(map(str, row)), '|')

assert found[1, 20480, 'float32']==SLOW and found[1, 20992, 'float32']==FAST, 'the border has moved'
assert all(used==FAST for (batch,_,dtype),used in found.items() if batch==2 or dtype=='bfloat16'), 'two scans or bfloat16 take another kernel'
print('as described: one scan in float32 takes slow_conv3d up to 20480, two scans never')
PY
"$dir/venv/bin/python" "$dir/try.py" 2>/dev/null
