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

from medals import Box, Lasso, Mask, Point, Scribble, Segmenter, Studio, Volume
from medals._site import public_methods
from medals.inference.result import Segmentation
from medals.serving.remote import RemoteSegmenter

yaml = pytest.importorskip('yaml')
root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
cfg = yaml.safe_load((root/'_quarto.yml').read_text())
site = cfg['website']
pages = sorted(p for p in nbs.rglob('*.ipynb') if not {o for o in p.parts if o[:1] in '._'})
USED = dict(Segmenter=Segmenter, Segmentation=Segmentation, RemoteSegmenter=RemoteSegmenter, Studio=Studio, Volume=Volume, Point=Point,
            Box=Box, Scribble=Scribble, Lasso=Lasso, Mask=Mask) # What users call: each of its public methods stands in the room for users
# At its end Python would tidy up after a shell per page, which takes four times as long as the pages: so it leaves at once
PROCESS = """
import os, nbdev.doclinks, nbdev.serve
nbdev.doclinks._build_modidx()
nbdev.serve.proc_nbs('nbs', n_workers=0)
os._exit(0)
"""


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


def test_the_sidebar_has_what_users_read_first_and_the_source_of_the_modules_in_one_fold():
    "Quarto folds the sections of level `collapse-level` and deeper: those of the first level are open, and `Inside`, one below, is shut"
    beside = site['sidebar']
    sections = [o for o in beside['contents'] if isinstance(o, dict)]
    assert [o['section'] for o in sections]==['Tutorials','How to','Explanations','Reference'] and beside['collapse-level']==2
    within = [o for section in sections for o in section['contents'] if isinstance(o, dict)]
    inside = sections[-1]['contents'][-1]
    assert within==[inside] and (inside['section'],inside['href'])==('Inside','reading_order.ipynb')
    users = {o for section in sections for o in section['contents'] if isinstance(o, str)}
    sources = set(hrefs(inside['contents']))
    exporting = {p.relative_to(nbs).as_posix() for p in pages if any(text(c).startswith('#| default_exp') for c in cells(p))}
    assert exporting==sources and not users&sources
    order = list(hrefs(beside))
    assert max(map(order.index, users))<min(map(order.index, sources)) and order[0]=='index.ipynb'


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


@pytest.mark.parametrize('page', pages, ids=lambda p: p.relative_to(nbs).as_posix())
def test_what_is_shown_to_be_typed_fits_the_column_and_a_picture_has_words(page):
    said = '\n'.join(text(c) for c in cells(page) if c['cell_type']=='markdown')
    assert not [o for block in re.findall(r'(?s)```\w*\n(.*?)```', said) for o in block.splitlines() if len(o)>80]
    assert not re.findall(r'!\[\s*\]\(\S+|<img(?![^>]*alt="[^"]+)[^>]*', said)


def test_page_names_are_unique_without_their_numbers():
    "nbdev strips the numbers, and two pages of a folder that are called alike become one"
    names = [(p.parent, re.sub(r'^\d+[a-z]?_', '', p.name)) for p in pages]
    assert len(names)==len(set(names))


def test_pictures_are_small_and_used():
    said = '\n'.join(text(c) for p in pages for c in cells(p))
    for name in ('README.md','_quarto.yml'): said += (root/name).read_text(encoding='utf-8')
    pictures = list((nbs/'images').iterdir())
    most = {'.gif': 3_000_000} # a film
    assert not [p.name for p in pictures if p.stat().st_size>most.get(p.suffix, 150_000)]
    assert not [p.name for p in pictures if p.name not in said]


def test_a_lost_reader_a_tab_and_a_shared_link_have_something_to_show():
    lost = (nbs/'404.qmd').read_text()
    assert lost.startswith('---\ntitle:') and all((nbs/o).exists() for o in targets(lost)) and 'index.ipynb' in targets(lost)
    shown = {site['favicon'], site['open-graph']['image'], site['twitter-card']['image']}
    assert not [o for o in shown if not (nbs/o).is_file()] and site['open-graph']['image-alt']


