"""What stands in a prepared folder beside its rows: what a run does with them, and where they came from."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.data.templates import fields_of
from research.errors import InputError
from research.preparation import examine
from research.preparation.corpus import Corpus
from research.preparation.duplicates import Leaks
from research.preparation.settings import PrepareSettings

PACKAGES = ('flaxtune', 'ftfy', 'numpy', 'phonenumbers', 'py3langid', 'pyarrow', 'rensa', 'scikit-learn')
MOST_CHOICES = 100


def task(settings: PrepareSettings, corpus: Corpus, labels: Sequence[str | None], numbers: dict[str, np.ndarray],
         kept: Leaks | None) -> dict[str, Any]:
  """What task.json says: what the config does, and else what follows from the columns.

  Args:
    settings: what is done.
    corpus: the rows.
    labels: of each row.
    numbers: split -> [N] the numbers of its rows, in the order of its file.
    kept: the leaks that stayed; None: there are none.
  Raises:
    InputError: the prompt or the target names a column that the rows do not have.
  """
  s, label = settings.row, examine.label_column(settings)
  prompt, target, choices = s.prompt, s.target, s.choices
  first = next(corpus.rows())[1]
  if prompt is None and label and 'messages' not in first:
    prompt = s.text or '\n'.join('{' + name + '}' for name in examine.columns_of_text(settings, first))
  if target is None and label:
    target = ' {' + label + '}'
  if choices is None and label and s.target is None:
    left = {one for n in corpus.kept().tolist() if (one := labels[n]) is not None}
    choices = tuple(sorted(left)) if 2 <= len(left) <= MOST_CHOICES else None
  for field, template in (('prompt', prompt), ('target', target)):
    if missing := [name for name in fields_of(template or '') if name not in first]:
      raise InputError(f'{field}={template!r}: the rows have no column {missing[0]!r} (they have {", ".join(first)})')
  said = {'prompt': prompt, 'target': target, 'choices': None if choices is None else list(choices),
          'metrics': None if s.metrics is None else list(s.metrics)}
  leaked = {} if kept is None else {
      name: found.tolist() for name, of in numbers.items() if len(found := np.flatnonzero(np.isin(of, kept.held_out)))}
  return {**{field: value for field, value in said.items() if value is not None},
          'splits': [name for name, of in numbers.items() if len(of)], **({'leaked': leaked} if leaked else {})}


def provenance(settings: PrepareSettings, files: Sequence[Path], into: Path) -> dict[str, Any]:
  """What the folder was made from, and the hash of each of its splits.

  Args:
    settings: what was done.
    files: the input.
    into: the folder, with its splits.
  """
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
