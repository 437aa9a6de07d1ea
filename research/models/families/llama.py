"""Llama and what shares its layers (Touvron et al. 2023, arXiv 2302.13971; SmolLM2 is of this shape).

`base` and `rows` also serve the siblings in this folder, which say only where they differ.
"""

from typing import Any

import numpy as np

from research.models import header_fields
from research.models.config import Kind, ModelConfig
from research.models.fields import Fields
from research.models.header import Header
from research.models.names import FREQUENCIES, Family, Row, in_layers
from research.models.positions import Rope

ACTIVATIONS = {'silu': 'silu', 'swish': 'silu', 'gelu': 'gelu', 'relu': 'relu', 'gelu_new': 'gelu_tanh',
               'gelu_pytorch_tanh': 'gelu_tanh', 'gelu_fast': 'gelu_tanh'}      # their names -> ours
ATTENTION = ('attn/q', 'attn/k', 'attn/v', 'attn/o')
MLP = ('mlp/gate', 'mlp/up', 'mlp/down')


def base(family: str, f: Fields, theta: float = 10_000.0, share: float | None = None, **others: Any) -> dict[str, Any]:
  """Keyword arguments of `ModelConfig` for a Llama-shaped decoder whose layers are all of one kind.

  Args:
    family: a key of `families.FAMILIES`.
    f: of the config.json.
    theta: the rope's base where the config names none.
    share: as for `Fields.rope`.
    others: further arguments, which win; `rope`, `head_dim` and `activation` in place of what the config says.
  """
  heads, kv_heads = f.heads()
  head_dim = others.pop('head_dim', None) or f.size('head_dim', f.size('hidden_size') // heads)
  context = f.size('max_position_embeddings', 2048)
  rope = others.pop('rope', None) or f.rope(head_dim, context, theta, share)
  if rope.dynamic:
    context = int(context * rope.dynamic.factor)
  return dict(
      family=family, vocab=f.size('vocab_size'), width=f.size('hidden_size'), hidden=f.size('intermediate_size'),
      layers=f.size('num_hidden_layers'), heads=heads, kv_heads=kv_heads, head_dim=head_dim, context=context,
      layer_kinds=(Kind(rope=rope),), norm_eps=f.number('rms_norm_eps', 1e-6),
      activation=others.pop('activation', None) or f.one_of('hidden_act', ACTIVATIONS, 'silu')) | others


def windowed(f: Fields, layers: int, window: int | None, local: list[bool], rope: Rope | None) -> dict[str, Any]:
  """`layer_kinds` and `layer_pattern` of a decoder some of whose layers see only a window.

  Args:
    f: of the config.json, whose `layer_types` wins over `local`.
    layers: N.
    window: how many positions such a layer sees, its own among them; None: no layer has a window.
    local: of every layer, whether it sees only a window.
    rope: of all layers.
  """
  local = f.local_layers(layers, local)
  if not window or not any(local):
    return dict(layer_kinds=(Kind(rope=rope),), layer_pattern=())
  if all(local):
    return dict(layer_kinds=(Kind(window, rope),), layer_pattern=())
  return dict(layer_kinds=(Kind(0, rope), Kind(window, rope)), layer_pattern=tuple(map(int, local)))


def config(f: Fields) -> ModelConfig:
  biases = (ATTENTION if f.flag('attention_bias') else ()) + (MLP if f.flag('mlp_bias') else ())
  return ModelConfig(**base('llama', f, tied=f.flag('tie_word_embeddings'), biases=biases))


KERNELS = {'attn/q': 'self_attn.q_proj', 'attn/k': 'self_attn.k_proj', 'attn/v': 'self_attn.v_proj',
           'attn/o': 'self_attn.o_proj', 'mlp/gate': 'mlp.gate_proj', 'mlp/up': 'mlp.up_proj', 'mlp/down': 'mlp.down_proj'}
NORMS = {'norm_attn': 'input_layernorm', 'norm_mlp': 'post_attention_layernorm'}


def rows(c: ModelConfig, kernels: dict[Any, Any] = KERNELS, norms: dict[str, str] = NORMS) -> tuple[Row, ...]:
  """The rows of a Llama-shaped decoder.

  Args:
    c: of the model.
    kernels: ours -> theirs; ours may be a tuple of kernels that stand in one tensor, one after the other.
    norms: ours -> theirs.
  """
  layer = 'model.layers.{n}.'
  qk_norms = {'attn/norm_q': 'self_attn.q_norm', 'attn/norm_k': 'self_attn.k_norm'} if c.qk_norm != 'none' else {}
  return (
      Row('embed/embedding', 'model.embed_tokens.weight'),
      *(Row(in_layers(names, 'kernel'), f'{layer}{theirs}.weight', transposed=True) for names, theirs in kernels.items()),
      *(Row(in_layers(name, 'bias'), f'{layer}{theirs}.bias') for name, theirs in kernels.items() if name in c.biases),
      *(Row(in_layers(name, 'scale'), f'{layer}{theirs}.weight') for name, theirs in (norms | qk_norms).items()),
      Row('norm/scale', 'model.norm.weight'),
      *(() if c.tied else (Row('head/kernel', 'lm_head.weight', transposed=True),)))


def gguf(h: Header) -> dict[str, Any]:
  return {'model_type': 'llama', 'attention_bias': 'blk.0.attn_q.bias' in h.tensors,
          'mlp_bias': 'blk.0.ffn_up.bias' in h.tensors, **h.decoder()}


def from_gguf_layout(c: ModelConfig, name: str, x: np.ndarray) -> np.ndarray:
  """GGUF stores q and k with each head's rotary pairs side by side; the originals keep the halves apart.

  Args:
    c: of the model.
    name: the tensor's in the originals.
    x: the tensor of the file: a kernel [O, I] or a bias [O] of q or k, or another of any shape, which is left as it is.
  """
  heads = {'q_proj': c.heads, 'k_proj': c.kv_heads}.get(name.split('.')[-2])
  if heads is None:
    return x
  out, rest = x.shape[0], x.shape[1:]
  return x.reshape(heads, out // heads // 2, 2, *rest).swapaxes(1, 2).reshape(out, *rest)


def to_gguf_layout(c: ModelConfig, name: str, x: np.ndarray) -> np.ndarray:
  """The inverse of `from_gguf_layout`: the halves of each head's pairs side by side.

  Args:
    c: of the model.
    name: the tensor's in the originals.
    x: the tensor there: a kernel [O, I] or a bias [O] of q or k, or another of any shape, which is left as it is.
  """
  heads = {'q_proj': c.heads, 'k_proj': c.kv_heads}.get(name.split('.')[-2])
  if heads is None:
    return x
  out, rest = x.shape[0], x.shape[1:]
  return x.reshape(heads, 2, out // heads // 2, *rest).swapaxes(1, 2).reshape(out, *rest)


FAMILY = Family('llama', config, rows, 'LlamaForCausalLM', prefix='model.', ignored=FREQUENCIES, gguf=gguf,
                from_gguf_layout=from_gguf_layout, to_gguf=header_fields.decoder, to_gguf_layout=to_gguf_layout)
