"""Values into the variables that a strategy makes, compared by name and shape; and what of the deltas is kept beside them."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from research import tree
from research.distributed import processes
from research.errors import InputError
from research.strategies.deltas import DERIVED
from research.tree import Tree

_ADDED = re.compile(r'(delta|shared)/')


def fixed_names(frozen: Tree) -> list[str]:
  """What is frozen of the deltas and saved: not what follows from the base and the settings."""
  return [name for name in tree.leaves(frozen) if _ADDED.match(name) and name.rpartition('/')[2] not in DERIVED]


def fixed(frozen: Tree) -> dict[str, np.ndarray]:
  """The same by name, each array of its own shape."""
  leaves = tree.leaves(frozen)
  return {name: processes.to_host(leaves[name]) for name in fixed_names(frozen)}


def placed_in(trainable: Tree, frozen: Tree, values: dict[str, np.ndarray], where: str) -> tuple[Tree, Tree]:
  """Variables, in their two parts, with these values.

  Args:
    trainable: as `bind` gives it, for names, shapes and types.
    frozen: as `bind` gives it.
    values: variable's name -> value; all that learns must be there, what is fixed in deltas may be.
    where: what the values come from, for the message of an error.
  Raises:
    InputError: one is missing, unexpected, or of another shape.
  """
  learning = tree.leaves(trainable)
  here = learning | {n: x for n, x in tree.leaves(frozen).items() if _ADDED.match(n)}
  for what, names in (('lacks', learning.keys() - values.keys()), ('holds unexpected', values.keys() - here.keys())):
    if names:
      raise InputError(f'{where}: {what} arrays: {", ".join(sorted(names)[:5])}')
  for n, x in values.items():
    if x.shape != here[n].shape:
      raise InputError(f'{where}: {n} has shape {list(x.shape)}; this model and strategy need {list(here[n].shape)}')
  def put(of: Tree) -> Tree:
    leaves = tree.leaves(of)
    cast = lambda value, dtype: jax.tree.map(lambda x: jnp.asarray(x, dtype), value)
    return tree.replace(of, {n: cast(values[n], x.dtype) if n in values else x for n, x in leaves.items()})
  return put(trainable), put(frozen)
