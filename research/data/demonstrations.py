"""Which training rows a prompt shows, answered, before it asks."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from research.data.rows import Row
from research.data.tasks import Task, label_of
from research.data.templates import fields_of, fill
from research.errors import InputError

DemonstrationFn = Callable[[Row], Sequence[Row]]      # a row -> its demonstrations, the last one next to the question


def _asked(task: Task, row: Row) -> str:
  """What a row asks, by which it is known again wherever it stands."""
  return repr(row['messages']) if 'messages' in row else fill(task.prompt, row)


def _others(task: Task, row: Row, known: Sequence[tuple[Row, str]], wanted: int) -> list[Row]:
  """The first rows, so many, that do not ask what a row asks.

  Args:
    task: says what a row asks.
    row: the one that is not to be shown.
    known: rows, and what they ask.
    wanted: how many.
  Raises:
    InputError: there are too few.
  """
  own = _asked(task, row)
  found = list(itertools.islice((other for other, said in known if said != own), wanted))
  if len(found) < wanted:
    raise InputError(f'strategy.shots: only {len(found)} training rows of {wanted} can be shown before {own!r:.60}, which is '
                     'one of them; give fewer shots')
  return found


def _random(task: Task, rows: list[Row], shots: int, rng: np.random.Generator) -> DemonstrationFn:
  known = [(rows[i], _asked(task, rows[i])) for i in rng.permutation(len(rows))]
  return lambda row: _others(task, row, known, shots)


def _balanced(task: Task, rows: list[Row], shots: int, rng: np.random.Generator) -> DemonstrationFn:
  """As many of each choice as of any other, give or take one; in each round of them in an order of its own.

  Raises:
    InputError: the task has no choices that are the same for all rows, or too few rows of one.
  """
  if not task.choices or task.rejected or task.own_choices:
    raise InputError('strategy.selection=balanced: needs a task with choices'
                     + ' that are the same for all rows' * task.own_choices)
  of_choice: dict[str, list[tuple[Row, str]]] = {choice: [] for choice in task.choices}
  for i in rng.permutation(len(rows)):
    of_choice[label_of(task, rows[i])].append((rows[i], _asked(task, rows[i])))
  turns = [task.choices[i] for _ in range(-(-shots // len(task.choices))) for i in rng.permutation(len(task.choices))][:shots]
  for choice in task.choices:
    if len(of_choice[choice]) < turns.count(choice):
      raise InputError(f'strategy.shots={shots}: the training split has too few rows of {choice!r} to balance them')

  def shown(row: Row) -> list[Row]:
    queues = {choice: iter(_others(task, row, found, turns.count(choice))) for choice, found in of_choice.items()}
    return [next(queues[choice]) for choice in turns]
  return shown


def _nearest(task: Task, rows: list[Row], shots: int, rng: np.random.Generator) -> DemonstrationFn:
  """Those whose prompts are most like the row's own by TF-IDF and cosine, the most similar last.

  Raises:
    InputError: no row has a word.
  """
  from sklearn.feature_extraction.text import TfidfVectorizer

  def text(row: Row) -> str:
    said = [turn['content'] for turn in row.get('messages', ())]
    return ' '.join([*said, *(str(row[column]) for column in fields_of(task.prompt) if column in row)])

  rows = [rows[i] for i in rng.permutation(len(rows))]                     # ties fall as the seed has it
  asked = [_asked(task, row) for row in rows]
  vectorizer = TfidfVectorizer(sublinear_tf=True)
  try:
    known = vectorizer.fit_transform(map(text, rows))
  except ValueError:
    raise InputError('strategy.selection=nearest: the training rows have no words to compare') from None

  def shown(row: Row) -> list[Row]:
    likeness = (known @ vectorizer.transform([text(row)]).T).toarray()[:, 0]
    own = _asked(task, row)
    found = [i for i in np.argsort(-likeness, kind='stable') if asked[i] != own][:shots]
    return [rows[i] for i in reversed(found)]
  return shown


SELECTIONS = {'random': _random, 'balanced': _balanced, 'nearest': _nearest}


def choose(task: Task, shots: int, selection: str, seed: int) -> DemonstrationFn:
  """The demonstrations of every row: never itself, nor a row of any split that asks the same.

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
  return SELECTIONS[selection](task, rows, shots, np.random.Generator(np.random.Philox(key=[seed, 0])))
