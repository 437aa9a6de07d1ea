"""From `config.model.source` to a model, its weights and its tokenizer."""

import dataclasses
import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from research import tree
from research.data import gguf_tokenizer
from research.data import tokenizer as tokenizers
from research.data.tokenizer import Tokenizer
from research.distributed import device, mesh, placement, processes
from research.errors import InputError
from research.models import functions, gguf, huggingface, names, quantized
from research.models.config import DTYPES, Execution, ModelConfig
from research.models.families import FAMILIES
from research.models.functions import Model, in_stack
from research.models.places import hub_folder, installed_file, is_hub_id
from research.models.presets import HUB, PRESETS, SENTINELS
from research.models.quantized import KINDS
from research.tree import Tree
from research.unstacked import unstack


class Loaded(NamedTuple):
  model: Model
  params: Tree              # in float32 or bfloat16, or quantised, as the execution says
  tokenizer: Tokenizer
  fingerprint: str          # of the weights: a delta trained on it belongs to no other base
  hf: dict[str, Any]        # the config.json that the originals read


def load(source: str, execution: Execution, tokenizer: Tokenizer | None = None, abstract: bool = False) -> Loaded:
  """Loads a base model onto the mesh in use; a second call with the same arguments gives the same arrays.

  A cohort's mesh has them where the run's mesh has them, and they are there once. A source where nothing is, or something
  broken or of an unknown kind, is refused (`InputError`).

  Args:
    source: a folder in Hugging Face's layout, a `.gguf` file, `package:NAME` (the GGUF inside an installed Python
      package, which is not imported), `random:NAME` (see `presets`), or a hub id `org/name`.
    execution: how the model is computed and its weights are kept.
    tokenizer: in place of the byte tokenizer of `random:NAME`.
    abstract: shapes in place of the weights, of which none are read; models of `presets.HUB` are not fetched either.
  """
  return (_planned if abstract else _load)(source, execution, tokenizer, mesh.current())


class Reader(NamedTuple):
  """How a model reads texts."""
  tokenizer: Tokenizer
  context: int              # the longest sequence that it was trained for
  start: int | None         # the decoder's first token, where an encoder reads the prompt


def reader(source: str) -> Reader:
  """How a model reads texts; no weight is read.

  Args:
    source: as for `load`, as is what is refused (`InputError`).
  """
  found = _open(source, None)
  return Reader(_fitting(found.tokenizer, found.config), found.config.context, found.config.decoder_start_id)


def _readable(source: str, abstract: bool) -> str:
  """The source, or for shapes alone the preset that has those of a well-known one."""
  return f'random:{HUB[source]}' if abstract and source in HUB else source


def resolve_scan(scan: bool | str, source: str, tokenizer: Tokenizer | None, steps: float | None, abstract: bool) -> bool:
  """Whether a model's layers are scanned.

  Args:
    scan: `model.scan`: True, False or `auto`, which flags give as texts.
    source: as for `load`, as are what is refused (`InputError`) and the next one.
    tokenizer: as for `load`.
    steps: as for `device.prefers_scan`.
    abstract: as for `load`.
  """
  said = str(scan).lower()
  if said != 'auto':
    return said == 'true'
  return device.prefers_scan(_open(_readable(source, abstract), tokenizer).config.layers, steps)


class Opened(NamedTuple):
  """What a source says before any weight is read."""
  config: ModelConfig
  tokenizer: Tokenizer
  fingerprint: str
  hf: dict[str, Any]
  params: Callable[[Model, Execution], Tree]      # reads, or draws, the weights of the model


@lru_cache(maxsize=2)
def _load(source: str, execution: Execution, tokenizer: Tokenizer | None, on: Mesh | None) -> Loaded:
  of_run = mesh.without_member_axis(on)
  if of_run is on:
    return _made(source, execution, tokenizer, abstract=False)
  with mesh.use(of_run):
    loaded = load(source, execution, tokenizer)
  return loaded._replace(params=placement.shard(loaded.params, 'params'))


@lru_cache(maxsize=2)
def _planned(source: str, execution: Execution, tokenizer: Tokenizer | None, on: Mesh | None) -> Loaded:
  return _made(source, execution, tokenizer, abstract=True)


