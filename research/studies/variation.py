"""What scores vary by: seeds, templates of the prompt, draws of demonstrations and examples are samples, and each has a row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.evaluation import crossed, metrics
from research.evaluation.metrics import Metric
from research.studies.statistics import Scores

DRAWS = 'draws of demonstrations'      # what seeds are of an arm that only shows some


def of_case(metric: Metric, found: Scores, sums: Mapping[str, Mapping[int, np.ndarray]],
            seeds: Sequence[int], examples: str) -> dict[str, Any]:
  """`variation` of one comparison: nothing where only seeds of training and examples are samples.

  Args:
    metric: of the report; of several templates the mean over them.
    found: the arms' scores.
    sums: arm -> seed -> the metric's sums of each row, of shape [n, K k] with K templates.
    seeds: that all arms have.
    examples: what the rows of the sums are of: examples, or clusters of them.
  """
  arms: list[dict[str, Any]] = []
  one = metrics.get(metric.name)
  for number, arm in enumerate(found.arms):
    parts = crossed.components(found.fit, lambda x, number=number: x[..., number, number])      # type: ignore[misc]
    learns, moved = found.fit.pooled[number], found.fit.by_seed[number, number] > 0
    named = {'seeds': 'seeds' if learns else DRAWS, 'templates': 'templates', 'examples': examples}
    rows = [{'of': named[name], 'count': part.count, 'deviation': part.variance ** 0.5, 'low': part.low ** 0.5,
             'high': min(part.high ** 0.5, metric.most - metric.least)}
            for name, part in parts.items() if name != 'seeds' or learns or moved]      # nothing is drawn: the base as it is
    by_template = [[float(one.score(part.sum(0))) for part in np.split(sums[arm][seed], metric.templates, axis=1)]
                   for seed in seeds]
    arms.append({'arm': arm, 'samples': rows, 'by_template': np.mean(by_template, axis=0).tolist()})
  draws = any(row['of'] == DRAWS for a in arms for row in a['samples'])
  return {'variation': {'templates': metric.templates, 'arms': arms}} if metric.templates > 1 or draws else {}


def templates(c: dict[str, Any]) -> int:
  """Under how many templates of the prompt the arms of one comparison were tested."""
  return int(c.get('variation', {}).get('templates', 1))


def told(c: dict[str, Any]) -> str:
  """What the intervals of one of comparison.json's `comparisons` are about."""
  count = templates(c)
  if len(c['seeds']) == 1:
    over = ' and templates' if count > 1 else ''
    return (f'One seed: the intervals are over test examples{over} only. They tell how these trained models differ, and '
            'nothing about how much another seed would move them; the tests are of these models, not of arms.')
  in_clusters = f' in {c["clusters"]:,} clusters, over which everything here is counted' if 'clusters' in c else ''
  asked, others = (f'{count} templates, ', ', other templates') if count > 1 else ('', '')
  return (f'{len(c["seeds"])} seeds, {asked}{c["examples"]:,} examples{in_clusters}. {"All" if others else "Both"} are '
          f'samples: an interval says how far a score would move with other seeds{others} and other examples of their kind.')
