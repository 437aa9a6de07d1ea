"""Soft prompts and prefixes in PEFT's folders."""

from pathlib import Path
from typing import Any

import numpy as np

from research.adapters.modules import SOFT, Contents
from research.errors import InputError
from research.models.config import ModelConfig
from research.strategies import deltas


def _soft(folder: Path, said: dict[str, Any], tensors: dict[str, np.ndarray]) -> tuple[int, np.ndarray]:
  if tensors.keys() != {SOFT}:
    raise InputError(f'{folder}: holds the tensors {", ".join(sorted(tensors)[:5])}, not {SOFT} alone')
  slots = said.get('num_virtual_tokens')
  if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
    raise InputError(f'{folder}: num_virtual_tokens={slots!r:.60}: must be a whole number, 1 or more')
  return slots, tensors[SOFT]


def prompt(contents: Contents) -> tuple[Any, ...]:
  """A folder of prompt tuning: the row's name, its fields, and the variables' values.

  Raises:
    InputError: the table does not fit this model.
  """
  folder, said, tensors, config, shapes = contents
  slots, x = _soft(folder, said, tensors)
  if x.shape not in ((slots, config.width), (2 * slots, config.width)):
    raise InputError(f'{folder}: {SOFT} is {list(x.shape)}; this model needs {[slots, config.width]}')
  return 'prompt', {'slots': slots, 'init': 'random'}, {'delta/embed/prompt/table': x[:slots]}    # PEFT reads no second half


def prefix(contents: Contents) -> tuple[Any, ...]:
  """A folder of prefix tuning: the row's name, its fields, and the variables' values.

  Raises:
    InputError: the table does not fit this model.
  """
  folder, said, tensors, config, shapes = contents
  slots, x = _soft(folder, said, tensors)
  width, layers = config.kv_heads * config.head_dim, _prefix_layers(config, str(folder))
  if x.shape != (slots, layers * 2 * width):
    raise InputError(f'{folder}: {SOFT} is {list(x.shape)}; this model needs {[slots, layers * 2 * width]}')
  entries = x.reshape(slots, 2 * layers, width).swapaxes(0, 1)
  at, path = prefix_entries(config, layers), 'delta/layers/attn/prefix'
  return 'prefix', {'slots': slots, 'hidden': 0}, {f'{path}/keys': entries[at], f'{path}/values': entries[at + 1]}


def prefix_table(prefix: deltas.Prefix, config: ModelConfig) -> np.ndarray:
  """All layers' keys and values [P, 2 · N · D], as PEFT keeps them: D is K · head_dim.

  Raises:
    InputError: two layers that share an entry differ, or PEFT has no prefix for the model.
  """
  layers = _prefix_layers(config, '--format=peft')
  keys, values, at = np.asarray(prefix.keys), np.asarray(prefix.values), prefix_entries(config, layers)
  entries = np.zeros((2 * layers, *keys.shape[1:]), np.float32)
  entries[at], entries[at + 1] = keys, values
  if not (np.array_equal(entries[at], keys) and np.array_equal(entries[at + 1], values)):
    raise InputError('--format=peft: PEFT gives two decoder layers of an encoder-decoder with an even number of them the same '
                     'prefix, and these have each their own')
  return entries.swapaxes(0, 1).reshape(prefix.slots, -1)


def _prefix_layers(config: ModelConfig, where: str) -> int:
  """The number of layers that PEFT makes a prefix for: of an encoder-decoder it is the encoder's (peft 0.21).

  Raises:
    InputError: the decoder, which reads it, has more, so that PEFT fails when it comes to them.
  """
  if config.has_encoder and config.layers > config.encoder_layers:
    raise InputError(f'{where}: PEFT makes a prefix for as many layers as the encoder has ({config.encoder_layers}), and fails '
                     f'where the decoder has more (num_decoder_layers={config.layers}); such a model has no prefix in PEFT')
  return config.encoder_layers or config.layers


def prefix_entries(config: ModelConfig, layers: int) -> np.ndarray:
  """Which of a prefix's entries, two for each of `layers`, holds each layer's keys [N]; its values stand in the next one.

  Of an encoder-decoder PEFT doubles the entries and deals them out by fours (keys and values of self- and of
  cross-attention, the latter unused): where `layers` is even two layers may share an entry, and some are read by none.
  """
  return np.arange(config.layers) * 4 % (2 * layers) if config.has_encoder else np.arange(config.layers) * 2
