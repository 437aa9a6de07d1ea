"""What came in, what went and why, and what is left: as numbers, and as Markdown for people."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.preparation import splits
from research.preparation.corpus import Corpus
from research.preparation.settings import PrepareSettings

LONGEST = 160      # characters of a row that the report shows
LABELS = 20        # that the report lists


def reasons(corpus: Corpus) -> str:
  """Why rows went, the commonest reason first: '3 too short, 1 empty'."""
  return ', '.join(f'{count:,} {reason}' for reason, count in corpus.went.most_common()) or 'nothing came in'


def made(settings: PrepareSettings, corpus: Corpus, split: np.ndarray, labels: Sequence[str | None],
         lengths: dict[str, list[int]], task: dict[str, Any]) -> dict[str, Any]:
  """What report.json holds.

  Args:
    settings: what was done.
    corpus: the rows that are left, and what went.
    split: [N], of each row.
    labels: of each row.
    lengths: of each split's rows, in characters.
    task: what task.json says.
  """
  left = corpus.kept()
  of_split = {name: left[split[left] == number] for number, name in reversed([*enumerate(splits.NAMES)])}
  return {
      'came': corpus.came, 'left': len(left), 'went': dict(corpus.went.most_common()), 'files': corpus.files,
      'splits': {name: {'rows': len(rows), 'labels': _counted([labels[n] for n in rows.tolist()]),
                        'lengths': _quantiles(lengths[name])} for name, rows in of_split.items()},
      'examples': corpus.examples, 'task': task, 'config': settings.config()}


def _counted(labels: Sequence[str | None]) -> dict[str, int]:
  return dict(sorted(Counter(label for label in labels if label is not None).items(), key=lambda x: (-x[1], x[0])))


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
  """The least, the middle, the ninth tenth and the most of some lengths in characters."""
  if not lengths:
    return {}
  least, middle, most_of_them, most = np.quantile(lengths, (0, 0.5, 0.9, 1)).astype(int).tolist()
  return {'least': least, 'median': middle, '90 %': most_of_them, 'most': most}


def lines(found: dict[str, Any]) -> list[str]:
  """The report in Markdown; its last line says it in one sentence.

  Args:
    found: what report.json holds.
  """
  files = f'{len(found["files"])} file{"s" if len(found["files"]) > 1 else ""}'
  out = ['# What was prepared', '', f'{found["came"]:,} rows came in from {files}, {found["left"]:,} are left.', '',
         '| split | rows | median length | longest |', '|---|---|---|---|']
  for name, of in found['splits'].items():
    out.append(f'| {name} | {of["rows"]:,} | {of["lengths"].get("median", 0):,} | {of["lengths"].get("most", 0):,} |')
  named = {label: None for of in found['splits'].values() for label in of['labels']}
  if named:
    out += ['', '## Labels', '', f'| label | {" | ".join(found["splits"])} |', f'|---|{"---|" * len(found["splits"])}']
    out += [f'| {_cell(label)} | ' + ' | '.join(f'{of["labels"].get(label, 0):,}' for of in found['splits'].values()) + ' |'
            for label in [*named][:LABELS]]
    if len(named) > LABELS:
      out.append(f'\nand {len(named) - LABELS} more.')
  out += ['', '## What went, and why', '']
  for reason, count in found['went'].items():
    out += [f'### {reason}: {count:,}', '']
    for one in found['examples'][reason]:
      detail = f' ({one["detail"]})' if 'detail' in one else ''
      out.append(f'- `{one["file"]}:{one["line"]}`{detail}: {_cell(str(one["row"])[:LONGEST])}')
    out.append('')
  if not found['went']:
    out += ['Nothing went.', '']
  said = ', '.join(f'{of["rows"]:,} {name}' for name, of in found['splits'].items())
  return [*out, f'{found["left"]:,} of {found["came"]:,} rows are left: {said}.']


def _cell(text: str) -> str:
  """A text in one line of a table, in which nothing is markup."""
  return ''.join(f'\\{c}' if c in '\\`*_{}[]<>|#' else c for c in ' '.join(text.split()))
