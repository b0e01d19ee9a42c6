"""Heads and a body by rule, in the form that sh/brain.sh takes: ellipsoids in ellipsoids, enough to try a training, not to learn from.

    python bench/made_heads.py HEADS BODIES
"""
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (64,72,64)
MM = 3.


def ball(middle, radii):
    "bool, in parts of half the scan"
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij')
    return sum(((axis-m)/r)**2 for axis,m,r in zip(axes, middle, radii))<1


def head(gen):
    "A label map in the numbers of sh/brain/classes.toml: each value that has one, somewhere"
    out = np.zeros(SHAPE, np.uint8)
    for value,radius in ((48,.9), (45,.87), (51,.8), (4,.74)): out[ball((0,0,0), (radius,)*3)] = value
    left = np.linspace(-1, 1, SHAPE[0])[:,None,None]<0
    brain = ball((0,0,0), (.7,.7,.7))
    white = ball((0,0,0), (.55,.55,.55))
    for here,values in ((left, (9,7)), (~left, (10,8))):
        out[brain&here] = values[0]
        out[white&here] = values[1]
    for value in range(1, 54):
        if value in (4,7,8,9,10,45,48,51): continue
        side = -.3 if value%2 else .3
        out[ball((side,*gen.uniform(-.4, .4, 2)), (.08,)*3)] = value
    return out


def main():
    heads,bodies = (Path(o) for o in sys.argv[1:])
    gen = np.random.default_rng(0)
    affine = np.diag([-MM,MM,MM,1.]) # the first half is the left one
    affine[0,3] = MM*SHAPE[0]/2
    for folder in (heads, bodies): folder.mkdir(parents=True, exist_ok=True)
    for i in range(3): nib.save(nib.Nifti1Image(head(gen), affine), heads/f'head_{i:02}.nii.gz')
    hu = np.where(ball((0,0,0), (.8,.6,1.2)), 40, -1000)+gen.normal(0, 12, SHAPE)
    liver = ball((.3,.1,0), (.3,.3,.3))
    hu[liver] = 110
    nib.save(nib.Nifti1Image(hu.astype(np.int16), affine), bodies/'body_img.nii.gz')
    nib.save(nib.Nifti1Image(liver.astype(np.uint8), affine), bodies/'body_lab.nii.gz')
    (bodies/'labels.json').write_text(json.dumps([dict(id='body', labels={'1': 'Liver'})]))


if __name__=='__main__': main()
