"""Hugging Face folders as they lie on the hub: what may differ between them, what is refused, and what reading one takes."""

import json
import random
import shlex
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import zoo

from research import tree
from research.data import tokenizer as tokenizers
from research.errors import InputError
from research.models import fields as fields_of
from research.models import huggingface, load, names
from research.models.config import Execution
from research.models.families import FAMILIES

FLOAT32 = Execution('float32', 'float32', True)
ZOO = zoo.CONFIGS


def drawn(name, seed=0):
  """Random tensors of a model in the zoo under transformers' names, made without torch."""
  family = FAMILIES[ZOO[name]['model_type']]
  config = names.config_of(family, ZOO[name], name, separate_head=name in zoo.SEPARATE_HEADS)
  rng = np.random.default_rng(seed)
  small = ('attn/q/kernel', 'attn/k/kernel', 'cross/q/kernel', 'cross/k/kernel')       # T5 does not scale its scores
  params = {path: (rng.normal(size=shape) / (12 if path.endswith(small) else 4) + path.endswith('scale')).astype(np.float32)
            for path, shape in names.shapes(config).items()}
  return names.export_params(family, config, tree.nested(params))


def write(folder, fields, tensors, shards=1):
  """The folder of a model, in one file or in shards, with the byte tokenizer."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(fields))
  tokenizers.of_bytes().hf.save_pretrained(folder)
  save = lambda some, file: safetensors.numpy.save_file({n: np.ascontiguousarray(x) for n, x in some.items()}, folder / file,
                                                        metadata={'format': 'pt'})
  if shards == 1:
    save(tensors, 'model.safetensors')
    return folder
  files = {n: f'model-{i % shards + 1:05}-of-{shards:05}.safetensors' for i, n in enumerate(tensors)}
  for file in sorted(set(files.values())):
    save({n: x for n, x in tensors.items() if files[n] == file}, file)
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': files}))
  return folder


def read(folder, execution=FLOAT32):
  """What is in the folder now, whatever was read of it before."""
  return load._load.__wrapped__(str(folder), execution, None, None)


def refused(folder, *saying):
  """Every one of `saying` stands in the one line with which the folder is refused."""
  with pytest.raises(InputError) as e:
    read(folder)
  assert '\n' not in str(e.value)
  for words in saying:
    assert words in str(e.value)


def assert_same(loaded, expected):
  assert loaded.model.config == expected.model.config
  found, wanted = tree.leaves(loaded.params), tree.leaves(expected.params)
  assert found.keys() == wanted.keys()
  for path, x in wanted.items():
    np.testing.assert_array_equal(found[path], x, err_msg=path)


def _masks(prefix, layers, context):
  """The buffers with which attention once kept its causal mask."""
  mask = np.tril(np.ones((context, context), np.bool_))[None, None]
  return {f'{prefix.format(n=n)}{leaf}': x for n in range(layers)
          for leaf, x in (('bias', mask), ('masked_bias', np.float32(-1e9)))}


def _bare(prefix, tensors):
  return {n.removeprefix(prefix): x for n, x in tensors.items()}


def _frequencies(prefix, layers):
  return {f'{prefix.format(n=n)}rotary_emb.inv_freq': np.ones(5, np.float32) for n in range(layers)}


AS_ON_THE_HUB = {   # what it is -> (a model of the zoo, what its tensors become)
    'GPT-2 without its prefix': ('gpt2', lambda t: _bare('transformer.', t)),
    'GPT-2 without its prefix, with masks': ('gpt2', lambda t: _bare('transformer.', t) | _masks('h.{n}.attn.', 3, 64)),
    'GPT-2 with masks': ('gpt2', lambda t: t | _masks('transformer.h.{n}.attn.', 3, 64)),
    'GPT-2 with its head': ('gpt2', lambda t: t | {'lm_head.weight': t['transformer.wte.weight']}),
    'Pythia with masks and frequencies': ('gpt_neox', lambda t: t | _masks('gpt_neox.layers.{n}.attention.', 3, 64)
                                          | _frequencies('gpt_neox.layers.{n}.attention.', 3)),
    'Llama with frequencies': ('llama', lambda t: t | _frequencies('model.layers.{n}.self_attn.', 3)),
    'Llama without its prefix': ('llama', lambda t: _bare('model.', t)),
    'tied Llama with its head': ('llama-tied', lambda t: t | {'lm_head.weight': t['model.embed_tokens.weight']}),
    'tied Llama with nothing but its head': ('llama-tied', lambda t: {
        'lm_head.weight' if n == 'model.embed_tokens.weight' else n: x for n, x in t.items()}),
    'T5 with all names of its embedding': ('t5', lambda t: t | dict.fromkeys(
        ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', 'lm_head.weight'), t['shared.weight'])),
    'T5 1.1 with the names of its embedding': ('t5-1.1', lambda t: t | dict.fromkeys(
        ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'), t['shared.weight'])),
    'T5 with a bias that no T5 reads': ('t5', lambda t: t | {
        'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight': np.ones((8, 4), np.float32)}),
}


@pytest.mark.parametrize('what', AS_ON_THE_HUB)
def test_a_folder_as_the_hub_has_it_loads_equal_to_the_plain_one(tmp_path, what):
  name, change = AS_ON_THE_HUB[what]
  tensors = drawn(name)
  changed = change(tensors)
  assert changed.keys() != tensors.keys()
  plain = read(write(tmp_path / 'plain', ZOO[name], tensors))
  assert_same(read(write(tmp_path / 'hub', ZOO[name], changed)), plain)
  assert_same(read(write(tmp_path / 'shards', ZOO[name], changed, shards=3)), plain)


@pytest.mark.parity
@pytest.mark.parametrize('what', AS_ON_THE_HUB)
def test_transformers_reads_the_same_model_from_a_folder_as_the_hub_has_it(tmp_path, what):
  import torch
  from test_families import batch_of, our_logits, torch_logits
  from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
  name, change = AS_ON_THE_HUB[what]
  folder = write(tmp_path, ZOO[name], change(drawn(name)))
  loaded = read(folder)
  kind = AutoModelForSeq2SeqLM if loaded.model.config.has_encoder else AutoModelForCausalLM
  theirs = kind.from_pretrained(folder, attn_implementation='eager').eval()
  batch = batch_of(loaded.model.config)
  with torch.no_grad():
    expected = torch_logits(theirs, loaded.model.config, batch).numpy()
  np.testing.assert_allclose(our_logits(loaded.model, loaded.params, batch), expected, rtol=0, atol=1e-4)


def test_t5_is_tied_where_its_head_is_the_embedding_and_not_where_it_differs(tmp_path):
  tensors = drawn('t5')
  same = write(tmp_path / 'same', ZOO['t5'], tensors | {'lm_head.weight': tensors['shared.weight']})
  other = write(tmp_path / 'other', ZOO['t5'], tensors | {'lm_head.weight': tensors['shared.weight'] * 2})
  assert read(same).model.config.tied and 'head' not in read(same).params
  assert not read(other).model.config.tied
  np.testing.assert_array_equal(read(other).params['head']['kernel'], 2 * tensors['shared.weight'].T)


@pytest.mark.parametrize('name, twin, original', [
    ('t5', 'encoder.embed_tokens.weight', 'shared.weight'), ('t5-1.1', 'decoder.embed_tokens.weight', 'shared.weight'),
    ('llama-tied', 'lm_head.weight', 'model.embed_tokens.weight'), ('gpt2', 'lm_head.weight', 'transformer.wte.weight')])
def test_duplicates_that_differ_are_refused(tmp_path, name, twin, original):
  tensors = drawn(name)
  other = tensors[original].copy()
  other[-1, -1] += 1
  refused(write(tmp_path, ZOO[name], tensors | {twin: other}), str(tmp_path), twin, f'not the same as {original}')


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize('name', ['llama', 'gpt2', 'phi3'])
def test_files_in_half_precision_are_read_without_loss(tmp_path, name, dtype, shards):
  halved = {n: x.astype(dtype) for n, x in drawn(name).items()}
  family = FAMILIES[ZOO[name]['model_type']]
  folder = write(tmp_path, ZOO[name], halved, shards)
  for kept in ('float32', *(['bfloat16'] if dtype is ml_dtypes.bfloat16 else [])):
    loaded = read(folder, Execution('float32', kept, True))
    assert {x.dtype for x in tree.leaves(loaded.params).values()} == {jnp.dtype(kept)}
    exported = names.export_params(family, loaded.model.config, loaded.params)
    assert exported.keys() == halved.keys()
    for tensor, x in halved.items():
      np.testing.assert_array_equal(exported[tensor].astype(np.float32), x.astype(np.float32), err_msg=tensor)


@pytest.mark.parametrize('dtype, says', [(b'I32', 'int32'), (b'U32', 'uint32')])
def test_a_tensor_of_whole_numbers_is_refused(tmp_path, dtype, says):
  name = 'model.layers.1.mlp.up_proj.weight'
  folder = write(tmp_path, ZOO['llama'], drawn('llama'))
  file = folder / 'model.safetensors'
  before, at, after = file.read_bytes().partition(name.encode() + b'":{"dtype":"')
  file.write_bytes(before + at + after.replace(b'F32', dtype, 1))
  refused(folder, str(file), name, f'holds {says}')


def test_a_tensor_in_a_format_that_numpy_does_not_know_is_refused(tmp_path):
  tensors = drawn('llama')
  folder = write(tmp_path, ZOO['llama'], tensors | {'model.norm.weight': np.zeros(48, np.uint8)})
  file = folder / 'model.safetensors'
  before, at, after = file.read_bytes().partition(b'model.norm.weight":{"dtype":')
  file.write_bytes(before + at + after.replace(b'"U8",', b'"F8_E4M3",', 1))
  header = len(before + at + after) - len(file.read_bytes())
  data = file.read_bytes()
  file.write_bytes((int.from_bytes(data[:8], 'little') - header).to_bytes(8, 'little') + data[8:])
  refused(folder, str(file), 'model.norm.weight cannot be read')


@pytest.mark.parametrize('count', [1, 5, 7])
def test_missing_and_unexpected_tensors_are_listed_the_first_five_and_how_many_more(tmp_path, count):
  tensors = drawn('llama')
  gone = sorted(n for n in tensors if 'layers.1.' in n)[:count]
  extra = [f'model.layers.{n}.other.weight' for n in range(count)]
  more = ' and 2 more' if count == 7 else ''
  lists = lambda names: ', '.join(names[:5]) + more
  folder = write(tmp_path, ZOO['llama'], {n: x for n, x in tensors.items() if n not in gone})
  with pytest.raises(InputError) as e:
    read(folder)
  assert str(e.value) == f'{tmp_path} lacks tensors of a llama model: {lists(gone)}'
  write(tmp_path, ZOO['llama'], tensors | dict.fromkeys(extra, np.ones(3, np.float32)))
  with pytest.raises(InputError) as e:
    read(folder)
  assert str(e.value) == f'{tmp_path} holds unexpected tensors of a llama model: {lists(extra)}'


@pytest.mark.parametrize('name, fields, says', [
    ('llama', {'rope_parameters': {'rope_type': 'spiral', 'rope_theta': 1e4}}, ["rope_type='spiral'", 'yarn, llama3']),
    ('llama', {'rope_scaling': {'type': 'spiral', 'factor': 2.0}}, ["rope_type='spiral'", 'yarn, llama3']),
    ('llama', {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 1e4, 'factor': 8.0}}, ['llama3', 'low_freq_factor']),
    ('phi3', {'rope_scaling': {'type': 'longrope', 'short_factor': [1.0], 'long_factor': [1.0]}}, ['longrope']),
    ('phi3', {'rope_scaling': {'type': 'su', 'short_factor': [1.0], 'long_factor': [1.0]}}, ['longrope']),
    ('llama', {'hidden_act': 'quick_gelu'}, ["hidden_act='quick_gelu'", 'silu', 'gelu_new']),
    ('gpt2', {'activation_function': 'tanh'}, ["activation_function='tanh'", 'gelu_new']),
    ('gemma2', {'hidden_activation': 'silu'}, ["hidden_activation='silu'", 'gelu_pytorch_tanh']),
    ('t5', {'feed_forward_proj': 'gated-tanh'}, ["feed_forward_proj='gated-tanh'", 'gated-gelu']),
    ('llama', {'quantization_config': {'bits': 4, 'quant_method': 'gptq'}}, ['quantization_config=', 'gptq']),
    ('llama', {'num_local_experts': 8}, ['num_local_experts=8']),
    ('qwen2', {'num_experts': 60}, ['num_experts=60']),
    ('llama', {'n_routed_experts': 64}, ['n_routed_experts=64']),
    ('qwen3', {'moe_intermediate_size': 768}, ['moe_intermediate_size=768']),
    ('gpt2', {'auto_map': {'AutoModelForCausalLM': 'modeling.Mine'}}, ['auto_map', 'never executed']),
    ('qwen2', {'layer_types': ['full_attention', 'linear_attention', 'full_attention']}, ["'linear_attention'"]),
    ('gemma3_text', {'layer_types': ['chunked_attention'] * 4}, ["'chunked_attention'", 'sliding_attention']),
    ('smollm3', {'layer_types': ['full_attention', 'recurrent', 'full_attention']}, ["'recurrent'"]),
    ('gemma2', {'layer_types': ['full_attention']}, ['layer_types', 'each of the 4 layers']),
    ('llama', {'pretraining_tp': 2}, ['pretraining_tp=2', '1']),
    ('gpt2', {'scale_attn_by_inverse_layer_idx': True}, ['scale_attn_by_inverse_layer_idx=True']),
    ('gpt2', {'scale_attn_weights': False}, ['scale_attn_weights=False']),
    ('gpt2', {'add_cross_attention': True}, ['add_cross_attention=True']),
    ('gemma', {'use_bidirectional_attention': True}, ['use_bidirectional_attention=True']),
    ('gemma3_text', {'use_bidirectional_attention': True}, ['use_bidirectional_attention=True']),
    ('llama', {'model_type': 'mamba'}, ["model_type 'mamba'", ', '.join(FAMILIES)]),
    ('llama', {'model_type': 'mixtral', 'num_local_experts': 8}, ["model_type 'mixtral'", ', '.join(FAMILIES)]),
    ('llama', {'model_type': ['llama']}, ["model_type ['llama']", ', '.join(FAMILIES)]),
    ('llama', {'rope_parameters': {'rope_type': 'default', 'rope_theta': 'high'}}, ["rope_theta='high'"]),
    ('llama', {'rope_scaling': 'linear'}, ["rope_scaling='linear'"]),
    ('llama', {'tie_word_embeddings': 'no'}, ["tie_word_embeddings='no'"]),
    ('mistral', {'sliding_window': '4k'}, ["sliding_window='4k'"]),
    ('t5', {'decoder_start_token_id': [0]}, ['decoder_start_token_id=[0]']),
])
def test_a_config_that_says_what_is_not_computed_is_refused_by_name(tmp_path, name, fields, says):
  folder = write(tmp_path, {**ZOO[name], **fields}, {'nothing': np.zeros(1, np.float32)})
  with pytest.raises(InputError) as e:
    huggingface.read(folder)
  for words in ('config.json', *says):
    assert words in str(e.value)


@pytest.mark.quick
def test_every_model_of_the_zoo_is_one_whose_config_is_read():
  for name, fields in ZOO.items():
    assert names.config_of(FAMILIES[fields['model_type']], fields, name, False).family == fields['model_type']


def test_a_field_that_transformers_knows_and_we_do_not_read_must_be_at_its_default(tmp_path, monkeypatch):
  """Shown on fields that no family reads: one is added to transformers' Llama, and one that is on by default."""
  from transformers import LlamaConfig
  defaults = LlamaConfig.to_dict
  monkeypatch.setattr(LlamaConfig, 'to_dict', lambda self: defaults(self) | {'logit_bias': 0.5, 'use_gate': True})
  def of(**fields):
    return names.config_of(FAMILIES['llama'], {**ZOO['llama'], **fields}, 'config.json', True)
  assert of(logit_bias=0.5, use_gate=True) == of(logit_bias=None, use_gate=None) == of()
  for field, value, default in (('logit_bias', 2.0, '0.5'), ('use_gate', False, 'True'), ('logit_bias', 0, '0.5')):
    with pytest.raises(InputError) as e:
      of(**{field: value})
    assert str(e.value) == f'config.json: {field}={value!r} is not supported (known: {default})'


