"""What a program multiplies: read off its jaxpr, so it counts what is computed and nothing else."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from research.distributed import device, partition
from research.models import fused
from research.models.products import contract


def equations(jaxpr: Any, times: float = 1) -> Iterator[tuple[Any, float]]:
  """(equation, how often it runs) of a jaxpr and all that it calls.

  A while loop's body counts once, and of programs among which is chosen each for an equal share. A fused kernel calls none.
  """
  for eqn in jaxpr.eqns:
    yield eqn, times
    if fused.kernel(eqn):
      continue
    inner = times
    if eqn.primitive.name == 'scan':
      inner = times * eqn.params['length']
    elif eqn.primitive.name == 'cond':
      inner = times / len(eqn.params['branches'])
    elif eqn.primitive.name == 'shard_map' and eqn.outvars:      # its body is one device's part
      inner = times * partition.num_shards(eqn.params['out_specs'][0], eqn.params['mesh'].shape)
    for value in eqn.params.values():
      for sub in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(sub, ClosedJaxpr):
          yield from equations(sub.jaxpr, inner)
        elif isinstance(sub, Jaxpr):
          yield from equations(sub, inner)


def count(closed: Any) -> float:
  """FLOPs of all matrix products: 2 · (batch · rows · columns) · contracted."""
  total = 0.0
  for eqn, times in equations(closed.jaxpr):
    if eqn.primitive.name == 'dot_general':
      (contracting, _), _ = eqn.params['dimension_numbers']
      left = eqn.invars[0].aval.shape
      total += times * 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[d] for d in contracting)
    elif fused.kernel(eqn):
      total += times * fused.flops(eqn)
  return total


@lru_cache(maxsize=4)
def matrix_peak(dtype: str = 'float32') -> float:
  """FLOP/s of the best of five products of two large matrices with float32 sums: what steps are measured against."""
  n = 1024 if jax.default_backend() == 'cpu' else 8192
  x = jax.random.normal(jax.random.key(0), (n, n), dtype)      # some devices multiply equal numbers faster
  product = jax.jit(lambda x: contract('ij,jk->ik', x, x, x.dtype))
  return 2.0 * n ** 3 / device.fastest(lambda: product(x))
