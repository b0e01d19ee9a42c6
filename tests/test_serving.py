"One server, the clients of others, and whatever they may send"
import base64
import gzip
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import types
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import medals
from medals.base.settings import InferenceCfg
from medals.core import UserError
from medals.inference.stages import NetworkStage, RandomQueries
from medals.preprocessing.input_spec import InputSpec
from medals.segment import Segmenter, Stopped
from medals.serving.packed import Refusal, pack, pack_voxtell, parcel, unpack
from medals.spatial import Box, Mask, Point, Scribble
from medals.volume import phantom, read_labels, write_volume

httpx = pytest.importorskip('httpx')
pytest.importorskip('fastapi')
uvicorn = pytest.importorskip('uvicorn')
from medals.serving.app import make_app, notes_at_start, open_port, why_not  # noqa: E402
from medals.serving.counter import ServeCfg, too_many  # noqa: E402
from medals.serving.voxtell import kept_size  # noqa: E402


class Bright(torch.nn.Module):
    "Marks what is bright; waits at a gate, if there is one"
    gate,inside = None,threading.Event()
    def forward(self, x, q, m=None):
        self.inside.set()
        if self.gate: self.gate.wait(20)
        return (x-128).expand(-1, len(q), -1, -1, -1)


frame = InputSpec(spacing=(8.,8.,8.), window=(32,32,32), modality='mri')
network = Bright()
seg = Segmenter(NetworkStage(network, frame), RandomQueries(8), device='cpu')
scan = phantom((24,28,22), (8.,8.,8.))[0]
KEY = 'open sesame'


@contextmanager
def server(port=0, **cfg):
    "A server in a thread; its address, and the desk behind it"
    sock = open_port('127.0.0.1', port)
    app = make_app(seg, ServeCfg(**{'key': KEY, **cfg}))
    run = uvicorn.Server(uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=1))
    thread = threading.Thread(target=run.run, kwargs=dict(sockets=[sock]), daemon=True)
    thread.start()
    try: yield f'http://127.0.0.1:{sock.getsockname()[1]}',app.state.desk
    finally:
        run.should_exit = True
        thread.join(10)
        sock.close()


@pytest.fixture(scope='module')
def there():
    with server() as found: yield found


@pytest.fixture(scope='module')
def http(there):
    with httpx.Client(base_url=there[0], headers={'Authorization': f'Bearer {KEY}'}, timeout=30) as client: yield client


@contextmanager
def viewer(url, image=scan.data, spacing=scan.spacing, dtype=np.uint8):
    "A session of nnInteractive's client, with its buffer"
    remote = pytest.importorskip('nnInteractive.inference.remote')
    with remote.nnInteractiveRemoteInferenceSession(url, KEY) as session:
        session.set_image(image[None], {'spacing': np.array(spacing)})
        session.set_target_buffer(np.zeros(image.shape, dtype))
        yield session,session.target_buffer


def test_nninteractives_client_marks_undoes_and_resets(there):
    with viewer(there[0]) as (session, buffer):
        assert session.ping() and session.supports_undo and session.original_image_shape==(1, *scan.shape)
        box = session.add_point_interaction((12,14,11), True)
        assert buffer[12,14,11]==1 and box[0][0]<=12<box[0][1]
        states = [buffer.copy()]
        def follows(grows):
            a,b = states[-1]>0,buffer>0
            assert not (a&~b).any() if grows else not (b&~a).any()
            states.append(buffer.copy())
        session.add_bbox_interaction([[2.,5.],[3,7],[9,10]], True)
        assert buffer[2:5,3:7,9].all()
        follows(True)
        stroke = np.zeros(scan.shape, np.uint8)
        stroke[20,4:9,4] = 1
        session.add_scribble_interaction(stroke, True)
        assert buffer[stroke>0].all()
        follows(True)
        session.add_scribble_interaction(stroke[20:21,4:9,4:5], False, interaction_bbox=[[20,21],[4,9],[4,5]])
        assert not buffer[stroke>0].any()
        follows(False)
        lasso = np.zeros(scan.shape, bool)
        lasso[3:8,3:9,15] = True
        session.add_lasso_interaction(lasso, True)
        assert buffer[lasso].all()
        for want in reversed(states):
            assert session.undo()
            assert np.array_equal(buffer, want)
        assert session.undo() and not buffer.any() and not session.undo()


def test_marks_can_wait_and_a_mask_can_begin(there):
    with viewer(there[0]) as (session, buffer):
        assert session.add_point_interaction((1,1,1), True, run_prediction=False) is None and not buffer.any()
        assert session._predict() and buffer[1,1,1] and session._predict() is None
        given_mask = (scan.data>200).astype(np.uint8)
        session.add_initial_seg_interaction(given_mask)
        session.add_point_interaction((2,2,2), False)
        want = given_mask.copy()
        want[2,2,2] = 0
        assert np.array_equal(buffer, want)
        session._predict(force_full_refine=True)
        assert not buffer[2,2,2]
        session.reset_interactions()
        assert not session.undo() and session.heartbeat()>0 and session.lease_status()['idle_timeout_seconds']==3600
        session.set_do_autozoom(False)
    with viewer(there[0], dtype=bool) as (session, buffer):
        session.add_point_interaction((5,6,7), True)
        assert buffer.dtype==bool and buffer[5,6,7]


