"""Heads and bodies as data sets of nnU-Net's raw layout, for the weights `brain`; see brain.sh

    python sh/brain/data.py heads HEADS RAW      label maps of whole heads, as SynthSeg ships them for training; images are drawn while training
    python sh/brain/data.py bodies BODIES RAW    CTs NAME_img.nii.gz with organs NAME_lab.nii.gz and labels.json: where no brain is
    python sh/brain/data.py necks NECKS RAW      CTs of head and neck in the challenge's layout, cut below the brainstem: where no brain is either
"""
import json
import sys
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np

TABLE = tomllib.loads((Path(__file__).parent/'classes.toml').read_text())
HOUNSFIELD = (-600, -150, -20, 25, 60, 120, 250)  # Between these, what has no label is one tissue
REST = 200      # Value of the first of those tissues
NOWHERE = 254   # Value of what is asked and never there
BRAINSTEM,CORD = 1,2 # Their labels in the CTs of head and neck
SOFT = -160,240 # Hounsfield units of their values 0 and 255
BELOW = 15      # mm between the brainstem and what is kept
LOWEST = 50     # mm that have to be left
NECKS = 32      # Patients, half of them for drawn MRI and half as CT


def classes():
    "`{class: label values}`"
    out = dict(TABLE['single'])
    for name,left in TABLE['paired'].items():
        right = [value+1 for value in left]
        out[f'left {name}'] = left
        out[f'right {name}'] = right
        out.setdefault(name, sorted([*left, *right]))
    return out


def write(raw, modality, labels, cases):
    "A data set: image, label map and affine of each case"
    for folder in ('imagesTr','labelsTr'): (raw/folder).mkdir(parents=True, exist_ok=True)
    n = 0
    for name,image,values,affine in cases:
        nib.save(nib.Nifti1Image(image, affine), raw/'imagesTr'/f'{name}_0000.nii.gz')
        nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), raw/'labelsTr'/f'{name}.nii.gz')
        n += 1
    if not n: sys.exit(f'no case for {raw.name}')
    order = list(range(1, len(labels)+1))
    about = dict(channel_names={'0': modality}, labels={'background': 0, **labels}, regions_class_order=order, numTraining=n,
                 file_ending='.nii.gz')
    (raw/'dataset.json').write_text(json.dumps(about, indent=1))


def heads(source, raw):
    "Label maps in the numbers of classes.toml; there is no image, so a mask of the head stands for it"
    table = np.zeros(1024, np.uint8)
    for old,new in TABLE['freesurfer'].items(): table[int(old)] = new
    def cases():
        for file in sorted(source.glob('*.nii*')):
            img = nib.load(file)
            values = np.asarray(img.dataobj).astype(int)
            if values.max()>53: values = table[values]
            yield file.name.split('.')[0],(values>0).astype(np.uint8),values,img.affine
    write(raw/'Dataset010_heads', 'MRI', classes(), cases())


def bodies(source, raw):
    "The same bodies twice: as CTs, and as label maps from which MRIs are drawn; brains are asked for and never there"
    about = {row['id']: row for row in json.loads((source/'labels.json').read_text())}
    names = {}
    for row in about.values():
        for organ in row['labels'].values(): names.setdefault(organ.lower(), len(names)+1)
    asked = {organ: [value] for organ,value in names.items() if organ in ('liver','spleen','stomach','aorta','urinary bladder')}
    lungs = [value for organ,value in names.items() if 'lung' in organ]
    if lungs: asked['lung'] = lungs
    absent = [name for name in classes() if name not in TABLE['not_elsewhere']['bodies']]
    labels = {**asked, **{name: [NOWHERE] for name in absent}}
    def cases(kind):
        for case in about:
            img = nib.load(source/f'{case}_img.nii.gz')
            hu = np.asarray(img.dataobj).astype(float)
            organs = np.asarray(nib.load(source/f'{case}_lab.nii.gz').dataobj).astype(int)
            values = REST+np.digitize(hu, HOUNSFIELD)
            for label,organ in about[case]['labels'].items(): values[organs==int(label)] = names[organ.lower()]
            yield case,(hu if kind=='CT' else values>0).astype(np.int16),values,img.affine
    write(raw/'Dataset012_bodies', 'MRI', labels, cases('MRI'))
    write(raw/'Dataset014_ctbodies', 'CT', labels, cases('CT'))
    print(json.dumps(names))


def necks(source, raw):
    "Necks and shoulders from below the brainstem, half of the patients as label maps to draw MRIs from, half as CTs"
    absent = [name for name in classes() if name not in TABLE['not_elsewhere']['necks']]
    labels = {'spinal cord': [CORD], **{name: [NOWHERE] for name in absent}}
    lo,hi = SOFT
    found = []
    for file in sorted(source.rglob('*.npz')):
        with np.load(file) as case: values,organs,spacing = case['imgs'],case['gts'],case['spacing']
        stem = np.flatnonzero((organs==BRAINSTEM).any((1,2)))
        if not len(stem): continue
        end = stem[0]-int(np.ceil(BELOW/spacing[2]))
        if end*spacing[2]<LOWEST: continue
        hu = values[:end].transpose(2,1,0)*((hi-lo)/255)+lo
        tissues = REST+np.digitize(hu, HOUNSFIELD)
        tissues[organs[:end].transpose(2,1,0)==CORD] = CORD
        found.append((file.stem, hu, tissues, np.diag([-spacing[0], -spacing[1], spacing[2], 1.])))
        if len(found)==NECKS: break
    def cases(kind, some):
        for case,hu,tissues,affine in some:
            yield case,(hu if kind=='CT' else tissues>0).astype(np.int16),tissues,affine
    write(raw/'Dataset016_necks', 'MRI', labels, cases('MRI', found[::2]))
    write(raw/'Dataset018_ctnecks', 'CT', labels, cases('CT', found[1::2]))


if __name__=='__main__':
    kind,source,raw = sys.argv[1:]
    dict(heads=heads, bodies=bodies, necks=necks)[kind](Path(source), Path(raw))
