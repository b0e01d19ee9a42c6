"The site without Quarto: its pages are processed, what the configuration names is there, nothing is dead"
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip('yaml')
root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
cfg = yaml.safe_load((root/'_quarto.yml').read_text())
site = cfg['website']
pages = sorted(p for p in nbs.rglob('*.ipynb') if not {o for o in p.parts if o[:1] in '._'})
PROCESS = "import nbdev.doclinks, nbdev.serve; nbdev.doclinks._build_modidx(); nbdev.serve.proc_nbs('nbs', n_workers=0)"


def cells(p): return json.loads(p.read_text(encoding='utf-8'))['cells']
def text(c): return ''.join(c['source'])


def hrefs(o):
    "Every page that a piece of the configuration names"
    if isinstance(o, dict): o = [v for k,v in o.items() if k in ('href','file','contents','menu','left','right','sidebar','navbar')]
    if isinstance(o, str): yield o
    elif isinstance(o, list):
        for v in o: yield from hrefs(v)


def targets(md):
    "Where the links and images of a piece of markdown lead; code is left out"
    md = re.sub(r'`[^`\n]*`', '', re.sub(r'(?s)```.*?```', '', md))
    yield from re.findall(r'\]\(([^)\s]+)\)', md)
    yield from re.findall(r'(?:src|href)="([^"]+)"', md)


def anchors(p):
    "The ids that Quarto gives to headings"
    md = '\n'.join(text(c) for c in cells(p) if c['cell_type']=='markdown')
    heads = re.findall(r'(?m)^#+ (.+)$', re.sub(r'(?s)```.*?```', '', md))
    return {re.sub(r'^[^a-z]+', '', re.sub(r'[^\w\-. ]', '', o.lower()).replace(' ', '-')) for o in heads}


def test_both_bars_name_pages_that_exist_and_every_page_stands_in_the_sidebar():
    named = [o for o in hrefs(site) if not re.match(r'[a-z]+:', o)]
    assert not [o for o in named if not (nbs/o).exists()]
    beside = [o for o in hrefs(site['sidebar']) if o.endswith('.ipynb')]
    assert len(beside)==len(set(beside))
    assert {p.relative_to(nbs).as_posix() for p in pages}==set(beside)


def test_the_site_has_search_dark_mode_and_ways_to_the_source():
    theme = cfg['format']['html']['theme']
    assert site['search'] is True and set(theme)=={'light','dark'} and cfg['format']['html']['keep-md'] is True
    assert {'source','issue'}<=set(site['repo-actions']) and site['repo-subdir']=='nbs'
    assert f"git_url = {site['repo-url']}\n" in (root/'settings.ini').read_text()
    assert yaml.safe_load((nbs/'_quarto.yml').read_text())['metadata-files']==['../_quarto.yml','nbdev.yml']


def test_the_reading_order_is_that_of_the_sidebar():
    made = runpy.run_path(str(root/'sh'/'reading_order.py'))['cells']()
    assert [text(c) for c in cells(nbs/'reading_order.ipynb')]==[text(c) for c in made], 'run sh/reading_order.py'


@pytest.mark.parametrize('page', pages, ids=lambda p: p.relative_to(nbs).as_posix())
def test_no_link_and_no_image_is_dead(page):
    dead = []
    for t in (t for c in cells(page) if c['cell_type']=='markdown' for t in targets(text(c))):
        if re.match(r'[a-z]+:', t): continue
        path,_,at = t.partition('#')
        goal = (page.parent/path).resolve() if path else page
        if not goal.exists() or (at and goal.suffix=='.ipynb' and at not in anchors(goal)): dead.append(t)
    assert not dead


def test_pictures_are_small_and_used():
    said = '\n'.join(text(c) for p in pages for c in cells(p))+(root/'README.md').read_text(encoding='utf-8')
    pictures = list((nbs/'images').iterdir())
    assert not [p.name for p in pictures if p.stat().st_size>150_000] and not [p.name for p in pictures if p.name not in said]


def test_the_workflow_publishes_what_nbdev_makes():
    flow = yaml.safe_load((root/'.github'/'workflows'/'docs.yml').read_text())
    steps = flow['jobs']['build']['steps']
    uses,runs = [o.get('uses', '').split('@')[0] for o in steps],[o.get('run', '') for o in steps]
    upload = uses.index('actions/upload-pages-artifact')
    assert uses.index('quarto-dev/quarto-actions/setup')<runs.index('nbdev_docs')<upload<uses.index('actions/deploy-pages')
    assert flow['permissions']['pages']=='write' and steps[upload]['with']['path']=='_docs'


def test_every_page_goes_through_nbdev(tmp_path):
    "What nbdev_docs does before Quarto takes over, in a copy: imports run, signatures are drawn, directives are taken out"
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', 'nbs', 'medals', 'settings.ini', '_quarto.yml', 'README.md'],
                           cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    for o in (o for o in names if (root/o).is_file()):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/o, tmp_path/o)
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    res = subprocess.run([sys.executable, '-c', PROCESS], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert res.returncode==0 and 'Traceback' not in res.stderr, res.stderr[-3000:]
    done = {p.relative_to(tmp_path/'_proc').as_posix(): p for p in (tmp_path/'_proc').rglob('*.ipynb')}
    assert set(done)=={p.relative_to(nbs).as_posix() for p in pages}
    for k,p in done.items():
        front = text(cells(p)[0])
        assert front.startswith('---') and 'title:' in front, k
        assert not [c for c in cells(p) if c['cell_type']=='code' and text(c).startswith('#| export')], k
        api = 'default_exp' in (nbs/k).read_text()
        assert ('source' in p.read_text()) and (not api or 'doclinks' in p.read_text() or '[source]' in p.read_text()), k
