"""Their tensor names <-> our paths: one table a family, read in both directions.

A law holds for every family: `export_params(import_params(x)) == x`, bit for bit.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import tree
from research.errors import InputError
from research.models import transformer
from research.models.config import ModelConfig
from research.tree import Tree


class Row(NamedTuple):
  """One parameter: `theirs` may hold `{n}`, the layer's number; `transposed` kernels are stored [O, I] over there."""
  ours: str
  theirs: str
  transposed: bool = False


class Family(NamedTuple):
  """A model family as data."""
  name: str
  config: Callable[[dict[str, Any]], ModelConfig]          # a Hugging Face config.json -> ours
  rows: Callable[[ModelConfig], tuple[Row, ...]]
  ignored: tuple[str, ...] = ()                            # regexes of tensors that hold nothing to learn
  gguf: Callable[[dict[str, Any]], dict[str, Any]] | None = None     # GGUF fields -> a Hugging Face config
  ungguf: Callable[[ModelConfig, str, np.ndarray], np.ndarray] | None = None   # undoes what GGUF does to a tensor


def theirs(rows: tuple[Row, ...], layers: int) -> list[str]:
  """Every tensor name that the rows stand for."""
  return [row.theirs.format(n=n) for row in rows for n in (range(layers) if '{n}' in row.theirs else [0])]


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter, without making any."""
  return {path: x.shape for path, x in
          tree.leaves(jax.eval_shape(transformer.build(config).init, jax.random.key(0))).items()}


def _check_names(family: Family, config: ModelConfig, present: set[str], where: str) -> None:
  import re
  wanted = set(theirs(family.rows(config), config.layers))
  ignored = {name for name in present - wanted if any(re.search(p, name) for p in family.ignored)}
  for what, names in (('lacks', wanted - present), ('holds unexpected', present - wanted - ignored)):
    if names:
      names = sorted(names)
      more = f' and {len(names) - 5} more' if len(names) > 5 else ''
      raise InputError(f'{where} {what} tensors of a {family.name} model: {", ".join(names[:5])}{more}')


def import_params(family: Family, config: ModelConfig, tensors: Mapping[str, np.ndarray], where: str,
                  dtype=jnp.float32) -> Tree:
  """Their tensors as our parameters, layers stacked on axis 0.

  Args:
    tensors: name -> array; each is asked for once, so a lazy mapping is read one tensor at a time.
    where: what to call the source in an error.
    dtype: in which the parameters are kept.
  Raises:
    InputError: a tensor is missing, unexpected or of another shape than the config says.
  """
  _check_names(family, config, set(tensors), where)
  expected = shapes(config)
  params: Tree = {}
  for row in family.rows(config):
    stacked = '{n}' in row.theirs
    shape = expected[row.ours][1:] if stacked else expected[row.ours]

    def read(name, row=row, shape=shape):
      x = np.asarray(tensors[name])
      stored = shape[::-1] if row.transposed else shape
      if x.shape != stored:
        raise InputError(f'{where}: tensor {name} has shape {list(x.shape)}, but the config says {list(stored)}')
      return (x.T if row.transposed else x).astype(dtype)

    names = theirs((row,), config.layers)
    value = np.stack([read(name) for name in names]) if stacked else read(names[0])
    *parents, last = row.ours.split('/')
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = jnp.asarray(value)
  return params


def export_params(family: Family, config: ModelConfig, params: Tree) -> dict[str, np.ndarray]:
  """Our parameters under their names and in their layout: the inverse of `import_params`."""
  ours, out = tree.leaves(params), {}
  for row in family.rows(config):
    value = np.asarray(ours[row.ours])
    for n, name in enumerate(theirs((row,), config.layers)):
      x = value[n] if '{n}' in row.theirs else value
      out[name] = x.T if row.transposed else x
  return out
