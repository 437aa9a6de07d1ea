"""GGUF files that are written here give the same model to our own loader and to transformers."""

import json

import numpy as np
import pytest
import safetensors.numpy
import zoo
from test_families import IDS, SOURCE, save
from test_gguf import MODELS

from research.data import gguf_vocabulary, tokenizer
from research.errors import InputError
from research.models import gguf, gguf_writing, huggingface, names

# The zoo's models but for what GGUF or llama.cpp has no form for.
CHANGED = {name: changed for name, (changed, _) in MODELS.items()} | {
    'qwen3': dict(use_sliding_window=False, attention_bias=False), 'gemma': dict(attention_bias=False),
    'mistral': dict(sliding_window=None)}
# What transformers' reader of GGUF takes for given: no biases of a Llama, its heads' and a GPT-2's inner width, as many decoder
# layers of a T5 as encoder layers.
FOR_THEIRS = {'llama': dict(attention_bias=False, mlp_bias=False, head_dim=16), 'gpt2': dict(n_inner=256, n_positions=1024),
              't5-1.1': dict(num_decoder_layers=2)}
THEIRS = ('llama', 'gpt2', 't5-1.1', 'qwen2', 'mistral')      # whose GGUF transformers reads; of T5 Flan-T5's kind alone


class Model:
  """A model of the zoo: transformers', and what our reader makes of its folder."""

  def __init__(self, name, folder, **changed):
    with pytest.MonkeyPatch.context() as patch:
      patch.setitem(zoo.CONFIGS, name, zoo.CONFIGS[name] | changed)
      self.theirs = zoo.torch_model(name)
    save(self.theirs, folder)
    self.family, self.config, self.tensors, self.hf = huggingface.read(folder)
    self.stored = safetensors.numpy.load_file(folder / 'model.safetensors')
    self.params = names.import_params(self.family, self.config, self.tensors, 'here')

  def write(self, file, quantize):
    tensors = names.export_params(self.family, self.config, self.params)
    ours = tokenizer.of_bytes()._replace(appends_eos=self.config.has_encoder)
    fields = gguf_vocabulary.fields(ours, self.config.vocab)
    return gguf_writing.write(file, self.config, self.hf, tensors, fields, quantize, {'name': 'small'})


def refused(name, tmp_path, *saying, **changed):
  with pytest.raises(InputError) as e:
    Model(name, tmp_path, **changed).write(tmp_path / 'model.gguf', 'f32')
  assert len(str(e.value).splitlines()) == 1
  for words in saying:
    assert words in str(e.value)


@pytest.mark.parity
@pytest.mark.parametrize('name', CHANGED)
def test_what_is_written_in_float32_is_read_bit_for_bit(name, tmp_path):
  model = Model(name, tmp_path, **CHANGED[name])
  model.write(tmp_path / 'model.gguf', 'f32')
  family, config, tensors, _, _ = gguf.read(tmp_path / 'model.gguf')
  again = names.export_params(family, config, names.import_params(family, config, tensors, 'file'))
  expected = names.export_params(model.family, model.config, model.params)
  assert again.keys() == expected.keys()
  for path, x in expected.items():
    shifted = name.startswith('gemma') and path.endswith('norm.weight')      # 1 was added, and taken off again
    np.testing.assert_allclose(again[path], x, rtol=0, atol=1e-6 if shifted else 0, err_msg=path)


@pytest.mark.parity
@pytest.mark.parametrize('quantize, error', [('f16', 5e-3), ('q8_0', 0.1)])
@pytest.mark.parametrize('name', THEIRS)
def test_transformers_computes_from_the_file_what_our_reader_finds_in_it(name, quantize, error, tmp_path):
  """Against the originals' logits the error is that of rounding, which these models' large weights make larger."""
  import torch
  from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
  model = Model(name, tmp_path, **CHANGED[name] | FOR_THEIRS.get(name, {}))
  model.write(tmp_path / 'model.gguf', quantize)
  kind = AutoModelForSeq2SeqLM if model.config.has_encoder else AutoModelForCausalLM
  (tmp_path / 'config.json').unlink()
  more = {'is_gated_act': True, 'dense_act_fn': 'gelu_new'} if model.config.has_encoder else {}      # which it forgets
  read = kind.from_pretrained(tmp_path, gguf_file='model.gguf', attn_implementation='eager', dtype=torch.float32, **more).eval()
  inputs = {'input_ids': torch.tensor(IDS)}
  if model.config.has_encoder:
    inputs = {'input_ids': torch.tensor(SOURCE), 'decoder_input_ids': torch.tensor(IDS)}
  with torch.no_grad():
    original = model.theirs(**inputs).logits.numpy()
    params, config, _ = gguf_writing.read_again(tmp_path / 'model.gguf')
    found = names.export_params(model.family, config, params)
    for path, x in model.theirs.state_dict().items():
      if path in found:
        x.copy_(torch.tensor(np.array(found[path])))
    expected, logits = model.theirs(**inputs).logits.numpy(), read(**inputs).logits.numpy()
  np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-4)
  assert 0 < np.sqrt(np.mean((logits - original) ** 2)) / original.std() < error


@pytest.mark.parity
def test_vectors_and_odd_rows_stay_wide_and_a_coarse_models_head_gets_eight_bits(tmp_path):
  model = Model('llama', tmp_path, **CHANGED['llama'])
  kinds = model.write(tmp_path / 'model.gguf', 'q4_0')
  assert kinds['output.weight'] == 'Q8_0' and kinds['token_embd.weight'] == kinds['blk.0.ffn_up.weight'] == 'Q4_0'
  assert kinds['blk.0.attn_norm.weight'] == kinds['blk.0.attn_q.bias'] == 'F32'
  assert kinds['blk.0.attn_output.weight'] == 'F16'      # rows of 60, and blocks hold 32


@pytest.mark.parity
@pytest.mark.parametrize('name, changed, saying', [
    ('gpt_neox', {}, 'gpt_neox is not written as GGUF'), ('phi3', {}, 'phi3 is not written'),
    ('llama-dynamic', {}, "rope_type='dynamic'"), ('llama-tied', {}, "activation='gelu'"),
    ('mistral', {}, 'layer_kinds='), ('qwen2', {}, 'layer_kinds='), ('gemma', {}, 'with biases (attn/q'),
    ('t5', {}, 'max_distance=16'), ('gemma2', {}, 'query_scale=')], ids=lambda x: x if isinstance(x, str) else '')
def test_what_a_header_cannot_say_is_refused_by_name(name, changed, saying, tmp_path):
  refused(name, tmp_path, saying, '--format=hf', **changed)


@pytest.mark.quick
def test_k_quants_are_refused_with_what_makes_them():
  with pytest.raises(InputError, match=r'--quantize=q4_k_m.*--quantize=f16.*ollama create -q q4_K_m.*llama-quantize'):
    gguf_writing.check_kind('q4_k_m')


@pytest.mark.quick
def test_every_type_that_may_be_named_is_one_of_the_gguf_librarys():
  import gguf as library
  for kind, file in gguf_writing.TYPES.values():
    assert kind in library.GGMLQuantizationType.__members__ and file in library.LlamaFileType.__members__
  assert json.dumps([*gguf_writing.TYPES]) == '["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]'
