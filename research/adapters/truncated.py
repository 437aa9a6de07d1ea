"""Any change of kernels as a plain LoRA of a given rank, which is all that servers take: its best approximation, by the SVD.

Of all matrices of rank R the sum of the R largest singular directions is nearest to a matrix in the Frobenius norm (Eckart &
Young 1936), and the share of the squared norm that it keeps is that of these singular values.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from research.adapters.modules import ROOT
from research.adapters.writing import placed_name
from research.models.config import ModelConfig
from research.models.families import FAMILIES
from research.models.names import theirs


class Truncated(NamedTuple):
  """A LoRA, what it makes of the base, and what it keeps."""
  said: dict[str, Any]                        # adapter_config.json
  tensors: dict[str, np.ndarray]              # PEFT's: A [R, I] and B [O, R]
  changed: dict[str, np.ndarray]              # the base with the LoRA in it, by the originals' names
  kept: dict[str, float]                      # the share of the change's squared norm, by module
  kept_overall: float
  lost: dict[str, float]                      # what no LoRA expresses: the norm of its change, by the originals' names


def truncate(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, np.ndarray],
             merged: Mapping[str, np.ndarray], rank: int, source: str, inside: str = '') -> Truncated:
  """The LoRA of a rank that is nearest to a change, kernel by kernel as the originals keep them.

  Args:
    config: of the model.
    shapes: of its parameters, by path.
    base: the tensors without the change, by the originals' names and of their shapes.
    merged: the tensors with it.
    rank: R; a kernel with a shorter side gets zeros beyond that.
    source: what others call the base model.
    inside: where the model stands among the modules of its source (see `models.about.inside`).
  """
  family, place = FAMILIES[config.family], placed_name(inside)
  rows = {name: row for row in family.rows(config) for name in theirs(row, dict(shapes))}
  kernels = {name: row for name, row in rows.items() if row.paths[0].endswith('/kernel')}
  tensors: dict[str, np.ndarray] = {}
  changed, kept, total, whole = dict(base), {}, 0.0, 0.0
  for name, row in kernels.items():
    change = np.asarray(merged[name], np.float64) - np.asarray(base[name], np.float64)
    if not change.any():
      continue
    change = change if row.transposed else change.T      # [O, I]
    u, s, v = np.linalg.svd(change, full_matrices=False)
    top = min(rank, len(s))
    root = np.sqrt(s[:top])
    b, a = np.zeros((change.shape[0], rank), np.float32), np.zeros((rank, change.shape[1]), np.float32)
    b[:, :top], a[:top] = u[:, :top] * root, root[:, None] * v[:top]
    module = place(name.removesuffix('.weight'))
    tensors |= {f'{ROOT}{module}.lora_A.weight': a, f'{ROOT}{module}.lora_B.weight': b}
    product = b @ a
    changed[name] = np.asarray(base[name], np.float32) + (product if row.transposed else product.T)
    kept[module] = float(np.sum(s[:top] ** 2) / np.sum(s ** 2))
    total, whole = total + float(np.sum(s[:top] ** 2)), whole + float(np.sum(s ** 2))
  lost = {name: float(np.linalg.norm(np.asarray(merged[name], np.float64) - np.asarray(base[name], np.float64)))
          for name in rows.keys() - kernels.keys()}
  every = {place(name.removesuffix('.weight')) for name in rows if name.endswith('.weight')}
  transposed = {row.transposed for name, row in kernels.items() if place(name.removesuffix('.weight')) in kept}
  said = {'peft_type': 'LORA', 'task_type': 'SEQ_2_SEQ_LM' if config.has_encoder else 'CAUSAL_LM',
          'base_model_name_or_path': source, 'inference_mode': True, 'r': rank, 'lora_alpha': rank, 'lora_dropout': 0.0,
          'use_rslora': False, 'use_dora': False, 'init_lora_weights': True, 'bias': 'none', 'modules_to_save': None,
          'fan_in_fan_out': transposed == {False}, 'target_modules': targets(set(kept), every)}
  return Truncated(said, tensors, changed, kept, total / whole if whole else 1.0,
                   {name: x for name, x in sorted(lost.items()) if x})


def targets(modules: set[str], every: set[str]) -> list[str]:
  """PEFT's `target_modules`: last names where these are all modules that bear them, else whole names.

  Args:
    modules: that have a LoRA.
    every: the base's modules with a weight.
  """
  last = lambda names: {name.rpartition('.')[2] for name in names}
  short = last(modules)
  return sorted(short if {name for name in every if last([name]) <= short} == modules else modules)
