"""CTs of other parts of the body in the challenge's layout, in which the organs of a prompt file are asked for and never there

    python sh/organs/elsewhere.py BODIES PROMPTS OUT

BODIES: NAME_img.nii.gz in Hounsfield units, organs in NAME_lab.nii.gz and their names in labels.json. PROMPTS: such as headneck.json, whose one data set lends
its sentences. An organ that runs through the whole body is not asked for (SEVERAL), and one that a body has is asked for with its own voxels (SHARED).
"""
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

SOFT = -160,240 # Hounsfield units of the values 0 and 255, as the scans of headneck have them
NAME = 'CT_elsewhere'
SEVERAL = 'spinal cord','oesophagus'
SHARED = 'liver','spleen','stomach','aorta','urinary bladder'
FIRST = 100 # Label of the first organ that is not there


def sentences(prompts):
    "`{label: sentences}` of what is there and of what is not, and `{organ: label}` of what is there"
    source, = prompts.values()
    there = {name: label for label,name in enumerate(SHARED, 1)}
    table = {str(label): [name, f'{name} in CT'] for name,label in there.items()}
    absent = [said for label,said in source.items() if label!='partial' and said[0] not in SEVERAL]
    for label,said in enumerate(absent, FIRST): table[str(label)] = said
    return table,there


def main(source, prompts, out):
    table,there = sentences(json.loads(prompts.read_text()))
    folder = out/'3D_train_npz_all'/'CT'/NAME
    folder.mkdir(parents=True, exist_ok=True)
    lo,hi = SOFT
    for row in json.loads((source/'labels.json').read_text()):
        file = source/f"{row['id']}_img.nii.gz"
        if row['modality']!='CT' or 'head' in row['body'] or not file.exists(): continue
        img = nib.as_closest_canonical(nib.load(file))
        lab = nib.as_closest_canonical(nib.load(source/f"{row['id']}_lab.nii.gz"))
        organs = np.asarray(lab.dataobj).astype(int)
        values = np.zeros(organs.shape, np.uint8)
        for label,organ in row['labels'].items(): values[organs==int(label)] = there.get(organ.lower(), 0)
        grey = (np.clip(np.asarray(img.dataobj, float), lo, hi)-lo)*(255/(hi-lo))
        # (x,y,z) to the right, front and top -> (z,y,x) with y to the back and x to the left
        turned = [np.ascontiguousarray(o.transpose(2,1,0)[:,::-1,::-1]) for o in (grey.round().astype(np.uint8), values)]
        np.savez_compressed(folder/f"{NAME}_{row['id']}.npz", imgs=turned[0], gts=turned[1], spacing=np.array(img.header.get_zooms()[:3]))
        print(row['id'], turned[0].shape, np.unique(turned[1]))
    (out/'prompts.json').write_text(json.dumps({NAME: table}, indent=1))


if __name__=='__main__':
    source,prompts,out = map(Path, sys.argv[1:])
    main(source, prompts, out)
