"""From files of rows to a prepared folder: read, cleaned, each row once, shared out into splits that do not leak."""

import glob
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research import json_text, run_files
from research.console import is_coloured, progress, say
from research.data import batches, formats, shown, sources, tasks, texts
from research.errors import InputError
from research.models import load
from research.preparation import duplicates, examine, folder, labels, personal, report, splits, workers
from research.preparation.about import About, Result
from research.preparation.corpus import Corpus
from research.preparation.examine import Given
from research.preparation.settings import PrepareSettings
from research.preparation.words import Words

DROPPED, PERSONAL = 'dropped.jsonl', 'personal'


def inputs(patterns: Sequence[str]) -> list[Path]:
  """The files that patterns such as 'exports/*.csv' name, each once, in the order of their names.

  Args:
    patterns: each may be several with commas between them.
  Raises:
    InputError: a pattern names none.
  """
  found: dict[Path, None] = {}
  for given in patterns:
    for pattern in [given] if Path(given).exists() else given.split(','):
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
  say(report.sentence(found))
  return found


def _filled(settings: PrepareSettings, files: list[Path], into: Path, strict: bool) -> dict[str, Any]:
  """Writes what a prepared folder holds.

  Raises:
    InputError: nothing is left of the rows, or nothing to train on.
  """
  s, result, about = settings.row, Result(), About(settings)
  reader = load.reader(s.model) if s.model else None
  by = _by(settings, files)
  with (tempfile.TemporaryDirectory(dir=into.parent, prefix='.prepare.') as scratch,
        open(into / DROPPED, 'w', encoding='utf-8') as dropped, Corpus(Path(scratch), dropped, _hidden(settings)) as corpus,
        Words(Path(scratch)) as words):
    corpus.files += map(str, files)
    _read(Given(settings, reader and reader.tokenizer), files, corpus, words, about, strict)
    if not len(corpus):
      raise InputError(f'none of the {corpus.came:,} rows of the input is left: {report.reasons(corpus)}')
    rank = _given(settings, corpus, about) if by == 'given' else np.full(len(corpus), splits.NONE)
    _drop_duplicates(settings, corpus, words, rank, result)
    if s.personal != 'off':
      _look_for_personal(settings, corpus, result)
    if settings.labels.join:
      _join_labels(settings, corpus, about, result)
    split = rank if by == 'given' else _shared_out(settings, by, corpus, about)
    result.leaks = duplicates.leaks(corpus, words, split, settings.near.threshold, s.ngram)
    if s.leaks == 'drop':
      for one in result.leaks.train:
        corpus.drop(one.number, duplicates.LEAK, f'{one.kind}: {one.detail}')
    if settings.labels.suspects:
      _look_for_suspects(settings, corpus, about, result)
    numbers = _write_splits(into, corpus, split)
    if not len(numbers['train']):
      raise InputError(f'no row is left to train on: {report.reasons(corpus)}')
    task = folder.task(settings, corpus, about.labels, numbers, result.leaks if s.leaks == 'keep' else None)
    run_files.write_json(into / sources.TASK, task)
    run_files.write_json(into / run_files.PROVENANCE, folder.provenance(settings, files, into))
    found = report.made(settings, corpus, about, result, numbers, task, reader.context if reader else 0)
    sizes = np.frombuffer(about.tokens, np.int32) if s.model else corpus.sizes()
    report.write(found, {name: sizes[of] for name, of in numbers.items()}, into)
  return found


def show(settings: PrepareSettings, output: Path, count: int) -> list[str]:
  """The first training rows of a prepared folder as the model of the config reads them, in lines.

  Args:
    settings: name the model.
    output: the folder.
    count: how many rows.

  Rows without a prompt that are no conversations and no plain texts are refused (`InputError`).
  """
  assert settings.row.model is not None
  reader = load.reader(settings.row.model)
  train = formats.rows(output / 'train.jsonl')
  if 'prompt' not in run_files.read_json(output / sources.TASK) and isinstance(train[0].get('text'), str):
    found = texts.next_token(train[:count], reader.tokenizer, reader.context)[:count]
    return shown.lines(found, [*map(batches.prompt_with_answer, found)], reader.tokenizer, is_coloured())
  task = tasks.make('files', {'path': str(output)})
  return shown.of_task(task, task.rows('train')[:count], reader.tokenizer, reader.start, is_coloured())


