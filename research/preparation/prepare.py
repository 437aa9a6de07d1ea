"""From files of rows to a prepared folder: read, cleaned, each row once, shared out into splits that do not leak."""

import glob
import hashlib
import importlib.metadata
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from research import json_text, run_files
from research.console import say
from research.data import chats, formats, sources
from research.data.rows import Row
from research.data.templates import fields_of
from research.errors import InputError
from research.preparation import clean, duplicates, report, splits
from research.preparation.corpus import Corpus
from research.preparation.settings import PrepareSettings
from research.preparation.words import Words

DROPPED = 'dropped.jsonl'
PACKAGES = ('flaxtune', 'ftfy', 'py3langid', 'rensa', 'pyarrow', 'numpy')
SAID_EVERY = 100_000      # rows between lines of progress


def inputs(patterns: Sequence[str]) -> list[Path]:
  """The files that patterns such as 'exports/*.csv' name, each once, in the order of their names.

  Raises:
    InputError: a pattern names none.
  """
  found: dict[Path, None] = {}
  for pattern in patterns:
    there = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    if not there:
      raise InputError(f'--input={pattern}: matches no file')
    found |= dict.fromkeys(map(Path, there))
  return [*found]


def prepare(settings: PrepareSettings, patterns: Sequence[str], output: Path, strict: bool = False) -> dict[str, Any]:
  """Writes a prepared folder, whole or not at all; gives what report.json says. What cannot be is an `InputError`.

  Args:
    settings: what is done.
    patterns: of the input's files; they are not changed.
    output: the folder; it is not there, or empty.
    strict: what is no row ends it, in place of being kept in dropped.jsonl.
  """
  run_files.check_output(output)
  files = inputs(patterns)
  found: dict[str, Any] = {}

  def fill(into: Path) -> None:
    found.update(_filled(settings, files, into, strict))
  run_files.write_folder(output, fill)
  say(report.lines(found)[-1])
  return found


def _filled(settings: PrepareSettings, files: list[Path], into: Path, strict: bool) -> dict[str, Any]:
  """Writes what a prepared folder holds.

  Raises:
    InputError: nothing is left of the rows.
  """
  with (tempfile.TemporaryDirectory(dir=into.parent, prefix='.prepare.') as folder,
        open(into / DROPPED, 'w', encoding='utf-8') as dropped, Corpus(Path(folder), dropped) as corpus,
        Words(Path(folder)) as words):
    kept = _Columns(settings)
    for file in files:
      _read(settings, file, corpus, words, kept, strict)
    words.finish()
    if not len(corpus):
      raise InputError(f'none of the {corpus.came} rows of the input is left: {report.reasons(corpus)}')
    by_file = settings.splits.by == 'given'
    split = np.array([splits.given(corpus.file_of(n)) for n in range(len(corpus))]) if by_file else np.zeros(len(corpus), int)
    say(f'prepare: {len(corpus):,} of {corpus.came:,} rows are left to be compared')
    if settings.duplicates.exact:
      duplicates.drop_exact(corpus, words, split.tolist(), kept.labels, settings.leaks.remove)
    if settings.duplicates.near:
      duplicates.drop_near(corpus, words, split.tolist(), settings.duplicates.similarity, settings.leaks.remove)
    if not by_file:
      split = np.full(len(corpus), -1)
      split[corpus.kept()] = _shared_out(settings, corpus, kept)
    if settings.leaks.remove:
      duplicates.drop_leaks(corpus, words, split.tolist(), settings.duplicates.similarity, settings.leaks.words,
                            near=not settings.duplicates.near)
    lengths = _write_splits(into, corpus, split)
    counts = {name: len(of) for name, of in lengths.items()}
    task = _task(settings, kept, corpus, counts)
    found = report.made(settings, corpus, split, kept.labels, lengths, task)
  if not counts[splits.NAMES[splits.TRAIN]]:
    raise InputError(f'no row is left to train on: {report.reasons(corpus)}')
  run_files.write_json(into / sources.TASK, task)
  run_files.write_json(into / 'report.json', found)
  run_files.write_text(into / 'report.md', '\n'.join(report.lines(found)) + '\n')
  run_files.write_json(into / run_files.PROVENANCE, _provenance(settings, files, into))
  return found


class _Columns:
  """Of each row that was kept once: its label, its group and its time."""

  def __init__(self, settings: PrepareSettings):
    """
    Args:
      settings: names the columns.
    """
    self.named = settings.columns
    self.labels: list[str | None] = []
    self.groups: list[str | None] = []
    self.times: list[Any] = []
    self.chat = False

  def add(self, row: Row) -> None:
    """One row more."""
    c = self.named
    self.labels.append(None if c.label is None else str(row[c.label]))
    self.groups.append(None if c.group is None else str(row[c.group]))
    self.times.append(None if c.time is None else row[c.time])
    self.chat |= 'messages' in row

  def missing(self, row: Row) -> str:
    """A column that was named and that a row lacks; empty where it has all."""
    c = self.named
    named = [*(c.text or ()), *(name for name in (c.label, c.group, c.time) if name)]
    return next((name for name in named if row.get(name) is None), '')

  def said(self, row: Row) -> str:
    """What a row says, in one text: its columns of text, or all of them but those that say something about it."""
    c = self.named
    if c.text is None and isinstance(row.get('messages'), list):
      return '\n'.join(str(turn.get('content')) for turn in row['messages'] if isinstance(turn, dict))
    return '\n'.join(str(row[name]) for name in self.text(row))

  def text(self, row: Row) -> list[str]:
    """The columns that say what a row is: those that were named, or all of text but those that say something about it."""
    about = {self.named.label, self.named.group, self.named.time}
    return list(self.named.text or (name for name, value in row.items() if isinstance(value, str) and name not in about))


