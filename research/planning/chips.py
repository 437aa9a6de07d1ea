"""Devices and what they cost: two tables, `chips.json` and `prices.json`, that a person can edit."""

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research.distributed import device
from research.errors import InputError
from research.models.config import DTYPES
from research.programs import flops

HERE = Path(__file__).parent
GIB = 2 ** 30
TPU_SLICES = {'v5e': '1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16', 'v6e': '1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16',
              'v5p': '2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8'}


class Chip(NamedTuple):
  """One device."""
  key: str                # of the tables
  name: str
  memory: float           # bytes that programs can use
  rates: dict[str, float]      # dtype -> FLOP/s of products with float32 sums
  bandwidth: float        # bytes/s of its memory
  interconnect: float     # bytes/s that it can send to others
  capability: float = 0.0      # see `device.compute_capability`


class Topology(NamedTuple):
  """So many devices of one kind."""
  said: str
  chip: Chip
  count: int              # type: ignore[assignment]  # tuple's method of this name is not used
  kind: str               # cpu, gpu or tpu

  def rate(self, dtype: str) -> float:
    """FLOP/s of a device's products; of this machine's, measured."""
    return flops.matrix_peak(dtype) if self.said == 'local' else self.chip.rates[dtype]

  @property
  def bandwidth(self) -> float:
    """Bytes/s of a device's memory; of this machine's, measured."""
    return _copies() if self.said == 'local' else self.chip.bandwidth


@lru_cache(maxsize=1)
def table() -> dict[str, Chip]:
  """The known devices by name."""
  rows = json.loads((HERE / 'chips.json').read_text(encoding='utf-8'))['chips']
  return {key: Chip(key, r['name'], r['memory'] * GIB, {dtype: r[dtype] * 1e12 for dtype in DTYPES}, r['bandwidth'] * 1e9,
                    r['interconnect'] * 1e9, r.get('capability', 0.0)) for key, r in rows.items()}


def is_slice(said: str) -> bool:
  """Whether a topology is one of TPUs by name, that is not asked of this machine."""
  return said.partition(':')[0] in TPU_SLICES


def topology(said: str) -> Topology:
  """What `--topology` names: `local`, a GPU (`H100`, `H100:8`) or a TPU slice (`v5e:16x16`).

  Raises:
    InputError: there is no such device, or slice.
  """
  if said == 'local':
    name = device.processor() if jax.default_backend() == 'cpu' else jax.devices()[0].device_kind
    here = Chip(said, name, device.memory(), {}, math.nan, math.inf,      # rates are measured when asked for
                device.compute_capability())
    return Topology(said, here, jax.device_count(), device.platform_kind())
  key, _, rest = said.partition(':')
  gpus = [name for name in table() if name not in TPU_SLICES]
  known = f'known: local; GPUs {", ".join(gpus)}, with :N for N of them; ' + '; '.join(
      f'{name}:{{{slices}}}' for name, slices in TPU_SLICES.items())
  if is_slice(said):
    if rest not in TPU_SLICES[key].split(', '):
      raise InputError(f'--topology={said}: no such slice ({known})')
    return Topology(said, table()[key], math.prod(int(n) for n in rest.split('x')), 'tpu')
  if key not in table() or not re.fullmatch(r'[1-9]\d*|', rest):
    raise InputError(f'--topology={said}: no such device ({known})')
  return Topology(said, table()[key], int(rest or 1), 'gpu')


@lru_cache(maxsize=1)
def _copies() -> float:
  """Bytes/s read and written by copies of a large array."""
  x = jnp.zeros(1 << 26, jnp.float32)
  step = jax.jit(lambda x: x + 1)
  return 2 * x.nbytes / device.fastest(lambda: step(x))


def costs(topology: Topology, hours: float) -> list[dict[str, Any]]:
  """What so many hours cost, at each provider that has the device; the dearest last."""
  prices = json.loads((HERE / 'prices.json').read_text(encoding='utf-8'))
  found = []
  for row in prices['rows']:
    if row['chip'] == topology.chip.key:
      machines = math.ceil(topology.count / row['chips'])
      found.append({'provider': row['provider'], 'machine': row['machine'], 'machines': machines,
                    'usd_per_hour': machines * row['usd_per_hour'], 'usd': machines * row['usd_per_hour'] * hours,
                    'prices_of': prices['date']})
  return sorted(found, key=lambda row: row['usd'])