def _by(settings: PrepareSettings, files: Sequence[Path]) -> str:
  """How rows are shared out."""
  if settings.split.by:
    return settings.split.by
  given = settings.split.column or (not settings.row.time and splits.are_given([*map(str, files)]))
  return 'given' if given else 'time' if settings.row.time else 'random'


def _read(given: Given, files: Sequence[Path], corpus: Corpus, words: Words, about: About, strict: bool) -> None:
  """Adds the rows of files, cleaned.

  Raises:
    InputError: what is no row, where that is asked for.
  """
  at, speed = 0, lambda seconds: f'{corpus.came / seconds:,.0f} rows/s'
  with progress('prepare: reading lines', sum(map(formats.places, files)), speed) as done:
    for part in workers.mapped(examine.examine, given, workers.chunks(_places(files), examine.size)):
      for row in part.rows:
        corpus.came += 1
        if not row.reason:
          corpus.add(row.line, row.file, row.place)
          about.add(row)
        elif strict and row.reason == examine.PARSE:
          raise InputError(f'{files[row.file]}: line {row.place} {row.detail}')
        else:
          corpus.refuse(row.file, row.place, row.reason, row.line, row.detail)
      words.add(part.hashes)
      about.changes += part.changes
      done(part.rows[-1].at - at)
      at = part.rows[-1].at
  words.finish()


def _places(files: Sequence[Path]) -> Iterator[examine.Place]:
  """Everything in the files, with the number of its file, and how many places come before it in all."""
  before = 0
  for number, file in enumerate(files):
    last = 0
    for found in formats.read(file):
      last = found.place
      yield examine.Place(number, before + last, found)
    before += last


def _given(settings: PrepareSettings, corpus: Corpus, about: About) -> np.ndarray:
  """[N] int: the split that each row's column, or its file's name, says."""
  if settings.split.column:
    return np.frombuffer(about.splits, np.int8).astype(int)
  of_file = [splits.of_file(file) for file in corpus.files]
  return np.array(of_file)[corpus.file_numbers()]


def _drop_duplicates(settings: PrepareSettings, corpus: Corpus, words: Words, rank: np.ndarray, result: Result) -> None:
  """Drops rows that are, or nearly are, another, or counts them."""
  for one in duplicates.exact(corpus, words, rank):
    result.duplicate(corpus, one)
    if settings.exact.drop:
      corpus.drop(one.number, duplicates.EXACT, one.detail)
  told: set[int] = set()
  for one in duplicates.near(corpus, words, rank, settings.near.threshold):
    if one.number not in told:      # one that is not dropped may be like several
      told.add(one.number)
      result.duplicate(corpus, one)
    if settings.near.drop:
      corpus.drop(one.number, duplicates.NEAR, one.detail)


def _left(settings: PrepareSettings) -> frozenset[str]:
  """The columns in which no personal data is looked for: those that say something about a row."""
  s = settings.row
  return frozenset(filter(None, (examine.label_column(settings), s.group, s.time, settings.split.column, *(s.groups or ()))))


def _hidden(settings: PrepareSettings) -> Callable[[bytes], bytes] | None:
  """What a row that goes is kept as: personal data that the splits do not hold does not stand in dropped.jsonl either."""
  if settings.row.personal not in ('mask', 'drop'):
    return None
  regions, left = settings.row.regions, _left(settings)

  def hide(line: bytes) -> bytes:
    row = json_text.loads(line.decode())
    return line if row is None else json_text.dumps(personal.mask(row, regions, left)[0]).encode()
  return hide


