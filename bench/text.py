"""The text encoder: sentences per second and memory beside plain `transformers`, and what it has understood before and after each stage.

    python bench/text.py                  # speed and memory, each in a process of its own
    python bench/text.py --stages         # a small pre-training: before, after texts, after texts and images (a store of phantoms)
    python bench/text.py --stages STORE   # the same with a store of yours
    python bench/text.py --score FOLDER   # scores of an encoder: new wordings, new words, the lists in tests/vocab, sides
"""
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
LISTS = [ROOT/'tests'/'vocab'/f'{o}.tsv' for o in ('totalsegmentator','freesurfer','unseen')]


# ---- speed and memory
def sentences(n):
    "Different sentences of the table"
    from medals.prompts.anatomy import concepts, structures, wordings
    return [t for c in concepts()[::7] for t in wordings(*c, structures()[c[0]].mod[0], 8)][:n]


def config(large):
    "The published language model, or that of the encoder that ships"
    from medals.core import asset
    from transformers import AutoConfig, MPNetConfig
    return MPNetConfig(vocab_size=30527) if large else AutoConfig.from_pretrained(str(asset('small')))


def ours(large, cache):
    "medals: (sentences) -> queries; random numbers in the large one, which are as fast as any"
    from medals.text import KnowledgeEncoder, TextEncoder
    enc = TextEncoder.load('small', cache=cache)
    if large:
        net = KnowledgeEncoder(config(large)).eval()
        enc = TextEncoder(enc.tokenizer, lambda: net, 'bench', cache=cache)
    return lambda texts: enc(texts, 'ct')


def theirs(large, cache):
    "transformers as its model cards show it: tokenize, pad, run, average over the mask"
    from medals.base.files import asset
    from transformers import AutoTokenizer, MPNetModel
    tok,net = AutoTokenizer.from_pretrained(str(asset('small'))),MPNetModel(config(large)).eval()
    @torch.no_grad()
    def run(texts):
        found = []
        for i in range(0, len(texts), 64):
            d = tok(texts[i:i+64], padding=True, truncation=True, max_length=256, return_tensors='pt')
            h = net(input_ids=d['input_ids'], attention_mask=d['attention_mask']).last_hidden_state
            m = d['attention_mask'][...,None].float()
            found.append((h*m).sum(1)/m.sum(1))
        return torch.cat(found)
    return run


def one(kind, size, n):
    "Time of a variant, in this process"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = sentences(n)
    with tempfile.TemporaryDirectory() as tmp:
        run = dict(transformers=theirs, medals=ours, again=ours)[kind](size=='large', tmp if kind=='again' else False)
        run(texts[:4] if kind!='again' else texts)
        t = time.process_time() # of one thread, whatever else the machine does
        run(texts)
        seconds = time.process_time()-t
    print(json.dumps(dict(per_s=len(texts)/seconds, mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)))


def speed():
    print(f"{'encoder':<8}{'by':<16}{'sentences/s':>12}{'peak MB':>10}")
    for size,n in (('large', 128), ('small', 2000)):
        for kind in ('transformers','medals','again'):
            out = subprocess.run([sys.executable, __file__, 'one', kind, size, str(n)], capture_output=True, text=True, check=True).stdout
            d = json.loads(out.splitlines()[-1])
            name = 'medals, known' if kind=='again' else kind
            print(f"{size:<8}{name:<16}{d['per_s']:>12.0f}{d['mb']:>10.0f}", flush=True)


# ---- before and after each stage
def phantoms(folder):
    "A store of six phantom heads"
    from medals.data.indexing import index
    from medals.prepare import prepare, recipe_for
    from medals.volume import phantom, write_labels, write_volume
    for i in range(6):
        vol,lbl,names = phantom(seed=i)
        write_volume(folder/'images'/f'head{i}.nii.gz', vol)
        write_labels(folder/'labels'/f'head{i}.nii.gz', lbl, vol, names)
    rows = [f'"{v}" = {k}' for k,v in names.items()]
    (folder/'p.toml').write_text('\n'.join(['name = "heads"', 'modality = "mri"', '[classes]', *rows]))
    index(folder, folder/'l.jsonl', folder/'p.toml', workers=1)
    prepare(folder/'l.jsonl', folder/'store', recipe_for('nano', spacing=(6.,6.,6.), patch=(64,32,32)), workers=1)
    return folder/'store'


def stages(store=None):
    from medals.pretraining.knowledge import table_rows, write_knowledge
    from medals.pretraining.lessons import PretrainCfg
    from medals.pretraining.pretrain import build_pretraining, pretrain
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        rows = [c for c in table_rows() if c.region in ('brain','head')]
        write_knowledge(tmp/'k.jsonl', rows)
        store = store or phantoms(tmp)
        same = dict(steps=300, batch=48, width=64, vocab=2000, lr=4e-3, ema=.95, holdout=.2, val_every=150, val_cases=0, device='cpu')
        cfg = PretrainCfg(out=str(tmp/'a'), store=str(store), **same)
        run,_,judge,_ = build_pretraining(rows, cfg)
        judge(run.net.eval())
        table = [('before', judge.rows)]
        table.append(('texts', pretrain([tmp/'k.jsonl'], PretrainCfg(out=str(tmp/'b'), **same))['rows']))
        both = PretrainCfg(out=str(tmp/'c'), base=str(tmp/'b'), store=str(store), **{**same, 'steps': 120, 'val_every': 120, 'lr': 2e-3})
        table.append(('texts and images', pretrain([tmp/'k.jsonl'], both)['rows']))
    print(f"{'after':<20}{'of':<10}{'tests':>6}{'among':>7}{'first':>8}{'of 5':>8}{'of 10':>8}")
    for name,found in table:
        for o in found:
            print(f"{name:<20}{o['kind']:<10}{o['tests']:>6}{o['among']:>7}{o['recall_1']:>8.3f}{o['recall_5']:>8.3f}{o['recall_10']:>8.3f}")


def score(folder):
    from medals.pretraining.recall import score_text
    from medals.text import TextEncoder
    for k,v in score_text(TextEncoder.load(folder, cache=False), LISTS, pairs=10_000).items(): print(f'{k:<18}{v:>8.3f}')


if __name__=='__main__':
    if sys.argv[1:2]==['one']: one(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2]==['--stages']: stages(*sys.argv[2:])
    elif sys.argv[1:2]==['--score']: score(sys.argv[2])
    else: speed()
