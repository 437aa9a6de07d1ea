"""A split's scores by the values of columns: for whom a model is how good, and whether the largest gap is more than chance.

Values of a column divide the examples; what is tested is every pair of values, corrected together (Holm 1979) over the pairs of
all columns, for each metric.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from research.console import shortened
from research.data.rows import Row
from research.data.templates import value_of
from research.errors import InputError
from research.evaluation import clusters, harness, metrics, templates
from research.evaluation.metrics import Metric

SMALL = 20        # examples, or clusters of them, below which a value's score is told and not compared
MOST = 100        # values of a column
NONE = '(none)'   # of rows without a value


class Part(NamedTuple):
  """The examples that have one value of a column."""
  value: str
  sums: np.ndarray                 # [c, k] of a metric, for each example or cluster
  names: tuple[Any, ...]           # [c] which example or cluster that is
  examples: int

  @property
  def is_small(self) -> bool:
    return len(self.sums) < SMALL


def check(columns: Sequence[str], rows: Sequence[Row], split: str) -> None:
  """Refuses columns that divide nothing.

  Args:
    columns: of `--slices`, each as a template names it.
    rows: of the split.
    split: for the error.
  Raises:
    InputError: no row has the column, or it holds lists, or more values than can be compared.
  """
  for column in columns:
    found = {_value(column, row) for row in rows}
    if found == {NONE}:
      known = dict.fromkeys(str(name) for row in rows for name in row)
      raise InputError(f'--slices={column}: no {split} row has such a column (columns: {", ".join(known)})')
    if len(found) > MOST:
      raise InputError(f'--slices={column}: has {len(found)} values in {len(rows)} {split} rows, of which at most {MOST} can '
                       'be compared; give a column of fewer, such as a group')


def _value(column: str, row: Row) -> str:
  try:
    value = value_of(column, row)
  except InputError:
    return NONE
  if isinstance(value, (list, dict)):
    raise InputError(f'--slices={column}: holds {value!r:.40}, a list or an object; name a part of it, as in {column}[0]')
  return NONE if value is None or value == '' else str(value)


def of(columns: Sequence[str], names: Sequence[str], predictions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Column -> metric -> `values`, each with its score and interval, `pairs`, each with its test, and the `largest` of these.

  Args:
    columns: as for `check`.
    names: of the metrics.
    predictions: of the split, with their rows; under several templates a row's score is its mean under each.
  """
  scored = harness.scored_rows(predictions)
  rows = templates.rows(predictions)
  belongs = [p.get('cluster', number) for number, p in enumerate(rows)]
  is_clustered = any('cluster' in p for p in rows)
  values = {column: [_value(column, p['row']) for p in rows] for column in columns}
  found: dict[str, dict[str, Any]] = {column: {} for column in columns}
  for metric in (templates.over(metrics.get(name), templates.count(predictions)) for name in names):
    vectors, told = metric.sums(scored), list[dict[str, Any]]()
    for column in columns:
      parts = [*_parts(vectors, values[column], belongs)]
      pairs = _pairs(metric, [part for part in parts if not part.is_small and _is_told(metric, part)])
      told += pairs
      found[column][metric.name] = {'values': [_told(metric, part, is_clustered) for part in parts], 'pairs': pairs}
    _correct(told)
    for of_metric in (found[column][metric.name] for column in columns):
      of_metric['largest'] = max(of_metric['pairs'], key=lambda pair: abs(pair['difference']), default=None)
  return found


def _parts(vectors: np.ndarray, values: Sequence[str], belongs: Sequence[Any]) -> Iterator[Part]:
  for value in sorted({*values}):
    rows = [number for number, one in enumerate(values) if one == value]
    names = [belongs[row] for row in rows]
    yield Part(value, clusters.sums(vectors[rows], names), tuple(dict.fromkeys(names)), len(rows))


def _is_told(metric: Metric, part: Part) -> bool:
  return metric.is_told(part.sums.sum(0))


def _told(metric: Metric, part: Part, is_clustered: bool) -> dict[str, Any]:
  found: list[float | None] = [None] * 3      # of a probe's kinds of examples the value has not each
  if _is_told(metric, part):
    found = [float(metric.score(part.sums.sum(0))), *templates.interval(metric, part.sums, is_clustered)]
  return {'value': part.value, 'examples': part.examples, **({'clusters': len(part.sums)} if is_clustered else {}),
          **dict(zip(('score', 'low', 'high'), found)), 'small': part.is_small}


def _pairs(metric: Metric, parts: Sequence[Part]) -> list[dict[str, Any]]:
  """Every pair of values: the first one's score less the second's, with its interval and p."""
  pulls = [_pulls(metric, part) for part in parts]
  found = []
  for one, other in itertools.combinations(range(len(parts)), 2):
    difference = float(metric.score(parts[one].sums.sum(0)) - metric.score(parts[other].sums.sum(0)))
    low, high, p = _test(metric, (parts[one], parts[other]), (pulls[one], pulls[other]), difference)
    found.append({'value': parts[one].value, 'other': parts[other].value, 'difference': difference, 'low': low, 'high': high,
                  'p': p, 'p_adjusted': None})
  return found


