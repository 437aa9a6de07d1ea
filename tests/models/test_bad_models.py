"""A broken model ends in one InputError that says what is wrong and where."""

import json

import llamas
import numpy as np
import pytest
import safetensors.numpy
from llamas import CONFIGS, FLOAT32

from research.errors import InputError
from research.models.config import execution
from research.models.load import load

CONFIG = CONFIGS['grouped_tied']


@pytest.fixture
def folder(tmp_path):
  llamas.write_folder(tmp_path / 'model', CONFIG, llamas.weights(CONFIG), shards=3)
  return tmp_path / 'model'


def refused(source, *saying):
  """The message with which the source is refused; every one of `saying` stands in it."""
  with pytest.raises(InputError) as e:
    load(str(source), FLOAT32)
  for words in saying:
    assert words in str(e.value)


def change_config(folder, **fields):
  file = folder / 'config.json'
  file.write_text(json.dumps({k: v for k, v in {**json.loads(file.read_text()), **fields}.items() if v is not ...}))


def change_tensors(folder, change):
  for file in folder.glob('*.safetensors'):
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)


def test_the_folder_that_these_tests_break_is_whole(folder):
  assert load(str(folder), FLOAT32).model.config.layers == 3


@pytest.mark.quick
@pytest.mark.parametrize('source', ['no/such/folder', './nothing', '/tmp/none.gguf', 'random:nothing', 'nothing',
                                    'package:no_such_package', 'package:json', 'someone/no-such-model'])
def test_a_source_that_is_not_there_is_named(source):
  refused(source, f'model.source={source}' if source[0] != '.' and '/such/' not in source and source != 'nothing'
          else f'model.source={source!r}')


@pytest.mark.quick
def test_a_folder_without_config(folder):
  (folder / 'config.json').unlink()
  refused(folder, str(folder), 'no config.json')


@pytest.mark.quick
@pytest.mark.parametrize('text', ['', '{"model_type": ', '[]', '"llama"', '\xff'])
def test_a_config_that_is_no_json_object(folder, text):
  (folder / 'config.json').write_bytes(text.encode('latin-1'))
  refused(folder, 'config.json')


@pytest.mark.quick
@pytest.mark.parametrize('kind', ['gpt_bigcode', None])
def test_a_model_type_that_is_no_family(folder, kind):
  change_config(folder, model_type=kind)
  refused(folder, 'config.json', f'model_type {kind!r} is not supported', 'llama')


@pytest.mark.quick
@pytest.mark.parametrize('field', ['vocab_size', 'hidden_size', 'num_attention_heads', 'num_hidden_layers'])
def test_a_config_that_lacks_a_field(folder, field):
  change_config(folder, **{field: ...})
  refused(folder, 'config.json', field)


@pytest.mark.parametrize('field, value', [
    ('hidden_act', 'quick_gelu'), ('rope_scaling', {'type': 'longrope', 'factor': 2.0}), ('pretraining_tp', 2),
    ('rope_parameters', {'rope_type': 'proportional', 'rope_theta': 1e4}), ('num_local_experts', 8)])
def test_what_would_be_computed_wrong_is_refused(folder, field, value):
  change_config(folder, **{field: value})
  refused(folder, 'config.json', 'is not supported')


@pytest.mark.quick
def test_a_missing_shard(folder):
  (folder / 'model-00002-of-00003.safetensors').unlink()
  refused(folder, 'model-00002-of-00003.safetensors is missing', 'index.json lists')


@pytest.mark.quick
@pytest.mark.parametrize('text', ['', '{"weight', '[]', '{}', '{"weight_map": []}'])
def test_a_broken_index(folder, text):
  (folder / 'model.safetensors.index.json').write_text(text)
  refused(folder, 'model.safetensors.index.json')


@pytest.mark.quick
def test_weights_that_are_a_pickle_are_not_read(folder):
  for file in folder.glob('model*'):
    file.unlink()
  (folder / 'pytorch_model.bin').write_bytes(b'\x80\x02.')
  refused(folder, 'model.safetensors is missing', 'pickle')


@pytest.mark.quick
@pytest.mark.parametrize('keep', [0, 4, 20, 0.5, 0.999])
def test_a_truncated_shard(folder, keep):
  file = folder / 'model-00002-of-00003.safetensors'
  data = file.read_bytes()
  file.write_bytes(data[:keep if isinstance(keep, int) else int(keep * len(data))])
  refused(folder, file.name, 'not a whole safetensors file')


def test_a_tensor_of_another_shape(folder):
  name = 'model.layers.1.mlp.up_proj.weight'
  change_tensors(folder, lambda tensors: {n: x[:-1] if n == name else x for n, x in tensors.items()})
  refused(folder, name, '[76, 54]', '[77, 54]')


