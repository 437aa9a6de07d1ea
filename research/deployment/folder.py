"""Folders as others load them: a model in Hugging Face's layout for transformers, an adapter for PEFT."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import huggingface_hub
import numpy as np
import safetensors.numpy
import transformers

from research.adapters import modules
from research.data.tokenizer import Tokenizer
from research.errors import InputError
from research.models.families import FAMILIES


def size_of(text: str) -> int:
  """The bytes that a size such as '5GB' stands for.

  Raises:
    InputError: it stands for none.
  """
  found = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([KMGT])B\s*', text, re.IGNORECASE | re.ASCII)
  size = found and int(float(found[1]) * 1000 ** (1 + 'KMGT'.index(found[2].upper())))
  if not size:
    raise InputError(f'--shard_size={text}: must be a number above 0 with a unit (KB, MB, GB, TB), such as 5GB')
  return size


def model(folder: Path, hf: dict[str, Any], tensors: Mapping[str, np.ndarray], tokenizer: Tokenizer, dtype: np.dtype,
          shard_size: int, texts: dict[str, str], generation: Mapping[str, Any] = MappingProxyType({})) -> None:
  """What a model's folder holds.

  Args:
    folder: where to write; it exists.
    hf: the config.json of the base; what says how the weights are stored is changed, and what transformers 4 reads added.
    tensors: under the originals' names, of their shapes; cast to `dtype` as they are written.
    tokenizer: goes into the folder too.
    dtype: of the weights.
    shard_size: the most bytes in one file; a tensor is never cut, and a larger one has a file of its own.
    texts: further files, name -> content.
    generation: the base's generation_config.json, which is kept, and completed where it lacks the special tokens.
  """
  name = np.dtype(dtype).name
  family = FAMILIES[hf['model_type']]
  config = older(hf, family.head in tensors) | {'architectures': [family.architecture], 'dtype': name, 'torch_dtype': name}
  _text(folder / 'config.json', json.dumps(config, indent=2, ensure_ascii=False) + '\n')
  _generation(hf, generation, tokenizer).save_pretrained(folder)
  _tokenizer(folder, tokenizer)
  _weights(folder, tensors, dtype, shard_size)
  for file, text in texts.items():
    _text(folder / file, text)


def older(hf: dict[str, Any], separate_head: bool) -> dict[str, Any]:
  """A config.json that says also what transformers 4 and servers read.

  transformers 5 keeps what positions are in `rope_parameters`, which they do not know: they would turn heads by 10,000
  whatever stands there. Where both stand transformers 5 takes the older fields, so they say the same. Of a T5 it writes that
  its embeddings are tied even where it has a head of its own.

  Args:
    hf: a config.json.
    separate_head: whether the head stands among the tensors.
  """
  scaled = hf.get('scale_decoder_outputs', hf.get('tie_word_embeddings', True)) and hf['model_type'] != 'mt5'
  if hf['model_type'] in ('t5', 'mt5', 'umt5') and separate_head and not scaled:
    return hf | {'tie_word_embeddings': False}
  new = hf.get('rope_parameters')
  if not isinstance(new, dict) or hf.get('rope_scaling'):
    return dict(hf)
  full = new.get('full_attention', new)
  named = ('rope_theta', 'partial_rotary_factor')
  inner = {'gpt_neox': ('rotary_emb_base', 'rotary_pct')}.get(hf['model_type'], named)
  found = {field: full[name] for field, name in zip(inner, named) if full.get(name) is not None
           and (field, full[name]) != ('partial_rotary_factor', 1)}
  if full.get('rope_type', 'default') != 'default':
    found['rope_scaling'] = {name: x for name, x in full.items() if name not in named}
  if (new.get('sliding_attention') or {}).get('rope_theta') is not None:
    found['rope_local_base_freq'] = new['sliding_attention']['rope_theta']
  return hf | found


def _tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
  """The tokenizer's files, as transformers 4 and 5 and servers read them.

  transformers 5 writes names that 4 does not know: the class TokenizersBackend, `extra_special_tokens` as a list, where it was
  loaded from; and the chat template in a file alone, which older ones look for in tokenizer_config.json.
  """
  tokenizer.hf.save_pretrained(folder)
  file = folder / 'tokenizer_config.json'
  said = json.loads(file.read_text(encoding='utf-8'))
  for field in ('is_local', 'local_files_only', 'backend'):
    said.pop(field, None)
  if said.get('tokenizer_class') == 'TokenizersBackend':
    said |= {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_input_names': ['input_ids', 'attention_mask']}
  if isinstance(said.get('extra_special_tokens'), list):
    said['additional_special_tokens'] = said.pop('extra_special_tokens')
  if isinstance(tokenizer.hf.chat_template, str):
    said['chat_template'] = tokenizer.hf.chat_template
  _text(file, json.dumps(said, indent=2, ensure_ascii=False, sort_keys=True) + '\n')


def _generation(hf: dict[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> transformers.GenerationConfig:
  first = hf.get('decoder_start_token_id')
  start = {'decoder_start_token_id': hf.get('pad_token_id', 0) if first is None else first} if tokenizer.appends_eos else {}
  pad = tokenizer.hf.pad_token_id
  ends = tokenizer.ends
  ours = {'bos_token_id': tokenizer.hf.bos_token_id, 'eos_token_id': ends[0] if len(ends) == 1 else [*ends],
          'pad_token_id': tokenizer.eos if pad is None or pad >= tokenizer.size else pad, **start}
  theirs = {name: value for name, value in generation.items() if name != 'transformers_version' and value is not None}
  return transformers.GenerationConfig(**{**ours, **theirs, 'eos_token_id': ours['eos_token_id']})


def _weights(folder: Path, tensors: Mapping[str, np.ndarray], dtype: np.dtype, shard_size: int) -> None:
  """model.safetensors, or its shards and their index."""
  split = huggingface_hub.split_state_dict_into_shards_factory(
      dict(tensors), get_storage_size=lambda x: x.size * np.dtype(dtype).itemsize,
      filename_pattern='model{suffix}.safetensors', max_shard_size=shard_size)
  for file, names in split.filename_to_tensors.items():
    safetensors.numpy.save_file({name: np.ascontiguousarray(tensors[name].astype(dtype)) for name in names},
                                folder / file, metadata={'format': 'pt'})      # transformers asks for this word
    shutil.copymode(folder / 'config.json', folder / file)                     # safetensors writes for the owner alone
  if split.is_sharded:
    index = {'metadata': split.metadata, 'weight_map': split.tensor_to_filename}
    _text(folder / 'model.safetensors.index.json', json.dumps(index, indent=2) + '\n')


def adapter(folder: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray], texts: dict[str, str]) -> None:
  """What an adapter's folder holds (see `adapters.writing`).

  Args:
    folder: where to write; it exists.
    config: what its config file says.
    tensors: under PEFT's names and of PEFT's shapes.
    texts: further files, name -> content.
  """
  _text(folder / modules.CONFIG, json.dumps(config, indent=2, sort_keys=True) + '\n')
  arrays = {n: np.ascontiguousarray(x) for n, x in tensors.items()}
  safetensors.numpy.save_file(arrays, folder / modules.TENSORS, {'format': 'pt'})
  shutil.copymode(folder / modules.CONFIG, folder / modules.TENSORS)
  for file, text in texts.items():
    _text(folder / file, text)


def _text(file: Path, text: str) -> None:
  file.write_text(text, encoding='utf-8')
