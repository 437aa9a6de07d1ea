"""Weights of the outside world, read from folders and GGUF files."""

import json

import jax.numpy as jnp
import llamas
import ml_dtypes
import numpy as np
import pytest
from llamas import CONFIGS, FLOAT32, hf_config, weights

from research import tree
from research.models import gguf, huggingface, names
from research.models.config import Execution
from research.models.families import FAMILIES
from research.models.load import load

IDS = np.random.default_rng(1).integers(0, 256, (3, 23))


def torch_model(config):
  import torch
  from transformers import LlamaConfig, LlamaForCausalLM
  fields = {k: v for k, v in hf_config(config).items() if k not in ('model_type', 'architectures', 'rope_theta')}
  model = LlamaForCausalLM(LlamaConfig(**fields)).eval()
  missing, unexpected = model.load_state_dict({n: torch.tensor(x) for n, x in weights(config).items()}, strict=False)
  assert not unexpected and set(missing) <= {'lm_head.weight'}
  model.tie_weights()
  return model


@pytest.mark.parity
@pytest.mark.parametrize('shard_size', ['10GB', '60KB'], ids=['single', 'sharded'])
@pytest.mark.parametrize('name', CONFIGS)
def test_logits_equal_transformers_on_random_llamas(tmp_path, name, shard_size):
  import torch

  from research.data import tokenizer
  theirs = torch_model(CONFIGS[name])
  theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
  tokenizer.of_bytes().hf.save_pretrained(tmp_path)
  assert (len(list(tmp_path.glob('*.safetensors'))) > 1) == (shard_size == '60KB')
  with torch.no_grad():
    expected = theirs(torch.tensor(IDS)).logits.numpy()
  loaded = load(str(tmp_path), FLOAT32)
  assert expected.std() >= 1
  np.testing.assert_allclose(llamas.logits(loaded.model, loaded.params, IDS), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('name', CONFIGS)
def test_export_of_import_is_the_same_bit_for_bit(tmp_path, name, shards):
  tensors = weights(CONFIGS[name])
  folder = llamas.write_folder(tmp_path, CONFIGS[name], tensors, shards)
  family, config, read, _ = huggingface.read(tmp_path)
  exported = names.export_params(family, config, load(folder, FLOAT32).params)
  assert exported.keys() == tensors.keys() == set(read)
  for tensor, x in tensors.items():
    assert exported[tensor].dtype == np.float32
    np.testing.assert_array_equal(exported[tensor], x, err_msg=tensor)


def test_bfloat16_weights_are_read_bit_for_bit(tmp_path):
  tensors = {n: x.astype(ml_dtypes.bfloat16) for n, x in weights(CONFIGS['grouped_tied']).items()}
  folder = llamas.write_folder(tmp_path, CONFIGS['grouped_tied'], tensors)
  family, config, _, _ = huggingface.read(tmp_path)
  for dtype in ('float32', 'bfloat16'):
    params = load(folder, Execution('float32', dtype, True)).params
    assert {x.dtype for x in tree.leaves(params).values()} == {jnp.dtype(dtype)}
    exported = names.export_params(family, config, params)
    for tensor, x in tensors.items():
      np.testing.assert_array_equal(exported[tensor].astype(np.float32), x.astype(np.float32), err_msg=tensor)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_gguf_file_gives_the_same_model_as_the_folder(tmp_path, name):
  tensors = weights(CONFIGS[name])
  file = load(llamas.write_gguf(tmp_path / 'model.gguf', CONFIGS[name], tensors), FLOAT32)
  folder = load(llamas.write_folder(tmp_path / 'folder', CONFIGS[name], tensors), FLOAT32)
  assert {**vars(file.model.config), 'norm_eps': 0} == {**vars(folder.model.config), 'norm_eps': 0}
  assert file.model.config.norm_eps == np.float32(folder.model.config.norm_eps)            # as GGUF keeps it
  mine, others = tree.leaves(file.params), tree.leaves(folder.params)
  assert mine.keys() == others.keys()
  for path, x in others.items():
    np.testing.assert_array_equal(mine[path], x, err_msg=path)


def test_weights_that_gguf_quantised_are_read_as_the_gguf_library_reads_them(tmp_path):
  import gguf as library
  config = {**CONFIGS['separate_untied'], 'hidden_size': 64, 'intermediate_size': 96, 'head_dim': 16}
  tensors = weights(config)
  rounded = {n: library.dequantize(library.quantize(x, library.GGMLQuantizationType.Q8_0),
                                   library.GGMLQuantizationType.Q8_0) if x.ndim == 2 else x
             for n, x in tensors.items()}
  assert any((rounded[n] != x).any() for n, x in tensors.items())
  file = load(llamas.write_gguf(tmp_path / 'model.gguf', config, tensors, quantised=True), FLOAT32)
  family, ours, *_ = gguf.read(tmp_path / 'model.gguf')
  for tensor, x in names.export_params(family, ours, file.params).items():
    np.testing.assert_array_equal(x, rounded[tensor], err_msg=tensor)


def test_the_fingerprint_is_of_the_weights(tmp_path):
  config = CONFIGS['grouped_tied']
  prints = [load(llamas.write_folder(tmp_path / str(i), config, weights(config, seed)), FLOAT32).fingerprint
            for i, seed in enumerate((0, 0, 1))]
  assert prints[0] == prints[1] != prints[2]


@pytest.mark.quick
def test_config_json_written_before_rope_parameters_is_read_the_same(tmp_path):
  config = hf_config(CONFIGS['single_untied'])
  older = {k: v for k, v in config.items() if k != 'rope_parameters'}
  newer = {k: v for k, v in config.items() if k != 'rope_theta'}
  llamas.write_folder(tmp_path, CONFIGS['single_untied'], weights(CONFIGS['single_untied']))
  read = []
  for fields in (older, newer):
    (tmp_path / 'config.json').write_text(json.dumps(fields))
    read.append(huggingface.read(tmp_path)[1])
  assert read[0] == read[1]
  assert read[0].layer_kinds[0].rope.inverse[1] == pytest.approx(500 ** (-2 / 14))


class Counted:
  """A tensor that counts how many numbers of it are read."""

  def __init__(self, x, read):
    self.x, self.shape, self.read = x, x.shape, read

  def __getitem__(self, box):
    self.read.append(self.x[box].size)
    return self.x[box]

  def __array__(self, dtype=None, copy=None):
    self.read.append(self.x.size)
    return self.x


@pytest.mark.parametrize('preset', ['llama-tiny', 't5-tiny', 'gpt2-tiny'])
def test_of_a_tensor_only_the_wanted_parts_are_read(preset):
  """An eighth of every kernel, in two boxes; where q, k and v are one tensor it is read whole."""
  loaded = load(f'random:{preset}', FLOAT32)
  family, config = FAMILIES[loaded.model.config.family], loaded.model.config
  tensors, read = names.export_params(family, config, loaded.params), []

  def boxes(path, shape):
    if len(shape) < 3:
      return [names.everything(shape)]
    side = lambda n, part: slice(part * n // 4, (part + 1) * n // 4)
    return [(*names.everything(shape[:-2]), side(shape[-2], 1), side(shape[-1], part)) for part in (0, 3)]
  found = names.import_params(family, config, {n: Counted(x, read) for n, x in tensors.items()}, 'here', keep=lambda _, x: x,
                              boxes=boxes)
  params = tree.leaves(loaded.params)
  for path, parts in tree.leaves(found, is_leaf=lambda x: isinstance(x, list)).items():
    for part, box in zip(parts, boxes(path, params[path].shape), strict=True):
      np.testing.assert_array_equal(part, params[path][box], err_msg=path)
  small = sum(x.size for x in params.values() if x.ndim < 3)
  fused = sum(x.size for n, x in tensors.items() if 'c_attn' in n)
  assert sum(read) <= tree.size(loaded.params) / 8 + small + fused
  assert (preset == 'gpt2-tiny') == bool(fused)