def _read(settings: PrepareSettings, file: Path, corpus: Corpus, words: Words, kept: _Columns, strict: bool) -> None:
  """Adds a file's rows, cleaned.

  Raises:
    InputError: what is no row, where that is asked for.
  """
  corpus.files.append(str(file))
  for one in formats.read(file):
    corpus.came += 1
    if corpus.came % SAID_EVERY == 0:
      say(f'prepare: {corpus.came:,} rows read, {len(corpus):,} kept')
    if one.row is None:
      if strict:
        raise InputError(f'{file}: line {one.place} {one.wrong}')
      corpus.refuse(one.place, 'not a row', None, one.wrong)
      continue
    try:
      row = clean.clean(chats.as_messages(one.row), settings.clean)
    except InputError as e:
      if strict:
        raise InputError(f'{file}: line {one.place}: {e}') from None
      corpus.refuse(one.place, 'not a conversation', one.row, str(e))
      continue
    if name := kept.missing(row):
      corpus.refuse(one.place, f'no {name}', row)
      continue
    said = kept.said(row)
    if reason := clean.why_not(row, said, settings.clean):
      corpus.refuse(one.place, reason, row)
      continue
    corpus.add(row, one.place)
    words.add(said)
    kept.add(row)


def _shared_out(settings: PrepareSettings, corpus: Corpus, kept: _Columns) -> np.ndarray:
  """[N] int: the split of each row that is left."""
  numbers = corpus.kept().tolist()
  if settings.splits.by == 'time':
    return splits.by_time([kept.times[n] for n in numbers], settings.splits, [corpus.where(n) for n in numbers])
  return splits.at_random([kept.labels[n] for n in numbers], [kept.groups[n] for n in numbers], settings.splits)


def _write_splits(into: Path, corpus: Corpus, split: np.ndarray) -> dict[str, list[int]]:
  """A file for each split that has rows; gives how many characters each row takes."""
  lengths: dict[str, list[int]] = {name: [] for name in splits.NAMES}
  with ExitStack() as stack:
    files = [stack.enter_context(open(into / f'{name}.jsonl', 'w', encoding='utf-8')) for name in splits.NAMES]
    for number, row in corpus.rows():
      line = json_text.dumps(row)
      files[split[number]].write(line + '\n')
      lengths[splits.NAMES[split[number]]].append(len(line))
  for name, of in lengths.items():
    if not of:
      (into / f'{name}.jsonl').unlink()
  return lengths


def _task(settings: PrepareSettings, kept: _Columns, corpus: Corpus, counts: dict[str, int]) -> dict[str, Any]:
  """What task.json says: what the config does, and else what follows from the columns.

  Raises:
    InputError: the prompt or the target names a column that the rows do not have.
  """
  t, c = settings.task, settings.columns
  prompt, target, choices = t.prompt, t.target, t.choices
  if not kept.chat:
    first = next(corpus.rows())[1]
    if prompt is None and c.label:
      prompt = '\n'.join('{' + name + '}' for name in kept.text(first))
    if target is None and c.label:
      target = ' {' + c.label + '}'
    if choices is None and c.label and t.target is None:
      left = {label for n in corpus.kept().tolist() if (label := kept.labels[n]) is not None}
      choices = tuple(sorted(left)) if 2 <= len(left) <= 100 else None
    for field, template in (('prompt', prompt), ('target', target)):
      if missing := [name for name in fields_of(template or '') if name not in first]:
        raise InputError(f'task.{field}={template!r}: the rows have no column {missing[0]!r} (they have {", ".join(first)})')
  said = {'prompt': prompt, 'target': target, 'choices': None if choices is None else list(choices),
          'metrics': None if t.metrics is None else list(t.metrics)}
  return {**{field: value for field, value in said.items() if value is not None},
          'splits': [name for name in reversed(splits.NAMES) if counts[name]]}


def _provenance(settings: PrepareSettings, files: list[Path], into: Path) -> dict[str, Any]:
  """What the folder was made from, and the hash of each of its splits."""
  return {'config': settings.config(), 'input': {str(file): _hash(file) for file in files},
          'splits': {path.stem: _hash(path) for path in sorted(into.glob('*.jsonl'))},
          'versions': {'python': platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}}}


def _hash(path: Path) -> str:
  """SHA-256 of a file, or of a folder's files with their names."""
  digest = hashlib.sha256()
  for file in sorted(path.rglob('*')) if path.is_dir() else [path]:
    if file.is_file():
      digest.update(str(file.relative_to(path)).encode())
      with open(file, 'rb') as f:
        digest.update(hashlib.file_digest(f, 'sha256').digest())
  return digest.hexdigest()
