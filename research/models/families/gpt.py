"""GPT-2 (Radford et al. 2019) and GPT-NeoX / Pythia (Black et al. 2022, arXiv 2204.06745; Biderman et al. 2023)."""

from typing import Any

import numpy as np

from research.errors import InputError
from research.models.config import Kind, ModelConfig
from research.models.families.llama import ACTIVATIONS, ATTENTION
from research.models.fields import Fields
from research.models.header import Header
from research.models.names import FREQUENCIES, Family, Row, in_layers

QKV = ('attn/q', 'attn/k', 'attn/v')
BIASED = (*ATTENTION, 'mlp/up', 'mlp/down')


def _head_dim(f: Fields, width: int, heads: int) -> int:
  if width % heads:
    raise InputError(f'{f.where}: {heads} heads do not divide the width of {width}')
  return width // heads


def gpt2(f: Fields) -> ModelConfig:
  f.only('scale_attn_weights', True)
  f.only('scale_attn_by_inverse_layer_idx', False)
  f.only('add_cross_attention', False)
  width, heads, context = f.size('n_embd', 768), f.size('n_head', 12), f.size('n_positions', 1024)
  return ModelConfig(
      family='gpt2', vocab=f.size('vocab_size', 50257), width=width, hidden=f.size('n_inner', 4 * width),
      layers=f.size('n_layer', 12), heads=heads, kv_heads=heads, head_dim=_head_dim(f, width, heads), context=context,
      tied=f.flag('tie_word_embeddings', True), norm='layer', norm_eps=f.number('layer_norm_epsilon', 1e-5), biases=BIASED,
      activation=f.one_of('activation_function', ACTIVATIONS, 'gelu_new'), gated=False, learned_positions=context)


def gpt2_rows(c: ModelConfig) -> tuple[Row, ...]:
  """GPT-2 keeps its kernels [I, O], as we do, and q, k, v in one tensor."""
  kernels: dict[str | tuple[str, ...], str] = {
      QKV: 'attn.c_attn', 'attn/o': 'attn.c_proj', 'mlp/up': 'mlp.c_fc', 'mlp/down': 'mlp.c_proj'}
  layer = 'transformer.h.{n}.'
  return (
      Row('embed/embedding', 'transformer.wte.weight'), Row('positions/embedding', 'transformer.wpe.weight'),
      *(Row(in_layers(ours, 'kernel'), f'{layer}{theirs}.weight') for ours, theirs in kernels.items()),
      *(Row(in_layers(ours, 'bias'), f'{layer}{theirs}.bias') for ours, theirs in kernels.items()),
      *(Row(f'{ours}/{leaf}', f'{theirs}.{stored}') for leaf, stored in (('scale', 'weight'), ('bias', 'bias'))
        for ours, theirs in (('layers/norm_attn', layer + 'ln_1'), ('layers/norm_mlp', layer + 'ln_2'),
                             ('norm', 'transformer.ln_f'))),
      *(() if c.tied else (Row('head/kernel', 'lm_head.weight', transposed=True),)))


def gguf(h: Header) -> dict[str, Any]:
  heads = h.size('attention.head_count')
  h.only('attention.head_count_kv', heads)
  return {'model_type': 'gpt2', 'vocab_size': h.vocab(), 'n_embd': h.size('embedding_length'),
          'n_inner': h.size('feed_forward_length'), 'n_layer': h.layers(), 'n_head': heads,
          'n_positions': h.size('context_length'), 'activation_function': 'gelu_new',
          'layer_norm_epsilon': h.number('attention.layer_norm_epsilon'), **h.special_ids()}


def from_gguf_layout(c: ModelConfig, name: str, x: np.ndarray) -> np.ndarray:
  """GGUF stores all kernels [O, I]; the originals keep those of a layer [I, O].

  Args:
    c: of the model.
    name: the tensor's in the originals.
    x: the tensor of the file: a kernel [O, I], or another of any shape, which is left as it is.
  """
  return x.T if name.endswith(('c_attn.weight', 'c_proj.weight', 'c_fc.weight')) else x


def to_gguf(c: ModelConfig, hf: dict[str, Any]) -> dict[str, Any]:
  return {'vocab_size': c.vocab, 'block_count': c.layers, 'context_length': c.context, 'embedding_length': c.width,
          'feed_forward_length': c.hidden, 'attention.head_count': c.heads, 'attention.layer_norm_epsilon': float(c.norm_eps)}


def neox(f: Fields) -> ModelConfig:
  heads, width, context = f.size('num_attention_heads'), f.size('hidden_size'), f.size('max_position_embeddings', 2048)
  head_dim = _head_dim(f, width, heads)
  rope = f.rope(head_dim, context, f.number('rotary_emb_base', 10_000.0), f.number('rotary_pct', 0.25))
  return ModelConfig(
      family='gpt_neox', vocab=f.size('vocab_size'), width=width, hidden=f.size('intermediate_size'),
      layers=f.size('num_hidden_layers'), heads=heads, kv_heads=heads, head_dim=head_dim, context=context,
      tied=f.flag('tie_word_embeddings'), layer_kinds=(Kind(rope=rope),), norm='layer',
      norm_eps=f.number('layer_norm_eps', 1e-5), parallel=f.flag('use_parallel_residual', True),
      biases=BIASED if f.flag('attention_bias', True) else ('mlp/up', 'mlp/down'),
      activation=f.one_of('hidden_act', ACTIVATIONS, 'gelu'), gated=False)


def neox_rows(c: ModelConfig) -> tuple[Row, ...]:
  """GPT-NeoX keeps q, k, v of each head side by side in one tensor."""
  kernels: dict[str | tuple[str, ...], str] = {
      QKV: 'attention.query_key_value', 'attn/o': 'attention.dense', 'mlp/up': 'mlp.dense_h_to_4h',
      'mlp/down': 'mlp.dense_4h_to_h'}
  layer = 'gpt_neox.layers.{n}.'
  heads = lambda ours: c.heads if ours == QKV else 0
  return (
      Row('embed/embedding', 'gpt_neox.embed_in.weight'),
      *(Row(in_layers(ours, 'kernel'), f'{layer}{theirs}.weight', transposed=True, heads=heads(ours))
        for ours, theirs in kernels.items()),
      *(Row(in_layers(ours, 'bias'), f'{layer}{theirs}.bias', heads=heads(ours)) for ours, theirs in kernels.items()
        if (ours[0] if ours == QKV else ours) in c.biases),
      *(Row(f'{ours}/{leaf}', f'{theirs}.{stored}') for leaf, stored in (('scale', 'weight'), ('bias', 'bias'))
        for ours, theirs in (('layers/norm_attn', layer + 'input_layernorm'),
                             ('layers/norm_mlp', layer + 'post_attention_layernorm'),
                             ('norm', 'gpt_neox.final_layer_norm'))),
      *(() if c.tied else (Row('head/kernel', 'embed_out.weight', transposed=True),)))


GPT2 = Family('gpt2', gpt2, gpt2_rows, 'GPT2LMHeadModel', prefix='transformer.', embedding='transformer.wte.weight',
              ignored=(r'\.attn\.(masked_)?bias$',), gguf=gguf, from_gguf_layout=from_gguf_layout,
              to_gguf=to_gguf, to_gguf_layout=from_gguf_layout)      # transposing twice is nothing
NEOX = Family('gpt_neox', neox, neox_rows, 'GPTNeoXForCausalLM', prefix='gpt_neox.', embedding='gpt_neox.embed_in.weight',
              head='embed_out.weight', ignored=(r'attention\.(masked_)?bias$', *FREQUENCIES))
