"""What a comparison's numbers say, in sentences, question by question, and what they do not say."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.evaluation import metrics
from research.look import count
from research.studies import disagreements, optimum, outcomes, variation
from research.studies.compare import LEVEL
from research.studies.figures import shown
from research.studies.grid import Study


class Part(NamedTuple):
  """One question that a report answers."""
  title: str
  sentences: list[str]
  figure: str | None = None                       # name of the figure that shows it
  table: list[tuple[str, ...]] | None = None      # rows of texts, the first of them the columns' names


def parts(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
          earlier: Sequence[dict[str, Any]] = ()) -> list[Part]:
  """The answers of one comparison of comparison.json, in the order in which a reader asks.

  Args:
    study: the one that was run.
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs' metrics and predictions.
    earlier: the plans that it was reported by before (see `registration.Plan`).
  """
  mine = [r for r in rows if (r['model'], r['task']) == (c['model'], c['task'])]
  differ, table = disagreements.found(c, mine, workdir)
  answer = [Part('So far', _so_far(c))] if c['split'] == 'valid' else [
      Part('The answer', _answer(study, c)), _pairs(c), Part('How sure', _sure(study, c, earlier))]
  return [*answer, Part('What it costs', _cost(c), 'cost'),
          Part('Was each arm tuned fairly', _tuned(study, c, mine), 'tuning'),
          Part('Did anything overfit', _overfit(c, mine, workdir), 'learning'),
          Part('Where the arms disagree', differ, table=table)]


def _higher(c: dict[str, Any]) -> bool:
  return metrics.measured(c['metric']).higher_is_better


def _so_far(c: dict[str, Any]) -> list[str]:
  """What an interim report can say: who is ahead by what settings are chosen by."""
  best = (max if _higher(c) else min)(c['arms'], key=lambda a: a['mean'])
  waits = f'; {listed(c["missing"])} ha{"ve" if len(c["missing"]) > 1 else "s"} no run yet' if c['missing'] else ''
  return [f'{"Highest" if _higher(c) else "Lowest"} {c["metric"]} so far: {best["arm"]}, {interval(best)}{waits}.',
          'These are validation scores of the settings that are best so far. Nothing is tested, and the test split has not '
          'been read for this report: who stops where it looks well finds more than there is.']


def _answer(study: Study, c: dict[str, Any]) -> list[str]:
  """The best arm, the arms that cannot be told from it, and every arm against the baseline."""
  best, *others = sorted(c['arms'], key=lambda a: a['mean'], reverse=_higher(c))
  out = [f'{"Highest" if _higher(c) else "Lowest"} {c["metric"]}: {best["arm"]}, {interval(best)}.']
  if lines := [c[name] for name in ('chance', 'majority') if c[name] is not None]:
    said = [f'{how} scores {c[name]:.3f}' for name, how in (
        ('chance', 'choosing at random'), ('majority', 'always giving the most frequent answer')) if c[name] is not None]
    low = [a['arm'] for a in c['arms'] if a['low'] <= max(lines)]
    of_low = f': the interval of {listed(low)} reaches down to that' if low else ''
    out.append(f'{"; ".join(said).capitalize()}{of_low}.')
  if best['group']:
    tied = [a['arm'] for a in others if share_a_letter(a, best)]
    if others:
      out.append(f'No test tells {best["arm"]} from {listed(tied)}: arms that share a letter cannot be ranked.' if tied
                 else f'{best["arm"]} is told apart from every other arm.')
  for a in c['arms']:
    d = a['difference']
    if d:
      of_models = 'Of these trained models, ' if d['p_models'] is not None else ''
      out.append(f'{of_models}{a["arm"]}{_ended(a)} {_against(d)} the baseline {c["baseline"]}: {interval(d, "+")}{_p(d)}.')
      if d['p_equivalence'] is not None and d['p_equivalence'] < LEVEL:
        out.append(f'{a["arm"]} is equivalent to {c["baseline"]}: the difference is smaller than {study.margin:g} either way '
                   f'(two one-sided tests, p {d["p_equivalence"]:.2g} after Holm).')
    elif _ended(a):
      out.append(f'{a["arm"]}{_ended(a)}: its mean is over the runs that ended.')
  if 'otherwise' in c:
    out.append(_otherwise(c))
  return out + [f'{arm}: every run failed or diverged, so it is not in the table.' for arm in c['missing']]


def interval(x: dict[str, Any], sign: str = '') -> str:
  """A mean and its interval for people; with a sign where it is a difference."""
  return f'{x["mean"]:{sign}.3f} [{x["low"]:{sign}.3f}, {x["high"]:{sign}.3f}]'


def p_value(p: float) -> str:
  """A p for people: none is known so well that it could be told to be smaller than 0.0001."""
  return 'p < 0.0001' if p < 1e-4 else f'p {p:.2g}'


def _ended(a: dict[str, Any]) -> str:
  """How many runs of an arm ended, where not all did."""
  runs = a['runs']
  lost = [f'{runs[what]} {what}' for what in ('diverged', 'failed') if runs[what]]
  return f' ({runs["finished"]} of {runs["planned"]} runs; {listed(lost)})' if lost else ''


def _otherwise(c: dict[str, Any]) -> str:
  """What the means would be if runs that diverged counted otherwise."""
  how = {'worst': 'If a run that diverged counted as one with the worst score',
         'left_out': 'If the seeds of runs that diverged were left out in all arms'}[c['otherwise']['diverged']]
  before = {a['arm']: a for a in c['arms']}
  differs = lambda a: any(a[what] != before[a['arm']][what] for what in ('mean', 'group'))
  other = [f'{a["arm"]} {interval(a)}' for a in c['otherwise']['arms'] if differs(a)]
  return f'{how}, the means would be {listed(other)}.' if other else f'{how}, nothing would be otherwise.'


def _pairs(c: dict[str, Any]) -> Part:
  """Every pair of arms: what it differs by, and whether a test tells it from nothing."""
  if not c['pairs']:
    return Part('Every pair of arms', ['There is no other arm.'])
  rows: list[tuple[str, ...]] = [('arm', 'other', 'difference [95 %]', 'test')]
  for x in c['pairs']:
    p = tested(x)
    rows.append((x['arm'], x['other'], interval(x, '+'), 'none' if p is None else p_value(p)))
  about = 'trained models' if c['pairs'][0]['p_models'] is not None else 'arms'
  sentence = f'The first minus the second; tests of {about}, corrected (Holm) over all of the study.'
  return Part('Every pair of arms', [sentence], table=rows)


def tested(d: dict[str, Any]) -> float | None:
  """The corrected p of a difference: of the arms, or with one seed of the trained models; None where there is no test."""
  return d['p_models'] if d['p_adjusted'] is None else d['p_adjusted']


def _against(d: dict[str, Any]) -> str:
  """What a difference comes to, by its test after Holm's correction; without a test nothing is told apart."""
  p = tested(d)
  return ('is above' if d['mean'] > 0 else 'is below') if p is not None and p < LEVEL else 'cannot be told from'


