"""Reading a CT, and writing a mask: time and peak memory, ours beside SimpleITK and nibabel, on one core.

    python bench/read.py                 # 512x512x400, as .nii.gz, .nrrd, .mha, DICOM series and enhanced DICOM
    python bench/read.py --slices 100    # smaller

Each reading runs in a process of its own. Peak memory is what that process had at most, less what it had before it
opened the file, as a multiple of the array. The array is in memory and summed up before the clock stops.
"""
import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for v in ('OMP_NUM_THREADS','OPENBLAS_NUM_THREADS','MKL_NUM_THREADS','ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'): os.environ.setdefault(v, '1')

import numpy as np

PROGRAM = '''
import sys, time
import numpy as np
{imports}
def said(key): return int(open('/proc/self/status').read().split(key+':')[1].split()[0])*1024
open('/proc/self/clear_refs', 'w').write('5')
before = said('VmRSS')
start = time.perf_counter()
x = {call}
total = int(np.asarray(x).sum(dtype=np.int64))
took = time.perf_counter()-start
peak = said('VmHWM')
print(took, (peak-before)/np.asarray(x).nbytes, total)
'''
WARM = 'import medals.volume\nfrom medals.volume import read_volume\nimport SimpleITK, isal.igzip, isal.isal_zlib, pydicom, highdicom'
ITK = '''
import SimpleITK as sitk
def series(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    return reader.Execute()
'''
WAYS = {
    'medals': (WARM, 'read_volume(sys.argv[1]).data'),
    'SimpleITK': (ITK, "sitk.GetArrayViewFromImage(image := sitk.ReadImage(sys.argv[1]))"),
    'SimpleITK series': (ITK, 'sitk.GetArrayViewFromImage(image := series(sys.argv[1]))'),
    'nibabel': ('import nibabel as nib', 'np.asanyarray(nib.load(sys.argv[1]).dataobj)')}
ASKED = {'ct.nii.gz': ('medals','SimpleITK','nibabel'), 'ct.nrrd': ('medals','SimpleITK'), 'ct.mha': ('medals','SimpleITK'),
         'series': ('medals','SimpleITK series'), 'enhanced.dcm': ('medals','SimpleITK')}


def ct(slices):
    "A body of noise in air, as a CT is: half of it compresses well"
    rng = np.random.default_rng(0)
    x = np.full((512,512,slices), -1000, np.int16, order='F')
    for k in range(slices): x[60:450,100:430,k] = rng.normal(40, 15, (390,330))
    return x


def write(folder, x):
    import SimpleITK as sitk
    image = sitk.GetImageFromArray(x.T)
    image.SetSpacing((.8,.8,1.))
    for name in ('ct.nii.gz','ct.nrrd','ct.mha'): sitk.WriteImage(image, str(folder/name), useCompression=True)
    import warnings
    warnings.filterwarnings('ignore')
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian as syntax, CTImageStorage, generate_uid as new
    (folder/'series').mkdir()
    same = dict(SOPClassUID=CTImageStorage, StudyInstanceUID=new(), SeriesInstanceUID=new(), FrameOfReferenceUID=new(), Modality='CT',
                PatientID='1', PatientName='CT', Rows=512, Columns=512, SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2',
                BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1, PixelSpacing=[.8,.8], SliceThickness=1,
                ImageOrientationPatient=[1,0,0,0,1,0], RescaleSlope=1, RescaleIntercept=0, ImageType=['ORIGINAL','PRIMARY','AXIAL'],
                PatientBirthDate='', PatientSex='', StudyDate='', StudyTime='', AccessionNumber='', StudyID='', ReferringPhysicianName='',
                SeriesNumber=1, Manufacturer='m', PositionReferenceIndicator='', RescaleType='HU')
    slices = []
    for k in range(x.shape[2]):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = syntax
        for key,value in dict(same, SOPInstanceUID=new(), InstanceNumber=k+1, ImagePositionPatient=[0,0,k]).items(): setattr(ds, key, value)
        ds.file_meta.MediaStorageSOPClassUID,ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID,ds.SOPInstanceUID
        ds.PixelData = x[:,:,k].T.tobytes()
        ds.save_as(folder/'series'/f'{k:04}.dcm', enforce_file_format=True)
        slices.append(ds)
    try:
        from highdicom.legacy import LegacyConvertedEnhancedCTImage
        made = LegacyConvertedEnhancedCTImage(slices, series_instance_uid=new(), series_number=2, sop_instance_uid=new(), instance_number=1)
        made.save_as(folder/'enhanced.dcm')
    except Exception as e: print('no enhanced DICOM was made:', e)


def read(way, file):
    imports,call = WAYS[way]
    program = PROGRAM.format(imports=imports, call=call)
    res = subprocess.run([sys.executable, '-c', program, str(file)], capture_output=True, text=True)
    if res.returncode: return None
    took,peak,total = res.stdout.split()[-3:]
    return float(took),float(peak),int(total)


def writing(x):
    "A mask of an organ, as a NIfTI in memory, by each gzip"
    from medals.scans.compressed import open_gzip
    import io
    mask = (x[:,:,:200]>-500).astype(np.uint8)
    at = np.indices(mask.shape[:2])
    mask[((at[0]-256)/150)**2+((at[1]-256)/120)**2>1] = 0
    raw = mask.tobytes(order='F')
    def ours(f):
        with open_gzip(f, 'wb') as z: z.write(raw)
    def level(n):
        def run(f):
            with gzip.GzipFile(fileobj=f, mode='wb', compresslevel=n) as z: z.write(raw)
        return run
    for name,how in (('medals', ours), ('gzip, level 1 (nibabel)', level(1)), ('gzip, level 6', level(6)), ('gzip, level 9', level(9))):
        f = io.BytesIO()
        start = time.perf_counter()
        how(f)
        took = time.perf_counter()-start
        print(f'| write a mask, {mask.size//2**20} MB | {name} | {took:.2f} s | {f.tell()/1e3:.0f} kB | |')
    for name,opened in (('medals', lambda f: open_gzip(f)), ('gzip', lambda f: gzip.GzipFile(fileobj=f))):
        f.seek(0)
        start = time.perf_counter()
        with opened(f) as z: z.read()
        print(f'| read it | {name} | {time.perf_counter()-start:.2f} s | | |')


if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slices', type=int, default=400)
    parser.add_argument('--times', type=int, default=3, help='the best of so many counts')
    parser.add_argument('--only', default='', help='names of files, with commas between')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        x = ct(args.slices)
        total = int(x.sum(dtype=np.int64))
        write(Path(tmp), x)
        print('| file | reader | time | peak, of the array | of the fastest other |\n|---|---|---|---|---|')
        for name,ways in ASKED.items():
            if args.only and name not in args.only.split(','): continue
            if not (Path(tmp)/name).exists(): continue
            best = {}
            for _ in range(args.times): # in turn, so that a busy machine is unfair to nobody
                for way in ways:
                    got = read(way, Path(tmp)/name)
                    if got is None: continue
                    assert got[2]==total, (name, way)
                    best[way] = min(got, best.get(way, got))
            others = [best[w][0] for w in ways if w!='medals' and w in best]
            for way in ways:
                if way not in best: print(f'| {name} | {way} | cannot | | |')
                else:
                    took,peak,_ = best[way]
                    print(f'| {name} | {way} | {took:.2f} s | {peak:.2f} | {took/min(others, default=np.nan):.2f} |', flush=True)
        writing(x)
