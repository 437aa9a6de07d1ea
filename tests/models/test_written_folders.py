"""What `research.deployment.folder` writes is, for every family, what transformers saved in the first place."""

import json

import numpy as np
import pytest
import zoo

from research import run_files, tree
from research.data import tokenizer as tokenizers
from research.deployment import folder
from research.errors import InputError
from research.models import huggingface, names
from research.models.config import Execution
from research.models.families import FAMILIES
from research.models.load import load

FLOAT32 = Execution('float32', 'float32', True)
TEMPLATE = ('{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}'
            '{% if add_generation_prompt %}<assistant>{% endif %}')


def write_again(loaded, output, dtype='float32', shard_size=10**9, tokenizer=None):
  family = FAMILIES[loaded.model.config.family]
  tensors = names.export_params(family, loaded.model.config, loaded.params)
  fill = lambda into: folder.model(into, loaded.hf, tensors, tokenizer or loaded.tokenizer, np.dtype(dtype),
                                   shard_size, {'NOTES.md': 'Ünïcode'})
  run_files.write_folder(output, fill)


@pytest.mark.parity
@pytest.mark.parametrize('name', zoo.CONFIGS)
def test_transformers_loads_what_was_written_and_computes_the_same(tmp_path, name):
  import torch
  from test_families import batch_of, save, torch_logits
  from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
  saved, written = tmp_path / 'saved', tmp_path / 'written'
  theirs = zoo.torch_model(name)
  saved.mkdir()
  save(theirs, saved)
  loaded = load(str(saved), FLOAT32)
  write_again(loaded, written)
  (_, config, before, _), (_, same, after, _) = huggingface.read(saved), huggingface.read(written)
  assert config == same and before.keys() == after.keys()
  for tensor, x in before.items():
    np.testing.assert_array_equal(after[tensor], x, err_msg=tensor)

  kind = AutoModelForSeq2SeqLM if config.has_encoder else AutoModelForCausalLM
  again, info = kind.from_pretrained(written, output_loading_info=True, attn_implementation='eager')
  assert {what: list(found) for what, found in info.items() if found} == {}
  assert json.loads((written / 'config.json').read_text())['architectures'] == [type(theirs).__name__] == [type(again).__name__]
  batch = batch_of(config)
  with torch.no_grad():
    one, other = (torch_logits(model.eval(), config, batch).numpy() for model in (theirs, again))
  np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
  # transformers writes the same tensors and, apart from what they are kept in, the same config again
  again.save_pretrained(tmp_path / 'again')
  fields = [json.loads((at / 'config.json').read_text()) for at in (saved, tmp_path / 'again')]
  for one in fields:
    one.pop('dtype')
  assert fields[0] == fields[1]


@pytest.fixture
def tiny_t5():
  return load('random:t5-tiny', FLOAT32)


def test_a_chat_template_goes_with_the_tokenizer(tmp_path, tiny_t5):
  tokenizer = tokenizers.of_bytes(100)
  tokenizer.hf.chat_template = TEMPLATE
  write_again(tiny_t5, tmp_path / 'model', tokenizer=tokenizer)
  assert (tmp_path / 'model' / 'chat_template.jinja').read_text() == TEMPLATE
  again = tokenizers.from_folder(tmp_path / 'model')
  messages = [{'role': 'user', 'content': 'Hi.'}]
  assert again.chat(messages) == tokenizer.chat(messages) == '<user>Hi.\n<assistant>'


def test_the_config_is_the_one_that_was_read_but_for_how_weights_are_kept(tmp_path, tiny_t5):
  import ml_dtypes
  hf = tiny_t5.hf | {'torch_dtype': 'float16', 'made_by': 'someone'}
  write_again(tiny_t5._replace(hf=hf), tmp_path / 'model', ml_dtypes.bfloat16)
  written = json.loads((tmp_path / 'model' / 'config.json').read_text())
  assert written == tiny_t5.hf | {'made_by': 'someone', 'dtype': 'bfloat16', 'torch_dtype': 'bfloat16',
                                  'architectures': ['T5ForConditionalGeneration']}
  assert (tmp_path / 'model' / 'NOTES.md').read_text(encoding='utf-8') == 'Ünïcode'
  assert {x.dtype.name for x in huggingface.read(tmp_path / 'model')[2].values()} == {'bfloat16'}


