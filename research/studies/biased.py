"""Whether tuning changed the bias: the probes that a study retains, on the base and on each chosen run, paired by sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.data.probes import PROBES
from research.evaluation import bias, harness, metrics, templates
from research.studies import multiplicity, retained, statistics
from research.studies.grid import Study


def of_case(s: Study, workdir: Path, model: str, reported: Mapping[str, Sequence[dict[str, Any]]], arms: Sequence[str],
            seeds: Sequence[int], looks: int) -> dict[str, Any]:
  """`bias` of one comparison; nothing where the study retains no probe, or nothing was trained.

  The changes of scores of bias are tested, corrected together over arms, scores and probes (Holm). With one seed that is about
  these trained models, and there is no p about arms.

  Args:
    s: the study.
    workdir: its folder.
    model: whose runs are compared.
    reported: arm -> the lines of results.jsonl that the answer is about.
    arms: those that are compared.
    seeds: that all arms share.
    looks: how often the study was reported; 0: it has not ended, and nothing is tested.
  """
  runs, shared = retained.trained_runs(reported, arms, seeds)
  probes = [one for one in s.retain if retained.of_task(one) in PROBES]
  if not probes or not runs or not shared:
    return {}
  found = [told for one in probes for told in _of_probe(one, workdir, model, runs, shared)]
  changes = [a['change'] for told in found for a in told['arms'] if told['ideal'] is not None]
  p = [change['p'] if looks else None for change in changes]
  for change, adjusted in zip(changes, multiplicity.adjust(p, max(looks, 1))):
    change |= {'p_adjusted': None, 'p_models': adjusted} if len(shared) == 1 else {'p_adjusted': adjusted, 'p_models': None}
  for told in found:
    for a in told['arms']:
      del a['change']['p']                           # what is told is corrected
  return {'bias': found}


def _of_probe(one: str | dict[str, Any], workdir: Path, model: str, runs: dict[str, dict[int, str]],
              seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Of each of a probe's scores what base and arms have of it; the others are of `of_case`."""
  name, task = retained.named(one), retained.of_task(one)
  lines = retained.examples(workdir, name, model, runs, seeds)
  if not lines:
    return []                                        # the study has not ended
  of_base = lines[''][0]
  rows, count = templates.rows(of_base), templates.count(of_base)
  told = lambda x: {'mean': x.mean, 'low': x.low, 'high': x.high}
  found = []
  for measure in PROBES[task].measured(of_base):
    metric = templates.over(metrics.get(measure), count)
    if not metric.is_told(metric.sums(harness.scored_rows(of_base)).sum(0)):
      continue                                       # of the probe's rows some kind was not drawn
    scores = retained.scored(metric, lines, [*runs])
    gaps = {arm: statistics.gap(scores, arm, '') for arm in runs}
    found.append({
        'name': name, 'metric': measure, 'ideal': bias.MEASURES[measure].ideal, 'definition': bias.MEASURES[measure].definition,
        'examples': len(rows), 'clusters': len({x.get('cluster', number) for number, x in enumerate(rows)}),
        'base': told(statistics.mean(scores, '')),
        'arms': [{'arm': arm, **told(statistics.mean(scores, arm)),
                  'change': {**told(gap), 'p': gap.p, 'p_adjusted': None, 'p_models': None}} for arm, gap in gaps.items()]})
  return found
