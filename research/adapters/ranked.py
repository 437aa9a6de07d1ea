"""LoRA's folders and those of its kin: ranks, scales, and what learned in full beside them."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from research.adapters.modules import Contents, named_modules, stored_as
from research.adapters.stacking import exact_targets, module_and_suffix, stack, variables_of
from research.config_fields import LARGEST
from research.errors import InputError
from research.models.block import FUSED, QKV
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import theirs as theirs_of
from research.strategies import deltas
from research.strategies.deltas import Delta

_CONVERTIBLE = ('pissa', 'olora', 'corda', 'lora_ga')      # values of init_lora_weights that PEFT can write as LoRA


def lora(contents: Contents) -> tuple[Any, ...]:
  """A folder of LoRA's kind: the row's name, its fields, the variables' values, and what is to be told.

  Raises:
    InputError: a setting is not supported, or a tensor does not fit.
  """
  folder, said, tensors, config, shapes = contents
  modules = named_modules(FAMILIES[config.family], config, shapes)
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

  def kind(parts: dict[str, np.ndarray]) -> type[Delta]:
    if '.lora_embedding_A' in parts:
      return deltas.LowRankEmbedding
    return deltas.Dora if dora else deltas.PiSSA if pissa else deltas.LowRank
  rank, alpha = said['r'] or 8, float(said['lora_alpha'])
  if not 0 < alpha <= LARGEST:
    raise InputError(f'{folder}: lora_alpha={alpha:g}: must be above 0, and what a float32 holds')
  alpha_of = lambda name: _first(said['alpha_pattern'], name, alpha, folder)
  layers: dict[str, dict[str, tuple[int, float]]] = {}      # site -> module -> its rank and scale

  def scale(name: str, its_rank: int) -> float:
    found = alpha_of(name) / (its_rank ** 0.5 if root else its_rank)
    layers.setdefault(modules[name].site, {})[name] = its_rank, found
    return found
  found = stack(folder, tensors, modules, kind, scale)
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
  return name, {'rank': rank, 'alpha': alpha, 'dropout': float(said['lora_dropout']), 'targets': exact_targets(found),
                'fused': any(site.endswith(FUSED) for site in found), 'rank_pattern': ranks,
                'alpha_pattern': alphas, 'also': ','.join(also)}, variables_of(found) | whole, *([note] if notes else []), *told


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


def _whole(folder: Path, said: dict[str, Any], tensors: dict[str, np.ndarray], config: ModelConfig,
           shapes: dict[str, tuple[int, ...]]) -> tuple[list[str], dict[str, np.ndarray]]:
  """Parameters that learned in full, which are taken out of the tensors: what `also` calls them, and the variables' values.

  They are PEFT's `modules_to_save` and, with `bias`, biases.

  Raises:
    InputError: one is of a kind that cannot learn beside a delta here, of another shape, or not of all layers.
  """
  family = FAMILIES[config.family]
  here: dict[str, str] = {}      # the name in the base -> the tensor's
  for name in tensors:
    base = ''.join(module_and_suffix(name)).replace('.base_layer.', '.').replace('.modules_to_save.', '.')
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
  saved = {name.rpartition('.')[0] for path in also for name in stored_as(family, config, shapes, path)}
  for module in said['modules_to_save']:
    if not isinstance(module, str) or not any(name.endswith(module) for name in saved):
      raise InputError(f'{folder}: modules_to_save names {module!r:.60}, of which it holds no weights of this model')
  biases = {path for path in shapes if path.endswith('bias')}
  short = ['bias'] if biases and biases <= set(also) else []
  named = {'head/kernel': 'head', 'embed/embedding': 'embed'}
  return [*short, *(named.get(path, f'^{path}$') for path in also if not (short and path in biases))], values


def _check_biases(folder: Path, bias: str, also: list[str], found: dict[str, Any], config: ModelConfig) -> None:
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
