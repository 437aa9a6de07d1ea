"""Where every array lies on a mesh of devices: one table, for every family and every strategy.

`data` holds other rows and the same weights, `fsdp` other rows and a part of every weight (gathered where a layer reads it),
and `tensor` the same rows and a part of every product; a cohort's `members` have an axis of their own. JAX does the rest: a
step is compiled for arrays that are sharded so, and what the model says about its activations (`constrain_batch`) keeps
products from being summed up where a weight can be gathered instead.
Without a mesh, on one device, nothing here does anything.
"""

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from research import hosts, tree
from research.errors import InputError
from research.tree import Tree

Array = jax.Array

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

# Leaves of a parameter, a delta or a quantised kernel -> which of the two sides their last dimensions are.
LEAVES: Mapping[str, tuple[int | None, ...]] = {
    'kernel': (0, 1), 'embedding': (0, 1), 'bias': (1,), 'values': (0, 1), 'scale': (0, 1),
    'a': (0, None), 'fixed_a': (0, None), 'b': (None, 1), 'fixed_b': (None, 1),
    'magnitude': (1,), 'fixed_square': (1,), 'o': (1,), 'value': (1,), 'keys': (None, 1),
    'down': (0, None), 'up': (None, 1),
}
FLAT = ('codes', 'scales', 'outer')      # an nf4 kernel's leaves [N, …]: the weights of its first output, of its second, …


