"""From a study's results and predictions to comparison.json."""

import itertools
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.errors import InputError
from research.evaluation import clusters, harness, metrics, templates
from research.evaluation.metrics import Metric, Scored
from research.studies import biased, checks, multiplicity, optimum, outcomes, overall, retained, rules, statistics, variation
from research.studies.grid import Study

LEVEL = 0.05      # of the tests that tell arms apart
PAIR = ('mean', 'low', 'high', 'p', 'p_adjusted', 'p_models')      # what is said of every pair of arms

Row = dict[str, Any]                              # a line of results.jsonl
Sums = dict[str, dict[int, np.ndarray]]           # arm -> seed -> the metric's sums per example
Pair = tuple[str, str]


class _Case(NamedTuple):
  """One model and task of a study, measured."""
  model: str
  task: str
  reported: dict[str, list[Row]]      # arm -> the runs that the answer is about: those that ended, by seed
  missing: list[str]                  # arms of which none did
  sums: Sums                          # of those arms, on all of an arm's seeds
  seeds: list[int]                    # that all compared arms have
  apart: list[str]                    # arms that have none of these, and are compared with nothing
  gaps: dict[Pair, statistics.Estimate]      # every pair of arms -> the first minus the second
  metric: Metric                      # of the report; of several templates the mean over them
  scored: list[Scored]                # some run's test rows
  clusters: list[str]                 # of each example the one that it is of; none: examples stand for themselves
  leaked: set[int]                    # numbers of the examples that the training of some run holds
  scores: statistics.Scores
  by_rule: dict[str, dict[str, float]]       # way to score choices -> arm -> its mean


def compare(s: Study, rows: list[Row], workdir: Path, looks: int = 1) -> dict[str, Any]:
  """Every arm's mean, and the difference of every pair of arms, for each model and task.

  All means and differences of a model and task are over the same seeds: those with which every arm's run ended. The p of all
  pairs of all models and tasks are one family.

  Args:
    s: whose arms are compared, by its `report`.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs' predictions.
    looks: how many plans the study was reported by: each p counts twice as much as by the one before, which keeps the chance
      of a false finding in any of the reports at about the level. 0: an interim report, in which nothing is tested.
  Returns:
    What comparison.json holds (its fields are in the contract of the README).

  What is wrong with the runs is an `InputError`: no cell of the baseline ended, or arms were tested on different examples.
  """
  found = _compare(s, rows, workdir, looks)
  other = s._replace(diverged='worst' if s.diverged == 'left_out' else 'left_out')
  diverged = any(a['runs']['diverged'] for c in found['comparisons'] for a in c['arms'])
  if diverged and metrics.measured(s.report).limited:
    for c, o in zip(found['comparisons'], _compare(other, rows, workdir, looks)['comparisons']):
      arms = [{name: a[name] for name in ('arm', 'mean', 'low', 'high', 'group')} for a in o['arms']]
      c['otherwise'] = {'diverged': other.diverged, 'seeds': o['seeds'], 'arms': arms}
  return found


def _compare(s: Study, rows: list[Row], workdir: Path, looks: int) -> dict[str, Any]:
  metric = metrics.measured(s.report)
  cases = [_case(s, metric, rows, workdir, model, task) for model, task in dict.fromkeys((r['model'], r['task']) for r in rows)]
  pairs = [(number, pair) for number, case in enumerate(cases) for pair in case.gaps]
  p = {key: cases[key[0]].gaps[key[1]].p if looks else None for key in pairs}
  of_models = {number: len(case.seeds) == 1 for number, case in enumerate(cases)}       # nothing is known of other seeds
  adjusted = dict(zip(p, multiplicity.adjust(list(p.values()), looks)))
  smaller = {key: multiplicity.equivalence(cases[key[0]].gaps[key[1]], s.margin) if s.margin and not of_models[key[0]]
             and p[key] is not None else None for key in pairs if s.baseline in key[1]}
  equivalent = dict(zip(smaller, multiplicity.adjust(list(smaller.values()), looks)))
  told = {key: _told(cases[key[0]], key[1], s.margin, p[key], adjusted[key], equivalent.get(key), of_models[key[0]])
          for key in pairs}
  return {'question': s.question, 'margin': s.margin, 'looks': looks, 'tests': sum(x is not None for x in p.values()),
          'comparisons': [_comparison(s, case.metric, case, {pair: told[number, pair] for pair in case.gaps}, rows, looks,
                                      workdir) for number, case in enumerate(cases)],
          **overall.of_cases(s, metric, [(case.model, case.task, case.scores) for case in cases], looks)}


