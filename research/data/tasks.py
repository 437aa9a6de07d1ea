"""Tasks as data: where the rows are, how a row becomes a prompt and a target, and what is measured."""

from pathlib import Path
from typing import Any, NamedTuple

from research.data import chats, choices, paraphrases, probes, sources
from research.data.built_in import BUILT_IN
from research.data.rows import Row
from research.data.templates import fields_of, fill, fill_each, not_text
from research.errors import InputError

TURNS = ('last', 'all')
BITS_PER_BYTE = 'bits_per_byte'
OF_LOSS = ('perplexity', BITS_PER_BYTE)       # metrics for which nothing is generated


class Task(NamedTuple):
  """What a model is asked to do, with its rows."""
  name: str
  splits: dict[str, list[Row]]          # train, valid, test; a person's own task may lack some
  prompt: str                           # template over a row's columns; not used where rows carry `messages`
  target: str                           # template of the answer, leading space included
  choices: tuple[str, ...] = ()         # what the answers can be: texts, or columns ('{options}'); else free text
  metrics: tuple[str, ...] = ()         # names in `evaluation.metrics`
  separator: str = '\n\n'               # between demonstrations
  max_new_tokens: int = 64              # the longest answer that is generated, unless a target is longer
  stop: tuple[str, ...] = ()            # what ends a generated answer, where it stands in its text
  chat: bool = False                    # the prompt is put to the model through its chat template
  objective: str = 'answer'             # what is learned: the answer; of plain text one of OBJECTIVES
  noise: float = 0.15                   # GAPS: the share of tokens that go into gaps
  span: float = 3.0                     # GAPS: tokens in a gap, on average
  rejected: str = ''                    # of preference pairs: template of the answer that is worse than the target
  leaked: dict[str, frozenset[int]] | None = None      # valid, test -> numbers of the rows that training holds, where known
  turns: str = TURNS[0]                 # of the assistant's in `messages`, that training has a loss on
  decoding: tuple[tuple[str, float], ...] = ()      # of free text: fields of `evaluation.decoding`, and values
  cluster: str = ''                     # column of what examples belong to; '': each stands for itself
  scoring: str = 'sum'                  # what choices are ranked by: one of `choices.SCORINGS`
  prompts: tuple[str, ...] = ()         # several templates, each of which asks every row; `prompt` is the first
  numbered: int | None = None           # answers are numbers or letters of choices, counted from this; None: texts

  @property
  def writes(self) -> bool:
    """Whether answers are generated: they are free, and some metric asks for them."""
    return not self.choices and not {*self.metrics} <= {*OF_LOSS}

  def rows(self, split: str) -> list[Row]:
    if split not in self.splits:
      raise InputError(f'task {self.name} has no {split} split (it has {", ".join(self.splits)}); set task.{split}')
    return self.splits[split]

  @property
  def own_choices(self) -> bool:
    """Whether each row has choices of its own."""
    return choices.are_own(self.choices)

  def leaked_rows(self, split: str) -> frozenset[int]:
    """Numbers of a split's rows that training holds, as far as is known."""
    return (self.leaked or {}).get(split, frozenset())


OF_A_RUN = ('name', 'label', 'rows', 'retain')      # fields of config.task that `make` is not given
OWN = ('files', 'datasets')
PAIR = ('chosen', 'rejected')                 # the choices of a task of preference pairs, the target first
TEXT = 'text'
GAPS = ('span_corruption', 'denoising')       # the target: what stood in a text's gaps, or the whole text
OBJECTIVES = ('continuation', *GAPS)          # of plain text


