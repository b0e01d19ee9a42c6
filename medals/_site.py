"""What nbdev does to a page before Quarto draws it, beside its own steps: links between pages, words for figures, tables of parameters.

Written by hand and used by `nbdev_docs` alone, which finds it by `procs` and `renderer` in settings.ini. `site_links` takes the place of
nbdev's `add_links`, which writes links into the code of signatures, where nobody can follow them, makes links of plain words such as
`index`, and names the published site, so that a preview leads away from itself. `Reference` shows the parameters of a function as a
table; nbdev shows them as a long signature with comments.
"""
import inspect
import json
import re
from functools import cache
from pathlib import Path
from posixpath import relpath

from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor

NAME = re.compile(r'(?<!\[)`([^`\s]+?)(\(\))?`(?!\])')
PLAIN = re.compile(r'[a-z]+')  # `index` is a word as often as a function; what is code has an underscore, a dot or a capital
LONGEST_ALT = 160
WIDEST = 80        # Signs in a line of code
CHANGES = '<!-- CHANGELOG.md -->' # Stands where the list of changes is shown
ROOM = 'reference' # The folder of the pages for users
EMPTY = inspect.Parameter.empty
STARS = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}


def code_of(value):
    "A default or a type, as it is typed"
    if isinstance(value, str) and '<' not in value: return repr(value)
    name = getattr(value, '__name__', None)
    return name or repr(value)


def type_of(annotation, default):
    "What a parameter may be, in a word: as it is said, or by its default"
    if annotation is EMPTY: return '' if default is EMPTY or default is None else type(default).__name__
    return annotation if isinstance(annotation, str) else code_of(annotation)


def in_table(text):
    "Words that may stand in a cell of a table"
    return ' '.join(str(text or '').split()).replace('|', '\\|')


def parameters(fn):
    "Parameters of a function or class, without the one for the object itself; none, if Python cannot tell, as of exceptions"
    try: found = inspect.signature(fn).parameters.values()
    except ValueError: return []
    return [o for o in found if o.name not in ('self','cls')]


def signature_text(name, fn):
    "How something is called, in lines that fit the column"
    typed = []
    for o in parameters(fn):
        default = '' if o.default is EMPTY else '='+('...' if '<' in repr(o.default) else code_of(o.default))
        typed.append(f'{STARS.get(o.kind, "")}{o.name}{default}')
    line = f'{name}({", ".join(typed)})'
    if len(line)<=WIDEST: return line
    return '\n'.join([f'{name}(', *(f'    {o},' for o in typed), ')'])


def parameter_table(fn):
    "A row for each parameter: its type, its value if nothing is said, and what it means; empty if nothing is said of any"
    said = docments(fn, full=True, args_kwargs=True)
    rows = []
    for o in parameters(fn):
        default = '' if o.default is EMPTY or '<' in repr(o.default) else f'`{code_of(o.default)}`'
        meaning = in_table((said.get(o.name) or {}).get('docment'))
        kind = type_of(o.annotation, o.default)
        rows.append((f'`{STARS.get(o.kind, "")}{o.name}`', kind and f'`{in_table(kind)}`', in_table(default), meaning))
    back = said.get('return') or {}
    annotation = back.get('anno', EMPTY)
    given = '' if annotation in (EMPTY, None) else f'`{in_table(type_of(annotation, EMPTY))}`'
    if not inspect.isclass(fn) and (given or back.get('docment')): rows.append(('*gives*', given, '', in_table(back.get('docment'))))
    if not any(row[3] for row in rows): return ''
    lines = ['| | type | default | |', '|---|---|---|---|']
    return '\n'.join(lines+[f'| {" | ".join(row)} |' for row in rows])


class Reference:
    "What a page shows of a function, class, method or property: how it is called, what it is for, and a table of its parameters"
    def __init__(self, sym, name=None, title_level=3):
        self.is_property = isinstance(sym, property)
        self.said = inspect.getdoc(sym)
        self.fn = sym.fget if self.is_property else sym
        self.name = name or self.fn.__qualname__
        self.level = title_level

    def _source(self):
        "A link to the code"
        url = NbdevLookup().code(getattr(self.fn, '__qualname__', self.name))
        return [f'<a href="{url}" style="float:right; font-size:smaller">source</a>'] if url else []

    def _repr_markdown_(self):
        heading = self.name.replace('__', r'\_\_') # two underscores would make it bold
        parts = ['---', *self._source(), f'{"#"*self.level} {heading}']
        can_be_called = callable(self.fn) and not self.is_property
        if can_be_called: parts.append(f'```python\n{signature_text(self.name, self.fn)}\n```')
        if self.said and self.said!=inspect.getdoc(object.__init__): parts.append(self.said)
        if can_be_called: parts.append(parameter_table(self.fn))
        return '\n\n'.join(o for o in parts if o)


