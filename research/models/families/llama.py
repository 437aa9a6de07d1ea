"""Llama and what shares its layers (Touvron et al. 2023, arXiv 2302.13971; SmolLM2 is of this shape)."""

from typing import Any

import numpy as np

from research.errors import InputError
from research.models.config import ModelConfig
from research.models.names import Family, Row

# config.json fields whose other values change the computation; what is not listed here is not implemented.
_ONLY = {'hidden_act': ('silu',), 'attention_bias': (False,), 'mlp_bias': (False,), 'quantization_config': (None,),
         'rope_scaling': (None,), 'pretraining_tp': (1,)}


def config(hf: dict[str, Any]) -> ModelConfig:
  for field, known in _ONLY.items():
    if hf.get(field, known[0]) not in known:
      raise InputError(f'config.json: {field}={hf[field]!r} is not supported for llama (known: {known[0]!r})')
  rope = hf.get('rope_parameters') or {}
  if rope.get('rope_type', 'default') != 'default':
    raise InputError(f'config.json: rope_type={rope["rope_type"]!r} is not supported for llama (known: default)')
  for field in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads'):
    if not isinstance(hf[field], int) or hf[field] < 1:
      raise InputError(f'config.json: {field}={hf[field]!r}: must be a whole number above 0')
  heads = hf['num_attention_heads']
  kv_heads = hf.get('num_key_value_heads') or heads
  if not isinstance(kv_heads, int) or heads % kv_heads:
    raise InputError(f'config.json: num_key_value_heads={kv_heads!r} does not divide num_attention_heads={heads}')
  return ModelConfig(
      family='llama', vocab=hf['vocab_size'], width=hf['hidden_size'], hidden=hf['intermediate_size'],
      layers=hf['num_hidden_layers'], heads=heads, kv_heads=kv_heads,
      head_dim=hf.get('head_dim') or hf['hidden_size'] // heads, context=hf.get('max_position_embeddings', 2048),
      rope_theta=float(rope.get('rope_theta') or hf.get('rope_theta') or 10_000.0),
      norm_eps=hf.get('rms_norm_eps', 1e-6), tied=hf.get('tie_word_embeddings', False))


def rows(c: ModelConfig) -> tuple[Row, ...]:
  layer = 'model.layers.{n}.'
  kernels = {'attn/q': 'self_attn.q_proj', 'attn/k': 'self_attn.k_proj', 'attn/v': 'self_attn.v_proj',
             'attn/o': 'self_attn.o_proj', 'mlp/gate': 'mlp.gate_proj', 'mlp/up': 'mlp.up_proj',
             'mlp/down': 'mlp.down_proj'}
  return (
      Row('embed/embedding', 'model.embed_tokens.weight'),
      *(Row(f'layers/{ours}/kernel', f'{layer}{theirs}.weight', transposed=True) for ours, theirs in kernels.items()),
      Row('layers/norm_attn/scale', layer + 'input_layernorm.weight'),
      Row('layers/norm_mlp/scale', layer + 'post_attention_layernorm.weight'),
      Row('norm/scale', 'model.norm.weight'),
      *(() if c.tied else (Row('head/kernel', 'lm_head.weight', transposed=True),)))


def gguf(fields: dict[str, Any]) -> dict[str, Any]:
  if fields.get('llama.rope.scaling.type', 'none') != 'none':
    raise InputError(f'GGUF: llama.rope.scaling.type={fields["llama.rope.scaling.type"]!r} is not supported')
  return {
      'model_type': 'llama',
      'vocab_size': fields.get('llama.vocab_size') or len(fields['tokenizer.ggml.tokens']),
      'hidden_size': fields['llama.embedding_length'], 'intermediate_size': fields['llama.feed_forward_length'],
      'num_hidden_layers': fields['llama.block_count'], 'num_attention_heads': fields['llama.attention.head_count'],
      'num_key_value_heads': fields.get('llama.attention.head_count_kv'),
      'head_dim': fields.get('llama.attention.key_length') or fields.get('llama.rope.dimension_count'),
      'max_position_embeddings': fields['llama.context_length'],
      'rope_theta': fields.get('llama.rope.freq_base', 10_000.0),
      'rms_norm_eps': fields['llama.attention.layer_norm_rms_epsilon'],
  }


def ungguf(c: ModelConfig, name: str, x: np.ndarray) -> np.ndarray:
  """GGUF stores q and k with each head's rotary pairs side by side; the originals keep the halves apart."""
  heads = {'q_proj': c.heads, 'k_proj': c.kv_heads}.get(name.split('.')[-2])
  if heads is None:
    return x
  out, width = x.shape
  return x.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2).reshape(out, width)


FAMILY = Family('llama', config, rows, ignored=(r'rotary_emb\.inv_freq$',), gguf=gguf, ungguf=ungguf)
