"""What a program multiplies: read off its jaxpr, so it counts what is computed and nothing else."""

import math
from collections.abc import Iterator
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


REPEATS = 10      # of a measurement that gave less than a program reached
_peaks: dict[str, float] = {}      # the highest that this process has seen, by dtype


def matrix_peak(dtype: str = 'float32', reached: float = 0.0) -> float:
  """FLOP/s of the fastest product of two large matrices with float32 sums: what steps are measured against.

  What else a machine does makes a measurement too low, and never too high. So it is repeated where a program was faster than
  it, and where that stays so, the program's rate is the highest that is known: no share of the peak is above 1.

  Args:
    dtype: of the matrices.
    reached: FLOP/s of a program on one device, whose share of the peak is asked.
  """
  best = _peaks.get(dtype) or _product_rate(dtype)
  for _ in range(REPEATS):
    if best < reached:
      best = max(best, _product_rate(dtype))
  _peaks[dtype] = max(best, reached)
  return _peaks[dtype]


def _product_rate(dtype: str) -> float:
  """FLOP/s of the best of five products."""
  n = 1024 if jax.default_backend() == 'cpu' else 8192
  x = jax.random.normal(jax.random.key(0), (n, n), dtype)      # some devices multiply equal numbers faster
  return 2.0 * n ** 3 / device.fastest(lambda: _product(x))


@jax.jit
def _product(x: jax.Array) -> jax.Array:
  return contract('ij,jk->ik', x, x, x.dtype)