def test_fields_that_nobody_knows_are_ignored_unless_they_say_experts_or_quantization():
  of = lambda **fields: names.config_of(FAMILIES['llama'], {**ZOO['llama'], **fields}, 'config.json', True)
  assert of(made_by='someone', notes={'a': 1}, torchscript=True) == of()
  for field in ('my_expert_count', 'moe_layers', 'post_quantization'):
    with pytest.raises(InputError, match=f'{field}=2 is not supported'):
      of(**{field: 2})
  assert of(num_experts=0, quantization_config=None, moe_layers=[]) == of()


SIZES = {'llama': dict(vocab_size=270, hidden_size=64, intermediate_size=80, num_hidden_layers=4, num_attention_heads=8,
                       num_key_value_heads=4),
         'gpt2': {}, 't5': dict(vocab_size=270, d_model=40, d_ff=64, num_layers=2, num_heads=4)}


@pytest.mark.parametrize('name', FAMILIES)
def test_an_absent_field_means_what_it_means_to_transformers(name):
  """The same config with every default written out, except for the context, which is only a limit."""
  from transformers import AutoConfig
  sizes = SIZES.get(name, SIZES['t5' if 't5' in name else 'llama'])
  written = AutoConfig.for_model(name, **sizes).to_dict()
  short, full = (names.config_of(FAMILIES[name], fields, name, False) for fields in ({'model_type': name, **sizes}, written))
  assert {**vars(short), 'context': 0} == {**vars(full), 'context': 0}


