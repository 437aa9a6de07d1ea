"""Adapter folders: PEFT's, read and written, and one of the same kind for what PEFT does not have.

A folder holds adapter_config.json and adapter_model.safetensors. Tensors are named by the original's modules, which the
family's rows know: `base_model.model.` + module + `.lora_A.weight`. Ours also holds flaxtune.json: the row and its
settings, what it was trained as, and the hash of the base model.

What PEFT has no type for (`adapter`, `bitfit`, several rows at once) is written with `peft_type` FLAXTUNE, its tensors named by
our paths and stacked over layers as they stand in the variables.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from research import tree
from research.config import LARGEST
from research.distributed import processes
from research.errors import InputError
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import Family, Row
from research.models.names import theirs as theirs_of
from research.models.transformer import FUSED, QKV
from research.strategies import deltas, table
from research.strategies.bind import from_collections
from research.strategies.deltas import Delta
from research.tree import Tree

Array = jax.Array

CONFIG, TENSORS, RECORD = 'adapter_config.json', 'adapter_model.safetensors', 'flaxtune.json'
OWN_TYPE = 'FLAXTUNE'
ROOT = 'base_model.model.'
SOFT = 'prompt_embeddings'
# Where the text part stands in models that read images too (see `models.wholes`), in several versions of transformers.
_INSIDE = ('model.language_model.', 'language_model.model.', 'model.text_model.')

# Their types -> the settings that change what is computed and are read; every other setting that is switched on is refused.
_READ = {
    'LORA': {'r', 'lora_alpha', 'lora_dropout', 'use_rslora', 'use_dora', 'rank_pattern', 'alpha_pattern', 'init_lora_weights',
             'modules_to_save', 'bias', 'ensure_weight_tying'},
    'IA3': set(),
    'VERA': {'r', 'vera_dropout', 'd_initial', 'save_projection'},
    'PROMPT_TUNING': {'num_virtual_tokens', 'num_transformer_submodules'},
    'PREFIX_TUNING': {'num_virtual_tokens', 'num_transformer_submodules'},
}
# Settings that say where the adapter came from, how it began, or what its tensors' names and shapes say too.
_HARMLESS = {
    'peft_type', 'task_type', 'auto_mapping', 'peft_version', 'base_model_name_or_path', 'revision', 'inference_mode',
    'target_modules', 'exclude_modules', 'feedforward_modules', 'fan_in_fan_out', 'megatron_core', 'qalora_group_size',
    'init_ia3_weights', 'init_weights', 'projection_prng_key', 'token_dim', 'num_attention_heads', 'num_layers',
    'encoder_hidden_size', 'prefix_projection', 'prompt_tuning_init', 'prompt_tuning_init_text', 'tokenizer_name_or_path',
    'tokenizer_kwargs', 'layers_to_transform', 'layers_pattern'}
_CONVERTIBLE = ('pissa', 'olora', 'corda', 'lora_ga')      # values of init_lora_weights that PEFT can write as LoRA
_OFF: tuple[object, ...] = (None, False, 0, 0.0, 'none', [], {}, '')


_TYPES: dict[str, tuple[tuple[type, ...], Any]] = {   # setting -> (its types, what it is where nothing is said)
    'r': ((int,), None), 'lora_alpha': ((int, float), 8), 'lora_dropout': ((int, float), 0), 'use_rslora': ((bool,), False),
    'use_dora': ((bool,), False), 'rank_pattern': ((dict,), {}), 'alpha_pattern': ((dict,), {}),
    'init_lora_weights': ((bool, str), True), 'modules_to_save': ((list,), []), 'bias': ((str,), 'none'),
    'ensure_weight_tying': ((bool,), False), 'vera_dropout': ((int, float), 0), 'd_initial': ((int, float), 0.1)}


class Adapter(NamedTuple):
  """What a folder holds, in our terms."""
  name: str                          # the row
  fields: dict[str, Any]             # its settings, as far as the folder says
  values: dict[str, np.ndarray]      # variable's name -> value, layers stacked
  base: str | None                   # the base model's hash, where the folder says it
  notes: tuple[str, ...] = ()        # what a person who trains on should know


class Module(NamedTuple):
  """One of their modules: where it stands in our tree, and how its outputs are ordered."""
  site: str
  layer: int | None        # None outside of the stacks
  row: Row
  widths: tuple[int, ...]  # outputs of the kernels in it


def is_folder(folder: Path) -> bool:
  return (folder / CONFIG).is_file()


def _site(paths: tuple[str, ...]) -> str | None:
  """The site of a tensor's parameters: a path, or `…/qkv` for q, k and v; None where several others stand in one tensor."""
  if len(paths) == 1:
    return paths[0]
  sublayer = paths[0].removesuffix('/q/kernel')
  return f'{sublayer}/{FUSED}' if paths == tuple(f'{sublayer}/{n}/kernel' for n in QKV) else None


def _rows(family: Family, config: ModelConfig) -> dict[str, Row]:
  """Site -> the row of the tensor that stands there, for all kernels and the embedding."""
  found = {}
  for row in family.rows(config):
    site = _site(row.paths)
    # An encoder-decoder looks its words up in other modules than the one that holds them, where PEFT puts nothing.
    if site and (row.paths[0].endswith('/kernel') or (site == 'embed/embedding' and not config.has_encoder)):
      found[site] = row
  return found


def _modules(family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, Module]:
  """Their module's name -> what it is here."""
  found: dict[str, Module] = {}
  for site, row in _rows(family, config).items():
    widths = tuple(shapes[path][-1] for path in row.paths)
    base = row.theirs.removesuffix('.weight')
    if '{n}' in base:
      found |= {base.format(n=n): Module(site, n, row, widths) for n in range(shapes[row.paths[0]][0])}
    else:
      found[base] = Module(site, None, row, widths)
  return found


