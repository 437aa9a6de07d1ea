"""Tasks as data: where the rows are, how a row becomes a prompt and a target, and what is measured."""

import string
from typing import Any, NamedTuple

import numpy as np

from research.data import sources
from research.data.sources import Row
from research.errors import InputError


class Task(NamedTuple):
  """What a model is asked to do, with its rows."""
  name: str
  splits: dict[str, list[Row]]          # train, valid, test; a person's own task may lack some
  prompt: str                           # template over a row's columns; not used where rows carry `messages`
  target: str                           # template of the answer, leading space included
  choices: tuple[str, ...] = ()         # what the answers can be (values of the target's column), or free text
  metrics: tuple[str, ...] = ()         # names in `evaluation.metrics`
  separator: str = '\n\n'               # between demonstrations
  max_new_tokens: int = 64              # the longest answer that is generated, unless a target is longer
  stop: tuple[str, ...] = ()            # what ends a generated answer, where it stands in its text
  chat: bool = False                    # the prompt is put to the model through its chat template
  objective: str = 'answer'             # what is learned: the answer; of plain text one of OBJECTIVES
  noise: float = 0.15                   # GAPS: the share of tokens that go into gaps
  span: float = 3.0                     # GAPS: tokens in a gap, on average

  def rows(self, split: str) -> list[Row]:
    if split not in self.splits:
      raise InputError(f'task {self.name} has no {split} split (it has {", ".join(self.splits)}); set task.{split}')
    return self.splits[split]


# Built-in tasks; `data` names a folder of `samples/`.
BUILT_IN: dict[str, dict[str, Any]] = {
    'sentiment': dict(data='sentiment_sentences', prompt='Review: {text}\nSentiment:', target=' {label}',
                      choices=('negative', 'positive'), metrics=('accuracy', 'macro_f1')),
    'domain': dict(data='sentiment_sentences', prompt='Review: {text}\nWebsite:', target=' {domain}',
                   choices=('amazon', 'imdb', 'yelp'), metrics=('accuracy', 'macro_f1')),
    'translation': dict(data='hass_ende', prompt='English: {source}\nGerman:', target=' {target}',
                        metrics=('bleu', 'chrf', 'exact_match'), max_new_tokens=96),
    'summary': dict(data='docstring_summary', prompt='Documentation: {document}\nSummary:', target=' {summary}',
                    metrics=('rouge1', 'rouge2', 'rougeL'), max_new_tokens=64),
}
OWN = ('files', 'datasets')
TEXT = 'text'
GAPS = ('span_corruption', 'denoising')       # the target: what stood in a text's gaps, or the whole text
OBJECTIVES = ('continuation', *GAPS)          # of plain text


def make(name: str, fields: dict[str, Any]) -> Task:
  """The task `name`; fields that are None keep the task's own values.

  Args:
    name: a key of `BUILT_IN`, one of `OWN`, or `TEXT`.
    fields: `prompt`, `target`, `choices`, `metrics`, `separator`, `stop`, `max_new_tokens`, `chat`; `train`, `valid` and
      `test` (files, or split names of a data set); `path` and `subset` for the datasets library.
  Raises:
    InputError: no such task, or something about its files, columns or labels is wrong.
  """
  given = {field: value for field, value in fields.items() if value is not None}
  where = {split: given.pop(split, None) for split in sources.SPLITS}
  path, subset = given.pop('path', None), given.pop('subset', None)
  for field in ('prompt', 'target', 'separator'):      # a shell's quotes leave a line break as two characters
    if field in given:
      given[field] = given[field].replace('\\n', '\n')
  if 'stop' in given:
    several = (given['stop'],) if isinstance(given['stop'], str) else given['stop']
    given['stop'] = tuple(str(one).replace('\\n', '\n') for one in several)
  if 'choices' in given:
    given['choices'] = tuple(str(c) for c in given['choices'])
  if name in BUILT_IN:
    if path or any(where.values()):
      raise InputError(f'task {name} brings its own rows; for your own use task.name=files or task.name=datasets')
    built_in = dict(BUILT_IN[name])
    splits = sources.sample(built_in.pop('data'))
  elif name in OWN:
    if 'target' not in given:
      raise InputError(f'task.name={name} needs task.target, a template over the columns such as \' {{label}}\'')
    built_in = {'prompt': '', 'metrics': ('accuracy', 'macro_f1') if given.get('choices') else ('exact_match',)}
    if name == 'files':
      if not any(where.values()):
        raise InputError('task.name=files needs task.train, task.valid or task.test, each a JSON-lines file')
      splits = sources.files(**where)
    else:
      if not path:
        raise InputError('task.name=datasets needs task.path, a save_to_disk folder or a hub path')
      theirs = {'train': 'train', 'valid': 'validation', 'test': 'test'}
      splits = sources.huggingface(path, subset, {s: where[s] or theirs[s] for s in sources.SPLITS},
                                   {s for s in sources.SPLITS if where[s]})
  elif name == TEXT:
    if path:
      raise InputError('task.path is of task.name=datasets; task text takes task.train, task.valid and task.test')
    built_in = {'prompt': '', 'target': '{text}', 'objective': None}      # None: as the model is made for
    splits = sources.texts(**where) if any(where.values()) else sources.sample_texts(subset)
  else:
    raise InputError(f'task.name={name!r}: no such task (known: {", ".join((*BUILT_IN, *OWN, TEXT))})')
  task = Task(name, splits, **{**built_in, **given})
  _check_text(task) if name == TEXT else _check(task)
  return task if 'stop' in given else task._replace(stop=_usual_stop(task))


