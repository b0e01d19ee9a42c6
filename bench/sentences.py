"""Sentences taken apart: how many are understood in the lists of public names, and how long one takes, beside the rule of letters.

    python bench/sentences.py            # the lists in tests/vocab
    python bench/sentences.py PROMPTS    # and a prompt file of the challenge
"""
import json
import re
import sys
import time
from pathlib import Path

from medals import vocab
from medals.base.files import read_table

KEYS = dict(
    microscopy=('icroscop','ltrastructur','EM','ight sheet'), pet=('PET','positron'), us=('US','ltrasound','chocardiograph','ltrasonic'),
    mri=('MR','agnetic resonance','iffusion','DWI','ADC','pelvic','FLAIR'), ct=('CT','omputed tomography','omographic','cross-sectional'))
NAMES = read_table('published_classes.toml')


def by_letters(text):
    "Modality by letters, class by the longest name whose words stand one after the other"
    mod,low = next((k for k,v in KEYS.items() if any(o in text for o in v)), None),text.lower()
    side = next((o for o in ('left','right') if re.search(rf'\b{o}\b', low)), None)
    names = sorted((o.lower() for v in NAMES.get(mod, {}).values() for o in v), key=lambda o: (-len(o), o))
    return next((o for o in names if re.search(rf"\b{re.escape(o.replace(side or '-', '').strip())}\b", low)), None)


def forget():
    "So that every sentence is new; caches of one entry hold tables and stay"
    for name,module in list(sys.modules.items()):
        if name!='medals.vocab' and not name.startswith('medals.prompts'): continue
        for f in vars(module).values():
            if hasattr(f, 'cache_clear') and f.cache_info().currsize>1: f.cache_clear()


def clock(f, texts):
    forget()
    t = time.perf_counter()
    for o in texts: f(o)
    return (time.perf_counter()-t)/len(texts)*1e3


def main():
    t = time.perf_counter()
    vocab.resolve('left kidny')
    print(f'first sentence, with the tables read: {time.perf_counter()-t:.2f} s\n')
    print(f"{'list':<16}{'rows':>6}{'right':>7}{'ms':>7}{'ms by letters':>15}")
    for f in sorted((Path(__file__).parents[1]/'tests'/'vocab').glob('*.tsv')):
        rows = [(o.split('\t')+['','',''])[:4] for o in f.read_text(encoding='utf-8').splitlines() if o and o[0]!='#']
        right = sum((r.structure or '', r.side or '')==tuple(o[1:3]) for o in rows for r in [vocab.resolve(o[0])])
        texts = [o[0] for o in rows]
        print(f'{f.stem:<16}{len(rows):>6}{right:>7}{clock(vocab.resolve, texts):>7.2f}{clock(by_letters, texts):>15.2f}')
    for f in sys.argv[1:]:
        texts = [s for d in json.loads(Path(f).read_text()).values() for k,v in d.items() if k!='instance_label' for s in v]
        print(f"{'prompt file':<16}{len(texts):>6}{'':>7}{clock(vocab.resolve, texts):>7.2f}{clock(by_letters, texts):>15.2f}")


if __name__=='__main__': main()
