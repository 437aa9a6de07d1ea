"""The scores of lm-evaluation-harness, from its values per example: as sums where they are such, with our intervals."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from research.evaluation import intervals
from research.evaluation.metrics import Metric

Aggregation = Callable[[list[Any]], Any]
RESAMPLES = 200      # of scores that only the harness's own function can compute, which takes long
SAME = 1e-6
# Scores of (log-likelihood, how many words or bytes), and what they are of nats per unit.
PER_UNIT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'word_perplexity': np.exp, 'byte_perplexity': np.exp, 'perplexity': np.exp,
    'bits_per_byte': lambda nats: nats / math.log(2)}


def as_sums(name: str, values: Sequence[Any]) -> tuple[Metric, np.ndarray] | None:
  """A metric and its sums per example, of shape [n, 2]; None where values are neither numbers nor (log-likelihood, units).

  Args:
    name: the harness's: `acc`, or `exact_match,FILTER`.
    values: of the examples.
  """
  of_nats = PER_UNIT.get(name.split(',')[0])
  pairs = [value if isinstance(value, (list, tuple)) else (value, 1.0) for value in values]
  if any(len(pair) != 2 or not all(isinstance(x, (int, float, np.number)) for x in pair) for pair in pairs):
    return None
  vectors = np.array(pairs, np.float64)
  ratio = lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1e-300)
  if of_nats:
    vectors = vectors * [-1.0, 1.0]
    score = lambda totals: of_nats(ratio(totals))
    return Metric(name, lambda _: vectors, score, score, most=math.inf), vectors
  if any(isinstance(value, (list, tuple)) for value in values):
    return None
  is_share = set(vectors[:, 0]) <= {0.0, 1.0}
  called, most = ('accuracy', 1.0) if is_share else (name, math.inf)
  return Metric(called, lambda _: vectors, ratio, ratio, most=most), vectors


def interval(name: str, values: Sequence[Any], score: float, aggregation: Aggregation) -> list[float] | None:
  """[low, high] of a score, 95 % over examples; None where it is no number, or is not defined on a resample.

  Args:
    name: as for `as_sums`.
    values: of the examples.
    score: as the harness says it is.
    aggregation: the harness's, from values to the score.
  """
  found = as_sums(name, values)
  if found and math.isclose(float(found[0].score(found[1].sum(0))), score, rel_tol=SAME, abs_tol=SAME):
    return intervals.interval(*found)
  rng = np.random.Generator(np.random.Philox(key=[0, 0]))
  try:
    scores = [float(aggregation([values[i] for i in rng.integers(len(values), size=len(values))])) for _ in range(RESAMPLES)]
  except (ValueError, TypeError, ZeroDivisionError):
    return None
  if not np.isfinite(scores).all():
    return None
  low, high = np.percentile(scores, [2.5, 97.5])
  return [min(float(low), score), max(float(high), score)]