def test_rope_scaling_wins_over_rope_parameters_as_in_transformers():
  from transformers import AutoConfig
  both = {**ZOO['llama'], 'rope_theta': 700.0, 'rope_scaling': {'type': 'linear', 'factor': 4.0},
          'rope_parameters': {'rope_type': 'default', 'rope_theta': 9000.0}}
  theirs = AutoConfig.for_model(**both)
  assert theirs.rope_parameters['rope_type'] == 'linear' and theirs.rope_parameters['rope_theta'] == 700.0
  rope = names.config_of(FAMILIES['llama'], both, 'config.json', True).layer_kinds[0].rope
  np.testing.assert_allclose(rope.inverse, 700.0 ** -(np.arange(0, 10, 2) / 10) / 4)


def test_no_wrong_kind_of_value_in_a_config_ends_otherwise_than_in_one_line():
  wrong = ('x', -1, 0, 1.5, [], [[]], {}, {'a': 1}, True, float('inf'), float('nan'))
  for name, fields in ZOO.items():
    fields = {'rope_scaling': None, 'rope_theta': 1e4, **fields}
    at = [(field,) for field in fields] + [('rope_parameters', field) for field in fields.get('rope_parameters') or {}]
    for path in at:
      for value in wrong:
        changed = {**fields, path[0]: value if len(path) == 1 else {**fields[path[0]], path[1]: value}}
        if changed['model_type'] != fields['model_type']:
          continue
        try:
          config = names.config_of(FAMILIES[fields['model_type']], changed, 'config.json', False)
        except InputError as e:
          assert str(e).startswith('config.json: '), (name, path, value)
        else:
          assert hash(config) == hash(config)


