#!/usr/bin/env bash
# ITK reads a compressed MetaImage whose header does not say how long the compressed values are as nonsense, without an exception.
# It prints "Uncompress failed" and goes on. A program that writes a stream has to come back and fill in CompressedDataSize.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet numpy==2.4.6 SimpleITK==2.5.7
"$dir/venv/bin/python" - "$dir" <<'PY'
import sys, zlib
import numpy as np
import SimpleITK as sitk
print('SimpleITK', sitk.Version_VersionString())
x = np.arange(6000, dtype=np.uint8).reshape(30,20,10)
packed = zlib.compress(x.tobytes())
head = ('ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n{size}'
        'DimSize = 10 20 30\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n')
same = {}
for name,size in (('with', f'CompressedDataSize = {len(packed)}\n'), ('without', '')):
    with open(f'{sys.argv[1]}/{name}.mha', 'wb') as f: f.write(head.format(size=size).encode()+packed)
    values = sitk.GetArrayFromImage(sitk.ReadImage(f'{sys.argv[1]}/{name}.mha'))
    same[name] = bool(np.array_equal(values, x))
    print(f'{name} CompressedDataSize: values are equal: {same[name]}')
assert same=={'with': True, 'without': False}
PY