def spec(name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> P:
  """How a leaf is divided. A dimension that its axes do not divide evenly is divided by the first of them, or stays whole.

  Args:
    name: the leaf's path, also inside an optimiser's state.
    shape: the whole leaf's.
    sizes: of the mesh's axes; one that is not there counts as 1.
  """
  site, _, leaf = name.rpartition('/')
  where = name if leaf in ('kernel', 'embedding', 'bias') else site
  sides = next((sides for pattern, sides in TABLE if re.search(pattern, where)), None)
  parts: list[str | tuple[str, ...] | None]
  if sides is None or re.search(r'/v_(row|col)/', name):      # the latter are Adafactor's sums over one of the sides
    parts = []
  elif leaf in FLAT:
    parts = [('tensor', 'fsdp') if sides[1] == 'tensor' else 'fsdp']
  else:
    parts = [None if side is None else sides[side] for side in LEAVES.get(leaf, ())]
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


def infer_axis_sizes(sizes: Mapping[str, int], count: int) -> dict[str, int]:
  """The sizes of `AXES` on so many devices, where one of them may be -1: what is left.

  Raises:
    InputError: the sizes are not those of the devices.
  """
  said = 'mesh: ' + ' x '.join(f'{axis}={sizes[axis]}' for axis in AXES)
  found = {axis: sizes[axis] for axis in AXES}
  if any(type(n) is not int or (n < 1 and n != -1) for n in found.values()) or list(found.values()).count(-1) > 1:
    raise InputError(f'{said}: every axis is 1 or more, or for one of them -1: what is left')
  known = math.prod(n for n in found.values() if n != -1)
  found = {axis: count // known if n == -1 else n for axis, n in found.items()}
  if math.prod(found.values()) != count:
    raise InputError(f'{said}: that is not {count} device{"s" if count > 1 else ""}; the product must be {count}, or an axis '
                     '-1')
  return found


def mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None, members: int = 1) -> Mesh | None:
  """The mesh that `config.mesh` names; None where it is a single device.

  Sizes that are not those of the devices are refused (`InputError`).

  Args:
    sizes: as for `infer_axis_sizes`.
    devices: in mesh order; all that are here where they are left out.
    members: of a cohort. They take the devices of `data` first, as many as both divide by: members need nothing of each other.
  """
  found = infer_axis_sizes(sizes, len(jax.devices() if devices is None else devices))
  if math.prod(found.values()) == 1:
    return None
  apart = math.gcd(members, found['data'])
  if apart > 1:
    found = {MEMBERS: apart, **found, 'data': found['data'] // apart}
  return jax.make_mesh(tuple(found.values()), tuple(found), axis_types=(AxisType.Auto,) * len(found), devices=devices)


def without_member_axis(mesh: Mesh | None) -> Mesh | None:
  """The mesh on which a member of this mesh's cohort would be trained alone: the same devices, for rows in place of members."""
  if mesh is None or MEMBERS not in mesh.shape:
    return mesh
  shape = {axis: n * (mesh.shape[MEMBERS] if axis == 'data' else 1) for axis, n in mesh.shape.items() if axis != MEMBERS}
  return Mesh(mesh.devices.reshape([*shape.values()]), tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


def bytes_per_device(x: Tree) -> int:
  """Bytes of all leaves on each device."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(x))


def use_abstract(sizes: Mapping[str, int]) -> AbstractContextManager:
  """While in use, shapes and checks are those of a mesh of these sizes, of which no device needs to exist."""
  return jax.sharding.use_abstract_mesh(AbstractMesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * len(sizes)))


def check_heads(heads: int, kv_heads: int) -> None:
  """Refuses a model whose heads cannot be dealt out evenly on the mesh in use.

  Raises:
    InputError: `mesh.tensor` does not divide both numbers of heads.
  """
  tensor, both = sizes().get('tensor', 1), math.gcd(heads, kv_heads)
  if both % tensor:
    which = [n for n in range(1, both + 1) if both % n == 0]
    raise InputError(f'mesh.tensor={tensor}: does not divide the model\'s {heads} heads of queries and {kv_heads} of keys and '
                     f'values; these do: {", ".join(map(str, which))}')


def use(mesh: Mesh | None) -> AbstractContextManager:
  """While in use, arrays are placed on this mesh and programs are compiled for it."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def current() -> Mesh | None:
  """The mesh in use; None on one device."""
  found = jax.sharding.get_mesh()
  return None if found.empty else found


def replicated() -> Sharding:
  """Whole on every device of the mesh in use, or on the one device."""
  on = current()
  return SingleDeviceSharding(jax.devices()[0]) if on is None else NamedSharding(on, P())


def sizes() -> dict[str, int]:
  """Of the axes of the mesh in use; empty on one device."""
  return dict(jax.sharding.get_abstract_mesh().shape)


def batch_shards() -> int:
  """Over how many devices a batch's lines are spread."""
  return math.prod(sizes().get(axis, 1) for axis in ROWS)


def member_axis(count: int) -> str | None:
  """The axis over which so many members of a cohort are spread; None where each device has all."""
  here = sizes().get(MEMBERS, 1)
  return MEMBERS if here > 1 and count % here == 0 else None


def shardings(x: Tree, on: Mesh, prefix: str = '', members: int = 1) -> Tree:
  """Where each leaf lies on a mesh.

  Args:
    x: a tree of arrays, or of their shapes.
    on: the mesh.
    prefix: what stands before the leaves' paths where `spec` reads them.
    members: of a cohort; of several, every leaf has a leading axis of members, which lies as `member_axis` says.
  """
  def one(name: str, leaf: Array) -> NamedSharding:
    path = f'{prefix}/{name}'.strip('/')
    if members == 1:
      return NamedSharding(on, spec(path, leaf.shape, on.shape))
    return NamedSharding(on, P(member_axis(members), *spec(path, leaf.shape[1:], on.shape)))
  return tree.map_named(one, x)


def shard(x: Tree, prefix: str = '', members: int = 1) -> Tree:
  """The leaves where the table says, on the mesh in use. What lies there already is not copied.

  Args:
    x: a tree of arrays.
    prefix: as for `shardings`.
    members: as for `shardings`.
  """
  on = current()
  return jax.tree.map(jnp.asarray, x) if on is None else _put(x, shardings(x, on, prefix, members))


def init_sharded(make: Callable[[Array], Tree], key: Array, prefix: str = '') -> Tree:
  """`make(key)`, each of whose leaves is made where the table says, and nowhere whole.

  Args:
    make: a pure function of the key, which is traced; gives a tree of arrays.
    key: randomness, a key of shape [].
    prefix: as for `shardings`.
  """
  on = current()
  return jax.jit(make, out_shardings=None if on is None else shardings(jax.eval_shape(make, key), on, prefix))(key)


def local_slices(name: str, shape: Sequence[int]) -> list[tuple[slice, ...]]:
  """The different parts of a leaf that this process's devices hold, in an order that is always the same."""
  return [*_parts(name, shape).values()]


def from_local_slices(name: str, shape: Sequence[int], parts: Sequence[np.ndarray]) -> Array:
  """A leaf on its devices, from the parts of it that this process's devices hold.

  Args:
    name: the leaf's path.
    shape: the whole leaf's, and the result's.
    parts: what stands in each of `boxes(name, shape)`, in that order.
  """
  on = current()
  if on is None:
    return jnp.asarray(parts[0])
  where = NamedSharding(on, spec(name, shape, on.shape))
  found = dict(zip(_parts(name, shape), parts))
  return jax.make_array_from_callback(tuple(shape), where, lambda index: found[_corners(index, shape)])


def _parts(name: str, shape: Sequence[int]) -> dict[tuple[tuple[int, int], ...] | None, tuple[slice, ...]]:
  on = current()
  if on is None:
    return {None: tuple(slice(0, n) for n in shape)}
  where = NamedSharding(on, spec(name, shape, on.shape))
  corners = {_corners(index, shape): None for index in where.addressable_devices_indices_map(tuple(shape)).values()}
  return {sides: tuple(slice(*side) for side in sides) for sides in corners}


def _corners(index: tuple[slice, ...] | None, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
  """From where to where a part goes along every axis; slices are no keys before Python 3.12."""
  assert index is not None      # JAX's types allow it; of the devices here none is without a part
  return tuple(side.indices(n)[:2] for side, n in zip(index, shape))


def _put(x: Tree, where: Tree) -> Tree:
  """Arrays onto the mesh; of what every process has whole, each sends its devices their parts."""
  if not hosts.is_multiprocess():
    return jax.device_put(x, where)

  def one(x, where):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return jax.device_put(x, where)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(one(jax.random.key_data(x), NamedSharding(where.mesh, P(*where.spec, None))))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index])
  return jax.tree.map(one, x, where)


def shard_batch(batch: Mapping[str, np.ndarray], axis: int = 0, members: int = 1) -> dict[str, Array]:
  """A batch on its devices, its lines spread; on all where they cannot be dealt out evenly.

  Args:
    batch: its arrays by name, each whole on this host, [B, …] or with other axes before B.
    axis: the number of the axis B of the lines.
    members: of a cohort, each with a batch of its own: these are on the leading axis.
  """
  on = current()
  if on is None:
    return jax.device_put(batch)
  even = all(x.shape[axis] % batch_shards() == 0 for x in batch.values())
  before = [member_axis(members), *[None] * (axis - 1)] if axis else []
  where = NamedSharding(on, P(*before, ROWS) if even else P(*before))
  return _put(batch, dict.fromkeys(batch, where))


def local_rows(count: int) -> range | set[int]:
  """Which of so many lines of a batch this process's devices hold."""
  on = current()
  if on is None or not hosts.is_multiprocess() or count % batch_shards():
    return range(count)
  held = NamedSharding(on, P(ROWS)).addressable_devices_indices_map((count,)).values()
  return {n for index in held for n in range(*_corners(index, (count,))[0])}


def constrain_batch(x: Array) -> Array:
  """Activations [B, …], their rows spread over the mesh, so that products gather weights and never sum up activations."""
  if not sizes():
    return x
  return jax.lax.with_sharding_constraint(x, P(ROWS, *[P.UNCONSTRAINED] * (x.ndim - 1)))


def head_spec(count: int) -> P:
  """How queries, keys and values [B, L, H, head_dim] of so many rows lie on the mesh in use: rows and heads are spread."""
  return P(ROWS if count % batch_shards() == 0 else None, None, 'tensor', None)


def constrain_lookup(x: Array) -> Array:
  """What was read from a table whose columns lie over `fsdp`, [B, L, D]: it moves to its rows, and the table stays."""
  if not sizes():
    return x
  return constrain_batch(jax.lax.with_sharding_constraint(x, P('data', None, 'fsdp')))