def _made(source: str, execution: Execution, tokenizer: Tokenizer | None, abstract: bool) -> Loaded:
  found = _open(_readable(source, abstract), tokenizer)
  config = dataclasses.replace(found.config, dtype=execution.dtype, remat=execution.remat, attention=execution.attention)
  model = functions.build(config)
  try:
    params = shapes(config, execution) if abstract else found.params(model, execution)
  finally:
    if not abstract:
      _open.cache_clear()      # what was read of a mapped file counts as this process's memory until it is closed
  return Loaded(model, params, _fitting(found.tokenizer, config), found.fingerprint, found.hf)


@lru_cache(maxsize=2)
def _open(source: str, tokenizer: Tokenizer | None) -> Opened:
  kind, _, name = source.partition(':')
  if kind == 'random':
    return _random(name, tokenizer)
  if kind == 'package':
    return _gguf(installed_file(name))
  path = Path(source).expanduser()
  if path.suffix == '.gguf':
    if not path.is_file():
      raise InputError(f'model.source={source}: no such file')
    return _gguf(path)
  if path.is_dir():
    return _folder(path)
  if is_hub_id(source):
    return _folder(hub_folder(source))
  raise InputError(f'model.source={source!r}: no such folder; give a folder, a .gguf file, package:NAME, '
                   'random:NAME or a hub id org/name')


def load_with_last_layers(source: str, execution: Execution, tokenizer: Tokenizer | None, layers: int,
                          abstract: bool = False) -> Loaded:
  """`load`, with the last `layers` layers apart from the others, so that they can learn alone; also found again.

  Args:
    source: as for `load`.
    execution: as for `load`.
    tokenizer: as for `load`.
    layers: how many of the last ones, at most all.
    abstract: as for `load`.
  """
  return _load_with_last_layers(source, execution, tokenizer, layers, mesh.current(), abstract)


@lru_cache(maxsize=2)
def _load_with_last_layers(source: str, execution: Execution, tokenizer: Tokenizer | None, layers: int, on: Mesh | None,
                           abstract: bool) -> Loaded:
  loaded = load(source, execution, tokenizer, abstract)
  config = loaded.model.config
  if layers > config.layers:
    raise InputError(f'strategy.layers={layers}: the model has only {config.layers}')
  apart = dataclasses.replace(config, last_layers=layers)
  divide = lambda params: functions.split_last_layers(config, params, layers)[1]
  params = jax.eval_shape(divide, loaded.params) if abstract else divide(loaded.params)
  return loaded._replace(model=functions.build(apart), params=params)


def _opened(family, config, tensors, hf, tokenizer, fingerprint, where) -> Opened:
  if tokenizer.size > config.vocab:
    # The tokens beyond are an error where a text holds one (`Tokenizer.encode_all`), and for what begins or ends every text.
    for name, token in (('eos', tokenizer.eos), ('bos', tokenizer.bos)):
      if token is not None and token >= config.vocab:
        raise InputError(f'{where}: the tokenizer\'s {name}_token has the number {token}, the embedding only '
                         f'{config.vocab} rows; give the tokenizer that the weights were trained with')
    tokenizer = tokenizer._replace(size=config.vocab, other_ends=tuple(i for i in tokenizer.other_ends if i < config.vocab))
  return Opened(config, tokenizer, fingerprint, hf,
                lambda model, execution: _read(family, model.config, tensors, execution, where))


def _read(family, config, tensors, execution, where) -> Tree:
  """The parameters on their devices. Of each tensor that is read which this process's devices need; to be quantised, all."""
  expected, whole = names.shapes(config), keep(execution)

  def boxes(path, shape):
    return [names.everything(shape)] if _quantised(path, execution) else placement.local_slices(f'params/{path}', shape)

  def kept(path, parts):
    if _quantised(path, execution):
      return whole(path, parts[0])
    return _arranged(path, placement.from_local_slices(f'params/{path}', expected[path], parts), execution)
  return names.import_params(family, config, tensors, where, DTYPES[execution.param_dtype], kept, boxes)