@pytest.mark.parametrize('axes', ('xyz','zyx'))
def test_axes_in_any_order_give_marks_back_where_they_were(axes):
    flat = np.random.default_rng(0).integers(0, 60, (6,20,26)).astype(np.float32)
    with server(axes=axes) as (url, desk), viewer(url, flat, (20.,8.,8.)) as (session, buffer):
        session.add_bbox_interaction([[1,2],[3,9],[4,20]], True)
        want = np.zeros(flat.shape, np.uint8)
        want[1,3:9,4:20] = 1
        assert np.array_equal(buffer, want)
        place, = [place.thing for _,place in desk.leases.items()]
        assert place.marking.vol.shape==(flat.shape[::-1] if axes=='zyx' else flat.shape) and not place.marking.vol.has_orientation


def test_sentences_meet_marks_in_one_session(there, http):
    token = http.post('/claim').json()['lease_token']
    lease = {'X-Lease-Token': token}
    meta = json.dumps({'image_properties': {'spacing': scan.spacing}})
    http.post('/set_image', content=pack(scan.data[None]), headers={**lease, 'X-Meta': meta}).raise_for_status()
    assert http.post('/set_sentence', json={'sentence': 'the skull'}, headers=lease).json()=={'sentence': 'the skull'}
    got = http.post('/predict', json={}, headers=lease)
    said = json.loads(got.headers['X-Meta'])
    want = seg(replace(scan, modality=None, codes=(0,0), has_orientation=False), ['the skull']).masks['the skull']
    assert said['ran_prediction'] and want.any()
    assert np.array_equal(unpack(got.content), want[tuple(slice(*o) for o in said['bbox'])])
    assert http.post('/release', headers=lease).status_code==200
    assert http.post('/undo', json={}, headers=lease).status_code==410


def test_a_full_server_says_so_and_dead_clients_make_room(monkeypatch):
    remote = pytest.importorskip('nnInteractive.inference.remote')
    with server(sessions=1, silent=60) as (url, desk):
        session = remote.nnInteractiveRemoteInferenceSession(url, KEY)
        with pytest.raises(remote.ServerAtCapacityError, match='taken'): remote.nnInteractiveRemoteInferenceSession(url, KEY)
        now = desk.leases.clock()
        desk.leases.clock = lambda: now+61
        with remote.nnInteractiveRemoteInferenceSession(url, KEY) as other:
            with pytest.raises(remote.SessionExpiredError): session.undo()
            desk.leases.clock = lambda: now+61+50
            other.heartbeat()
            desk.leases.clock = lambda: now+61+100
            assert other.lease_status()['remaining_seconds']==3500 # a heart that beats does not stop the clock
            desk.leases.clock = lambda: now+61+3601
            with pytest.raises(remote.SessionExpiredError): other.heartbeat()
        assert not desk.leases.places and desk.budget.taken==0
        session.close()


def jobs(http, path, prompts, **more):
    "VoxTell's calls, as the specification writes them"
    got = http.post('/images', params={'include_image': 'true'}, content=path.read_bytes())
    meta = json.loads(got.headers['X-Meta'])
    job = http.post('/jobs', json=dict(image_id=meta['image_id'], prompts=prompts, **more)).json()['job_id']
    lines = [json.loads(o) for o in http.get(f'/jobs/{job}/events').text.splitlines()]
    return got,meta,job,lines


@pytest.mark.parametrize('codes', ('RAS','LPS','ASR'))
def test_a_file_comes_back_as_medals_segment_writes_it(http, tmp_path, codes):
    turned = scan.reorient(codes)
    write_volume(tmp_path/'head.nii.gz', turned)
    got,meta,job,lines = jobs(http, tmp_path/'head.nii.gz', ['the skull','something else'])
    assert np.array_equal(unpack(got.content), scan.data.transpose(2,1,0)) and meta['shape']==list(scan.shape[::-1])
    assert lines[-1]=={'status': 'done'} and all(set(o)=={'done','total'} for o in lines[:-1])
    assert http.get(f'/jobs/{job}/events').text=='{"status": "done"}\n'
    masks = unpack(http.get(f'/jobs/{job}/result').content)
    other = unpack(http.get(f'/jobs/{job}/result', params={'packed': 'nnia'}).content)
    assert masks.shape==(2, *scan.shape[::-1]) and masks.dtype==np.uint8 and np.array_equal(masks, other)
    for packer in (pack, pack_voxtell):
        body = http.post(f"/images/{meta['image_id']}/export", content=packer(masks[0])).content
        (tmp_path/'back.nii.gz').write_bytes(body)
        back,_ = read_labels(tmp_path/'back.nii.gz')
        here = seg(tmp_path/'head.nii.gz', ['the skull','something else'])
        here.save(tmp_path/'out')
        own,_ = read_labels(tmp_path/'out'/'the_skull.nii.gz')
        assert masks[0].any() and np.array_equal(back.data, own.data) and np.array_equal(back.affine, own.affine)