def _usual_stop(task: Task) -> tuple[str, ...]:
  """The separator: after demonstrations a model goes on with the next one. In a chat a turn ends by itself."""
  if task.chat or task.choices or task.name == TEXT or not task.separator:
    return ()
  rows = [row for split in task.splits.values() for row in split]
  in_targets = any('messages' in row or task.separator in task.target.format(**row) for row in rows)
  return () if in_targets else (task.separator,)


def drawn(task: Task, count: int, seed: int) -> Task:
  """The task with `count` of its training rows, drawn by `seed`, in their order; a larger count holds a smaller one's rows.

  Args:
    task: has a training split.
    count: of the rows to keep, 1 or more.
    seed: of the draw.
  Raises:
    InputError: there are not so many.
  """
  rows = task.rows('train')
  if not 0 < count <= len(rows):
    raise InputError(f'task.rows={count}: must be 0 (all) or up to {len(rows)}, which task {task.name} has to train on')
  chosen = sorted(np.random.default_rng(seed).permutation(len(rows))[:count])
  return task._replace(splits={**task.splits, 'train': [rows[i] for i in chosen]})


def _check_text(task: Task) -> None:
  if task.objective not in (None, *OBJECTIVES):
    raise InputError(f'task.objective={task.objective!r}: must be one of {", ".join(OBJECTIVES)}')
  if not 0 < task.noise < 1:
    raise InputError(f'task.noise={task.noise}: must be above 0 and below 1')
  if task.span < 1:
    raise InputError(f'task.span={task.span}: must be 1 or more')
  if task.prompt or task.target != '{text}' or task.choices or task.metrics or task.chat:
    raise InputError('task text has no prompt, target, choices, metrics or chat: only its loss is measured')
  for split, rows in task.splits.items():
    for number, row in enumerate(rows, 1):
      if not isinstance(row.get('text'), str) or not row['text'].strip():
        raise InputError(f'task text, {split} row {number}: has no column `text` with text in it')


def fields_of(template: str) -> list[str]:
  """The columns that a template names.

  Raises:
    InputError: its braces are not those of a template.
  """
  try:
    return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
  except ValueError as e:
    raise InputError(f'template {template!r}: {e}; write {{{{ and }}}} for braces') from None


def label_column(task: Task) -> str:
  """The one column that the target of a task with choices is made of.

  Raises:
    InputError: the target names no column, or several.
  """
  columns = fields_of(task.target)
  if len(columns) != 1:
    raise InputError(f'task.target={task.target!r}: with task.choices it names exactly one column, the label')
  return columns[0]


def _check(task: Task) -> None:
  if task.objective != 'answer':
    raise InputError(f'task.objective={task.objective!r} is of task.name=text alone')
  label = label_column(task) if task.choices else None
  if any(not stop for stop in task.stop):
    raise InputError(f'task.stop={task.stop}: each must be a text of one character or more')
  if task.max_new_tokens < 1:
    raise InputError(f'task.max_new_tokens={task.max_new_tokens}: must be 1 or more')
  if len(set(task.choices)) != len(task.choices) or len(task.choices) == 1:
    raise InputError(f'task.choices={task.choices}: two or more, each once, such as "(\'negative\',\'positive\')"')
  for split, rows in task.splits.items():
    for number, row in enumerate(rows, 1):
      columns = [*([] if 'messages' in row else fields_of(task.prompt)), *fields_of(task.target)]
      if 'messages' not in row and not task.prompt:
        raise InputError('task.prompt is empty: give a template over the columns such as \'Review: {text}\\nSentiment:\'')
      for column in columns:
        if column not in row:
          raise InputError(f'task {task.name}, {split} row {number}: no column {column!r}, which the template names '
                           f'(columns: {", ".join(row)})')
      if label and str(row[label]) not in task.choices:
        raise InputError(f'task {task.name}, {split} row {number}: label {row[label]!r} is not among the choices '
                         f'({", ".join(task.choices)})')
      if 'messages' in row and not _is_conversation(row['messages']):
        raise InputError(f'task {task.name}, {split} row {number}: messages is not a list of objects with the texts '
                         '`role` and `content`')
      try:
        target = task.target.format(**row)
        if 'messages' not in row:
          task.prompt.format(**row)
      except (ValueError, TypeError, LookupError, AttributeError) as e:
        raise InputError(f'task {task.name}, {split} row {number}: a template cannot be filled in ({e})') from None
      if not target.strip():
        raise InputError(f'task {task.name}, {split} row {number}: the target is empty')


def _is_conversation(messages: Any) -> bool:
  return isinstance(messages, list) and bool(messages) and all(
      isinstance(turn, dict) and isinstance(turn.get('role'), str) and isinstance(turn.get('content'), str)
      for turn in messages)
