"""medals-client: the modules of medals without torch, for machines from which a server is used.

    pip install "medals-client @ git+https://github.com/medals/medals#subdirectory=client"

What it needs is what medals needs, less what only a network needs, and httpx. All facts are read from settings.ini, one folder up."""
import os
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parents[1]
os.chdir(root)  # setuptools takes paths from here
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
NETWORK = ('torch','transformers','monai','safetensors','huggingface_hub')  # What only a network, its weights and their tokens need
names = [o for o in cfg['requirements'].split() if re.split(r'[<>=]', o)[0] not in NETWORK]

setup(
    name='medals-client', version=cfg['version'], description='Use a server of medals: scans, sentences, marks and the Studio, without torch',
    author=cfg['author'], license='Apache-2.0', url=cfg['git_url'], python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=['medals', 'medals.*']), package_data={'medals': ['assets/*.toml', 'assets/*.tsv', 'assets/studio/*']},
    include_package_data=False, install_requires=[*names, *cfg['client_requirements'].split()],
    extras_require={k: cfg[f'{k}_requirements'].split() for k in ('widgets','formats','dicom')},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
)
