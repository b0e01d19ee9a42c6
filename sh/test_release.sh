#!/usr/bin/env bash
# What a release would hand out, tried: a wheel and an sdist are built into dist/, checked, and installed where there is no checkout.
# Needs: pip install build 'twine>=6.1'. Packages that medals needs come from the current Python if MEDALS_OFFLINE=1, else from the index.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH
[ "${MEDALS_OFFLINE:-0}" = 1 ] && how=(--no-isolation) || how=()
box=$(mktemp -d)
trap 'rm -rf "$box"' EXIT

rm -rf dist build
python -m build "${how[@]}" --outdir dist . >"$box/build.log" || { tail -20 "$box/build.log"; exit 1; }
twine check --strict dist/*

python -m venv "$box/env"
libs() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
if [ "${MEDALS_OFFLINE:-0}" = 1 ]; then
  libs python >"$(libs "$box/env/bin/python")/base.pth"
  "$box/env/bin/python" -m pip install -q --no-deps --force-reinstall --no-index dist/*.whl
else
  "$box/env/bin/python" -m pip install -q "$(ls "$PWD"/dist/*.whl)[demo]"
fi

cd "$box" # no checkout here
export MEDALS_HOME="$box/home" HF_HUB_OFFLINE=1
bin="$box/env/bin"
"$bin/python" - <<'P'
import sys
from pathlib import Path
import medals
assert Path(medals.__file__).is_relative_to(sys.prefix), medals.__file__
P
"$bin/medals" --version
"$bin/medals" models
"$bin/python" -m medals demo -h >/dev/null
"$bin/medals" segment -h >/dev/null
"$bin/python" - <<'P'
from pathlib import Path
import numpy as np
from medals.volume import phantom
vol,lbl,names = phantom()
words = {'1': 'Left cerebral hemisphere in head MRI', 'instance_label': 0}
Path('inputs').mkdir()
image = vol.data.clip(0,255).astype('uint8').transpose(2,1,0)
np.savez_compressed('inputs/MR_phantom.npz', imgs=image, spacing=np.array([4.,4.,4.]), text_prompts=words)
P
"$bin/medals" challenge inputs -o outputs --rehearse --device cpu
test -f outputs/MR_phantom.npz
"$bin/python" -m torch.distributed.run --standalone --nproc_per_node 2 -m medals train -h >/dev/null
echo 'the release can go out'
