"""Compiled steps, with what they cost. Runs in one process share them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding

from research.distributed import device, mesh
from research.programs import flops


class Executable(NamedTuple):
  """One function, compiled for one shape of arguments."""
  call: Callable[..., Any]
  seconds: float             # that tracing and compiling took
  flops: float               # of one call: multiplications and additions of its matrix products
  peak_bytes: int            # of each device: arguments, results and temporaries, as the compiler accounts for them

  def __call__(self, *args: Any) -> Any:
    return self.call(*args)


class Trace(NamedTuple):
  """One function, traced for one shape of arguments."""
  traced: jax.stages.Traced
  seconds: float             # that tracing took

  @property
  def jaxpr(self) -> Any:
    return self.traced.jaxpr


KEPT = 64      # programs at one time: each holds memory maps, and Linux gives a process 65,530 of them
TRACED = 4     # traces that wait to be compiled
_kept: dict[Any, Executable] = {}     # the one compiled first comes first
_traced: dict[Any, Trace] = {}        # the one traced first comes first
_seconds: list[float] = []            # that each compilation of this process took


def seconds_spent() -> float:
  """On compiling, by this process so far."""
  return sum(_seconds)


def forget() -> None:
  """Lets go of every compiled program, these and JAX's own; what is called again is compiled again."""
  _kept.clear()
  _traced.clear()
  jax.clear_caches()


def _place(x: Any) -> NamedSharding | None:
  """Where an argument lies on the mesh in use; None on one device, and for what is given to the mesh with the call."""
  found = getattr(x, 'sharding', None)
  return found if isinstance(found, NamedSharding) else None


def peak_bytes(memory: Any, kind: str) -> int:
  """Bytes of each device that a program takes at one time, arguments and results among them, as its compiler accounts for them.

  For TPUs the compiler says the peak itself: what it calls temporaries are up to half as much again as it lays out in a chip's
  memory, since arrays that take turns in one place count each (a step of 17.8 GiB by that sum finds room in 15.75).

  Args:
    memory: of a compiled program, its `memory_analysis()`.
    kind: of the devices: cpu, gpu or tpu.
  """
  if kind == 'tpu' and memory.peak_memory_in_bytes:
    return int(memory.peak_memory_in_bytes)
  return int(memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
          - memory.alias_size_in_bytes)


def _key(function: Callable[..., Any], args: Any, donate: tuple[int, ...], static: dict[str, Any]) -> Any:
  """Calls of which one program serves all: what is traced depends on the mesh and the kind of device too."""
  leaves, structure = jax.tree.flatten(args)
  signature = tuple((x.shape, x.dtype, getattr(x, 'weak_type', False), _place(x)) for x in leaves)
  return (function, structure, signature, donate, tuple(sorted(static.items())), mesh.current(), device.platform_kind(),
          device.compute_capability())


def trace(function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), **static: Any) -> Trace:
  """`function(*args, **static)` traced. The next `compiled` of an equal call goes on from it: a plan's step is a run's.

  Args:
    function: as for `compiled`, as are all others.
    args: arrays or their shapes.
    donate: numbers of arguments.
    static: constants of the program.
  """
  key = _key(function, args, donate, static)
  if key not in _traced:
    start = time.perf_counter()
    results = (jax.tree.map(_place, args[donate[0]]), None) if donate and mesh.sizes() else None
    traced = jax.jit(lambda *args: function(*args, **static), donate_argnums=donate, out_shardings=results).trace(*args)
    _traced[key] = Trace(traced, time.perf_counter() - start)
    if len(_traced) > TRACED:
      del _traced[next(iter(_traced))]
  return _traced[key]


def compiled(function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), **static: Any) -> Executable:
  """`function(*args, **static)` compiled ahead of time; found again for equal shapes and equal static arguments.

  Args:
    function: a pure function of `args` and `static`.
    args: trees of arrays, of which shapes, dtypes and places on the mesh count, and no values.
    donate: numbers of the arguments whose memory the results may take over. On a mesh the first of them is a state, and the
      first result its successor, which lies as it lay.
    static: hashable keyword arguments, constants of the compiled program.
  """
  key = _key(function, args, donate, static)
  if key not in _kept:
    traced = trace(function, *args, donate=donate, **static)
    start = time.perf_counter()
    executable = traced.traced.lower().compile()
    del _traced[key]
    _kept[key] = Executable(executable, traced.seconds + time.perf_counter() - start, flops.count(traced.jaxpr),
                            peak_bytes(executable.memory_analysis(), device.platform_kind()))
    _seconds.append(_kept[key].seconds)
    if len(_kept) > KEPT:
      del _kept[next(iter(_kept))]
  return _kept[key]
