#!/usr/bin/env bash
# ngff-zarr: the origin of one head is written with two signs, depending on the library it was converted from.
#
# OME-Zarr is to say where an axis leads in a patient (`orientation`, RFC 4), such as right-to-left. On which side the translation of that
# axis is counted is not said. ngff-zarr writes the origin of ITK, which counts towards the left, and that of nibabel, which counts towards the
# right, into the same field beside the same orientation. Its own way back to ITK fits the first only: a NIfTI file that went through it is
# moved by twice its offset.
# What to do: believe the orientation; take the translation along the axis as it leads, and say that the place as a whole is not certain.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet ngff-zarr==0.50.0 nibabel==5.4.2 itkwasm==1.0b201 numpy==2.4.1
cat >"$dir/try.py" <<'PY'
from importlib.metadata import version

import itkwasm
import nibabel as nib
import numpy as np
from ngff_zarr import itk_image_to_ngff_image, nibabel_image_to_ngff_image

x = np.zeros((4,5,6), np.int16)
lps = np.eye(4)
lps[:3,3] = 10,20,30 # the first voxel is 10 mm to the left, 20 mm to the back and 30 mm up; axes lead left, back and up
ras = np.diag([-1,-1,1,1])@lps
itk = itkwasm.Image(imageType=itkwasm.ImageType(dimension=3, componentType=itkwasm.IntTypes.Int16, pixelType=itkwasm.PixelTypes.Scalar),
                    origin=lps[:3,3].tolist(), spacing=[1.,1.,1.], direction=np.eye(3), size=[4,5,6], data=x.T.copy())
said = {}
for name,image in (('ITK', itk_image_to_ngff_image(itk)), ('nibabel', nibabel_image_to_ngff_image(nib.Nifti1Image(x, ras)))):
    points = image.axes_orientations['x']
    points = getattr(points, 'value', points) # a text from nibabel
    said[name] = str(getattr(points, 'value', points)),float(image.translation['x'])
    print(f'ngff-zarr {version("ngff-zarr")} from {name}: axis x leads {said[name][0]}, and its translation is {said[name][1]} mm')
assert said=={'ITK': ('right-to-left', 10.), 'nibabel': ('right-to-left', -10.)}, said
print('as described')
PY
"$dir/venv/bin/python" "$dir/try.py"
