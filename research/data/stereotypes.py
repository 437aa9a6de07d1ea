"""Bias probes of stereotypes: which of several sentences or answers is the likelier one. CrowS-Pairs, StereoSet and BBQ."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from research import json_text
from research.console import say_once
from research.data import delimited, formats
from research.data.probe_rows import COLUMN, different, one_of, text_of, with_columns
from research.data.rows import Row
from research.errors import InputError


def crows_pairs(path: Path) -> list[Row]:
  """Pairs of sentences, the more stereotyping one first; the column of numbers has no name in the published file."""
  formats.check(path, '.csv')
  raw = path.read_bytes().removeprefix(b'\xef\xbb\xbf')
  opened = lambda: io.BytesIO(b'number' * raw.startswith(b',') + raw)
  rows = []
  columns = ('sent_more', 'sent_less', 'stereo_antistereo', 'bias_type')
  for where, row in with_columns(path, columns, delimited.read(path, opened, ',')):
    direction = one_of(where, row, 'stereo_antistereo', ('stereo', 'antistereo'))
    pair = different(where, [row['sent_more'], row['sent_less']])
    rows.append({**row, 'before': '', 'options': pair, 'answer': pair[0], COLUMN: [direction]})
  return rows


KINDS = ('intrasentence', 'intersentence')
LABELS = ('stereotype', 'anti-stereotype', 'unrelated')


def stereoset(path: Path) -> list[Row]:
  """Contexts with three sentences each, one of every label.

  Raises:
    InputError: it is not JSON, or an entry is of another form.
  """
  formats.check(path, '.json')
  text = text_of(path)
  try:
    json_text.loads(text)
  except ValueError as e:
    raise InputError(f'{path}: line {getattr(e, "lineno", 1)} is not JSON ({getattr(e, "msg", e)})') from None
  rows = [_instance(path, line, kind, one) for kind in KINDS for line, one in _entries(text, kind)]
  if not rows:
    raise InputError(f'{path}: holds no sentences of StereoSet: an object whose data has intrasentence and intersentence, '
                     'lists')
  return rows


def _entries(text: str, kind: str) -> Iterator[tuple[int, Any]]:
  """(line, entry) of each entry in one of the lists of a text that is JSON."""
  begins = re.search(rf'"{kind}"\s*:\s*\[', text)
  at, decoder = (begins.end() if begins else len(text)), json.JSONDecoder()
  while at < len(text):
    if text[at] == ']':
      return
    if text[at] in ', \t\r\n':
      at += 1
      continue
    line = text.count('\n', 0, at) + 1
    value, at = decoder.raw_decode(text, at)
    yield line, value


def _instance(path: Path, line: int, kind: str, entry: Any) -> Row:
  where = f'{path}: line {line}'
  if not isinstance(entry, dict):
    raise InputError(f'{where}: {entry!r:.60} is no entry of {kind}')
  for field in ('target', 'bias_type', 'context'):
    if not isinstance(entry.get(field), str) or not entry[field].strip():
      raise InputError(f'{where}: {field}={entry.get(field)!r:.60}: must be a text')
  listed = entry.get('sentences')
  sentences = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
  found = {one.get('gold_label'): one.get('sentence') for one in sentences}
  if found.keys() != {*LABELS} or len(sentences) != len(LABELS) or not all(
      isinstance(one, str) and one.strip() for one in found.values()):
    raise InputError(f'{where}: sentences must be three texts, of gold_label {", ".join(LABELS)}')
  follows = kind == 'intersentence'
  options = different(where, [' ' * follows + str(found[label]).strip() for label in LABELS])
  return {'id': str(entry.get('id', '')), 'kind': kind, 'target': entry['target'], 'bias_type': entry['bias_type'],
          'context': entry['context'], 'before': entry['context'].strip() if follows else '', 'options': options,
          'answer': options[0], COLUMN: [kind, entry['target']]}


CONDITIONS, POLARITIES = ('ambig', 'disambig'), ('neg', 'nonneg')
ANSWERS = ('ans0', 'ans1', 'ans2')


def bbq(path: Path) -> list[Row]:
  """Questions of three answers, each of which is `biased`, `other` or `unknown`; `open`: none can be told to be biased.

  Raises:
    InputError: a line is of another form.
  """
  rows, told = [], 0
  columns = ('context', 'question', 'category', 'question_index', 'question_polarity', 'context_condition', 'label', *ANSWERS)
  for where, row in with_columns(path, columns):
    condition = one_of(where, row, 'context_condition', CONDITIONS)
    negative = one_of(where, row, 'question_polarity', POLARITIES) == 'neg'
    right = ANSWERS[int(one_of(where, row, 'label', ('0', '1', '2')))]
    options = different(where, [str(row[one]).strip() for one in ANSWERS])
    info, more = row.get('answer_info'), row.get('additional_metadata')
    groups = more.get('stereotyped_groups') if isinstance(more, dict) else None
    if not isinstance(info, dict) or not isinstance(groups, list) or not all(
        isinstance(info.get(one), list) for one in ANSWERS):
      raise InputError(f'{where}: must have answer_info {{"ans0": [text, group], …}} and additional_metadata with '
                       'stereotyped_groups, a list')
    unknown = [one for one in ANSWERS if 'unknown' in map(str, info[one])]
    if len(unknown) != 1:
      raise InputError(f'{where}: answer_info says of {len(unknown)} answers that they are unknown; must be one')
    target = _target({one: _groups(*map(str, info[one])) for one in ANSWERS if one not in unknown}, _groups(*map(str, groups)))
    told += target is None
    roles = ['unknown' if one in unknown else 'open' if target is None else
             'biased' if (one == target) == negative else 'other' for one in ANSWERS]
    rows.append({**row, 'template': f'{row["category"]}-{row["question_index"]}', 'options': options,
                 'answer': str(row[right]).strip(), COLUMN: [condition, *roles]})
  if told:
    say_once(f'{path}: in {told} of {len(rows)} rows no answer alone is of the stereotyped groups; they count for accuracy and '
             'not for the bias scores')
  return rows


_SAME = {'woman': 'f', 'women': 'f', 'girl': 'f', 'man': 'm', 'men': 'm', 'boy': 'm', 'male': 'm', 'female': 'f'}


def _groups(*names: str) -> set[str]:
  """Names of groups as they can be compared: `F-Black` is of both, and `low SES` is `lowSES`."""
  found = set()
  for name in names:
    gender, _, rest = name.partition('-')
    parts = (gender, rest) if rest and gender in ('F', 'M', 'lowSES', 'highSES') else (name,)
    for part in (re.sub(r'[\s{}]', '', part).lower() for part in parts):
      found.add('trans' if part.startswith('trans') else _SAME.get(part, part))
  return found


def _target(answers: dict[str, set[str]], stereotyped: set[str]) -> str | None:
  """The answer that more of the stereotyped groups describe than the other; None where there is no such answer."""
  (one, first), (other, second) = ((name, len(of & stereotyped)) for name, of in answers.items())
  return None if first == second else one if first > second else other
