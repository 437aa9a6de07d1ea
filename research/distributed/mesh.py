"""The mesh of devices that is in use, and what a program says of its activations there.

A step is compiled for arrays that are sharded as `partition` says. What the model says about its activations
(`constrain_batch`) keeps products from being summed up where a weight can be gathered instead. Without a mesh, on one device,
nothing here does anything.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P

from research.distributed.partition import AXES, MEMBERS, ROWS
from research.errors import InputError

Array = jax.Array


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


def make(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None, members: int = 1) -> Mesh | None:
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


def use_abstract(sizes: Mapping[str, int]) -> AbstractContextManager[Any]:
  """While in use, shapes and checks are those of a mesh of these sizes, of which no device needs to exist."""
  return jax.sharding.use_abstract_mesh(AbstractMesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * len(sizes)))


def check_batch(batch_size: int, microbatches: int) -> None:
  """Refuses a batch that the mesh in use does not divide.

  Raises:
    InputError: the rows of a microbatch cannot be dealt out evenly.
  """
  rows = batch_size // microbatches
  if rows % batch_shards():
    raise InputError(f'training.batch_size={batch_size}: the {rows} rows of each of its {microbatches} microbatches '
                     f'cannot be dealt out evenly to mesh.data={sizes()["data"]} x mesh.fsdp={sizes()["fsdp"]} devices')


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


def use(mesh: Mesh | None) -> AbstractContextManager[Any]:
  """While in use, arrays are placed on this mesh and programs are compiled for it."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def current() -> Mesh | None:
  """The mesh in use; None on one device."""
  found = jax.sharding.get_mesh()
  return None if found.empty else found


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