def make(name: str, fields: dict[str, Any]) -> Task:
  """The task `name`; fields that are None keep the task's own values.

  Args:
    name: a key of `BUILT_IN`, one of `OWN`, or `TEXT`.
    fields: `prompt`, `prompts`, `target`, `rejected`, `choices`, `scoring`, `metrics`, `separator`, `stop`, `max_new_tokens`,
      `chat`, `turns`, `cluster`, `decoding`; `train`, `valid` and `test` (files, or split names of a data set); `path` and
      `subset` for the datasets library.
  Raises:
    InputError: no such task, or something about its files, columns or labels is wrong.
  """
  given = paraphrases.settled({field: value for field, value in fields.items() if value is not None})
  where = {split: given.pop(split, None) for split in sources.SPLITS}
  path, subset = given.pop('path', None), given.pop('subset', None)
  if 'stop' in given:
    given['stop'] = (given['stop'],) if isinstance(given['stop'], str) else tuple(map(str, given['stop']))
  if 'choices' in given:
    given['choices'] = tuple(map(str, [given['choices']] if isinstance(given['choices'], str) else given['choices']))
  if given.get('rejected'):
    if name not in OWN or given.get('choices', PAIR) not in ((), PAIR):
      raise InputError(f'task.rejected={given["rejected"]!r}: is of pairs of your own, which have no task.choices (task.name='
                       f'{" or ".join(OWN)})')
    given['choices'] = PAIR
  if name in BUILT_IN:
    if path or any(where.values()):
      raise InputError(f'task {name} brings its own rows; for your own use task.name=files or task.name=datasets')
    built_in = dict(BUILT_IN[name])
    splits = sources.sample(built_in.pop('data'))
  elif name in probes.PROBES:
    splits, built_in = probes.make(name, where, sources.SAMPLES, path)
  elif name in OWN:
    if name == 'files':
      if path:
        where, said = sources.prepared(Path(path).expanduser(), where)
        given = said | given
      if not any(where.values()):
        raise InputError('task.name=files needs task.train, task.valid or task.test, each a file of rows, or task.path, a '
                         'folder that research.prepare made')
      splits = sources.files(**where)
      sources.check_leaked(Path(path or '').expanduser(), given.get('leaked', {}), splits)
    else:
      if not path:
        raise InputError('task.name=datasets needs task.path, a save_to_disk folder or a hub path')
      theirs = {'train': 'train', 'valid': 'validation', 'test': 'test'}
      splits = sources.huggingface(path, subset, {s: where[s] or theirs[s] for s in sources.SPLITS},
                                   {s for s in sources.SPLITS if where[s]})
    splits = {split: chats.converted(rows, bool(given.get('prompt')), f'task {name}, {split}')
              for split, rows in splits.items()}
    built_in = {'prompt': '', 'target': '', 'metrics': ('accuracy',) if given.get('rejected') else
                ('accuracy',) if choices.are_own(given.get('choices', ())) else
                ('accuracy', 'macro_f1') if given.get('choices') else ('exact_match',)}
  elif name == TEXT:
    if path:
      raise InputError('task.path is of task.name=datasets; task text takes task.train, task.valid and task.test')
    built_in = {'prompt': '', 'target': '{text}', 'objective': None}      # None: as the model is made for
    splits = sources.texts(**where) if any(where.values()) else sources.sample_texts(subset)
  else:
    raise InputError(f'task.name={name!r}: no such task (known: {", ".join((*BUILT_IN, *probes.PROBES, *OWN, TEXT))})')
  task = Task(name, splits, **{**built_in, **given})
  if task.choices and not task.rejected:
    task = task._replace(numbered=choices.counted_from(task.choices, label_column(task), splits.values()))
  _check_text(task) if name == TEXT else _check(task)
  _check_turns(task)
  paraphrases.check(task.prompts, task.turns, [row for rows in task.splits.values() for row in rows])
  return task if 'stop' in given else task._replace(stop=_usual_stop(task))


def _usual_stop(task: Task) -> tuple[str, ...]:
  """The separator: after demonstrations a model goes on with the next one. In a chat a turn ends by itself."""
  if task.chat or task.choices or task.name == TEXT or not task.separator:
    return ()
  rows = [row for split in task.splits.values() for row in split]
  in_targets = any('messages' in row or any(task.separator in text for text in references_of(task, row)) for row in rows)
  return () if in_targets else (task.separator,)


def _check_text(task: Task) -> None:
  if task.objective not in (None, *OBJECTIVES):
    raise InputError(f'task.objective={task.objective!r}: must be one of {", ".join(OBJECTIVES)}')
  if not 0 < task.noise < 1:
    raise InputError(f'task.noise={task.noise}: must be above 0 and below 1')
  if task.span < 1:
    raise InputError(f'task.span={task.span}: must be 1 or more')
  if (task.prompt or task.target != '{text}' or task.choices or not {*task.metrics} <= {*OF_LOSS} or task.chat
      or task.scoring != 'sum'):
    raise InputError('task text has no prompt, target, choices, scoring or chat: only its loss is measured, as task.metrics '
                     f'also by {" and ".join(OF_LOSS)}')
  for split, rows in task.splits.items():
    for number, row in enumerate(rows, 1):
      if not isinstance(row.get('text'), str) or not row['text'].strip():
        raise InputError(f'task text, {split} row {number}: has no column `text` with text in it')
      if wrong := not_text(row['text']):
        raise InputError(f'task text, {split} row {number}: column `text` {wrong}')


def label_column(task: Task) -> str:
  """The one column that the target of a task with choices is made of.

  Raises:
    InputError: the target names no column, or several.
  """
  columns = fields_of(task.target)
  if len(columns) != 1:
    raise InputError(f'task.target={task.target!r}: with task.choices it names exactly one column, the label')
  return columns[0]


def choices_of(task: Task, row: Row) -> tuple[str, ...]:
  """What a row's answer is chosen among; one whose own choices are no such thing is refused (`InputError`)."""
  return choices.of_row(task.choices, row) if task.own_choices else task.choices


def label_of(task: Task, row: Row) -> str:
  """Which of its choices a row's target is; an answer that names none is refused (`InputError`)."""
  if task.rejected:
    return PAIR[0]
  value = row[label_column(task)]
  if task.numbered is None and not task.own_choices:
    return str(value)
  return choices.named(value, choices_of(task, row), task.numbered)


