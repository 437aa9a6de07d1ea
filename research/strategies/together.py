"""Deltas of several runs in one batch: each row goes through that of its own run, and all through the same base.

LoRA's are one product for all: every A side by side, every B beneath the other, and of what lies between each row keeps its own
run's columns. So their ranks and sites may differ, and a row without a delta is the base. Deltas of any other kind are stacked,
and each row takes its own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from research import tree
from research.distributed.partition import IN, OUT
from research.models.products import affine, dot
from research.strategies import deltas
from research.strategies.bind import from_collections
from research.strategies.deltas import Delta, LowRank
from research.tree import Tree

Array = jax.Array
NOBODY = -1                                          # the number of a row without a delta, and of columns of nobody
# Arguments that have a batch's rows; of other kinds one has.
ROWS = {deltas.Bottleneck: 2, deltas.Prompt: 2, deltas.Prefix: 0, deltas.ProjectedPrefix: 0}


@struct.dataclass
class SideBySide(Delta):
  """LoRA's of several runs: x W + (s x A, where the row's run owns the column) B."""
  a: Array                 # [N, I, C], C the ranks of all runs
  b: Array                 # [N, C, O]
  scales: Array            # [C]
  owner: Array             # [C], whose column it is
  number: Array | None     # [B], whose each row is

  axes = deltas.leaves(a=(IN, None), b=(None, OUT), scales=(None,), owner=(None,), number=(None,))
  shared = ('scales', 'owner', 'number')

  def __call__(self, x: Array, kernel: Any, bias: Array | None, key: None = None) -> Array:
    assert self.number is not None      # `of_rows` says it
    own = self.owner == self.number[:, None, None]                                            # [B, 1, C]
    inner = jnp.where(own, dot(x, self.a) * self.scales.astype(x.dtype), 0)
    return affine(x, kernel, bias) + dot(inner, self.b)


@struct.dataclass
class ByRow:
  """Deltas of one kind and shape: what is the same in all runs is there once, and of the rest each row takes its own run's."""
  own: Any                 # a delta whose leaves have the runs' axis, after the layers'
  same: Any                # the same delta with what all have in common, and None for the rest
  number: Array | None     # [B], whose each row is

  @property
  def slots(self) -> int:
    """Of a prefix."""
    return self.own.slots

  def split_outputs(self, widths: tuple[int, ...]) -> list['ByRow']:
    """As a delta's own.

    Args:
      widths: outputs of each kernel.
    """
    parts = zip(self.own.split_outputs(widths), self.same.split_outputs(widths))
    return [ByRow(own, same, self.number) for own, same in parts]

  def astype(self, dtype: Any) -> Array:
    """The biases [B, 1, O] of that type."""
    return jax.vmap(lambda number: self._of(number).astype(dtype))(self.number)[:, None]

  def _of(self, number: Array) -> Any:
    return tree.join(jax.tree.map(lambda x: x[number], self.own), self.same)

  def __call__(self, *args: Any) -> Any:
    """What the delta gives for a batch: see its own call."""
    count = ROWS.get(type(self.own), 1)
    one = lambda number, *rows: self._of(number)(*(x[None] for x in rows), *args[count:])
    if not count:
      return jax.vmap(one)(self.number)
    return jax.vmap(lambda *rows: one(*rows)[0])(self.number, *args[:count])


def kind(variables: Tree) -> Any:
  """What the deltas of runs must have in common to share a batch; None: they take turns.

  Args:
    variables: of a run.
  """
  found = from_collections(variables)
  if all(isinstance(delta, LowRank) for delta in found.values()):
    return 'lora'
  if len({type(delta) for delta in found.values()}) > 1:
    return None
  return jax.tree.structure(found), tuple((x.shape, x.dtype) for x in jax.tree.leaves(found))


def stack(runs: Sequence[Tree], spare: int = 0) -> dict[str, Tree]:
  """The collections `delta` and `shared` of runs that are of one kind; the row numbers are left open (see `of_rows`).

  Args:
    runs: the variables of each; more deltas of LoRA's kind may differ in ranks and sites.
    spare: how many more there is room for, beside those (see `put`).
  """
  each = [from_collections(one) for one in runs]
  each += each[-1:] * spare
  if kind(runs[0]) != 'lora':
    return _collections({path: _by_row([one[path] for one in each], path) for path in each[0]})
  paths = dict.fromkeys(path for one in each for path in one)
  return _collections({path: _side_by_side([one.get(path) for one in each]) for path in paths})


def put(stacked: dict[str, Tree], number: int, variables: Tree) -> dict[str, Tree]:
  """The same with another run at a number, where its deltas are of the same shape as what is there.

  Args:
    stacked: as `stack` gives it.
    number: whose place it takes.
    variables: of the run.
  Raises:
    ValueError: its sites or shapes are others.
  """
  there, new = _joined(stacked), from_collections(variables)
  if there.keys() != new.keys():
    raise ValueError('its deltas stand at other sites')
  return _collections({path: _replaced(one, number, new[path], path) for path, one in there.items()})


