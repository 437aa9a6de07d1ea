"""Log-likelihoods of given answers: of each row's target, and of each of its choices."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from research.data import batches
from research.data.batches import Document
from research.data.prompts import Example
from research.models.transformer import Model
from research.training.compile import compiled
from research.training.monitor import tracked
from research.training.steps import eval_step
from research.tree import Tree


class Scores(NamedTuple):
  """Of one example."""
  loss: float                       # nats, summed over the target's tokens, EOS with them
  tokens: int                       # the target's, EOS with them
  choices: dict[str, float]         # log-likelihood of each choice's tokens, without EOS; empty for free text


def document_losses(model: Model, variables: Tree, documents: Sequence[Document], batch_size: int,
                    label: str | None = None) -> list[np.ndarray]:
  """The loss of every target of every document, in nats; the same for every batch size."""
  found: list[np.ndarray] = [None] * len(documents)
  for batch, layout in tracked(list(batches.evaluation_batches(documents, batch_size)), label):
    losses = np.asarray(compiled(eval_step, variables, batch, model=model)(variables, batch), np.float64)
    for place in layout:
      found[place.document] = losses[place.line, place.start:place.start + place.count]
  return found


def score(model: Model, variables: Tree, examples: Sequence[Example], eos: int, batch_size: int,
          label: str | None = None) -> list[Scores]:
  """Scores every example. Where there are choices they share their prompt, and the target is one of them."""
  ranked = bool(examples[0].choices)
  start = model.config.start
  documents = [batches.compared(e, eos, start) if ranked else batches.answered(e, start) for e in examples]
  found = []
  for example, losses in zip(examples, document_losses(model, variables, documents, batch_size, label)):
    if not ranked:
      found.append(Scores(float(losses.sum()), len(losses), {}))
      continue
    likelihoods, at, own = {}, 0, None
    for choice, ids in example.choices.items():
      part = losses[at:at + len(ids) + 1]
      at += len(ids) + 1
      likelihoods[choice] = -float(part[:-1].sum())
      if [*ids, eos] == example.target_ids:
        own = part
    found.append(Scores(float(own.sum()), len(own), likelihoods))
  return found