def share_a_letter(one: dict[str, Any], other: dict[str, Any]) -> bool:
  return bool({*re.findall("[a-z]'*", one['group'])} & {*re.findall("[a-z]'*", other['group'])})


def _p(d: dict[str, Any]) -> str:
  p = tested(d)
  return '; so few seeds allow no test' if p is None else f', {p_value(p)} after Holm'


def _changed(earlier: Sequence[dict[str, Any]], looks: int) -> list[str]:
  """What of the plan was changed after a report had been written, and what that costs."""
  if not earlier:
    return []
  told = listed(f'{", ".join(one["changed"])} (the plan before: {one["plan"]})' for one in earlier)
  return [f'After a report had been written, the plan was changed: {told}. '
          + (f'This is look {looks} at the answer, so each p is {2 ** (looks - 1)} times what it would be at the first.'
             if looks > 1 else 'That changes no test.')]


def _sure(study: Study, c: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> list[str]:
  """What the intervals are about, how much seeds move each difference, and what it would take to tell arms apart."""
  fresh = [] if study.report_seeds else [
      'The scores are of the runs by which settings were chosen: of many settings the best seems better than it is. With '
      'report_seeds in its file the study trains the chosen settings again.']
  out = [variation.told(c)]
  if len(c['seeds']) > 1:
    trained = sum(a['cost']['train_flops'] > 0 for a in c['arms'])
    if trained > 2:
      out.append('How far seeds move a trained arm is told by all of them together: no test finds that they differ in it.'
                 if c['seeds_agree'] else 'Seeds move some arms further than others, so each pair of arms has its own seeds '
                 f'alone to tell by{"; two seeds are too few for a test" if len(c["seeds"]) == 2 else ""}.')
  out += [*fresh, *_changed(earlier, c['looks'])]
  for a in c['arms']:
    d = a['difference']
    if d is None and a['arm'] != c['baseline']:
      out.append(f'{a["arm"]} ended with no seed in common with the others, so nothing is said of its differences.')
    if d and d['seed_spread'] is not None:
      low, high = d['seed_spread_range']
      out.append(f'{a["arm"]} to {c["baseline"]}: from seed to seed the difference deviates by {d["seed_spread"]:.3f} '
                 f'[{low:.3f}, {high:.3f}].')
    if d and d['needed'] and _against(d) == 'cannot be told from':
      n = d['needed']
      ways = [f'{n[what]:,} {"clusters" if "clusters" in c and what == "examples" else what}'
              for what in ('seeds', 'examples') if n[what]]
      out.append(f'To tell {a["arm"]} from {c["baseline"]} if they differ by {n["difference"]:.3f} (80 % power, one test): '
                 + (f'{listed(ways, "or")}, the other as it is.' if ways else
                    'more seeds, templates or examples; one of them alone is not enough.' if variation.templates(c) > 1 else
                    'more seeds and more examples; neither alone is enough.'))
  return out


def _cost(c: dict[str, Any]) -> list[str]:
  """The arm that costs least among those that are as good as the best, and whose cost is a share of several runs'."""
  out = []
  best = sorted(c['arms'], key=lambda a: a['mean'], reverse=_higher(c))[0]
  alike = [a for a in c['arms'] if a['group'] and share_a_letter(a, best)]
  if len(alike) > 1:
    least = min(alike, key=lambda a: a['cost']['train_flops'])
    flops, learn = count(least['cost']['train_flops']), count(least['cost']['trainable_params'])
    out.append(f'Of the arms that no test tells from the best, {least["arm"]} '
               + (f'took least to train: {flops} FLOPs, {learn} parameters that learn.' if least['cost']['train_flops'] else
                  'was not trained at all.'))
  for a in c['arms']:
    cost = a['cost']
    if cost.get('planned_peak_bytes') and cost['train_flops']:
      planned, measured = (cost[name] / 2 ** 30 for name in ('planned_peak_bytes', 'peak_bytes'))
      out.append(f'{a["arm"]}: planned {planned:.2f} GiB and {cost["planned_train_seconds"]:.0f} s or more, alone; measured '
                 f'{measured:.2f} GiB and {cost["train_seconds"]:.0f} s.')
  sizes = {a['arm']: a['cost'].get('cohort_size', 1) for a in c['arms']}
  shared = [f'{arm} ({size:g} runs)' for arm, size in sizes.items() if size > 1]
  if shared and len(set(sizes.values())) > 1:
    out.append(f'Trained as one program with others: {listed(shared)}. Their times and memory are a run\'s share, which can '
               'be less than it would take alone; FLOPs compare.')
  return out


def _tuned(study: Study, c: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
  """How many settings each arm could choose from, and which choices lie at an edge."""
  rows = [r for r in rows if not r['reports']]
  tried = {a['arm']: len({str(r['setting']) for r in rows if r['arm'] == a['arm']}) for a in c['arms']}
  out = [f'Settings tried: {listed(f"{arm} {n}" for arm, n in tried.items())}; chosen by {study.select}, mean over seeds.']
  for a in c['arms']:
    out += _rivals(study, a, [r for r in rows if r['arm'] == a['arm']])
    out += [f'{a["arm"]}: the chosen {field} {shown(value)} is the {edge} that was tried; a better one may lie beyond it.'
            for field, value, edge in optimum.edges(study, a, rows)]
    for field, found in a.get('best', {}).items():
      name = field.split('.')[-1]
      ratio = (f', {found["ratio"]:.2g} [{found["low"]:.2g}, {found["high"]:.2g}] times that of {c["baseline"]} '
               f'({found["seeds"]} seeds)') if found['ratio'] else ''
      out.append(f'{a["arm"]}: between the values tried, {name} {found["value"]:.2g} is best (a parabola through the best and '
                 f'its neighbours){ratio}.')
  return out


def _rivals(study: Study, a: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
  """The settings that were as good as an arm's chosen one, and those that were better but lost a run."""
  scores: dict[str, list[float]] = {}
  said = {}
  for r in rows:
    setting = ', '.join(f'{f.split(".")[-1]} {shown(v)}' for f, v in r['setting'].items())
    said[setting] = r['setting']
    found = scores.setdefault(setting, [])
    if r['result'] and not r['diverged']:
      found.append(r['result']['metrics'][study.select])
  chosen = ', '.join(f'{name} {shown(v)}' for name, v in a['selected'].items())
  means = {setting: sum(x) / len(x) for setting, x in scores.items() if x}
  sign = 1 if metrics.measured(study.select).higher_is_better else -1
  out = []
  tied = [x for x in means if x != chosen and means[x] == means[chosen] and len(scores[x]) == len(scores[chosen])]
  if tied:
    out.append(f'{a["arm"]}: {listed(tied)} had the same {study.select} as the chosen {chosen}; the lower loss decided.')
  lost = [x for x in means if sign * (means[x] - means[chosen]) > 0 and len(scores[x]) < len(scores[chosen])]
  if lost:
    told = listed(f'{x} ({means[x]:.3f}, {len(scores[x])} runs)' for x in lost)
    out.append(f'{a["arm"]}: {told} had a better {study.select} than the chosen {chosen} ({means[chosen]:.3f}, '
               f'{len(scores[chosen])} runs), but lost a run.')
  return out


def _overfit(c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> list[str]:
  out = []
  for r in (r for a in c['arms'] for r in rows if r['selected'] and r['arm'] == a['arm']):
    lines = outcomes.curve(workdir, r['key'])
    valid = [x for x in lines if 'valid/loss' in x]
    lowest = min(valid, key=lambda x: x['valid/loss'])['step'] if valid else 0
    if valid and valid[-1]['step'] > lowest:
      out.append(f'{r["arm"]}, seed {r["seed"]}: validation loss turned up after step {lowest} of {r["result"]["steps"]} '
                 f'(overfitting); the weights of step {r["result"]["best_step"]} were kept.')
  return out or ['No chosen run\'s validation loss turned up before its end.']


def listed(words: Iterable[str], last: str = 'and') -> str:
  """Words as a sentence lists them."""
  *first, final = map(str, words)
  return f'{", ".join(first)} {last} {final}' if first else final
