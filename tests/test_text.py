"The text encoder against numbers of the published code"
import json

import numpy as np
import pytest
import torch

from helpers import fill_weight, here, salted_weight, set_weights, shared
from medals.core import UserError
from medals.text import KnowledgeEncoder, TextEncoder, tokenize


def test_published_numbers_in_float64():
    from transformers import MPNetConfig
    cfg = MPNetConfig(vocab_size=30527, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
                      max_position_embeddings=514, layer_norm_eps=1e-5, relative_attention_num_buckets=32)
    with torch.device('meta'): net = KnowledgeEncoder(cfg)
    net = net.to_empty(device='cpu').double()
    assert sum(p.numel() for p in net.parameters())==110_671_488
    for name,b in net.named_buffers():  # the only ones are index buffers that meta tensors left empty
        if name.endswith('position_ids'): b.copy_(torch.arange(b.shape[1])[None])
    set_weights(net, fill_weight, torch.float64)
    ids = torch.tensor([[105,11228,106,0,0,0,0], [105,3000,4000,5000,6000,7000,106]])
    gold = json.loads((here/'golden'/'text_12_layers.json').read_text())
    with torch.inference_mode():
        pooled = net.pool(ids, (ids>0).long())
        final = net.projection_layer(pooled)+net.modality_embed(torch.tensor([0,4]))
    for name,x in dict(pooled=pooled, final=final).items():
        got = [*x.mean(1), *x.std(1, unbiased=False), *x[0,:4], *x[1,-2:]]
        assert np.abs(np.array([float(o) for o in got])-gold[name]).max()<1e-6, name


@pytest.fixture(scope='module')
def tiny():
    "The tiny encoder of the golden files, its numbers and its state dict"
    folder = here/'golden'/'text_encoder'
    z = np.load(folder/'golden.npz')
    from transformers import AutoConfig
    net = set_weights(KnowledgeEncoder(AutoConfig.from_pretrained(folder)), lambda k,s: salted_weight(k, s, str(z['salt'])))
    return folder,z,net.state_dict()


def test_tokens_and_queries_of_the_published_code(tiny, tmp_path):
    folder,z,sd = tiny
    enc = TextEncoder.load({'model_state_dict': {'module.'+k: v for k,v in sd.items()}}, base=folder, cache=tmp_path)
    texts = [str(o) for o in z['texts']]
    ids,mask = tokenize(enc.tokenizer, texts)
    assert np.array_equal(ids, z['input_ids']) and np.array_equal(mask, z['attention_mask'])
    names = ['ct','mri','us','pet','microscopy']
    q = enc(texts, [names[int(i)] for i in z['modality']])
    assert np.abs(q.numpy()-z['out']).max()<1e-4


def test_known_sentences_need_no_weights(tiny, tmp_path):
    folder,_,sd = tiny
    a = TextEncoder.load(sd, base=folder, cache=tmp_path)
    q = a(['liver','left kidney'], 'ct')
    b = TextEncoder.load(sd, base=folder, cache=tmp_path)
    assert torch.equal(b(['left kidney','liver','liver'], 'CT'), q[[1,0,0]]) and b.net is None
    b(['spleen'], 'ct')
    assert b.net is not None


def test_padding_does_not_change_a_row(tiny):
    folder,_,sd = tiny
    enc = TextEncoder.load(sd, base=folder, cache=False)
    long = 'the left kidney and the spleen in the ct image of the abdominal scan'
    assert torch.allclose(enc(['liver', long], 'mri')[0], enc(['liver'], 'mri')[0], atol=1e-5)


def test_too_long_sentences_are_cut(tiny):
    folder,_,sd = tiny
    enc = TextEncoder.load(sd, base=folder, cache=False)
    ids,mask = tokenize(enc.tokenizer, ['liver '*400])
    assert ids.shape==(1,256) and ids[0,-1]==enc.tokenizer.convert_tokens_to_ids('[SEP]')


