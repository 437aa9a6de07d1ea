"""Metrics as sums: each is a vector per example and a function of the vectors' total.

So a score over any selection of examples (a bootstrap resample, a jackknife's all-but-one) is one matrix product away,
for corpus metrics such as BLEU as for accuracy. The vectors of BLEU, chrF, TER and ROUGE are sacrebleu's and rouge-score's own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from research.console import say_once
from research.data import probes
from research.data.choices import CALIBRATION
from research.data.probe_rows import COLUMN
from research.data.tasks import BITS_PER_BYTE, OF_LOSS, TEXT, Task, label_of, references_of
from research.errors import InputError
from research.evaluation import bias, confusion, own, translation, words


class Scored(NamedTuple):
  """What there is to judge of one example."""
  prediction: str
  target: str
  loss: float              # nats, summed over the target's tokens
  tokens: int              # the target's, EOS among them
  choices: tuple[str, ...]
  others: tuple[str, ...] = ()               # further right answers beside the target
  bytes: int | None = None                   # the target's, in UTF-8; None where nothing asks for them
  row: dict[str, Any] | None = None          # its columns, where they were kept
  judged: Mapping[str, float] | None = None  # name of a person's own metric -> its number, where that is known already
  ranked: tuple[float, ...] = ()             # what each choice was ranked by, whose softmax is its probability

  @property
  def said(self) -> str:
    return self.prediction.strip()

  @property
  def references(self) -> list[str]:
    """All right answers, the target first."""
    return [text.strip() for text in (self.target, *self.others)]


class Metric(NamedTuple):
  """A score of a set of examples."""
  name: str
  sums: Callable[[Sequence[Scored]], np.ndarray]            # [n, k] float64, one vector an example
  score: Callable[[np.ndarray], np.ndarray]                 # totals [..., k] -> scores [...]
  each: Callable[[np.ndarray], np.ndarray] | None = None    # [n, k] -> the metric of every example, where it has one
  higher_is_better: bool = True
  most: float = 1.0                                         # what a score can be
  least: float = 0.0
  of_prediction: bool = True                                # whether it follows from what was said and what is right
  signature: Callable[[Sequence[Scored]], str] | None = None      # all that it depends on beside the texts, as others write it
  is_told: Callable[[np.ndarray], bool] = lambda totals: True     # whether totals [k] hold an example of each kind it is of
  templates: int = 1                                        # under how many a row was asked: see `evaluation.templates`

  @property
  def is_share(self) -> bool:
    """Whether it is a share of the examples: each counts in whole or not at all."""
    return self.name in ('accuracy', 'exact_match', 'stereotype_share')

  @property
  def limited(self) -> bool:
    """Whether there is a worst score and a best one."""
    return math.isfinite(self.most - self.least)

  def worst(self, scored: Sequence[Scored]) -> np.ndarray:
    """The sums of a run that has learned nothing, of shape [n, k]: it says nothing, or gets the worst number everywhere."""
    if self.of_prediction or self.name in CALIBRATION:
      return self.sums(worst(scored))
    return np.tile([self.least if self.higher_is_better else self.most, 1.0], (len(scored) // self.templates, self.templates))


MOST_NATS = 300.0      # a token, to the power of which perplexity is told


def _ratio(totals: np.ndarray) -> np.ndarray:
  return totals[..., 0] / np.maximum(totals[..., 1], 1e-300)


def _mean(of_one: Callable[[Scored], float]) -> Callable[[Sequence[Scored]], np.ndarray]:
  """Sums [n, 2] of which the ratio is the mean of a number of every example."""
  return lambda scored: np.array([[of_one(s), 1.0] for s in scored])


def _equal(s: Scored) -> float:
  return float(s.said in s.references)


def _of_classes(name: str, score: Callable[[np.ndarray], np.ndarray], least: float = 0.0) -> Metric:
  """A score of the table of right and predicted classes: a task's choices, or all texts that are right somewhere."""
  def sums(scored: Sequence[Scored]) -> np.ndarray:
    targets = [s.references[0] for s in scored]
    classes = [c.strip() for c in scored[0].choices] or sorted(set(targets))
    return confusion.tables(targets, [s.said for s in scored], classes)
  return Metric(name, sums, confusion.of_totals(score), least=least)


def _of_class(name: str) -> Metric:
  kind, _, of = name.partition(':')
  sums = lambda scored: confusion.one_class([s.references[0] for s in scored], [s.said for s in scored], of.strip())
  return Metric(name, sums, confusion.OF_ONE[kind])


def _of_corpus(name: str) -> Metric:
  """A metric of sacrebleu, which is itself a function of summed sentence statistics."""
  corpus = translation.corpus(name)
  ter = name.startswith('ter')
  return Metric(name, lambda scored: corpus.sums([s.said for s in scored], [s.references for s in scored]), corpus.score,
                translation.corpus(name, by_sentence=True).score, higher_is_better=not ter, most=math.inf if ter else 100.0,
                signature=lambda scored: corpus.signature([s.references for s in scored]))


