#!/usr/bin/env bash
# napari itself with the plugins of VoxTell and nnInteractive against `medals serve`: a scan, a sentence, a click, the masks. Installs what it
# needs: Xvfb by apt if there is none, napari into an environment of its own (1 GB). MEDALS_SHOTS: folder for screenshots.
# MEDALS_NAPARI_PYTHON: a Python that has napari and both plugins already.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v xvfb-run >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends xvfb xauth libgl1-mesa-dri libegl1 libopengl0 libxcb-cursor0 libxkbcommon-x11-0 \
    libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libdbus-1-3
fi
if [ -z "${MEDALS_NAPARI_PYTHON:-}" ]; then
  venv="${MEDALS_HOME:-$HOME/.cache/medals}/napari"
  if [ ! -x "$venv/bin/napari" ]; then
    python -m venv "$venv"
    "$venv/bin/pip" install -q 'napari[pyqt6]==0.9.2' napari-nninteractive==2.5.4 nninteractive-client==2.6.0 napari-nifti httpx blosc2 \
      nibabel SimpleITK
    # VoxTell's plugin wants its network and PyTorch, which a remote session does not use; its reader wants one file of nnU-Net
    "$venv/bin/pip" install -q --no-deps napari-voxtell==0.2.0 nnunetv2==2.8.1
  fi
  export MEDALS_NAPARI_PYTHON="$venv/bin/python"
fi
pytest -q -s tests/viewers "$@"
