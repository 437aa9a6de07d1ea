"""One tree of named leaves: every room selects parameters, deltas and optimiser slots by the same paths.

A tree is nested dicts, with `flax.struct` dataclasses (the deltas) among their values. The name of a leaf is the path to
it, joined with '/': `params/layers/attn/q/kernel`, `delta/layers/attn/q/kernel/a`. Where a tree is split, the places of
the leaves that went elsewhere hold None, which JAX reads as 'no leaf here': neither gradients nor optimiser slots exist
for them. Layers that stand apart (`unstacked`) are one leaf with the name of their stack.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from research.unstacked import LayerKey, is_unstacked, unstack

Tree = Any


def name(path: Iterable[Any]) -> str:
  """The name of a leaf from its key path, as `jax.tree_util` gives it; an array of one layer has that of its stack."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path if not isinstance(k, LayerKey))


def leaves(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
  """All leaves by name, in tree order; `is_leaf` tells what else to take whole.

  >>> leaves({'params': {'norm': {'scale': 1}, 'gone': None}})
  {'params/norm/scale': 1}
  """
  whole = lambda x: is_unstacked(x) or (is_leaf is not None and is_leaf(x))
  return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, whole)}


def nested(named: dict[str, Any]) -> Tree:
  """Nested dicts from leaves by name: the inverse of `leaves` where the tree is nothing but dicts.

  >>> nested({'norm/scale': 1})
  {'norm': {'scale': 1}}
  """
  return traverse_util.unflatten_dict(named, sep='/')


def map_named(f: Callable[..., Any], tree: Tree, *rest: Tree, is_leaf: Callable[[Any], bool] | None = None) -> Tree:
  """`jax.tree.map` whose function takes the leaf's name first.

  Args:
    f: (name, leaf, the leaves of `rest` at that place) -> the new leaf. Of layers that stand apart each array is given alone.
    tree: gives the leaves' names, and the result its structure.
    rest: trees that have something wherever `tree` has a leaf.
    is_leaf: tells what else to take whole; None: leaves alone.
  """
  return jax.tree_util.tree_map_with_path(lambda path, *xs: f(name(path), *xs), tree, *rest, is_leaf=is_leaf)


def split(tree: Tree, pattern: str) -> tuple[Tree, Tree]:
  """Two trees of the same shape: the leaves whose name matches (`re.search`), and the others; None marks the gaps.

  >>> split({'params': 1, 'delta': 2}, '^delta')
  ({'delta': 2, 'params': None}, {'delta': None, 'params': 1})
  """
  found = re.compile(pattern).search
  return (map_named(lambda n, x: x if found(n) else None, tree, is_leaf=is_unstacked),
          map_named(lambda n, x: None if found(n) else x, tree, is_leaf=is_unstacked))


def join(*trees: Tree) -> Tree:
  """The inverse of `split`: at each place, the leaf of the one tree that has one. A collection may stand in one tree alone.

  >>> join({'params': 1, 'delta': None}, {'params': None, 'delta': 2})
  {'delta': 2, 'params': 1}
  """
  def pick(*xs: Any) -> Any:
    present = [x for x in xs if x is not None]
    if len(present) > 1:
      raise ValueError('two trees hold a leaf at the same place')
    return present[0] if present else None
  joined = lambda *parts: jax.tree.map(pick, *parts, is_leaf=lambda x: x is None or is_unstacked(x))
  if not all(isinstance(tree, dict) for tree in trees):      # one delta's leaves
    return joined(*trees)
  names = sorted({name for tree in trees for name in tree})
  return {name: joined(*(tree[name] for tree in trees if name in tree)) for name in names}


def replace(tree: Tree, named: dict[str, Any]) -> Tree:
  """The tree with every leaf taken from `named`; KeyError where one is missing. Layers that stand apart do so again."""
  def one(n: str, x: Any) -> Any:
    return unstack(jnp.asarray(named[n])) if is_unstacked(x) and not is_unstacked(named[n]) else named[n]
  return map_named(one, tree, is_leaf=is_unstacked)


def size(tree: Tree) -> int:
  """How many numbers all arrays hold; a quantised kernel counts as the kernel that it stands for, a setting [] not at all."""
  return sum(x.size for x in jax.tree.leaves(tree, is_leaf=lambda x: hasattr(x, 'size')) if x.shape)


def nbytes(tree: Tree) -> int:
  """Bytes of all leaves."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def first_not_finite(tree: Tree) -> str | None:
  """The name of the first array that holds a NaN or an infinity; None where all numbers are finite (or are not there yet)."""
  named = [(name(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if isinstance(x, (np.ndarray, jax.Array))
           and not isinstance(x, jax.core.Tracer) and jnp.issubdtype(x.dtype, jnp.floating)]
  on_host = lambda x: isinstance(x, np.ndarray) or (x.is_fully_addressable and {d.platform for d in x.devices()} == {'cpu'})
  if all(on_host(x) for _, x in named):      # without a compilation
    whole = [bool(np.isfinite(np.asarray(x)).all()) for _, x in named]
  else:
    whole = [bool(x) for x in np.asarray(_are_finite([x for _, x in named]))]
  return next((n for (n, _), finite in zip(named, whole) if not finite), None)


@jax.jit
def _are_finite(xs: list[jax.Array]) -> jax.Array:
  return jnp.stack([jnp.isfinite(x).all() for x in xs])
