"""Scores of classes, all from the totals of one table: rows are the right classes, columns those that were predicted.

A table may be of any number of totals at once: `...` stands for no axis or more. A share of nothing is 0, as scikit-learn has
it with `zero_division=0`.
"""

from collections.abc import Callable, Sequence

import numpy as np


def tables(targets: Sequence[str], predictions: Sequence[str], classes: Sequence[str]) -> np.ndarray:
  """Per example a table with a 1 at (target, prediction), flattened, of shape [n, (C + 1)²]; class C is anything else.

  Args:
    targets: the right class of each example.
    predictions: what was said of it.
    classes: all C of them.
  """
  C, number = len(classes), {name: i for i, name in enumerate(classes)}
  out = np.zeros((len(targets), C + 1, C + 1))
  for i, (target, prediction) in enumerate(zip(targets, predictions)):
    out[i, number.get(target, C), number.get(prediction, C)] = 1
  return out.reshape(len(targets), -1)


def of_totals(score: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
  """A score of tables as one of their flattened totals [..., C²]."""
  def flat(totals: np.ndarray) -> np.ndarray:
    side = round(totals.shape[-1] ** 0.5)
    return score(totals.reshape(*totals.shape[:-1], side, side))
  return flat


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0)


def _sides(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(hits, how often each class was predicted, how often it was right), each [..., C]."""
  return np.diagonal(table, axis1=-2, axis2=-1), table.sum(-2), table.sum(-1)


def macro_f1(table: np.ndarray) -> np.ndarray:
  """Mean over classes of 2 TP / (2 TP + FP + FN), of tables of shape [..., C, C]; a class that neither side has is left out."""
  hits, predicted, right = _sides(table)
  present = predicted + right > 0
  return _share(2 * hits, predicted + right).sum(-1) / np.maximum(present.sum(-1), 1)


def micro_f1(table: np.ndarray) -> np.ndarray:
  """F1 over all decisions, of tables of shape [..., C, C]; where each example has one class it is accuracy."""
  hits, predicted, right = _sides(table)
  return _share(2 * hits.sum(-1), predicted.sum(-1) + right.sum(-1))


def weighted_f1(table: np.ndarray) -> np.ndarray:
  """Mean of the classes' F1, of tables of shape [..., C, C], each counted as often as it is right."""
  hits, predicted, right = _sides(table)
  return _share((_share(2 * hits, predicted + right) * right).sum(-1), right.sum(-1))


def matthews(table: np.ndarray) -> np.ndarray:
  """Matthews' correlation of what was said and what was right (Gorodkin 2004), from -1 to 1, of tables of shape [..., C, C]."""
  hits, predicted, right = _sides(table)
  n = right.sum(-1)
  together = hits.sum(-1) * n - (predicted * right).sum(-1)
  apart = (n ** 2 - (predicted ** 2).sum(-1)) * (n ** 2 - (right ** 2).sum(-1))
  return _share(together, np.sqrt(np.maximum(apart, 0)))


def one_class(targets: Sequence[str], predictions: Sequence[str], name: str) -> np.ndarray:
  """Per example [hit, it was predicted, it is right] of one class, of shape [n, 3].

  Args:
    targets: the right class of each example.
    predictions: what was said of it.
    name: the class.
  """
  return np.array([[float(t == name == p), float(p == name), float(t == name)] for t, p in zip(targets, predictions)])


# Of one class, from the totals [..., 3] of `one_class`.
OF_ONE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'precision': lambda totals: _share(totals[..., 0], totals[..., 1]),
    'recall': lambda totals: _share(totals[..., 0], totals[..., 2]),
    'f1': lambda totals: _share(2 * totals[..., 0], totals[..., 1] + totals[..., 2]),
}
