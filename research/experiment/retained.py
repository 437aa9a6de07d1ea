"""A run on another task than its own: what it can still do of what the base could, at its end or while it trains."""

from collections.abc import Mapping
from typing import Any

from research.data import few_rows, tasks, texts
from research.data.tasks import Task
from research.experiment.assemble import Experiment


def on_task(exp: Experiment, fields: Mapping[str, Any], reserve: int = 0) -> Experiment:
  """The experiment as it is, to be measured on another task, without demonstrations.

  Args:
    exp: of a run.
    fields: of the other task, as `config.task` has them; `rows` are of its test split, the same draw for every run.
    reserve: tokens of the context that other runs need for prefixes and soft prompts: texts are cut alike for all of them.

  What cannot be right about the task is an `InputError`.
  """
  task = tasks.make(fields['name'], {k: v for k, v in fields.items() if k not in tasks.OF_A_RUN})
  if fields.get('rows'):
    task = few_rows.subsample(task, fields['rows'], seed=0, split='test')
  return _on(exp, texts.with_objective(task, exp.model.config.has_encoder), reserve)


def watching(exp: Experiment) -> Experiment | None:
  """The experiment on the task that its training watches; None where it watches none."""
  return exp.watched and _on(exp, exp.watched, exp.strategy.prefix_slots + exp.strategy.slots)


def _on(exp: Experiment, task: Task, reserve: int) -> Experiment:
  context = exp.context - reserve + exp.strategy.prefix_slots + exp.strategy.slots if task.name == tasks.TEXT else exp.context
  return exp._replace(task=task, demonstrations=lambda row: (), context=context)
