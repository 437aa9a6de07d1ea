"""What training watches beside its own task (`task.retain`): what the run can still do of another, on that one's validation."""

from pathlib import Path
from typing import Any

from research.data import sources, tasks, texts
from research.data.built_in import BUILT_IN
from research.data.tasks import Task
from research.errors import InputError

SPLIT = 'valid'


def task_of(said: str, has_encoder: bool) -> Task:
  """The task that `task.retain` names.

  Args:
    said: a built-in task; `text`, or `text:NAME` of one of the shipped data sets; a folder that `prepare` made; or a text file.
    has_encoder: whether the model has one, so that plain text has gaps.
  Raises:
    InputError: it is none of these, or has no validation rows.
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
    raise InputError(f'task.retain={said}: must be a built-in task ({", ".join(BUILT_IN)}), text or text:NAME of one of the '
                     f'shipped data sets ({", ".join(sources.TEXTS)}), a folder that research.prepare made, or a file of text')
  if SPLIT not in task.splits:
    raise InputError(f'task.retain={said}: has no {SPLIT} split, which is what training watches')
  return texts.with_objective(task, has_encoder)