def of_rows(variables: Tree, number: Array) -> Tree:
  """The variables with the rows' numbers where deltas of several runs stand together.

  Args:
    variables: with collections that `stack` gives, or any others.
    number: [B], the run of each row by its place, or `NOBODY`.
  """
  put_in = lambda one: dataclasses.replace(one, number=number) if _is_together(one) else one
  return {**variables, **({'shared': jax.tree.map(put_in, variables['shared'], is_leaf=_is_together)}
                          if 'shared' in variables else {})}


def _is_together(x: Any) -> bool:
  return isinstance(x, (SideBySide, ByRow))


def _is_stacked(path: str) -> bool:
  """Whether the leaves at a site have the axis of a stack of layers."""
  return path.removeprefix('encoder/').startswith(('layers/', 'last_layers/'))


def _side_by_side(each: Sequence[Any]) -> SideBySide:
  present = [(number, delta) for number, delta in enumerate(each) if delta is not None]
  ranks = [delta.a.shape[-1] for _, delta in present]
  of_columns = lambda values, dtype: jnp.concatenate([jnp.full(rank, x, dtype) for rank, x in zip(ranks, values)])
  return SideBySide(jnp.concatenate([delta.a for _, delta in present], axis=-1),
                    jnp.concatenate([delta.b for _, delta in present], axis=-2),
                    of_columns([delta.scale for _, delta in present], jnp.float32),
                    of_columns([number for number, _ in present], jnp.int32), None)


def _by_row(each: Sequence[Any], path: str) -> ByRow:
  first = each[0]
  named = [tree.leaves(delta) for delta in each]
  alike = {name for name, x in named[0].items() if len(each) > 1
           and all(y is x or bool(jnp.array_equal(x, y)) for y in (one[name] for one in named))}

  def stacked(name: str, *xs: Any) -> Any:
    axis = 1 if _is_stacked(path) and name not in first.shared else 0
    return None if name in alike else jnp.stack(xs, axis)
  return ByRow(tree.map_named(stacked, *each), tree.map_named(lambda name, x: x if name in alike else None, first), None)


def _replaced(there: Any, number: int, new: Any, path: str) -> Any:
  """One site's deltas with that of another run among them.

  Raises:
    ValueError: it is of another shape.
  """
  if isinstance(there, SideBySide):
    columns = jnp.flatnonzero(there.owner == number)
    if not isinstance(new, LowRank) or new.a.shape[-1] != len(columns):
      raise ValueError(f'its delta at {path} is of another rank')
    return dataclasses.replace(there, a=there.a.at[..., columns].set(new.a), b=there.b.at[..., columns, :].set(new.b),
                               scales=there.scales.at[columns].set(new.scale))
  if tree.leaves(tree.join(there.own, there.same)).keys() != tree.leaves(new).keys() or type(there.own) is not type(new):
    raise ValueError(f'its delta at {path} is of another kind')
  leaves = tree.leaves(new)
  for name, x in tree.leaves(there.same).items():
    if not jnp.array_equal(x, leaves[name]):
      raise ValueError(f'its {name} at {path}, which all have in common, differs')

  def one(name: str, x: Array) -> Array:
    axis = 1 if _is_stacked(path) and name not in new.shared else 0
    if x.shape[:axis] + x.shape[axis + 1:] != leaves[name].shape:
      raise ValueError(f'its {name} at {path} is of another shape')
    return x.at[:, number].set(leaves[name]) if axis else x.at[number].set(leaves[name])
  return dataclasses.replace(there, own=tree.map_named(one, there.own))


def _collections(found: dict[str, Any]) -> dict[str, Tree]:
  """As `bind.to_collections`: what all layers have in common apart. Every site has something there: the rows' numbers."""
  apart = {path: _apart(one) for path, one in found.items()}
  return {'delta': tree.nested({path: own for path, (own, _) in apart.items()}),
          'shared': tree.nested({path: shared for path, (_, shared) in apart.items()})}


def _apart(one: Any) -> tuple[Any, Any]:
  if isinstance(one, SideBySide):
    return one.per_layer(), one.shared_leaves()
  return (ByRow(one.own.per_layer(), one.same.per_layer(), None),
          ByRow(one.own.shared_leaves(), one.same.shared_leaves(), one.number))


def _joined(stacked: dict[str, Tree]) -> dict[str, Any]:
  own, shared = (tree.leaves(stacked[name], is_leaf=_is_together) for name in ('delta', 'shared'))
  return {path: tree.join(delta, shared[path]) for path, delta in own.items()}