@pytest.fixture
def pickled(tmp_path):
  """A folder with the weights in pytorch_model.bin alone."""
  import torch
  tensors = drawn('llama')
  folder = write(tmp_path / 'pickled', ZOO['llama'] | {'architectures': ['LlamaForCausalLM']}, tensors)
  (folder / 'model.safetensors').unlink()
  torch.save({n: torch.tensor(x) for n, x in tensors.items()}, folder / 'pytorch_model.bin')
  return folder


@pytest.mark.parity
def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path, pickled):
  with pytest.raises(InputError) as e:
    read(pickled)
  assert '\n' not in str(e.value) and 'pytorch_model.bin is a pickle' in str(e.value)
  _, _, command = str(e.value).partition('installed: ')
  words = shlex.split(command.removesuffix(' (AutoModelForSeq2SeqLM for T5)'))
  assert words[:2] == ['python', '-c']
  subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
  assert_same(read(pickled), read(write(tmp_path / 'plain', ZOO['llama'], drawn('llama'))))


def test_a_tokenizer_with_tokens_beyond_the_embedding_loads_and_refuses_the_texts_that_hold_one(tmp_path):
  folder = write(tmp_path, ZOO['gpt2'], drawn('gpt2'))
  larger = tokenizers.of_bytes(12).hf
  larger.add_tokens(['more'])
  larger.save_pretrained(folder)
  tokenizer = read(folder).tokenizer
  assert len(tokenizer.hf) == 272 and tokenizer.size == 270
  assert tokenizer.encode('<extra_id_10>') == [269]
  for text, token in (('one <extra_id_11>', '<extra_id_11>'), ('and more', 'more')):
    with pytest.raises(InputError, match=f"no embedding for '{token}'"):
      tokenizer.encode(text)


