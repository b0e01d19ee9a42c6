#!/usr/bin/env bash
# napari-voxtell's remote session needs no network, yet it cannot open a scan without nnU-Net.
#
# The plugin of 0.2.0 guards its heavy imports, so that napari with httpx and blosc2 alone can use a server. But a scan is only sent if the
# plugin's own reader has opened it, and that reader takes one class from nnU-Net: without it napari_get_reader gives None for every NIfTI file.
# The message that then comes, and the reader's own comment, lead to a button 'Open image on server', which the window does not have.
# What to do for a server alone: pip install --no-deps nnunetv2 beside the plugin, with nibabel and SimpleITK. The reader needs
# no more of it, and no PyTorch.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet numpy==2.4.1 nibabel==5.4.2 SimpleITK==2.5.7
"$dir/venv/bin/pip" install --quiet --no-deps --target "$dir/plugin" napari-voxtell==0.2.0 # without napari, which its reader does not use
cat >"$dir/try.py" <<'PY'
import importlib.util
import sys
from pathlib import Path

folder = Path(sys.argv[1])/'napari_voxtell'

def reader():
    "The module of the reader, imported anew"
    spec = importlib.util.spec_from_file_location('reader', folder/'_reader.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.napari_get_reader('head.nii.gz')

if len(sys.argv)>2:
    print('with nnunetv2 --no-deps and SimpleITK, the reader of head.nii.gz is', reader())
    if reader() is None: raise SystemExit('it is not enough any more')
else:
    print('without nnU-Net, the reader of head.nii.gz is', reader())
    window = (folder/'widget_gui.py').read_text()
    told = (folder/'widget_main.py').read_text()
    print("'Open image on server' in the messages:", 'Open image on server' in told, '- in the window:', 'Open image on server' in window)
    if reader() is not None or 'Open image on server' in window: raise SystemExit('a scan can be opened without nnU-Net now')
    if 'Open image on server' not in told: raise SystemExit('the message is another one now')
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir/plugin"
"$dir/venv/bin/pip" install --quiet --no-deps nnunetv2==2.8.1
"$dir/venv/bin/python" "$dir/try.py" "$dir/plugin" again
echo 'as described'