def _check(task: Task) -> None:
  if task.rejected and task.metrics not in ((), ('accuracy',)):
    raise InputError(f'task.metrics={task.metrics}: of pairs accuracy alone is measured: whether the chosen answer is likelier')
  if task.objective != 'answer':
    raise InputError(f'task.objective={task.objective!r} is of task.name=text alone')
  label = label_column(task) if task.choices and not task.rejected else None
  choices.check(task.choices, task.scoring, [m for m in task.metrics if m not in probes.metrics_of(task.name)])
  if any(not stop for stop in task.stop):
    raise InputError(f'task.stop={task.stop}: each must be a text of one character or more')
  if task.max_new_tokens < 1:
    raise InputError(f'task.max_new_tokens={task.max_new_tokens}: must be 1 or more')
  if len(set(task.choices)) != len(task.choices) or (len(task.choices) == 1 and not task.own_choices):
    raise InputError(f'task.choices={task.choices}: two or more, each once, such as "(\'negative\',\'positive\')"')
  if not all(map(str.strip, task.choices)):
    raise InputError(f'task.choices={task.choices}: one of them is empty, and so no answer')
  for split, rows in task.splits.items():
    for number, row in enumerate(rows, 1):
      if 'messages' not in row and not task.prompt:
        raise InputError('task.prompt is empty: give a template over the columns such as \'Review: {text}\\nSentiment:\'')
      try:
        _check_row(task, row, label)
      except InputError as e:
        raise InputError(f'task {task.name}, {split} row {number}: {e}') from None


def _check_row(task: Task, row: Row, label: str | None) -> None:
  """Refuses a row that cannot become a prompt and a target.

  Raises:
    InputError: says why, but not which row.
  """
  if task.cluster and (wrong := not_text(row.get(task.cluster))):
    raise InputError(f'task.cluster={task.cluster}: that column {wrong if task.cluster in row else "is missing"}')
  if 'messages' in row:
    chats.check(row['messages'])
    if answered(task, row) and len(row['messages']) == 1:
      raise InputError('messages holds the assistant\'s turn alone, and no turn that it answers')
  else:
    for prompt in task.prompts or (task.prompt,):
      fill(prompt, row)
  if label and label in row and label_of(task, row) not in choices_of(task, row):
    raise InputError(f'label {row[label]!r} is not among the choices ({", ".join(task.choices)})')
  if not task.target and not answered(task, row):
    turns = f'messages, turn {len(row["messages"])}: is the {row["messages"][-1]["role"]}\'s, and no turn answers it; ' \
        if 'messages' in row else ''
    raise InputError(turns + 'task.target is empty: give a template over the columns such as \' {label}\'')
  if not all(map(str.strip, references_of(task, row))):
    raise InputError(f'messages, turn {len(row["messages"])}: the assistant says nothing' if answered(task, row) else
                     'the target is empty')
  if task.rejected and fill(task.rejected, row).strip() in ('', target_of(task, row).strip()):
    raise InputError('the rejected answer is empty, or the same as the target')


def _check_turns(task: Task) -> None:
  """Refuses a loss on each turn where rows have no turns, or their answers are chosen among.

  Raises:
    InputError: says which field or turn cannot be.
  """
  if task.turns not in TURNS:
    raise InputError(f'task.turns={task.turns!r}: must be one of {", ".join(TURNS)}')
  if task.turns == 'last' or 'train' not in task.splits:
    return
  if task.choices:
    raise InputError('task.turns=all: is of chats; a row with task.choices or task.rejected has one answer to learn')
  if not task.chat and not any('messages' in row for row in task.rows('train')):
    raise InputError(f'task.turns=all: is of chats; no training row of task {task.name} has `messages`')
  for number, row in enumerate(task.rows('train'), 1):
    for at, turn in enumerate(row.get('messages', ()), 1):
      if turn['role'] == 'assistant' and not turn['content'].strip():
        raise InputError(f'task {task.name}, train row {number}: messages, turn {at}: the assistant says nothing, which '
                         'task.turns=all would teach; leave the row out, or take task.turns=last')


def answered(task: Task, row: Row) -> bool:
  """Whether a row's own last turn is its target: that of the assistant, where nothing is chosen among."""
  return 'messages' in row and not task.choices and row['messages'][-1]['role'] == 'assistant'


def target_of(task: Task, row: Row, choice: str | None = None) -> str:
  """A row's target: its template filled in, or the assistant's turn that its messages end with.

  A row whose columns cannot be filled in is refused (`InputError`).

  Args:
    task: says how.
    row: whose it is.
    choice: the target where this is the answer; None: the row's own.
  """
  return references_of(task, row, choice)[0]


def references_of(task: Task, row: Row, choice: str | None = None) -> tuple[str, ...]:
  """All right answers to a row, the target first: several where a column of a free answer is a list. Refuses as `target_of`.

  Args:
    task: as for `target_of`, as are the others.
    row: whose they are.
    choice: the only one, where this is the answer.
  """
  if answered(task, row):
    return (row['messages'][-1]['content'],)
  if not task.choices:
    return fill_each(task.target, row)
  if not task.rejected:
    column = label_column(task)
    if choice is not None or (column in row and not not_text(row[column])):
      row = {**row, column: label_of(task, row) if choice is None else choice}
  return (fill(task.target, row),)