def test_the_single_file_wins_over_an_index_beside_it_as_in_transformers(tmp_path):
  one, other = drawn('llama', seed=0), drawn('llama', seed=1)
  folder = write(tmp_path, ZOO['llama'], other, shards=3)
  write(folder, ZOO['llama'], one)
  assert (folder / 'model.safetensors.index.json').exists()
  found = huggingface.read(folder)[2]
  assert [file.name for file in found.files] == ['model.safetensors']
  for name, x in one.items():
    np.testing.assert_array_equal(found[name], x, err_msg=name)
  for shard in folder.glob('model-*'):
    shard.unlink()
  assert huggingface.read(folder)[2].keys() == one.keys()


@pytest.mark.parity
def test_transformers_too_takes_the_single_file(tmp_path):
  from transformers import AutoModelForCausalLM
  write(tmp_path, ZOO['llama'], drawn('llama', seed=1), shards=3)
  write(tmp_path, ZOO['llama'], drawn('llama'))
  theirs = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
  for name, x in drawn('llama').items():
    np.testing.assert_array_equal(theirs[name].numpy(), x, err_msg=name)


@pytest.mark.parametrize('name', ['llama-tied', 'gpt2', 'gemma'])
def test_a_head_of_its_own_in_a_tied_config_is_refused_with_the_remedy_which_works(tmp_path, name):
  tensors = drawn(name)
  family = FAMILIES[ZOO[name]['model_type']]
  tensors |= {family.head: 2 * tensors[family.embedding]}
  folder = write(tmp_path, ZOO[name], tensors)
  refused(folder, f'{family.head} is not the same as {family.embedding}', 'set "tie_word_embeddings": false in config.json')
  write(folder, ZOO[name] | {'tie_word_embeddings': False}, tensors)
  assert not read(folder).model.config.tied
  np.testing.assert_array_equal(read(folder).params['head']['kernel'], tensors[family.head].T)


