"""What the benchmarks share: sides that take turns, the ratios of their pairs, and the machine that ran them.

Timings on shared machines differ by more between two minutes than between two programs. So the sides of a comparison run in one
process, one after the other and each round in the other order, and what is told is the median of the rounds' ratios.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'transformers', 'peft')


def machine() -> dict[str, Any]:
  """Processor, accelerator, allocator and versions."""
  lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  maps = Path('/proc/self/maps').read_text() if Path('/proc/self/maps').exists() else ''
  versions = {}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return {'processor': names[0] if names else platform.processor(), 'cores': len(os.sched_getaffinity(0)),
          'device': jax.devices()[0].device_kind,
          'allocator': next((name for name in ('tcmalloc', 'jemalloc', 'mimalloc') if name in maps), 'the C library\'s'),
          'python': platform.python_version(), **versions}


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
  """Seconds of each side in each round, after one call of each that does not count, and what that call gave.

  Args:
    sides: name -> a unit of work that returns once it is done.
  """
  first = {name: side() for name, side in sides.items()}
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for number in range(rounds):
    names = list(sides) if number % 2 == 0 else list(reversed(sides))
    for name in names:
      began = time.perf_counter()
      sides[name]()
      seconds[name].append(time.perf_counter() - began)
  return seconds, first


def against(other: str, seconds: dict[str, list[float]], ours: str) -> dict[str, Any]:
  """The median of the rounds' ratios, the other side over ours (above 1: ours is faster), and their middle half."""
  found = [a / b for a, b in zip(seconds[other], seconds[ours])]
  low, middle, high = statistics.quantiles(found, n=4, method='inclusive') if len(found) > 1 else found * 3
  return {f'{other}_seconds': round(statistics.median(seconds[other]), 4), 'ratio': round(middle, 3),
          'middle_half': [round(low, 3), round(high, 3)], 'rounds': len(found)}


def matrix_peak(dtype: str, size: int = 2048, rounds: int = 8) -> float:
  """FLOP/s of the fastest product [size, size] x [size, size] that this device does with float32 sums."""
  a = jnp.ones((size, size), dtype)
  product = jax.jit(lambda a: jnp.einsum('ij,jk->ik', a, a, preferred_element_type=jnp.float32))
  seconds, _ = take_turns({'product': lambda: product(a).block_until_ready()}, rounds)
  return 2 * size ** 3 / min(seconds['product'])


def tell(**row: Any) -> None:
  """One result: a JSON line."""
  print(json.dumps(row), flush=True)
