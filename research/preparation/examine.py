"""One row by itself: made clean, put in order, measured, and why it goes. Many at a time, in processes of their own."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from research import json_text
from research.data import chats
from research.data.choices import are_own
from research.data.rows import Found, Row
from research.data.templates import fields_of, fill, not_text
from research.data.tokenizer import Tokenizer
from research.errors import InputError
from research.preparation import clean, splits, words
from research.preparation.labels import same
from research.preparation.settings import PrepareSettings
from research.preparation.words import Hashes

PARSE, EMPTY, LANGUAGE, SHORT, LONG, LABEL, COLUMN = 'parse', 'empty', 'language', 'short', 'long', 'label', 'column'
LANGUAGE_FROM = 20      # characters from which on a text's language can be told


class Place(NamedTuple):
  """What stands at one place of the input."""
  file: int         # its number
  at: int           # the place in all files together
  found: Found


def size(place: Place) -> int:
  """About how many characters it holds."""
  return _size(place.found.row)


def _size(value: Any) -> int:
  if isinstance(value, str):
    return len(value)
  inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  return 8 + sum(map(_size, inside))


class Given(NamedTuple):
  """What rows are looked at by."""
  settings: PrepareSettings
  tokenizer: Tokenizer | None = None      # of settings.row.model


class Examined(NamedTuple):
  """A row that may stay, or one that goes."""
  file: int
  at: int
  place: int
  line: bytes                          # in JSON: as cleaned, or what is left of one that goes
  reason: str = ''                     # why it goes
  detail: str = ''
  text: str = ''                       # what it is compared by
  label: str | None = None
  group: str | None = None
  time: float = 0.0                    # seconds
  split: int = splits.NONE             # that its own column says
  groups: tuple[str | None, ...] = ()      # of `settings.row.groups`
  tokens: int = 0


class Part(NamedTuple):
  """Of some rows."""
  rows: list[Examined]
  hashes: Hashes             # of those that may stay, in their order
  changes: Counter[str]      # what was done to rows -> to how many: a step of cleaning, or turns joined or cut


class _Goes(Exception):
  """Why a row goes: its reason and detail."""


def examine(given: Given, found: Sequence[Place]) -> Part:
  """What comes of some places of a file."""
  changes: Counter[str] = Counter()
  rows = [_one(given, one, changes) for one in found]
  if given.tokenizer is not None:
    rows = _measured(given, rows)
  return Part([row._replace(text='') for row in rows],
              words.hashes([row.text for row in rows if not row.reason]), changes)


def label_column(settings: PrepareSettings) -> str | None:
  """The column of the label: the one that is named, or that the target of a task is made of whose rows share their choices."""
  s = settings.row
  named = fields_of(s.target or '')
  return s.label or (named[0] if s.choices and not are_own(s.choices) and len(named) == 1 else None)


def _one(given: Given, place: Place, changes: Counter[str]) -> Examined:
  file, at, found = place
  bare = Examined(file, at, found.place, b'null')
  if found.row is None:
    return bare._replace(reason=PARSE, detail=found.wrong)
  row = found.row
  try:
    row = _in_order(given.settings, row, changes)
    return _told(given.settings, row, bare)
  except InputError as e:
    reason, detail = PARSE, str(e)
  except _Goes as e:
    reason, detail = e.args
  return bare._replace(line=_dumps(row), reason=reason, detail=detail)


def _dumps(row: Row) -> bytes:
  return json_text.dumps(row, default=str).encode()


def _in_order(settings: PrepareSettings, row: Row, changes: Counter[str]) -> Row:
  """The row with clean texts; a conversation as a chat template and a target need it."""
  s = settings.row
  if 'messages' in row or not s.prompt:
    row = chats.as_messages(row)
  row, cleaned = clean.clean(row, settings.clean)
  changes.update(cleaned)
  if 'messages' in row:
    chats.check(row['messages'])
    row = {**row, 'messages': _conversation(row['messages'], bool(s.target or label_column(settings)), changes)}
  return row


def _conversation(messages: list[dict[str, Any]], answered: bool, changes: Counter[str]) -> list[dict[str, Any]]:
  """Turns of which no two running are one role's, and of which the last is the assistant's, or answered by a column.

  Raises:
    InputError: the assistant says nothing in it, or nothing that it could answer stands before.
  """
  joined: list[dict[str, Any]] = []
  for turn in messages:
    if joined and joined[-1]['role'] == turn['role']:
      joined[-1] = {**joined[-1], 'content': f'{joined[-1]["content"]}\n\n{turn["content"]}'}
    else:
      joined.append(turn)
  changes['turns joined'] += len(joined) < len(messages)
  if answered:
    return joined
  said = [number for number, turn in enumerate(joined) if turn['role'] == 'assistant']
  if not said:
    raise InputError('the conversation has no assistant turn')
  if said[-1] == 0:
    raise InputError('the conversation has the assistant\'s turn alone, and none that it answers')
  changes['turns cut'] += said[-1] + 1 < len(joined)
  return joined[:said[-1] + 1]


def _told(settings: PrepareSettings, row: Row, bare: Examined) -> Examined:
  """What the columns of a cleaned row say.

  Raises:
    _Goes: they say too little, or something that no file holds.
  """
  s = settings.row
  if wrong := _no_unicode(row):
    raise _Goes(PARSE, wrong)
  label = _label(settings, row)
  text = text_of(settings, row)
  _check_text(settings, row, text)
  for column in filter(None, (s.group, s.time, settings.split.column)):
    if row.get(column) is None:
      raise _Goes(COLUMN, f'no {column}')
  try:
    time = splits.seconds(row[s.time]) if s.time else 0.0
    split = splits.named(row[settings.split.column]) if settings.split.column else splits.NONE
  except InputError as e:
    raise _Goes(COLUMN, str(e)) from None
  groups = tuple(None if row.get(column) is None else str(row[column]) for column in s.groups or ())
  return bare._replace(line=_dumps(row), text=text, label=label, group=str(row[s.group]) if s.group else None, time=time,
                       split=split, groups=groups)


def _label(settings: PrepareSettings, row: Row) -> str | None:
  column = label_column(settings)
  if column is None:
    return None
  value = row.get(column)
  if value is None or not str(value).strip():
    raise _Goes(LABEL, f'no {column}')
  if wrong := not_text(value):
    raise _Goes(LABEL, f'{column} {wrong}')
  choices = settings.row.choices
  known = not choices or are_own(choices) or str(value) in choices
  if not known and not (settings.labels.join and same(str(value)) in map(same, choices or ())):
    raise _Goes(LABEL, f'{column}={str(value)!r:.60} is not among the choices')
  return str(value)


def columns_of_text(settings: PrepareSettings, row: Row) -> list[str]:
  """The columns that say what a row is: all of text but those that say something about it."""
  s = settings.row
  about = {label_column(settings), s.group, s.time, settings.split.column, *(s.groups or ())}
  return [name for name, value in row.items() if isinstance(value, str) and name not in about]


def text_of(settings: PrepareSettings, row: Row) -> str:
  """What a row is compared by.

  Raises:
    _Goes: a column that its template names is empty.
  """
  s = settings.row
  prompt_alone = label_column(settings) or not s.target
  template = s.text or (s.prompt if prompt_alone or not s.prompt else f'{s.prompt}\n{s.target}')
  if s.text is None and 'messages' in row:
    return '\n'.join(turn['content'] for turn in row['messages'])
  if template is None:
    return '\n'.join(row[name] for name in columns_of_text(settings, row))
  if empty := [name for name in fields_of(template) if name in row and row[name] in (None, '')]:
    raise _Goes(EMPTY, f'{empty[0]} is empty')
  return fill(template, row)


def _check_text(settings: PrepareSettings, row: Row, text: str) -> None:
  """Holds a row's text, and what a run would make of it, against what is asked of them.

  Raises:
    _Goes: it is empty, in another language, or of another length.
  """
  s, bounds = settings.row, settings.characters
  if not text.strip():
    blank = any(isinstance(value, str) for value in row.values())
    raise _Goes(EMPTY, '' if blank or s.text or s.prompt else 'no column holds text')
  if 'messages' in row:
    if not row['messages'][-1]['content'].strip():
      raise _Goes(EMPTY, 'the last turn is empty')
  else:
    for template in filter(None, (s.prompt, s.target)):
      if not fill(template, row).strip():
        raise _Goes(EMPTY, f'{template!r:.60} is empty')
  if s.languages and len(text) >= LANGUAGE_FROM:
    import py3langid
    language = str(py3langid.classify(text)[0])
    if language not in s.languages:
      raise _Goes(LANGUAGE, language)
  if reason := _outside(len(text), bounds):
    raise _Goes(reason, f'{len(text):,} characters')


def _outside(count: int, bounds: tuple[int, int]) -> str:
  return SHORT if count < bounds[0] else LONG if bounds[1] and count > bounds[1] else ''


def _measured(given: Given, rows: list[Examined]) -> list[Examined]:
  """The rows with how many tokens each is for the model; one that is too long or short goes."""
  assert given.tokenizer is not None
  texts = {number: _for_model(given, json_text.loads(row.line.decode()), row.text)
           for number, row in enumerate(rows) if not row.reason}
  ids = given.tokenizer.encode_all(texts.values())
  found = []
  for number, row in enumerate(rows):
    count = len(ids[texts[number]]) if number in texts else 0
    reason = _outside(count, given.settings.tokens) if number in texts else row.reason
    detail = f'{count:,} tokens' if reason and not row.reason else row.detail
    found.append(row._replace(tokens=count, reason=reason, detail=detail))
  return found


def _for_model(given: Given, row: Row, text: str) -> str:
  """What the model would read of a row: its turns in the chat template, prompt and answer, or its text."""
  s, hf = given.settings.row, given.tokenizer.hf      # type: ignore[union-attr]  # see `_measured`
  if 'messages' in row and hf.chat_template:
    return str(hf.apply_chat_template(row['messages'], tokenize=False))
  return fill(s.prompt, row) + fill(s.target, row) if s.prompt and s.target and 'messages' not in row else text


def _no_unicode(value: Any) -> str:
  """What of a value no file in UTF-8 can hold."""
  if isinstance(value, str):
    return not_text(value)
  inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  return next(filter(None, map(_no_unicode, inside)), '')
