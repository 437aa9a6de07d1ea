"""Two runs on the same tasks of lm-evaluation-harness, compared example by example."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from research import json_text, run_files
from research.console import say
from research.errors import InputError
from research.evaluation import lm_eval_scores
from research.runs.lm_evaluation import FOLDER, RESULTS, RESULTS_FIELDS
from research.studies import multiplicity, statistics

AGAINST = 'against.json'      # beside results.json


def check(other: Path) -> None:
  """Refuses a run directory before anything is computed.

  Raises:
    InputError: it holds no such results.
  """
  if not (other / FOLDER / RESULTS).exists():
    raise InputError(f'--against={other}: holds no {FOLDER}/{RESULTS}; run the same tasks with it first '
                     f'(--workdir={other} --lm_eval=TASKS)')


def compare(workdir: Path, other: Path, tasks: Iterable[str]) -> list[dict[str, Any]]:
  """The difference of two runs in each metric that is made of values per example: tested as a study tests two models.

  All p are one family (Holm). They are about these two models: of other seeds nothing is known.

  Args:
    workdir: a run directory with results of these tasks.
    other: another.
    tasks: their names.
  Returns:
    What is written to lm_eval/against.json, and told: of each metric the first's score minus the second's.
  Raises:
    InputError: the other has no such results, or they are of other examples.
  """
  found: list[dict[str, Any]] = []
  results = [run_files.read_json(at / FOLDER / RESULTS, RESULTS_FIELDS)['tasks'] for at in (workdir, other)]
  for task in tasks:
    if task not in results[1]:
      raise InputError(f'--against={other}: holds no results of {task} (it has {", ".join(results[1])}); run it there first')
    mine, theirs = (_examples(at, task) for at in (workdir, other))
    if [(e['id'], e['row']) for e in mine] != [(e['id'], e['row']) for e in theirs]:
      raise InputError(f'--against={other}: {task} was asked of other examples there ({len(theirs)}, here {len(mine)}), so '
                       'nothing can be paired; give both the same task file and --limit')
    for metric in results[0][task]['metrics']:
      scores = [of_run[task]['metrics'].get(metric) for of_run in results]
      if difference := _difference(metric, scores, mine, theirs):
        found.append({'task': task, 'metric': metric, 'examples': len(mine), 'score': scores[0], 'other': scores[1],
                      **difference})
      else:
        say(f'lm_eval: {task}/{metric}: is not compared: it is not made of values per example, or there are too few')
  for one, p in zip(found, multiplicity.adjust([one['p'] for one in found])):
    one['p_adjusted'] = p
    say(f'lm_eval: {one["task"]}/{one["metric"]}: {one["mean"]:+.4f} [{one["low"]:+.4f}, {one["high"]:+.4f}] against {other}, '
        f'p = {one["p"]:.3g}' + (f' ({p:.3g} among {len(found)})' if len(found) > 1 else ''))
  run_files.write_json(workdir / FOLDER / AGAINST, {'other': str(other), 'differences': found})
  return found


def _examples(workdir: Path, task: str) -> list[dict[str, Any]]:
  path = workdir / FOLDER / f'{task}.jsonl'
  try:
    found = [json_text.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
  except FileNotFoundError:
    raise InputError(f'{path}: no such file; run the task again') from None
  except ValueError as e:
    raise InputError(f'{path}: is damaged: not JSON ({e})') from None
  json_text.expect(found, [{'id': int, 'row': dict}], str(path))
  return found


def _difference(metric: str, scores: list[float | None], *runs: list[dict[str, Any]]) -> dict[str, Any] | None:
  """Of two runs' scores; None where these are not what the values per example come to."""
  values = [[e.get(metric) for e in run] for run in runs]
  sums = lm_eval_scores.as_sums(metric, [*values[0], *values[1]])
  if sums is None or len(runs[0]) < 2:
    return None
  score, vectors = sums
  parts = vectors[:len(runs[0])], vectors[len(runs[0]):]
  same = lambda part, said: math.isclose(float(score.score(part.sum(0))), math.nan if said is None else said,
                                         rel_tol=lm_eval_scores.SAME, abs_tol=lm_eval_scores.SAME)
  if not all(map(same, parts, scores)):
    return None
  estimate = statistics.gap(statistics.scores(score, {'one': [parts[0]], 'other': [parts[1]]}, ()), 'one', 'other')
  return {'mean': estimate.mean, 'low': estimate.low, 'high': estimate.high, 'p': estimate.p}
