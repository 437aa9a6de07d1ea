"""How much memory a program takes at one time, read off its jaxpr: a prediction, made before anything is compiled.

The program is walked in the order in which it is written. What a product, a loop, a gather or a scatter gives is an array from
there to its last use; what is computed element by element exists where one of those reads it, and is fused elsewhere; what a
donated argument can hold costs nothing. Compilers reorder and share more cleverly than this, or less.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

MADE = {      # operations whose result is an array of its own; all others are taken to be fused into what reads them
    'dot_general', 'conv_general_dilated', 'gather', 'scatter', 'scatter-add', 'sort', 'cumsum', 'dynamic_update_slice',
    'concatenate', 'reduce_sum', 'reduce_max', 'reduce_min', 'argmax', 'top_k', 'random_bits', 'dynamic_slice', 'pad',
}
LOOPS = {'scan', 'while', 'cond'}
READS = MADE - {'reduce_sum', 'reduce_max', 'reduce_min', 'argmax'}      # what reads arrays as they are: its operands are made


def nbytes(aval: Any) -> int:
  """Bytes of an array by its shape."""
  if not hasattr(aval, 'shape'):
    return 0
  dtype = aval.dtype
  return int(np.prod(aval.shape, dtype=np.int64)) * (dtype.itemsize if hasattr(dtype, 'itemsize') else 4)


def peak(jaxpr: Any, donated: Sequence[bool] = (), size: Callable[[Any], float] = nbytes) -> float:
  """Bytes that exist at the worst moment beside the arguments.

  Args:
    jaxpr: of the program. donated: of each argument, whether a result may take its place.
    size: bytes of an array, such as of a device's part of it.
  """
  return _Walk(jaxpr, donated, size).worst


class _Walk:
  """One pass over a jaxpr: arrays that exist, and the most that ever did."""

  def __init__(self, jaxpr, donated, size, slices=()):
    self.size, self.live, self.now, self.worst = size, {}, 0.0, 0.0
    self.sources: dict[Any, frozenset] = {}      # of what is fused: the arrays that it is computed from
    arguments = (set(jaxpr.invars) | set(jaxpr.constvars)) - set(slices)
    free = [size(v.aval) for v, gone in zip(jaxpr.invars, donated) if gone]
    uses: dict[Any, int] = {}
    for number, eqn in enumerate(jaxpr.eqns):
      for v in eqn.invars:
        if isinstance(v, jax.extend.core.Var):
          uses[v] = number
    results = {v for v in jaxpr.outvars if isinstance(v, jax.extend.core.Var)}
    last = dict(uses)
    for number in range(len(jaxpr.eqns) - 1, -1, -1):      # what is fused keeps alive what it is computed from
      eqn = jaxpr.eqns[number]
      if _fused(eqn):
        until = max((last.get(v, -1) for v in eqn.outvars), default=-1)
        until = len(jaxpr.eqns) if results & set(eqn.outvars) else until
        for v in eqn.invars:
          if isinstance(v, jax.extend.core.Var):
            last[v] = max(last.get(v, -1), until)
    for v in results:
      last[v] = len(jaxpr.eqns)
    ending: dict[int, list] = {}
    for v, number in last.items():
      ending.setdefault(number, []).append(v)
    self.arguments = arguments
    for number, eqn in enumerate(jaxpr.eqns):
      self._do(eqn)
      for v in ending.get(number, ()):
        self.now -= self.live.pop(v, 0.0)
    for v in results:                                         # the results take the donated arguments' places
      if v not in self.live and v not in arguments:
        self.make(v)
    held = sum(self.live.get(v, 0.0) for v in results)
    self.worst = max(self.worst, self.now - min(held, sum(free)))
    del held

  def make(self, v) -> None:
    if isinstance(v, jax.extend.core.Var) and v not in self.live and v not in self.arguments:
      self.live[v] = self.size(v.aval)
      self.now += self.live[v]
      self.worst = max(self.worst, self.now)

  def _do(self, eqn) -> None:
    if _fused(eqn):
      return
    inner = 0.0
    for body, slices in _bodies(eqn):
      inner = max(inner, _Walk(body, (), self.size, slices).worst)
    if eqn.primitive.name in READS or inner or eqn.primitive.name in LOOPS:
      for v in eqn.invars:
        self.make(v)
    self.worst = max(self.worst, self.now + inner)
    for v in eqn.outvars:
      self.make(v)
    self.worst = max(self.worst, self.now + (inner if eqn.primitive.name == 'scan' else 0.0))


def _fused(eqn) -> bool:
  return eqn.primitive.name not in MADE | LOOPS and not any(True for _ in _bodies(eqn))


def _bodies(eqn):
  """(jaxpr, those of its arguments that are slices of larger arrays) of all that an equation runs."""
  for value in eqn.params.values():
    for sub in value if isinstance(value, (tuple, list)) else (value,):
      body = sub.jaxpr if isinstance(sub, jax.extend.core.ClosedJaxpr) else sub
      if isinstance(body, jax.extend.core.Jaxpr):
        yield body, body.invars[eqn.params['num_consts'] + eqn.params['num_carry']:] if eqn.primitive.name == 'scan' else ()
