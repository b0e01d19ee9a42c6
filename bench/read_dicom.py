"""A CT of 512x512x400 from DICOM, as 400 files and as one file of 400 frames: time and memory of medals, SimpleITK and highdicom.

    python bench/read_dicom.py                    # made-up slices in a temporary folder
    python bench/read_dicom.py --slices 100 --runs 5

Each reading is a process of its own, the readers take turns, and the fastest run of each counts. Memory is what a process takes at most
beyond what it had before it reads, as a share of the array. Files have been read before, so they are in the memory of the
system. Linux only.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def head(k, shape):
    "Slice `k` without its pixels, with as many tags as a scanner writes"
    import pydicom
    from pydicom import uid
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f'1.2.826.0.1.{k+1}'
    ds.StudyInstanceUID,ds.SeriesInstanceUID,ds.FrameOfReferenceUID = '1.2.826.0.2','1.2.826.0.1','1.2.826.0.3'
    ds.Modality,ds.SeriesDescription,ds.InstanceNumber,ds.SeriesNumber,ds.PatientID = 'CT','made up',k+1,2,'7'
    for name in ('PatientName','PatientBirthDate','PatientSex','StudyDate','StudyTime','AccessionNumber','StudyID'): setattr(ds, name, '')
    ds.PixelSpacing,ds.SliceThickness = ['0.7','0.7'],'1'
    ds.ImagePositionPatient,ds.ImageOrientationPatient = ['-179','-179',str(k-200)],[1,0,0,0,1,0]
    ds.Rows,ds.Columns,ds.SamplesPerPixel,ds.PhotometricInterpretation = *shape,1,'MONOCHROME2'
    ds.BitsAllocated,ds.BitsStored,ds.HighBit,ds.PixelRepresentation = 16,12,11,0
    ds.RescaleSlope,ds.RescaleIntercept = '1','-1024'
    own = ds.private_block(0x1201, 'BENCH', create=True)
    for i in range(60): own.add_new(i, 'LO', f'a remark of the maker, number {i}')
    return ds


def item(**tags):
    "A sequence of one item"
    import pydicom
    ds = pydicom.Dataset()
    for name,value in tags.items(): setattr(ds, name, value)
    return [ds]


def write(folder, n, shape=(512,512)):
    "The scan in both forms"
    from pydicom import uid
    values = np.random.default_rng(0).integers(0, 2000, shape).astype('<u2')
    planes = [np.roll(values, 7*k, 0).tobytes() for k in range(n)]
    (folder/'series').mkdir()
    for k,plane in enumerate(planes):
        ds = head(k, shape)
        ds.PixelData = plane
        ds.save_as(folder/'series'/f'{k*7919%9973:05}.dcm', enforce_file_format=True)
    ds = head(0, shape)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
    ds.NumberOfFrames = n
    ds.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[1,0,0,0,1,0]),
        PixelMeasuresSequence=item(PixelSpacing=['0.7','0.7'], SliceThickness='1'),
        PixelValueTransformationSequence=item(RescaleSlope='1', RescaleIntercept='-1024', RescaleType='HU'))
    ds.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=item(ImagePositionPatient=['-179','-179',str(k-200)]))[0] for k in range(n)]
    ds.PixelData = b''.join(planes)
    (folder/'frames').mkdir()
    ds.save_as(folder/'frames'/'one.dcm', enforce_file_format=True)


def by_medals(folder, form):
    from medals.volume import read_volume
    return lambda: read_volume(folder/form).data

def by_simpleitk(folder, form):
    import SimpleITK as sitk
    def series():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder/form)))
        return reader.Execute()
    return series if form=='series' else lambda: sitk.ReadImage(str(folder/form/'one.dcm'))

def by_highdicom(folder, form):
    import highdicom as hd
    import pydicom
    if form=='frames': return lambda: hd.imread(folder/form/'one.dcm').get_volume(dtype=np.float32).array
    return lambda: hd.get_volume_from_series([pydicom.dcmread(f) for f in (folder/form).iterdir()], dtype=np.float32).array

READERS = dict(medals=by_medals, SimpleITK=by_simpleitk, highdicom=by_highdicom)


def peak():
    "The most memory of this process, bytes; the system's own count begins with that of the process that started it"
    for line in open('/proc/self/status'):
        if line.startswith('VmHWM'): return 1024*int(line.split()[1])

def busy(): return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

def once(folder, form, reader):
    "Read in this process; seconds and bytes on one line"
    read = READERS[reader](folder, form)
    before,worked,start = peak(),busy(),time.perf_counter()
    got = read()
    seconds,worked = time.perf_counter()-start,busy()-worked
    size = got.nbytes if hasattr(got, 'nbytes') else 2*got.GetNumberOfPixels()
    print(json.dumps(dict(seconds=seconds, cpu=worked, share=(peak()-before)/size)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slices', type=int, default=400)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--readers', nargs='+', default=list(READERS), choices=list(READERS))
    parser.add_argument('--read', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read: return once(Path(args.read[0]), *args.read[1:])
    with tempfile.TemporaryDirectory() as tmp:
        write(Path(tmp), args.slices)
        found = {}
        for _ in range(args.runs):
            for form in ('series','frames'):
                for reader in args.readers:
                    cmd = [sys.executable, __file__, '--read', tmp, form, reader]
                    said = subprocess.run(cmd, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
                    found.setdefault((form, reader), []).append(json.loads(said))
        print('| files | reader | seconds | of processors | memory / array |\n|---|---|---|---|---|')
        for (form,reader),runs in found.items():
            seconds,cpu = (min(o[key] for o in runs) for key in ('seconds','cpu'))
            share = max(o['share'] for o in runs)
            print(f'| {form} | {reader} | {seconds:.2f} | {cpu:.2f} | {share:.2f} |')


if __name__=='__main__': main()
