"""One evaluation for every strategy: from variables and rows to predictions, scores and their intervals."""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.data import probes, texts
from research.data.probe_rows import COLUMN
from research.data.prompts import Example
from research.data.tasks import BITS_PER_BYTE, OF_LOSS, TEXT, Task, label_of, references_of
from research.data.tokenizer import Tokenizer
from research.errors import InputError
from research.evaluation import clusters, decode, decoding, metrics, own, shared_prefix, templates
from research.evaluation.metrics import Scored
from research.evaluation.score import Scores, score_all, sizes
from research.models.functions import Model
from research.programs.members import CohortVariables
from research.tree import Tree

RANKED = 'ranked'                # what a prediction's choices were ranked by, where that is not their log-likelihoods
WITHOUT = '_without_leaked'      # what the name of a score ends with that leaves out the examples that training holds


class Evaluation(NamedTuple):
  """Of one model on one split."""
  predictions: list[dict[str, Any]]        # one an example, in the rows' order (fields: see the contract in the README); of
                                           # several templates those under the first, then those under the next
  scores: dict[str, float]                 # metric -> value over all rows; `loss` in nats per target token; see WITHOUT
  intervals: dict[str, list[float]]        # metric -> [low, high], 95 %, over rows and templates
  signatures: dict[str, str]               # metric -> all that it depends on beside the texts, where others write it so
  leaked: int = 0                          # rows that training holds; where it holds all there is no score without them
  prompt_tokens: float = 0.0               # that are read before an answer, on average, a strategy's own among them


def evaluate(model: Model, variables: Tree, tokenizer: Tokenizer, task: Task, examples: Sequence[Example],
             batch_size: int, generate: bool = True, label: str | None = None,
             leaked: Collection[int] = ()) -> Evaluation:
  """One run's evaluation: see `evaluate_all`.

  Args:
    model: as for `evaluate_all`, as are the others.
    variables: of the run.
    tokenizer: of the model.
    task: says what is measured.
    examples: the rows.
    batch_size: packed sequences or prompts per batch.
    generate: False leaves out free text.
    label: of the progress line; None for silence.
    leaked: numbers of the rows that training holds.
  """
  return evaluate_all(model, variables, tokenizer, task, examples, batch_size, generate, label, leaked)[0]


def evaluate_all(model: Model, variables: Tree | CohortVariables, tokenizer: Tokenizer, task: Task, examples: Sequence[Example],
                 batch_size: int, generate: bool = True, label: str | None = None,
                 leaked: Collection[int] = ()) -> list[Evaluation]:
  """Scores every row, ranks its choices by log-likelihood or generates its answer, and measures; for every member.

  Args:
    model: of all members.
    variables: of a run, or of several that read the same rows.
    tokenizer: of the model.
    task: says what is measured, and how long a generated answer may be.
    examples: one or more rows of one split.
    batch_size: packed sequences (scoring) or prompts (generation) per batch; no result depends on it.
    generate: False leaves out free text, which takes much longer than its loss, and the metrics that need it; so does a
      task without metrics.
    label: of the progress line; None for silence.
    leaked: numbers of the rows that training holds; there are scores without these too.
  """
  asked = sum(len(e.prompt_ids) for e in examples) / len(examples)
  variables, cut = shared_prefix.read(model, variables, [ids for e in examples for ids in (e.prompt_ids, *e.content_free)])
  read = examples[0].prompt_ids[:cut]
  examples = [e._replace(prompt_ids=e.prompt_ids[cut:], content_free=tuple(ids[cut:] for ids in e.content_free))
              for e in examples]
  scores = score_all(model, variables, examples, batch_size, label, bool(task.rejected), task.scoring)
  ids: Sequence[list[list[int]] | None] = [None] * len(scores)
  if generate and task.writes:
    ends = dict.fromkeys((*tokenizer.ends, *(e.target_ids[-1] for e in examples)))
    longest = max(task.max_new_tokens, *(len(e.target_ids) for e in examples))
    ids = decode.generate_all(model, variables, [e.prompt_ids for e in examples], longest, [*ends], batch_size,
                              decoding.of_pairs(task.decoding), label, ended=ended_by(tokenizer, lambda number: task.stop),
                              read=read)
  return [_measured(tokenizer, task, examples, *of_member, leaked)._replace(prompt_tokens=asked)
          for of_member in zip(scores, ids)]


