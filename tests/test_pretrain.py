"Pre-training of text encoders: the losses, what training never shows, runs that are killed, and what becomes of the result"
import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medals.pretraining.align import PRETRAIN_RULES, AtlasTower, TwoTowers, contrast, pool_regions, soft_contrast
from medals.network.warm_start import warm_start
from medals.training.checkpoint import newest, read_state
from medals.core import UserError, make_gen, torch_gen
from medals.base.files import asset, read_json, sha256
from medals.data.indexing import index
from medals.pretraining.knowledge import Concept, read_knowledge, table_rows, write_knowledge
from medals.pretraining.lessons import PretrainCfg, settled
from medals.model import PRESETS
from medals.prepare import prepare, recipe_for
from medals.pretraining.pretrain import build_pretraining, pretrain
from medals.training.train import TrainCfg, train
from medals.text import TextEncoder
from medals.pretraining.texts import Knowledge, SayCfg
from medals.volume import phantom, write_labels, write_volume

root = Path(__file__).resolve().parents[1]
ONE = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}


@pytest.fixture(autouse=True)
def one_thread():
    "As the processes below, so that sums are taken in the same order"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A small knowledge file, and a store of three phantom heads"
    tmp = tmp_path_factory.mktemp('data')
    write_knowledge(tmp/'k.jsonl', [c for c in table_rows() if c.region=='heart'])
    for i in range(3):
        vol,lbl,names = phantom(seed=i)
        write_volume(tmp/'images'/f'head{i}.nii.gz', vol)
        write_labels(tmp/'labels'/f'head{i}.nii.gz', lbl, vol, names)
    (tmp/'p.toml').write_text('\n'.join(['name = "heads"', 'modality = "mri"', '[classes]', *(f'"{v}" = {k}' for k,v in names.items())]))
    index(tmp, tmp/'l.jsonl', tmp/'p.toml', workers=1)
    prepare(tmp/'l.jsonl', tmp/'store', recipe_for('nano', spacing=(6.,6.,6.), patch=(64,32,32)), workers=1)
    return tmp


def small(out, **kw):
    "Settings of a run that takes seconds"
    plain = dict(out=str(out), steps=6, batch=8, width=32, layers=1, vocab=400, holdout=0., device='cpu')
    return PretrainCfg(**{**plain, 'log_every': 1, 'save_every': 1, 'val_every': 99, **kw})


# ---- the losses
def test_the_contrast_is_the_published_one_without_overflow():
    "Written out in float64; rows of one kind count neither way"
    gen = torch_gen('contrast')
    a,b = (torch.randn(6, 16, generator=gen, dtype=torch.float64) for _ in 'ab')
    kind = [0,1,2,0,3,1]
    s = 20*F.normalize(a, dim=1)@F.normalize(b, dim=1).T
    def side(s):
        rest = [[j for j in range(6) if j==i or kind[j]!=kind[i]] for i in range(6)]
        return np.mean([-np.log(np.exp(s[i,i])/sum(np.exp(s[i,j]) for j in rest[i])) for i in range(6)])
    number = torch.tensor(kind)
    loss,right = contrast(a, b, 20., number[:,None]==number)
    assert abs(float(loss)-(side(s.numpy())+side(s.T.numpy()))/2)<1e-5 and 0<=right<=1
    same = (number[:,None]==number).double()
    targets = same/same.norm(dim=0)
    want = -(targets*s.log_softmax(1)).sum(1).mean()/2-(targets*s.T.log_softmax(1)).sum(1).mean()/2
    assert abs(float(soft_contrast(a, b, 20., same>0)[0]-want))<1e-5
    assert all(f(a, a.flip(0), 1e5, same>0)[0].isfinite() for f in (contrast, soft_contrast))


