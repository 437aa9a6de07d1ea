"""Metrics as sums: each is a vector per example and a function of the vectors' total.

So a score over any selection of examples (a bootstrap resample, a jackknife's all-but-one) is one matrix product away,
for corpus metrics such as BLEU as for accuracy. The vectors of BLEU, chrF and ROUGE are sacrebleu's and rouge-score's own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.errors import InputError


class Scored(NamedTuple):
  """What there is to judge of one example."""
  prediction: str
  target: str
  loss: float              # nats, summed over the target's tokens
  tokens: int              # the target's, EOS among them
  choices: tuple[str, ...]


class Metric(NamedTuple):
  """A score of a set of examples."""
  name: str
  sums: Callable[[Sequence[Scored]], np.ndarray]            # [n, k] float64, one vector an example
  score: Callable[[np.ndarray], np.ndarray]                 # totals [..., k] -> scores [...]
  each: Callable[[np.ndarray], np.ndarray] | None = None    # [n, k] -> the metric of every example, where it has one
  higher_is_better: bool = True
  most: float = 1.0                                         # what a score can be; the least is 0

  @property
  def is_share(self) -> bool:
    """Whether it is a share of the examples: each counts in whole or not at all."""
    return self.name in ('accuracy', 'exact_match')


def _ratio(totals: np.ndarray) -> np.ndarray:
  return totals[..., 0] / np.maximum(totals[..., 1], 1e-300)


def _equal(scored: Sequence[Scored]) -> np.ndarray:
  return np.array([[float(s.prediction.strip() == s.target.strip()), 1.0] for s in scored])


def _confusion(scored: Sequence[Scored]) -> np.ndarray:
  """Per example the flattened [C + 1, C + 1] table with a 1 at (target, prediction); class C is anything else."""
  names = [c.strip() for c in scored[0].choices] or sorted({s.target.strip() for s in scored})
  C = len(names)
  number = {name: i for i, name in enumerate(names)}
  out = np.zeros((len(scored), C + 1, C + 1))
  for i, s in enumerate(scored):
    out[i, number.get(s.target.strip(), C), number.get(s.prediction.strip(), C)] = 1
  return out.reshape(len(scored), -1)


def _macro_f1(totals: np.ndarray) -> np.ndarray:
  """Mean over classes of 2 TP / (2 TP + FP + FN); a class that neither side names does not count."""
  side = round(totals.shape[-1] ** 0.5)
  table = totals.reshape(*totals.shape[:-1], side, side)
  hit = np.diagonal(table, axis1=-2, axis2=-1)
  either = table.sum(-1) + table.sum(-2)
  present = either > 0
  f1 = np.where(present, 2 * hit / np.where(present, either, 1), 0)
  return f1.sum(-1) / np.maximum(present.sum(-1), 1)


def _sacrebleu(metric: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Sums and score of a sacrebleu corpus metric, which is itself a function of summed sentence statistics."""
  def sums(scored: Sequence[Scored]) -> np.ndarray:
    hypotheses = [s.prediction.strip() for s in scored]
    return np.array(metric._extract_corpus_statistics(hypotheses, [[s.target.strip() for s in scored]]), np.float64)

  def score(totals: np.ndarray) -> np.ndarray:
    flat = totals.reshape(-1, totals.shape[-1])
    values = [metric._compute_score_from_stats(np.rint(t).astype(int).tolist()).score for t in flat]
    return np.array(values).reshape(totals.shape[:-1])
  return sums, score


def _bleu() -> Metric:
  from sacrebleu.metrics.bleu import BLEU
  sums, score = _sacrebleu(BLEU())
  sentence = BLEU(effective_order=True)

  def each(vectors: np.ndarray) -> np.ndarray:
    return np.array([sentence._compute_score_from_stats(v.astype(int).tolist()).score for v in vectors])
  return Metric('bleu', sums, score, each, most=100.0)


def _chrf() -> Metric:
  from sacrebleu.metrics.chrf import CHRF
  sums, score = _sacrebleu(CHRF())
  return Metric('chrf', sums, score, score, most=100.0)


def _rouge(kind: str) -> Metric:
  def sums(scored: Sequence[Scored]) -> np.ndarray:
    from rouge_score import rouge_scorer
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    return np.array([[scorer.score(s.target.strip(), s.prediction.strip())[kind].fmeasure, 1.0] for s in scored])
  return Metric(kind, sums, _ratio, _ratio)


METRICS: dict[str, Callable[[], Metric]] = {
    'accuracy': lambda: Metric('accuracy', _equal, _ratio, _ratio),
    'exact_match': lambda: Metric('exact_match', _equal, _ratio, _ratio),
    'macro_f1': lambda: Metric('macro_f1', _confusion, _macro_f1),
    'bleu': _bleu,
    'chrf': _chrf,
    'rouge1': lambda: _rouge('rouge1'),
    'rouge2': lambda: _rouge('rouge2'),
    'rougeL': lambda: _rouge('rougeL'),
}
LOSS = Metric('loss', lambda scored: np.array([[s.loss, s.tokens] for s in scored]), _ratio, _ratio,
              higher_is_better=False, most=math.inf)


def get(name: str) -> Metric:
  """The metric of a name; `loss` is nats per target token.

  Raises:
    InputError: there is no such metric.
  """
  if name == 'loss':
    return LOSS
  if name not in METRICS:
    raise InputError(f'task.metrics: no metric {name!r} (known: {", ".join(METRICS)})')
  return METRICS[name]()


def measured(name: str) -> Metric:
  """The metric of a score on a split, or on a task that was retained: of `test/accuracy`, or `retain/NAME/accuracy`."""
  return get(name.split('/', 2 if name.startswith('retain/') else 1)[-1])
