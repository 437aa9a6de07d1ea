"""Fewer rows, drawn by a seed."""

import numpy as np

from research.data.tasks import Task
from research.errors import InputError


def subsample(task: Task, count: int, seed: int, split: str = 'train') -> Task:
  """The task with `count` of a split's rows, drawn by `seed`, in their order; a larger count holds a smaller one's rows.

  Args:
    task: has the split.
    count: of the rows to keep, 1 or more.
    seed: of the draw.
    split: train, valid or test.
  Raises:
    InputError: there are not so many.
  """
  rows = task.rows(split)
  if not 0 < count <= len(rows):
    raise InputError(f'task.rows={count}: must be 0 (all) or up to {len(rows)}, the {split} rows of task {task.name}')
  chosen = sorted(np.random.default_rng(seed).permutation(len(rows))[:count])
  return task._replace(splits={**task.splits, split: [rows[i] for i in chosen]})
