"""Gemma 1 (arXiv 2403.08295), 2 (arXiv 2408.00118) and 3 (arXiv 2503.19786), text only.

Llama with embeddings scaled by √D, norms that multiply by 1 + scale, and gelu; 2 adds norms after the sublayers, soft caps
and alternating windows; 3 drops the caps, norms queries and keys, and gives local layers a rope of their own.
"""

from functools import partial
from typing import Any

from research.models.config import Kind, ModelConfig
from research.models.families import llama
from research.models.fields import Fields
from research.models.names import Family
from research.models.positions import rope_of


def _base(family: str, f: Fields, **others: Any) -> dict[str, Any]:
  f.only('use_bidirectional_attention', False)
  return llama.base(
      family, f, norm_offset=1.0, tied=f.take('tie_word_embeddings', True), embed_scale=f.size('hidden_size') ** 0.5,
      biases=llama.ATTENTION if f.take('attention_bias') else (), head_dim=f.size('head_dim', 256), **others)


def gemma(f: Fields) -> ModelConfig:
  # Early releases say 'gelu' and mean its tanh form; `hidden_activation`, where present, is what was meant.
  f.take('hidden_activation')
  act = f.one_of('hidden_act', {'gelu': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh'}, 'gelu_pytorch_tanh')
  return ModelConfig(**_base('gemma', f, activation=act))


def _sandwiched(family: str, f: Fields, **others: Any) -> dict[str, Any]:
  scale = f.number('query_pre_attn_scalar', 256) ** -0.5
  act = f.one_of('hidden_activation', {'gelu_pytorch_tanh': 'gelu_tanh'}, 'gelu_pytorch_tanh')
  f.take('hidden_act')                                     # transformers reads the other one
  return _base(family, f, norms=('before', 'after'), query_scale=scale, activation=act,
               attention_cap=float(f.take('attn_logit_softcapping', 0)), logit_cap=float(f.take('final_logit_softcapping', 0)),
               **others)


def gemma2(f: Fields) -> ModelConfig:
  found = _sandwiched('gemma2', f)
  layers = found['layers']
  local = [n % 2 == 0 for n in range(layers)]
  return ModelConfig(**found | llama.windowed(f, layers, f.take('sliding_window', 4096), local, found['kinds'][0].rope))


def gemma3(f: Fields) -> ModelConfig:
  head_dim, context = f.size('head_dim', 256), f.size('max_position_embeddings', 131_072)
  given = f.take('rope_parameters') or {}
  older = dict(f.take('rope_scaling') or {})
  if 'type' in older:
    older['rope_type'] = older.pop('type')
  wide = {'rope_theta': f.number('rope_theta', 1e6), **older, **(given.get('full_attention') or {})}
  near = {'rope_theta': f.number('rope_local_base_freq', 1e4), **(given.get('sliding_attention') or {})}
  rope, near = rope_of(wide, head_dim, context), rope_of(near, head_dim, context)
  found = _sandwiched('gemma3_text', f, qk_norm='head', rope=rope)
  layers, every = found['layers'], f.size('sliding_window_pattern', 6)
  where = llama.windowed(f, layers, f.take('sliding_window', 4096), [(n + 1) % every != 0 for n in range(layers)], rope)
  return ModelConfig(**found | where | dict(
      kinds=tuple(Kind(k.window, near) if k.window else k for k in where['kinds'])))


AROUND = partial(llama.rows, norms={
    'norm_attn': 'input_layernorm', 'norm_attn_after': 'post_attention_layernorm',
    'norm_mlp': 'pre_feedforward_layernorm', 'norm_mlp_after': 'post_feedforward_layernorm'})
GEMMA = Family('gemma', gemma, llama.rows, prefix='model.', ignored=(r'rotary_emb\.inv_freq$',))
GEMMA2 = Family('gemma2', gemma2, AROUND, prefix='model.', ignored=(r'rotary_emb\.inv_freq$',))
GEMMA3 = Family('gemma3_text', gemma3, AROUND, prefix='model.', ignored=(r'rotary_emb.*inv_freq$',))