def _measured(tokenizer: Tokenizer, task: Task, examples: Sequence[Example], scores: Sequence[Scores],
              ids: Sequence[list[int]] | None, leaked: Collection[int]) -> Evaluation:
  """One member's evaluation, from its scores and, where it wrote free text, that."""
  names = ('loss', *task.metrics)
  if task.choices:
    answers = [max(s.ranked, key=s.ranked.__getitem__) for s in scores]
    targets = [label_of(task, e.row) for e in examples]
  elif ids is None:
    answers, targets = [''] * len(examples), [e.target.strip() for e in examples]
    names = ('loss', *(name for name in task.metrics if name in OF_LOSS))
  else:
    wrong = [decoding.NOT_FINITE in i for i in ids]
    scores = [s._replace(loss=math.nan) if w else s for s, w in zip(scores, wrong)]      # see `check_finite`
    answers = [cut(tokenizer.decode([n for n in i if n != decoding.NOT_FINITE]), task.stop).strip() for i in ids]
    targets = [_said(tokenizer, e).strip() for e in examples]
  lengths: list[int | None] = [None] * len(examples)
  if BITS_PER_BYTE in names:
    lengths = [*(texts.byte_counts(examples) if task.name == TEXT else (len(e.target.encode()) for e in examples))]
  scored = [Scored(a, t, s.loss, s.tokens, (*s.choices,), references_of(task, e.row)[1:] if task.writes else (), b, e.row,
                   ranked=(*s.ranked.values(),)) for e, a, t, s, b in zip(examples, answers, targets, scores, lengths)]
  predictions = [{'id': e.id, 'row': e.row, 'prompt': e.prompt, 'target': s.target, 'prediction': s.prediction,
                  'loss': s.loss, 'tokens': s.tokens, **(_of_choices(task, e, c) if task.choices else {}),
                  **({'leaked': True} if e.id in leaked else {}), **({'references': s.references} if s.others else {}),
                  **({'bytes': s.bytes} if s.bytes is not None else {}),
                  **({'cluster': str(e.row[task.cluster])} if task.cluster else {}),
                  **({'template': e.template} if task.prompts else {}),
                  **({COLUMN: e.row[COLUMN]} if task.name in probes.PROBES else {})}
                 for e, s, c in zip(examples, scored, scores)]
  rows = [e for e in examples if not e.template]
  apart = [number for number, e in enumerate(rows) if e.id not in leaked]
  of = [str(e.row[task.cluster]) for e in rows] if task.cluster else []
  values, ranges, signatures, count = {}, {}, {}, len(task.prompts) or 1
  for name in names:
    metric = metrics.get(name)
    vectors = metric.sums(scored)
    if metric.signature:
      signatures[name] = metric.signature(scored) + f'; task.scoring={task.scoring}' * (task.name in probes.PROBES)
    of_rows, over = templates.side_by_side(vectors, count), templates.over(metric, count)
    for called, chosen in ((name, range(len(rows))), (name + WITHOUT, apart)):
      if called == name or 0 < len(chosen) < len(rows):
        some = clusters.sums(of_rows[chosen], [of[row] for row in chosen] if of else ())
        values[called] = float(over.score(some.sum(0)))
        ranges[called] = templates.interval(over, some, bool(of))
    if name != 'loss':
      each = metric.each(vectors) if metric.each else np.full(len(scored), None)
      for prediction, value in zip(predictions, each):
        prediction[name] = None if value is None else float(value)
  return Evaluation(predictions, values, ranges, signatures, len(rows) - len(apart))


def _of_choices(task: Task, e: Example, scores: Scores) -> dict[str, Any]:
  """What a prediction says of choices: log-likelihoods, lengths, and what they are ranked by where that is something else."""
  differs = RANKED if task.scoring != 'sum' else 'calibrated' if scores.blank else None
  lengths = {'choice_tokens': [*sizes(e, 'mean', bool(task.rejected)).values()], 'choice_bytes': [*sizes(e, 'byte').values()]}
  return {'choices': scores.choices, **lengths, **({differs: scores.ranked} if differs else {})}


def check_finite(evaluation: Evaluation, where: str) -> None:
  """Refuses an evaluation of which some number is no score.

  Args:
    evaluation: of a run.
    where: the run directory, for the error.
  Raises:
    InputError: the loss or answer of some example, or the log-likelihood of a choice, is not finite; names the first.
  """
  for one in evaluation.predictions:
    choices = {**one.get('choices', {}), **one.get('calibrated', {}), **one.get(RANKED, {})}
    bad = next((choice for choice, value in choices.items() if not math.isfinite(value)), None)
    if bad is not None or not math.isfinite(one['loss']):
      what = f'the log-likelihood of {bad!r}' if bad is not None else 'the loss, or a logit of the answer,'
      raise InputError(f'{where}: {what} of row {one["id"]} is not finite (NaN or infinite), so nothing is scored: the numbers '
                       f'of the model or of what was added to it grow too large on the way; {NOT_FINITE}')


NOT_FINITE = 'look at the scale of the adapter, at the weights, and at model.dtype (float32 holds more than float16)'


def cut(text: str, stop: Sequence[str]) -> str:
  """A text up to where one of the stops begins first."""
  return min((text.split(one)[0] for one in stop), key=len, default=text)


def ended_by(tokenizer: Tokenizer, stops_of: Callable[[int], Sequence[str]]) -> decode.EndedFn:
  """What says whether an answer has come to one of the texts that end it (see `cut`).

  Args:
    tokenizer: of the model.
    stops_of: a prompt's number -> the texts that end its answer.
  """
  def ended(number: int, ids: list[int]) -> bool:
    stops = stops_of(number)
    return bool(stops) and any(one in text for text in [tokenizer.decode(ids)] for one in stops)
  return ended


def _said(tokenizer: Tokenizer, e: Example) -> str:
  """The target as an answer would be read that says the same: without special tokens, and up to its end."""
  *ids, _ = e.target_ids
  if not any(map(tokenizer.is_special, ids)):
    return e.target
  return tokenizer.decode(itertools.takewhile(lambda token: token not in tokenizer.ends, ids))


def scored_rows(predictions: list[dict[str, Any]]) -> list[Scored]:
  """What a predictions file holds, ready to be measured again."""
  return [Scored(p['prediction'], p['target'], p['loss'], p['tokens'], tuple(p.get('choices', ())),
                 tuple(p.get('references') or ())[1:], p.get('bytes'), _row(p),
                 {name: value for name, value in p.items() if own.is_own(name) and value is not None} or None, _ranked(p))
          for p in predictions]


def _row(prediction: dict[str, Any]) -> dict[str, Any] | None:
  """The row of a prediction; where it was not kept, what a probe is measured by."""
  return prediction.get('row') or ({COLUMN: prediction[COLUMN]} if COLUMN in prediction else None)


def _ranked(prediction: dict[str, Any]) -> tuple[float, ...]:
  """What the choices of a prediction were ranked by; nothing where only their texts were kept."""
  found = prediction.get(RANKED) or prediction.get('calibrated') or prediction.get('choices') or {}
  return (*found.values(),) if isinstance(found, dict) else ()
