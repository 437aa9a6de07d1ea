"""How every array is divided on a mesh of devices: one table, for every family and every strategy.

`data` holds other rows and the same weights, `fsdp` other rows and a part of every weight (gathered where a layer reads it),
and `tensor` the same rows and a part of every product; a cohort's `members` have an axis of their own.
"""

import math
import re
from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec as P

AXES = ('data', 'fsdp', 'tensor')
EVAL_MESH = {'data': 1, 'fsdp': -1, 'tensor': 1}      # to use what was learned: a part of the weights on each device here
ROWS = ('data', 'fsdp')      # the axes over which a batch's lines are spread
MEMBERS = 'members'          # the axis of a cohort's members, on the mesh of a cohort alone

# Pattern over a parameter's path, or a delta's site -> the axes of its two sides: what it reads and what it gives.
TABLE = (
    (r'embed/embedding$', ('tensor', 'fsdp')),                       # [V, D]
    (r'positions/embedding$', (None, 'fsdp')),                       # [positions, D]
    (r'head/kernel$', ('fsdp', 'tensor')),                           # [D, V]
    (r'/(q|k|v|gate|up)/(kernel|bias)$', ('fsdp', 'tensor')),        # [D, heads or hidden]: a part of the heads each
    (r'/(o|down)/kernel$', ('tensor', 'fsdp')),                      # [heads or hidden, D]
    (r'/qkv$', ('fsdp', None)),                                      # one delta of three kernels, side by side
    (r'/prefix$', (None, 'tensor')),
    (r'/output$', ('fsdp', 'fsdp')),                                 # a sublayer's result, that adapters read and give
)

IN, OUT = 0, 1      # the two sides of what stands at a site
Axes = tuple[int | None, ...]
# Leaves of a parameter or a quantised kernel -> which of the two sides their last dimensions are; None: of neither.
LEAVES: dict[str, Axes] = {'kernel': (IN, OUT), 'embedding': (IN, OUT), 'bias': (OUT,), 'values': (IN, OUT),
                           'scale': (IN, OUT)}
DELTAS: dict[str, Axes] = {}             # the same of deltas' leaves, which each kind of delta declares
FLAT = ('codes', 'scales', 'outer')      # an nf4 kernel's leaves [N, …]: the weights of its first output, of its second, …


def declare(leaf: str, axes: Axes) -> None:
  """Says how a leaf of a delta lies, by the name that it has in all deltas.

  Raises:
    TypeError: another delta has declared a leaf of this name that lies otherwise.
  """
  if DELTAS.setdefault(leaf, axes) != axes or (leaf in LEAVES and LEAVES[leaf] != axes):
    raise TypeError(f'a leaf {leaf!r} with axes {axes}: another leaf of this name has {DELTAS[leaf]}; give it another name')


def spec(name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> P:
  """How a leaf is divided. A dimension that its axes do not divide evenly is divided by the first of them, or stays whole.

  Args:
    name: the leaf's path, also inside an optimiser's state.
    shape: the whole leaf's.
    sizes: of the mesh's axes; one that is not there counts as 1.
  Raises:
    TypeError: no delta has declared such a leaf, so nothing says how it lies.
  """
  site, _, leaf = name.rpartition('/')
  is_added = re.search(r'(^|/)(delta|shared)/', name) is not None
  if is_added and leaf not in DELTAS:
    raise TypeError(f'{name}: no delta declares the axes of a leaf {leaf!r}')
  where = name if leaf in ('kernel', 'embedding', 'bias') else site
  sides = next((sides for pattern, sides in TABLE if re.search(pattern, where)), None)
  parts: list[str | tuple[str, ...] | None]
  if sides is None or re.search(r'/v_(row|col)/', name):      # the latter are Adafactor's sums over one of the sides
    parts = []
  elif leaf in FLAT:
    parts = [('tensor', 'fsdp') if sides[1] == 'tensor' else 'fsdp']
  else:
    parts = [None if side is None else sides[side] for side in (DELTAS if is_added else LEAVES).get(leaf, ())]
  if not parts or len(parts) > len(shape):
    return P()
  if 'fsdp' not in parts:      # the half of a low-rank delta, a bias, that has no side to spread over it
    parts = [('tensor', 'fsdp') if part == 'tensor' else part for part in parts]
  parts = [None] * (len(shape) - len(parts)) + parts
  return P(*[next((some for some in (axes, _first(axes)) if n % _ways(some, sizes) == 0), None)
             for axes, n in zip(parts, shape)])


def _first(axes: str | tuple[str, ...] | None) -> str | None:
  return axes[0] if isinstance(axes, tuple) else axes


def _ways(axes: str | tuple[str, ...] | None, sizes: Mapping[str, int]) -> int:
  """Into how many parts these axes divide a dimension."""
  return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def num_shards(spec: P, sizes: Mapping[str, int]) -> int:
  """Over how many devices an array that is divided so is spread."""
  return math.prod(_ways(axes, sizes) for axes in spec)


def shard_shape(name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[int, ...]:
  """The shape of a device's part of a leaf.

  Args:
    name: the leaf's path.
    shape: the whole leaf's.
    sizes: of the mesh's axes, as for `spec`.
  """
  divided = (*spec(name, shape, sizes), *[None] * len(shape))
  return tuple(n // _ways(axes, sizes) for axes, n in zip(divided, shape))