WHOLE = [name for name in ZOO if 'rope_parameters' not in ZOO[name] and 'rope_scaling' not in ZOO[name]
         and not name.startswith(('gpt', 't5', 'mt5', 'umt5', 'phi3'))]


@pytest.mark.parametrize('where', ['partial_rotary_factor', 'rope_parameters'])
@pytest.mark.parametrize('name', WHOLE)
def test_a_share_of_turning_dimensions_is_read_by_no_family_whose_original_turns_whole_heads(name, where):
  said = {where: 0.5 if where == 'partial_rotary_factor' else {
      'rope_type': 'default', 'rope_theta': 1e4, 'partial_rotary_factor': 0.5}}
  of = lambda **more: names.config_of(FAMILIES[ZOO[name]['model_type']], ZOO[name] | more, 'config.json', False)
  assert {len(kind.rope.inverse) for kind in of(**said).layer_kinds} == {of().head_dim // 2}
  assert ([kind.rope.inverse for kind in of(**said, rope_theta=1e4).layer_kinds] ==
          [kind.rope.inverse for kind in of(rope_theta=1e4).layer_kinds])
  if name != 'gemma3_text':
    with pytest.raises(InputError, match=r'partial_rotary_factor=0.5 with rope_type=\'linear\' is not supported'):
      of(rope_scaling={'rope_type': 'linear', 'factor': 2.0, 'partial_rotary_factor': 0.5})


@pytest.mark.parity
@pytest.mark.parametrize('name', ['llama', 'qwen3', 'phi3', 'smollm3'])
def test_a_share_of_turning_dimensions_is_what_transformers_makes_of_it(tmp_path, name):
  import torch
  from test_families import batch_of, our_logits, torch_logits
  from transformers import AutoModelForCausalLM
  share = {'rope_parameters': {'rope_type': 'default', 'rope_theta': 100.0, 'partial_rotary_factor': 0.5}}
  folder = write(tmp_path, ZOO[name] | share, drawn(name))
  loaded, theirs = read(folder), AutoModelForCausalLM.from_pretrained(folder, attn_implementation='eager').eval()
  batch = batch_of(loaded.model.config)
  with torch.no_grad():
    expected = torch_logits(theirs, loaded.model.config, batch).numpy()
  np.testing.assert_allclose(our_logits(loaded.model, loaded.params, batch), expected, rtol=0, atol=1e-4)


SIZES_OF = {field for fields in ZOO.values() for field, x in fields.items()
            if type(x) is int and not field.endswith('token_id')} | {'sliding_window'}
NUMBERS_OF = ('rms_norm_eps', 'layer_norm_epsilon', 'layer_norm_eps', 'attn_logit_softcapping', 'final_logit_softcapping',
              'rope_theta', 'partial_rotary_factor', 'rotary_pct', 'rotary_emb_base', 'rope_local_base_freq')


@pytest.mark.quick
@pytest.mark.parametrize('name', ZOO)
def test_sizes_and_numbers_that_cannot_be_are_refused_by_name(name):
  fields, taken = {k: v for k, v in ZOO[name].items() if k != 'rope_parameters'}, 0
  family = FAMILIES[fields['model_type']]
  of = lambda **more: names.config_of(family, fields | more, 'config.json', False)
  wrong = [(field, value) for field in SIZES_OF for value in (
      0, -1, -4096, 4096.5, 1e9, 2**31, 10**400, float('nan'), float('inf'), True, '8', [8])]
  wrong += [(field, value) for field in NUMBERS_OF for value in (
      -0.5, -1e-5, float('nan'), float('inf'), -float('inf'), 1e300, 10**400, True, '1e-5', [1e-5])]
  for field, value in wrong:
    if field == 'max_window_layers' and value == 0:      # all layers have a window
      continue
    read = Spied(fields | {field: value})
    try:
      family.config(read)
    except InputError as e:
      assert str(e).startswith(f'config.json: {field}='), (field, value, str(e))
      taken += 1
    else:
      assert field not in read.asked, f'{field}={value!r:.20} was taken'
  assert taken > 40 and of() == of()


class Spied(fields_of.Fields):
  """Remembers which fields a family looks into."""

  def __init__(self, values):
    super().__init__(values)
    self.asked = self._taken


@pytest.mark.quick
@pytest.mark.parametrize('name, field', [('llama', 'head_dim'), ('qwen2', 'hidden_size'), ('gpt_neox', 'hidden_size'),
                                         ('gemma3_text', 'head_dim')])
def test_a_width_whose_angles_would_fill_the_memory_is_refused_at_once(name, field):
  fields = {k: v for k, v in ZOO[name].items() if k != 'head_dim'} | {field: 2**30}
  with pytest.raises(InputError, match=r'config.json: heads of .* dimensions .* must be at most 65,536'):
    names.config_of(FAMILIES[fields['model_type']], fields, 'config.json', False)


@pytest.mark.quick
def test_t5s_start_and_distances_must_be_possible():
  of = lambda **more: names.config_of(FAMILIES['t5'], ZOO['t5'] | more, 'config.json', False)
  with pytest.raises(InputError, match='decoder_start_token_id=270: must be below vocab_size=270'):
    of(decoder_start_token_id=270)
  with pytest.raises(InputError, match='relative_attention_max_distance=4: must be above half of the 8 buckets'):
    of(relative_attention_max_distance=4)


# What reading takes. Few enough bytes for any machine, and no tensor is a large share of them.
LARGE = dict(model_type='llama', vocab_size=8192, hidden_size=768, intermediate_size=2048, num_hidden_layers=10,
             num_attention_heads=12, num_key_value_heads=12, tie_word_embeddings=True)
MEASURE = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from research import tree
from research.models import huggingface, names

def status(field):
  with open('/proc/self/status') as f:
    return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field))

