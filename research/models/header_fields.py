"""The fields of a GGUF header from what a model is: the inverse of `header`, as llama.cpp's converter names and fills them.

What a header cannot say is not looked for here: the file is read again as it is written, and a model that comes back as another
one is refused (see `gguf_writing`).
"""

from typing import Any

import numpy as np

from research.errors import InputError
from research.models.config import ModelConfig
from research.models.header import DIVISORS
from research.models.positions import rope_of


def decoder(c: ModelConfig, hf: dict[str, Any], theta: float = 10_000.0) -> dict[str, Any]:
  """Those of Llama and its siblings, without the architecture's prefix.

  Args:
    c: of the model.
    hf: its config.json, of which the positions' parameters are read.
    theta: the rope's base where the config names none.
  """
  return {'vocab_size': c.vocab, 'block_count': c.layers, 'context_length': c.context, 'embedding_length': c.width,
          'feed_forward_length': c.hidden, 'attention.head_count': c.heads, 'attention.head_count_kv': c.kv_heads,
          'attention.key_length': c.head_dim, 'attention.value_length': c.head_dim,
          'attention.layer_norm_rms_epsilon': float(c.norm_eps), **rope(c, hf, theta)}


def rope_parameters(hf: dict[str, Any], theta: float) -> dict[str, Any]:
  """What a config.json says of positions, as `rope_parameters` of layers that see all: the older form wins, as in `fields`.

  Args:
    hf: the config.json.
    theta: the base where it names none.
  """
  newer, older = hf.get('rope_parameters') or {}, hf.get('rope_scaling') or {}
  newer = {**newer, **newer['full_attention']} if 'full_attention' in newer else newer
  given = {name: x for name, x in {**(newer if not older or newer.get('full_attention') else {}), **older}.items()
           if x is not None and not isinstance(x, dict)}
  kind = given.pop('type', None)
  return {'rope_type': kind or 'default', 'rope_theta': hf.get('rope_theta') or theta, **given}


def rope(c: ModelConfig, hf: dict[str, Any], theta: float) -> dict[str, Any]:
  """The fields of rotary positions.

  Args:
    c: of the model.
    hf: its config.json.
    theta: the base where it names none.
  Raises:
    InputError: a kind of scaling that no field names.
  """
  p = rope_parameters(hf, theta)
  kind = p['rope_type']
  found: dict[str, Any] = {'rope.dimension_count': c.head_dim, 'rope.freq_base': float(p['rope_theta'])}
  trained = p.get('original_max_position_embeddings') or hf.get('original_max_position_embeddings')
  if kind == 'linear':
    found |= {'rope.scaling.type': 'linear', 'rope.scaling.factor': float(p['factor'])}
  elif kind == 'yarn':
    trained = trained or c.context
    found |= {'rope.scaling.type': 'yarn', 'rope.scaling.factor': float(p.get('factor') or c.context / trained),
              'rope.scaling.original_context_length': int(trained)}
    found |= {f'rope.scaling.yarn_{ours}': float(p[theirs]) for theirs, ours in (
        ('attention_factor', 'attn_factor'), ('beta_fast', 'beta_fast'), ('beta_slow', 'beta_slow')) if p.get(theirs)}
  elif kind == 'llama3':      # whose frequencies are a tensor: see `divisors`
    found |= {'rope.scaling.original_context_length': int(p['original_max_position_embeddings'])}
  elif kind != 'default':
    raise InputError(f'--format=gguf: rope_type={kind!r:.60} has no form in GGUF (known: default, linear, yarn, llama3); use '
                     '--format=hf')
  return found


def divisors(c: ModelConfig, hf: dict[str, Any]) -> dict[str, np.ndarray]:
  """The tensor by which GGUF keeps what transformers calls llama3, float32 of shape [D]; none for other positions.

  Args:
    c: of the model.
    hf: its config.json.
  """
  p = rope_parameters(hf, 10_000.0)
  if p['rope_type'] != 'llama3':
    return {}
  plain = rope_of({'rope_type': 'default', 'rope_theta': p['rope_theta']}, c.head_dim, c.context)
  [kind] = c.layer_kinds
  assert kind.rope is not None      # it has just been named
  return {DIVISORS: (np.array(plain.inverse) / np.array(kind.rope.inverse)).astype(np.float32)}


def windows(c: ModelConfig, every: int) -> dict[str, Any]:
  """The fields of layers that see only a window, of which the last of every so many sees all.

  Args:
    c: of the model.
    every: what a header that says nothing means.
  Raises:
    InputError: the layers that see all do not stand at equal distances.
  """
  local = [c.layer_kinds[i].window for i in c.layer_pattern or (0,) * c.layers]
  if not any(local):
    return {}
  for period in (every, *range(1, c.layers + 2)):
    if [bool(window) for window in local] == [(n + 1) % period != 0 for n in range(c.layers)]:
      said = {} if period == every else {'attention.sliding_window_pattern': period}
      return {'attention.sliding_window': max(local), **said}
  raise InputError('--format=gguf: layers that see all do not stand at equal distances, for which GGUF has no field; use '
                   '--format=hf')


def without_biases(c: ModelConfig) -> None:
  """Refuses biases of the attention, which llama.cpp reads in none but Llama and Qwen2.

  Raises:
    InputError: there are some.
  """
  if c.biases:
    raise InputError(f'--format=gguf: a {c.family} model with biases ({", ".join(c.biases)}) is none that llama.cpp reads; use '
                     '--format=hf')
