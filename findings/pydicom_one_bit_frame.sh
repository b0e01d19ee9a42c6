#!/usr/bin/env bash
# pydicom: one frame of a bit-packed DICOM SEG cannot be read alone where rows x columns is no multiple of 8.
#
# A binary SEG packs all frames into one row of bits (DICOM PS3.5, 8.1.1 and annex D), so a frame of 15 x 21 pixels begins in the middle of
# a byte. `pixel_array(ds)` reads all frames rightly. `pixel_array(ds, index=i)`, which readers of large series use to save memory, cuts
# whole bytes and then ends with "cannot reshape array": for 15 x 21 at the third frame, for 5 x 3 at the second.
# What to do: read all frames, or unpack the bits from `i*rows*columns` on oneself, as medals does.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.4.1
cat >"$dir/try.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pack_bits, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid


def segmentation(path, masks):
    "The pixel module of a binary segmentation; masks `(frames,rows,columns)`"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SegmentationStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.NumberOfFrames,ds.Rows,ds.Columns = masks.shape
    ds.SamplesPerPixel = ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.PhotometricInterpretation = 'MONOCHROME2'
    ds.PixelData = pack_bits(masks)
    ds.save_as(path, enforce_file_format=True)
    return pydicom.dcmread(path)


def alone(ds, i, mask):
    "What comes of reading one frame"
    try: return 'right' if np.array_equal(pixel_array(ds, index=i), mask) else 'other pixels'
    except ValueError as e: return f'ValueError: {e}'


print('pydicom', pydicom.__version__)
gen = np.random.default_rng(0)
failed = {}
for frames,rows,columns in ((3,16,16), (3,16,20), (3,15,21), (3,5,3)):
    masks = (gen.random((frames, rows, columns))<.5).astype(np.uint8)
    ds = segmentation(Path(sys.argv[1])/'seg.dcm', masks)
    whole = np.array_equal(pixel_array(ds), masks)
    single = [alone(ds, i, masks[i]) for i in range(frames)]
    failed[rows, columns] = [i for i,o in enumerate(single) if o!='right']
    print(f'{rows} x {columns}: all frames at once {"right" if whole else "wrong"}; one by one:', '; '.join(single))
    assert whole

assert failed=={(16,16): [], (16,20): [], (15,21): [2], (5,3): [1,2]}, failed
print('as described')
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir"
