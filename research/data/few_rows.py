"""Fewer rows, drawn by a seed."""

from collections import Counter

import numpy as np

from research.data.tasks import Task
from research.errors import InputError


def subsample(task: Task, count: int, seed: int, split: str = 'train') -> Task:
  """The task with `count` of a split's rows, drawn by `seed`, in their order; a larger count holds a smaller one's rows.

  Rows that are scored stay together by cluster (`task.cluster`), so that there may be a few more of them.

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
  whole = bool(task.cluster) and split != 'train'
  of = [str(row[task.cluster]) if whole else str(number) for number, row in enumerate(rows)]
  sizes = Counter(of)
  names = [*sizes]
  drawn = [names[number] for number in np.random.default_rng(seed).permutation(len(sizes))]
  ends = np.cumsum([sizes[name] for name in drawn])
  kept = {*drawn[:1 + int(np.searchsorted(ends, count))]}
  chosen = [number for number, name in enumerate(of) if name in kept]
  held = task.leaked_rows(split)
  leaked = {**(task.leaked or {}), split: frozenset(new for new, number in enumerate(chosen) if number in held)} if held \
      else task.leaked
  return task._replace(splits={**task.splits, split: [rows[number] for number in chosen]}, leaked=leaked)