def test_voxtells_own_client(there, tmp_path, monkeypatch):
    "The plugin wants napari, and its client does not: pip install --no-deps napari-voxtell==0.2.0"
    plugin = importlib.util.find_spec('napari_voxtell')
    if plugin is None: pytest.skip('napari-voxtell is not installed; the same calls are tested by their wire')
    package = types.ModuleType('napari_voxtell')
    package.__path__ = list(plugin.submodule_search_locations)
    monkeypatch.setitem(sys.modules, 'napari_voxtell', package)
    from napari_voxtell.remote import VoxTellRemoteClient
    client,turned = VoxTellRemoteClient(there[0], KEY),scan.reorient('LPS')
    write_volume(tmp_path/'head.nii.gz', turned)
    assert client.healthz() and client.capabilities()['patch_size']==[32,32,32]
    image,array,spacing,shape = client.upload_image((tmp_path/'head.nii.gz').read_bytes())
    assert np.array_equal(array, scan.data.transpose(2,1,0)) and (spacing, shape)==((8.,8.,8.), array.shape)
    job = client.start_job(image, ['the skull'])
    assert list(client.stream_events(job))[-1]=={'status': 'done'}
    masks = client.get_result(job)
    (tmp_path/'back.nii.gz').write_bytes(client.export(image, masks[0]))
    back,_ = read_labels(tmp_path/'back.nii.gz')
    assert back.data.any() and np.array_equal(back.data>0, seg(tmp_path/'head.nii.gz', ['the skull']).masks['the skull'])
    largest = client.start_job(image, ['the skull'], keep_largest=True)
    assert list(client.stream_events(largest))[-1]=={'status': 'done'}
    assert not (client.get_result(largest)&~masks).any()
    client.cancel(job)
    assert list(client.stream_events(job))==[{'status': 'done'}]
    client.close()


def test_a_run_is_cancelled_and_a_result_is_not_there_before_its_time(http, tmp_path):
    write_volume(tmp_path/'long.nii.gz', phantom((24,28,120), (8.,8.,8.))[0])
    network.gate = threading.Event()
    network.inside.clear()
    try:
        got = http.post('/images?include_image=false', content=(tmp_path/'long.nii.gz').read_bytes())
        asked = dict(image_id=json.loads(got.headers['X-Meta'])['image_id'], prompts=['the skull'])
        first,second = [http.post('/jobs', json=asked).json()['job_id'] for _ in range(2)]
        assert network.inside.wait(20) and http.get(f'/jobs/{first}/result').status_code==409
        assert http.get('/healthz').json()=={'ok': True}
        for job in (second, first): assert http.post(f'/jobs/{job}/cancel').json()=={'cancelling': True}
    finally:
        network.gate.set()
        network.gate = None
    for job in (first, second):
        assert json.loads(http.get(f'/jobs/{job}/events').text.splitlines()[-1])=={'status': 'cancelled'}
        assert http.get(f'/jobs/{job}/result').status_code==409


def form(mask, **more):
    "A form as ITK-SNAP sends it"
    raw = np.ascontiguousarray(mask.transpose(2,1,0), '<f4').tobytes()
    said = dict(dimensions=list(mask.shape), components_per_pixel=1, **more)
    return dict(files=dict(file=('x.gz', gzip.compress(raw))), data=dict(metadata=json.dumps(said)))


def test_itk_snap_clicks_and_draws(http):
    def mask(got):
        assert got.status_code==200 and got.json()['status']=='success', got.text
        raw = gzip.decompress(base64.b64decode(got.json()['result']))
        return np.frombuffer(raw, np.int8).reshape(scan.shape[::-1]).transpose(2,1,0)
    assert http.get('/status').json()['status']=='ok' and http.get('/v2/models').json()['models']
    for start,prefix in (('/start_session', ''), ('/v2/start_session/nnInteractive', '/v2')):
        name = http.get(start).json()['session_id']
        assert http.get(f'{prefix}/process_point_interaction/{name}?x=1&y=2&z=3&foreground=true').status_code==400 # no scan yet
        assert http.post(f'{prefix}/upload_raw/{name}', **form(scan.data, spacing=scan.spacing)).status_code==200
        at = 'x=12&y=14&z=11' if not prefix else 'point=12&point=14&point=11'
        one = mask(http.get(f'{prefix}/process_point_interaction/{name}?{at}&foreground=true'))
        assert one[12,14,11]
        drawn = np.zeros(scan.shape)
        drawn[3:9,4,5] = 1
        two = mask(http.post(f'/process_scribble_interaction/{name}?foreground=true', **form(drawn)))
        assert two[drawn>0].all() and (two>=one).all()
        three = mask(http.post(f'/process_lasso_interaction/{name}?foreground=false', **form(drawn)))
        assert not three[drawn>0].any()
        assert http.get(f'{prefix}/reset_interactions/{name}').json()=={'status': 'success'}
        assert http.get(f'{prefix}/end_session/{name}').status_code==200 and http.get(f'{prefix}/end_session/{name}').status_code==404


