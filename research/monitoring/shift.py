"""How far traffic is from the reference, as numbers that describe (the alarm goes by `streams`)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

PERMUTATIONS, FOLDS, MOST = 199, 5, 500      # of the classifier's test; rows of each side that it reads, the latest of traffic
RIDGE = 10.0


def separability(reference: np.ndarray, requests: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
  """How well a classifier tells requests [N, D] from reference rows [M, D]: cross-validated ROC AUC, and a p-value.

  0.5: not at all. The classifier is a ridge regression of who is who on standardised vectors (Fisher's discriminant), whose
  weights for all permutations come of one system of equations. The p-value is of permutations of who is who,
  each with a cross-validation of its own; it is of this one look. None where one side has fewer than ten.

  Args:
    reference: rows that the scores were not made by.
    requests: in their order.
    seed: of folds and permutations.
  """
  reference, requests = reference[:MOST], requests[-MOST:]
  if min(len(reference), len(requests)) < 2 * FOLDS:
    return None
  rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
  vectors = np.concatenate([reference, requests])
  sides = np.repeat([0, 1], [len(reference), len(requests)])
  fold = rng.permutation(len(sides)) % FOLDS

  orders = [np.arange(len(sides)), *(rng.permutation(len(sides)) for _ in range(PERMUTATIONS))]
  targets = np.array([sides[order] for order in orders], float).T      # [N + M, 1 + PERMUTATIONS]
  scores = np.empty(targets.shape)
  for held_out in range(FOLDS):
    inside = fold != held_out
    center, spread = vectors[inside].mean(0), np.maximum(vectors[inside].std(0), 1e-9)
    x = (vectors - center) / spread
    y = targets[inside] - targets[inside].mean(0)
    weights = np.linalg.solve(x[inside].T @ x[inside] + RIDGE * np.eye(x.shape[1]), x[inside].T @ y)
    scores[~inside] = x[~inside] @ weights
  found, *others = (_auc(score, target) for score, target in zip(scores.T, targets.T))
  as_large = sum(other >= found for other in others)
  return {'auc': found, 'p': (1 + as_large) / (1 + PERMUTATIONS), 'rows': len(reference), 'requests': len(requests)}


def _auc(scores: np.ndarray, sides: np.ndarray) -> float:
  """The share of pairs of the two sides that scores order rightly; of ties half."""
  ones = sides > 0
  ranks = stats.rankdata(scores)
  count = int(ones.sum())
  return float((ranks[ones].sum() - count * (count + 1) / 2) / (count * (len(sides) - count)))


def psi(reference: Sequence[str], requests: Sequence[str]) -> dict[str, Any] | None:
  """The population stability index of labels, and the shares that it is of; half a row is added to each label on each side.

  Σ (q - p) ln(q / p). Below 0.1 is usually called stable, above 0.25 a change. None where one side has no labels.

  Args:
    reference: the right labels of its rows.
    requests: labels that were answered.
  """
  there, here = Counter(filter(None, reference)), Counter(filter(None, requests))
  if not there or not here:
    return None
  labels = sorted({*there, *here}, key=lambda label: (-there[label], label))
  share = lambda counts: {label: (counts[label] + 0.5) / (counts.total() + 0.5 * len(labels)) for label in labels}
  p, q = share(there), share(here)
  return {'psi': float(sum((q[x] - p[x]) * np.log(q[x] / p[x]) for x in labels)),
          'reference': {x: there[x] / there.total() for x in labels}, 'requests': {x: here[x] / here.total() for x in labels}}


def shares(values: Sequence[str]) -> dict[str, float]:
  """Value -> its share, the commonest first."""
  counts = Counter(values)
  return {value: count / len(values) for value, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))}


def quantiles(values: np.ndarray) -> dict[str, float]:
  """Median, 90 %, 99 % and most of values [N] that are known (not NaN); nothing where none is."""
  values = values[~np.isnan(values)]
  names = ('median', '90 %', '99 %', 'most')
  return dict(zip(names, map(float, np.quantile(values, (0.5, 0.9, 0.99, 1))))) if len(values) else {}
