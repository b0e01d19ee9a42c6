"Training as it goes in the world: killed, stopped, resumed, on several processes, with broken data"
import csv
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import shared
from medals.network.warm_start import warm_start
from medals.training.checkpoint import checkpoints, newest, read_state
from medals.core import UserError
from medals.data.indexing import index
from medals.inference.request import make_request
from medals.prepare import prepare, recipe_for
from medals.training.train import TrainCfg, build_run, train
from medals.training.config import LoopCfg, lr_at
from medals.training.losses import seg_loss
from medals.inference.pipeline import SegmentRun
from medals.inference.report import result_of
from medals.inference.sliding import MaskAccumulator
from medals.inference.stages import load_stages
from medals.masks.bitmask import BitMask
from medals.model import MedalS, ModelCfg
from medals.network.repertoire import read_classes
from medals.segment import Segmenter
from medals.spatial import Point
from medals.volume import phantom, write_labels, write_volume

root = Path(__file__).resolve().parents[1]
slow = pytest.mark.skipif(not os.environ.get('MEDALS_SLOW'), reason='takes minutes; MEDALS_SLOW=1 runs it')
ONE = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    "Four phantom heads, prepared"
    tmp = tmp_path_factory.mktemp('store')
    for i in range(4):
        vol,lbl,names = phantom(seed=i)
        write_volume(tmp/'images'/f'head{i}.nii.gz', vol)
        write_labels(tmp/'labels'/f'head{i}.nii.gz', lbl, vol, names)
    rows = [f'"{v}" = {k}' for k,v in {**names, '[1,2,3,4]': 'brain'}.items()]
    (tmp/'p.toml').write_text('\n'.join(['name = "heads"', 'modality = "mri"', '[classes]', *rows]))
    index(tmp, tmp/'l.jsonl', tmp/'p.toml', workers=1)
    prepare(tmp/'l.jsonl', tmp/'store', recipe_for('nano', spacing=(6.,6.,6.), patch=(64,32,32)), workers=1)
    return tmp/'store'


@pytest.fixture(autouse=True)
def one_thread():
    "As the processes below, so that sums are taken in the same order"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def flags(cfg):
    "The settings of a run as the command line takes them"
    plain,out = TrainCfg(),[]
    for k,v in vars(cfg).items():
        if v==getattr(plain, k): continue
        name = k.replace('_', '-')
        if isinstance(v, bool): out.append(f"--{'' if v else 'no-'}{name}")
        else: out += [f'--{name}', ','.join(map(str, v)) if isinstance(v, tuple) else str(v)]
    return out


@pytest.mark.parametrize('known', (True, False))
def test_weights_are_asked_in_the_grey_window_they_were_trained_in(tmp_path, known):
    "A store of Hounsfield units has one window for all structures; files that are grey already have that of each structure"
    vol,lbl,names = phantom(spacing=(6.,6.,6.))
    if known:
        write_volume(tmp_path/'images'/'a.nii.gz', replace(vol, data=vol.data.astype(np.int16)*4-1000))
        write_labels(tmp_path/'labels'/'a.nii.gz', lbl, vol, names)
    else:
        folder = tmp_path/'3D_train_npz_all/CT/CT_heads'
        folder.mkdir(parents=True)
        np.savez(folder/'CT_heads_1.npz', imgs=vol.data.astype(np.uint8).T, gts=lbl.T, spacing=np.array(vol.spacing))
    rows = [f'"{v}" = {k}' for k,v in names.items()]
    (tmp_path/'p.toml').write_text('\n'.join(['name = "CT_heads"', 'modality = "ct"', '[classes]', *rows]))
    index(tmp_path, tmp_path/'l.jsonl', tmp_path/'p.toml', workers=1)
    prepare(tmp_path/'l.jsonl', tmp_path/'store', recipe_for('nano', spacing=(6.,6.,6.), patch=(64,32,32)), workers=1)
    for windows,want in (('auto', not known), ('structure', True), ('one', False)):
        cfg = TrainCfg(out=str(tmp_path/windows), steps=1, device='cpu', windows=windows)
        train([tmp_path/'store'], cfg)
        frame = load_stages(tmp_path/windows/'last')[0][0].frame
        assert frame.windows is want
        groups = make_request(replace(vol, modality='ct', data=vol.data*4-1000), ['mandible','liver'], frame=frame).groups
        assert len(groups)==1+want


def steps_done(out):
    f = Path(out)/'log.csv'
    return max((int(r['step']) for r in csv.DictReader(open(f))), default=0) if f.exists() else 0