def _to_theirs(module: Module, x: np.ndarray) -> np.ndarray:
  """An array [..., O] with outputs in our order (q, then k, then v) -> in theirs."""
  row = module.row._replace(transposed=False)
  return row.pack(np.split(x, np.cumsum(module.widths)[:-1], axis=-1))


def _to_ours(module: Module, x: np.ndarray) -> np.ndarray:
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
    deltas.ScaleOut: {'l': _Leaf('.ia3_l', lambda x: x[:, None], _FLAT, True)},
    deltas.ScaleIn: {'l': _Leaf('.ia3_l', lambda x: x[None], _FLAT, False)},
}


# ---------------------------------------------------------------- reading

def read(folder: Path, config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> Adapter:
  """An adapter folder.

  Args:
    folder: holds `CONFIG` and `TENSORS`, and `RECORD` where it is ours.
    config: of the base model.
    shapes: of the base model's parameters, by path.
  Raises:
    InputError: it is broken, of an unsupported type or setting, or of a model of other shapes.
  """
  said = _json(folder / CONFIG)
  record = _json(folder / RECORD) if (folder / RECORD).is_file() else {}
  tensors = _tensors(folder)
  here, written = checksums(tensors), record.get('checksums')
  base = record['base'].get('sha256') if isinstance(record.get('base'), dict) else None
  kind = said.get('peft_type')
  if kind == OWN_TYPE:
    strategy = record.get('strategy')
    if not isinstance(strategy, dict) or not isinstance(strategy.get('name'), str):
      raise InputError(f'{folder}: {RECORD} does not say which strategy it is of')
    _check_written(folder, here, written)
    return Adapter(strategy['name'], {n: x for n, x in strategy.items() if n != 'name'}, tensors, base)
  if not isinstance(kind, str) or kind not in _READ:
    raise InputError(f'{folder}: peft_type={kind!r:.60} is not supported (known: {", ".join((*_READ, OWN_TYPE))})')
  for field, (known, default) in _TYPES.items():
    value = said.get(field)
    if value is None:
      said |= {field: default} if field in _READ[kind] else {}
    elif not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
      raise InputError(f'{folder}: {field}={value!r:.60} is of the wrong type')
  for name, x in [*tensors.items()]:     # PEFT writes an embedding or head, unchanged, beside its delta
    if name.endswith('.base_layer.weight'):
      if x.shape not in {shapes['embed/embedding'], shapes.get('head/kernel', ())[::-1]}:
        raise InputError(f'{folder}: {name} has shape {list(x.shape)}, which is not that of this model')
      del tensors[name]
  for field, value in said.items():
    if field not in _READ[kind] and field not in _HARMLESS and value not in _OFF:
      raise InputError(f'{folder}: {field}={value!r:.60} is not supported')
  name, fields, values, *notes = _KINDS[kind](folder, said, tensors, config, shapes)
  _check_written(folder, here, written)
  return Adapter(name, fields, values, base, tuple(notes))


def checksums(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
  """A number for each tensor, of any shape, that any changed bit of it changes."""
  return {name: zlib.crc32(np.ascontiguousarray(x, np.float32).tobytes()) for name, x in tensors.items()}


def _check_written(folder: Path, here: dict[str, int], written: Any) -> None:
  """Refuses tensors that are named as those that we wrote, and are not those.

  Raises:
    InputError: names the first.
  """
  if isinstance(written, dict) and written.keys() == here.keys():
    changed = [name for name in here if here[name] != written[name]]
    if changed:
      raise InputError(f'{folder}: {changed[0]} is not what was written; put the folder back from a copy, or, where another '
                       f'program has trained it further, remove {RECORD}')


def _json(file: Path) -> dict[str, Any]:
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as e:
    raise InputError(f'{file}: cannot be read ({e})') from None
  if not isinstance(found, dict):
    raise InputError(f'{file}: holds no object')
  return found


def _tensors(folder: Path) -> dict[str, np.ndarray]:
  file = folder / TENSORS
  if not file.is_file():
    pickled = ' (adapter_model.bin is a pickle, which is not opened: save it as safetensors)' * (
        folder / 'adapter_model.bin').is_file()
    raise InputError(f'{file}: no such file{pickled}')
  try:
    found = safetensors.numpy.load_file(file)
  except (safetensors.SafetensorError, OSError, KeyError, TypeError) as e:
    raise InputError(f'{file}: cannot be read ({e})') from None
  return {name: np.asarray(x, np.float32) for name, x in found.items()}


_SILENT = (deltas.LowRank, deltas.Vera)      # deltas that are nothing where all leaves are 0, and have no gradient there
_RANKED = (deltas.LowRank, deltas.Dora)      # deltas to which further ranks of zeros add nothing, likewise


def _stacked(folder: Path, tensors: dict[str, np.ndarray], modules: dict[str, Module],
             types: Callable[[dict[str, np.ndarray]], type[Delta]],
             scales: Callable[[str, int], float] | None = None) -> dict[str, tuple[type[Delta], dict[str, np.ndarray]]]:
  """Site -> its delta's type and leaves, layers stacked, from tensors named by their modules.

  Layers without an adapter get one of zeros, smaller ranks are filled up with zeros: what is computed is the same, and as the
  other factor of each product is 0 too, they have no gradient and stay so. A layer whose scale is another than that of the
  layer with the largest rank has the difference in B.

  Args:
    folder: where they come from, for the message of an error.
    tensors: by their names.
    modules: the base model's, by their names.
    types: the tensors of one module by suffix -> the delta's type.
    scales: (a module's name, its rank) -> what its product is scaled by; None: the delta has no ranks.
  Raises:
    InputError: a tensor belongs to no module or is of another shape, a module has others than its type's, or a site's layers
      are not all there or not alike where that cannot be filled up.
  """
  by_module: dict[str, dict[str, np.ndarray]] = {}
  for name, x in tensors.items():
    theirs, suffix = _cut(name)
    if theirs not in modules:
      raise InputError(f'{folder}: tensor {name} belongs to no module of this model (a module is, for example, '
                       f'{next(iter(modules))})')
    by_module.setdefault(theirs, {})[suffix] = x
  by_site: dict[str, dict[int | None, tuple[str, dict]]] = {}
  for name, parts in by_module.items():
    by_site.setdefault(modules[name].site, {})[modules[name].layer] = (name, parts)
  counts = {m.site: 0 for m in modules.values()}
  for m in modules.values():
    counts[m.site] += 1
  found = {}
  for site, layers in by_site.items():
    rows: dict[int | None, dict[str, np.ndarray]] = {}
    kinds, scale = set(), {}
    for layer in sorted(layers, key=lambda n: -1 if n is None else n):
      name, parts = layers[layer]
      module, kind = modules[name], types(parts)
      kinds.add(kind)
      leaves = LEAVES[kind]
      if parts.keys() != {leaf.suffix for leaf in leaves.values()}:
        raise InputError(f'{folder}: at {site} stand the tensors {", ".join(sorted(parts))}, not '
                         f'{", ".join(leaf.suffix for leaf in leaves.values())}')
      values = {}
      for field, leaf in leaves.items():
        x = leaf.read(parts[leaf.suffix])
        if leaf.outputs and x.shape[-1] != sum(module.widths):
          raise InputError(f'{folder}: {leaf.suffix} at {site} is for {x.shape[-1]} outputs; this model has '
                           f'{sum(module.widths)}')
        values[field] = _to_ours(module, x) if leaf.outputs else x
      rows[layer] = values
      scale[layer] = scales(name, values['a'].shape[-1]) if scales and 'a' in values else 1.0
    kind = next(iter(kinds))
    if len(rows) < counts[site] and kind not in _SILENT:
      raise InputError(f'{folder}: holds {len(rows)} of the {counts[site]} layers of {site}; an adapter of some layers alone '
                       'is supported for LoRA and VeRA, of which the others stay 0')
    if len(kinds) == 1 and kind in _RANKED:
      _fill_up(rows, scale)
    elif len({*scale.values()}) > 1:
      raise InputError(f'{folder}: alpha_pattern differs between the layers of {site}, which is not supported')
    shapes = {str({n: x.shape for n, x in values.items()}) for values in rows.values()}
    if len(kinds) > 1 or len(shapes) > 1:
      raise InputError(f'{folder}: the layers of {site} differ in shape ({"; ".join(sorted(shapes)[:2])}); all layers of a '
                       'site must have one rank')
    first = next(iter(rows.values()))
    found[site] = (kind, first if None in rows else {
        name: np.stack([rows[n][name] if n in rows else np.zeros_like(x) for n in range(counts[site])])
        for name, x in first.items()})
  return found


def _fill_up(rows: dict[int | None, dict[str, np.ndarray]], scale: dict[int | None, float]) -> None:
  """Gives all layers the largest rank, and the scale of the layer that has it."""
  widest = max(rows, key=lambda layer: (rows[layer]['a'].shape[-1], scale[layer]))
  rank = rows[widest]['a'].shape[-1]
  for layer, values in rows.items():
    more = rank - values['a'].shape[-1]
    values['a'] = np.pad(values['a'], ((0, 0), (0, more)))
    values['b'] = np.pad(values['b'], ((0, more), (0, 0))) * np.float32(scale[layer] / scale[widest])


def _cut(name: str) -> tuple[str, str]:
  """A tensor's name -> (module, suffix)."""
  bare = name.removeprefix(ROOT)
  for prefix in _INSIDE:
    bare = f'model.{bare.removeprefix(prefix)}' if bare.startswith(prefix) else bare
  suffix = next((s for s in dict.fromkeys(leaf.suffix for of in LEAVES.values() for leaf in of.values())
                 if bare.endswith(s)), None)
  return (bare.removesuffix(suffix), suffix) if suffix and name.startswith(ROOT) else (bare, '')


def _values(found: dict[str, tuple[type[Delta], dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
  return {f'delta/{site}/{leaf}': x for site, (_, leaves) in found.items() for leaf, x in leaves.items()}


def _targets(sites: Iterable[str]) -> str:
  return ','.join(f'^{site}$' for site in sites)


def _lora(folder, said, tensors, config, shapes):
  modules = _modules(FAMILIES[config.family], config, shapes)
  dora, init = said['use_dora'], said['init_lora_weights']
  pissa = init == 'pissa'
  if isinstance(init, str) and not pissa and init not in ('gaussian', 'orthogonal'):
    again = '' if not init.startswith(_CONVERTIBLE) else (
        '; PEFT writes it as a LoRA of the base as it was: '
        "model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL), where INITIAL is the folder of the "
        'adapter saved before it learned')
    raise InputError(f'{folder}: init_lora_weights={init!r:.60} is not supported: it belongs to a base that was changed with '
                     f'it, by numbers that are in no file{again}')
  root = said['use_rslora']
  if dora and pissa:
    raise InputError(f'{folder}: only one of use_dora and init_lora_weights=pissa is supported at a time')
  also, whole = _whole(folder, said, tensors, config, shapes)

  def kind(parts):
    if '.lora_embedding_A' in parts:
      return deltas.LowRankEmbedding
    return deltas.Dora if dora else deltas.PiSSA if pissa else deltas.LowRank
  rank, alpha = said['r'] or 8, float(said['lora_alpha'])
  if not 0 < alpha <= LARGEST:
    raise InputError(f'{folder}: lora_alpha={alpha:g}: must be above 0, and what a float32 holds')
  alpha_of = lambda name: _first(said['alpha_pattern'], name, alpha, folder)
  layers: dict[str, dict[str, tuple[int, float]]] = {}      # site -> module -> its rank and scale

  def scale(name, its_rank):
    found = alpha_of(name) / (its_rank ** 0.5 if root else its_rank)
    layers.setdefault(modules[name].site, {})[name] = its_rank, found
    return found
  found = _stacked(folder, tensors, modules, kind, scale)
  if said['ensure_weight_tying'] and config.tied and any(of is deltas.LowRankEmbedding for of, _ in found.values()):
    raise InputError(f'{folder}: ensure_weight_tying=True with LoRA on the embedding changes the head too, which is not '
                     'supported')
  _check_biases(folder, said['bias'], also, found, config)
  name = 'dora' if dora else 'pissa' if pissa else 'rslora' if root else 'lora'
  ranks, alphas, notes = {}, {}, []
  for site, of_site in layers.items():
    its_rank, its_scale = max(of_site.values())
    if len(set(of_site.values())) > 1 or len(of_site) < sum(module.site == site for module in modules.values()):
      notes.append(site)
    # A rank's root stands in rsLoRA's own scale alone; where another row has it, alpha does.
    own = {alpha_of(one) * (r ** 0.5 if root and name != 'rslora' else 1) for one, (r, _) in of_site.items()}
    its_alpha = own.pop() if len(set(of_site.values())) == 1 and len(own) == 1 else (
        its_scale * (its_rank ** 0.5 if name == 'rslora' else its_rank))
    if its_rank != rank:
      ranks[f'^{site}$'] = its_rank
    if its_alpha != alpha:
      alphas[f'^{site}$'] = its_alpha
  without = {module.site for one, module in modules.items() if _is_target(said, one)} - found.keys()
  told = [f'{folder}: target_modules names {", ".join(sorted(without))}, for which there are no tensors: nothing is added '
          'there'] if without else []
  note = (f'{folder}: the layers of {", ".join(notes)} differ in rank or scale, or some have no adapter: they are filled up '
          'with zeros, which stay 0, and what their scales differ by stands in B')
  return name, {'rank': rank, 'alpha': alpha, 'dropout': float(said['lora_dropout']), 'targets': _targets(found),
                'fused': any(site.endswith(FUSED) for site in found), 'rank_pattern': ranks,
                'alpha_pattern': alphas, 'also': ','.join(also)}, _values(found) | whole, *([note] if notes else []), *told


def _is_target(said: dict[str, Any], module: str) -> bool:
  """Whether PEFT would put an adapter on a module, by what its config names."""
  asked, excluded = said.get('target_modules'), said.get('exclude_modules')
  if excluded or not asked or asked == 'all-linear':
    return False
  if isinstance(asked, str):
    try:
      return re.fullmatch(asked, module) is not None
    except re.error:
      return False
  return any(module == str(name) or module.endswith(f'.{name}') for name in asked)


def _whole(folder, said, tensors, config, shapes) -> tuple[list[str], dict[str, np.ndarray]]:
  """Parameters that learned in full, which are taken out of the tensors: what `also` calls them, and the variables' values.

  They are PEFT's `modules_to_save` and, with `bias`, biases.

  Raises:
    InputError: one is of a kind that cannot learn beside a delta here, of another shape, or not of all layers.
  """
  family = FAMILIES[config.family]
  here: dict[str, str] = {}      # the name in the base -> the tensor's
  for name in tensors:
    base = f'{_cut(name)[0]}{_cut(name)[1]}'.replace('.base_layer.', '.').replace('.modules_to_save.', '.')
    if base.endswith(('.weight', '.bias')) and '.lora_' not in base:
      here[base] = name
  if config.tied and family.head in here:
    both = here.get(family.embedding)
    if both is None or not np.array_equal(tensors[both], tensors[here[family.head]]):
      raise InputError(f'{folder}: modules_to_save gives the head of a model with tied embeddings weights of its own; merge it '
                       'in PEFT (merge_and_unload), save it with "tie_word_embeddings": false, and load that folder')
    del tensors[here.pop(family.head)]
  elif config.tied and family.embedding in here and not said['ensure_weight_tying']:
    raise InputError(f'{folder}: modules_to_save changes the embedding and not the head, which are one in this model; save it '
                     'in PEFT with ensure_weight_tying=True, or merge it there (merge_and_unload)')
  also, values = [], {}
  for row in family.rows(config):
    wanted = theirs_of(row, shapes)
    missing = [name for name in wanted if name not in here]
    if len(missing) == len(wanted):
      continue
    if missing:
      raise InputError(f'{folder}: holds {len(wanted) - len(missing)} of the {len(wanted)} layers of {row.theirs}')
    if any(path.endswith('kernel') and 'layers/' in path for path in row.paths):
      raise InputError(f'{folder}: modules_to_save holds {wanted[0]}; a layer\'s kernels learn in full by strategy full alone')
    if config.has_encoder and 'embed/embedding' in row.paths:
      raise InputError(f'{folder}: modules_to_save holds {wanted[0]}, where an encoder-decoder does not look its words up')
    stacked, widths = '{n}' in row.theirs, [shapes[path][-1] for path in row.paths]
    part = shapes[row.paths[0]][1 if stacked else 0:]
    stored = (*part[:-1], sum(widths))[::-1 if row.transposed else 1]
    each = []
    for name in wanted:
      x = tensors.pop(here.pop(name))
      if x.shape != stored:
        raise InputError(f'{folder}: {name} has shape {list(x.shape)}; this model needs {list(stored)}')
      each.append(row.unpack(x, widths))
    for n, path in enumerate(row.paths):
      values[f'params/{path}'] = np.stack([parts[n] for parts in each]) if stacked else each[0][n]
      also.append(path)
  saved = {name.rpartition('.')[0] for path in also for name in _stored_as(family, config, shapes, path)}
  for module in said['modules_to_save']:
    if not isinstance(module, str) or not any(name.endswith(module) for name in saved):
      raise InputError(f'{folder}: modules_to_save names {module!r:.60}, of which it holds no weights of this model')
  biases = {path for path in shapes if path.endswith('bias')}
  short = ['bias'] if biases and biases <= set(also) else []
  named = {'head/kernel': 'head', 'embed/embedding': 'embed'}
  return [*short, *(named.get(path, f'^{path}$') for path in also if not (short and path in biases))], values


def _stored_as(family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]], path: str) -> list[str]:
  """The original's names of the tensors that a parameter stands in."""
  return next(theirs_of(row, shapes) for row in family.rows(config) if path in row.paths)


def _check_biases(folder, bias, also, found, config) -> None:
  """Refuses a file that lacks biases which it says have learned, as some versions of PEFT write it.

  Raises:
    InputError: it lacks some, or `bias` is of no known kind.
  """
  if bias not in ('none', 'all', 'lora_only'):
    raise InputError(f'{folder}: bias={bias!r:.60} is not supported (known: none, all, lora_only)')
  sites = {part for site in found for part in ([site.replace(FUSED, f'{n}/kernel') for n in QKV] if site.endswith(FUSED)
                                               else [site])}
  wanted = {f'{site.removesuffix("/kernel")}/bias' for site in sites} & {
      path for row in FAMILIES[config.family].rows(config) for path in row.paths}
  if bias != 'none' and 'bias' not in also and not all(f'^{path}$' in also for path in wanted):
    raise InputError(f'{folder}: bias={bias}, but it lacks biases of what it changes; save it again with a newer PEFT')


def _first(patterns: dict[str, Any], name: str, default: float, folder: Path) -> float:
  """PEFT's rule: a pattern matches a module's whole name, or the end of it after a dot.

  Raises:
    InputError: a pattern is no regular expression, or what it gives no number.
  """
  try:
    return float(next((value for pattern, value in patterns.items() if re.match(rf'(.*\.)?({pattern})$', name)), default))
  except (re.error, TypeError, ValueError) as e:
    raise InputError(f'{folder}: alpha_pattern={patterns!r:.60} is not one ({e})') from None


def _ia3(folder, said, tensors, config, shapes):
  kind = lambda parts: deltas.ScaleIn if next(iter(parts.values())).shape[0] == 1 else deltas.ScaleOut
  found = _stacked(folder, tensors, _modules(FAMILIES[config.family], config, shapes), kind)
  of = lambda kind: _targets(site for site, (which, _) in found.items() if which is kind)
  return 'ia3', {'targets': of(deltas.ScaleOut), 'feedforward': of(deltas.ScaleIn),
                 'fused': any(site.endswith(FUSED) for site in found)}, _values(found)


def _vera(folder, said, tensors, config, shapes):
  projections = [tensors.pop(f'base_model.vera_{letter}', None) for letter in 'AB']
  if projections[0] is None or projections[1] is None:
    raise InputError(f'{folder}: has no vera_A and vera_B; they are drawn by torch\'s generator, so the adapter must be saved '
                     'with save_projection=True')
  modules = _modules(FAMILIES[config.family], config, shapes)
  found = _stacked(folder, tensors, modules, lambda parts: deltas.Vera)
  values = _values(found)
  for site in found:
    module = next(m for m in modules.values() if m.site == site)
    inputs, outputs = shapes[module.row.paths[0]][-2], sum(module.widths)
    if projections[0].shape[1] < inputs or projections[1].shape[0] < outputs:
      raise InputError(f'{folder}: vera_A and vera_B are too small for {site} ({inputs} x {outputs})')
    values[f'shared/{site}/fixed_a'] = projections[0][:, :inputs].T
    values[f'shared/{site}/fixed_b'] = _to_ours(module, projections[1][:outputs].T)
    if projections[0].shape[0] != found[site][1]['d'].shape[-1]:
      raise InputError(f'{folder}: vera_A is of rank {projections[0].shape[0]}, vera_lambda_d of '
                       f'{found[site][1]["d"].shape[-1]}')
  return 'vera', {'rank': projections[0].shape[0], 'dropout': float(said['vera_dropout']), 'targets': _targets(found),
                  'fused': any(site.endswith(FUSED) for site in found), 'initial_d': float(said['d_initial'])}, values


def _soft(folder, said, tensors) -> tuple[int, np.ndarray]:
  if tensors.keys() != {SOFT}:
    raise InputError(f'{folder}: holds the tensors {", ".join(sorted(tensors)[:5])}, not {SOFT} alone')
  slots = said.get('num_virtual_tokens')
  if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
    raise InputError(f'{folder}: num_virtual_tokens={slots!r:.60}: must be a whole number, 1 or more')
  return slots, tensors[SOFT]


def _prompt(folder, said, tensors, config, shapes):
  slots, x = _soft(folder, said, tensors)
  if x.shape not in ((slots, config.width), (2 * slots, config.width)):
    raise InputError(f'{folder}: {SOFT} is {list(x.shape)}; this model needs {[slots, config.width]}')
  return 'prompt', {'slots': slots, 'init': 'random'}, {'delta/embed/prompt/table': x[:slots]}    # PEFT reads no second half


def _prefix(folder, said, tensors, config, shapes):
  slots, x = _soft(folder, said, tensors)
  width, layers = config.kv_heads * config.head_dim, _prefix_layers(config, str(folder))
  if x.shape != (slots, layers * 2 * width):
    raise InputError(f'{folder}: {SOFT} is {list(x.shape)}; this model needs {[slots, layers * 2 * width]}')
  entries = x.reshape(slots, 2 * layers, width).swapaxes(0, 1)
  at, path = _prefix_entries(config, layers), 'delta/layers/attn/prefix'
  return 'prefix', {'slots': slots, 'hidden': 0}, {f'{path}/keys': entries[at], f'{path}/values': entries[at + 1]}


def _prefix_layers(config: ModelConfig, where: str) -> int:
  """The number of layers that PEFT makes a prefix for: of an encoder-decoder it is the encoder's (peft 0.21).

  Raises:
    InputError: the decoder, which reads it, has more, so that PEFT fails when it comes to them.
  """
  if config.has_encoder and config.layers > config.encoder_layers:
    raise InputError(f'{where}: PEFT makes a prefix for as many layers as the encoder has ({config.encoder_layers}), and fails '
                     f'where the decoder has more (num_decoder_layers={config.layers}); such a model has no prefix in PEFT')
  return config.encoder_layers or config.layers


def _prefix_entries(config: ModelConfig, layers: int) -> np.ndarray:
  """Which of a prefix's entries, two for each of `layers`, holds each layer's keys; its values stand in the next one.

  Of an encoder-decoder PEFT doubles the entries and deals them out by fours (keys and values of self- and of
  cross-attention, the latter unused): where `layers` is even two layers may share an entry, and some are read by none.
  """
  return np.arange(config.layers) * 4 % (2 * layers) if config.has_encoder else np.arange(config.layers) * 2


def _prefix_table(prefix: deltas.Prefix, config: ModelConfig) -> np.ndarray:
  """All layers' keys and values [P, N · 2 · K · head_dim], as PEFT keeps them.

  Raises:
    InputError: two layers that share an entry differ, or PEFT has no prefix for the model.
  """
  layers = _prefix_layers(config, '--format=peft')
  keys, values, at = np.asarray(prefix.keys), np.asarray(prefix.values), _prefix_entries(config, layers)
  entries = np.zeros((2 * layers, *keys.shape[1:]), np.float32)
  entries[at], entries[at + 1] = keys, values
  if not (np.array_equal(entries[at], keys) and np.array_equal(entries[at + 1], values)):
    raise InputError('--format=peft: PEFT gives two decoder layers of an encoder-decoder with an even number of them the same '
                     'prefix, and these have each their own')
  return entries.swapaxes(0, 1).reshape(prefix.slots, -1)


_KINDS = {'LORA': _lora, 'IA3': _ia3, 'VERA': _vera, 'PROMPT_TUNING': _prompt, 'PREFIX_TUNING': _prefix}


def fixed_names(frozen: Tree) -> list[str]:
  """What is frozen and yet a delta's own: not what follows from the delta's kernel."""
  return [name for name in tree.leaves(frozen) if re.search(r'/fixed_[ab]$', name)]


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
  here = learning | {n: x for n, x in tree.leaves(frozen).items() if '/fixed_' in n}
  for what, names in (('lacks', learning.keys() - values.keys()), ('holds unexpected', values.keys() - here.keys())):
    if names:
      raise InputError(f'{where}: {what} arrays: {", ".join(sorted(names)[:5])}')
  for n, x in values.items():
    if x.shape != here[n].shape:
      raise InputError(f'{where}: {n} has shape {list(x.shape)}; this model and strategy need {list(here[n].shape)}')
  put = lambda of: tree.map_named(lambda n, x: jnp.asarray(values[n], x.dtype) if n in values else x, of)
  return put(trainable), put(frozen)


# ---------------------------------------------------------------- writing

def write(variables: Tree, strategy: table.Strategy, config: ModelConfig, source: str,
          learned: dict[str, np.ndarray], inside: str = '') -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
  """What a folder holds.

  Args:
    variables: a run's, trainable and frozen ones together.
    strategy: the one that they were trained by.
    config: of the base model.
    source: of the base model, as `config.model.source` names it.
    learned: variable's name -> what learned, each array of the variable's shape, layers stacked.
    inside: where the model stands among the modules of its source, if it is not all of it (see `models.load.inside`).
  Returns:
    adapter_config.json, the tensors, and the row that they are: its name and settings.
  Raises:
    InputError: the strategy changes the base's own weights, or leaves nothing to save.
  """
  if strategy.trains_base or not learned:
    raise InputError(f'--format=peft: strategy {strategy.name} adds nothing to the model; use --format=hf')
  said: dict[str, Any] = {'task_type': 'SEQ_2_SEQ_LM' if config.has_encoder else 'CAUSAL_LM', 'base_model_name_or_path': source,
                          'inference_mode': True}
  row = {'name': strategy.name, **strategy.fields}
  found = from_collections(variables)
  types = {type(delta) for delta in found.values()}
  known = {*LEAVES, deltas.Prompt, deltas.Prefix, deltas.ProjectedPrefix}
  if len(strategy.name.split('+')) > 1 or not types or not types <= known:
    return said | {'peft_type': OWN_TYPE}, learned, row
  if inside and types & {deltas.Prompt, deltas.Prefix, deltas.ProjectedPrefix}:
    raise InputError(f'--format=peft: PEFT gives a soft prompt to a whole model, and {source} is one that reads images too; '
                     'use --format=hf, or train on its text part alone, as a folder of its own')
  if deltas.Prompt in types:
    [delta] = found.values()
    assert isinstance(delta, deltas.Prompt)
    return said | _soft_config('PROMPT_TUNING', delta.table.shape[0], config, config.width, config.heads) | {
        'prompt_tuning_init': 'RANDOM'}, {SOFT: np.asarray(delta.table)}, row
  if types & {deltas.Prefix, deltas.ProjectedPrefix}:
    [delta] = found.values()
    assert isinstance(delta, deltas.Prefix | deltas.ProjectedPrefix)
    width = config.kv_heads * config.head_dim
    said |= _soft_config('PREFIX_TUNING', delta.slots, config, width, config.kv_heads)
    said |= {'prefix_projection': False, 'encoder_hidden_size': width}      # what an MLP made is written as it came out
    return said, {SOFT: _prefix_table(delta.projected(), config)}, row | {'hidden': 0}
  said, tensors, row = _by_module(said, found, strategy, row, config, variables, inside)
  also = {name.removeprefix('params/') for name in learned if name.startswith('params/')}
  return (*_with_whole(said, tensors, also, found, config, variables, inside), row) if also else (said, tensors, row)


def _soft_config(kind: str, slots: int, config: ModelConfig, width: int, heads: int) -> dict[str, Any]:
  submodules = 2 if config.has_encoder and kind == 'PREFIX_TUNING' else 1      # 2 tells PEFT that there is a decoder
  return {'peft_type': kind, 'num_virtual_tokens': slots, 'token_dim': width, 'num_attention_heads': heads,
          'num_layers': config.encoder_layers or config.layers, 'num_transformer_submodules': submodules}


def _placed_name(inside: str) -> Callable[[str], str]:
  """A module's name in its family -> its name in the base."""
  return lambda name: f'{inside}{name.removeprefix("model.")}' if inside and name.startswith('model.') else name


def _with_whole(said: dict[str, Any], tensors: dict[str, np.ndarray], also: set[str], found: dict[str, Delta],
                config: ModelConfig, variables: Tree, inside: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The config and the tensors with parameters that learned in full, as PEFT's `modules_to_save` and `bias`.

  Args:
    said: the config so far.
    tensors: those so far.
    also: paths of the parameters.
    found: the deltas by path.
    config: of the base model.
    variables: all of them.
    inside: as for `write`.
  Raises:
    InputError: some biases learned, but neither all nor those of the kernels with a delta.
  """
  family, params = FAMILIES[config.family], tree.leaves(variables['params'], is_leaf=lambda x: hasattr(x, 'shape'))
  shapes, place = {path: x.shape for path, x in params.items()}, _placed_name(inside)
  changed = {site.removesuffix('/kernel') for path in found for site in (
      [path.replace(FUSED, f'{n}/kernel') for n in QKV] if path.endswith(FUSED) else [path])}
  targeted = {path for path in shapes if path.endswith('/bias') and path.removesuffix('/bias') in changed}
  biases = {path for path in shapes if path.endswith('bias')}
  modules = {name.rpartition('.')[0] for path in also - biases for name in _stored_as(family, config, shapes, path)}
  which = also & biases - {path for path in biases for name in _stored_as(family, config, shapes, path)
                           if name.rpartition('.')[0] in modules}
  if which and which not in (biases, targeted):
    raise InputError(f'--format=peft: PEFT trains all biases, or those of the kernels that it changes, and not '
                     f'{sorted(which)[0]} and its like alone; use --format=hf')
  out = dict(tensors)
  for row in family.rows(config):
    for n, name in enumerate(theirs_of(row, shapes)):
      module, _, leaf = name.rpartition('.')
      if module not in modules and not (leaf == 'bias' and which.intersection(row.paths)):
        continue
      inner = '.base_layer' if module not in modules and targeted.intersection(row.paths) else ''
      x = [np.asarray(params[path], np.float32) for path in row.paths]
      out[f'{ROOT}{place(module)}{inner}.{leaf}'] = np.ascontiguousarray(
          row.pack([part[n] for part in x] if '{n}' in row.theirs else x))
  tying = {'ensure_weight_tying': True} if config.tied and 'embed/embedding' in also else {}
  if tying:      # which PEFT keeps under both names
    out[f'{ROOT}{family.head}'] = np.asarray(params['embed/embedding'], np.float32)
  kind = {'bias': 'all' if which == biases else 'lora_only'} if which else {}
  return said | tying | kind | {'modules_to_save': sorted(map(place, modules)) or None}, out


def _by_module(said, found, strategy, row, config, variables, inside):
  shapes = {n: x.shape for n, x in tree.leaves(variables['params'], is_leaf=lambda x: hasattr(x, 'shape')).items()}
  modules = _modules(FAMILIES[config.family], config, shapes)
  found = {path: _doubled(delta) for path, delta in found.items()}
  found = _fused(found, modules)
  tensors = {}
  placed_name = _placed_name(inside)
  for name, module in modules.items():
    if module.site not in found:
      continue
    delta = found[module.site]
    for leaf, how in LEAVES[type(delta)].items():
      x = np.asarray(getattr(delta, leaf))
      x = x if module.layer is None else x[module.layer]
      x = how.write(_to_theirs(module, x) if how.outputs else x)
      tensors[f'{ROOT}{placed_name(name)}{how.suffix}'] = np.ascontiguousarray(x)
  rows = _rows(FAMILIES[config.family], config)
  pattern = lambda site: re.escape(placed_name(rows[site].theirs.removesuffix('.weight'))).replace(r'\{n\}', r'\d+')
  said |= {'target_modules': '|'.join(map(pattern, found)) if len(found) > 1 else pattern(next(iter(found))),
           'fan_in_fan_out': not next(iter(rows.values() if not found else (rows[s] for s in found))).transposed,
           'bias': 'none', 'modules_to_save': None}
  kinds = {type(delta) for delta in found.values()}
  if deltas.ScaleOut in kinds or deltas.ScaleIn in kinds:
    into = [pattern(site) for site, delta in found.items() if isinstance(delta, deltas.ScaleIn)]
    return said | {'peft_type': 'IA3', 'feedforward_modules': '|'.join(into) or []}, tensors, row
  if deltas.Vera in kinds:
    return said | {'peft_type': 'VERA', 'r': row['rank'], 'vera_dropout': row['dropout'], 'd_initial': row['initial_d'],
                   'save_projection': True, 'projection_prng_key': 0}, tensors | _projections(found, modules), row
  ranks = {site: delta.a.shape[-1] for site, delta in found.items()}
  root = strategy.name == 'rslora'
  alphas = {site: delta.scale * (ranks[site] ** 0.5 if root else ranks[site]) for site, delta in found.items()}
  rank, alpha = max(ranks.values()), max(alphas.values())
  name = {'lora_plus': 'lora', 'pissa': 'lora'}.get(strategy.name, strategy.name)
  fields = {'rank': rank, 'alpha': alpha, 'dropout': row['dropout'], 'targets': _targets(found),
            'fused': any(site.endswith(FUSED) for site in found),
            'rank_pattern': {f'^{site}$': r for site, r in ranks.items() if r != rank},
            'alpha_pattern': {f'^{site}$': a for site, a in alphas.items() if a != alpha}, 'also': row['also']}
  return said | {
      'peft_type': 'LORA', 'r': rank, 'lora_alpha': int(alpha) if alpha == int(alpha) else alpha,
      'lora_dropout': row['dropout'], 'use_rslora': root, 'use_dora': strategy.name == 'dora', 'init_lora_weights': True,
      'rank_pattern': {pattern(site): r for site, r in ranks.items() if r != rank},
      'alpha_pattern': {pattern(site): a for site, a in alphas.items() if a != alpha}}, tensors, {'name': name, **fields}


def _doubled(delta: Delta) -> Delta:
  """PiSSA as what PEFT calls its conversion: LoRA of twice the rank on the kernel as it was, s [A A₀] [B; -B₀]."""
  if not isinstance(delta, deltas.PiSSA):
    return delta
  return deltas.LowRank(_joined([delta.a, delta.fixed_a], -1), _joined([delta.b, -delta.fixed_b], -2), None, delta.scale)


def _joined(leaves: Sequence[Array | np.ndarray], axis: int) -> Any:
  """A leaf of a delta that is only written: it stays on the host, one of numpy's arrays among JAX's."""
  return np.concatenate([np.asarray(x) for x in leaves], axis)


def _fused(found: dict[str, Delta], modules: dict[str, Module]) -> dict[str, Delta]:
  """Deltas at the sites that the originals have modules for.

  Where they keep q, k and v in one, deltas of each become one delta of all: A side by side, B block by block.

  Raises:
    InputError: deltas of q, k and v have no form as one, or the originals have no module for a delta's site.
  """
  wanted = {m.site: m for m in modules.values()}
  out = {path: delta for path, delta in found.items() if path in wanted}
  for site, module in wanted.items():
    parts = [found.get(path) for path in module.row.paths] if site.endswith(FUSED) else []
    if site in out or not any(part is not None for part in parts):
      continue
    scales = [part for part in parts if part is None or isinstance(part, deltas.ScaleOut)]
    if len(scales) == len(parts):
      stack = next(part for part in scales if part is not None).l.shape[:-1]
      out[site] = deltas.ScaleOut(_joined([np.ones((*stack, width), np.float32) if part is None else part.l
                                           for part, width in zip(scales, module.widths)], -1))
      continue
    of_lora = [part for part in parts if part is None or isinstance(part, deltas.LowRank)]
    if len(of_lora) < len(parts):
      raise InputError('--format=peft: the original keeps q, k and v in one module, where a delta of this kind for each of '
                       'them has no form; train with strategy.fused=True')
    present = [part for part in of_lora if part is not None]
    if len({part.scale for part in present}) > 1:
      raise InputError(f'--format=peft: q, k and v at {site} have different scales, but share one module')
    rank = sum(part.a.shape[-1] for part in present)
    b: Any = np.zeros((*present[0].b.shape[:-2], rank, sum(module.widths)), np.float32)      # as `_joined`
    row = column = 0
    for part, width in zip(of_lora, module.widths):
      if part is not None:
        b[..., row:row + part.b.shape[-2], column:column + width] = part.b
        row += part.b.shape[-2]
      column += width
    out[site] = deltas.LowRank(_joined([part.a for part in present], -1), b, None, present[0].scale)
  homeless = [path for path in found if path not in out
              and not any(path in m.row.paths and m.site in out for m in wanted.values())]
  if homeless:
    raise InputError(f'--format=peft: the original has no module of its own for {homeless[0]}; use --format=hf')
  return out


def _projections(found: dict[str, deltas.Vera], modules: dict[str, Module]) -> dict[str, np.ndarray]:
  """A and B as large as the largest site: every other site has a corner of them.

  Raises:
    InputError: the originals' order of outputs leaves a site no corner.
  """
  delta_of = {m.site: m for m in modules.values() if m.site in found}
  a = max((np.asarray(found[site].fixed_a) for site in delta_of), key=len)
  all_b = {site: _to_theirs(module, np.asarray(found[site].fixed_b)) for site, module in delta_of.items()}
  b = max(all_b.values(), key=lambda x: x.shape[1])
  for site, x in all_b.items():
    if not np.array_equal(x, b[:, :x.shape[1]]):
      raise InputError(f'--format=peft: the original keeps the outputs of {site} in another order, in which VeRA\'s random '
                       'matrices are no longer the same for all sites; train with targets of one shape')
  return {'base_model.vera_A': np.ascontiguousarray(a.T), 'base_model.vera_B': np.ascontiguousarray(b.T)}
