"""Where a strategy meets a model: from a row and a base to what is trainable and what is frozen."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from research import tree
from research.errors import InputError
from research.models.block import FUSED, QKV
from research.models.functions import Model
from research.models.kernels import dense
from research.models.quantized import is_quantized
from research.models.sites import sites
from research.strategies import targets
from research.strategies.deltas import Delta
from research.strategies.initializers import Base
from research.strategies.table import Strategy, also_learns
from research.tree import Tree
from research.unstacked import stacked


def bind(key: jax.Array, strategy: Strategy, model: Model, params: Tree,
         encode: Callable[[str], list[int]] | None = None) -> tuple[Tree, Tree]:
  """Adds the strategy's deltas and divides the variables.

  A pattern of the strategy that matches no site or parameter, two deltas at one site, and a rank that is too large for its
  matrix are refused (`InputError`).

  Args:
    key: of shape [], for the deltas' initial values; each site's depends on the key and its own path alone.
    strategy: says what is added, where, and which leaves are trainable.
    model: whose sites are meant.
    params: the base model's parameters; they are not copied.
    encode: text -> token ids, for a prompt that begins as a text.
  Returns:
    (trainable, frozen): two trees of the variables' shape, None where the leaf is in the other one. What learns is
    float32 whatever the base is kept in.
  """
  for also, pattern in zip(strategy.fields.get('also', '').split(','), also_learns(strategy.fields.get('also', ''))):
    _check_also(also, [n for n in tree.leaves({'params': params}, is_leaf=is_quantized) if re.search(pattern, n)])
  trainable, frozen = tree.split({'params': params, **deltas(key, strategy, model, params, encode)}, strategy.trainable)
  # A copy, even where the base is float32 already: the step donates what is trainable, and the base may be used again.
  return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), trainable), frozen


def _check_also(also: str, found: list[str]) -> None:
  """Refuses what `strategy.also` cannot mean: nothing, or a layer's kernels, which may be quantised.

  Raises:
    InputError: it means one of these.
  """
  if not found:
    hint = ' (the head is the embedding)' if also.strip() == 'head' else ''
    raise InputError(f'strategy.also={also!r}: matches no parameter{hint}')
  kernels = [name for name in found if re.search(r'layers/.*kernel$', name)]
  if kernels:
    raise InputError(f'strategy.also={also!r}: matches {kernels[0]}; kernels of layers learn in full by strategy full or '
                     'last_layers alone')


def deltas(key: jax.Array, strategy: Strategy, model: Model, params: Tree,
           encode: Callable[[str], list[int]] | None = None) -> dict[str, Tree]:
  """The collections `delta` and `shared` of a strategy at step 0.

  Args:
    key: of shape [], for the deltas' initial values; each site's depends on the key and its own path alone.
    strategy: says what is added, and where.
    model: whose sites are meant.
    params: the base model's parameters, from which some deltas begin.
    encode: text -> token ids, for a prompt that begins as a text.
  Raises:
    InputError: two deltas meet at one site, the head would have dropout, or a pattern of ranks or alphas matches no site.
  """
  found: dict[str, Delta] = {}
  taken: set[str] = set()
  places = sites(model.config, params)
  for placement in strategy.deltas:
    paths = targets.find(placement.targets, placement.kinds, places, model.config.family, strategy.fused, strategy.name,
                         placement.required, placement.peft)
    for path in paths:
      changed = places[path].parts or (path,)
      if taken.intersection(changed):
        raise InputError(f'strategy {strategy.name}: two deltas meet at {path}; give them different targets')
      taken.update(changed)
    found |= placement.make(key, {path: places[path] for path in paths}, Base(model.config, encode))
  if getattr(found.get('head/kernel'), 'fixed_rate', None) is not None:
    raise InputError('strategy.dropout: the head takes none; leave it out of strategy.targets, or set dropout to 0')
  for field in ('rank_pattern', 'alpha_pattern'):
    for pattern in strategy.fields.get(field, ()):
      if not any(re.search(pattern, path) for path in found):
        raise InputError(f'strategy.{field}: {pattern!r} matches none of the sites: {", ".join(found)}')
  return to_collections(found)


def to_collections(deltas: dict[str, Delta]) -> dict[str, Tree]:
  """The collections `delta` and `shared` that hold these deltas: the inverse of `from_collections`."""
  shared = {path: delta.shared_leaves() for path, delta in deltas.items()}
  return {'delta': tree.nested({path: delta.per_layer() for path, delta in deltas.items()}),
          'shared': tree.nested({path: leaves for path, leaves in shared.items() if jax.tree.leaves(leaves)})}


def is_delta(x: Any) -> bool:
  return isinstance(x, Delta)


def from_collections(variables: Tree) -> dict[str, Delta]:
  """All deltas by path, each with all its leaves."""
  shared = tree.leaves(variables.get('shared', {}), is_leaf=is_delta)
  return {path: tree.join(delta, shared[path]) if path in shared else delta
          for path, delta in tree.leaves(variables.get('delta', {}), is_leaf=is_delta).items()}


def merge(variables: Tree) -> Tree:
  """The parameters with every delta folded in, in float32: the same model without deltas, and nothing quantised.

  Raises:
    InputError: a delta that cannot be folded in, with the name of its row.
  """
  params = {path: dense(x, jnp.float32) if is_quantized(x) else stacked(x)
            for path, x in tree.leaves(variables['params'], is_leaf=is_quantized).items()}
  for path, delta in from_collections(variables).items():
    if delta.unmergeable:
      raise InputError(f'strategy {delta.unmergeable} ({path})')
    if path == 'embed/embedding' and 'head/kernel' not in params:
      raise InputError('strategy lora on the embedding cannot be merged: this model\'s head is the embedding too, which its '
                       'delta does not change')
    kernels = _kernels(path, params)
    parts = [delta] if kernels == [path] else delta.split_outputs(tuple(params[k].shape[-1] for k in kernels))
    for kernel, part in zip(kernels, parts):
      bias = f'{kernel.removesuffix("/kernel")}/bias'
      changed, shifted = part.merge(params[kernel].astype(jnp.float32), params.get(bias))
      params[kernel] = changed.astype(jnp.float32)
      if shifted is not None:
        params[bias] = shifted
  return tree.nested(params)


def _kernels(path: str, params: dict[str, Any]) -> list[str]:
  """The parameters that a delta at `path` changes: one, or q, k and v."""
  if path in params:
    return [path]
  sublayer = path.removesuffix(f'/{FUSED}')
  return [f'{sublayer}/{name}/kernel' for name in QKV]


class SiteRow(NamedTuple):
  """One line of a run's table: what stands at a site, or what of the base learns."""
  site: str
  kind: str                    # the delta's name, or 'params'
  changes: str                 # shape and dtype of what is there
  shapes: dict[str, list[Any]]      # leaf -> [shape, dtype, learns]
  trainable: int

  def __str__(self) -> str:
    leaves = ', '.join(f'{name} {shape} {dtype}{"" if learns else " (fixed)"}'.strip()
                       for name, (shape, dtype, learns) in self.shapes.items())
    on = f' on {self.changes}' if self.changes and self.kind != 'params' else ''
    return f'{self.site}: {self.kind}{on}: {leaves}; {self.trainable:,} learn'