def test_the_workflow_publishes_what_nbdev_makes():
    flow = yaml.safe_load((root/'.github'/'workflows'/'docs.yml').read_text())
    steps = flow['jobs']['build']['steps']
    uses,runs = [o.get('uses', '').split('@')[0] for o in steps],[o.get('run', '') for o in steps]
    upload = uses.index('actions/upload-pages-artifact')
    quarto = uses.index('quarto-dev/quarto-actions/setup')
    assert re.fullmatch(r'\d+[.]\d+[.]\d+', str(steps[quarto]['with']['version'])) and any('<title>medals' in o for o in runs)
    assert cfg['format']['html']['code-overflow']=='wrap'
    assert runs.index('touch README.md')<runs.index('nbdev_docs') # else nbdev may write another one, by the times of a checkout
    assert quarto<runs.index('nbdev_docs')<upload<uses.index('actions/deploy-pages')
    assert flow['permissions']['pages']=='write' and steps[upload]['with']['path']=='_docs'


def outputs(cell):
    "What a processed cell shows as markdown"
    return [''.join(o['data']['text/markdown']) for o in cell.get('outputs', []) if 'text/markdown' in o.get('data', {})]


def shown(p):
    "What `show_doc` shows on a page, by its code, without links"
    found = {}
    for c in cells(p):
        code = re.sub(r'(?m)^#\|.*\n', '', text(c)).strip()
        said = re.sub(r'<a href="[^"]*"[^>]*>source</a>', '', ''.join(outputs(c)))
        if code.startswith('show_doc('): found[code] = re.sub(r'\[(`[^`]*`)\]\([^)]*\)', r'\1', said)
    return found


def check_reference(done):
    "The pages for users show what the code says now, each public method of the classes they are about, and what each parameter means"
    rooms = {k: p for k,p in done.items() if k.startswith('reference/')}
    for k,p in rooms.items(): assert shown(p)==shown(nbs/k), f'run {k} again'
    said = '\n'.join(o for p in rooms.values() for c in cells(p) for o in outputs(c)).replace('\\_', '_')
    heads = set(re.findall(r'(?m)^### (\S+)$', said))
    for name,cls in USED.items():
        methods = {f'{name}.{o}' for o in public_methods(cls)}
        assert {name,*methods}<=heads, {name,*methods}-heads
    for name in heads:
        cls,_,method = name.partition('.')
        part = re.search(rf'(?ms)^### {re.escape(name)}$(.*?)(?=^---$|\Z)', said)[1]
        prose = re.sub(r'(?ms)```.*?```|^(?:\||<a)[^\n]*', '', part).strip()
        assert prose, f'{name} has no docstring'
        bare = [row for row in part.splitlines() if re.match(r'\| `.*\|\s*\|$', row)]
        assert not bare, (name, bare)


def check_processed(done):
    "No markdown in the code of signatures, links that stay here and arrive, a text for every figure"
    names,heads,links = {},{},[]
    for k,p in done.items():
        said = []
        for c in cells(p):
            said += [text(c)] if c['cell_type']=='markdown' else outputs(c)
            drawn = [o for o in c.get('outputs', []) if any(m.startswith('image/') for m in o.get('data', {}))]
            assert not drawn or re.match(r'#\| fig-alt: "[^"]{3,}', text(c)), (k, text(c)[:200])
        md = '\n\n'.join(said)
        assert not [o for o in re.findall(r'(?s)```.*?```', md) if '[`' in o and '](' in o], k
        front = re.search(r'(?m)^output-file: (\S+)$', text(cells(p)[0]))
        name = (Path(k).parent/front[1]).as_posix()
        heads[name] = {re.sub(r'[^\w\-. ]', '', o.lower()).replace(' ', '-') for o in re.findall(r'(?m)^#+ (.+)$', md)}
        names[name] = k
        links += [(k, o) for o in targets(md)]
    assert len(names)==len(done)
    away = [o for o in links if o[1].startswith('https://medals.github.io/medals/')]
    assert not away, away[:5]
    lost = []
    for k,o in links:
        path,_,at = o.partition('#')
        if re.match(r'[a-z]+:', o) or not path.endswith('.html'): continue
        goal = os.path.normpath(os.path.join(os.path.dirname(k), path))
        if not (goal in names and (not at or at in heads[goal])): lost.append((k, o))
    assert not lost, lost[:9]


def test_every_page_goes_through_nbdev(tmp_path):
    "What nbdev_docs does before Quarto takes over, in a copy: imports run, signatures are drawn, directives are taken out"
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', 'nbs', 'medals', 'settings.ini', '_quarto.yml', '*.md'],
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
        api = any(re.match(r'#\| export\b', text(c)) and re.search(r'(?m)^(?:def|class) [^_\W]', text(c)) for c in cells(nbs/k))
        assert ('source' in p.read_text()) and (not api or '>source</a>' in p.read_text()), k
    check_processed(done)
    check_reference(done)
