"""Where rows come from: shipped samples, a person's own files, the datasets library. A row is a dict of its columns."""

import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from research import run_files
from research.data import formats
from research.data.rows import Row
from research.errors import InputError

SPLITS = ('train', 'valid', 'test')
SAMPLES = Path(str(importlib.resources.files('research.data') / 'samples'))


def read_jsonl(path: Path) -> list[Row]:
  """Rows of a JSON-lines file, whatever its name; blank lines do not count. One that is missing or damaged is refused."""
  return formats.rows(path, '.jsonl')


def sample(name: str) -> dict[str, list[Row]]:
  """The splits of a data set that ships with the package."""
  return {split: read_jsonl(SAMPLES / name / f'{split}.jsonl') for split in SPLITS}


def texts(**paths: str | None) -> dict[str, list[Row]]:
  """Rows {'text': …} by split, of JSON-lines files with a column `text`, or of plain text files: a row a paragraph.

  Paragraphs stand apart by empty lines. A file that is missing, empty or not UTF-8 is refused (`InputError`).
  """
  return {split: _texts(Path(path).expanduser()) for split, path in paths.items() if path}


def _texts(path: Path) -> list[Row]:
  """Rows of one file, by what its name says of its format.

  Raises:
    InputError: it is of a format that is neither text nor JSON lines.
  """
  suffix = path.suffix.lower()
  if suffix in ('.json', '.csv', '.tsv', '.parquet', '.arrow', '.gz', '.zst', '.xz', '.bz2', '.zip', '.html', '.xml', '.pdf'):
    raise InputError(f'{path}: {suffix} is not prose; task text reads text (.txt, .md) and JSON lines with `text` (.jsonl)')
  return read_jsonl(path) if suffix in ('.jsonl', '.ndjson') else _paragraphs(path)


def _paragraphs(path: Path) -> list[Row]:
  formats.check(path, '.txt')
  try:
    whole = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as e:
    raise InputError(f'{path}: is not UTF-8 text ({e.reason}); save the file as UTF-8') from None
  found = [{'text': part.strip()} for part in re.split(r'\n\s*\n', whole) if part.strip()]
  if not found:
    raise InputError(f'{path}: holds no text')
  return found


TEXTS = {'hass_ende': ('source', 'target'), 'docstring_summary': ('document', 'summary'), 'sentiment_sentences': ('text',)}


def sample_texts(name: str | None = None) -> dict[str, list[Row]]:
  """The texts of the data sets that ship with the package, or of one of them, each on its own: both languages of a
  translation, a document and its summary, a review.

  Raises:
    InputError: there is no such data set.
  """
  if name is not None and name not in TEXTS:
    raise InputError(f'task.subset={name}: no text of this name ships with the package (known: {", ".join(TEXTS)})')
  shipped = {name: sample(name) for name in ([name] if name else TEXTS)}
  return {split: [{'text': row[column]} for name, found in shipped.items() for row in found[split]
                  for column in TEXTS[name]] for split in SPLITS}


def files(**paths: str | None) -> dict[str, list[Row]]:
  """A person's own files, of any format that `formats` reads, by split; a split without a file is absent."""
  return {split: formats.rows(Path(path).expanduser()) for split, path in paths.items() if path}


TASK = 'task.json'      # of a prepared folder
TASK_FIELDS = {'prompt?': str, 'target?': str, 'choices?': [str], 'metrics?': [str], 'splits': [str], 'leaked?': {str: [int]}}


def prepared(folder: Path, where: dict[str, str | None]) -> tuple[dict[str, str | None], dict[str, Any]]:
  """What a folder that `prepare` made says of a task: where its splits are, and its fields.

  `leaked`, the rows of a split that training holds, is about the folder's own files, so it is left out for any other.

  Args:
    folder: of task.path.
    where: the file of each split that is named beside it, which then is read instead.
  Raises:
    InputError: task.json is damaged.
  """
  said = run_files.read_json(folder / TASK, TASK_FIELDS)
  files = {split: str(folder / f'{split}.jsonl') for split in said.pop('splits')}
  leaked = said.pop('leaked', None) or {}
  if unknown := leaked.keys() - (files.keys() - {'train'}):
    raise InputError(f'{folder / TASK}: is damaged: leaked names {min(unknown)!r}, not a split that is scored')
  fields = {field: tuple(value) if isinstance(value, list) else value for field, value in said.items()}
  named = {split: where[split] or files.get(split) for split in SPLITS}
  own = {split for split, file in files.items() if Path(named[split] or '').expanduser().resolve() == Path(file).resolve()}
  if 'train' in own:
    fields['leaked'] = {split: frozenset(numbers) for split, numbers in leaked.items() if split in own}
  return named, fields


def check_leaked(folder: Path, leaked: dict[str, frozenset[int]], splits: dict[str, list[Row]]) -> None:
  """Refuses numbers of leaked rows that are none of their split's.

  Args:
    folder: whose task.json says which rows leaked.
    leaked: split -> numbers of rows, from 0.
    splits: the rows.
  Raises:
    InputError: a number is below 0, or too large.
  """
  for split, numbers in leaked.items():
    if wrong := [n for n in sorted(numbers) if not 0 <= n < len(splits[split])]:
      raise InputError(f'{folder / TASK}: is damaged: leaked names row {wrong[0]} of {split}, whose {len(splits[split])} rows '
                       'are numbered from 0; prepare the folder again')


def huggingface(path: str, subset: str | None, splits: dict[str, str], asked: Set[str] = frozenset()) -> dict[str, list[Row]]:
  """Rows by the datasets library: a folder that `save_to_disk` wrote, or the hub's `path`.

  Args:
    path: of the folder, or a data set's name on the hub.
    subset: a configuration of a hub data set, or None.
    splits: our split -> theirs, such as {'valid': 'validation'}; those that the data set lacks are absent from the result.
    asked: those of our splits that must not be absent, since a person named them.
  Raises:
    InputError: it cannot be loaded, lacks a split that was asked for, or holds none of the splits.
  """
  import datasets
  try:
    if Path(path).expanduser().is_dir():
      loaded = datasets.load_from_disk(str(Path(path).expanduser()))
    else:
      loaded = datasets.load_dataset(path, subset)
  except Exception as e:  # whatever the library, its readers or the network raise, the person's remedy is the same
    raise InputError(f'task.path={path}: the datasets library cannot load it ({type(e).__name__}: '
                     f'{str(e).splitlines()[0] if str(e) else ""})') from None
  if not isinstance(loaded, datasets.DatasetDict):
    loaded = datasets.DatasetDict({'train': loaded})
  for split in splits:
    if split in asked and splits[split] not in loaded:
      raise InputError(f'task.{split}={splits[split]}: {path} has no such split (it has {", ".join(loaded)})')
  found = {ours: list(loaded[theirs]) for ours, theirs in splits.items() if theirs in loaded}
  if not found:
    raise InputError(f'task.path={path}: has the splits {", ".join(loaded)}, none of {", ".join(splits.values())}')
  return found


def fingerprint(rows: Iterable[Row]) -> str:
  """Hash of the rows and their order."""
  digest = hashlib.sha256()
  for row in rows:
    digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode(errors='surrogatepass'))
  return digest.hexdigest()[:16]