def _case(s: Study, metric: Metric, rows: list[Row], workdir: Path, model: str, task: str) -> _Case:
  reported = {arm: sorted((r for r in rows if r['selected'] and (r['model'], r['task'], r['arm']) == (model, task, arm)),
                          key=lambda r: r['seed']) for arm in s.arms}
  missing = [arm for arm, found in reported.items() if not found]
  if s.baseline in missing:
    raise InputError(f'{workdir}: no cell of the baseline {s.baseline} on {task} ended; see results.jsonl')
  reported = {arm: found for arm, found in reported.items() if found}
  lines = {arm: {r['seed']: outcomes.predictions(workdir, r['key'], s.report.split('/')[0]) for r in found}
           for arm, found in reported.items()}
  leaked = {n for of_seeds in lines.values() for of_run in of_seeds.values()
            for n, e in enumerate(templates.rows(of_run)) if e.get('leaked')}
  metric = templates.over(metric, checks.check_templates(lines, task))
  scored = {arm: {seed: harness.scored_rows(x) for seed, x in of_seeds.items()} for arm, of_seeds in lines.items()}
  sums = {arm: {seed: metric.sums(x) for seed, x in of_seeds.items()} for arm, of_seeds in scored.items()}
  some = next(iter(scored[s.baseline].values()))
  if s.diverged == 'worst':
    worst = metric.worst(some)
    for arm, found in reported.items():
      sums[arm] |= {r['seed']: worst for r in _of_setting(rows, found[0]) if r['diverged']}
  checks.check_examples(sums, task)
  checks.check_targets(scored, task)
  for arm, found in reported.items():
    for r in found:
      checks.check_score(metric, sums[arm][r['seed']], r, s.report, workdir)
  seeds, apart = _common(sums, s.baseline)
  compared = [arm for arm in sums if arm not in apart]
  trained = {arm for arm, found in reported.items() if found[0]['result']['steps']}
  of = templates.rows(next(iter(lines[s.baseline].values())))
  in_clusters = [str(line['cluster']) for line in of] if 'cluster' in of[0] else []
  scores = _scores(metric, {arm: [sums[arm][seed] for seed in seeds] for arm in compared}, trained, in_clusters)
  gaps = {pair: statistics.gap(scores, *pair) for pair in itertools.combinations(compared, 2)}
  by_rule = rules.by_rule(metric, {arm: lines[arm] for arm in compared}, seeds)
  return _Case(model, task, reported, missing, sums, seeds, apart, gaps, metric, some[:len(of)], in_clusters, leaked, scores,
               by_rule)


def _scores(metric: Metric, sums: dict[str, list[np.ndarray]], trained: Collection[str],
            of: Sequence[str]) -> statistics.Scores:
  """As `statistics.scores`, over the clusters that examples are of, where they are of some."""
  found = {arm: [clusters.sums(one, of) for one in of_seeds] for arm, of_seeds in sums.items()}
  return statistics.scores(metric, found, trained, len(of) / len({*of}) if of else 1.0)


def _common(sums: Sums, baseline: str) -> tuple[list[int], list[str]]:
  """(the seeds that all arms have, the arms that share none): the fewer seeds an arm has, the sooner it is left out."""
  arms, apart = dict(sums), []
  while not (common := set.intersection(*(set(found) for found in arms.values()))):
    least = min((arm for arm in arms if arm != baseline), key=lambda arm: len(arms[arm]))
    apart.append(least)
    del arms[least]
  return sorted(common), apart


