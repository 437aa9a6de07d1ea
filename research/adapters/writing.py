"""From what a run has learned to an adapter folder as PEFT loads it, or of our own type where PEFT has none."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from research import tree
from research.adapters.modules import (
  LEAVES,
  OWN_TYPE,
  ROOT,
  SOFT,
  Array,
  Module,
  module_rows,
  named_modules,
  stored_as,
  to_theirs,
)
from research.adapters.soft import prefix_table
from research.adapters.stacking import exact_targets
from research.errors import InputError
from research.models.block import FUSED, QKV
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import theirs as theirs_of
from research.strategies import deltas, table
from research.strategies.bind import from_collections
from research.strategies.deltas import Delta
from research.tree import Tree

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
    inside: where the model stands among the modules of its source, if it is not all of it (see `models.about.inside`).
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
    return said, {SOFT: prefix_table(delta.projected(), config)}, row | {'hidden': 0}
  said, tensors, row = _by_module(said, found, strategy, row, config, variables, inside)
  also = {name.removeprefix('params/') for name in learned if name.startswith('params/')}
  return (*_with_whole(said, tensors, also, found, config, variables, inside), row) if also else (said, tensors, row)


def _soft_config(kind: str, slots: int, config: ModelConfig, width: int, heads: int) -> dict[str, Any]:
  submodules = 2 if config.has_encoder and kind == 'PREFIX_TUNING' else 1      # 2 tells PEFT that there is a decoder
  return {'peft_type': kind, 'num_virtual_tokens': slots, 'token_dim': width, 'num_attention_heads': heads,
          'num_layers': config.encoder_layers or config.layers, 'num_transformer_submodules': submodules}


def placed_name(inside: str) -> Callable[[str], str]:
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
  shapes, place = {path: x.shape for path, x in params.items()}, placed_name(inside)
  changed = {site.removesuffix('/kernel') for path in found for site in (
      [path.replace(FUSED, f'{n}/kernel') for n in QKV] if path.endswith(FUSED) else [path])}
  targeted = {path for path in shapes if path.endswith('/bias') and path.removesuffix('/bias') in changed}
  biases = {path for path in shapes if path.endswith('bias')}
  modules = {name.rpartition('.')[0] for path in also - biases for name in stored_as(family, config, shapes, path)}
  which = also & biases - {path for path in biases for name in stored_as(family, config, shapes, path)
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


def _by_module(said: dict[str, Any], found: dict[str, Any], strategy: table.Strategy, row: dict[str, Any], config: ModelConfig,
               variables: Tree, inside: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
  shapes = {n: x.shape for n, x in tree.leaves(variables['params'], is_leaf=lambda x: hasattr(x, 'shape')).items()}
  modules = named_modules(FAMILIES[config.family], config, shapes)
  found = {path: _doubled(delta) for path, delta in found.items()}
  found = _fused(found, modules)
  tensors = {}
  place = placed_name(inside)
  for name, module in modules.items():
    if module.site not in found:
      continue
    delta = found[module.site]
    for leaf, how in LEAVES[type(delta)].items():
      x = np.asarray(getattr(delta, leaf))
      x = x if module.layer is None else x[module.layer]
      x = how.write(to_theirs(module, x) if how.outputs else x)
      tensors[f'{ROOT}{place(name)}{how.suffix}'] = np.ascontiguousarray(x)
  rows = module_rows(FAMILIES[config.family], config)
  pattern = lambda site: re.escape(place(rows[site].theirs.removesuffix('.weight'))).replace(r'\{n\}', r'\d+')
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
  if deltas.Oft in kinds:
    if said['fan_in_fan_out']:
      raise InputError(f'--format=peft: PEFT rotates no inputs of {config.family}, whose modules are Conv1D; use --format=hf')
    return said | {'peft_type': 'OFT', 'peft_version': '0.18.0', 'r': 0, 'oft_block_size': row['block'], 'module_dropout': 0.0,
                   'coft': False, 'block_share': False, 'use_cayley_neumann': row['neumann'] > 0,
                   'num_cayley_neumann_terms': row['neumann'] or 5}, tensors, row
  ranks = {site: delta.a.shape[-1] for site, delta in found.items()}
  root = strategy.name == 'rslora'
  alphas = {site: delta.scale * (ranks[site] ** 0.5 if root else ranks[site]) for site, delta in found.items()}
  rank, alpha = max(ranks.values()), max(alphas.values())
  name = 'lora' if strategy.name == 'pissa' else strategy.kin or strategy.name
  fields = {'rank': rank, 'alpha': alpha, 'dropout': row['dropout'], 'targets': exact_targets(found),
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


def _fused(found: dict[str, Delta], modules: dict[str, Module]) -> dict[str, Any]:
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
  all_b = {site: to_theirs(module, np.asarray(found[site].fixed_b)) for site, module in delta_of.items()}
  b = max(all_b.values(), key=lambda x: x.shape[1])
  for site, x in all_b.items():
    if not np.array_equal(x, b[:, :x.shape[1]]):
      raise InputError(f'--format=peft: the original keeps the outputs of {site} in another order, in which VeRA\'s random '
                       'matrices are no longer the same for all sites; train with targets of one shape')
  return {'base_model.vera_A': np.ascontiguousarray(a.T), 'base_model.vera_B': np.ascontiguousarray(b.T)}
