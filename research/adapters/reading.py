"""From an adapter folder, PEFT's or ours, to a row of the strategy table and the values of its variables."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from research.adapters.modules import (
  CONFIG,
  OWN_TYPE,
  RECORD,
  TENSORS,
  Contents,
  checksums,
  named_modules,
  to_ours,
)
from research.adapters.ranked import lora
from research.adapters.soft import prefix, prompt
from research.adapters.stacking import exact_targets, stack, variables_of
from research.errors import InputError
from research.models.block import FUSED
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.strategies import deltas

# Their types -> the settings that change what is computed and are read; every other setting that is switched on is refused.
_READ = {
    'LORA': {'r', 'lora_alpha', 'lora_dropout', 'use_rslora', 'use_dora', 'rank_pattern', 'alpha_pattern', 'init_lora_weights',
             'modules_to_save', 'bias', 'ensure_weight_tying'},
    'IA3': set(),
    'VERA': {'r', 'vera_dropout', 'd_initial', 'save_projection'},
    'OFT': {'r', 'oft_block_size', 'use_cayley_neumann', 'num_cayley_neumann_terms'},
    'PROMPT_TUNING': {'num_virtual_tokens', 'num_transformer_submodules'},
    'PREFIX_TUNING': {'num_virtual_tokens', 'num_transformer_submodules'},
}
# Settings that say where the adapter came from, how it began, or what its tensors' names and shapes say too.
_HARMLESS = {
    'peft_type', 'task_type', 'auto_mapping', 'peft_version', 'base_model_name_or_path', 'revision', 'inference_mode',
    'target_modules', 'exclude_modules', 'feedforward_modules', 'fan_in_fan_out', 'megatron_core', 'qalora_group_size',
    'init_ia3_weights', 'init_weights', 'projection_prng_key', 'token_dim', 'num_attention_heads', 'num_layers',
    'encoder_hidden_size', 'prefix_projection', 'prompt_tuning_init', 'prompt_tuning_init_text', 'tokenizer_name_or_path',
    'tokenizer_kwargs', 'layers_to_transform', 'layers_pattern', 'eps'}
_OFF: tuple[object, ...] = (None, False, 0, 0.0, 'none', [], {}, '')


_TYPES: dict[str, tuple[tuple[type, ...], Any]] = {   # setting -> (its types, what it is where nothing is said)
    'r': ((int,), None), 'lora_alpha': ((int, float), 8), 'lora_dropout': ((int, float), 0), 'use_rslora': ((bool,), False),
    'use_dora': ((bool,), False), 'rank_pattern': ((dict,), {}), 'alpha_pattern': ((dict,), {}),
    'init_lora_weights': ((bool, str), True), 'modules_to_save': ((list,), []), 'bias': ((str,), 'none'),
    'ensure_weight_tying': ((bool,), False), 'oft_block_size': ((int,), 0), 'use_cayley_neumann': ((bool,), True),
    'num_cayley_neumann_terms': ((int,), 5), 'vera_dropout': ((int, float), 0), 'd_initial': ((int, float), 0.1)}


class Adapter(NamedTuple):
  """What a folder holds, in our terms."""
  name: str                          # the row
  fields: dict[str, Any]             # its settings, as far as the folder says
  values: dict[str, np.ndarray]      # variable's name -> value, layers stacked
  base: str | None                   # the base model's hash, where the folder says it
  notes: tuple[str, ...] = ()        # what a person who trains on should know


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
  name, fields, values, *notes = _KINDS[kind](Contents(folder, said, tensors, config, shapes))
  _check_written(folder, here, written)
  return Adapter(name, fields, values, base, tuple(notes))


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


def _ia3(contents: Contents) -> tuple[Any, ...]:
  folder, said, tensors, config, shapes = contents
  kind = lambda parts: deltas.ScaleIn if next(iter(parts.values())).shape[0] == 1 else deltas.ScaleOut
  found = stack(folder, tensors, named_modules(FAMILIES[config.family], config, shapes), kind)
  of = lambda kind: exact_targets(site for site, (which, _) in found.items() if which is kind)
  return 'ia3', {'targets': of(deltas.ScaleOut), 'feedforward': of(deltas.ScaleIn),
                 'fused': any(site.endswith(FUSED) for site in found)}, variables_of(found)


def _vera(contents: Contents) -> tuple[Any, ...]:
  folder, said, tensors, config, shapes = contents
  projections = [tensors.pop(f'base_model.vera_{letter}', None) for letter in 'AB']
  if projections[0] is None or projections[1] is None:
    raise InputError(f'{folder}: has no vera_A and vera_B; they are drawn by torch\'s generator, so the adapter must be saved '
                     'with save_projection=True')
  modules = named_modules(FAMILIES[config.family], config, shapes)
  found = stack(folder, tensors, modules, lambda parts: deltas.Vera)
  values = variables_of(found)
  for site in found:
    module = next(m for m in modules.values() if m.site == site)
    inputs, outputs = shapes[module.row.paths[0]][-2], sum(module.widths)
    if projections[0].shape[1] < inputs or projections[1].shape[0] < outputs:
      raise InputError(f'{folder}: vera_A and vera_B are too small for {site} ({inputs} x {outputs})')
    values[f'shared/{site}/fixed_a'] = projections[0][:, :inputs].T
    values[f'shared/{site}/fixed_b'] = to_ours(module, projections[1][:outputs].T)
    if projections[0].shape[0] != found[site][1]['d'].shape[-1]:
      raise InputError(f'{folder}: vera_A is of rank {projections[0].shape[0]}, vera_lambda_d of '
                       f'{found[site][1]["d"].shape[-1]}')
  return 'vera', {'rank': projections[0].shape[0], 'dropout': float(said['vera_dropout']), 'targets': exact_targets(found),
                  'fused': any(site.endswith(FUSED) for site in found), 'initial_d': float(said['d_initial'])}, values


def _oft(contents: Contents) -> tuple[Any, ...]:
  folder, said, tensors, config, shapes = contents
  modules = named_modules(FAMILIES[config.family], config, shapes)
  found = stack(folder, tensors, modules, lambda parts: deltas.Oft)
  blocks = {site: (1 + math.isqrt(1 + 8 * leaves['skew'].shape[-1])) // 2 for site, (_, leaves) in found.items()}
  for site, block in blocks.items():
    inputs = shapes[next(m for m in modules.values() if m.site == site).row.paths[0]][-2]
    if found[site][1]['skew'].shape[-2] * block != inputs:
      raise InputError(f'{folder}: oft_R at {site} has {found[site][1]["skew"].shape[-2]} blocks of {block}; this model has '
                       f'{inputs} inputs there')
  terms = 4 if said['num_cayley_neumann_terms'] == 3 else said['num_cayley_neumann_terms']      # which PEFT computes alike
  if len({*blocks.values()}) > 1:
    raise InputError(f'{folder}: blocks are of different widths ({", ".join(map(str, sorted({*blocks.values()})))}); only an '
                     'oft_block_size that divides the inputs of all modules is supported')
  return 'oft', {'block': next(iter(blocks.values())), 'targets': exact_targets(found),
                 'fused': any(site.endswith(FUSED) for site in found),
                 'neumann': terms if said['use_cayley_neumann'] else 0}, variables_of(found)


_KINDS = {'LORA': lora, 'IA3': _ia3, 'VERA': _vera, 'OFT': _oft, 'PROMPT_TUNING': prompt, 'PREFIX_TUNING': prefix}
