"""Models that read images too are loaded as their text part, which says without an image what the whole says."""

import json

import jax
import numpy as np
import pytest
import zoo

from research import tree
from research.adapters import reading, writing
from research.data import tokenizer as tokenizers
from research.data.batch import Batch
from research.errors import InputError
from research.models import about, huggingface, load, names, wholes
from research.models.config import Execution
from research.strategies import table
from research.strategies.bind import bind

FLOAT32 = Execution('float32', 'float32', True)
_SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
VISION = {'clip_vision_model': _SMALL | {'projection_dim': 16}, 'siglip_vision_model': _SMALL, 'pixtral': _SMALL,
          'internvl_vision': _SMALL | {'image_size': [8, 8], 'patch_size': [4, 4]}, 'idefics3_vision': _SMALL,
          'smolvlm_vision': _SMALL}
KINDS = {   # model_type -> (its text part in the zoo, its vision part, what else)
    'gemma3': ('gemma3_text', 'siglip_vision_model', {'mm_tokens_per_image': 4}),
    'mistral3': ('mistral', 'pixtral', {'tie_word_embeddings': False}),
    'llava': ('llama', 'clip_vision_model', {}),
    'llava_next': ('llama', 'clip_vision_model', {'image_grid_pinpoints': [[8, 8]]}),
    'vipllava': ('llama', 'clip_vision_model', {'vision_feature_layers': [0]}),
    'llava_onevision': ('qwen2', 'siglip_vision_model', {'image_grid_pinpoints': [[8, 8]]}),
    'internvl': ('qwen3', 'internvl_vision', {'tie_word_embeddings': False}),
    'idefics3': ('llama', 'idefics3_vision', {}), 'smolvlm': ('llama-tied', 'smolvlm_vision', {'tie_word_embeddings': True})}


def whole(kind):
  """transformers' model, its text part drawn as in the zoo."""
  import torch
  from transformers import AutoConfig, AutoModelForImageTextToText
  text, vision, more = KINDS[kind]
  images = {'model_type': vision} | VISION[vision]
  config = AutoConfig.for_model(kind, text_config=zoo.CONFIGS[text], vision_config=images, **more)
  config._attn_implementation = 'eager'
  torch.manual_seed(0)
  model = AutoModelForImageTextToText.from_config(config, attn_implementation='eager').eval().float()
  part = zoo.torch_model(text)
  inner = model.get_decoder()
  inner.load_state_dict(part.model.state_dict())
  model.lm_head.load_state_dict(part.lm_head.state_dict())
  return model


def saved(kind, folder):
  model = whole(kind)
  model.save_pretrained(folder)
  tokenizers.of_bytes().hf.save_pretrained(folder)
  return model


def their_logits(model, ids):
  import torch
  with torch.no_grad():
    return model(input_ids=torch.tensor(ids)).logits.float().numpy()


def line(ids):
  ones = np.ones(ids.shape, np.int32)
  return Batch(ids.astype(np.int32), np.arange(ids.shape[1], dtype=np.int32)[None], ones)


def our_logits(model, variables, ids):
  return np.asarray(jax.jit(lambda v: model.logits(v, model.hidden(v, line(ids))))(variables))


IDS = np.random.default_rng(0).integers(3, 250, (1, 40))


