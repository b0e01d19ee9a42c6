"""Twelve small scans: a command for each, one cohort command, and the same on two workers.

    python bench/cohort.py                     # the bundled network
    python bench/cohort.py --cases 24 --spacing 4
    python bench/cohort.py --phases 8          # all phases of every window, as the network is used

By default every window is looked at once rather than in eight phases, so that the work around the network shows. All three ways write the
same files; the masks are compared. Times are of the whole command, Python and weights included. Workers have one thread each, one process
has all.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medals.base.files import asset, read_json, write_json
from medals.example import template, unseen_view
from medals.volume import read_labels, write_volume

ASK = ('white matter', 'grey matter', 'cerebral ventricles')


def medals(*words):
    t = time.perf_counter()
    subprocess.run([sys.executable, '-m', 'medals.cli', 'segment', *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter()-t


def prepare(tmp, n, spacing, phases):
    "Scans, and a copy of the weights with so many phases"
    head,lbl = template()
    for i in range(n): write_volume(tmp/f'scans/head_{i:02d}.nii.gz', unseen_view(head, lbl, seed=i, spacing=spacing)[0])
    shutil.copytree(asset('nano'), tmp/'weights')
    cfg = read_json(tmp/'weights/cfg.json')
    cfg['frame']['phases'] = {1: 1, 8: 2}[phases] # along each axis
    write_json(tmp/'weights/cfg.json', cfg)
    return sorted((tmp/'scans').iterdir())


def same(a, b, names):
    "Are the label maps of two folders alike?"
    return all((read_labels(a/n/'labels.nii.gz')[0].data==read_labels(b/n/'labels.nii.gz')[0].data).all() for n in names)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--cases', type=int, default=12)
    p.add_argument('--spacing', type=float, default=3.)
    p.add_argument('--phases', type=int, default=1, choices=(1,8))
    p.add_argument('--device', default='cpu')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        scans = prepare(tmp, args.cases, args.spacing, args.phases)
        names = [f.name.removesuffix('.nii.gz') for f in scans]
        how = ('--weights', tmp/'weights', '--device', args.device)
        took = {'a command each': sum(medals(f, *ASK, '-o', tmp/'each'/n, *how) for f,n in zip(scans, names))}
        took['one command'] = medals(tmp/'scans', *ASK, '-o', tmp/'one', *how)
        took['one command, 2 workers'] = medals(tmp/'scans', *ASK, '-o', tmp/'two', '--workers', 2, *how)
        took['again, all done'] = medals(tmp/'scans', *ASK, '-o', tmp/'one', *how)
        alike = same(tmp/'each', tmp/'one', names) and same(tmp/'one', tmp/'two', names)
    first = took['a command each']
    size = round(220/args.spacing)
    print(f"{args.cases} scans of {size}^3 voxels, {len(ASK)} sentences, {os.cpu_count()} cores, masks {'alike' if alike else 'DIFFER'}")
    print(f"{'':24} {'seconds':>8} {'per scan':>9} {'times faster':>13}")
    for k,s in took.items(): print(f'{k:24} {s:8.1f} {s/args.cases:9.2f} {first/s:13.2f}')


if __name__=='__main__': main()
