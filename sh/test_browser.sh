#!/usr/bin/env bash
# The widgets in a real browser: JupyterLab, Notebook 7, Voila, itkwidgets. Installs what it needs: Playwright and the front ends into
# the current Python, Chromium by apt if there is none, itkwidgets into an environment of its own, as it disturbs others.
# MEDALS_SHOTS: folder for screenshots and times. MEDALS_NPM: folder that keeps the npm packages of itkwidgets' viewer.
set -euo pipefail
cd "$(dirname "$0")/.."
pip install -q 'playwright>=1.50' 'voila>=0.5.8' 'notebook>=7' 'jupyterlab>=4.2'
if ! command -v "${MEDALS_CHROMIUM:-chromium}" >/dev/null && ! command -v google-chrome >/dev/null; then apt-get update -qq && apt-get install -y -qq chromium; fi

cache="${MEDALS_HOME:-$HOME/.cache/medals}/browser"
itk="${MEDALS_ITK:-$cache/itk}"
if [ ! -x "$itk/bin/python" ]; then
  python -m venv "$itk"
  # the packages of the current Python are seen from there too
  python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$itk/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
  "$itk/bin/pip" install -q 'itkwidgets[lab]==1.0a55' 'ngff-zarr==0.30.0' 'zarr<3'
fi
export MEDALS_BROWSER=1 MEDALS_ITK_PYTHON="$itk/bin/python" MEDALS_NPM="${MEDALS_NPM:-$cache/npm}"
pytest -q tests/browser "$@"