folder, dtype, hoards = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == 'hoards'
family, config, tensors, _ = huggingface.read(folder)
names.shapes(config)
jax.block_until_ready(jnp.asarray(np.ones(1000, np.float32)))
del tensors
with open('/proc/self/clear_refs', 'w') as f:
  f.write('5')                                              # the peak starts anew from here
before = status('VmRSS')
family, config, tensors, _ = huggingface.read(folder)
if hoards:
  tensors = {name: np.asarray(x) for name, x in tensors.items()}
params = names.import_params(family, config, tensors, str(folder), jnp.dtype(dtype))
jax.block_until_ready(params)
print(json.dumps({'peak': status('VmHWM') - before, 'params': tree.nbytes(params)}))
"""


@pytest.fixture(scope='module')
def large(tmp_path_factory):
  """A folder of about 300 MB in float32, in three shards."""
  config = names.config_of(FAMILIES['llama'], LARGE, 'config.json', False)
  rng = np.random.default_rng(0)
  params = {path: rng.random(shape, np.float32) for path, shape in names.shapes(config).items()}
  return write(tmp_path_factory.mktemp('large'), LARGE, names.export_params(FAMILIES['llama'], config, tree.nested(params)), 3)


def growth(folder, dtype, how='as it is'):
  """(the most memory above the level before reading, the bytes of the parameters), in a process of its own."""
  done = subprocess.run([sys.executable, '-c', MEASURE, str(folder), dtype, how], capture_output=True, text=True,
                        cwd=Path(__file__).parent.parent.parent)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  return found['peak'], found['params']


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='the peak is counted by Linux')
@pytest.mark.parametrize('dtype, size', [('float32', 308e6), ('bfloat16', 154e6)])
def test_reading_a_model_takes_hardly_more_memory_than_its_parameters(large, dtype, size):
  peak, params = growth(large, dtype)
  assert params == pytest.approx(size, rel=0.01)
  assert 0.95 * params < peak <= 1.3 * params


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='the peak is counted by Linux')
def test_the_measure_of_memory_sees_what_is_held_twice(large):
  peak, params = growth(large, 'float32', 'hoards')
  assert peak > 1.8 * params


def flipped(data, rng, end):
  """The bytes with up to three of the first `end` changed."""
  data = bytearray(data)
  for _ in range(rng.randint(1, 3)):
    data[rng.randrange(end)] = rng.choice([rng.randrange(256), ord(rng.choice('0123456789{}[]":,FI36'))])
  return bytes(data)


@pytest.mark.parametrize('file', ['model-00002-of-00003.safetensors', 'model.safetensors.index.json'])
def test_a_damaged_header_or_index_ends_in_one_line_or_changes_nothing(tmp_path, file):
  folder = write(tmp_path, ZOO['llama'], drawn('llama'), shards=3)
  whole, rng = read(folder), random.Random(0)
  data = (folder / file).read_bytes()
  end = 8 + int.from_bytes(data[:8], 'little') if file.endswith('.safetensors') else len(data)
  ends = {'refused': 0, 'read': 0}
  for number in range(30):
    (folder / file).write_bytes(data[:rng.randrange(end)] if number % 5 == 0 else flipped(data, rng, end))
    try:
      loaded = read(folder)
    except InputError as e:
      assert str(folder) in str(e)
      ends['refused'] += 1
    else:
      assert_same(loaded, whole)
      ends['read'] += 1
  assert ends['refused'] >= 15


@pytest.mark.parametrize('shard', ['', '.', '../outside.safetensors', '/etc/passwd', 'x' * 300, 'a\0b'])
def test_an_index_that_points_at_no_file_of_the_folder_is_refused(tmp_path, shard):
  folder = write(tmp_path / 'model', ZOO['llama'], drawn('llama'), shards=2)
  index = folder / 'model.safetensors.index.json'
  (folder.parent / 'outside.safetensors').write_bytes((folder / 'model-00001-of-00002.safetensors').read_bytes())
  index.write_text(index.read_text().replace('model-00001-of-00002.safetensors', json.dumps(shard)[1:-1]))
  refused(folder, str(folder))
