"""Temperature scaling of choices' probabilities: what they are ranked by, divided by a number fitted on validation."""

from collections.abc import Sequence

import numpy as np
import scipy

from research.evaluation import metrics
from research.evaluation.metrics import Scored

SCALED = '_scaled'          # what the name of a score ends with that is of scaled probabilities
WIDEST = np.log(1000.0)     # of the logarithm of a temperature, either way


def temperature(scored: Sequence[Scored]) -> float:
  """The temperature with the lowest log loss (Guo et al. 2017), between 1/1000 and 1000.

  The log loss is convex in its inverse, so that there is one minimum; it lies at an end where all answers are right or nothing
  is known.

  Args:
    scored: examples whose choices have probabilities: of validation, never of the split that is reported.
  """
  def log_loss(log_temperature: float) -> float:
    metric = metrics.get('log_loss')
    return float(metric.score(metric.sums(scaled(scored, float(np.exp(log_temperature)))).sum(0)))
  found = scipy.optimize.minimize_scalar(log_loss, bounds=(-WIDEST, WIDEST), method='bounded', options={'xatol': 1e-6})
  return float(np.exp(found.x))


def scaled(scored: Sequence[Scored], temperature: float) -> list[Scored]:
  """The same examples with what their choices are ranked by divided by a temperature; no prediction changes."""
  return [s._replace(ranked=tuple(value / temperature for value in s.ranked)) for s in scored]
