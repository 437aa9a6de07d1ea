"""Folders in Hugging Face's layout: config.json and safetensors, single or sharded, read without torch."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from research.errors import InputError
from research.models import names, wholes
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import Family


class Stored:
  """A tensor in a file: `x[box]` reads that part of it, and as an array it is read whole."""

  def __init__(self, file: Path, name: str):
    self._file, self._name = file, name

  def _read(self, read: Callable[[Any], Any]) -> Any:
    # Opened anew each time: what was read of a mapped file counts as this process's memory until it is closed.
    try:
      with safetensors.safe_open(self._file, framework='numpy') as opened:
        return read(opened)
    except (safetensors.SafetensorError, AttributeError) as e:       # numbers that NumPy does not know, such as float8
      raise InputError(f'{self._file}: tensor {self._name} cannot be read ({e})') from None

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self._read(lambda opened: opened.get_slice(self._name).get_shape()))

  @property
  def dtype(self) -> np.dtype:
    return self[(slice(0, 0),) * len(self.shape)].dtype

  def __getitem__(self, box: slice | tuple[slice, ...]) -> np.ndarray:
    return self._floating(self._read(lambda opened: opened.get_slice(self._name)[box]))

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    x = self._floating(self._read(lambda opened: opened.get_tensor(self._name)))
    return x if dtype is None else x.astype(dtype)

  def _floating(self, x: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise InputError(f'{self._file}: tensor {self._name} holds {x.dtype}, not floating-point numbers')
    return x


class Tensors(Mapping[str, Any]):
  """The folder's tensors by name, each read from its file when it is looked into."""

  def __init__(self, folder: Path):
    index = folder / 'model.safetensors.index.json'
    sharded = index.exists() and not (folder / 'model.safetensors').is_file()      # transformers' order too
    if sharded:
      shards = _object(index).get('weight_map')
      if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise InputError(f'{index}: holds no weight_map, which names the shard of every tensor')
      files = sorted(set(shards.values()))
    else:
      files = ['model.safetensors']
    self.files = [folder / file for file in files]
    self._where: dict[str, tuple[Path, str]] = {}      # name -> its file, and what it is called there
    present = {file.name for file in folder.iterdir() if file.is_file()}
    for name in files:
      file = folder / name
      if name not in present:                # a shard elsewhere, such as ../other, is none of the folder's
        listed = f' (a shard that {index.name} lists)' if sharded else ''
        pickled = next(iter(sorted(folder.glob('*.bin')) + sorted(folder.glob('*.pt'))), None)
        also = (f'; {pickled.name} is a pickle, which can run code and is never opened; convert it once where transformers '
                f'and torch are installed: python -c "from transformers import AutoModelForCausalLM as M; '
                f'M.from_pretrained(\'{folder}\').save_pretrained(\'{folder}\')" (AutoModelForSeq2SeqLM for T5)'
                if pickled else '')
        raise InputError(f'{folder}: {name[:100]} is missing{listed}{also}')
      try:
        with safetensors.safe_open(file, framework='numpy') as opened:
          self._where |= {name: (file, name) for name in opened.keys()}      # noqa: SIM118 (it is no dict)
      except safetensors.SafetensorError as e:
        raise InputError(f'{file}: not a whole safetensors file ({e}); fetch it again') from None

  def __getitem__(self, name: str) -> Stored:
    return Stored(*self._where[name])

  def renamed(self, names: Mapping[str, str]) -> 'Tensors':
    """Some of these tensors under other names: new -> old."""
    found = copy.copy(self)
    found._where = {new: self._where[old] for new, old in names.items()}
    return found

  def __iter__(self) -> Iterator[str]:
    return iter(self._where)

  def __len__(self) -> int:
    return len(self._where)


def _object(file: Path) -> dict[str, Any]:
  """What a JSON file holds, which must be an object.

  Raises:
    InputError: the file cannot be read, is not JSON, or holds something else.
  """
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except (ValueError, RecursionError, OSError) as e:
    raise InputError(f'{file}: not JSON ({e})') from None
  if not isinstance(found, dict):
    raise InputError(f'{file}: not a JSON object')
  return found


def read(folder: Path) -> tuple[Family, ModelConfig, Tensors, dict[str, Any]]:
  """Opens a model folder; nothing in it is ever executed.

  Returns:
    The family, the config, the lazy tensors, and the config.json as it stands; of a model that reads images too (see
    `wholes`) all this of its text part.

  Raises:
    InputError: no config.json, a `model_type` that is no family here, a missing or broken file, or an adapter in the folder.
  """
  file = folder / 'config.json'
  if not file.exists():
    raise InputError(f'{folder}: no config.json; a model folder has Hugging Face\'s layout')
  hf = _object(file)
  if (folder / 'adapter_config.json').is_file():
    raise InputError(f'{folder}: holds an adapter (adapter_config.json) beside the model, with which transformers loads it; '
                     'move the adapter to a folder of its own, and give that as strategy.init_from where it is wanted')
  whole = hf if isinstance(hf.get('model_type'), str) and hf['model_type'] in wholes.WHOLES else None
  hf = hf if whole is None else wholes.text_config(whole, str(file))
  kind, of = hf.get('model_type'), '' if whole is None else 'text_config: '
  family = FAMILIES.get(kind) if isinstance(kind, str) else None
  if family is None:
    raise InputError(f'{file}: {of}model_type {kind!r:.60} is not supported (known: {", ".join(FAMILIES)}'
                     + ('' if of else f'; the text part of {", ".join(wholes.WHOLES)}') + ')')
  tensors = Tensors(folder)
  tensors = tensors if whole is None else tensors.renamed(wholes.names_of_text(tensors))
  separate = family.head in tensors and not (
      family.embedding in tensors and names.alike(tensors[family.head], tensors[family.embedding]))
  if whole is not None:
    hf['tie_word_embeddings'] = wholes.tied(whole, separate)
  return family, names.config_of(family, hf, f'{file}{of and ": text_config"}', separate), tensors, hf


def inside(folder: Path) -> str:
  """Where the model that is read stands among the folder's own modules: '' where it is the whole."""
  kind = _object(folder / 'config.json').get('model_type')
  return wholes.WHOLES[kind].inside if isinstance(kind, str) and kind in wholes.WHOLES else ''