def same(a, b):
    assert a.table==b.table and a.ids==b.ids and list(a.masks)==list(b.masks)
    assert all(np.array_equal(a.masks[s], b.masks[s]) for s in b.masks)


@pytest.mark.parametrize('codes', ('LPS','SRA'))
def test_a_segmenter_over_there_gives_what_one_here_gives(there, codes):
    url,desk = there
    far,vol = medals.connect(url, KEY),scan.reorient(codes)
    words = {3: 'the skull', 9: 'the left kidney'}
    marks = {'the left kidney': [Box((3,3,3), (6,6,6)), Mask(vol.data>240)]}
    first,own = far(vol, words, presence=0),seg(vol, words, presence=0)
    same(first, own)
    same(first.refine(marks), own.refine(marks))
    same(first.refine(marks).refine({'the skull': [Point((4,5,6), positive=False)]}),
         own.refine(marks).refine({'the skull': [Point((4,5,6), positive=False)]}))
    same(far(vol, list(words.values()), spatial=marks), seg(vol, list(words.values()), spatial=marks))
    assert first.refine({}) is first and len(far.sent)==1
    objects,own = far(vol, ['the skull'], instance=True),seg(vol, ['the skull'], instance=True)
    assert np.array_equal(objects.instances['the skull'], own.instances['the skull'])
    assert far.dry_run(vol, words).passes==seg.dry_run(vol, words).passes
    odd = {'spleen': [Point((1,1,1))]}
    for call in (lambda: far(vol, words, threshold=7), lambda: far(vol, []), lambda: far(vol, 'liver', spatial=odd),
                 lambda: first.refine({'the skull': [Point((99,1,1))]})):
        with pytest.raises(UserError): call()
    with pytest.raises(Stopped): far(vol, words, progress=lambda done,total: False)
    for name,_ in desk.scans.items(): desk.scans.drop(name) # as after a restart
    after = first.refine(marks)
    assert 'had forgotten' in after.manifest['notes'][-1] and after.masks['the left kidney'][3:6,3:6,3:6].all()


def test_the_studio_and_the_command_line_use_a_server(there, tmp_path, monkeypatch, capsys):
    from medals.cli import main
    from medals.widgets import Studio
    url,_ = there
    studio = Studio(medals.connect(url, KEY), scan, ['the skull'])
    studio.run()
    same(studio.result, seg(scan, ['the skull']))
    studio.add('the skull', Box((2,2,2), (5,5,5)))
    assert studio.run().masks['the skull'][2:5,2:5,2:5].all()
    write_volume(tmp_path/'head.nii.gz', scan)
    write_volume(tmp_path/'again.nii.gz', scan)
    monkeypatch.setenv('MEDALS_KEY', KEY)
    monkeypatch.chdir(tmp_path)
    assert main(['segment', 'head.nii.gz', 'the skull', '--server', url, '-o', 'one'])==0
    assert main(['segment', 'head.nii.gz', 'again.nii.gz', 'the skull', '--server', url, '-o', 'many'])==0
    want = seg(scan, ['the skull']).masks['the skull']
    for path in ('one/the_skull.nii.gz', 'many/again/the_skull.nii.gz'): assert np.array_equal(read_labels(path)[0].data>0, want)
    assert main(['segment', 'head.nii.gz', 'the skull', '--server', url, '--weights', 'nano', '--backend', 'openvino', '-o', 'no'])==2
    assert '--weights, --backend and --server do not go together' in capsys.readouterr().err and not Path('no').exists()
    assert main(['segment', 'head.nii.gz', 'the skull', '--server', 'http://127.0.0.1:9', '-o', 'none'])==2
    assert 'is `medals serve` running there' in capsys.readouterr().err


def test_what_a_hand_has_changed_goes_along_with_the_next_mark(there):
    "A brush, a rubber, a new class and a copy, in a Studio on a server and in one that has the network"
    from medals.widgets import Studio
    url,desk = there
    studios = [Studio(o, scan, ['the skull','something']) for o in (medals.connect(url, KEY), seg)]
    def step(name, at, on=True, click=None):
        for studio in studios:
            studio.paint(name, Scribble(at, 14.), on)
            if click: studio.add('the skull', Point(click, positive=False))
            studio.run()
        far,near = [studio.result.masks for studio in studios]
        assert list(far)==list(near) and all(np.array_equal(far[o], near[o]) for o in near)
        lo = tuple(at[0])
        assert far[name][lo]==on, 'the stroke is still there'
    for studio in studios: studio.run()
    step('the skull', [(0,0,0),(0,4,0)], click=(12,14,11))
    step('something', [(12,14,11),(12,18,11)], on=False, click=(12,20,11))
    step('a scar', [(9,9,9),(9,12,9)])
    for name,_ in desk.scans.items(): desk.scans.drop(name) # as after a restart
    step('the skull', [(0,9,0),(0,12,0)], click=(12,6,11))
    assert studios[0].result.masks['the skull'][0,0,0], 'and so is the first one'