@pytest.mark.parity
@pytest.mark.parametrize('kind', KINDS)
def test_the_text_part_of_a_model_that_reads_images_says_what_the_whole_says(kind, tmp_path):
  model = saved(kind, tmp_path)
  loaded = load.load(str(tmp_path), FLOAT32)
  assert loaded.hf['model_type'] == loaded.model.config.family
  expected = their_logits(model, IDS)
  assert expected.std() > 0.5
  np.testing.assert_allclose(our_logits(loaded.model, {'params': loaded.params}, IDS), expected, rtol=0, atol=1e-4)
  assert huggingface.inside(tmp_path) == wholes.WHOLES[kind].inside


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['gemma3', 'smolvlm'])
def test_an_adapter_of_the_text_part_is_one_of_the_whole_to_peft_and_back(kind, tmp_path):
  import peft as theirs
  from transformers import AutoModelForImageTextToText

  from research.deployment import folder as folders
  saved(kind, tmp_path / 'base')
  loaded = load.load(str(tmp_path / 'base'), FLOAT32)
  strategy = table.lora(rank=3)
  trainable, frozen = bind(jax.random.key(0), strategy, loaded.model, loaded.params)
  draw = iter(jax.random.split(jax.random.key(1), 1000))
  trainable = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(draw), x.shape), trainable)
  learned = {n: np.asarray(x) for n, x in tree.leaves(trainable).items()}
  base = str(tmp_path / 'base')
  config, tensors, _ = writing.write(tree.join(trainable, frozen), strategy, loaded.model.config, base, learned,
                                     about.inside(base))
  (tmp_path / 'adapter').mkdir()
  folders.adapter(tmp_path / 'adapter', config, tensors, {})
  base = AutoModelForImageTextToText.from_pretrained(tmp_path / 'base', attn_implementation='eager')
  model = theirs.PeftModel.from_pretrained(base, str(tmp_path / 'adapter')).eval()
  assert set(theirs.get_peft_model_state_dict(model)) == set(tensors)
  ours = our_logits(loaded.model, tree.join(trainable, frozen), IDS)
  np.testing.assert_allclose(ours, their_logits(model, IDS), rtol=0, atol=2e-4)
  assert np.abs(ours - our_logits(loaded.model, {'params': loaded.params}, IDS)).max() > 1e-2
  found = reading.read(tmp_path / 'adapter', loaded.model.config, names.shapes(loaded.model.config))
  assert found.values.keys() == learned.keys()
  for name, x in learned.items():
    np.testing.assert_array_equal(found.values[name], x, err_msg=name)


@pytest.mark.parametrize('kind', wholes.WHOLES)
def test_sizes_that_a_text_config_leaves_out_are_transformers(kind):
  from transformers import AutoConfig
  theirs = AutoConfig.for_model(kind).text_config if kind not in ('idefics3', 'smolvlm') else AutoConfig.for_model('llama')
  part = wholes.text_config({'model_type': kind, 'text_config': {'model_type': theirs.model_type}}, 'config.json')
  for name, value in part.items():
    if kind != 'llava_onevision' or name not in ('vocab_size',):
      assert getattr(AutoConfig.for_model(theirs.model_type), name) == value, name


@pytest.mark.quick
def test_tensors_of_the_text_part_are_renamed_and_those_of_images_left_out():
  of = lambda *found: wholes.names_of_text(found)
  assert of('language_model.model.layers.0.x', 'language_model.lm_head.weight', 'vision_tower.a', 'multi_modal_projector.b',
            'image_newline') == {'model.layers.0.x': 'language_model.model.layers.0.x',
                                 'lm_head.weight': 'language_model.lm_head.weight'}
  assert of('model.text_model.norm.weight', 'model.vision_model.a', 'model.connector.b', 'lm_head.weight') == {
      'model.norm.weight': 'model.text_model.norm.weight', 'lm_head.weight': 'lm_head.weight'}
  assert of('model.language_model.norm.weight', 'model.audio_tower.x') == {
      'model.norm.weight': 'model.language_model.norm.weight', 'model.audio_tower.x': 'model.audio_tower.x'}


@pytest.mark.quick
@pytest.mark.parametrize('fields, says', [
    ({}, "model_type 'llava' without a text_config"),
    ({'text_config': {'model_type': 'mixtral'}}, "text_config: model_type 'mixtral' is not supported"),
    ({'text_config': {'model_type': 'llama', 'num_local_experts': 8}}, 'text_config: num_local_experts=8'),
    ({'text_config': {'model_type': 'llama', 'rms_norm_eps': -0.5}}, 'text_config: rms_norm_eps=-0.5')])
def test_a_text_part_that_cannot_be_read_is_refused_by_name(tmp_path, fields, says):
  import safetensors.numpy
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'llava', **fields}))
  safetensors.numpy.save_file({'x': np.zeros(1, np.float32)}, tmp_path / 'model.safetensors')
  with pytest.raises(InputError) as e:
    huggingface.read(tmp_path)
  assert says in str(e.value)
