"""The same predictions of ranked choices, ranked by other rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.data.choices import CALIBRATION
from research.evaluation import harness
from research.evaluation.metrics import Metric

RULES = {'sum': '', 'mean': 'choice_tokens', 'byte': 'choice_bytes'}      # rule -> what it divides log-likelihoods by
Lines = Sequence[dict[str, Any]]


def _ranked_by(rule: str, line: dict[str, Any]) -> dict[str, Any]:
  """A prediction as another rule has it; one that is calibrated stays as it is."""
  if 'calibrated' in line:
    return line
  sizes = line.get(RULES[rule]) or [1] * len(line['choices'])
  ranked = {choice: value / size for (choice, value), size in zip(line['choices'].items(), sizes)}
  return {**line, harness.RANKED: ranked, 'prediction': max(ranked, key=ranked.__getitem__)}


def by_rule(metric: Metric, lines: Mapping[str, Mapping[int, Lines]], seeds: Sequence[int]) -> dict[str, dict[str, float]]:
  """Rule -> arm -> its mean over the seeds; nothing where choices are not ranked, or their lengths were not kept.

  Args:
    metric: of the report.
    lines: arm -> seed -> its predictions.
    seeds: that are compared; an arm that lacks one is left out.
  """
  found: dict[str, dict[str, float]] = {}
  whole = {arm: [of[seed] for seed in seeds] for arm, of in lines.items() if all(seed in of for seed in seeds)}
  complete = all(isinstance(line.get('choices'), dict) and line.get('choice_tokens') and line.get('choice_bytes')
                 for of_seeds in whole.values() for of_run in of_seeds for line in of_run)

  def score(rule: str, run: Lines) -> float:
    return float(metric.score(metric.sums(harness.scored_rows([_ranked_by(rule, line) for line in run])).sum(0)))
  for rule in RULES if complete and (metric.of_prediction or metric.name in CALIBRATION) else ():
    found[rule] = {arm: float(np.mean([score(rule, run) for run in runs])) for arm, runs in whole.items()}
  return found