class Masked(NamedTuple):
  """Of some rows."""
  rows: int                                         # how many were looked at
  found: list[tuple[int, bytes, Counter[str]]]      # number, the row without personal data, and how many of each kind it held


def _mask(how: tuple[Sequence[str], frozenset[str]], lines: Sequence[tuple[int, bytes]]) -> Masked:
  """Looks for personal data in some rows, with these regions' phone numbers, and not in these columns."""
  found = []
  for number, line in lines:
    row, kinds = personal.mask(json_text.loads(line.decode()), *how)
    if kinds:
      found.append((number, json_text.dumps(row).encode(), kinds))
  return Masked(len(lines), found)


def _look_for_personal(settings: PrepareSettings, corpus: Corpus, result: Result) -> None:
  """Masks personal data, or drops the rows that hold some, or counts it."""
  s = settings.row
  rows = corpus.kept().tolist()
  lines = ((number, corpus.line(number)) for number in rows)
  with progress('prepare: personal data in rows', len(rows)) as done:
    for part in workers.mapped(_mask, (s.regions, _left(settings)), workers.chunks(lines, lambda row: len(row[1]))):
      for number, line, kinds in part.found:
        result.personal += kinds
        if s.personal != 'keep':
          corpus.change(number, line)
        if s.personal == 'drop':
          corpus.drop(number, PERSONAL, ', '.join(sorted(kinds)))
      done(part.rows)


def _join_labels(settings: PrepareSettings, corpus: Corpus, about: About, result: Result) -> None:
  """Gives labels that mean the same one form."""
  column, rows = examine.label_column(settings), corpus.kept().tolist()
  into = labels.joined([about.labels[number] for number in rows], settings.row.choices or ())
  for number in rows:
    label = about.labels[number]
    if column is not None and label in into:
      about.labels[number] = into[label]
      result.joined[label, into[label]] += 1
      corpus.change(number, json_text.dumps({**corpus.row(number), column: into[label]}).encode())


def _look_for_suspects(settings: PrepareSettings, corpus: Corpus, about: About, result: Result) -> None:
  """Finds rows whose label their words contradict, among at most `labels.MOST`."""
  rows = np.array([number for number in corpus.kept().tolist() if about.labels[number] is not None], int)
  if len(rows) > labels.MOST:
    rng = np.random.Generator(np.random.Philox(key=settings.row.seed))
    rows = np.sort(rng.choice(rows, labels.MOST, replace=False))
  result.looked_at = len(rows)
  said = [examine.text_of(settings, corpus.row(number)) for number in rows.tolist()]
  result.suspects = labels.suspects(said, [str(about.labels[number]) for number in rows.tolist()], rows.tolist(),
                                    settings.row.seed)


def _shared_out(settings: PrepareSettings, by: str, corpus: Corpus, about: About) -> np.ndarray:
  """[N] int: the split of each row that is left; of the others none."""
  split, rows = np.full(len(corpus), splits.NONE), corpus.kept()
  if by == 'time':
    split[rows] = splits.by_time(np.frombuffer(about.times)[rows], settings.split)
  else:
    of = [(about.labels[number], about.groups[number]) for number in rows.tolist()]
    split[rows] = splits.at_random([label for label, _ in of], [group for _, group in of], settings.split, settings.row.seed)
  return split


def _write_splits(into: Path, corpus: Corpus, split: np.ndarray) -> dict[str, np.ndarray]:
  """A file for each split that has rows; gives the numbers of the rows of each."""
  rows = corpus.kept()
  numbers = {name: rows[split[rows] == at] for at, name in reversed([*enumerate(splits.NAMES)])}
  for name, of in numbers.items():
    if len(of):
      with open(into / f'{name}.jsonl', 'wb') as file:
        for number in of.tolist():
          file.write(corpus.line(number) + b'\n')
  return numbers
