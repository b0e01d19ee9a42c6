"""What nbdev does to a page before Quarto draws it, beside its own steps: links between pages, and words for figures.

Written by hand and used by `nbdev_docs` alone, which finds it by `procs` in settings.ini. It takes the place of nbdev's `add_links`,
which writes links into the code of signatures, where nobody can follow them, makes links of plain words such as `index`, and names the
published site, so that a preview leads away from itself.
"""
import json
import re
from pathlib import Path
from posixpath import relpath

from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor

NAME = re.compile(r'(?<!\[)`([^`\s]+?)(\(\))?`(?!\])')
PLAIN = re.compile(r'[a-z]+')  # `index` is a word as often as a function; what is code has an underscore, a dot or a capital
LONGEST_ALT = 160


def outside_code(text, change):
    "Change the lines of markdown that are no code"
    fenced, lines = False, text.split('\n')
    for i, line in enumerate(lines):
        if line.lstrip().startswith('```'): fenced = not fenced
        elif not fenced and not line.startswith(('    ', '#')): lines[i] = change(line)
    return '\n'.join(lines)


def said_before(markdown):
    "The first sentence of the last paragraph, as plain words"
    parts = re.sub(r'(?s)```.*?```', '', markdown).split('\n\n')
    prose = [o for o in parts if o.strip() and o.lstrip()[0] not in '#|>!-']
    words = ' '.join(re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', prose[-1] if prose else '').split())
    sentence = re.split(r'(?<=[.:!?])\s', re.sub(r'[`*_$]', '', words))[0]
    return sentence[:LONGEST_ALT].rstrip(':')


class site_links(Processor):
    "Names of code become links that stay on the site, outside of code; a figure without a text for those who do not see it gets one"
    def begin(self):
        cfg = get_config()
        page = Path(self.nb.path_).resolve().relative_to(cfg.nbs_path)
        self.home = f"{cfg.doc_host}{cfg.get('doc_baseurl', '') or ''}/".replace('//', '/').replace(':/', '://')
        self.folder = page.parent.as_posix()
        self.lookup = NbdevLookup()
        self.alt = getattr(self.nb, 'frontmatter_', {}).get('title', page.stem)

    def _link(self, m):
        name, call = m[1], m[2] or ''
        plain = name.startswith('_') or (PLAIN.fullmatch(name) and not call)
        owner = name.split('.')[0] if re.match(r'[A-Z]\w*\.', name) else name  # a method lies where its class does
        goal = None if plain else self.lookup.doc(owner)
        if not goal: return m[0]
        if goal.startswith(self.home): goal = relpath(goal.removeprefix(self.home), self.folder)
        return f'[`{name}{call}`]({goal})'

    def _linked(self, text): return outside_code(text, lambda line: NAME.sub(self._link, line))

    def cell(self, cell):
        if cell.cell_type=='markdown':
            cell.source = self._linked(cell.source)
            self.alt = said_before(cell.source) or self.alt
        drawn = False
        for o in cell.get('outputs', []):
            data = getattr(o, 'data', {})
            if 'text/markdown' in data: data['text/markdown'] = self._linked(''.join(data['text/markdown'])).splitlines(True)
            drawn = drawn or any(k.startswith('image/') for k in data)
        if drawn and 'fig-alt' not in cell.source: cell.source = f'#| fig-alt: {json.dumps(self.alt)}\n{cell.source}'
