"""What training watches beside its own task (`task.retain`): what the run can still do of another, on that one's validation."""

from pathlib import Path
from typing import Any

from research.data import sources, tasks, texts
from research.data.built_in import BUILT_IN
from research.data.tasks import Task
from research.errors import InputError

SPLIT = 'valid'


def task_of(said: str, learned: Task, has_encoder: bool) -> Task:
  """The task that `task.retain` names.

  Args:
    said: a built-in task; `text`, or `text:NAME` of one of the shipped data sets; a folder that `prepare` made; or a text file.
    learned: the task itself, at whose validations it is measured.
    has_encoder: whether the model has one, so that plain text has gaps.
  Raises:
    InputError: it is none of these, has no validation rows, or the task itself has none.
  """
  try:
    return texts.with_objective(_made(said, learned, has_encoder), has_encoder)
  except InputError as e:
    raise InputError(f'task.retain={said}: {e}') from None


def _made(said: str, learned: Task, has_encoder: bool) -> Task:
  """The same, before it has an objective.

  Raises:
    InputError: as for `task_of`, without the field's name.
  """
  name, _, subset = said.partition(':')
  path = Path(said).expanduser()
  of_text: dict[str, Any] = {} if has_encoder else {'metrics': (tasks.BITS_PER_BYTE,)}
  if said in BUILT_IN:
    task = tasks.make(said, {})
  elif name == tasks.TEXT:
    task = tasks.make(tasks.TEXT, {**of_text, 'subset': subset or None})
  elif (path / sources.TASK).is_file():
    task = tasks.make('files', {'path': said})
  elif path.is_file():
    task = tasks.make(tasks.TEXT, {**of_text, SPLIT: said})
  else:
    raise InputError(f'must be a built-in task ({", ".join(BUILT_IN)}), text or text:NAME of one of the '
                     f'shipped data sets ({", ".join(sources.TEXTS)}), a folder that research.prepare made, or a file of text')
  if SPLIT not in task.splits:
    raise InputError(f'has no {SPLIT} split, which is what training watches')
  if SPLIT not in learned.splits:
    raise InputError(f'is measured at each validation, and task {learned.name} has no {SPLIT} split; set task.{SPLIT}')
  return task