def shapes(config: ModelConfig, execution: Execution) -> Tree:
  """The parameters as shapes alone."""
  def one(path, shape):
    if execution.quantize != 'none' and re.search(QUANTIZED, path):
      return _arranged(path, quantized.abstract(execution.quantize, shape), execution)
    return _arranged(path, jax.ShapeDtypeStruct(shape, DTYPES[execution.param_dtype]), execution)
  return tree.nested({path: one(path, shape) for path, shape in names.shapes(config).items()})


QUANTIZED = r'layers/.*/kernel$'      # what `model.quantize` is about


def _arranged(path: str, x: Any, execution: Execution) -> Any:
  """A parameter as the execution keeps it: with each layer's on its own where layers are unrolled (`model.scan=False`).

  Args:
    path: the parameter's.
    x: an array [N, …] of a stack's layers, or any other; quantised, or its shape alone.
    execution: says whether layers are unrolled.
  """
  return x if execution.scan or not in_stack(path) else jax.tree.map(unstack, x)


def keep(execution: Execution):
  """How parameters are kept: on their devices, quantised or apart where the execution says so."""
  quantise = KINDS[execution.quantize]

  def kept(path: str, x: Any) -> Any:
    quantised = quantise(x) if quantise and _quantised(path, execution) else x
    return _arranged(path, placement.shard(quantised, f'params/{path}'), execution)
  return kept


def _quantised(path: str, execution: Execution) -> bool:
  return execution.quantize != 'none' and re.search(QUANTIZED, path) is not None


def _fitting(tokenizer: Tokenizer, config: ModelConfig) -> Tokenizer:
  """An encoder reads its prompts with EOS after them, as T5 was trained to."""
  return tokenizer._replace(appends_eos=config.has_encoder)


def _gguf(path: Path) -> Opened:
  family, config, tensors, fields, hf = gguf.read(path)
  return _opened(family, config, tensors, hf, gguf_tokenizer.from_gguf(fields, str(path)), _hash([path]), str(path))


def _folder(folder: Path) -> Opened:
  family, config, tensors, hf = huggingface.read(folder)
  fingerprint = _hash([folder / 'config.json', *tensors.files])
  return _opened(family, config, tensors, hf, tokenizers.from_folder(folder), fingerprint, str(folder))


def _preset(name: str) -> dict[str, Any]:
  """The config.json of `random:NAME`.

  Raises:
    InputError: there is no such preset.
  """
  if name not in PRESETS:
    raise InputError(f'model.source=random:{name}: no such preset (known: {", ".join(PRESETS)})')
  return PRESETS[name]


def sentinels(name: str) -> int:
  """How many sentinels the tokenizer of `random:NAME` has."""
  return SENTINELS if _preset(name)['model_type'] == 't5' else 0


def _random(name: str, tokenizer: Tokenizer | None) -> Opened:
  hf, fingerprint = _preset(name), f'random:{name}'
  if tokenizer is None:
    tokenizer = tokenizers.of_bytes(sentinels(name))
  else:
    ids = {f'{token}_token_id': tokenizer.hf.convert_tokens_to_ids(f'<{token}>') for token in ('bos', 'eos', 'pad')}
    start = {'decoder_start_token_id': ids['pad_token_id']} if 'decoder_start_token_id' in hf else {}
    hf, fingerprint = {**hf, 'vocab_size': tokenizer.size, **ids, **start}, f'{fingerprint}+{tokenizer.fingerprint()}'
  config = names.config_of(FAMILIES[hf['model_type']], hf, f'random:{name}', not hf['tie_word_embeddings'])
  return Opened(config, tokenizer, fingerprint, hf, _drawn)


def _drawn(model: Model, execution: Execution) -> Tree:
  """Random weights, each sharded over the mesh in use."""
  init = lambda key: jax.tree.map(lambda x: x.astype(DTYPES[execution.param_dtype]), model.init(key))
  return tree.map_named(keep(execution), placement.init_sharded(init, jax.random.key(0), prefix='params'))


def _hash(files: list[Path]) -> str:
  """Of all bytes, which only the first of several processes reads; the others' files must be as long."""
  processes.assert_equal_across_processes(lambda: {file.name: file.stat().st_size for file in files})
  digest = hashlib.sha256()
  for file in files if processes.is_primary() else ():
    with open(file, 'rb') as f:
      while block := f.read(1 << 20):
        digest.update(block)
  return processes.all_gather_object(digest.hexdigest()[:16])[0]
