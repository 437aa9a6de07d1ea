"""Which training rows a prompt shows, answered, before it asks."""

from collections.abc import Callable, Sequence

import numpy as np

from research.data.sources import Row
from research.data.tasks import Task, fields_of, label_column
from research.errors import InputError

Shown = Callable[[Row], Sequence[Row]]      # a row -> its demonstrations, the last one next to the question


def _random(task: Task, rows: list[Row], shots: int, order: np.ndarray) -> Shown:
  shown = [rows[i] for i in order[:shots]]
  return lambda row: shown


def _balanced(task: Task, rows: list[Row], shots: int, order: np.ndarray) -> Shown:
  """As many of each choice as of any other, give or take one, in turn.

  Raises:
    InputError: the task has no choices, or too few rows of one.
  """
  if not task.choices:
    raise InputError('strategy.selection=balanced: needs a task with choices')
  column = label_column(task)
  queues = {choice: [i for i in order if str(rows[i][column]) == choice] for choice in task.choices}
  shown: list[Row] = []
  while len(shown) < shots:
    for choice, queue in queues.items():
      if len(shown) < shots:
        if not queue:
          raise InputError(f'strategy.shots={shots}: the training split has too few rows of {choice!r} to balance them')
        shown.append(rows[queue.pop(0)])
  return lambda row: shown


def _nearest(task: Task, rows: list[Row], shots: int, order: np.ndarray) -> Shown:
  """Those whose prompts are most like the row's own by TF-IDF and cosine, the most similar last; never the row itself.

  Raises:
    InputError: no row has a word.
  """
  from sklearn.feature_extraction.text import TfidfVectorizer

  def text(row: Row) -> str:
    said = [turn['content'] for turn in row.get('messages', ())]
    return ' '.join([*said, *(str(row[column]) for column in fields_of(task.prompt) if column in row)])

  rows = [rows[i] for i in order]                     # ties fall as the seed has it
  vectorizer = TfidfVectorizer(sublinear_tf=True)
  try:
    known = vectorizer.fit_transform(map(text, rows))
  except ValueError:
    raise InputError('strategy.selection=nearest: the training rows have no words to compare') from None

  def shown(row: Row) -> list[Row]:
    likeness = (known @ vectorizer.transform([text(row)]).T).toarray()[:, 0]
    found = [i for i in np.argsort(-likeness, kind='stable') if rows[i] is not row][:shots]
    return [rows[i] for i in reversed(found)]
  return shown


SELECTIONS = {'random': _random, 'balanced': _balanced, 'nearest': _nearest}


def choose(task: Task, shots: int, selection: str, seed: int) -> Shown:
  """The demonstrations of every row.

  Args:
    task: demonstrations are rows of its training split.
    shots: how many; with one seed more extend fewer, but for `nearest`.
    selection: a key of `SELECTIONS`: the same for all rows, at random or balanced by choice, or each row's nearest.
    seed: of the order in which they are drawn; for `nearest` it decides between rows that are equally near.
  Raises:
    InputError: more shots than training rows, or rows that the selection cannot choose among.
  """
  if not shots:
    return lambda row: ()
  rows = task.rows('train')
  if shots > len(rows) - (selection == 'nearest'):
    raise InputError(f'strategy.shots={shots}: the training split has only {len(rows)} rows')
  order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(rows))
  return SELECTIONS[selection](task, rows, shots, order)
