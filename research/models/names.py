"""Their tensor names <-> our paths: one table a family, read in both directions.

A law holds for every family: `export_params(import_params(x)) == x`, bit for bit.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import tree
from research.errors import InputError
from research.models import functions
from research.models.config import ModelConfig
from research.models.fields import Fields
from research.models.header import Header
from research.tree import Tree

Box = tuple[slice, ...]      # a part of an array: from where to where along every axis


class Row(NamedTuple):
  """One tensor over there: `theirs` may hold `{n}`, the layer's number; `transposed` kernels are stored [O, I]."""
  ours: str | tuple[str, ...]     # several parameters may stand in one tensor, side by side along their last axis
  theirs: str
  transposed: bool = False
  heads: int = 0                  # above 0: side by side head by head, for this many heads

  @property
  def paths(self) -> tuple[str, ...]:
    return (self.ours,) if isinstance(self.ours, str) else self.ours

  def read(self, x: Any, widths: list[int], boxes: list[list[Box]]) -> list[list[np.ndarray]]:
    """Of each parameter in a stored tensor these boxes; no more of it is read than they need, where it holds no other.

    Args:
      x: the tensor as it is stored: a kernel [I, O], [O, I] where it is `transposed`, or something else of one layer.
      widths: of each parameter in it, the last axis.
      boxes: of each parameter, the parts that are wanted, in our layout.
    """
    if len(widths) == 1 and not self.heads:
      return [[x[box[::-1]].T if self.transposed else x[box] for box in boxes[0]]]
    return [[part[box] for box in of_part] for part, of_part in zip(self.unpack(np.asarray(x), widths), boxes)]

  def unpack(self, x: np.ndarray, widths: list[int]) -> list[np.ndarray]:
    """A tensor as it is stored -> the parameters in it, whose last axes have these widths; of a kernel stored [O, I]
    they are [I, width]."""
    x = x.T if self.transposed else x
    if self.heads:
      x = x.reshape(*x.shape[:-1], self.heads, len(widths), -1)
      return [x[..., i, :].reshape(*x.shape[:-3], -1) for i in range(len(widths))]
    return np.split(x, np.cumsum(widths)[:-1], axis=-1)

  def pack(self, parts: list[np.ndarray]) -> np.ndarray:
    """The inverse of `unpack`: the tensor to store, of parameters whose shapes differ in the last axis alone."""
    if self.heads:
      parts = [x.reshape(*x.shape[:-1], self.heads, -1) for x in parts]
      x = np.stack(parts, axis=-2).reshape(*parts[0].shape[:-2], -1)
    else:
      x = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    return x.T if self.transposed else x


FREQUENCIES = (r'rotary_emb.*inv_freq$',)      # tensors of older files that follow from the config


def in_layers(ours: str | tuple[str, ...], leaf: str) -> tuple[str, ...]:
  """The paths of a leaf of one sublayer's part, such as 'attn/q', or of several."""
  return tuple(f'layers/{name}/{leaf}' for name in ((ours,) if isinstance(ours, str) else ours))


class Family(NamedTuple):
  """A model family as data."""
  name: str                                                # its model_type
  config: Callable[[Fields], ModelConfig]                  # a Hugging Face config.json -> ours
  rows: Callable[[ModelConfig], tuple[Row, ...]]
  architecture: str                                        # the class of transformers that has its head
  prefix: str = ''                                         # of all but the head; files saved without the head lack it
  embedding: str = 'model.embed_tokens.weight'
  head: str = 'lm_head.weight'                             # where it is not the embedding
  ignored: tuple[str, ...] = ()                            # regexes of tensors that hold nothing to learn
  duplicates: Mapping[str, str] = {}                       # further names of a tensor -> its name
  gguf: Callable[[Header], dict[str, Any]] | None = None             # a GGUF header -> a Hugging Face config
  from_gguf_layout: Callable[[ModelConfig, str, np.ndarray], np.ndarray] | None = None   # undoes what GGUF does to a tensor
  to_gguf: Callable[[ModelConfig, dict[str, Any]], dict[str, Any]] | None = None     # and its config.json -> a GGUF header
  to_gguf_layout: Callable[[ModelConfig, str, np.ndarray], np.ndarray] | None = None     # what GGUF does to a tensor
  gguf_name: str = ''                                      # the architecture there, where it is not `name`


def config_of(family: Family, hf: dict[str, Any], where: str, separate_head: bool) -> ModelConfig:
  """The model that a config.json describes.

  A field that is missing, wrong, or says something that is not implemented is refused (`InputError`).

  Args:
    family: the one that the config's `model_type` names.
    hf: what the config.json holds.
    where: what to call the file in an error.
    separate_head: whether the head stands among the tensors.
  """
  fields = Fields(hf, where, separate_head)
  config = family.config(fields)
  fields.finish()
  return config


def everything(shape: tuple[int, ...]) -> Box:
  """The box that is the whole array."""
  return tuple(slice(0, n) for n in shape)


def theirs(row: Row, shapes: dict[str, tuple[int, ...]]) -> list[str]:
  """The names that a row stands for, one for each layer of the stack."""
  return [row.theirs.format(n=n) for n in range(shapes[row.paths[0]][0])] if '{n}' in row.theirs else [row.theirs]