def test_a_tensor_too_few_and_one_too_many(folder):
  name = 'model.layers.1.mlp.up_proj.weight'
  change_tensors(folder, lambda tensors: {n: x for n, x in tensors.items() if n != name})
  refused(folder, 'lacks tensors', name)
  change_tensors(folder, lambda tensors: {**tensors, name: np.zeros((77, 54), np.float32),
                                          'model.layers.1.mlp.up_proj.bias': np.zeros(77, np.float32)})
  refused(folder, 'unexpected', 'model.layers.1.mlp.up_proj.bias')


def test_a_folder_without_tokenizer(folder):
  for file in folder.glob('*token*'):
    file.unlink()
  refused(folder, 'tokenizer')


def test_a_tokenizer_that_is_broken_or_whose_eos_has_no_row(folder):
  text = (folder / 'tokenizer.json').read_text()
  (folder / 'tokenizer.json').write_text(text[:len(text) // 2])
  refused(folder, 'tokenizer')
  (folder / 'tokenizer.json').write_text(text)
  change_config(folder, vocab_size=250)
  change_tensors(folder, lambda tensors: {n: x[:250] if 'embed' in n else x for n, x in tensors.items()})
  refused(folder, 'eos_token has the number 257', 'only 250 rows')


@pytest.mark.quick
def test_heads_that_do_not_divide_what_they_must(folder):
  change_config(folder, num_key_value_heads=4)
  refused(folder, 'num_key_value_heads=4', 'num_attention_heads=6')


def written(tmp_path, **settings):
  return llamas.write_gguf(tmp_path / 'model.gguf', CONFIG, llamas.weights(CONFIG), **settings)


@pytest.mark.quick
def test_a_gguf_file_cut_anywhere_is_refused(tmp_path):
  from pathlib import Path

  import gguf
  data = Path(written(tmp_path)).read_bytes()
  reader = gguf.GGUFReader(tmp_path / 'model.gguf')
  header, end = reader.data_offset, max(t.data_offset + t.n_bytes for t in reader.tensors)
  cuts = [*range(0, 64), *range(64, header, 211), header, *range(header, end, (end - header) // 7), end - 1]
  cut = tmp_path / 'cut.gguf'
  for size in cuts:
    cut.write_bytes(data[:size])
    refused(cut, 'cut.gguf', 'fetch it again')


@pytest.mark.quick
def test_a_file_that_is_no_gguf(tmp_path):
  (tmp_path / 'a.gguf').write_bytes(b'PK\x03\x04' + bytes(1000))
  refused(tmp_path / 'a.gguf', 'a.gguf', 'not a whole GGUF file')


@pytest.mark.quick
def test_a_gguf_file_of_another_architecture(tmp_path):
  refused(written(tmp_path, architecture='mamba'), "architecture 'mamba' is not supported", 'llama')


def test_a_gguf_file_that_cuts_text_in_an_unknown_way(tmp_path):
  refused(written(tmp_path, pre='tekken'), "tokenizer.ggml.pre='tekken' is not supported", 'smollm')


@pytest.mark.smollm2
@pytest.mark.parametrize('size', [0, 3, 100, 2_000, 500_000, 1_500_000, 60_000_000, -1])
def test_a_truncated_smollm2_is_refused(tmp_path, smollm2_file, size):
  with open(smollm2_file, 'rb') as f:
    data = f.read() if size < 0 else f.read(size)
  cut = tmp_path / 'cut.gguf'
  cut.write_bytes(data[:-1] if size < 0 else data)
  refused(cut, 'cut.gguf', 'fetch it again')


@pytest.mark.quick
def test_a_dtype_that_is_none():
  with pytest.raises(InputError, match=r"model.dtype='float8'.*float32, bfloat16, auto"):
    execution('float8', 'auto', True, 'none')


@pytest.mark.quick
@pytest.mark.parametrize('scan, remat, message', [
    (True, 'all', "model.remat='all': must be one of none, products, layer"), (False, 'layer', 'needs model.scan=True')])
def test_a_remat_that_is_none_or_would_do_nothing(scan, remat, message):
  with pytest.raises(InputError, match=message):
    execution('float32', 'auto', scan, 'none', remat)


@pytest.mark.quick
@pytest.mark.parametrize('field, value', [('hidden_size', '54'), ('num_attention_heads', 0),
                                          ('num_hidden_layers', True), ('vocab_size', 263.5), ('rms_norm_eps', 'small')])
def test_a_config_whose_numbers_are_none(folder, field, value):
  change_config(folder, **{field: value})
  refused(folder, 'config.json', f'{field}={value!r}')


@pytest.mark.quick
def test_null_says_as_little_as_an_absent_field(folder):
  change_config(folder, num_hidden_layers=None)
  refused(folder, 'config.json', 'lacks num_hidden_layers')


@pytest.mark.parity
def test_an_adapter_beside_the_model_is_refused_since_transformers_loads_it_too(folder):
  import peft
  from transformers import AutoModelForCausalLM
  model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(r=2, target_modules=['q_proj']))
  model.save_pretrained(folder)
  assert any('lora_A' in name for name, _ in AutoModelForCausalLM.from_pretrained(folder).named_parameters())
  refused(folder, 'holds an adapter (adapter_config.json) beside the model', 'strategy.init_from')
