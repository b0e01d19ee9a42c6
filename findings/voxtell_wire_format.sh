#!/usr/bin/env bash
# Two clients of one institute pack arrays in two formats that only look alike, so a server for both has to speak both.
#
# nninteractive-client 2.6.0 and napari-voxtell 0.2.0 both send arrays as a small head and chunks of Blosc2 over HTTP, with metadata in the header
# X-Meta, and each says that it takes after the other's project. But nnInteractive's begins with NNIA, names the type as "int16", counts the
# chunks and has signed lengths of axes; VoxTell's begins with VXA2, names the type as "<i2", says the length of the whole and lets chunks follow
# until the body ends. Neither reads what the other writes: one raises "bad magic", the other "Not a VoxTell array payload". Nothing in a
# request says which of them a client wants: both send Accept: */* and the name of httpx.
# What to do: tell the two apart by the first four bytes when reading, and answer each call in the format of the client that has this call.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet nninteractive-client==2.6.0 numpy==2.4.1 blosc2==4.14.1 httpx==0.28.1
"$dir/venv/bin/pip" install --quiet --no-deps --target "$dir/plugin" napari-voxtell==0.2.0 # without napari, which its client does not use
cat >"$dir/try.py" <<'PY'
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from nnInteractive.inference.remote import serialization as nninteractive

spec = importlib.util.spec_from_file_location('serialization', Path(sys.argv[1])/'napari_voxtell'/'remote'/'serialization.py')
voxtell = importlib.util.module_from_spec(spec)
spec.loader.exec_module(voxtell)

x = np.arange(24, dtype=np.int16).reshape(2,3,4)
one,two = nninteractive.pack_array(x),voxtell.pack_array(x)
print('nninteractive-client', version('nninteractive-client'), 'begins with', one[:14])
print('napari-voxtell 0.2.0 begins with', two[:9])
assert one[:4]==b'NNIA' and one[8:13]==b'int16' and two[:4]==b'VXA2' and two[5:8]==b'<i2'
for name,reader,body in (('nnInteractive', nninteractive, two), ('VoxTell', voxtell, one)):
    try: reader.unpack_array(body)
    except ValueError as e: print(f"{name}'s reader, of the other's bytes: {e}")
    else: raise SystemExit(f'{name} reads the format of the other now')
assert (nninteractive.unpack_array(one)==x).all() and (voxtell.unpack_array(two)==x).all()
print('as described')
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir/plugin"