@lru_cache(maxsize=64)
def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter, without making any."""
  return {path: x.shape for path, x in
          tree.leaves(jax.eval_shape(functions.build(config).init, jax.random.key(0))).items()}


def alike(x: Any, y: Any) -> bool:
  """Whether two stored tensors are the same; most that are not differ in their first row, and then no more is read."""
  return x.shape == y.shape and np.array_equal(x[:1], y[:1]) and np.array_equal(x, y)


_REMEDY = ('; if the model was trained with a head of its own, which transformers 5 reads, set "tie_word_embeddings": false in '
           'config.json; if not, take the head out of the file')


def _named(family: Family, config: ModelConfig, tensors: Mapping[str, np.ndarray], where: str) -> dict[str, str]:
  """The names that the family's rows use -> the names in the file; duplicates are compared, what is ignored is left out.

  Raises:
    InputError: a tensor is missing or unexpected, or a duplicate is not one.
  """
  bare = family.prefix and not any(name.startswith(family.prefix) for name in tensors)
  present = {family.prefix + name if bare and name != family.head else name: name for name in tensors}
  wanted = {name for row in family.rows(config) for name in theirs(row, shapes(config))}
  twins = {**family.duplicates, **({family.head: family.embedding} if config.tied else {})}
  for name, original in twins.items():
    if name in present and original not in present:           # tied, and kept under its other name alone
      present[original] = present.pop(name)
    elif name in present:
      if not alike(tensors[present[name]], tensors[present[original]]):
        raise InputError(f'{where}: {name} is not the same as {original}, but the config says that they are one tensor'
                         + _REMEDY * (name == family.head and name not in family.duplicates))
      del present[name]
  known = {name for name in present if any(re.search(p, name) for p in family.ignored)} - wanted
  for what, wrong in (('lacks', wanted - present.keys()), ('holds unexpected', present.keys() - wanted - known)):
    if wrong:
      names = sorted(wrong)
      more = f' and {len(names) - 5} more' if len(names) > 5 else ''
      raise InputError(f'{where} {what} tensors of a {family.name} model: {", ".join(names[:5])}{more}')
  return present


def import_params(family: Family, config: ModelConfig, tensors: Mapping[str, np.ndarray], where: str,
                  dtype=jnp.float32, keep: Callable[[str, list[np.ndarray]], Any] = lambda path, boxes: jnp.asarray(boxes[0]),
                  boxes: Callable[[str, tuple[int, ...]], list[Box]] = lambda path, shape: [everything(shape)]) -> Tree:
  """Their tensors as our parameters, layers stacked on axis 0.

  Beside what is kept, at most one tensor is in memory at a time; the largest are read first.

  Args:
    family: whose names the tensors have.
    config: says which parameters there are, and their shapes.
    tensors: name -> array; each is read when it is looked into.
    where: what to call the source in an error.
    dtype: in which the parameters are kept.
    keep: (path, arrays of its boxes) -> what is kept of it, such as the quantised kernel.
    boxes: (path, shape) -> the parts of a parameter that are wanted here, each of all layers; without it one, the whole.
  Raises:
    InputError: a tensor is missing, unexpected or of another shape than the config says.
  """
  present, expected = _named(family, config, tensors, where), shapes(config)
  found: dict[str, np.ndarray] = {}
  for row in sorted(family.rows(config), key=lambda row: -np.prod(expected[row.paths[0]])):
    stacked = '{n}' in row.theirs
    parts = [expected[path][1:] if stacked else expected[path] for path in row.paths]
    whole = (*parts[0][:-1], sum(part[-1] for part in parts))
    stored = whole[::-1] if row.transposed else whole
    wanted = [boxes(path, expected[path]) for path in row.paths]
    kept: list[list[np.ndarray]] = []
    for n, name in enumerate(theirs(row, expected)):
      x = tensors[present[name]]
      if x.shape != stored:
        raise InputError(f'{where}: tensor {name} has shape {list(x.shape)}, but the config says {list(stored)}')
      kept = kept or [[_aligned(tuple(side.stop - side.start for side in box), dtype) for box in of_path] for of_path in wanted]
      within = [[box[1:] if stacked else box for box in of_path] for of_path in wanted]
      for arrays, read in zip(kept, row.read(x, [part[-1] for part in parts], within)):
        for array, part in zip(arrays, read):
          (array[n] if stacked else array)[...] = part
      del x
    found |= {path: keep(path, arrays) for path, arrays in zip(row.paths, kept)}
  return tree.nested(found)


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
  """An empty array that starts where JAX wants arrays to start, so that it takes it over without a copy."""
  size = int(np.prod(shape)) * np.dtype(dtype).itemsize
  raw = np.empty(size + 128, np.uint8)
  start = -raw.ctypes.data % 128
  return raw[start:start + size].view(dtype).reshape(shape)


def export_params(family: Family, config: ModelConfig, params: Tree) -> dict[str, np.ndarray]:
  """Our parameters under their names and in their layout: the inverse of `import_params`.

  Args:
    family: whose names the tensors get.
    config: of the model, whose layers stand in one stack.
    params: layers stacked on axis 0, kernels [N, I, O].
  Raises:
    InputError: the family has no tensor for a parameter, which would be lost.
  """
  ours, out = tree.leaves(params), {}
  homeless = sorted(ours.keys() - {path for row in family.rows(config) for path in row.paths})
  if homeless:
    more = f' and {len(homeless) - 5} more' if len(homeless) > 5 else ''
    raise InputError(f'export: a {family.name} model has no tensor for {", ".join(homeless[:5])}{more}, which would be lost; '
                     'nothing is written')
  expected = {path: x.shape for path, x in ours.items()}
  for row in family.rows(config):
    values = [np.asarray(ours[path]) for path in row.paths]
    for n, name in enumerate(theirs(row, expected)):
      out[name] = row.pack([x[n] for x in values] if '{n}' in row.theirs else values)
  return out