@pytest.mark.parametrize('how', (dict(instance=True), dict(keep_scores=True)))
def test_a_copy_of_a_result_can_be_corrected(there, how):
    far = medals.connect(there[0], KEY)
    marks = {'the skull': [Point((12,14,11), positive=False)]}
    res,own = far(scan, ['the skull'], presence=0, **how),seg(scan, ['the skull'], presence=0, **how)
    for copied in (deepcopy(res), replace(res), copy(res)):
        after,want = copied.refine(marks),own.refine(marks)
        same(after, want)
        for name in ('instances','voxel_scores'):
            a,b = getattr(after, name),getattr(want, name)
            assert list(a)==list(b) and all(np.array_equal(a[o], b[o]) for o in b)
    without = replace(res, instances={}, voxel_scores={}).refine(marks)
    assert not without.instances and not without.voxel_scores
    with pytest.raises(UserError, match='not here'): pickle.loads(pickle.dumps(res)).refine(marks)


@pytest.mark.parametrize('setting', (
    dict(seed='a'), dict(seed=1.5), dict(tta='abc'), dict(tta=1), dict(threshold=True), dict(threshold=None), dict(stages=['both']),
    dict(max_memory='much'), dict(presence=[0]), dict(keep_scores='no'), dict(blind={}), dict(weights='nano'), [1], 'fast'))
def test_settings_of_another_kind_are_refused(there, http, setting):
    vol = dict(affine=scan.affine.tolist())
    name = http.post('/medals/scans', content=parcel(vol, [scan.data])).json()['scan_id']
    for path in ('/medals/runs', '/medals/forecast'):
        got = http.post(path, json=dict(scan_id=name, prompts=['the skull'], settings=setting))
        assert got.status_code==400 and len(got.json()['detail'])>9, got.text
    if isinstance(setting, dict):
        with pytest.raises((UserError, TypeError)): medals.connect(there[0], KEY)(scan, ['the skull'], **setting)


def test_keys_and_addresses_as_people_type_them(monkeypatch):
    with server(key=' open sesame\n') as (url, _):
        assert medals.connect(url.replace('http', 'HTTP')+'/', 'open sesame ').about['device']=='cpu'
        with pytest.raises(UserError, match='asks for a key'): medals.connect(url, 'opensesame')
        for odd in ('clé', 'a\nb'):
            with pytest.raises(UserError, match='a key is made of'): medals.connect(url, odd)
            with pytest.raises(UserError, match='a key is made of'): ServeCfg(key=odd)
        raw = 'clé'.encode()
        for kind in (b'Bearer '+raw, b'Basic '+raw, b'Basic '+base64.b64encode(b'me:'+raw), b'Bearer', b''):
            assert httpx.get(url+'/healthz', headers={b'Authorization': kind}).status_code==401
        monkeypatch.setenv('MEDALS_KEY', 'open sesame ')
        assert medals.connect(f' {url} ').about['sentences']==[]
    for odd in ('gpu:1527', 'ftp://gpu', 'http://', 'http://gpu:x', 'http://gpu:99999', 'http://me:you@gpu', 'http://g pu', None, 'http://gpu?a=b'):
        with pytest.raises(UserError, match='named by its address'): medals.connect(odd)


@pytest.mark.parametrize('prompts', [{'the skull'}, (o for o in ['the skull']), np.array(['the skull'])])
def test_sentences_come_in_any_collection(there, prompts):
    assert list(medals.connect(there[0], KEY)(scan, prompts).masks)==['the skull']


def test_a_prompt_that_is_no_sentence_is_refused_in_a_sentence(there):
    with pytest.raises(UserError): medals.connect(there[0], KEY)(scan, 3)


def test_an_upload_that_is_no_nifti_says_what_is_wanted(http, tmp_path):
    write_volume(tmp_path/'scan.nii', scan)
    got = http.post('/images', files=dict(file=(tmp_path/'scan.nii').read_bytes())) # as curl -F does
    assert got.status_code==400 and 'not as a form' in got.json()['detail'] and 'medals-' not in got.json()['detail'], got.text
    long = http.post('/jobs', json=dict(image_id='x', prompts=['x'*600])).json()['detail']
    assert 'longer than 500 letters' in long


@pytest.mark.parametrize('reply,why', [
    ((308, b'', {'Location': 'https://127.0.0.1:1/medals/about'}), 'sends those who ask on to https://127.0.0.1:1; connect to that'),
    ((200, b'<html>hello</html>', {}), 'is no `medals serve`'), ((200, b'[1]', {}), 'is no `medals serve`'),
    ((200, b'{"weights": 3}', {}), 'is no `medals serve`')])
def test_what_answers_is_another_server(reply, why):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            status,body,headers = reply
            self.send_response(status)
            for name,value in {**headers, 'Content-Length': str(len(body))}.items(): self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_): pass
    with HTTPServer(('127.0.0.1', 0), Other) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        with pytest.raises(UserError, match=why): medals.connect(f'http://127.0.0.1:{other.server_port}')


def test_a_client_needs_no_torch():
    code = ("import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['monai'] = None; import medals; "
            "from medals.widgets import Studio; from medals.cli import parser; assert medals.connect and medals.read_volume")
    subprocess.run([sys.executable, '-c', code], check=True)


