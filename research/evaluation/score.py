"""Log-likelihoods of given answers: of each row's target, and of each of its choices."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from research.console import tracked
from research.data import batches
from research.data.batches import Document
from research.data.prompts import Example
from research.distributed import mesh, placement, processes
from research.models.functions import Model
from research.programs import members
from research.programs.compile import compiled
from research.programs.members import CohortVariables
from research.training import cohort, steps
from research.tree import Tree

Asked = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]      # a prompt without content, and the choices after it


class Scores(NamedTuple):
  """Of one example."""
  loss: float                       # nats, summed over the target's tokens, EOS with them
  tokens: int                       # the target's, EOS with them
  choices: dict[str, float]         # log-likelihood of each choice's tokens, without EOS; empty for free text
  blank: dict[str, float]           # what each choice has where the prompt says nothing: see `score_all`; or empty
  size: dict[str, int]              # what each choice's log-likelihood is divided by; empty: nothing

  @property
  def ranked(self) -> dict[str, float]:
    """What the choices are ranked by: their log-likelihoods, less what they have without content, over their lengths."""
    return {choice: (value - self.blank.get(choice, 0.0)) / self.size.get(choice, 1) for choice, value in self.choices.items()}


def sizes(example: Example, scoring: str, whole: bool = False) -> dict[str, int]:
  """What each choice's log-likelihood is divided by: its tokens, characters or bytes; empty where it stays as it is.

  lm-evaluation-harness 0.4.13 divides by characters for `acc_norm`, and by bytes of UTF-8 for `acc_bytes`.

  Args:
    example: has the choices.
    scoring: one of `data.choices.SCORINGS`.
    whole: the token that ends a choice is counted too.
  """
  if scoring not in ('mean', 'char', 'byte'):
    return {}
  lengths = [(len(ids) + whole, *of_text) for ids, of_text in zip(example.choices.values(), example.lengths)]
  return dict(zip(example.choices, (of[('mean', 'char', 'byte').index(scoring)] for of in lengths)))


def document_losses(model: Model, variables: Tree | CohortVariables, documents: Sequence[Document], batch_size: int,
                    label: str | None = None) -> list[np.ndarray]:
  """The loss of every target of every document, in nats, float64; the same for every batch size.

  Args:
    model: of all members.
    variables: of a run, or of several.
    documents: one or more.
    batch_size: packed sequences per batch, at most.
    label: of the progress line; None for silence.
  Returns:
    An array for each document, of shape [targets], or of several members [members, targets].
  """
  return _of_targets(cohort.eval_step, model, variables, documents, batch_size, label)


def document_losses_and_hits(model: Model, variables: Tree, documents: Sequence[Document], batch_size: int,
                             label: str | None = None) -> list[np.ndarray]:
  """The loss of every target of every document, and whether no other token is likelier there.

  Args:
    model: of the run.
    variables: of the run.
    documents: one or more.
    batch_size: packed sequences per batch, at most.
    label: of the progress line; None for silence.
  Returns:
    An array for each document, float64 of shape [2, targets]: the losses in nats, and 1 or 0.
  """
  return _of_targets(steps.hit_step, model, variables, documents, batch_size, label)


def _of_targets(step: Callable[..., jax.Array], model: Model, variables: Tree | CohortVariables, documents: Sequence[Document],
                batch_size: int, label: str | None) -> list[np.ndarray]:
  """What a step says of the targets [..., B, T] of a batch, for each document [..., targets]."""
  found: dict[int, np.ndarray] = {}
  several = list(batches.evaluation_batches(documents, batch_size, mesh.batch_shards()))
  for batch, layout in tracked(several, label, size=lambda one: len(one[1])):
    placed = placement.shard_batch(batch)
    values = processes.to_host(compiled(step, variables, placed, model=model)(variables, placed)).astype(np.float64)
    for place in layout:
      found[place.document] = values[..., place.line, place.start:place.start + place.count]
  return [found[number] for number in range(len(documents))]


def score(model: Model, variables: Tree, examples: Sequence[Example], batch_size: int,
          label: str | None = None) -> list[Scores]:
  """Scores every example: `score_all` of one run.

  Args:
    model: as for `score_all`, as are the others.
    variables: of the run.
    examples: one or more.
    batch_size: packed sequences per batch, at most.
    label: of the progress line; None for silence.
  """
  return score_all(model, variables, examples, batch_size, label)[0]


def score_all(model: Model, variables: Tree | CohortVariables, examples: Sequence[Example], batch_size: int,
              label: str | None = None, whole: bool = False, scoring: str = 'sum') -> list[list[Scores]]:
  """Scores every example, for every member; a run is its only one.

  Where there are choices they share their prompt, and the target is one of them.

  Args:
    model: of all members.
    variables: of a run, or of several that read the same rows.
    examples: one or more; either all have choices or none has.
    batch_size: packed sequences per batch, at most; no result depends on it.
    label: of the progress line; None for silence.
    whole: a choice is ranked with the token that ends it, as an answer that can be the beginning of another.
    scoring: what choices are ranked by, one of `data.choices.SCORINGS`. With `pmi` that is the log-likelihood less that after
      the prompt without content: pointwise mutual information, given the prompt's form (Brown et al. 2020, Holtzman et al.
      2021). With others prompts without content calibrate: less the log of each choice's share there (Zhao et al. 2021).
  """
  ranked = bool(examples[0].choices)
  start = model.config.decoder_start_id
  blanks = _blanks(examples)
  asked = [*examples, *blanks.values()]
  document = batches.prompt_with_choices if ranked else batches.prompt_with_answer
  documents = [document(e, start) for e in asked]
  losses = [np.atleast_2d(one) for one in document_losses(model, variables, documents, batch_size, label)]
  return [_scores(examples, blanks, ranked, whole, scoring, [one[number] for one in losses])
          for number in range(members.num_members(variables))]


def _scores(examples: Sequence[Example], blanks: dict[Asked, Example], ranked: bool, whole: bool, scoring: str,
            losses: Sequence[np.ndarray]) -> list[Scores]:
  """One member's, from the losses of the examples and then of the prompts without content; the others are of `score_all`."""
  if not ranked:
    return [Scores(float(one.sum()), len(one), {}, {}, {}) for one in losses]
  without = {asked: _likelihoods(e, one, whole) for (asked, e), one in zip(blanks.items(), losses[len(examples):])}
  found = []
  for example, one in zip(examples, losses):
    at = [*example.choices.values()].index(example.target_ids[:-1])
    own = np.split(one, np.cumsum([len(ids) + 1 for ids in example.choices.values()])[:-1])[at]
    of_blanks = [without[_asked(example, ids)] for ids in example.content_free]
    blank = of_blanks[0] if scoring == 'pmi' else _mean_share(of_blanks)
    found.append(Scores(float(own.sum()), len(own), _likelihoods(example, one, whole), blank, sizes(example, scoring, whole)))
  return found


def _likelihoods(example: Example, losses: np.ndarray, whole: bool) -> dict[str, float]:
  """Each choice's log-likelihood, without its EOS unless `whole`, from the losses of all choices' tokens in their order."""
  ends = np.cumsum([len(ids) + 1 for ids in example.choices.values()])
  parts = [part if whole else part[:-1] for part in np.split(losses, ends[:-1])]
  return {choice: -float(part.sum()) for choice, part in zip(example.choices, parts)}


def _asked(example: Example, prompt: Sequence[int]) -> Asked:
  return (*prompt,), (*map(tuple, example.choices.values()),)


def _blanks(examples: Sequence[Example]) -> dict[Asked, Example]:
  """The prompts without content, each once with the same choices; most examples share theirs."""
  return {_asked(e, ids): e._replace(prompt_ids=list(ids)) for e in examples for ids in e.content_free}


def _mean_share(likelihoods: Sequence[dict[str, float]]) -> dict[str, float]:
  """The log of each choice's share of probability among the choices, on average over several prompts."""
  if not likelihoods:
    return {}
  logs = np.array([[*one.values()] for one in likelihoods])
  shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)).mean(axis=0)
  return {choice: float(np.log(share)) for choice, share in zip(likelihoods[0], shares)}