def _told(case: _Case, pair: Pair, margin: float | None, p: float | None, p_adjusted: float | None, p_equivalence: float | None,
          of_models: bool) -> dict[str, Any]:
  """What comparison.json says of the first arm minus the second; where no number of seeds or examples is enough it is null.

  With one seed the test is about these trained models, and there is none about arms.
  """
  found, spread = case.gaps[pair], case.gaps[pair].spread
  told: dict[str, Any] = {
      'mean': found.mean, 'low': found.low, 'high': found.high, 'p': None if of_models else p,
      'p_adjusted': None if of_models else p_adjusted, 'p_models': p_adjusted if of_models else None, 'seeds': len(case.seeds),
      'p_equivalence': p_equivalence, 'seed_spread': None, 'seed_spread_range': None, 'needed': None}
  if spread is None:
    return told
  told |= {'seed_spread': spread.seed ** 0.5, 'seed_spread_range': [x ** 0.5 for x in spread.seed_range]}
  least = margin or abs(found.mean)
  if least:
    seeds, examples = (None if math.isinf(x) else x for x in multiplicity.needed(
        spread, len(case.seeds), case.scores.fit.examples, least))
    told['needed'] = {'difference': least, 'seeds': seeds, 'examples': examples}
  return told


def _turned(told: dict[str, Any]) -> dict[str, Any]:
  """The same of the second arm minus the first."""
  return {**told, 'mean': -told['mean'], 'low': -told['high'], 'high': -told['low']}


def _comparison(s: Study, metric: Metric, case: _Case, told: dict[Pair, dict[str, Any]], rows: list[Row],
                looks: int, workdir: Path) -> dict[str, Any]:
  """One of comparison.json's `comparisons`."""
  to_baseline = {(arm if other == s.baseline else other): x if other == s.baseline else _turned(x)
                 for (arm, other), x in told.items() if s.baseline in (arm, other)}
  groups = _groups(metric, case, told)
  signature = (case.reported[s.baseline][0]['result'].get('signatures') or {}).get(s.report)
  best = optimum.of_arms(s, [r for r in rows if (r['model'], r['task']) == (case.model, case.task)])
  return {
      'model': case.model, 'task': case.task, 'metric': s.report, 'baseline': s.baseline, 'seeds': case.seeds,
      'split': s.report.split('/')[0], 'looks': looks, 'examples': len(case.scored),
      **({'clusters': case.scores.fit.examples} if case.clusters else {}),
      **variation.of_case(metric, case.scores, case.sums, case.seeds, 'clusters' if case.clusters else 'examples'),
      'seeds_agree': bool(case.scores.fit.agree), **_lines(metrics.get(metric.name), case.scored),
      'arms': [{'arm': arm, 'selected': {f.split('.')[-1]: v for f, v in found[0]['setting'].items()},
                'seeds': [r['seed'] for r in found] if arm in case.apart else case.seeds,
                **_level(s.report, metric, case, arm), 'group': groups.get(arm), 'difference': to_baseline.get(arm),
                'runs': _runs(case, rows, arm), 'best': best.get(arm, {}), 'cost': _mean_cost(found)}
               for arm, found in case.reported.items()],
      'pairs': [{'arm': arm, 'other': other, **{name: x[name] for name in PAIR}} for (arm, other), x in told.items()],
      'missing': case.missing, **({'signature': signature} if signature else {}),
      **({'scorings': case.by_rule} if case.by_rule else {}), **_without_leaked(s, metric, case),
      **retained.of_case(s, workdir, case.model, case.reported, case.scores.arms, case.seeds),
      **biased.of_case(s, workdir, case.model, case.reported, case.scores.arms, case.seeds, looks)}


def _without_leaked(s: Study, metric: Metric, case: _Case) -> dict[str, Any]:
  """`without_leaked`: every arm's mean, and its difference to the baseline, on the examples that no run's training holds.

  Nothing where none is held; no arms where fewer than two examples are left. It is not tested.
  """
  kept = [n for n in range(len(case.scored)) if n not in case.leaked]
  of = [case.clusters[n] for n in kept] if case.clusters else []
  found: dict[str, Any] = {'leaked': len(case.leaked), 'examples': len(kept), 'arms': []}
  if case.leaked and len(kept) > 1:
    sums = {arm: {seed: x[kept] for seed, x in of_seeds.items()} for arm, of_seeds in case.sums.items()}
    trained = [arm for arm, learns in zip(case.scores.arms, case.scores.fit.pooled) if learns]
    scores = _scores(metric, {arm: [sums[arm][seed] for seed in case.seeds] for arm in case.scores.arms}, trained, of)
    for arm in sums:
      gap = statistics.gap(scores, arm, s.baseline) if arm in scores.arms and arm != s.baseline else None
      found['arms'].append({'arm': arm, **_level(None, metric, case._replace(sums=sums, scores=scores, clusters=of), arm),
                            'difference': {'mean': gap.mean, 'low': gap.low, 'high': gap.high} if gap else None})
  return {'without_leaked': found} if case.leaked else {}


