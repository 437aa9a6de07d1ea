"""What is kept of a request, and of a reference's rows, once the model has read them."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.data import prompts
from research.errors import InputError
from research.evaluation.embed import embed
from research.experiment.assemble import Experiment
from research.monitoring import answers, rows, space
from research.monitoring.rows import Prompt, Rows
from research.monitoring.sample import Reference, Sample
from research.monitoring.space import Space
from research.tree import Tree

EXCERPT = 1000      # characters of a prompt or an answer that are kept


class Reader(NamedTuple):
  """A run that reads texts, and what it compares them with."""
  experiment: Experiment
  variables: Tree
  said: Callable[[str], str]      # what of a prompt is not the template
  known: frozenset[str]           # the reference's words


def reader(experiment: Experiment, variables: Tree, found: Rows) -> Reader:
  """One for a run and a reference.

  Args:
    experiment: the run's.
    variables: as it learned them.
    found: the reference's rows.
  """
  said = rows.said(experiment)
  return Reader(experiment, variables, said, rows.vocabulary([said(one.text) for one in found.learned]))


def _read(by: Reader, texts: Sequence[str], label: str) -> tuple[np.ndarray, np.ndarray]:
  """(vectors [N, D], tokens [N]) of prompts; of one over the context the vector is of its end, which asks.

  Raises:
    InputError: the model gives vectors that are not finite.
  """
  exp = by.experiment
  places, room = prompts.placeholders(exp.strategy.slots), exp.context - exp.strategy.prefix_slots - exp.strategy.slots
  ids = [exp.tokenizer.prompt(text) for text in texts]
  vectors = embed(exp.model, by.variables, [[*places, *(one[-room:] or [exp.tokenizer.eos])] for one in ids], label=label)
  if wrong := int((~np.isfinite(vectors).all(1)).sum()):
    raise InputError(f'{label}: the model\'s vectors of {wrong} of {len(texts)} texts are not finite, and cannot be compared; '
                     'evaluate the run (research.evaluate) to see whether it is damaged')
  return vectors, np.array([len(one) for one in ids], np.int64)


def reference(by: Reader, found: Rows) -> tuple[Space, Reference]:
  """The reference as the model reads it, and the space that its learned rows make."""
  every = [*found.learned, *found.fresh]
  vectors, tokens = _read(by, [one.text for one in every], 'read the reference')
  made = space.of(vectors[:len(found.learned)])
  language, unknown, label = _texts(by, every)
  sample = Sample(made.place(vectors), tokens, language, unknown, label, np.full(len(every), np.nan), np.full(len(every), ''))
  return made, Reference(sample.part(slice(len(found.learned))), sample.part(slice(len(found.learned), None)))


def _texts(by: Reader, every: Sequence[Prompt]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  said = [by.said(one.text) for one in every]
  return (np.array([rows.language(text) for text in said]), np.array([rows.unknown(text, by.known) for text in said]),
          np.array([one.label for one in every]))


def requests(by: Reader, made: Space, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """What is kept of requests, as `folder.REQUEST_FIELDS` has it.

  Args:
    by: reads them.
    made: the space of the reference.
    found: lines of a log.
  """
  vectors, tokens = _read(by, [one['prompt'] for one in found], 'read requests')
  return [_kept(by, one, vector, count)
          for one, vector, count in zip(found, np.round(made.place(vectors), 5).tolist(), tokens.tolist())]


def _kept(by: Reader, one: dict[str, Any], vector: list[float], count: int) -> dict[str, Any]:
  said, answer, ranked = by.said(one['prompt']), one['answer'].strip(), one.get('choices') or {}
  loss, confidence = None, None
  if ranked:
    largest = max(ranked.values())
    confidence = 1 / sum(math.exp(value - largest) for value in ranked.values())
  length = one['tokens']['answer']
  if (total := one.get('log_probability')) is not None and length:
    loss = -total / length
    confidence = math.exp(-max(loss, 0.0)) if confidence is None else confidence
  elif confidence is not None:
    loss = -math.log(confidence)
  return {**{name: one[name] for name in ('id', 'time', 'model', 'endpoint', 'ended', 'tokens', 'seconds')}, 'read': count,
          'language': rows.language(said), 'unknown': rows.unknown(said, by.known),
          'label': answer if ranked or answer in by.experiment.task.choices else '', 'loss': loss, 'confidence': confidence,
          'refusal': answers.is_refusal(answer), 'loop': answers.is_loop(answer), 'prompt': shortened(one['prompt']),
          'answer': shortened(answer), 'whole': digest(answer), 'vector': vector}


def shortened(text: str) -> str:
  """A text, or its two ends where it is long."""
  return text if len(text) <= EXCERPT else f'{text[:EXCERPT // 2]} […] {text[-EXCERPT // 2:]}'


def digest(text: str) -> str:
  """By which a whole answer is known again."""
  return hashlib.sha256(text.strip().encode(errors='surrogatepass')).hexdigest()[:16]


def sample(seen: Sequence[dict[str, Any]], width: int) -> Sample:
  """Requests as they are compared, from what was kept of them.

  Args:
    seen: in their order.
    width: of a vector, where there is none.
  """
  of = lambda name: [one[name] for one in seen]
  number = lambda name: np.array([np.nan if one.get(name) is None else one[name] for one in seen], float)
  vectors = np.array(of('vector'), float).reshape(len(seen), -1) if seen else np.zeros((0, width))
  return Sample(vectors, np.array(of('read'), np.int64), np.array(of('language'), str), number('unknown'),
                np.array(of('label'), str), number('loss'), np.array(of('ended'), str))
