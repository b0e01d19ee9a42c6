"""Put weights that a training made into the package: half precision, scores of held-out cases, log and card.

    python sh/bundle.py NAME RUN [SCORES.csv [SURE.csv]]

RUN is a folder of `medals train`; the weights in `best` are taken, or those in `last` if no validation was made. SCORES is a table with the columns class,
dsc, spread and cases, where the scores do not come from the run (- if they do), SURE one with class and sure, from sh/sure.py. What stands in bundles.toml (licence, command, data, limits) goes into the card; a class
whose mean DSC is below `least` there is not offered, and nothing is offered in kinds of scans that are not among its `scans`.
"""
import csv
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medals.base.files import atomic, read_json, read_table
from medals.core import UserError
from medals.network.repertoire import read_classes, write_classes
from medals.text import SHIPPED, encoder_place, name_encoder
from medals.weights import load_model, read_cfg, save_model

ASSETS = Path(__file__).resolve().parent.parent/'medals'/'assets'


def scores_of(run):
    "`{class: (mean, spread, cases)}` of the last validation by words"
    with open(run/'val_cases.csv', newline='') as f: rows = list(csv.DictReader(f))
    last = max(int(row['step']) for row in rows)
    found = {}
    for row in rows:
        counts = int(row['step'])==last and row['prompts']=='none' and row['present']=='True'
        if counts: found.setdefault(row['class'], []).append(float(row['dsc']))
    return {name: (np.mean(dsc), np.std(dsc, ddof=1) if len(dsc)>1 else None, len(dsc)) for name,dsc in found.items()}


def scores_in(file):
    "The same from a table"
    with open(file, newline='') as f: rows = list(csv.DictReader(f))
    return {row['class']: (float(row['dsc']), float(row['spread']) if row['spread'] else None, int(row['cases'])) for row in rows}


def usual_in(file):
    "`{class: how sure the network was of nineteen in twenty that were there}` from a table"
    with open(file, newline='') as f: return {row['class']: float(row['sure']) for row in csv.DictReader(f)}


def shipped_encoder(folder):
    "The name of the encoder in a folder, if it comes with medals; it need not be packed twice then"
    mine = read_json(folder/'text.json')['sha256']
    return next((name for name in SHIPPED if read_json(encoder_place(name)/'text.json')['sha256']==mine), '')


def card(name, facts, classes, left_out, cfg):
    "What a person should know of the weights"
    lines = [f'# {name}', '', facts['about'][:1].upper()+facts['about'][1:]+'. They are not for patients.', '']
    spacing = 'x'.join(f'{o:g}' for o in cfg['frame']['spacing'])
    lines += [f"Made by `{facts['command']}`, {cfg['step']} steps; voxels of {spacing} mm, windows of {'x'.join(map(str, cfg['frame']['window']))}.", '']
    lines += [f"Learnt from: {facts['licence']}.", '', f"Limits: {facts['limits']}.", '', f"Measured on {facts['measured']}, by words alone:", '']
    lines += ['| structure | DSC | spread | cases |', '|---|---|---|---|']
    for c in classes:
        if c.dsc is not None: lines.append(f"| {c.name} | {c.dsc:.2f} | {'' if c.spread is None else f'{c.spread:.2f}'} | {c.cases} |")
    unmeasured = [c.name for c in classes if c.dsc is None]
    if unmeasured: lines += ['', f"Not measured: {', '.join(unmeasured)}."]
    if left_out: lines += ['', f"Trained, but not offered, as they are found too badly: {', '.join(left_out)}."]
    return '\n'.join(lines)+'\n'


def main(name, run, scores='-', sure=None):
    rows = read_table('bundles.toml')
    if name not in rows: raise UserError(f"bundles.toml has no row {name}; add about, licence, command, limits and measured first")
    facts,run = rows[name],Path(run)
    source = next(folder for folder in (run/'best', run/'last', run) if (folder/'cfg.json').exists())
    measured = scores_in(scores) if scores!='-' else scores_of(run)
    usual = usual_in(sure) if sure else {}
    usual.update(facts.get('surer', {})) # where a body without the structure came close
    offered,left_out = [],[]
    for c in read_classes(source):
        if c.name in facts.get('omit', ()): continue # was there so that it is not taken for something else
        scans = tuple(kind for kind in c.modalities if kind in facts.get('scans', c.modalities))
        dsc,spread,cases = measured.get(c.name, (None, None, 0))
        if dsc is not None and dsc<facts.get('least', 0): left_out.append(c.name)
        else:
            rounded = None if dsc is None else round(float(dsc), 3)
            spread = None if spread is None else round(float(spread), 3)
            offered.append(replace(c, modalities=scans, dsc=rounded, spread=spread, cases=cases, sure=usual.get(c.name, 0.),
                                   licence=facts.get('terms', '')))
    cfg = read_cfg(source)
    keep = {key: value for key,value in cfg.items() if key not in ('model','medals','sha256')}
    kinds = sorted({kind for c in offered for kind in c.modalities}) # not those in which nothing is offered
    keep['frame'] = {**cfg['frame'], 'modalities': kinds, 'modality': kinds[0] if len(kinds)==1 else None}
    for known in ('inside','edges','faint','beside'): # how it is used rather than learnt
        if known in facts: keep['frame'][known] = facts[known]
    with atomic(ASSETS/name) as tmp:
        save_model(load_model(source), tmp, torch.float16, **keep)
        write_classes(tmp, offered)
        same = shipped_encoder(source/'text')
        if same: name_encoder(tmp/'text', same)
        else: shutil.copytree(source/'text', tmp/'text')
        shutil.copy(run/'log.csv', tmp/'log.csv')
        (tmp/'README.md').write_text(card(name, facts, offered, left_out, cfg), encoding='utf-8')
    for c in offered: print(c.name, c.dsc, c.spread, c.cases)


if __name__=='__main__':
    try: main(*sys.argv[1:])
    except UserError as e: sys.exit(f'bundle.py: {e}')