def _level(report: str | None, metric: Metric, case: _Case, arm: str) -> dict[str, float]:
  """An arm's mean with its interval; of one trained model the interval that its own result.json gives of the report."""
  if arm in case.apart:
    alone = _scores(metric, {arm: list(case.sums[arm].values())}, [], case.clusters)
    estimate, seeds = statistics.mean(alone, arm), [*case.sums[arm]]
  else:
    estimate, seeds = statistics.mean(case.scores, arm), case.seeds
  runs = [r for r in case.reported[arm] if r['seed'] in seeds]
  if len(seeds) == 1 and runs:
    low, high = runs[0]['result']['intervals'][report] if report else templates.interval(
        metric, clusters.sums(case.sums[arm][seeds[0]], case.clusters), bool(case.clusters))
    return {'mean': estimate.mean, 'low': low, 'high': high}
  return {'mean': estimate.mean, 'low': estimate.low, 'high': estimate.high}


def _groups(metric: Metric, case: _Case, told: dict[Pair, dict[str, Any]]) -> dict[str, str]:
  """Each arm's compact letters; none where some pair cannot be tested."""
  if any(x['p_adjusted'] is None for x in told.values()):
    return {}
  means = dict(zip(case.scores.arms, case.scores.means))
  arms = sorted(means, key=means.__getitem__, reverse=metric.higher_is_better)
  return multiplicity.letters(arms, [frozenset(pair) for pair, x in told.items() if x['p_adjusted'] < LEVEL])


def _lines(metric: Metric, scored: list[Scored]) -> dict[str, float | None]:
  """What answering by chance scores, and what always giving the most frequent answer does; None where that has no meaning."""
  choices = scored[0].choices
  if not choices or not metric.of_prediction:
    return {'chance': None, 'majority': None}
  if any(x.choices != choices for x in scored):      # of each row's own no answer is the most frequent
    return {'chance': float(np.mean([1 / len(x.choices) for x in scored])) if metric.is_share else None, 'majority': None}
  targets = [x.target for x in scored]
  most = max(choices, key=targets.count)
  same = metric.sums([x._replace(prediction=most) for x in scored])
  return {'chance': 1 / len(choices) if metric.is_share else None, 'majority': float(metric.score(same.sum(0)))}


def _runs(case: _Case, rows: list[Row], arm: str) -> dict[str, int]:
  """How many runs of an arm's chosen setting were to be, ended, failed and diverged."""
  mine = _of_setting(rows, case.reported[arm][0])
  diverged = sum(r['diverged'] for r in mine)
  failed = sum(r['result'] is None and not r['diverged'] for r in mine)
  return {'planned': len(mine), 'finished': len(mine) - failed - diverged, 'failed': failed, 'diverged': diverged}


def _of_setting(rows: list[Row], one: Row) -> list[Row]:
  """All seeds of a run's setting, also those that did not end."""
  key = lambda r: (r['model'], r['task'], r['arm'], str(r['setting']), r['reports'])
  return [r for r in rows if key(r) == key(one)]


def _mean_cost(found: list[Row]) -> dict[str, Any]:
  costs = [r['result']['cost'] for r in found]

  def of_all(values: list[Any]) -> Any:
    """Their mean; of words the first, and None where some run does not know."""
    if isinstance(values[0], str) or None in values:
      return values[0] if isinstance(values[0], str) else None
    return float(np.mean(values))
  return {name: of_all([c.get(name) for c in costs]) for name in costs[0]}