def _of_words(name: str, score: Callable[[str, Sequence[str]], float]) -> Metric:
  return Metric(name, _mean(lambda s: score(s.said, s.references)), _ratio, _ratio)


def _of_loss(name: str) -> Metric:
  """Of the loss of the target with its end: e to the power of it per token, or in bits per byte of the target's text."""
  if name == BITS_PER_BYTE:
    score = lambda totals: _ratio(totals) / math.log(2)
    sums = lambda scored: np.array([[s.loss, math.nan if s.bytes is None else s.bytes] for s in scored])
  else:
    score = lambda totals: np.exp(np.minimum(_ratio(totals), MOST_NATS))      # of a run that diverged it stays a number
    sums = lambda scored: np.array([[s.loss, s.tokens] for s in scored])
  return Metric(name, sums, score, score, higher_is_better=False, most=math.inf, of_prediction=False)


def _of_own(name: str) -> Metric:
  """A person's own: the mean of the numbers that were kept, or else that its function gives."""
  of = own.parse(name)

  def sums(scored: Sequence[Scored]) -> np.ndarray:
    kept = [s.judged[name] for s in scored if s.judged and name in s.judged]
    if len(kept) < len(scored):
      kept = own.judge(of, [s.prediction for s in scored], [s.row or {} for s in scored])
    return np.array([[value, 1.0] for value in kept])
  return Metric(name, sums, _ratio, _ratio, not of.lower, of.most, of.least, of_prediction=False)


def _of_probe(name: str) -> Metric:
  """A score of a bias probe, by what its rows say of each example."""
  of = bias.MEASURES[name]

  def sums(scored: Sequence[Scored]) -> np.ndarray:
    return of.sums([bias.Probed((s.row or {})[COLUMN], s.ranked, _equal(s) == 1) for s in scored])
  return Metric(name, sums, of.score, of.each, of.ideal is None, of.most, of.least, signature=lambda scored: of.definition,
                is_told=lambda totals: bool((of.counts(totals) > 0).all()))


BINS = 15      # of confidence, equally wide (Guo et al. 2017)


def log_probabilities(scored: Sequence[Scored]) -> list[np.ndarray]:
  """The log of each choice's probability, of shape [choices] for every example: the softmax of what they are ranked by.

  Raises:
    InputError: of some example it is not known.
  """
  found = []
  for s in scored:
    if not s.choices or len(s.ranked) != len(s.choices):
      raise InputError('the predictions hold no probabilities of choices, which ece, brier and log_loss are of: free text was '
                       'generated, or an earlier version kept the answers alone; evaluate the run again')
    logits = np.array(s.ranked)
    found.append(logits - np.logaddexp.reduce(logits))
  return found


def worst(scored: Sequence[Scored]) -> list[Scored]:
  """The same examples, answered as badly as can be: with nothing, or certain of a wrong choice."""
  wrong = lambda s: next((i for i, choice in enumerate(s.choices) if choice != s.target), 0)
  return [s._replace(prediction='', ranked=tuple(0.0 if i == wrong(s) else -math.inf for i in range(len(s.choices))))
          for s in scored]


def _bins(scored: Sequence[Scored]) -> np.ndarray:
  """Per example [3 x BINS]: in the bin of the likeliest choice's probability that, whether it is right, and 1."""
  out = np.zeros((len(scored), 3, BINS))
  for i, (s, logs) in enumerate(zip(scored, log_probabilities(scored))):
    likeliest = int(logs.argmax())
    confidence = float(np.exp(logs[likeliest]))
    at = min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1)      # a bin holds its upper end
    out[i, :, at] = confidence, s.choices[likeliest].strip() == s.target.strip(), 1
  return out.reshape(len(scored), -1)


def _ece(totals: np.ndarray) -> np.ndarray:
  """Expected calibration error: how far confidence is from accuracy, bin by bin, weighted by the bins' examples."""
  confidence, right, count = np.moveaxis(totals.reshape(*totals.shape[:-1], 3, BINS), -2, 0)
  return np.abs(confidence - right).sum(-1) / np.maximum(count.sum(-1), 1e-300)


def _truth(s: Scored) -> np.ndarray:
  return np.array([choice.strip() == s.target.strip() for choice in s.choices])


def _brier(scored: Sequence[Scored]) -> np.ndarray:
  """Per example the squared differences of the probabilities from the truth, summed over the choices (Brier 1950): 0 to 2."""
  return np.array([[((np.exp(logs) - _truth(s)) ** 2).sum(), 1.0] for s, logs in zip(scored, log_probabilities(scored))])


def _log_loss(scored: Sequence[Scored]) -> np.ndarray:
  """Per example the negative log-probability of the true choice among the choices, in nats."""
  return np.array([[-logs[_truth(s)].sum(), 1.0] for s, logs in zip(scored, log_probabilities(scored))])


