"""The weighted mean of weights that went on from one another: it is often better than each of them, and forgets less of what the first could do.

    python sh/mean.py OUT FOLDER=SHARE FOLDER=SHARE ...

FOLDER is one of weights, such as RUN/last of `medals train` or medals/assets/brain; all have the same network. Classes, encoder and settings are those of the first.
"""
import shutil
import sys
from pathlib import Path

import torch

from medals.base.files import atomic
from medals.core import UserError
from medals.weights import load_model, read_cfg, save_model

BESIDE = 'classes.json','text' # What lies beside the weights and is copied


def shares(words):
    "`{folder: share}`, which come to 1 together"
    said = dict(word.rsplit('=', 1) for word in words if '=' in word)
    try: found = {Path(folder): float(share) for folder,share in said.items()}
    except ValueError as e: raise UserError(f"shares are numbers, as in run/last=.6; got {', '.join(words)}") from e
    whole = sum(found.values())
    if len(found)!=len(words) or not found or min(found.values())<=0:
        raise UserError(f"each of the weights has a share above 0, as in run/last=.6; got {', '.join(words) or 'none'}")
    return {folder: share/whole for folder,share in found.items()}


def mean_of(parts):
    "A network with the weighted mean of all numbers of others"
    nets = [load_model(folder) for folder in parts]
    first,*others = nets
    for folder,other in zip(list(parts)[1:], others):
        if other.cfg!=first.cfg: raise UserError(f"{folder} is another network than {next(iter(parts))}; a mean takes networks of one shape")
    states = [net.state_dict() for net in nets]
    mean = {}
    for name,value in states[0].items():
        numbers = sum(share*state[name].double() for share,state in zip(parts.values(), states))
        mean[name] = numbers.to(value.dtype)
    first.load_state_dict(mean)
    return first


def main(out, *words):
    parts = shares(words)
    source = next(iter(parts))
    cfg = read_cfg(source)
    keep = {key: value for key,value in cfg.items() if key not in ('model','medals','sha256')}
    with atomic(Path(out)) as tmp:
        save_model(mean_of(parts), tmp, torch.float32, **keep)
        for name in BESIDE:
            if (source/name).is_dir(): shutil.copytree(source/name, tmp/name)
            elif (source/name).exists(): shutil.copy(source/name, tmp/name)


if __name__=='__main__':
    if len(sys.argv)<3: sys.exit(__doc__)
    try: main(*sys.argv[1:])
    except UserError as e: sys.exit(f'mean.py: {e}')