def test_keys_and_pages_of_others(there):
    url,_ = there
    assert httpx.get(url+'/healthz').status_code==401 and 'Basic' in httpx.get(url+'/').headers['www-authenticate']
    page = httpx.get(url+'/', auth=('anybody', KEY))
    assert page.status_code==200 and 'How to connect' in page.text and url in page.text
    own = {'Authorization': f'Bearer {KEY}'}
    assert httpx.post(url+'/claim', headers={**own, 'Origin': 'https://evil.example'}).status_code==403
    with pytest.raises(UserError, match='key is needed'): ServeCfg(host='0.0.0.0')
    def asked_as(host, key=''):
        headers = {'host': host, **({'authorization': f'Bearer {key}'} if key else {})}
        return why_not(headers, ServeCfg(key=key))
    for host in ('127.0.0.1:1527', 'localhost', '[::1]:1527'): assert asked_as(host) is None
    assert asked_as('evil.example:1527').status==403 and asked_as('evil.example', KEY) is None, 'a name that leads here is no key'


PATHS = ('/images', '/jobs', '/images/x/export', '/set_image', '/set_target_buffer',
         '/add_point_interaction', '/add_bbox_interaction',
         '/add_scribble_interaction', '/add_lasso_interaction', '/add_initial_seg_interaction', '/predict',
         '/set_sentence', '/set_do_autozoom',
         '/upload_raw/SNAP', '/process_scribble_interaction/SNAP', '/medals/scans', '/medals/runs',
         '/medals/forecast', '/medals/runs/x/refine', '/medals/runs/RUN/refine')
good = [
    pack(scan.data[None]), pack_voxtell(scan.data), parcel(dict(affine=np.eye(4)), [scan.data]),
    gzip.compress(bytes(400)), b'', b'null']
plain = st.none()|st.booleans()|st.integers(-2**70, 2**70)|st.floats()|st.text(max_size=9)
values = st.recursive(plain, lambda o: st.lists(o, max_size=4))
names = st.sampled_from((
    'coordinates','bbox_coords','shape','dtype','sentence','prompts','image_id','scan_id','marks','settings','affine','modality','edits'))
fields_of = {
    'settings': st.dictionaries(st.sampled_from([o.name for o in fields(InferenceCfg)]), values, max_size=2),
    'marks': st.dictionaries(st.sampled_from(['the skull','liver']), st.lists(st.fixed_dictionaries(
        dict(kind=st.sampled_from(['point','box','mask','scribble'])), optional=dict(at=values, lo=values, points=values, data=values)),
        max_size=2), max_size=2),
    'edits': st.fixed_dictionaries(dict(masks=st.lists(st.fixed_dictionaries(
        dict(sentence=st.sampled_from(['the skull','scar'])),
        optional=dict(box=values, data=values, instances=values, voxel_scores=values)),
        max_size=2)), optional=dict(ids=values|st.just([[1,'the skull']])))}
metas = st.none()|st.dictionaries(names|st.just('image_properties'), values, max_size=3)
kinds = st.sampled_from(('application/json','multipart/form-data','multipart/form-data; boundary=x',''))


@st.composite
def damaged(draw):
    "A good body with some bytes changed, cut off or doubled; or JSON of anything; or a question of which a part is anything"
    kind = draw(st.integers(0, 2))
    if kind==0: return json.dumps(draw(st.dictionaries(names, values, max_size=4))).encode()
    if kind==1:
        asked = dict(scan_id='SCAN', prompts=['the skull'])
        for name in draw(st.sets(st.sampled_from(sorted(fields_of)), min_size=1)): asked[name] = draw(fields_of[name])
        return json.dumps(asked).encode()
    body = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 3))):
        if body: body[draw(st.integers(0, min(len(body)-1, 60)))] = draw(st.integers(0, 255))
    return bytes(body[:draw(st.integers(0, len(body)))]) if draw(st.booleans()) else bytes(body)


def asked_before(http, desk):
    "A scan and a run that the server knows"
    for run_id,place in desk.runs.items():
        if place.thing.state=='done' and place.thing.scan in desk.scans.places: return place.thing.scan,run_id
    scan_id = http.post('/medals/scans', content=parcel(dict(affine=scan.affine.tolist()), [scan.data])).json()['scan_id']
    run_id = http.post('/medals/runs', json=dict(scan_id=scan_id, prompts=['the skull'])).json()['run_id']
    assert '"done"' in http.get(f'/medals/runs/{run_id}/events').text
    return scan_id,run_id


@settings(max_examples=int(os.environ.get('MEDALS_BODIES', 200)), deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(PATHS), body=damaged(), meta=metas, kind=kinds)
def test_whatever_is_sent_is_refused_in_one_sentence(there, http, path, body, meta, kind):
    desk = there[1]
    scan_id,run_id = asked_before(http, desk)
    body = body.replace(b'"SCAN"', json.dumps(scan_id).encode())
    headers = {'X-Lease-Token': http.post('/claim').json()['lease_token']}
    snap = http.get('/start_session').json()['session_id']
    if meta is not None: headers['X-Meta'] = json.dumps(meta)
    if kind: headers['Content-Type'] = kind
    got = http.post(path.replace('SNAP', snap).replace('RUN', run_id), content=body, headers=headers)
    http.post('/release', headers=headers)
    http.get(f'/end_session/{snap}')
    assert got.status_code<500, got.text
    if got.status_code>=400: assert set(got.json())=={'detail'} and '\n' not in got.json()['detail'] and len(got.json()['detail'])>9
    assert desk.budget.taken<=sum(place.size for shelf in desk.shelves for _,place in shelf.items())


