"""Several templates of a prompt: a row is asked under each, and its score is the mean of the scores under each.

All predictions under the first template come first, in the rows' order, then those under the next. A row's sums under all
templates stand side by side, so that a row is what an example is elsewhere: in clusters, in the bootstrap and in pseudo-values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from research.evaluation import crossed, intervals, metrics
from research.evaluation.intervals import pseudo_values
from research.evaluation.metrics import Metric, Scored

T = TypeVar('T', bound=Mapping[str, Any])


def count(predictions: Sequence[Mapping[str, Any]]) -> int:
  """Under how many templates predictions were made."""
  return 1 + max((int(one.get('template', 0)) for one in predictions), default=0)


def rows(predictions: Sequence[T]) -> Sequence[T]:
  """Those under the first template, one a row."""
  return predictions[:len(predictions) // count(predictions)]


def side_by_side(vectors: np.ndarray, templates: int) -> np.ndarray:
  """Sums of predictions as those of rows, of shape [n, K k].

  Args:
    vectors: of shape [K n, k]: all under the first template, then those under the next.
    templates: K.
  """
  if templates == 1:
    return vectors
  return vectors.reshape(templates, -1, vectors.shape[-1]).swapaxes(0, 1).reshape(-1, templates * vectors.shape[-1])


def over(metric: Metric, templates: int) -> Metric:
  """The mean of a metric over templates, of rows: its sums are a row's under all of them, side by side.

  Args:
    metric: the score under one template.
    templates: how many there are; of one it is the metric itself.
  """
  if templates == 1:
    return metric

  def sums(scored: Sequence[Scored]) -> np.ndarray:
    return side_by_side(metric.sums(scored), templates)

  def score(totals: np.ndarray) -> np.ndarray:
    return metric.score(totals.reshape(*totals.shape[:-1], templates, -1)).mean(-1)
  return metric._replace(sums=sums, score=score, is_told=lambda totals: metric.is_told(np.split(totals, templates)[0]),
                         templates=templates)


def values(metric: Metric, vectors: np.ndarray) -> np.ndarray:
  """Each row's share in the score under each template, of shape [K, n] (see `intervals.pseudo_values`).

  Args:
    metric: as `over` gives it.
    vectors: of rows or of clusters of them, [n, K k].
  """
  one = metrics.get(metric.name)
  return np.array([pseudo_values(one, part) for part in np.split(vectors, metric.templates, axis=1)])


def interval(metric: Metric, vectors: np.ndarray, of_clusters: bool = False) -> list[float]:
  """[low, high] of one model's score: over examples, and where there are several templates over these too.

  Args:
    metric: the score; of several templates as `over` gives it.
    vectors: its sums, of each row or cluster, of shape [n, K k].
    of_clusters: as for `intervals.interval`.
  """
  if metric.templates == 1 or len(vectors) < 2:
    return intervals.interval(metric, vectors, of_clusters)
  score = float(metric.score(vectors.sum(0)))
  half = crossed.level(crossed.fit_templates(values(metric, vectors)[None, None], [True], 0.0), 0)[0].half()
  return [*intervals.within(score, half, metric.least, metric.most, len(vectors))]
