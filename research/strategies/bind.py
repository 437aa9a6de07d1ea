"""Where a strategy meets a model: from a row and a base to what learns and what stays."""

import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from research import tree
from research.errors import InputError
from research.models.transformer import Model, sites
from research.strategies.table import Strategy
from research.tree import Tree


def bind(key: jax.Array, strategy: Strategy, model: Model, params: Tree) -> tuple[Tree, Tree]:
  """Adds the strategy's deltas and divides the variables.

  Args:
    key: for the deltas' initial values; each site's depends on the key and its own path alone.
    params: the base model's parameters; they are not copied.
  Returns:
    (trainable, frozen): two trees of the variables' shape, None where the leaf is in the other one. What learns is
    float32 whatever the base is kept in.
  Raises:
    InputError: a pattern of the strategy matches no site, or a rank is too large for its matrix.
  """
  delta: dict[str, Any] = {}
  places = sites(model.config, params)
  for pattern, make in strategy.deltas:
    try:
      found = [path for path, site in places.items() if site.kind == make.kind and re.search(pattern, path)]
    except re.error as e:
      raise InputError(f'strategy.targets={pattern!r}: not a regular expression ({e})') from None
    if not found:
      raise InputError(f'strategy {strategy.name}: the pattern {pattern!r} matches no site; '
                       f'sites are {", ".join(p for p, site in places.items() if site.kind == make.kind)}')
    for path in found:
      delta[path] = make(jax.random.fold_in(key, zlib.crc32(path.encode())), places[path])
  trainable, frozen = tree.split({'params': params, 'delta': tree.nested(delta)}, strategy.trains)
  # A copy, even where the base is float32 already: the step donates what learns, and the base may be used again.
  return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), trainable), frozen


def merge(variables: Tree) -> Tree:
  """The parameters with every kernel delta folded in, in float32: the same model without deltas.

  Raises:
    InputError: a delta that is no change of a kernel, such as an adapter.
  """
  deltas = jax.tree_util.tree_leaves_with_path(variables['delta'], is_leaf=callable)
  changes = {tree.name(path): delta for path, delta in deltas}
  for path, delta in changes.items():
    if not hasattr(delta, 'merge'):
      raise InputError(f'{type(delta).__name__} at {path} cannot be merged: it is no change of a kernel')
  return tree.map_named(lambda path, x: changes[path].merge(x.astype(jnp.float32)) if path in changes else x,
                        variables['params'])
