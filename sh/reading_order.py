#!/usr/bin/env python
"Writes nbs/reading_order.ipynb: every page of the site with its subtitle, in the order of the sidebar in _quarto.yml"
import json
from pathlib import Path

import yaml

root = Path(__file__).resolve().parents[1]
page = root/'nbs'/'reading_order.ipynb'


def said(path):
    "Title and subtitle of a notebook"
    first = json.loads((root/'nbs'/path).read_text(encoding='utf-8'))['cells'][0]['source']
    lines = ''.join(first).splitlines()
    return lines[0].removeprefix('# '),next(o for o in lines if o.startswith('> ')).removeprefix('> ')


def row(path):
    "One line of the list"
    title,sub = said(path)
    return f'- [{title}]({path}): {sub}'


def listed(contents, level=2):
    "Lines for a part of the sidebar: its pages, and a heading for each section, one deeper for a section in a section"
    rows = []
    for o in contents:
        if isinstance(o, dict): rows += [f"\n{'#'*level} {o['section']}\n", *listed(o['contents'], level+1)]
        elif o!=page.name: rows.append(row(o))
    return rows


def markdown():
    "The list, section by section"
    return '\n'.join(listed(yaml.safe_load((root/'_quarto.yml').read_text())['website']['sidebar']['contents']))


def cells():
    "The page"
    head = '# All notebooks\n> Every page, in the order in which it is best read'
    why = ('A newcomer reads the tutorials and then what is needed. Who wants to understand the whole, or to change it, reads '
           'the chapters of *Inside* from the top: the code of each notebook uses only notebooks above it, and each is the source of the module '
           'of the same name. What a program calls stands in *Reference*.')
    return [dict(cell_type='markdown', id=f'order-{i}', metadata={}, source=o.splitlines(True)) for i,o in enumerate((head, why, markdown()))]


if __name__=='__main__':
    kernel = dict(display_name='python3', language='python', name='python3')
    made = dict(cells=cells(), metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    page.write_text(json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False)+'\n', encoding='utf-8')
