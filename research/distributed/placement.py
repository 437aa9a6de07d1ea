"""Arrays onto the devices of the mesh in use, as `partition` divides them: weights, batches, and parts of files."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from research import tree
from research.distributed import processes
from research.distributed.mesh import batch_shards, current, member_axis
from research.distributed.partition import ROWS, spec
from research.tree import Tree

T = TypeVar('T')

Array = jax.Array


def bytes_per_device(x: Tree) -> int:
  """Bytes of all leaves on each device."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(x))


def replicated() -> Sharding:
  """Whole on every device of the mesh in use, or on the one device."""
  on = current()
  return SingleDeviceSharding(jax.devices()[0]) if on is None else NamedSharding(on, P())


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
  if not processes.is_multiprocess():
    return jax.device_put(x, where)

  def one(x: Any, where: Any) -> Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return jax.device_put(x, where)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(one(jax.random.key_data(x), NamedSharding(where.mesh, P(*where.spec, None))))
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index])
  return jax.tree.map(one, x, where)


def shard_batch(batch: T, axis: int = 0, members: int = 1) -> T:
  """A batch on its devices, its lines spread; on all where they cannot be dealt out evenly.

  Args:
    batch: a tree of its arrays, each whole on this host, [B, …] or with other axes before B.
    axis: the number of the axis B of the lines.
    members: of a cohort, each with a batch of its own: these are on the leading axis.
  """
  on = current()
  if on is None:
    return jax.device_put(batch)
  even = all(x.shape[axis] % batch_shards() == 0 for x in jax.tree.leaves(batch))
  before = [member_axis(members), *[None] * (axis - 1)] if axis else []
  where = NamedSharding(on, P(*before, ROWS) if even else P(*before))
  return _put(batch, jax.tree.map(lambda x: where, batch))


def local_rows(count: int) -> range | set[int]:
  """Which of so many lines of a batch this process's devices hold."""
  on = current()
  if on is None or not processes.is_multiprocess() or count % batch_shards():
    return range(count)
  held = NamedSharding(on, P(ROWS)).addressable_devices_indices_map((count,)).values()
  return {n for index in held for n in range(*_corners(index, (count,))[0])}
