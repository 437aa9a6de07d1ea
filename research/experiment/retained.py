"""A run on another task than its own: what it can still do of what the base could."""

from collections.abc import Mapping
from typing import Any

from research.data import tasks, texts
from research.experiment.assemble import Experiment


def on_task(exp: Experiment, fields: Mapping[str, Any], reserve: int = 0) -> Experiment:
  """The experiment as it is, to be measured on another task, without demonstrations.

  Args:
    exp: of a run.
    fields: of the other task, as `config.task` has them.
    reserve: tokens of the context that other runs need for prefixes and soft prompts: texts are cut alike for all of them.

  What cannot be right about the task is an `InputError`.
  """
  task = tasks.make(fields['name'], {k: v for k, v in fields.items() if k not in ('name', 'label', 'rows')})
  task = texts.with_objective(task, exp.model.config.has_encoder)
  context = exp.context - reserve + exp.strategy.prefix_slots + exp.strategy.slots if task.name == tasks.TEXT else exp.context
  return exp._replace(task=task, demonstrations=lambda row: (), context=context)