METRICS: dict[str, Callable[[], Metric]] = {
    'accuracy': lambda: Metric('accuracy', _mean(_equal), _ratio, _ratio),
    'macro_f1': lambda: _of_classes('macro_f1', confusion.macro_f1),
    'micro_f1': lambda: _of_classes('micro_f1', confusion.micro_f1),
    'weighted_f1': lambda: _of_classes('weighted_f1', confusion.weighted_f1),
    'matthews': lambda: _of_classes('matthews', confusion.matthews, least=-1.0),
    'exact_match': lambda: Metric('exact_match', _mean(_equal), _ratio, _ratio),
    'ece': lambda: Metric('ece', _bins, _ece, higher_is_better=False, of_prediction=False),
    'brier': lambda: Metric('brier', _brier, _ratio, _ratio, higher_is_better=False, most=2.0, of_prediction=False),
    'log_loss': lambda: Metric('log_loss', _log_loss, _ratio, _ratio, higher_is_better=False, most=math.inf,
                               of_prediction=False),
    'token_f1': lambda: _of_words('token_f1', words.token_f1),
    'token_f1:unicode': lambda: _of_words('token_f1:unicode', partial(words.token_f1, in_any_script=True)),
    **{name: partial(_of_corpus, name) for name in translation.NAMES},
    **{name: partial(_of_words, name, partial(words.rouge, name)) for name in ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')},
    **{name: partial(_of_loss, name) for name in OF_LOSS},
    **{name: partial(_of_probe, name) for name in bias.MEASURES},
}
FORMS = (*(f'{kind}:CLASS' for kind in confusion.OF_ONE), own.FORM)      # names that a person completes
LOSS = Metric('loss', lambda scored: np.array([[s.loss, s.tokens] for s in scored]), _ratio, _ratio,
              higher_is_better=False, most=math.inf, of_prediction=False)


def get(name: str) -> Metric:
  """The metric of a name; `loss` is nats per target token.

  Raises:
    InputError: there is no such metric.
  """
  if name == 'loss':
    return LOSS
  if name in METRICS:
    return METRICS[name]()
  if name.partition(':')[0] in confusion.OF_ONE and name.partition(':')[2].strip():
    return _of_class(name)
  if own.is_own(name):
    return _of_own(name)
  raise InputError(f'task.metrics: no metric {name!r} (known: {", ".join((*METRICS, *FORMS))})')


AT_BLANKS = {**{f'bleu{tokenizer}': 'bleu:zh, bleu:ja-mecab or bleu:char' for tokenizer in
                ('', *(f':{name}' for name in translation.AT_BLANKS))},
             'ter': 'ter:asian', 'token_f1': 'token_f1:unicode'}      # metrics of words between blanks -> those of other words


def check(task: Task, trains: bool = True) -> None:
  """Refuses metrics by which a task cannot be measured.

  Args:
    task: with its metrics.
    trains: whether training follows; otherwise what only makes a score senseless is said, and no more.
  Raises:
    InputError: there is no such metric, its class is none of the task's, it splits at blanks what is written without them, or
      a person's own cannot be had, or fails on the first row.
  """
  held_out = [row for split in ('valid', 'test') for row in task.splits.get(split, ())]
  targets = [] if task.choices or task.name == TEXT else [references_of(task, row) for row in held_out]
  for name in task.metrics:
    if not name.isprintable():
      raise InputError(f'task.metrics: {name!r} holds a line break or another character that cannot be printed')
    get(name)
    if name in bias.MEASURES and name not in probes.metrics_of(task.name):
      raise InputError(f'task.metrics={name}: is of the probe {probes.task_of(name)} alone')
    kind, _, of = name.partition(':')
    classes = [c.strip() for c in task.choices] or [first.strip() for first, *_ in targets]
    if kind in confusion.OF_ONE and classes and of.strip() not in classes:
      told = f'must be one of {", ".join(classes)}' if task.choices else 'is the answer to no row of valid or test'
      raise InputError(f'task.metrics={name}: class {of!r} {told}')
    joined = sum(words.without_blanks(text) for texts in targets for text in texts[:1]) if name in AT_BLANKS else 0
    if joined:
      told = (f'task.metrics={name}: splits words at blanks, and {joined} of {len(targets)} targets are of a script that sets '
              f'none; take {AT_BLANKS[name]}')
      if trains and 2 * joined >= len(targets):
        raise InputError(told)
      say_once(told)
    if own.is_own(name) and kind not in confusion.OF_ONE:
      own.load(own.parse(name))
      for row in held_out[:1] if trains else ():
        own.judge(own.parse(name), [label_of(task, row) if task.choices else references_of(task, row)[0].strip()], [row])


def measured(name: str) -> Metric:
  """The metric of a score on a split, or on a task that was retained: of `test/accuracy`, or `retain/NAME/accuracy`."""
  return get(name.split('/', 2 if name.startswith('retain/') else 1)[-1])
