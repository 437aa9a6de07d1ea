"""How often the monitor's alarm is wrong, and how soon it finds what changed.

    python -m experiments.benchmarks.monitor
    python -m experiments.benchmarks.monitor --streams=100 --days=50

One JSON line a row, the machine first. Streams are simulated (vectors, lengths, languages, labels, losses; no model) and go
through what the verb goes through (`research.monitoring.streams`). A quiet stream draws requests and reference from the same
mixture of topics, another one for each stream; `ever_alarmed` is the share of quiet streams on which any look of any day
alarms. In the others a share of requests comes from a topic that the reference has not (`foreign`), from one of its own alone
(`mixture`), in another language, or four times as long (`length`), from the first request on or after so many quiet ones;
`found` is the share that is found within 1,000 requests of it.
"""

import time
from typing import Any

import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from research.monitoring import space, streams
from research.monitoring.sample import Reference, Sample

FLAGS = flags.FLAGS
flags.DEFINE_integer('streams', 1000, 'quiet streams')
flags.DEFINE_integer('drifting', 200, 'streams of each kind of change')
flags.DEFINE_integer('days', 200, 'with a look at the end of each')
flags.DEFINE_integer('daily', 20, 'requests a day')
flags.DEFINE_integer('known', 1000, 'rows, of which half make the scores')
flags.DEFINE_integer('within', 1000, 'requests within which a change is to be found')
WIDTH, TOPICS, AT_ONCE = 32, 4, 100
CHANGES = ('foreign', 'mixture', 'language', 'length')


def drawn(rng: np.random.Generator, centers: np.ndarray, shares: np.ndarray, count: int) -> Sample:
  """So many requests on topics [K, D] in these shares."""
  topic = rng.choice(len(centers), count, p=shares)
  languages = np.array(['en', 'de', 'fr', ''])
  return Sample(centers[topic] + rng.standard_normal((count, centers.shape[1])), rng.lognormal(3.5 + 0.1 * topic, 0.6).round(),
                languages[rng.choice(4, count, p=[0.9, 0.06, 0.02, 0.02])], rng.binomial(20, 0.1, count) / 20,
                np.array(['no', 'yes'])[(rng.random(count) < 0.3).astype(int)], rng.gamma(2, 0.4, count),
                np.array(['stop', 'length'])[(rng.random(count) < 0.05).astype(int)])


def changed(rng: np.random.Generator, made: Sample, kind: str, centers: np.ndarray, share: float) -> Sample:
  """Requests of which a share has changed."""
  which = np.flatnonzero(rng.random(made.rows) < share)
  vectors, tokens, language = made.vectors.copy(), made.tokens.copy(), made.language.copy()
  if kind == 'foreign':      # as far from the known topics as these are from each other
    direction = rng.standard_normal(centers.shape[1])
    center = centers.mean(0) + direction * np.sqrt(2) * 2 / np.linalg.norm(direction) * np.sqrt(centers.shape[1] / 8)
    vectors[which] = center + rng.standard_normal((len(which), vectors.shape[1]))
  elif kind == 'mixture':
    vectors[which] = centers[0] + rng.standard_normal((len(which), vectors.shape[1]))
  elif kind == 'language':
    language[which] = 'it'
  elif kind == 'length':
    tokens[which] *= 4
  return made._replace(vectors=vectors, tokens=tokens, language=language)


def stream(seed: int, rows: int, count: int, kind: str = '', share: float = 0.1, after: int = 0) -> dict[str, np.ndarray]:
  """The p-values of one stream of so many requests; after some of them a share is of another kind."""
  rng = np.random.default_rng(seed)
  centers = rng.standard_normal((TOPICS, WIDTH))
  shares = rng.dirichlet(np.full(TOPICS, 5.0))
  there, requests = drawn(rng, centers, shares, rows), drawn(rng, centers, shares, count)
  if kind:
    late = changed(rng, requests.part(slice(after, None)), kind, centers, share)
    requests = Sample(*(np.concatenate([a[:after], b]) for a, b in zip(requests, late)))
  learned, fresh = there.part(slice(rows // 2)), there.part(slice(rows // 2, None))
  found = space.of(learned.vectors)
  at = lambda sample: sample._replace(vectors=found.place(sample.vectors))
  return streams.p_values(Reference(at(learned), at(fresh)), at(requests), seed)


def crossed(seeds: range, rows: int, count: int, **how: Any) -> np.ndarray:
  """The request at which each kind of each stream reaches the threshold, [streams, kinds]; `count` where it never does."""
  found = []
  for start in range(0, len(seeds), AT_ONCE):
    p = [stream(seed, rows, count, **how) for seed in seeds[start:start + AT_ONCE]]
    wealth = streams.wealths({kind: np.stack([one[kind] for one in p]) for kind in streams.KINDS})
    over = np.stack([wealth[kind] >= streams.THRESHOLD for kind in streams.KINDS], axis=1)
    found.append(np.where(over.any(-1), over.argmax(-1), count))
  return np.concatenate(found)


def main(_) -> None:
  measure.tell(benchmark='monitor', **measure.setting())
  count, began = FLAGS.days * FLAGS.daily, time.perf_counter()
  at = crossed(range(FLAGS.streams), FLAGS.known, count)
  measure.tell(row='quiet', streams=FLAGS.streams, days=FLAGS.days, requests=count, level=streams.LEVEL,
               ever_alarmed=round(float((at < count).any(1).mean()), 4), seconds=round(time.perf_counter() - began, 1),
               **{kind: round(float((at[:, n] < count).mean()), 4) for n, kind in enumerate(streams.KINDS)})
  for kind in CHANGES:
    for after in (0, FLAGS.within):
      share = 0.5 if kind == 'mixture' else 0.1
      at = crossed(range(FLAGS.drifting), FLAGS.known, after + FLAGS.within, kind=kind, share=share, after=after)
      first = at.min(1)
      within = np.where(first < after, after, first) - after
      measure.tell(row=f'{kind} {share:.0%} after {after}', streams=FLAGS.drifting,
                   found=round(float(((first >= after) & (within < FLAGS.within)).mean()), 4),
                   median_requests=int(np.median(within)),
                   **{name: round(float((at[:, n] < after + FLAGS.within).mean()), 4) for n, name in enumerate(streams.KINDS)})


if __name__ == '__main__':
  app.run(main)
