#!/usr/bin/env bash
# MONAI 1.6.1 says of one empty mask that the average surface distance is infinite and that the 95th percentile of the Hausdorff distance is NaN.
# A mean that skips NaN then leaves out in one column what ruins the other: missed structures look better in HD95 than they are.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 monai==1.6.1
"$dir/venv/bin/python" -W ignore - <<'PY'
import math
import monai, torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
print('monai', monai.__version__, 'torch', torch.__version__)
some = torch.zeros((1,1,8,8,8), dtype=torch.bool)
some[...,2:5,2:5,2:5] = True
none = torch.zeros_like(some)
for name,(pred,truth) in dict(missed=(none, some), invented=(some, none)).items():
    how = dict(include_background=True, spacing=(1,1,2))
    hd95 = float(compute_hausdorff_distance(pred, truth, percentile=95, **how))
    assd = float(compute_average_surface_distance(pred, truth, symmetric=True, **how))
    print(f'{name}: HD95 {hd95}, average symmetric surface distance {assd}')
    assert math.isnan(hd95) and math.isinf(assd)
PY