def test_regions_are_averaged_at_every_scale():
    "Against loops over voxels, masks shrunk by maxima"
    gen = torch_gen('pool')
    maps = [torch.rand(2, c, n, n, n, generator=gen) for c,n in ((2,8), (3,4), (4,2))]
    m = torch.rand(2, 3, 8, 8, 8, generator=gen)>.97
    m[:,2] = False
    got = pool_regions(maps, m)
    masks = m.float()
    at = 0
    for i,f in enumerate(maps):
        if i: masks = masks.reshape(2, 3, *(o for n in masks.shape[2:] for o in (n//2, 2))).amax((3,5,7))
        for b in range(2):
            for n in range(3):
                where = masks[b,n]>0
                want = f[b][:,where].mean(1) if where.any() else torch.zeros(f.shape[1])
                assert torch.allclose(got[b,n,at:at+f.shape[1]], want, atol=1e-5)
        at += f.shape[1]


# ---- what training shows
def test_what_is_held_out_is_never_shown():
    "Neither the sentences, nor words that no name has, nor held-out names, in thousands of draws"
    rows = [c for c in table_rows() if c.region in ('abdomen','heart')]
    unseen = ['left kidney', 'leftkidney organ', 'spleen', 'livrr in CT', 'the hepatoid mass']
    known = Knowledge(rows, SayCfg(typos=.9, joined=.5), holdout=.2, unseen=unseen)
    held = {t.lower() for t,_ in known.held}
    assert len(held)>100 and {'leftkidney','livrr','hepatoid'}<=known.banned and not known.banned&{'left','kidney','spleen','mass'}
    firsts = {c.names[0].lower() for c in rows}
    assert not held&firsts
    said = [known.text(i%len(known), make_gen('say', i)) for i in range(6000)]
    for text,_,made in said:
        words = set(text.lower().replace('_', ' ').replace('-', ' ').split())
        assert not words&known.banned and made.lower() not in held, text
    made = {o.lower() for _,_,o in said}
    assert not made&{'spleen','left kidney'} and {'right kidney','stomach'}<=made and len(made)>600


def test_a_text_of_two_meanings_counts_against_neither(data):
    rows = [Concept(id='a', names=('ventricle','heart chamber'), source='s', licence='l', relations=(('part of','heart'),)),
            Concept(id='b', names=('Ventricle','brain cavity'), source='s', licence='l'),
            Concept(id='c', names=('atrium',), source='s', licence='l', relations=(('part of','heart'),))]
    known = Knowledge(rows)
    assert known.also=={'ventricle': frozenset({0,1}), 'part of heart': frozenset({0,2})}
    cfg = small(data/'none', batch=3, typos=0., wrapped=0., joined=0., relations=.5)
    from medals.pretraining.lessons import _texts
    from medals.pretraining.pieces import learn_pieces
    from medals.pretraining.texts import corpus
    tok = learn_pieces(corpus(known), 200)
    for step in range(20):
        t = _texts(known, tok, cfg, step, slice(0, 3), 'cpu')
        assert not t.clash[torch.arange(6), torch.arange(3).repeat(2)].any()
        pairs = set(zip(t.number.repeat(2)[t.also[0]].tolist(), t.also[1].tolist()))
        assert t.clash.sum()==len(t.also[0]) and pairs<={(0,1),(1,0),(0,2),(2,0)}


# ---- runs
def steps_done(out):
    f = Path(out)/'log.csv'
    return max((int(r['step']) for r in csv.DictReader(open(f))), default=0) if f.exists() else 0


def launch(cmd, files, cfg, until=None, **flags):
    "Start a run in a process; wait until it has logged a step, or has ended"
    plain,words = PretrainCfg(),[*map(str, files)]
    for k,v in {**vars(cfg), **flags}.items():
        if v==getattr(plain, k): continue
        name = k.replace('_', '-')
        if isinstance(v, bool): words.append(f"--{'' if v else 'no-'}{name}")
        else: words += [f'--{name}', ','.join(map(str, v)) if isinstance(v, tuple) else str(v)]
    p = subprocess.Popen([*cmd, *words], env=ONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic()+240
    while until is not None and steps_done(cfg.out)<until and p.poll() is None and time.monotonic()<end: time.sleep(.02)
    return p


def ended(p):
    said = p.communicate(timeout=240)[0]
    return p.returncode,said


MEDALS = [sys.executable, '-c', 'import sys; from medals.cli import main; sys.exit(main(["pretrain", *sys.argv[1:]]))']
TWO = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(root/'sh'/'pretrain.sh')]


def state(out): return read_state(newest(out))


def test_a_run_that_is_killed_ends_with_the_same_bits(data, tmp_path):
    cfg = small(tmp_path/'a', steps=8)
    pretrain([data/'k.jsonl'], cfg)
    cfg = replace(cfg, out=str(tmp_path/'b'))
    p = launch(MEDALS, [data/'k.jsonl'], cfg, until=2)
    p.kill()
    ended(p)
    assert 2<=state(cfg.out)['step']<8
    code,said = ended(launch(MEDALS, [data/'k.jsonl'], cfg, resume=True))
    assert code==0 and '8 steps' in said, said
    a,b = state(tmp_path/'a'),state(tmp_path/'b')
    for part in ('net','ema'): assert all(a[part][k].equal(v) for k,v in b[part].items())
    assert a['step']==b['step']==8
    assert sha256(tmp_path/'a'/'best'/'text.safetensors')==sha256(tmp_path/'b'/'best'/'text.safetensors')
    one = read_json(tmp_path/'a'/'best'/'pretrain.json')
    assert one['sources'][0]['licence']=='Apache-2.0' and 'Apache-2.0' in (tmp_path/'a'/'best'/'README.md').read_text()


def apart(a, b):
    "Largest difference of two runs' gradients (their running means), relative, over all weights"
    pairs = [(o['exp_avg'],b['opt']['state'][i]['exp_avg']) for i,o in a['opt']['state'].items() if o['exp_avg'].ndim>1]
    return max(float((x-y).norm()/x.norm()) for x,y in pairs)


def test_two_processes_killed_on_the_way_take_the_steps_of_one(data, tmp_path):
    "Texts and images, the same global batch; one process is killed, both end, and the run goes on"
    files = [data/'k.jsonl']
    cfg = small(tmp_path/'one', steps=2, store=str(data/'store'), images=2, batch=8, lr=1e-4, holdout=.3)
    whole,killed = replace(cfg, out=str(tmp_path/'two')),replace(cfg, out=str(tmp_path/'killed'))
    pretrain(files, cfg)
    code,said = ended(launch(TWO, files, whole))
    assert code==0, said
    p = launch(TWO, files, killed, until=1)
    p.send_signal(signal.SIGTERM)
    ended(p)
    at = state(killed.out)['step']
    code,said = ended(launch(TWO, files, killed, resume=True))
    assert code==0 and 1<=at<=2, said
    one,two,again = (state(o.out) for o in (cfg, whole, killed))
    assert two['step']==again['step']==2 and two['made']['world']==2
    assert all(two['net'][k].equal(v) for k,v in again['net'].items())
    # Two steps only: instance norms over few voxels blow up the last bits of a sum; after four, any other order of sums goes its own way
    assert apart(one, two)<.03
    losses = [[float(r['loss']) for r in csv.DictReader(open(Path(o.out)/'log.csv'))] for o in (cfg, whole, killed)]
    assert np.allclose(losses[0], losses[1], rtol=1e-3) and losses[1]==losses[2]


def test_the_result_trains_and_starts_networks(data, tmp_path):
    cfg = small(tmp_path/'e', store=str(data/'store'), steps=2)
    pretrain([data/'k.jsonl'], cfg)
    enc = TextEncoder.load(tmp_path/'e', cache=False)
    assert enc(['liver','kidney'], 'ct').shape==(2,96)
    run = TrainCfg(out=str(tmp_path/'r'), steps=1, text=str(tmp_path/'e'), device='cpu')
    assert train([data/'store'], run)['step']==1
    assert TextEncoder.load(tmp_path/'r'/'last'/'text', cache=False)(['liver'], 'ct').equal(enc(['liver'], 'ct'))
    origin = warm_start(str(tmp_path/'e'))
    tower = read_state(newest(tmp_path/'e'))['ema']
    kernel = 'encoder.stages.3.0.convs.1.conv.weight'
    assert origin.net.state_dict()[f'backbone.{kernel}'].equal(tower[f'atlas_tower.{kernel}'])
    assert origin.enc(['liver'], 'ct').equal(enc(['liver'], 'ct')) and not any('encoder' in k for k in origin.match.missing)
    assert train([data/'store'], replace(run, out=str(tmp_path/'s'), text='', weights=str(tmp_path/'e')))['step']==1
    again = pretrain([data/'k.jsonl'], small(tmp_path/'f', base=str(tmp_path/'e'), steps=1)) # texts alone; the tower is kept
    assert again['step']==1 and warm_start(str(tmp_path/'f')).net.state_dict()[f'backbone.{kernel}'].equal(tower[f'atlas_tower.{kernel}'])
    with pytest.raises(UserError, match='does not fit'): warm_start(str(tmp_path/'e'), preset='medals-s', text=str(tmp_path/'e'))
    images = small(tmp_path/'g', base=str(tmp_path/'e'), store=str(data/'store'), steps=2, holdout=.4)
    assert [o['kind'] for o in pretrain([], images)['rows']]==['regions']
    with pytest.raises(UserError, match='images alone'): pretrain([], replace(images, base='', out=str(tmp_path/'h')))


def test_a_published_pre_training_file_gives_both_its_towers(tmp_path):
    "As the published code writes it: prefix, three channels, aliases; grey images see the same features"
    from transformers import MPNetConfig
    config = MPNetConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32)
    torch.manual_seed(0)
    net = TwoTowers(config, 96, PRESETS['nano'], colours=True).eval()
    file = {'module.'+k: v for k,v in net.state_dict().items()}
    file |= {k.replace('.conv.', '.all_modules.0.').replace('.norm.', '.all_modules.1.'): v for k,v in file.items() if '.convs.' in k}
    torch.save(dict(step=5, model_state_dict=file), tmp_path/'p.pth')
    small_text = asset('nano')/'text'
    origin = warm_start(str(tmp_path/'p.pth'), text=str(small_text))
    x = torch.rand(1, 1, 64, 32, 32, generator=torch_gen('x'))*255
    with torch.no_grad():
        seen = net.atlas_tower.encoder(x.expand(-1, 3, -1, -1, -1))
        mine = origin.net.eval().backbone.encoder(torch.cat([x, torch.zeros_like(x)], 1))
    assert all(torch.allclose(a, b, atol=1e-3) for a,b in zip(seen, mine)) and len(origin.match.loaded)==52
    tower = AtlasTower(PRESETS['nano'], colours=True)
    assert sum(k.startswith('module.atlas_tower') for k in file)==100 and len(tower.state_dict())==52


def test_the_published_recipe_runs(data, tmp_path):
    "Only what the published stages train is moved, and images and texts take turns"
    assert settled(PretrainCfg(compat=True)).peaks==(1e-5,) and settled(PretrainCfg(compat=True)).weight_decay==0
    first = small(tmp_path/'a', compat=True, layers=2, weight_decay=0., ema=0., clip=0.)
    pretrain([data/'k.jsonl'], first)
    cfg = replace(first, out=str(tmp_path/'b'), base=str(tmp_path/'a'), top=1)
    run,*_ = build_pretraining(read_knowledge(data/'k.jsonl'), settled(cfg))
    moving = {k for k,p in run.net.named_parameters() if p.requires_grad}
    assert all(k.startswith('text_tower.biolord.encoder.layer.1.') or k=='temperature' for k in moving) and len(moving)>10
    both = replace(cfg, out=str(tmp_path/'c'), store=str(data/'store'), queries=4, steps=2)
    run,source,*_ = build_pretraining(read_knowledge(data/'k.jsonl'), settled(both))
    batches = source(0)
    one,two = next(batches)[0],next(batches)[0]
    assert one.datasets==['regions'] and two.datasets==['texts'] and run.net.atlas_tower.channels==3
    assert pretrain([data/'k.jsonl'], replace(both, out=str(tmp_path/'d')))['step']==2
    assert PRETRAIN_RULES[True].soft and not PRETRAIN_RULES[False].soft


def test_the_settings_beside_the_small_encoder_repeat_its_beginning(tmp_path):
    "The same word pieces, and the loss of the first steps that its log has; other processors round differently"
    folder,know = asset('small'),tmp_path/'structures.jsonl'
    made,plain = read_json(folder/'pretrain.json'),vars(PretrainCfg())
    said = {k: tuple(v) if isinstance(v, list) else v for k,v in made['settings'].items()}
    cfg = PretrainCfg(**{**plain, **said, 'out': str(tmp_path/'again'), 'save_every': 10**6, 'resume': False, 'change': False})
    cfg = replace(cfg, unseen=','.join(str(root/o) for o in cfg.unseen.split(',')))
    write_knowledge(know, table_rows())
    def first(file): return next(csv.DictReader(open(file)))
    want = first(folder/'log.csv')
    p = launch(MEDALS, [know], cfg, until=int(want['step']))
    p.send_signal(signal.SIGTERM)
    _,text = ended(p)
    out = Path(cfg.out)
    assert (out/'run.json').exists(), text
    if read_json(out/'run.json')['knowledge']!=made['knowledge']: pytest.skip('the table has got other names since')
    assert (out/'start'/'tokenizer.json').read_bytes()==(folder/'tokenizer.json').read_bytes()
    got = first(out/'log.csv')
    assert got['step']==want['step'] and abs(float(got['loss'])/float(want['loss'])-1)<.01


def test_mistakes_are_said_before_anything_is_written(data, tmp_path):
    from medals.cli import main
    bad = tmp_path/'bad.jsonl'
    bad.write_text('{"id": "x", "names": "liver", "source": "s", "licence": "l"}\n')
    one = tmp_path/'one.jsonl'
    write_knowledge(one, [Concept(id='x', names=('liver',), source='s', licence='l')])
    good = data/'k.jsonl'
    for argv in ([bad], [one], [good, '--base', tmp_path/'nowhere'], [good, '--unseen', 'no.txt'], [good, '--model', 'x'],
                 [good, '--store', tmp_path/'nostore'], []):
        assert main(['pretrain', *map(str, argv), '-o', str(tmp_path/'out'), '--steps', '1', '--device', 'cpu'])==2, argv
        assert not list((tmp_path/'out').glob('state_*.pt')) and not (tmp_path/'out'/'best').exists()


def few(path, source, licence, word=''):
    "A knowledge file of six things"
    things = 'liver spleen lung heart nose ear'.split()
    rows = [Concept(id=o, names=(o,), synonyms=(f'{word}{o} organ',), source=source, licence=licence) for o in things]
    write_knowledge(path, rows)
    return str(path)


def test_the_card_names_every_source_on_the_way_and_stays_readable(tmp_path):
    import yaml
    from medals.cli import main
    first,second = few(tmp_path/'a.jsonl', 'one | two', 'Only: "us" #1'),few(tmp_path/'b.jsonl', 'other', 'CC0', 'the ')
    small = ['--steps','1','--width','16','--layers','1','--heads','2','--vocab','300','--batch','4','--device','cpu','--holdout','0']
    assert main(['pretrain', first, '-o', str(tmp_path/'A'), *small])==0
    assert main(['pretrain', second, '-o', str(tmp_path/'B'), '--base', str(tmp_path/'A'), *small])==0
    assert main(['pretrain', second, '-o', str(tmp_path/'C'), '--base', str(tmp_path/'B'), *small])==0
    for run in 'BC':
        _,head,body = (tmp_path/run/'last'/'README.md').read_text(encoding='utf-8').split('---\n', 2)
        assert yaml.safe_load(head)['license_name']=='CC0; Only: "us" #1'
        assert '| other | CC0 | 6 |' in body and r'| one \| two | Only: "us" #1 | 6 |' in body
    told = read_json(tmp_path/'C'/'last'/'pretrain.json')['sources']
    assert [o['source'] for o in told]==['other','one | two']


def test_a_run_that_failed_leaves_nothing_to_the_next(tmp_path):
    "Without a checkpoint there is nothing to go on with: word pieces and configuration are made again"
    from medals.cli import main
    from medals.text import TextEncoder
    known = few(tmp_path/'k.jsonl', 's', 'l')
    few_steps = '--steps 1 --layers 1 --heads 2 --batch 4 --device cpu --holdout 0'.split()
    words = ['pretrain', known, '-o', str(tmp_path/'run'), *few_steps]
    assert main([*words, '--base', 'small'])==0 # an encoder that ships is one to begin with
    for file in (tmp_path/'run').glob('state_*.pt'): file.unlink()
    assert main([*words, '--vocab', '290', '--width', '16'])==0
    enc = TextEncoder.load(tmp_path/'run', cache=False)
    assert enc.network().text_tower.biolord.config.hidden_size==16
    q = enc('liver', 'ct')
    assert q.shape==enc(['liver'], 'ct').shape and torch.equal(q, enc(('liver',), 'ct'))
    for odd in ([], [3], [None]):
        with pytest.raises(UserError): enc(odd, 'ct')


@pytest.mark.parametrize('flag', ('steps=-3','heads=5','width=0','layers=0','vocab=0','tokens=1','lr=-1','sharpest=0','val-things=1',
                                  'holdout=2','holdout=-1','synonyms=7','typos=-1','longest=0','centres=-1','top=-2','images=0','workers=-1','ema=2','lr=nan'))
def test_numbers_that_make_no_sense_are_refused_by_name(tmp_path, flag, capsys):
    from medals.cli import main
    known = few(tmp_path/'k.jsonl', 's', 'l')
    assert main(['pretrain', known, '-o', str(tmp_path/'out'), '--device', 'cpu', '--steps', '1', f'--{flag}'])==2
    said = capsys.readouterr().err
    assert flag.partition('=')[0].replace('-', '_') in said and len(said.splitlines())==1 and not (tmp_path/'out').exists()


def test_what_is_no_encoder_is_no_base(tmp_path, capsys):
    from medals.cli import main
    known = few(tmp_path/'k.jsonl', 's', 'l')
    (tmp_path/'folder').mkdir()
    (tmp_path/'bare').mkdir()
    whole = TextEncoder.load('small', cache=False)
    whole.tokenizer.save_pretrained(tmp_path/'bare') # a tokenizer, and nothing else
    whole.save(tmp_path/'cut')
    (tmp_path/'cut'/'text.safetensors').write_bytes(b'xx')
    (tmp_path/'u.txt').write_bytes('Müller\n'.encode('latin-1'))
    bases = [['--base', o] for o in (tmp_path/'folder', tmp_path/'bare', tmp_path/'cut', known)]
    for more in (*bases, ['--unseen', tmp_path/'u.txt']):
        assert main(['pretrain', known, '-o', str(tmp_path/'out'), '--steps', '1', '--device', 'cpu', *map(str, more)])==2, more
        assert len(capsys.readouterr().err.splitlines())==1 and not (tmp_path/'out').exists(), more