def test_sizes_are_refused_before_memory_is_taken(there, http):
    head = bytearray(pack(np.zeros((1,4,4,4), np.uint8)))
    at = 8+len('uint8')
    head[at+8:at+16] = (2**40).to_bytes(8, 'little') # a body of a hundred bytes that promises 16 terabytes
    lease = {'X-Lease-Token': http.post('/claim').json()['lease_token']}
    got = http.post('/set_image', content=bytes(head), headers=lease)
    assert got.status_code==413 and 'MB' in got.json()['detail']
    assert http.post('/set_target_buffer', json=dict(shape=[2**20]*3, dtype='uint8'), headers=lease).status_code==413
    assert http.post('/set_target_buffer', json=dict(shape=[4,4,4], dtype='float32'), headers=lease).status_code==400
    assert http.post('/jobs', json=dict(image_id='no', prompts=['liver'])).status_code==404
    assert http.post('/jobs', json=dict(image_id='no', prompts=[])).status_code==400
    http.post('/release', headers=lease)
    bomb = gzip.compress(bytes(2**24))
    snap = http.get('/start_session').json()['session_id']
    said = dict(dimensions=[4,4,4], components_per_pixel=1)
    got = http.post(f'/upload_raw/{snap}', files=dict(file=('x', bomb)), data=dict(metadata=json.dumps(said)))
    assert got.status_code==400 and 'more' in got.json()['detail']
    http.get(f'/end_session/{snap}')
    with pytest.raises(Refusal, match='more than the'): unpack(bytes(head), 2**30)


def test_after_a_restart_clients_are_told_to_begin_again():
    remote = pytest.importorskip('nnInteractive.inference.remote')
    with server() as (url, _):
        session = remote.nnInteractiveRemoteInferenceSession(url, KEY)
    with server(port=int(url.rpartition(':')[2])) as (again, _):
        with pytest.raises(remote.SessionExpiredError, match='begin again'): session.undo()
        with viewer(again) as (other, buffer): assert other.add_point_interaction((3,3,3), True) and buffer.any()
    session.close()


def test_a_session_takes_no_more_however_long_somebody_draws(there):
    gen = np.random.default_rng(0)
    with viewer(there[0]) as (session, buffer):
        marking, = [place.thing.marking for _,place in there[1].leases.items() if place.thing.marking]
        for n in range(50):
            stroke = np.zeros(scan.shape, np.uint8)
            stroke[n%24,3:4+n%20,4:9] = 1
            session.add_scribble_interaction(stroke, n%4>0, run_prediction=n%5>0)
            if n%5: assert (buffer[stroke>0]==(n%4>0)).all()
            session.add_point_interaction(tuple(int(o) for o in gen.integers(0, 20, 3)), True, run_prediction=False)
        drawn = [o for o in marking.now.marks if not isinstance(o, Point)]
        assert len(drawn)<=4 and all(o.bits.nbytes<=scan.data.size/6 for o in drawn)
        assert marking.past_bytes()<=2*scan.data.size
        now = buffer.copy()
        session.add_bbox_interaction([[0,24],[0,28],[0,22]], True)
        assert session.undo() and np.array_equal(buffer, now)


