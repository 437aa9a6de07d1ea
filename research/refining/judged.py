"""A challenger beside its incumbent, on the test rows that were there before and on the new ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research import run_files
from research.data import sources
from research.distributed import mesh, partition
from research.errors import InputError
from research.evaluation import harness, metrics, templates
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.refining.promotion import Compared, compared
from research.refining.rows import CONVERSATION
from research.runs.evaluate import evaluate_finished

SPLIT = 'test'
INCUMBENT = 'incumbent'      # in the challenger's predictions: the folder of what the incumbent says to the same rows
Lines = Sequence[dict[str, Any]]


def metric_of(exp: Experiment, given: str | None) -> str:
  """The metric that decides: the one that is asked for, or the task's first.

  Args:
    exp: of the run.
    given: of --metric; None: the task's first, or the loss where it has none.
  Raises:
    InputError: the task does not measure it.
  """
  known = (*exp.task.metrics, *(() if 'loss' in exp.task.metrics else ('loss',)))
  if given is not None and given not in known:
    raise InputError(f'--metric={given}: the task of the run measures {", ".join(known)}')
  return given or known[0]


def judge(challenger: Path, incumbent: Path, name: str, old: int, allow_changed: bool = False) -> tuple[Compared, Compared]:
  """The two on the old and on the new test rows, paired by example; both runs' predictions are kept with the challenger.

  Args:
    challenger: its run directory, whose test split begins with the old rows.
    incumbent: the other's.
    name: of the metric.
    old: how many old test rows there are.
    allow_changed: as for `evaluate_finished`.
  """
  evaluate_finished([challenger], SPLIT, allow_changed)
  theirs = sources.read_jsonl(challenger / run_files.PREDICTIONS / f'{SPLIT}.jsonl')
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    asked = restore.of_run(challenger, {SPLIT}, allow_changed)
    exp = restore.of_run(incumbent, (), allow_changed)
    found = harness.evaluate(exp.model, restore.learned(incumbent, exp), exp.tokenizer, asked.task, asked.examples(SPLIT),
                             asked.settings.training.eval_batch_size, label=f'refine: {INCUMBENT} on {SPLIT}')
    harness.check_finite(found, str(incumbent))
  (challenger / run_files.PREDICTIONS / INCUMBENT).mkdir(parents=True, exist_ok=True)
  run_files.write_jsonl(challenger / run_files.PREDICTIONS / INCUMBENT / f'{SPLIT}.jsonl', found.predictions)
  parts = (lambda line: line['id'] < old, lambda line: line['id'] >= old)
  before, after = (_compared(name, [line for line in theirs if part(line)], [line for line in found.predictions if part(line)])
                   for part in parts)
  return before, after


def _compared(name: str, challenger: Lines, incumbent: Lines) -> Compared:
  metric = templates.over(metrics.get(name), templates.count(challenger))
  rows = templates.rows(challenger)
  of = [line.get('cluster') or line['row'].get(CONVERSATION) for line in rows]
  clusters = [f'row {line["id"]}' if one is None else one for line, one in zip(rows, of)] if any(of) else ()
  if not rows:
    return NOTHING
  ours, theirs = (metric.sums(harness.scored_rows([*lines])) for lines in (challenger, incumbent))
  return compared(metric, ours, theirs, clusters)


NOTHING = Compared(0, 0, *[float('nan')] * 8)
