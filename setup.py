"Packaging: everything said here is read from settings.ini, the single source of metadata and dependencies."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}
home, site = cfg['git_url'], cfg['doc_host']+cfg['doc_baseurl']


def readme():
    "README.md with whole addresses: a package index has neither the pages nor the pictures beside it"
    path = root/'README.md'
    text = path.read_text(encoding='utf-8') if path.exists() else ''
    raw = home.replace('github.com', 'raw.githubusercontent.com')
    text = re.sub(r'\]\((nbs/images/)', rf']({raw}/{cfg["branch"]}/\1', text)
    return re.sub(r'\]\(((?:nbs|sh|tests)/)', rf']({home}/blob/{cfg["branch"]}/\1', text)


setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author=cfg['author'], license='Apache-2.0',
    url=home, keywords=cfg['keywords'], project_urls={'Documentation': site, 'Changes': f'{home}/blob/{cfg["branch"]}/CHANGELOG.md'},
    long_description=readme(), long_description_content_type='text/markdown', python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=['medals', 'medals.*']), package_data={'medals': ['assets/**/*']}, include_package_data=False,
    install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['medals=medals._modidx:d']},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12', 'Topic :: Scientific/Engineering :: Medical Science Apps.'],
)
