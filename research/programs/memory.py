"""How much memory a program takes at one time, read off its jaxpr: a prediction, made before anything is compiled.

The program is walked in the order in which it is written. What a product, a loop, a gather or a scatter gives is an array from
there to its last use. What is computed element by element is an array only from where one of those reads it, in the place of
what it is computed from if nothing else needs that, and is fused elsewhere.
The results of a loop's body have their place in what the loop gives, and those of the program take that of donated arguments.
Compilers order and share more cleverly than this, or less.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, Var

from research.models import fused

REDUCTIONS = {'reduce_sum', 'reduce_max', 'reduce_min', 'argmax', 'reduce_and', 'reduce_or'}      # what they read may be fused
LOOPS = {'scan', 'while', 'cond'}
MADE = REDUCTIONS | LOOPS | {      # operations whose result is an array of its own
    'dot_general', 'gather', 'scatter', 'scatter-add', 'sort', 'cumsum', 'dynamic_update_slice', 'concatenate', 'top_k',
    'random_bits', 'svd', 'custom_call', *fused.PRODUCTS,
}
READ_ARRAYS = MADE - REDUCTIONS      # operations that fuse nothing of what they read


def nbytes(aval: Any) -> float:
  """Bytes of an array."""
  return float(math.prod(aval.shape) * getattr(aval.dtype, 'itemsize', 4))


def peak(closed: Any, donated: int, size: Callable[[Any], float] = nbytes) -> float:
  """Bytes that exist at the worst moment beside the arguments.

  Args:
    closed: the program's jaxpr.
    donated: so many arguments, the first ones, whose place results may take.
    size: aval -> bytes; of a program that runs on several devices, of the part on each.
  """
  jaxpr = closed.jaxpr
  places = sum(size(v.aval) for v in jaxpr.invars[:donated])
  arguments = [_Value(v.aval, 0.0) for v in jaxpr.invars]
  operations, results = _inlined(jaxpr, arguments)
  return _worst(operations, results, size, places)


class _Value:
  """An array of the program, or what stands for one; `bytes` where it is known to cost nothing."""
  __slots__ = ('aval', 'bytes')

  def __init__(self, aval: Any, of: float | None = None):
    self.aval, self.bytes = aval, of


class _Operation(NamedTuple):
  name: str
  params: dict[str, Any]
  reads: list[_Value]
  gives: list[_Value]


def _inlined(jaxpr: Any, arguments: Sequence[_Value]) -> tuple[list[_Operation], list[_Value]]:
  """All operations of a jaxpr, those of the functions that it calls in their place, and its results."""
  known = dict(zip(jaxpr.invars, arguments)) | {v: _Value(v.aval, 0.0) for v in jaxpr.constvars}
  value = lambda v: known[v] if isinstance(v, Var) else _Value(v.aval, 0.0)
  operations = []
  for eqn in jaxpr.eqns:
    reads = [value(v) for v in eqn.invars]
    kernel = fused.kernel(eqn)
    called = None if kernel or eqn.primitive.name in LOOPS else next(_bodies(eqn.params.values()), None)
    if called is not None and len(called.invars) == len(reads):
      inner, gives = _inlined(called, reads)
      operations += inner
    else:
      gives = [_Value(v.aval) for v in eqn.outvars]
      operations.append(_Operation(kernel or eqn.primitive.name, eqn.params, reads, gives))
    known |= dict(zip(eqn.outvars, gives))
  return operations, [value(v) for v in jaxpr.outvars]


def _bodies(params: Iterable[Any]) -> Iterator[Any]:
  """The jaxprs among an operation's parameters."""
  for value in params:
    for sub in value if isinstance(value, (tuple, list)) else (value,):
      body = getattr(sub, 'jaxpr', sub)
      if isinstance(body, Jaxpr):
        yield body


def _of_loop(operation: _Operation, size: Callable[[Any], float]) -> float:
  """The most that exists within a loop's body, beside what it reads and gives."""
  most = 0.0
  for body in _bodies(operation.params.values()):
    outside = operation.reads if len(body.invars) == len(operation.reads) else body.invars
    # A slice of a larger array is made where something reads it.
    arguments = [_Value(v.aval, 0.0 if v.aval.shape == whole.aval.shape else None)
                 for v, whole in zip(body.invars, outside)]
    operations, results = _inlined(body, arguments)
    for result in results:
      result.bytes = 0.0
    most = max(most, _worst(operations, results, size, 0.0))
  return most


def _worst(operations: Sequence[_Operation], results: Sequence[_Value], size: Callable[[Any], float], places: float) -> float:
  """The most bytes at one time; places: what donated arguments leave for the results."""
  end = len(operations)
  written = {v: number for number in range(end - 1, -1, -1) if operations[number].name in READ_ARRAYS
             for v in operations[number].reads}      # where what is computed element by element becomes an array
  last: dict[_Value, int] = dict.fromkeys(results, end)
  for number in range(end - 1, -1, -1):
    operation = operations[number]
    fused = operation.name not in MADE          # then what it reads is needed until what it gives is an array, or is not needed
    until = max((written.get(v, last.get(v, number)) for v in operation.gives), default=number) if fused else number
    for v in operation.reads:
      last[v] = max(last.get(v, -1), until)
  ending: list[list[_Value]] = [[] for _ in range(end + 1)]
  for v, number in last.items():
    ending[number].append(v)
  made: dict[_Value, float] = {}
  now = worst = 0.0

  def make(values: Iterable[_Value]) -> None:
    nonlocal now
    for v in values:
      if v not in made:
        made[v] = size(v.aval) if v.bytes is None else v.bytes
        now += made[v]

  for number, operation in enumerate(operations):
    if operation.name in MADE:
      if operation.name in READ_ARRAYS:
        make(operation.reads)
        for v in {*ending[number]} - {*operation.reads}:      # whose place they took
          now -= made.pop(v, 0.0)
      within = _of_loop(operation, size) if operation.name in LOOPS else 0.0
      make(operation.gives)
      worst = max(worst, now + within)
    for v in ending[number]:
      now -= made.pop(v, 0.0)
  make(results)
  return max(worst, now - min(places, sum(made.get(v, 0.0) for v in set(results))))
