#!/usr/bin/env bash
# zarr: a chunk is unpacked whole, however much it becomes, and only then compared with the size that its array gives.
#
# An array of 512 bytes whose one chunk is 98 kB of zlib takes 190 MB of memory, and then ends in an error about its shape.
# What to do: ask a chunk what it stands for before it is unpacked, by its header or by counting.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6
cat >"$dir/try.py" <<'PY'
import resource
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import numcodecs
import zarr

root = Path(sys.argv[1])/'a.zarr'
array = zarr.create_array(str(root), shape=(8,8,8), chunks=(8,8,8), dtype='u1', zarr_format=2, compressors=numcodecs.Zlib(1))
array[:] = 1
chunk = next(f for f in root.rglob('*') if f.is_file() and not f.name.startswith('.'))
chunk.write_bytes(zlib.compress(bytes(10**8), 9))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: array[:]
except ValueError as e: said = str(e)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024
print(f'zarr {version("zarr")}: a chunk of {chunk.stat().st_size} bytes for an array of 512 took {grown:.0f} MB, then: {said}')
assert grown>80 and 'reshape' in said
print('as described')
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir"