def table(trainable: Tree, frozen: Tree) -> list[SiteRow]:
  """What was added where, and what is trainable: all that a config left open."""
  learning, staying = tree.leaves(trainable), tree.leaves(frozen)
  params = tree.leaves(tree.join(trainable['params'], frozen['params']), is_leaf=is_quantized)
  lines = []
  for path, delta in from_collections(trainable).items():
    leaves = {name: x for of in (learning, staying) for name, x in of.items()
              if name.startswith((f'delta/{path}/', f'shared/{path}/'))}
    changed = [params[p] for p in _kernels(path, params) if p in params]
    shapes = {name.rpartition('/')[2]: [list(x.shape), str(x.dtype), name in learning] for name, x in leaves.items()}
    lines.append(SiteRow(path, type(delta).__name__, ' + '.join(map(described, changed)), shapes,
                         sum(x.size for name, x in leaves.items() if name in learning)))
  for name, x in learning.items():
    if name.startswith('params/'):
      shapes = {'': [list(x.shape), str(x.dtype), True]}
      lines.append(SiteRow(name.removeprefix('params/'), 'params', described(x), shapes, x.size))
  return lines


def described(x: Any) -> str:
  """Shape and type: 'float32 [30, 576, 192]'."""
  return f'{x.label if is_quantized(x) else x.dtype} {list(x.shape)}'