def launch(cmd, cfg, store, until=None):
    "Start a run in a process; wait until it has logged a step, or has ended"
    p = subprocess.Popen([*cmd, str(store), *flags(cfg)], env=ONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic()+240
    while until is not None and steps_done(cfg.out)<until and p.poll() is None and time.monotonic()<end: time.sleep(.05)
    return p


def ended(p):
    "What a process said"
    said = p.communicate(timeout=240)[0]
    return p.returncode,said


MEDALS = [sys.executable, '-c', 'import sys; from medals.cli import main; sys.exit(main(["train", *sys.argv[1:]]))']
TWO = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', 'medals', 'train']


def state(out): return read_state(newest(out))


def test_a_run_that_is_stopped_and_killed_ends_with_the_same_bits(store, tmp_path):
    cfg = TrainCfg(out=str(tmp_path/'a'), steps=8, log_every=1, save_every=1, far=.5)
    train([store], cfg)
    cfg = replace(cfg, out=str(tmp_path/'b'))
    p = launch(MEDALS, cfg, store, until=2)
    p.send_signal(signal.SIGTERM)
    code,said = ended(p)
    assert code==0 and 'stopped at step' in said and '--resume' in said and 'Traceback' not in said, said
    at = steps_done(cfg.out)
    p = launch(MEDALS, replace(cfg, resume=True), store, until=at+1+np.random.default_rng().integers(3))
    p.kill()
    ended(p)
    assert 2<=at<8 and at<state(cfg.out)['step']<=8
    train([store], replace(cfg, resume=True))
    a,b = state(tmp_path/'a'),state(tmp_path/'b')
    for part in ('net','ema'): assert all(a[part][k].equal(v) for k,v in b[part].items())
    assert a['step']==b['step']==8
    rows = [list(csv.DictReader(open(tmp_path/o/'log.csv'))) for o in 'ab']
    assert [[r[k] for k in ('step','loss','dice','bce')] for r in rows[0]]==[[r[k] for k in ('step','loss','dice','bce')] for r in rows[1]]


def test_weights_know_how_far_and_how_large_they_saw(store, tmp_path, monkeypatch):
    "A mask far smaller than in the training is not found, a mark keeps it, and too few cases say nothing of sizes"
    cfg = TrainCfg(out=str(tmp_path/'few'), steps=1, device='cpu', far=.5)
    train([store], cfg)
    assert all(c.ml==() for c in read_classes(tmp_path/'few'/'last'))
    monkeypatch.setattr(sys.modules[train.__module__], 'SIZED_FROM', 4)
    train([store], replace(cfg, out=str(tmp_path/'sized')))
    seg = Segmenter.load(tmp_path/'sized'/'last', 'cpu')
    vol,lbl,_ = phantom(seed=0)
    here = (lbl>0).sum()*np.prod(vol.spacing)/1000
    lo,hi = seg.repertoire.volume_of('brain')
    assert seg.stages[0].frame.far==4 and .5*here<lo<=hi<2*here
    run = SegmentRun(seg, make_request(vol, ['brain'], frame=seg.stages[0].frame))
    run.lay_out(run.request.groups)
    found = MaskAccumulator(1, vol.shape)
    middle = tuple(n//2 for n in vol.shape)
    spot = np.zeros(vol.shape, bool)
    spot[tuple(slice(n-1, n+2) for n in middle)] = True
    found.bits[0] = BitMask.of(spot)
    found.hist[0][-1] = found.voxels[0] = found.total[0] = spot.sum()
    res = result_of(seg, run, found)
    assert not res.masks['brain'].any() and res.scores['brain']==0 and 'ml, and in its training' in res.remarks['brain']
    run.request = replace(run.request, spatial={'brain': [Point(middle, radius=3)]})
    assert result_of(seg, run, found).masks['brain'][middle]


def test_two_processes_take_the_steps_of_one(store, tmp_path):
    "The same global batch, in micro-batches, stopped by a signal on the way"
    cfg = TrainCfg(out=str(tmp_path/'one'), steps=4, batch=4, patch=(64,64,32), log_every=1, lr=1e-4, holdout=.3, val_last=1, marks=False)
    one = train([store], cfg)
    cfg = replace(cfg, out=str(tmp_path/'two'), micro=1)
    p = launch(TWO, cfg, store, until=1)
    p.send_signal(signal.SIGTERM)
    ended(p)
    at = state(cfg.out)['step']
    code,said = ended(launch(TWO, replace(cfg, resume=True), store))
    assert code==0 and 1<=at<=4, said
    a,b = state(tmp_path/'one'),state(tmp_path/'two')
    assert b['step']==4 and b['made']['world']==2
    losses = [[float(r['loss']) for r in csv.DictReader(open(tmp_path/o/'log.csv'))] for o in ('one','two')]
    assert np.allclose(*losses, rtol=2e-4)
    begun = warm_start(seed=cfg.seed).net.state_dict()
    def way(k): return (a['net'][k]-begun[k]).abs().mean(),(a['net'][k]-b['net'][k]).abs().mean()
    moved,apart = torch.tensor([way(k) for k,v in begun.items() if v.ndim>1 and not a['net'][k].equal(v)]).T
    assert len(moved)>=50 and (apart/moved).median()<.01 and (apart/moved).max()<.1
    assert abs(b['best']-one['best'])<.02


def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(store, tmp_path):
    cfg = TrainCfg(out=str(tmp_path/'a'), steps=4, log_every=1, save_every=2, keep=2)
    train([store], cfg)
    new,old = checkpoints(cfg.out)
    good = state(cfg.out)
    new.write_bytes(new.read_bytes()[:5000])
    with pytest.warns(UserWarning, match='is damaged'): train([store], replace(cfg, resume=True))
    again = state(cfg.out)
    assert all(good['net'][k].equal(v) for k,v in again['net'].items())
    assert [r['step'] for r in csv.DictReader(open(tmp_path/'a'/'log.csv'))]==['1','2','3','4']


def test_a_missing_case_is_named_and_nothing_is_lost(store, tmp_path):
    import shutil
    own = shutil.copytree(store, tmp_path/'store')
    for f in sorted((own/'cases'/'heads').iterdir())[1:]: (f/'labels.b2nd').unlink()
    cfg = TrainCfg(out=str(tmp_path/'a'), steps=20, save_every=99)
    with pytest.raises(UserError, match='case heads/head[123] cannot be read'): train([own], cfg)
    step = state(cfg.out)['step'] if checkpoints(cfg.out) else None
    assert step is not None and step<20
    with pytest.raises(UserError, match='heads/head'): train([own], replace(cfg, resume=True))
    shutil.rmtree(own)
    shutil.copytree(store, own)
    assert train([own], replace(cfg, resume=True, steps=step+1, change=True))['step']==step+1


def run_parts(store, cfg):
    return build_run([store], cfg, warm_start())


def test_a_dead_loader_process_ends_in_a_sentence(store, tmp_path):
    from medals.training.loop import fit
    cfg = TrainCfg(out=str(tmp_path/'a'), steps=50, workers=1, save_every=99)
    run,source,*_ = run_parts(store, cfg)
    def deadly(start):
        for i,b in zip(count(), source(start)):
            yield b
            if i==1: [p.kill() for p in mp.active_children()]
    with pytest.raises(UserError, match='process that draws samples died'): fit(run, deadly)
    assert 2<=state(cfg.out)['step']<50


def test_a_loss_that_is_no_number_never_reaches_the_weights(store, tmp_path):
    from medals.training.loop import fit
    cfg = TrainCfg(out=str(tmp_path/'a'), steps=8, log_every=2)
    run,source,*_ = run_parts(store, cfg)
    def poisoned(start):
        for i,bs in enumerate(source(start), start):
            if i==2: bs[0].x[0,0,0,0,0] = torch.nan
            yield bs
    with pytest.raises(UserError, match='nan at step 3 on heads/head'): fit(run, poisoned)
    s = state(cfg.out)
    assert s['step']==4 and all(v.isfinite().all() for v in s['net'].values())
    run,source,*_ = run_parts(store, replace(cfg, resume=True))
    assert fit(run, source).step==8 # it goes on behind the bad step


def test_half_precision_keeps_its_scale(store, tmp_path):
    cfg = TrainCfg(out=str(tmp_path/'a'), precision='fp16')
    run,*_ = run_parts(store, cfg)
    run.scaler.scale(torch.ones(1))
    run.scaler.update(123.)
    run.save()
    assert run_parts(store, replace(cfg, resume=True))[0].scaler.get_scale()==123


def test_recomputing_gives_the_same_step(store, tmp_path):
    nets = []
    for k in (0,2):
        cfg = TrainCfg(out=str(tmp_path/str(k)), steps=2, recompute=k)
        train([store], cfg)
        nets.append(state(cfg.out)['net'])
    assert all(torch.allclose(nets[0][k], v, atol=1e-5) for k,v in nets[1].items())


def test_a_run_goes_on_with_weights_in_another_order_of_axes(store, tmp_path):
    "The optimizer goes through memory in a row: its averages have to lie as the weights do"
    nets = []
    for last in (False, True):
        cfg = TrainCfg(out=str(tmp_path/str(last)), steps=2, save_every=1, lr=.01)
        train([store], cfg)
        train([store], replace(cfg, steps=3, channels_last=last, change=True, resume=True))
        nets.append(state(cfg.out)['net'])
    kernels = [k for k,v in nets[0].items() if v.ndim==5] # a bias before a norm has a gradient of rounding errors alone
    off = [(nets[0][k]-nets[1][k]).abs().mean() for k in kernels]
    assert max(off)<3e-4, 'a step is .01'


@pytest.mark.parametrize('drawn', [0, 3, 20])
def test_the_loss_without_logits_is_that_of_logits(drawn):
    torch.manual_seed(0)
    heads = dict(heads=2, ffn=32, head=16, aux_heads=(16,16,16))
    net = MedalS(ModelCfg(features=(4,6,8,8,8,8), query=24, layers=1, dropout=0., signed=True, **heads))
    m,p = torch.rand(2, 20, 64, 32, 32)<.1,torch.rand(2, 20, 64, 32, 32)<.05
    p[:,drawn:] = False
    cls,valid = torch.arange(25).expand(2, 25)%20,torch.ones(2, 25, dtype=torch.bool)
    valid[1,9:] = False
    x,q = torch.rand(2, 1, 64, 32, 32),torch.randn(2, 25, 24)
    whole = m.float(),p.float() # prompts that are no bool go the plain way
    found = []
    for prompts,multiply in ((whole[1], True), (p, False)):
        feats = net.encode(x, p.any(1, keepdim=True))
        loss,_ = seg_loss(net.decode(feats, q, prompts, deep=True, cls=cls.masked_fill(~valid, -1), multiply=multiply), m, cls, valid)
        trained = [o for o in net.parameters() if o.requires_grad]
        found.append((loss.item(), torch.autograd.grad(loss, trained)))
    assert abs(found[0][0]-found[1][0])<1e-5
    for a,b in zip(found[0][1], found[1][1]): assert (a-b).abs().max()<1e-4*a.abs().max()+1e-7


def test_published_schedule_to_the_step():
    cfg = LoopCfg(stages=(40000,30000,20000,10000,2000), warmups=(2000,2000,2000,1000,200), peaks=(1e-4,4e-5,2e-5,2e-5,1e-5))
    known = {1: 5e-8, 2000: 1e-4, 21000: 5e-5, 40000: 1.7e-13, 40001: 2e-8, 42000: 4e-5, 100001: 5e-8}
    assert all(abs(lr_at(0, cfg, t-1)/v-1)<.01 for t,v in known.items())


@pytest.mark.parametrize('args, says', [(['--wrong'], '--wrong'), (['none', '--stages', '10,x'], '--stages')])
def test_a_wrong_flag_is_one_line_under_bash(args, says, tmp_path):
    p = subprocess.run(['bash', str(root/'sh'/'train.sh'), *args], capture_output=True, text=True, cwd=tmp_path, env=ONE)
    assert p.returncode==2 and says in p.stderr and p.stderr.count('\n')==1 and not p.stdout
    assert not list(tmp_path.iterdir())


def overfit(store, out, steps, **kw):
    "DSC of each class in the cases that were trained on"
    cfg = TrainCfg(out=str(out), steps=steps, lr=4e-3, ema=.9, aug='none', forced=1., val_store=str(store), val_every=9999, marks=False,
                   **kw)
    return {r['class']: r['dsc'] for r in train([store], cfg)['rows']}


def test_nano_learns_a_phantom(store, tmp_path):
    torch.set_num_threads(2)
    assert overfit(store, tmp_path/'a', 40)['brain']>.85


@slow
@pytest.mark.skipif(not (shared/'data'/'mini').exists(), reason='the real case lies in a shared folder')
def test_nano_overfits_a_real_case(tmp_path):
    torch.set_num_threads(2)
    case = shared/'data'/'mini'/'3D_train_npz_all'/'MR'/'MR_hippocampus'/'MR_hippocampus_033.npz'
    raw = tmp_path/'3D_train_npz_all'/'MR'/'MR_hippocampus'
    raw.mkdir(parents=True)
    (raw/case.name).write_bytes(case.read_bytes())
    index(tmp_path, tmp_path/'l.jsonl', shared/'data'/'mini'/'prompts.json', workers=1)
    prepare(tmp_path/'l.jsonl', tmp_path/'store', recipe_for('nano', patch=(64,64,64), fill=True), workers=1)
    assert min(overfit(tmp_path/'store', tmp_path/'a', 400, prompt='none').values())>.95


def test_half_precision_trains_with_any_number_of_queries():
    "Few queries times very many voxels: in bf16 the way back ended the process on some CPUs, so it is tried in a process of its own"
    code = ("import torch; from medals.model import safe_product\n"
            "d = torch.rand(1, 16, 64, 96, 64, requires_grad=True)\n"
            "for n in (1, 3, 4, 5):\n"
            "    vec = torch.rand(1, n, 16, requires_grad=True)\n"
            "    with torch.autocast('cpu', torch.bfloat16): logits = safe_product('bcxyz,bnc->bnxyz', d, vec)\n"
            "    logits.mean().backward()\n"
            "    want = d.detach().mean((2,3,4))/n\n"
            "    assert torch.allclose(vec.grad, want[:,None].expand_as(vec), rtol=1e-3)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=ONE)
    assert done.returncode==0, (done.returncode, done.stderr[-500:])