def test_a_file_that_does_not_fit_is_refused(tiny):
    folder,_,sd = tiny
    four = {**sd, 'modality_embed.weight': sd['modality_embed.weight'][:4]}
    with pytest.raises(UserError, match='of another shape'): TextEncoder.load(four, base=folder, cache=False)(['liver'], 'ct')
    with pytest.raises(UserError, match='1 missing'):
        TextEncoder.load({k: v for k,v in sd.items() if k!='modality_embed.weight'}, base=folder, cache=False)(['liver'], 'ct')


@pytest.mark.skipif(not (shared/'golden'/'text_encoder').exists(), reason='only compares the copy in tests/golden with its source')
def test_the_copy_is_the_original():
    for f in ('golden.npz','config.json','tokenizer.json'):
        assert (here/'golden'/'text_encoder'/f).read_bytes()==(shared/'golden'/'text_encoder'/f).read_bytes()


@pytest.fixture(scope='module')
def small():
    "The encoder that ships, and what it thinks of each concept"
    from medals.pretraining.recall import concept_means
    enc = TextEncoder.load('small', cache=False)
    return enc,concept_means(enc)


def test_the_small_encoder_reads_new_words(small):
    "Among all two thousand concepts of the table"
    from medals.pretraining.recall import new_wordings, new_words, retrieval
    enc,means = small
    assert retrieval(enc, new_wordings()[::5], means=means)>.98
    assert retrieval(enc, new_words(), means=means)>=.83 # the aim is .90


def test_the_encoder_that_nano_was_trained_with_reads_new_words():
    "As long as it ships"
    from medals.pretraining.recall import new_wordings, new_words, retrieval
    enc = TextEncoder.load('nano', cache=False)
    assert retrieval(enc, new_wordings()[::5])>.95
    assert retrieval(enc, new_words())>=.75 # the encoder before it reached .59


@pytest.mark.parametrize('name,least', [('totalsegmentator', .99), ('freesurfer', .99), ('unseen', .78)])
def test_the_small_encoder_knows_the_names_of_tools(small, name, least):
    from medals.pretraining.recall import listed, retrieval
    enc,means = small
    assert retrieval(enc, listed(here/'vocab'/f'{name}.tsv'), means=means)>=least


def test_left_is_never_taken_for_right(small):
    "Ten thousand pairs of sentences in many words"
    from medals.pretraining.recall import sides_confused
    assert sides_confused(small[0], 10_000, small[1])==[]


def test_the_small_encoder_is_small_and_whole():
    from medals.base.files import asset, read_json, sha256
    from medals.prompts.anatomy import concepts
    folder = asset('small')
    assert sum(f.stat().st_size for f in folder.iterdir())<=3*2**20
    facts,made = read_json(folder/'text.json'),read_json(folder/'pretrain.json')
    assert facts['sha256']==made['sha256']==sha256(folder/'text.safetensors') and facts['width']==96
    assert {'README.md','log.csv'}<={f.name for f in folder.iterdir()}
    names = sorted(name for name,side in concepts() if side is None)
    assert len(names)>800
    q = TextEncoder.load('small', cache=False)(names, 'ct')
    assert .7<float(q.std())<1.3 # what a query decoder likes to be fed


def test_a_folder_goes_before_the_name_of_an_encoder_that_ships(tmp_path, monkeypatch):
    TextEncoder.load('nano', cache=False).save(tmp_path/'small')
    small = TextEncoder.load('small', cache=False)
    monkeypatch.chdir(tmp_path)
    assert TextEncoder.load('small', cache=False).key!=small.key
    with pytest.raises(UserError, match='one of small, nano'): TextEncoder.load('smal', cache=False)


def test_a_sentence_longer_than_a_small_encoder_reads_is_cut(tiny):
    from transformers import AutoConfig
    folder,_,_ = tiny
    config = AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = 20
    net = KnowledgeEncoder(config).eval()
    enc = TextEncoder(TextEncoder.load(net.state_dict(), base=folder, cache=False).tokenizer, lambda: net, '', cache=False)
    assert torch.allclose(enc(['liver '*400], 'ct'), enc(['liver '*16], 'ct'), atol=1e-5)
