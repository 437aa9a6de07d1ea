"""What the benchmarks share: sides that take turns, the ratios of their pairs, and the machine that ran them.

Timings on shared machines differ by more between two minutes than between two programs. So the sides of a comparison run in one
process, one after the other and each round in the other order, and what is told is the median of the rounds' ratios (of steps
and decoding; an epoch, a start and memory are measured as they say).
"""

import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from research.distributed import device

PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'transformers', 'peft')


def setting() -> dict[str, Any]:
  """The machine, what was chosen because of it, and versions."""
  versions = {}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return {**device.settings(), 'python': platform.python_version(), **versions}


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


def tell(**row: Any) -> None:
  """One result: a JSON line."""
  print(json.dumps(row), flush=True)