def _evened(metric: Metric, part: Part) -> np.ndarray:
  """A value's sums; of a share with an example more that is right and one that is wrong, so that it varies also where all are
  right (Agresti & Caffo 2000)."""
  return np.concatenate([part.sums, np.tile([[1.0, 1.0], [0.0, 1.0]], metric.templates)]) if metric.is_share else part.sums


def _pulls(metric: Metric, part: Part) -> dict[Any, float]:
  """How far each example or cluster pulls a value's score: what the score moves by without it (the jackknife)."""
  sums = _evened(metric, part)
  moved = metric.score(sums.sum(0) - sums) - metric.score(sums.sum(0))
  names = [*part.names, *((part.value, number) for number in range(len(sums) - len(part.names)))]
  return dict(zip(names, moved * ((len(sums) - 1) / len(sums)) ** 0.5))


def _test(metric: Metric, parts: tuple[Part, Part], pulls: tuple[Mapping[Any, float], Mapping[Any, float]],
          difference: float) -> tuple[float, float, float | None]:
  """(low, high, p) of a difference, by Welch's t; clusters that have examples of both values are paired.

  Args:
    metric: the score.
    parts: of the two values.
    pulls: of their examples or clusters.
    difference: of the scores.
  """
  one, other = pulls
  variance = sum((one.get(name, 0.0) - other.get(name, 0.0)) ** 2 for name in one.keys() | other.keys())
  if not variance > 0:
    return difference, difference, None      # from an error of 0 nothing is found
  own = [sum(x ** 2 for x in of_part.values()) for of_part in pulls]
  freedom = [len(part.sums) - 1 for part in parts]
  shared = {*parts[0].names} & {*parts[1].names}
  degrees = min(freedom) if shared else sum(own) ** 2 / sum(v ** 2 / f for v, f in zip(own, freedom))
  evened = [metric.score(_evened(metric, part).sum(0)) for part in parts]
  center, error = float(evened[0] - evened[1]), float(variance) ** 0.5
  half = error * float(stats.t.ppf(0.975, degrees))
  widest = metric.most - metric.least
  return (max(min(center - half, difference), -widest), min(max(center + half, difference), widest),
          float(2 * stats.t.sf(abs(center) / error, degrees)))


def _correct(pairs: Sequence[dict[str, Any]]) -> None:
  """Sets `p_adjusted` of the pairs that have a p, by Holm's correction over them."""
  tested = [pair for pair in pairs if pair['p'] is not None]
  if tested:
    for pair, p in zip(tested, multipletests([pair['p'] for pair in tested], method='holm')[1]):
      pair['p_adjusted'] = float(p)


VALUE, WIDTH = 34, 20      # characters of a value in the table, and in the line on a pair


def spoken(found: dict[str, dict[str, Any]], split: str) -> list[str]:
  """The same for people, in lines of no more than 80 characters.

  Args:
    found: of `of`.
    split: of the rows.
  """
  lines = []
  of_metric: dict[str, int] = {}
  for told in found.values():
    for name, one in told.items():
      of_metric[name] = of_metric.get(name, 0) + sum(pair['p'] is not None for pair in one['pairs'])
  for column, told in found.items():
    for name, one in told.items():
      lines.append(shortened(f'{split}/{name} by {column}', 69))
      what = 'clusters' if 'clusters' in one['values'][0] else 'examples'
      for x in one['values']:
        shown = 'not told by its rows' if x['score'] is None else \
            f'{_number(x["score"]):>9} [{_number(x["low"])}, {_number(x["high"])}] {x[what]:6}{"*" * x["small"]}'
        lines.append(f'  {shortened(x["value"], VALUE):{VALUE}} {shown}')
      if any(x['small'] and x['score'] is not None for x in one['values']):
        lines.append(f'  * small: fewer than {SMALL} {what}, so not compared with others')
      lines += _largest(one['largest'], of_metric[name])
  return lines


def _largest(pair: dict[str, Any] | None, tests: int) -> list[str]:
  if pair is None:
    return ['  no two values have enough examples to be compared']
  p = pair['p_adjusted']
  told = 'not tested: nothing varies' if p is None else \
      f'p {"< 0.001" if p < 0.001 else f"= {p:.3f}"}, Holm over {tests} pair{"s" * (tests != 1)}'
  return [f'  largest gap: {shortened(pair["value"], WIDTH)} less {shortened(pair["other"], WIDTH)}: '
          f'{_number(pair["difference"], "+")}', f'    [{_number(pair["low"], "+")}, {_number(pair["high"], "+")}], {told}']


def _number(x: float, sign: str = '') -> str:
  return f'{x:{sign}.4f}' if abs(x) < 1e4 else f'{x:{sign}.3e}'
