"""How an adapter's tensors are named: by the original's modules, which the family's rows know.

A folder holds adapter_config.json and adapter_model.safetensors, as PEFT writes them. A tensor is `base_model.model.` +
module + `.lora_A.weight`, or another suffix of `LEAVES`. Ours also holds flaxtune.json: the row and its settings, what it was
trained as, and the hash of the base model.

What PEFT has no type for (`adapter`, `bitfit`, several rows at once) is written with `peft_type` FLAXTUNE, its tensors named by
our paths and stacked over layers as they stand in the variables.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from research.models.block import FUSED, QKV
from research.models.config import ModelConfig
from research.models.names import Family, Row
from research.models.names import theirs as theirs_of
from research.strategies import deltas
from research.strategies.deltas import Delta

Array = jax.Array

CONFIG, TENSORS, RECORD = 'adapter_config.json', 'adapter_model.safetensors', 'flaxtune.json'
OWN_TYPE = 'FLAXTUNE'
ROOT = 'base_model.model.'
SOFT = 'prompt_embeddings'
# Where the text part stands in models that read images too (see `models.wholes`), in several versions of transformers.
INSIDE = ('model.language_model.', 'language_model.model.', 'model.text_model.')


class Module(NamedTuple):
  """One of their modules: where it stands in our tree, and how its outputs are ordered."""
  site: str
  layer: int | None        # None outside of the stacks
  row: Row
  widths: tuple[int, ...]  # outputs of the kernels in it


class Contents(NamedTuple):
  """What an adapter folder holds, and the model that it is read for."""
  folder: Path                           # where it comes from, for the message of an error
  said: dict[str, Any]                   # its config, with PEFT's defaults where it says nothing
  tensors: dict[str, np.ndarray]         # by their names in the file, of PEFT's shapes
  config: ModelConfig
  shapes: dict[str, tuple[int, ...]]     # of the base model's parameters, by path


def is_folder(folder: Path) -> bool:
  return (folder / CONFIG).is_file()


def _site(paths: tuple[str, ...]) -> str | None:
  """The site of a tensor's parameters: a path, or `…/qkv` for q, k and v; None where several others stand in one tensor."""
  if len(paths) == 1:
    return paths[0]
  sublayer = paths[0].removesuffix('/q/kernel')
  return f'{sublayer}/{FUSED}' if paths == tuple(f'{sublayer}/{n}/kernel' for n in QKV) else None


def module_rows(family: Family, config: ModelConfig) -> dict[str, Row]:
  """Site -> the row of the tensor that stands there, for all kernels and the embedding."""
  found = {}
  for row in family.rows(config):
    site = _site(row.paths)
    # An encoder-decoder looks its words up in other modules than the one that holds them, where PEFT puts nothing.
    if site and (row.paths[0].endswith('/kernel') or (site == 'embed/embedding' and not config.has_encoder)):
      found[site] = row
  return found


def named_modules(family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, Module]:
  """The original's modules that an adapter can stand at: its name there -> what it is here.

  Args:
    family: of the base model.
    config: its shape.
    shapes: of its parameters, by path.
  """
  found: dict[str, Module] = {}
  for site, row in module_rows(family, config).items():
    widths = tuple(shapes[path][-1] for path in row.paths)
    base = row.theirs.removesuffix('.weight')
    if '{n}' in base:
      found |= {base.format(n=n): Module(site, n, row, widths) for n in range(shapes[row.paths[0]][0])}
    else:
      found[base] = Module(site, None, row, widths)
  return found


def to_theirs(module: Module, x: np.ndarray) -> np.ndarray:
  """An array [..., O] with outputs in our order (q, then k, then v) -> in theirs."""
  row = module.row._replace(transposed=False)
  return row.pack(np.split(x, np.cumsum(module.widths)[:-1], axis=-1))


def to_ours(module: Module, x: np.ndarray) -> np.ndarray:
  """The inverse of `to_theirs`: outputs [..., O] in our order."""
  row = module.row._replace(transposed=False)
  return np.concatenate(row.unpack(x, list(module.widths)), axis=-1)


class _Leaf(NamedTuple):
  """A leaf of a delta, and the tensor that holds it for one layer."""
  suffix: str
  write: Callable[[np.ndarray], np.ndarray]
  read: Callable[[np.ndarray], np.ndarray]
  outputs: bool        # its last axis, as we keep it, are the layer's outputs


_T = np.transpose
_A = _Leaf('.lora_A.weight', _T, _T, False)
_B = _Leaf('.lora_B.weight', _T, _T, True)
_same = lambda x: x
_FLAT = np.ravel
LEAVES: dict[type[Delta], dict[str, _Leaf]] = {
    deltas.LowRank: {'a': _A, 'b': _B},
    deltas.PiSSA: {'a': _A, 'b': _B},
    deltas.Dora: {'a': _A, 'b': _B, 'magnitude': _Leaf('.lora_magnitude_vector', _same, _FLAT, True)},
    deltas.LowRankEmbedding: {'a': _Leaf('.lora_embedding_A', _T, _T, False), 'b': _Leaf('.lora_embedding_B', _T, _T, False)},
    deltas.Vera: {'d': _Leaf('.vera_lambda_d', _same, _FLAT, False), 'o': _Leaf('.vera_lambda_b', _same, _FLAT, True)},
    deltas.Oft: {'skew': _Leaf('.oft_R.weight', _same, _same, False)},
    deltas.ScaleOut: {'l': _Leaf('.ia3_l', lambda x: x[:, None], _FLAT, True)},
    deltas.ScaleIn: {'l': _Leaf('.ia3_l', lambda x: x[None], _FLAT, False)},
}


def checksums(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
  """A number for each tensor, of any shape, that any changed bit of it changes."""
  return {name: zlib.crc32(np.ascontiguousarray(x, np.float32).tobytes()) for name, x in tensors.items()}


def stored_as(family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]], path: str) -> list[str]:
  """The original's names of the tensors that a parameter stands in.

  Args:
    family: of the base model.
    config: its shape.
    shapes: of its parameters, by path.
    path: the parameter's.
  """
  return next(theirs_of(row, shapes) for row in family.rows(config) if path in row.paths)
