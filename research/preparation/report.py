"""What came in, what went and why, and what is left: as numbers, and for people as Markdown and as a page."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research import look, run_files
from research.data import sources
from research.preparation import duplicates, examine, figures, groups, sections
from research.preparation.about import About, Result
from research.preparation.corpus import Corpus
from research.preparation.settings import PrepareSettings

CLUSTERS, SUSPECTS = 10, 100      # that report.json lists


def reasons(corpus: Corpus) -> str:
  """Why rows went, the commonest reason first, with what is said of the first: '3 short (the first: 2 characters), 1 empty'."""
  said = lambda reason: f' (the first: {detail})' if (detail := corpus.examples[reason][0].get('detail')) else ''
  return ', '.join(f'{count:,} {reason}{said(reason)}' for reason, count in corpus.went.most_common()) or 'nothing came in'


def made(settings: PrepareSettings, corpus: Corpus, about: About, result: Result, numbers: dict[str, np.ndarray],
         task: dict[str, Any], context: int) -> dict[str, Any]:
  """What report.json holds.

  Args:
    settings: what was done.
    corpus: the rows that are left, and what went.
    about: each row.
    result: what was found on the way.
    numbers: split -> [N] the numbers of its rows.
    task: what task.json says.
    context: of the model whose tokens were counted; 0: of none.
  """
  left, s = corpus.kept(), settings.row
  tokens = np.frombuffer(about.tokens, np.int32)
  of = lambda values, rows: [values[n] for n in rows.tolist()]
  lengths = {name: corpus.sizes()[rows] for name, rows in numbers.items()}
  column = examine.label_column(settings)
  return {
      'rows': {'read': corpus.came, 'kept': len(left), 'dropped': dict(corpus.went.most_common())},
      'splits': {name: len(rows) for name, rows in numbers.items()},
      'files': corpus.files,
      'duplicates': {kind: result.same[kind] for kind in ('exact', 'near')} | {'clusters': _clusters(corpus, result)},
      'leaks': {**duplicates.by_kind(result.leaks.train), 'kept': s.leaks == 'keep',
                'of': {name: int(np.isin(rows, result.leaks.held_out).sum())
                       for name, rows in numbers.items() if name != 'train'}},
      'personal': dict(sorted(result.personal.items())),
      'labels': {'column': column, 'joined': [[*pair, n] for pair, n in sorted(result.joined.items())],
                 'splits': {name: _counted(of(about.labels, rows)) for name, rows in numbers.items()}},
      'suspects': [_suspect(settings, corpus, one) for one in result.suspects[:SUSPECTS]],
      'suspects_among': result.looked_at, 'suspects_in_all': len(result.suspects),
      'groups': {name: groups.shares(of(values, left), of(about.labels, left)) for name, values in about.values.items()},
      'lengths': {'bytes': {name: _quantiles(found) for name, found in lengths.items()},
                  'tokens': {name: _quantiles(tokens[rows]) for name, rows in numbers.items()} if s.model else {}},
      'model': s.model, 'context': context,
      'beyond_context': {name: int((tokens[rows] > context).sum()) for name, rows in numbers.items()} if context else {},
      'changes': {kind: count for kind, count in sorted(about.changes.items()) if count},
      'fingerprints': {name: sources.fingerprint(map(corpus.row, rows.tolist())) for name, rows in numbers.items()},
      'examples': corpus.examples, 'task': task, 'config': settings.config()}


def _counted(labels: Sequence[str | None]) -> dict[str, int]:
  return dict(sorted(Counter(label for label in labels if label is not None).items(), key=lambda x: (-x[1], x[0])))


def _quantiles(lengths: np.ndarray) -> dict[str, int]:
  """The least, the middle, the ninth tenth and the most of some lengths."""
  if not len(lengths):
    return {}
  least, middle, most_of_them, most = np.quantile(lengths, (0, 0.5, 0.9, 1)).astype(int).tolist()
  return {'least': least, 'median': middle, '90 %': most_of_them, 'most': most}


def _clusters(corpus: Corpus, result: Result) -> list[dict[str, Any]]:
  """The rows that came most often, or nearly."""
  found = sorted(result.clusters.items(), key=lambda item: (-item[1], item[0]))[:CLUSTERS]
  return [{'rows': count + 1, 'at': corpus.where(number), 'others': result.of_cluster[number], 'row': corpus.row(number)}
          for number, count in found]


def _suspect(settings: PrepareSettings, corpus: Corpus, one: Any) -> dict[str, Any]:
  file, _, line = corpus.where(one.number).rpartition(':')
  return {'file': file, 'line': int(line), 'label': one.label, 'suggests': one.other, 'probability': round(one.probability, 4),
          'text': examine.text_of(settings, corpus.row(one.number))}


def write(found: dict[str, Any], lengths: dict[str, np.ndarray], into: Path) -> None:
  """Writes report.json, report.md, report.html and figures/.

  Args:
    found: what report.json holds.
    lengths: split -> [N] of its rows, in tokens where a model was named, else in bytes.
    into: the prepared folder.
  """
  unit = f'tokens of {found["model"]}' if found['model'] else 'bytes'
  captions = figures.draw(into, found, lengths, unit)
  drawn = {name: {'file': f'figures/{name}.png', 'caption': caption, 'data': look.embedded(into / 'figures' / f'{name}.png')}
           for name, caption in captions.items()}
  facts = {'sentence': sentence(found), 'sections': sections.of(found), 'figures': drawn, 'css': look.css(),
           'config': json.dumps(found['config'])}
  for name in ('report.md', 'report.html'):
    run_files.write_text(into / name, look.template('research.preparation', name).render(facts))
  run_files.write_json(into / 'report.json', found)


def sentence(found: dict[str, Any]) -> str:
  """The report in one line."""
  said = ', '.join(f'{count:,} {name}' for name, count in found['splits'].items())
  return f'{found["rows"]["kept"]:,} of {found["rows"]["read"]:,} rows are left: {said}.'
