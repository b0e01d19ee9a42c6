#!/usr/bin/env python
"""Types every shell block of the README, the tutorials and the how-to pages into a fresh environment, a page after the other.

Slow, and no part of sh/test.sh. `python sh/test_blocks.py [PAGE ...]`; needs: pip install build. With MEDALS_OFFLINE=1 packages come from
the Python that runs this, and what needs a network is left out. Nothing is on PyPI or GitHub yet for a checkout that is tested, so its
own wheel stands in for `git+https`, and it is what `git clone` copies. What is left out or shortened is said, with the reason.
"""
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

root = Path(__file__).resolve().parents[1]
offline = os.environ.get('MEDALS_OFFLINE')=='1'
SKIPPED = [ # lines that begin so, and why
    (r'jupyter lab$|(?:MEDALS_KEY=\S+ )?medals serve|MEDALS_KEY=', 'a server does not end', True),
    (r'docker', 'needs Docker', True),
    (r'curl|tar xf|echo .*md5sum', 'needs a network', offline),
    (r'medals (?:download|segment .*--weights medals-s\b)', 'needs the published files', os.environ.get('MEDALS_PUBLISHED')!='1'),
    (r'medals segment series', 'the page itself runs this line, on a series that it makes', True),
]
SHORTER = [(r'--minutes \d+', '--minutes .2'), (r'pip uninstall', 'pip uninstall -y')]
INPUTS = '''
import shutil, sys
from pathlib import Path
import numpy as np
from medals.example import masks_of, template, unseen_view
from medals.volume import Volume, write_labels, write_volume
head = template()
scan,lbl = unseen_view(*head, spacing=3.)
write_volume('head.nii.gz', scan)
write_volume('ct.nii.gz', Volume((scan.data*2.-1000).astype(np.int16), scan.affine))
for i in range(2):
    write_volume(f'heads/images/head{i}.nii.gz', scan)
    write_labels(f'heads/labels/head{i}.nii.gz', (lbl.data>0).astype(np.uint8), scan)
Path('heads.toml').write_text('name = "heads"\\nmodality = "mri"\\n[classes]\\n"whole brain" = 1\\n')
shutil.copy(Path(sys.argv[1])/'nbs/tutorials/uberon_extract.obo', 'uberon.obo')
for i in range(36 if sys.argv[2]=='offline' else 0): # a stand-in of the Decathlon's set
    part = scan.data[20:52,20+i//4:68+i//4,20:52]
    small = Volume(np.ascontiguousarray(part), np.diag([1., 1., 1., 1.]))
    halves = np.zeros(part.shape, np.uint8)
    halves[10:20,10:20,10:20],halves[10:20,20:30,10:20] = 1,2
    write_volume(f'Task04_Hippocampus/imagesTr/hippocampus_{i:03}.nii.gz', small)
    write_labels(f'Task04_Hippocampus/labelsTr/hippocampus_{i:03}.nii.gz', halves, small, beside=False)
'''


def pages():
    "README, tutorials and how-to pages"
    return [root/'README.md', *sorted((root/'nbs'/'tutorials').glob('*.ipynb')), *sorted((root/'nbs'/'how').glob('*.ipynb'))]


def markdown(page):
    "What a page says"
    text = page.read_text(encoding='utf-8')
    if page.suffix=='.md': return text
    return '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type']=='markdown')


def commands(block):
    "The commands of a block: a line each, but for what is continued and for loops"
    lines = re.sub(r'\\\n\s*', '', block).splitlines()
    whole = []
    for line in lines:
        inside = whole and whole[-1].lstrip().startswith('for ') and 'done' not in whole[-1].splitlines()
        if inside: whole[-1] += '\n'+line
        elif line.strip() and not line.startswith('#'): whole.append(line)
    return whole


def typed(line, wheel):
    "A command as it is run here"
    for old,new in SHORTER: line = re.sub(old, new, line)
    line = line.replace('git+https://github.com/medals/medals', f'file://{wheel}')
    line = line.replace('git clone https://github.com/medals/medals', f'git clone -q {root} medals')
    if offline and line.startswith('pip install'): line += ' --no-index --no-deps --no-build-isolation'
    if offline and line.startswith('pip wheel'): line += ' --no-index --no-deps'
    return line


def fresh(folder, wheel):
    "A new environment, and files that the blocks speak of; the path of its programs"
    subprocess.run([sys.executable, '-m', 'venv', folder/'env'], check=True)
    bin = folder/'env'/'bin'
    purelib = [bin/'python', '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))']
    where = subprocess.run(purelib, capture_output=True, text=True, check=True).stdout.strip()
    how = ['--no-index', '--no-deps', '--force-reinstall'] if offline else []
    if offline: (Path(where)/'base.pth').write_text(sysconfig.get_path('purelib')+'\n')
    subprocess.run([bin/'python', '-m', 'pip', 'install', '-q', *how, f'medals[demo] @ file://{wheel}'], check=True)
    (folder/'work').mkdir()
    subprocess.run([bin/'python', '-c', INPUTS, root, 'offline' if offline else 'online'], cwd=folder/'work', check=True)
    return bin


def files_of(page, folder):
    "Files that a page shows, such as `hippocampus.toml`: the block after the sentence that names it"
    for name,kind,text in re.findall(r'(?s)`(\w+\.(toml|json))`[^`]*?```(?:toml|json)\n(.*?)```', markdown(page)): (folder/name).write_text(text)


def run(page, wheel):
    "What came of each command of a page"
    blocks = re.findall(r'(?s)```sh\n(.*?)```', markdown(page))
    if not blocks: return True
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        bin = fresh(folder, wheel)
        files_of(page, folder/'work')
        env = {**os.environ, 'PATH': f'{bin}:{os.environ["PATH"]}', 'MEDALS_HOME': str(folder/'home'), 'VIRTUAL_ENV': str(bin.parent)}
        for name in ('PYTHONPATH','PYTHONHOME'): env.pop(name, None)
        place = folder/'work'
        for line in (o for block in blocks for o in commands(block)):
            why = next((reason for start,reason,holds in SKIPPED if holds and re.match(start, line)), '')
            start = time.perf_counter()
            code,said = 0,''
            if not why:
                asked = f'{typed(line, wheel)}\npwd > {folder}/pwd'
                done = subprocess.run(['bash', '-ec', asked], cwd=place, env=env, capture_output=True, text=True)
                code,said = done.returncode,done.stdout+done.stderr
                if not code: place = Path((folder/'pwd').read_text().strip())
            state = f'left out: {why}' if why else f'failed ({code})' if code else f'{time.perf_counter()-start:.0f} s'
            print(f'{page.relative_to(root)}: {line.splitlines()[0]}: {state}', flush=True)
            if code: print(said[-1500:])
            fine = fine and not code
    return fine


def main():
    asked = [root/o if not Path(o).is_absolute() else Path(o) for o in sys.argv[1:]] or pages()
    with tempfile.TemporaryDirectory() as out:
        how = ['--no-isolation'] if offline else []
        subprocess.run([sys.executable, '-m', 'build', '-w', *how, '-o', out, str(root)], check=True, stdout=subprocess.DEVNULL)
        wheel = next(Path(out).glob('*.whl'))
        fine = [run(page, wheel) for page in asked]
    sys.exit(0 if all(fine) else 1)


if __name__=='__main__': main()