def test_results_are_paid_and_make_room():
    "Objects and scores are larger than scans; where there is no room the oldest results go"
    with server(sessions=2) as (url, desk):
        far = medals.connect(url, KEY)
        res = far(scan, ['the skull','something'], instance=True, keep_scores=True)
        paid = [place.size for _,place in desk.runs.items()]
        assert paid[0]>=2*4*scan.data.size and desk.budget.taken>=paid[0]
        assert desk.limit()==pytest.approx(desk.allowed-(desk.budget.total-desk.budget.taken)/2**30)
        total,desk.budget.total = desk.budget.total,desk.budget.taken+kept_size(scan)-1
        with pytest.raises(UserError, match='try again'): far(replace(scan, data=scan.data//2), ['the skull'])
        now = desk.runs.clock()
        desk.runs.clock = lambda: now+61
        far(replace(scan, data=scan.data//2), ['the skull'])
        desk.budget.total = total
        assert len(desk.runs)==1 and res.refine({'the skull': [Point((1,1,1))]}).masks['the skull'][1,1,1]
    assert not desk.budget.taken


def test_a_run_that_takes_longer_than_the_server_waits_for_questions_is_not_dropped():
    found = []
    with server() as (url, desk):
        far = medals.connect(url, KEY)
        network.gate = threading.Event()
        network.inside.clear()
        try:
            waits = threading.Thread(target=lambda: found.append(far(scan, ['the skull'])))
            waits.start()
            assert network.inside.wait(20)
            now = desk.scans.clock()
            for shelf in desk.shelves:
                shelf.clock = lambda: now+4000
                shelf.reap()
        finally:
            network.gate.set()
            network.gate = None
        waits.join(20)
    assert len(found)==1


def test_what_marks_alone_find_is_said(monkeypatch):
    from medals.inference.stages import learned_marks_alone
    assert learned_marks_alone('nano') is False and learned_marks_alone('random:nano') is None
    for fact,words in ((False, 'have not learned'), (True, ''), (None, 'do not say')):
        monkeypatch.setattr(seg, 'marks_alone', fact)
        with server(key='') as (url, desk):
            page = httpx.get(url+'/').text
            assert (words in page) if words else 'learned' not in page
            assert httpx.get(url+'/capabilities').json()['marks_alone'] is fact
            assert any('--sentence' in o for o in notes_at_start(desk))==(fact is False)
            desk.cfg = replace(desk.cfg, sentence='liver')
            assert not any('--sentence' in o for o in notes_at_start(desk)) and 'learned' not in httpx.get(url+'/').text


def test_more_sessions_than_fit_are_said():
    cfg = ServeCfg(sessions=4)
    assert not too_many(cfg, 2**32) and '1 of 512x512x300' in too_many(cfg, 2**30)


@contextmanager
def process(port, log):
    "A server of its own, as `medals serve` starts it, but for the network"
    code = """
import sys
import test_serving as t
from medals.serving.app import run_server
t.Segmenter.load = lambda *args, **how: t.seg
run_server(t.ServeCfg(port=int(sys.argv[1])))
"""
    env = {**os.environ, 'MEDALS_KEY': KEY}
    with open(log, 'ab') as out:
        run = subprocess.Popen([sys.executable, '-c', code, str(port)], cwd=Path(__file__).parent, stdout=out, stderr=out, env=env)
    try:
        headers = {'Authorization': f'Bearer {KEY}'}
        for _ in range(600):
            assert run.poll() is None, Path(log).read_text()
            try:
                if httpx.get(f'http://127.0.0.1:{port}/healthz', headers=headers, timeout=60).json()=={'ok': True}: break
            except httpx.TransportError: time.sleep(.2)
        yield run
    finally:
        run.kill()
        run.wait()


def everybody(url, http, path):
    "A client of each kind, each in the middle of something"
    remote = pytest.importorskip('nnInteractive.inference.remote')
    far = medals.connect(url, KEY)
    res = far(scan, ['the skull'], presence=0)
    session = remote.nnInteractiveRemoteInferenceSession(url, KEY)
    session.set_image(scan.data[None], {'spacing': np.array(scan.spacing)})
    session.set_target_buffer(np.zeros(scan.shape, np.uint8))
    session.add_point_interaction((12,14,11), True)
    _,meta,job,lines = jobs(http, path, ['the skull'])
    assert lines[-1]=={'status': 'done'}
    snap = http.get('/start_session').json()['session_id']
    return types.SimpleNamespace(far=far, res=res, session=session, remote=remote, image=meta['image_id'], job=job, snap=snap)


def all_begin_again(http, before):
    "Names of the server before are unknown to the one after it, and each call says so"
    with pytest.raises(before.remote.SessionExpiredError, match='begin again'): before.session.undo()
    gone = [
        http.post('/jobs', json=dict(image_id=before.image, prompts=['liver'])), http.get(f'/jobs/{before.job}/result'),
        http.get(f'/process_point_interaction/{before.snap}?x=1&y=1&z=1&foreground=true')]
    for got in gone: assert got.status_code==404 and 'begin again' in got.json()['detail']


def test_killed_in_the_middle_of_a_run_and_started_again(tmp_path):
    "SIGKILL of a real process: whoever waits is told in a sentence, and after the start each kind of client goes on or begins again"
    with open_port('127.0.0.1', 0) as free: port = free.getsockname()[1]
    url,path = f'http://127.0.0.1:{port}',tmp_path/'head.nii.gz'
    write_volume(path, scan)
    marks = {'the skull': [Box((3,3,3), (6,6,6))]}
    long = phantom((24,28,120), (8.,8.,8.))[0]
    with httpx.Client(base_url=url, headers={'Authorization': f'Bearer {KEY}'}, timeout=60) as http:
        with process(port, tmp_path/'log') as run:
            before = everybody(url, http, path)
            with pytest.raises(UserError, match='no answer|hung up') as said:
                before.far(long, ['the skull'], progress=lambda done,total: run.kill())
            assert '\n' not in str(said.value)
            run.wait()
            with pytest.raises(UserError, match='is `medals serve` running there'): before.res.refine(marks)
            with pytest.raises(httpx.TransportError): before.session.undo()
        with process(port, tmp_path/'log'):
            all_begin_again(http, before)
            with viewer(url) as (other, buffer): assert other.add_point_interaction((12,14,11), True) and buffer[12,14,11]
            after = before.res.refine(marks)
            assert after.masks['the skull'][3:6,3:6,3:6].all() and 'had forgotten' in after.manifest['notes'][-1]
            same(before.far(scan, ['the skull'], presence=0), before.res)
    before.session.close()
