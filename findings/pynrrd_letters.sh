#!/usr/bin/env bash
# pynrrd, and with it slicerio, leaves letters beyond ASCII out of the values of a header when it reads, and cannot write them.
# 3D Slicer writes the names of segments in UTF-8; "Läsion" is read as "Lsion".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet numpy==2.4.6 pynrrd==1.1.3
"$dir/venv/bin/python" - "$dir" <<'PY'
import sys
from importlib.metadata import version
import numpy as np
import nrrd
print('pynrrd', version('pynrrd'))
file = f'{sys.argv[1]}/a.seg.nrrd'
text = 'NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1 1 1\nencoding: raw\nSegment0_Name:=Läsion\n\n'
with open(file, 'wb') as f: f.write(text.encode()+b'\1')
name = nrrd.read_header(file)['Segment0_Name']
print('read:', name)
try: nrrd.write(file, np.ones((1,1,1), np.uint8), {'Segment0_Name': 'Läsion'})
except UnicodeEncodeError as e: written = f'{type(e).__name__}'
else: written = 'yes'
print('written:', written)
assert (name, written)==('Lsion', 'UnicodeEncodeError')
PY
