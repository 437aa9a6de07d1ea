"""What a model is, before any weight exists."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from research.errors import InputError

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and arithmetic of one model; hashable, so that it can be a static argument of jit.

  Letters as everywhere: V vocab, D width, F hidden, N layers, H heads, K kv_heads.
  """
  family: str            # a key of `families.FAMILIES`
  vocab: int             # V
  width: int             # D
  hidden: int            # F, the inner width of the MLP
  layers: int            # N
  heads: int             # H
  kv_heads: int          # K; H / K query heads share one key and value head
  head_dim: int
  context: int           # the longest sequence the weights were trained for
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tied: bool = False     # the head is the embedding, transposed
  dtype: str = 'float32'       # of activations and products (sums, norms and the loss are always float32)
  scan: bool = True            # one compiled layer run N times, or N layers laid out one after the other


class Execution(NamedTuple):
  """How a model is computed and kept; what `config.model` says beside the source."""
  dtype: str             # of activations and products
  param_dtype: str       # of frozen weights; what learns is always float32
  scan: bool


def native_dtype() -> str:
  """`bfloat16` on accelerators; `float32` on processors, where bfloat16 is not reliably faster."""
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def execution(dtype: str, param_dtype: str, scan: bool) -> Execution:
  """Resolves `auto` to what this machine does well; `param_dtype=auto` keeps frozen weights in the compute dtype."""
  for field, value in (('dtype', dtype), ('param_dtype', param_dtype)):
    if value not in (*DTYPES, 'auto'):
      raise InputError(f'model.{field}={value!r}: must be one of {", ".join(DTYPES)}, auto')
  dtype = native_dtype() if dtype == 'auto' else dtype
  return Execution(dtype, dtype if param_dtype == 'auto' else param_dtype, scan)
