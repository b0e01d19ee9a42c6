#!/usr/bin/env bash
# rt-utils: contours of a series whose pixels, or slices, are not square are put in the wrong place.
#
# PixelSpacing names the distance of rows first and that of columns second (DICOM PS3.3, 10.7.1.3). A step along a row, from column to column,
# is therefore the second number. rt-utils multiplies the direction of a row by the first one, and the direction of a column by the second. It
# also makes masks of (columns, rows) where pixel data has (rows, columns). So on square pixels all is well, and with pixels of 1 x 2 mm a
# box that ends 16 mm from the first pixel is drawn up to 8 mm, without a warning. Reading with rt-utils turns it back, so a round trip
# through it alone does not show the error; another reader does.
# What to do: do not use it for such series; medals draws and reads contours itself, and uses rt-utils in tests with square pixels only.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet rt-utils==1.2.7 pydicom==3.0.2 numpy==2.4.1 opencv-python-headless
cat >"$dir/try.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder


def series(folder, spacing):
    "Four slices of 20 x 20 pixels; spacing from row to row, and from column to column"
    folder.mkdir()
    uids = [generate_uid() for _ in range(3)]
    for k in range(4):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID,ds.SeriesInstanceUID,ds.FrameOfReferenceUID = uids
        ds.Modality,ds.InstanceNumber,ds.SeriesNumber = 'CT',k+1,1
        for name in ('PatientName','PatientID','PatientBirthDate','PatientSex','StudyDate','StudyTime','StudyID','StudyDescription',
                     'SeriesDescription','AccessionNumber','ReferringPhysicianName'): setattr(ds, name, '')
        ds.PixelSpacing,ds.SliceThickness = spacing,3
        ds.ImagePositionPatient,ds.ImageOrientationPatient = [0,0,3*k],[1,0,0,0,1,0]
        ds.Rows = ds.Columns = 20
        ds.SamplesPerPixel,ds.PhotometricInterpretation,ds.PixelRepresentation = 1,'MONOCHROME2',0
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit = 15
        ds.PixelData = bytes(800)
        ds.save_as(folder/f'{k}.dcm', enforce_file_format=True)


def reach(folder, file):
    "How far, in mm along a row, the contours go of a mask of rows 2 to 4 and columns 2 to 8"
    made = RTStructBuilder.create_new(dicom_series_path=str(folder))
    mask = np.zeros((20,20,4), bool)
    mask[2:5,2:9,1] = True # rows, columns, slices
    made.add_roi(mask=mask, name='box')
    made.save(str(file))
    contour = pydicom.dcmread(file).ROIContourSequence[0].ContourSequence[0]
    return np.reshape(contour.ContourData, (-1,3)).astype(float).max(0)[:2].tolist()


print('rt-utils', version('rt-utils'))
found = {}
for spacing in ([2,2], [1,2]): # from row to row first
    folder = Path(sys.argv[1])/f'{spacing[0]}x{spacing[1]}'
    series(folder, spacing)
    found[tuple(spacing)] = reach(folder, Path(sys.argv[1])/'rt.dcm')
    right = [8.*spacing[1], 4.*spacing[0]]
    print(f'rows {spacing[0]} mm and columns {spacing[1]} mm apart: the contour ends at x, y = {found[tuple(spacing)]} mm, the mask at {right}')

assert found=={(2,2): [16.,8.], (1,2): [8.,8.]}, found
print('as described')
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir"
