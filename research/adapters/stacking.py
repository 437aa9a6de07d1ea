"""From tensors of single modules to a site's delta, its layers stacked."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from research.adapters.modules import INSIDE, LEAVES, ROOT, Module, to_ours
from research.errors import InputError
from research.strategies import deltas
from research.strategies.deltas import Delta

_SILENT = (deltas.LowRank, deltas.Vera)      # deltas that are nothing where all leaves are 0, and have no gradient there
_RANKED = (deltas.LowRank, deltas.Dora)      # deltas to which further ranks of zeros add nothing, likewise


def stack(folder: Path, tensors: dict[str, np.ndarray], modules: dict[str, Module],
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
    theirs, suffix = module_and_suffix(name)
    if theirs not in modules:
      raise InputError(f'{folder}: tensor {name} belongs to no module of this model (a module is, for example, '
                       f'{next(iter(modules))})')
    by_module.setdefault(theirs, {})[suffix] = x
  by_site: dict[str, dict[int | None, tuple[str, dict[str, Any]]]] = {}
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
        values[field] = to_ours(module, x) if leaf.outputs else x
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


def module_and_suffix(name: str) -> tuple[str, str]:
  """A tensor's name -> (module, suffix)."""
  bare = name.removeprefix(ROOT)
  for prefix in INSIDE:
    bare = f'model.{bare.removeprefix(prefix)}' if bare.startswith(prefix) else bare
  suffix = next((s for s in dict.fromkeys(leaf.suffix for of in LEAVES.values() for leaf in of.values())
                 if bare.endswith(s)), None)
  return (bare.removesuffix(suffix), suffix) if suffix and name.startswith(ROOT) else (bare, '')


def variables_of(found: dict[str, tuple[type[Delta], dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
  """The variables of stacked deltas by name, each [N, …] as `stack` gives it."""
  return {f'delta/{site}/{leaf}': x for site, (_, leaves) in found.items() for leaf, x in leaves.items()}


def exact_targets(sites: Iterable[str]) -> str:
  """`strategy.targets` that names these sites and no others."""
  return ','.join(f'^{site}$' for site in sites)
