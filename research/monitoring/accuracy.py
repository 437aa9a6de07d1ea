"""How right answers are: by what was said of some of them, and by what the model's confidence adds about all others."""

from typing import Any, NamedTuple

import numpy as np

from research.evaluation import intervals

FEWEST = 5      # answers that something was said of, from which on the others are used


class Estimate(NamedTuple):
  """An accuracy with its 95 % interval."""
  mean: float
  low: float
  high: float
  weight: float      # of the confidence of all others, from 0 (not used) to 1


def of_labelled(right: np.ndarray) -> Estimate:
  """The accuracy by labelled answers alone, [N] from 0 to 1: Wilson's interval, for as many as would vary as much."""
  mean, count = float(right.mean()), len(right)
  varies = float(right.var(ddof=1)) if count > 1 else 0.0
  alike = mean * (1 - mean) / (varies / count) if varies else count
  low, high = intervals.wilson(mean, alike)
  return Estimate(mean, min(low, mean), max(high, mean), 0.0)


def powered(right: np.ndarray, confidence: np.ndarray, others: np.ndarray) -> Estimate:
  """The accuracy on all traffic, prediction-powered (Angelopoulos et al. 2023, arXiv 2301.09633).

  The mean confidence of the others, corrected by how far confidence was off where it is known: λ mean(others) + mean(right - λ
  confidence). It is right whatever the confidence is worth, as long as feedback came for answers like all others. λ is the
  weight with the least variance (PPI++, Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453), cov(right, confidence) / ((1 +
  n/N) var(confidence)), within [0, 1]; with 0 it is the mean of the labelled ones, as it is with fewer than `FEWEST` of them.

  Args:
    right: [K] of labelled answers, from 0 to 1.
    confidence: [K] of the same.
    others: [N] confidence of the answers that nothing was said of.
  """
  n, others_count = len(right), len(others)
  weight = 0.0
  if n >= FEWEST and others_count and right.var() and confidence.var():
    everything = np.concatenate([confidence, others])
    weight = float(np.cov(right, confidence)[0, 1] / ((1 + n / others_count) * everything.var(ddof=1)))
  weight = min(1.0, max(0.0, weight))
  if not weight:
    return of_labelled(right)
  corrected = right - weight * confidence
  mean = weight * float(others.mean()) + float(corrected.mean())
  variance = weight ** 2 * float(others.var()) / others_count + float(corrected.var(ddof=1)) / n
  mean = min(1.0, max(0.0, mean))
  low, high = intervals.within(mean, intervals.NORMAL * variance ** 0.5, 0, 1, n)
  return Estimate(mean, low, high, weight)


def calibration(right: np.ndarray, confidence: np.ndarray, bins: int = 10) -> dict[str, Any]:
  """The expected calibration error (Guo et al. 2017) of answers, and the bins that it is of.

  Args:
    right: [K] from 0 to 1.
    confidence: [K] of the same, from 0 to 1.
    bins: equally wide.
  """
  at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  found = [{'confidence': float(confidence[at == b].mean()), 'accuracy': float(right[at == b].mean()),
            'count': int((at == b).sum())} for b in range(bins) if (at == b).any()]
  return {'ece': sum(abs(b['confidence'] - b['accuracy']) * b['count'] for b in found) / len(right), 'bins': found}
