"""What is refused before arms are compared: other examples, or examples that are not those of a run's result."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from research import json_text, run_files
from research.errors import InputError
from research.evaluation import templates
from research.evaluation.metrics import Metric, Scored


def check_examples(sums: dict[str, dict[int, np.ndarray]], task: str) -> None:
  """Refuses arms that were tested on different numbers of examples: nothing could be paired.

  Args:
    sums: arm -> seed -> the metric's sums per example, of shape [n, k].
    task: for the error.
  Raises:
    InputError: their numbers differ.
  """
  counts = {arm: {len(x) for x in found.values()} for arm, found in sums.items()}
  if len(set.union(*counts.values())) > 1:
    told = ', '.join(f'{arm} {" or ".join(map(str, sorted(count)))}' for arm, count in counts.items())
    raise InputError(f'task {task}: the arms were tested on different numbers of examples ({told}), as texts are cut where an '
                     'arm leaves less room for them; give all arms one model.context that leaves them the same')


def check_templates(lines: dict[str, dict[int, list[dict[str, Any]]]], task: str) -> int:
  """Under how many templates of the prompt all arms were tested.

  Args:
    lines: arm -> seed -> its predictions.
    task: for the error.
  Raises:
    InputError: under different numbers of them.
  """
  counts = {arm: {templates.count(one) for one in of_seeds.values()} for arm, of_seeds in lines.items()}
  if len(found := set.union(*counts.values())) > 1:
    told = ', '.join(f'{arm} {" or ".join(map(str, sorted(count)))}' for arm, count in counts.items())
    raise InputError(f'task {task}: the arms were tested under different numbers of templates ({told}), so nothing can be '
                     'paired; give all arms the same task.prompts')
  return found.pop()


SAME = 1e-4      # a score that is measured again differs by no more from what result.json says, of which digits were dropped


def check_score(metric: Metric, sums: np.ndarray, row: dict[str, Any], report: str, workdir: Path) -> None:
  """Refuses single examples that are not those of a run's result.

  Args:
    metric: of the report.
    sums: per example, of shape [n, k].
    row: of results.jsonl.
    report: the name of the score.
    workdir: the study's, for the error.
  Raises:
    InputError: they come to another score.
  """
  json_text.expect(row['result'], run_files.RESULT_FIELDS, f'{workdir}: the result of {row["key"]}')
  again, told = float(metric.score(sums.sum(0))), row['result']['metrics'].get(report)
  if told is None or not math.isclose(again, told, rel_tol=SAME, abs_tol=SAME):
    raise InputError(f'{workdir}: the {len(sums)} examples of {row["key"]} come to {report} {again:.6g}, but its result says '
                     f'{told}: one of them is damaged; evaluate the run again')


def check_targets(scored: dict[str, dict[int, list[Scored]]], task: str) -> None:
  """Refuses arms that were tested on other examples with the same seed: nothing could be paired.

  Raises:
    InputError: names the first example whose targets differ.
  """
  of_seed: dict[int, tuple[str, list[Scored]]] = {}
  for arm, by_seed in scored.items():
    for seed, mine in by_seed.items():
      other, theirs = of_seed.setdefault(seed, (arm, mine))
      different = [n for n, (a, b) in enumerate(zip(mine, theirs)) if a.target != b.target]
      if different and len(mine) == len(theirs):
        raise InputError(f'task {task}: {arm} and {other} were tested on different examples (the targets of row {different[0]} '
                         f'differ), so nothing can be paired')