def test_every_file_of_a_folder_can_be_read_by_whoever_reads_its_config(tmp_path, tiny_t5):
  write_again(tiny_t5, tmp_path / 'model', shard_size=200_000)
  modes = {file.name: file.stat().st_mode for file in (tmp_path / 'model').iterdir()}
  assert len([name for name in modes if name.endswith('.safetensors')]) > 1
  assert set(modes.values()) == {modes['config.json']}


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path, tiny_t5):
  write_again(tiny_t5, tmp_path / 'model', shard_size=1000)
  where = json.loads((tmp_path / 'model' / 'model.safetensors.index.json').read_text())['weight_map']
  assert list(where.values()).count(where['shared.weight']) == 1
  assert huggingface.read(tmp_path / 'model')[2].keys() == where.keys()


@pytest.mark.quick
@pytest.mark.parametrize('name, fields', [
    ('llama-tied', {}), ('gemma3_text', {'rope_theta': 1e6, 'rope_local_base_freq': 1e4,
                                         'rope_scaling': {'rope_type': 'linear', 'factor': 8.0}}),
    ('llama-yarn', {'rope_theta': 50_000.0, 'rope_scaling': {
        'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32}}),
    ('gpt_neox', {'rotary_emb_base': 1e4, 'rotary_pct': 0.5}), ('phi3', {}), ('t5', {}),
    ('t5-1.1', {'tie_word_embeddings': False}), ('mt5', {'tie_word_embeddings': False}),
    ('umt5', {'tie_word_embeddings': False})])
def test_a_config_says_what_transformers_4_and_servers_read_and_means_the_same(name, fields):
  hf, separate = zoo.CONFIGS[name], name in zoo.SEPARATE_HEADS
  made = folder.older(hf, separate)
  assert made == hf | fields
  of = lambda hf: names.config_of(FAMILIES[hf['model_type']], hf, 'config.json', separate)
  assert of(made) == of(hf)


def test_what_transformers_5_alone_reads_is_in_no_tokenizer_config(tmp_path, tiny_t5):
  """transformers 4 stops at a class that it does not know, and at `extra_special_tokens` that are no object."""
  tokenizer = tokenizers.of_bytes(100)
  tokenizer.hf.chat_template = TEMPLATE
  tokenizer.hf.add_special_tokens({'extra_special_tokens': ['<extra_id_3>', '<extra_id_4>']})
  tokenizer.hf.save_pretrained(tmp_path / 'first')
  tokenizer = tokenizers.from_folder(tmp_path / 'first')      # which remembers where it was
  write_again(tiny_t5, tmp_path / 'model', tokenizer=tokenizer)
  said = json.loads((tmp_path / 'model' / 'tokenizer_config.json').read_text())
  assert said['tokenizer_class'] == 'PreTrainedTokenizerFast' and said['chat_template'] == TEMPLATE
  assert said['additional_special_tokens'] == ['<extra_id_3>', '<extra_id_4>']
  assert not said.keys() & {'is_local', 'backend', 'local_files_only', 'extra_special_tokens'}
  again = tokenizers.from_folder(tmp_path / 'model')
  text = 'Hi <extra_id_3>, ünï!'
  assert again.encode(text) == tokenizer.encode(text) and again.fingerprint() == tokenizer.fingerprint()
  assert again.hf.all_special_ids == tokenizer.hf.all_special_ids
  assert set(again.hf(text)) == {'input_ids', 'attention_mask'}


@pytest.mark.parametrize('name, leaf', [('llama-tied', 'layers/attn/q/bias'), ('gpt2', 'head/kernel'), ('t5', 'head/kernel')])
def test_a_parameter_that_the_family_has_no_tensor_for_is_refused_and_not_dropped(name, leaf):
  family = FAMILIES[zoo.CONFIGS[name]['model_type']]
  config = names.config_of(family, zoo.CONFIGS[name], 'config.json', False)
  params = {path: np.zeros(shape, np.float32) for path, shape in names.shapes(config).items()}
  assert names.export_params(family, config, tree.nested(params))
  with pytest.raises(InputError, match=f'has no tensor for {leaf}, which would be lost'):
    names.export_params(family, config, tree.nested(params | {leaf: np.zeros((3, 4), np.float32)}))
