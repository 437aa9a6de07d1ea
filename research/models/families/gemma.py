"""Gemma 1 (arXiv 2403.08295), 2 (arXiv 2408.00118) and 3 (arXiv 2503.19786), text only.

Llama with embeddings scaled by √D, norms that multiply by 1 + scale, and gelu; 2 adds norms after the sublayers, soft caps
and alternating windows; 3 drops the caps, norms queries and keys, and gives local layers a rope of their own.
"""

from functools import partial
from typing import Any

import numpy as np

from research.errors import InputError
from research.models import header_fields
from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.header import Header
from research.models.names import FREQUENCIES, Family
from research.models.positions import rope_of


def _base(family: str, f: Fields, **others: Any) -> dict[str, Any]:
  f.only('use_bidirectional_attention', False)
  return llama.base(
      family, f, norm_offset=1.0, tied=f.flag('tie_word_embeddings', True), embed_scale=f.size('hidden_size') ** 0.5,
      biases=llama.ATTENTION if f.flag('attention_bias') else (), head_dim=f.size('head_dim', 256), **others)


def gemma(f: Fields) -> ModelConfig:
  # Early releases say 'gelu' and mean its tanh form; transformers does not read their `hidden_activation`.
  f.take('hidden_activation')
  act = f.one_of('hidden_act', {'gelu': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh'}, 'gelu_pytorch_tanh')
  return ModelConfig(**_base('gemma', f, activation=act))


def _sandwiched(family: str, f: Fields, caps: tuple[float | None, float | None], **others: Any) -> dict[str, Any]:
  """`caps` of attention and logits hold where the config is silent; where it says null there are none."""
  scale = f.size('query_pre_attn_scalar', 256) ** -0.5
  act = f.one_of('hidden_activation', {'gelu_pytorch_tanh': 'gelu_tanh'}, 'gelu_pytorch_tanh')
  f.take('hidden_act')                                     # transformers reads the other one
  return _base(family, f, norms=('before', 'after'), query_scale=scale, activation=act,
               attention_cap=f.cap('attn_logit_softcapping', caps[0]),
               logit_cap=f.cap('final_logit_softcapping', caps[1]),
               **others)


def gemma2(f: Fields) -> ModelConfig:
  found = _sandwiched('gemma2', f, (50.0, 30.0))
  layers = found['layers']
  local = [n % 2 == 0 for n in range(layers)]
  return ModelConfig(**found | llama.windowed(f, layers, f.window(4096), local, found['layer_kinds'][0].rope))


def gemma3(f: Fields) -> ModelConfig:
  head_dim, context = f.size('head_dim', 256), f.size('max_position_embeddings', 131_072)
  given, older = Fields(f.mapping('rope_parameters'), f'{f.where}: rope_parameters'), f.mapping('rope_scaling')
  if 'type' in older:
    older['rope_type'] = older.pop('type')
  wide = {'rope_theta': f.number('rope_theta', 1e6), **given.mapping('full_attention'), **older}
  near = {'rope_theta': f.number('rope_local_base_freq', 1e4), **given.mapping('sliding_attention')}
  rope, local = rope_of(wide, head_dim, context, f.where), rope_of(near, head_dim, context, f.where)
  found = _sandwiched('gemma3_text', f, (None, None), qk_norm='head', rope=rope)
  layers, every = found['layers'], f.size('sliding_window_pattern', 6)
  where = llama.windowed(f, layers, f.window(4096), [(n + 1) % every != 0 for n in range(layers)], rope)
  return ModelConfig(**found | where | dict(
      layer_kinds=tuple(Kind(k.window, local) if k.window else k for k in where['layer_kinds'])))


def gguf(h: Header) -> dict[str, Any]:
  return {'model_type': 'gemma', 'hidden_act': 'gelu_pytorch_tanh', **_gguf_decoder(h)}


def gguf2(h: Header) -> dict[str, Any]:
  found = {'model_type': 'gemma2', **_gguf_sandwiched(h, large=46), **_gguf_windows(h, every=2, window=4096),
           'attn_logit_softcapping': h.number('attn_logit_softcapping', 50.0) or None,
           'final_logit_softcapping': h.number('final_logit_softcapping', 30.0) or None}
  h.only('rope.freq_base_swa', h.take('rope.freq_base', 10_000.0))
  return found


def gguf3(h: Header) -> dict[str, Any]:
  """Files without `sliding_window` are of models whose every layer is global; the local layers' rope is never scaled."""
  found = {'model_type': 'gemma3_text', **_gguf_sandwiched(h, large=62), **_gguf_windows(h, every=6, window=None),
           'final_logit_softcapping': h.number('final_logit_softcapping', 0.0) or None}
  local = {'rope_type': 'default', 'rope_theta': h.number('rope.freq_base_swa', 10_000.0)}
  return found | {'rope_parameters': {'full_attention': found['rope_parameters'], 'sliding_attention': local}}


def _gguf_decoder(h: Header) -> dict[str, Any]:
  return {'attention_bias': 'blk.0.attn_q.bias' in h.tensors, **h.decoder()}


def _gguf_sandwiched(h: Header, large: int) -> dict[str, Any]:
  """The header has no field for `query_pre_attn_scalar`; like llama.cpp we know the 27B models, where alone it is not the
  heads' width, by their number of layers."""
  found = _gguf_decoder(h)
  width, heads = found['hidden_size'], found['num_attention_heads']
  scalar = width // heads if found['num_hidden_layers'] == large else found['head_dim']
  return {'hidden_activation': 'gelu_pytorch_tanh', 'query_pre_attn_scalar': scalar, **found}


def _gguf_windows(h: Header, every: int, window: int | None) -> dict[str, Any]:
  """`layer_types` and `sliding_window`; of `every` layers the last sees all. The header may say another number, of which 0
  leaves none that does, or say it of each layer.

  Raises:
    InputError: the header says something else of the pattern.
  """
  layers, pattern = h.layers(), h.take('attention.sliding_window_pattern', every)
  window = h.length('attention.sliding_window', window) if window or h.take('attention.sliding_window') else None
  if isinstance(pattern, list) and len(pattern) == layers and all(isinstance(local, bool) for local in pattern):
    local = pattern
  elif isinstance(pattern, bool):
    local = [pattern] * layers
  elif isinstance(pattern, int) and pattern >= 0:
    local = [not pattern or (n + 1) % pattern != 0 for n in range(layers)]
  else:
    raise InputError(f'{h.where}: {h.architecture}.attention.sliding_window_pattern={pattern!r:.60} is not supported')
  types = ['sliding_attention' if window and one else 'full_attention' for one in local]
  return {'layer_types': types, **({'sliding_window': window} if window else {})}


def from_gguf_layout(c: ModelConfig, name: str, x: np.ndarray) -> np.ndarray:
  """GGUF stores what a norm multiplies by; the originals what is added to 1.

  Args:
    c: of the model.
    name: the tensor's in the originals.
    x: the tensor of the file, of the originals' shape, which is also the result's.
  """
  return x - np.float32(1) if name.endswith('norm.weight') else x


def to_gguf_layout(c: ModelConfig, name: str, x: np.ndarray) -> np.ndarray:
  """The inverse of `from_gguf_layout`: what a norm multiplies by.

  Args:
    c: of the model.
    name: the tensor's in the originals.
    x: the tensor there, of any shape.
  """
  return x + np.float32(1) if name.endswith('norm.weight') else x


def to_gguf(c: ModelConfig, hf: dict[str, Any]) -> dict[str, Any]:
  header_fields.without_biases(c)
  return header_fields.decoder(c, hf)


def to_gguf2(c: ModelConfig, hf: dict[str, Any]) -> dict[str, Any]:
  caps = {'attn_logit_softcapping': c.attention_cap, 'final_logit_softcapping': c.logit_cap}
  return {**to_gguf(c, hf), **header_fields.windows(c, every=2), **caps}


def to_gguf3(c: ModelConfig, hf: dict[str, Any]) -> dict[str, Any]:
  header_fields.without_biases(c)
  found = header_fields.decoder(c, hf, 1e6) | header_fields.windows(c, every=6)
  near = (hf.get('rope_parameters') or {}).get('sliding_attention') or {}
  local = float(near.get('rope_theta') or hf.get('rope_local_base_freq') or 1e4)
  return found | ({} if local == 1e4 else {'rope.freq_base_swa': local}) | (
      {'final_logit_softcapping': c.logit_cap} if c.logit_cap else {})


AROUND = partial(llama.rows, norms={
    'norm_attn': 'input_layernorm', 'norm_attn_after': 'post_attention_layernorm',
    'norm_mlp': 'pre_feedforward_layernorm', 'norm_mlp_after': 'post_feedforward_layernorm'})
GEMMA = Family('gemma', gemma, llama.rows, 'GemmaForCausalLM', prefix='model.', ignored=FREQUENCIES, gguf=gguf,
               from_gguf_layout=from_gguf_layout, to_gguf=to_gguf, to_gguf_layout=to_gguf_layout)
GEMMA2 = Family('gemma2', gemma2, AROUND, 'Gemma2ForCausalLM', prefix='model.', ignored=FREQUENCIES, gguf=gguf2,
                from_gguf_layout=from_gguf_layout, to_gguf=to_gguf2, to_gguf_layout=to_gguf_layout)
GEMMA3 = Family('gemma3_text', gemma3, AROUND, 'Gemma3ForCausalLM', prefix='model.', ignored=FREQUENCIES, gguf=gguf3,
                gguf_name='gemma3', from_gguf_layout=from_gguf_layout, to_gguf=to_gguf3, to_gguf_layout=to_gguf_layout)