def public_methods(cls):
    "Names of what a class itself offers, in the order in which it was written or patched in; fields of dataclasses are parameters"
    fields = getattr(cls, '__dataclass_fields__', {})
    fit = (property, classmethod, staticmethod)
    names = ['__call__'] if '__call__' in vars(cls) else []
    for name,value in vars(cls).items():
        if name.startswith('_') or name in fields: continue
        if inspect.isfunction(value) or isinstance(value, fit) or type(value).__name__=='_clsmethod': names.append(name)
    return names


class Methods:
    "Every public method and property of a class, one after the other"
    def __init__(self, cls, but=()): self.cls,self.names = cls,[o for o in public_methods(cls) if o not in but]

    def _repr_markdown_(self):
        shown = []
        for name in self.names:
            member = inspect.getattr_static(self.cls, name)
            sym = member if isinstance(member, property) else getattr(self.cls, name)
            shown.append(Reference(sym, f'{self.cls.__name__}.{name}')._repr_markdown_())
        return '\n\n'.join(shown)


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


def changes(folder):
    "The list of changes without its heading"
    text = (Path(folder)/'CHANGELOG.md').read_text(encoding='utf-8')
    return text.partition('\n')[2].strip()


@cache
def for_users(nbs_path):
    "Where the room for users speaks of a name: the heading of each `show_doc`, and of each class whose methods are shown"
    places = {}
    for page in sorted((Path(nbs_path)/ROOM).glob('*.ipynb')):
        cells = json.loads(page.read_text(encoding='utf-8'))['cells']
        code = '\n'.join(''.join(o['source']) for o in cells if o['cell_type']=='code')
        html = f'{ROOM}/{re.sub("^[0-9]+_", "", page.stem)}.html'
        for name in re.findall(r'(?m)^show_doc\((\w+)', code): places[name] = f'{html}#{name.lower()}'
    return places


class site_links(Processor):
    "Names of code become links that stay on the site, outside of code; a figure without a text for those who do not see it gets one"
    def begin(self):
        "Where a page lies, and the address of the site"
        cfg = get_config()
        page = Path(self.nb.path_).resolve().relative_to(cfg.nbs_path)
        self.home = f"{cfg.doc_host}{cfg.get('doc_baseurl', '') or ''}/".replace('//', '/').replace(':/', '://')
        self.folder = page.parent.as_posix()
        self.lookup = NbdevLookup()
        self.users = for_users(cfg.nbs_path)
        self.alt = getattr(self.nb, 'frontmatter_', {}).get('title', page.stem)

    def _link(self, m):
        name, call = m[1], m[2] or ''
        plain = name.startswith('_') or (PLAIN.fullmatch(name) and not call)
        owner = name.split('.')[0] if re.match(r'[A-Z]\w*\.', name) else name  # a method lies where its class does
        goal = None if plain else self.users.get(owner) or self.lookup.doc(owner)
        if not goal: return m[0]
        if not goal.startswith('http') or goal.startswith(self.home): goal = relpath(goal.removeprefix(self.home), self.folder)
        return f'[`{name}{call}`]({goal})'

    def _linked(self, text): return outside_code(text, lambda line: NAME.sub(self._link, line))

    def cell(self, cell):
        "A cell with its links and figures put right"
        if cell.cell_type=='markdown':
            if cell.source.strip()==CHANGES: cell.source = changes(get_config().config_path)
            cell.source = self._linked(cell.source)
            self.alt = said_before(cell.source) or self.alt
        drawn = False
        for o in cell.get('outputs', []):
            data = getattr(o, 'data', {})
            if 'text/markdown' in data: data['text/markdown'] = self._linked(''.join(data['text/markdown'])).splitlines(True)
            drawn = drawn or any(k.startswith('image/') for k in data)
        if drawn and 'fig-alt' not in cell.source: cell.source = f'#| fig-alt: {json.dumps(self.alt)}\n{cell.source}'
