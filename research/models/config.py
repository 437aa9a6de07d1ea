"""What a model is, before any weight exists."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from research.distributed import device
from research.errors import InputError
from research.models.positions import Rope
from research.models.quantized import KINDS

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


REMAT = ('none', 'products', 'layer')     # keep all; keep results of kernels and compute the rest again; keep a layer's input


ATTENTION = ('auto', 'plain')                # one kernel where it is known to be right (`fused`), or never


class Kind(NamedTuple):
  """What layers of one stack may differ in: how far back they see, and how positions turn their heads."""
  window: int = 0              # a query sees this many positions, its own among them; 0: all
  rope: Rope | None = None     # None: positions enter elsewhere (learned embeddings, relative biases)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of one model; hashable, so that it can be a static argument of jit.

  Letters as everywhere: V vocab, D width, F hidden, N layers, H heads, K kv_heads. A family is a translation of its
  config.json into these fields; the layers ask them, and never which family it is.
  """
  family: str            # a key of `families.FAMILIES`
  vocab: int             # V
  width: int             # D
  hidden: int            # F, the inner width of the MLP
  layers: int            # N, of the decoder
  heads: int             # H
  kv_heads: int          # K; H / K query heads share one key and value head
  head_dim: int
  context: int           # the longest sequence the weights were trained for
  tied: bool = False     # the head is the embedding, transposed

  layer_kinds: tuple[Kind, ...] = (Kind(),)   # the different kinds of decoder layers
  layer_pattern: tuple[int, ...] = ()         # each layer's kind; empty: all are of the first

  norm: str = 'rms'                     # 'rms' (scale only) or 'layer' (mean, scale and bias)
  norm_eps: float = 1e-5
  norm_offset: float = 0.0              # what is multiplied is this + scale
  norms: tuple[str, ...] = ('before',)  # of each sublayer: 'before' it, 'after' it, or both
  qk_norm: str = 'none'                 # of queries and keys: 'none', of each 'head', or of all heads as one ('heads')
  parallel: bool = False                # attention and MLP read the same input and add to it together
  biases: tuple[str, ...] = ()          # the kernels that have one: 'attn/q', 'mlp/up', …
  activation: str = 'silu'              # a key of `layers.ACTIVATIONS`
  gated: bool = True                    # down(act(gate(x)) * up(x)), or down(act(up(x)))
  query_scale: float | None = None      # of the attention scores; None: head_dim ** -0.5
  attention_cap: float = 0.0            # scores become cap · tanh(scores / cap); 0: as they are
  logit_cap: float = 0.0
  logit_scale: float = 1.0              # of what the head reads
  embed_scale: float = 1.0              # of the embedded tokens
  learned_positions: int = 0            # rows of a table of position embeddings; 0: there is none

  last_layers: int = 0                  # of the decoder, kept in a stack of their own (`functions.split_last_layers`)
  devices: int = 1                      # each with such a part of a model's heads and inner widths (`account.of_a_device`)

  encoder_layers: int = 0               # above 0: an encoder reads the prompt, and the decoder attends to it
  decoder_start_id: int | None = None              # where there is an encoder: the token before the decoder's first
  relative_buckets: int = 0                      # of relative distances, each with a bias per head; 0: there are none
  max_distance: int = 128               # from here on all distances share a bucket
  bias_per_layer: bool = False          # every layer has its own biases, or a stack's layers share one table

  init_std: float | None = 0.02           # standard deviation of initial weights; None: T5's, 1 / √I (embeddings: 1)

  dtype: str = 'float32'       # of activations and products (sums, norms and the loss are always float32)
  remat: str = 'none'          # what the backward pass computes again: one of `REMAT`
  attention: str = 'auto'      # one of `ATTENTION`

  @property
  def has_encoder(self) -> bool:
    """Whether an encoder reads the prompt, and the answer begins anew."""
    return self.encoder_layers > 0

  @property
  def has_max_length(self) -> bool:
    """Whether `context` is a limit: relative biases know no longest sequence."""
    return not self.relative_buckets


class Execution(NamedTuple):
  """How a model is computed and kept; what `config.model` says beside the source."""
  dtype: str             # of activations and products
  param_dtype: str       # of frozen weights; what is trainable is always float32
  scan: bool
  quantize: str = 'none'     # how frozen kernels of the layers are kept: a key of `quantized.KINDS`
  remat: str = 'none'        # what the backward pass computes again: one of `REMAT`
  attention: str = 'auto'    # one of `ATTENTION`


def execution(dtype: str, param_dtype: str, scan: bool, quantize: str, remat: str = 'none',
              attention: str = 'auto') -> Execution:
  """Resolves `auto` to what this machine does well.

  Args:
    dtype: of activations and products: a key of `DTYPES`, or `auto` (see `device.native_dtype`).
    param_dtype: of frozen weights; `auto` keeps them in the dtype of activations.
    scan: whether one compiled layer runs N times; otherwise the layers are unrolled.
    quantize: how frozen kernels of the layers are kept: a key of `quantized.KINDS`.
    remat: what the backward pass computes again: one of `REMAT`.
    attention: one of `ATTENTION`.
  Raises:
    InputError: a value that is not known, or recomputation on CPU without `scan`.
  """
  if quantize not in KINDS:
    raise InputError(f'model.quantize={quantize!r}: must be one of {", ".join(KINDS)}')
  if remat not in REMAT:
    raise InputError(f'model.remat={remat!r}: must be one of {", ".join(REMAT)}')
  if attention not in ATTENTION:
    raise InputError(f'model.attention={attention!r}: must be one of {", ".join(ATTENTION)}')
  if remat != 'none' and not scan and device.platform_kind() == 'cpu':
    raise InputError(f'model.remat={remat}: on CPU XLA keeps everything where the layers are unrolled; needs '
                     'model.scan=True')
  for field, value in (('dtype', dtype), ('param_dtype', param_dtype)):
    if value not in (*DTYPES, 'auto'):
      raise InputError(f'model.{field}={value!r}: must be one of {", ".join(DTYPES)}, auto')
  dtype = device.native_dtype() if dtype == 'auto' else dtype
  return Execution(dtype, dtype if param_dtype == 'auto' else param_dtype, scan, quantize, remat, attention)
