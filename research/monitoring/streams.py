"""Kinds of evidence: for each request and each kind a p-value, uniform as long as requests are like the reference.

Conformal test martingales (Vovk, Gammerman & Shafer 2005, ch. 7; Vovk 2021, "Testing randomness online"): a score says how
strange a request is, and its p-value is its smoothed rank among all that came before. A score may use whatever is not ranked.
If what is ranked is exchangeable, these p-values are independent and uniform, exactly and for a reference of any size; a
reference is never used up, and its deviation from what it was drawn from is no drift.

What is ranked, and among what:

- `novelty`, `length`, `language`, `words`: the fresh rows of the reference, then all requests before. The score is made by
  the reference's other rows. (A model knows the prompts that it was trained on, so its training rows are never ranked.)
- `classifier`: the same rows and requests, ranked by a linear discriminant that tells all of them, as one bag, from the
  reference's other rows (after Podkopaev & Ramdas 2023, arXiv 2306.07187, who bet on a classifier's guesses). It does not know
  which of the bag came when, so what it learned from them leaves them exchangeable. It learns anew after each of `blocks`, and
  ranks the requests of that block then.
- `labels`, `loss`, `endings`: the requests before alone, for the reference does not say what the model answers.

A kind is a martingale with respect to its own p-values. Of several, each with respect to its own, an average need not be one,
so each kind is tested at level α / kinds (a union bound over Ville's inequality): with k kinds the threshold of a wealth is
k/α, which costs log k nats of evidence, two or so, and names the kind.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from research.monitoring import betting
from research.monitoring.sample import Reference, Sample

LEVEL = 0.05
# Kind -> (what has changed, as a person says it; the side on which its p-values are bet on)
KINDS = {'novelty': ('topic', 'upper'), 'classifier': ('topic', 'upper'), 'length': ('length', 'both'),
         'language': ('language', 'upper'), 'words': ('words', 'upper'), 'labels': ('labels', 'both'), 'loss': ('loss', 'both'),
         'endings': ('endings', 'upper')}
THRESHOLD = len(KINDS) / LEVEL
FIRST = 50          # requests after which the classifier first learns
SHRUNK = 0.1        # of the average variance, added to each when it does
NEIGHBOURS = 5
AT_ONCE = 96       # requests that are ranked together; no rank depends on it


class Alarm(NamedTuple):
  """A kind whose evidence reached the threshold."""
  kind: str         # a key of `KINDS`
  what: str         # topic, length, language, words, labels, loss or endings
  crossed: int      # the request, from 0, at which it did
  since: int        # the request with which the change began, as far as can be told


def distances(vectors: np.ndarray, among: np.ndarray, itself: bool = False) -> np.ndarray:
  """The mean distance of each vector [N, D] to its nearest of others [M, D], of shape [N].

  Args:
    vectors: whose distances.
    among: to which.
    itself: whether each stands among the others too, and does not count.
  """
  neighbours = min(NEIGHBOURS, len(among) - itself)
  squares = (among ** 2).sum(1)
  found = np.empty(len(vectors))
  for start in range(0, len(vectors), 1024):
    some = vectors[start:start + 1024]
    apart = np.sqrt(np.maximum((some ** 2).sum(1)[:, None] + squares - 2 * some @ among.T, 0))
    nearest = np.partition(apart, neighbours + itself - 1, axis=1)[:, :neighbours + itself]
    found[start:start + 1024] = nearest.sum(1) / neighbours
  return found


def ranks(before: np.ndarray, scores: np.ndarray, drawn: np.ndarray) -> np.ndarray:
  """The smoothed conformal p-value of each score [T] among those before it, of shape [T]: small where it is large.

  Args:
    before: [M] scores that count as having come before all.
    scores: in their order; one that is NaN has no p-value, and does not count for others.
    drawn: [T] numbers in (0, 1], which break ties.
  """
  found, there = np.full(len(scores), np.nan), np.flatnonzero(~np.isnan(scores))
  known = np.sort(before[~np.isnan(before)])
  for start in range(0, len(there), AT_ONCE):
    now = there[start:start + AT_ONCE]
    new = scores[now]
    earlier = np.tri(len(new), k=-1, dtype=bool)      # [t, s]: whether s came before t
    above = len(known) - np.searchsorted(known, new, 'right') + ((new > new[:, None]) & earlier).sum(1)
    below = np.searchsorted(known, new, 'left') + ((new < new[:, None]) & earlier).sum(1)
    count = len(known) + np.arange(1, len(new) + 1)
    found[now] = (above + drawn[now] * (count - above - below)) / count
    known = np.sort(np.concatenate([known, np.sort(new)]), kind='stable')
  return found


def _rare(among: np.ndarray, values: np.ndarray) -> np.ndarray:
  """How rare each value is among others: minus the logarithm of its share, those that are not there counted as half of one."""
  counts = Counter(among.tolist())
  return np.array([-np.log(counts.get(value, 0.5) / max(len(among), 1)) for value in values.tolist()])


def _labels(reference: Sample, labels: np.ndarray) -> np.ndarray:
  """A number for each label, by how rare it is in the reference and then by its name; NaN where there was none to choose."""
  counts = Counter(reference.label.tolist())
  order = {label: at for at, label in enumerate(sorted({*counts, *labels.tolist()}, key=lambda x: (-counts.get(x, 0), x)))}
  known = {label: at for label, at in order.items() if label in counts}
  return np.array([np.nan if label == '' else float(known.get(label, len(counts))) for label in labels.tolist()])


def blocks(count: int) -> list[int]:
  """After how many requests the classifier learns: whenever there are a fifth more, at first after `FIRST`; `count` at most."""
  found = [FIRST]
  while found[-1] <= count:
    found.append(int(np.ceil(1.2 * found[-1])))
  return found[:-1]


def _discriminant(known: np.ndarray, bag: np.ndarray) -> np.ndarray:
  """The direction that tells one set of vectors from another best, if both vary alike (Fisher 1936), a little shrunk."""
  within = known - known.mean(0)
  spread = within.T @ within / len(known)
  return np.linalg.solve(spread + SHRUNK * np.eye(len(spread)) * np.trace(spread) / len(spread), bag.mean(0) - known.mean(0))


def _classified(reference: Reference, requests: Sample, drawn: np.ndarray) -> np.ndarray:
  """P-values [T] by a classifier that learned from the whole bag; NaN after the last whole block."""
  found, begins = np.full(requests.rows, np.nan), 0
  for ends in blocks(requests.rows):
    bag = np.concatenate([reference.fresh.vectors, requests.vectors[:ends]])
    scores = bag @ _discriminant(reference.learned.vectors, bag)
    cut = reference.fresh.rows + begins
    found[begins:ends] = ranks(scores[:cut], scores[cut:], drawn[begins:ends])
    begins = ends
  return found


def p_values(reference: Reference, requests: Sample, seed: int = 0) -> dict[str, np.ndarray]:
  """Kind -> [T] p-values of the requests; those of earlier requests do not change when more come.

  Args:
    reference: rows that traffic is held against.
    requests: in their order.
    seed: of what breaks ties.
  """
  learned, fresh = reference
  far = lambda sample: distances(sample.vectors, learned.vectors) if sample.rows else np.zeros(0)
  nothing = np.zeros(0)
  scores = {
      'novelty': (far(fresh), far(requests)), 'length': (fresh.tokens, requests.tokens),
      'language': (_rare(learned.language, fresh.language), _rare(learned.language, requests.language)),
      'words': (fresh.unknown, requests.unknown), 'labels': (nothing, _labels(learned, requests.label)),
      'loss': (nothing, requests.loss), 'endings': (nothing, np.isin(requests.ended, ('length', 'refused')).astype(float))}
  drawn = {kind: 1 - np.random.Generator(np.random.Philox(key=[seed, number])).random(requests.rows)
           for number, kind in enumerate(KINDS)}
  return {kind: _classified(reference, requests, drawn[kind]) if kind == 'classifier' else ranks(*scores[kind], drawn[kind])
          for kind in KINDS}


def wealths(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Kind -> its wealth after each request, of the shape of its p-values [..., T]."""
  return {kind: betting.wealth(p[kind], sides) for kind, (_, sides) in KINDS.items()}


def alarms(p: dict[str, np.ndarray], wealth: dict[str, np.ndarray]) -> list[Alarm]:
  """The kinds whose wealth [T] ever reached the threshold, the earliest first."""
  found = []
  for kind, (what, sides) in KINDS.items():
    if (wealth[kind] >= THRESHOLD).any():
      crossed = int((wealth[kind] >= THRESHOLD).argmax())
      found.append(Alarm(kind, what, crossed, betting.since(p[kind], crossed, sides)))
  return sorted(found, key=lambda one: one.crossed)
