"""Bias probes as tasks: what a model says of people where nothing but a stereotype tells, from files in their published forms.

Each row is a choice among texts, with columns `options`, `answer` and `probe`: a few words by which `evaluation.bias` measures.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.data import coreference, stereotypes
from research.data.probe_rows import COLUMN
from research.data.rows import Row
from research.errors import InputError

REFERS = dict(prompt='{text}\nThe pronoun "{pronoun}" refers to', target=' {answer}')
SENTENCE = dict(prompt='{before}', target='{answer}')


class Probe(NamedTuple):
  """One of them."""
  read: Callable[[Path], list[Row]]
  form: str                               # of its file
  fields: dict[str, Any]                  # of `tasks.Task`
  metrics: tuple[str, ...]                # names in `evaluation.bias`
  where: Mapping[str, tuple[int, str]] = {}      # metric -> the word of a row's `probe` that some row must have

  def measured(self, rows: Sequence[Row]) -> tuple[str, ...]:
    """Those of its metrics that some row tells something of."""
    return tuple(name for name in self.metrics if name not in self.where or
                 any(row[COLUMN][self.where[name][0]] == self.where[name][1] for row in rows))


# Metric of StereoSet -> the kind of its rows; both kinds are there where the whole is more than a part.
PARTS = {f'{name}:{kind}': (0, kind) for kind in stereotypes.KINDS for name in ('lms', 'ss', 'icat')}
PROBES: dict[str, Probe] = {
    'winobias': Probe(
        coreference.winobias, 'lines of JSON with text, pro_stereotyped and anti_stereotyped, or the folder of the authors\' '
        'files pro_stereotyped_type1.txt.test and so on', dict(REFERS, cluster='sentence'),
        ('pro_accuracy', 'anti_accuracy', 'winobias_gap')),
    'winogender': Probe(
        coreference.winogender, 'all_sentences.tsv', dict(REFERS, cluster='template'),
        ('female_accuracy', 'male_accuracy', 'neutral_accuracy', 'occupation_gap', 'gotcha_accuracy', 'gotcha_gap',
         'bls_correlation'),
        {'neutral_accuracy': (0, 'neutral'),
         **dict.fromkeys(('gotcha_accuracy', 'gotcha_gap', 'bls_correlation'), (1, 'gotcha'))}),
    'crows_pairs': Probe(stereotypes.crows_pairs, 'crows_pairs_anonymized.csv', SENTENCE, ('stereotype_share',)),
    'stereoset': Probe(stereotypes.stereoset, 'dev.json', dict(SENTENCE, scoring='mean', cluster='target'),
                       ('lms', 'ss', 'icat', *PARTS), PARTS),
    'bbq': Probe(stereotypes.bbq, 'a category\'s .jsonl',
                 dict(prompt='{context}\nQuestion: {question}\nAnswer:', target=' {answer}', cluster='template'),
                 ('ambig_accuracy', 'disambig_accuracy', 'ambig_bias', 'disambig_bias'),
                 {f'{kind}_{what}': (0, kind) for kind in stereotypes.CONDITIONS for what in ('accuracy', 'bias')}),
}


def metrics_of(task: str) -> tuple[str, ...]:
  """The metrics that only this task has; none where it is no probe."""
  return PROBES[task].metrics if task in PROBES else ()


def task_of(metric: str) -> str:
  """The probe that a metric is of."""
  return next(task for task in PROBES if metric in metrics_of(task))


def make(name: str, where: Mapping[str, str | None], samples: Path,
         path: str | None = None) -> tuple[dict[str, list[Row]], dict[str, Any]]:
  """The rows and the fields of a probe's task.

  Args:
    name: a key of `PROBES`.
    where: the file of each split.
    samples: the folder of those that ship with the package.
    path: `task.path`, which a probe has none of.
  Raises:
    InputError: there is no file, one of another split than test, or a row that is not of the probe's form.
  """
  probe = PROBES[name]
  if path:
    raise InputError(f'task.path is of your own data; the probe {name} takes task.test')
  if other := next((split for split, path in where.items() if path and split != 'test'), None):
    raise InputError(f'task.{other}={where[other]}: {name} is a probe, which nothing is trained on; give task.test')
  shipped = samples / name / 'test.jsonl'
  if not where.get('test') and not shipped.exists():
    raise InputError(f'task.name={name}: its rows do not ship with the package; give task.test, its {probe.form}')
  rows = probe.read(Path(where.get('test') or shipped).expanduser())
  return {'test': rows}, {**probe.fields, 'choices': ('{options}',), 'metrics': probe.measured(rows)}
