"""The layers of a stack as arrays of their own, standing where the stacked array would.

A program whose layers are unrolled reads each array where it lies; out of a stack every layer would first
be copied. All else knows the stack: `tree.leaves` gives it under its one name and with its shape, and `stacked` as an array.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


class LayerKey(NamedTuple):
  """The key of one layer's array in a key path; no part of its name (`tree.name`)."""
  number: int


@jax.tree_util.register_pytree_with_keys_class
class Unstacked:
  """N arrays of one shape that stand for one of shape [N, …]."""

  def __init__(self, layers: tuple[Any, ...]):
    """
    Args:
      layers: the arrays, or whatever takes their place in a mapped tree.
    """
    self.layers = layers

  def tree_flatten_with_keys(self) -> tuple[list[tuple[LayerKey, Any]], None]:
    return [(LayerKey(number), x) for number, x in enumerate(self.layers)], None

  def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
    return self.layers, None

  @classmethod
  def tree_unflatten(cls, aux: None, layers: Any) -> 'Unstacked':
    return cls(tuple(layers))

  @property
  def shape(self) -> tuple[int, ...]:
    return (len(self.layers), *self.layers[0].shape)

  @property
  def dtype(self) -> Any:
    return self.layers[0].dtype

  @property
  def ndim(self) -> int:
    return len(self.shape)

  @property
  def size(self) -> int:
    return sum(x.size for x in self.layers)

  def __len__(self) -> int:
    return len(self.layers)

  def __iter__(self) -> Iterator[Any]:
    return iter(self.layers)

  def __getitem__(self, at: Any) -> Any:
    """One layer's array; of a slice, some layers."""
    return Unstacked(self.layers[at]) if isinstance(at, slice) else self.layers[at]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """The stacked array on the host."""
    return np.stack([np.asarray(x, dtype) for x in self.layers])

  def __repr__(self) -> str:
    return f'Unstacked({len(self.layers)} x {self.layers[0]!r})'


def is_unstacked(x: Any) -> bool:
  return isinstance(x, Unstacked)


def unstack(x: Any, axis: int = 0) -> Unstacked:
  """The layers of an array, or of its shape; `axis` is the number of the layers' own."""
  if isinstance(x, jax.ShapeDtypeStruct):
    shape = (*x.shape[:axis], *x.shape[axis + 1:])
    return Unstacked((jax.ShapeDtypeStruct(shape, x.dtype),) * x.shape[axis])
  return Unstacked(tuple(jnp.squeeze(part, axis) for part in jnp.split(x, x.shape[axis], axis)))


def concatenated(*stacks: Any) -> Any:
  """The layers of several stacks as one: of arrays [N, …] an array, of layers that stand apart all of them."""
  if is_unstacked(stacks[0]):
    return Unstacked(tuple(x for one in stacks for x in one.layers))
  return jnp.concatenate(stacks)


def stacked(x: Tree, axis: int = 0) -> Tree:
  """A tree with one array wherever layers stand apart; `axis` is the number of their axis in it."""
  return map_stacks(lambda one: jnp.stack(one.layers, axis) if is_unstacked(one) else one, x)


def map_stacks(f: Callable[..., Any], x: Tree, *rest: Tree) -> Tree:
  """`jax.tree.map` that takes layers that stand apart as one leaf."""
  return jax.tree.map(f, x, *rest, is_leaf=is_unstacked)
