#!/usr/bin/env bash
# surface-distance 0.1, the release on PyPI, cannot score a case in which a mask is empty beside NumPy 2: it asks for `np.Inf`, which is gone.
# Its means are NaN there; only masks with a voxel on both sides have a Hausdorff distance.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet numpy==2.4.6 scipy==1.17.1 surface-distance==0.1
"$dir/venv/bin/python" - <<'PY'
from importlib.metadata import version
import numpy as np
import surface_distance as sd
print('surface-distance', version('surface-distance'), 'NumPy', np.__version__)
some = np.zeros((8,8,8), bool)
some[2:5,2:5,2:5] = True
none = np.zeros_like(some)
said = {}
for name,pair in dict(both=(some, np.roll(some, 1, 0)), missed=(some, none), invented=(none, some), neither=(none, none)).items():
    try: said[name] = float(sd.compute_robust_hausdorff(sd.compute_surface_distances(*pair, (1,1,2)), 95))
    except AttributeError as e: said[name] = 'np.Inf' in str(e) and 'an error that names np.Inf'
    print(f'{name}: {said[name]}')
assert said['both']==1 and {said[o] for o in ('missed','invented','neither')}=={'an error that names np.Inf'}
PY
