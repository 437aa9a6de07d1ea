"""What a comparison's numbers say, in sentences, question by question, and what they do not say."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from research import workdir as files
from research.data.sources import read_jsonl
from research.evaluation import metrics
from research.studies.compare import LEVEL
from research.studies.figures import count, shown
from research.studies.grid import Study
from research.studies.runner import RUNS

SHOWN = 6           # examples on which arms disagree
WORDS = 400         # characters of a prompt that are shown: its end


class Part(NamedTuple):
  """One question that a report answers."""
  title: str
  sentences: list[str]
  figure: str | None = None                       # name of the figure that shows it
  examples: list[dict[str, Any]] | None = None    # prompt, target, and each arm's prediction


def parts(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> list[Part]:
  """The answers of one comparison of comparison.json, in the order in which a reader asks.

  Args:
    study: the one that was run.
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs' metrics and predictions.
  """
  mine = [r for r in rows if (r['model'], r['task']) == (c['model'], c['task'])]
  return [Part('The answer', _answer(study, c)), Part('How sure', _sure(study, c)), Part('What it costs', _cost(c), 'cost'),
          Part('Was each arm tuned fairly', _tuned(study, c, mine), 'tuning'),
          Part('Did anything overfit', _overfit(c, mine, workdir), 'learning'), _disagreements(c, mine, workdir)]


def _higher(c: dict[str, Any]) -> bool:
  return metrics.measured(c['metric']).higher_is_better


def _answer(study: Study, c: dict[str, Any]) -> list[str]:
  """The best arm, the arms that cannot be told from it, and every arm against the baseline."""
  best, *others = sorted(c['arms'], key=lambda a: a['mean'], reverse=_higher(c))
  out = [f'{"Highest" if _higher(c) else "Lowest"} {c["metric"]}: {best["arm"]}, {best["mean"]:.3f} '
         f'[{best["low"]:.3f}, {best["high"]:.3f}].']
  if best['group']:
    tied = [a['arm'] for a in others if _share_a_letter(a, best)]
    if others:
      out.append(f'No test tells {best["arm"]} from {_listed(tied)}: arms that share a letter cannot be ranked.' if tied
                 else f'{best["arm"]} is told apart from every other arm.')
  for a in c['arms']:
    d = a['difference']
    if d:
      out.append(f'{a["arm"]} {_against(d)} the baseline {c["baseline"]}: {d["mean"]:+.3f} [{d["low"]:+.3f}, {d["high"]:+.3f}]'
                 f'{_p(d)}.')
      if d['p_equivalence'] is not None and d['p_equivalence'] < LEVEL:
        out.append(f'{a["arm"]} is equivalent to {c["baseline"]}: the difference is smaller than {study.margin:g} either way '
                   f'(two one-sided tests, p {d["p_equivalence"]:.2g} after Holm).')
  return out + [f'{arm}: no cell ended, so it is not in the table.' for arm in c['missing']]


def _against(d: dict[str, Any]) -> str:
  """What a difference comes to: by its test after Holm's correction, and by its interval where there is no test."""
  told = d['low'] > 0 or d['high'] < 0 if d['p_adjusted'] is None else d['p_adjusted'] < LEVEL
  return ('is above' if d['mean'] > 0 else 'is below') if told else 'cannot be told from'


def _share_a_letter(one: dict[str, Any], other: dict[str, Any]) -> bool:
  return bool({*re.findall("[a-z]'*", one['group'])} & {*re.findall("[a-z]'*", other['group'])})


def _p(d: dict[str, Any]) -> str:
  return '' if d['p_adjusted'] is None else f', p {d["p_adjusted"]:.2g} after Holm'


def _sure(study: Study, c: dict[str, Any]) -> list[str]:
  """What the intervals are about, how much seeds move each difference, and what it would take to tell arms apart."""
  seeds = {len(a['seeds']) for a in c['arms']}
  if seeds == {1}:
    return ['One seed: the intervals are over test examples only. They tell how these trained models differ, and nothing '
            'about how much another seed would move them; there are no p-values about arms.']
  out = [f'The arms have {_listed(sorted(seeds), "or")} seeds. Seeds and examples are both samples: an interval says how far a '
         'score would move with other seeds and other examples of their kind.']
  if 1 in seeds:
    out.append('Where only one seed ended, the interval is over examples alone.')
  for a in c['arms']:
    d = a['difference']
    if d is None and a['arm'] != c['baseline']:
      out.append(f'{a["arm"]} and {c["baseline"]} ended with no seed in common, so nothing is said of their difference.')
    elif d and d['seeds'] == 1:
      out.append(f'{a["arm"]} and {c["baseline"]} have one seed in common: their difference is over examples alone.')
    if d and d['seed_spread'] is not None:
      out.append(f'{a["arm"]} to {c["baseline"]}: from seed to seed the difference deviates by {d["seed_spread"]:.3f}.')
    if d and d['needed'] and _against(d) == 'cannot be told from':
      n = d['needed']
      ways = [f'{n[what]:,} {what}' for what in ('seeds', 'examples') if n[what]]
      out.append(f'To tell {a["arm"]} from {c["baseline"]} if they differ by {n["difference"]:.3f} (80 % power, one test): '
                 + (f'{_listed(ways, "or")}, the other as it is.' if ways else 'more seeds and more examples; neither alone '
                    'is enough.'))
  return out


def _cost(c: dict[str, Any]) -> list[str]:
  """The arm that costs least among those that are as good as the best, and whose cost is a share of several runs'."""
  out = []
  best = sorted(c['arms'], key=lambda a: a['mean'], reverse=_higher(c))[0]
  alike = [a for a in c['arms'] if a['group'] and _share_a_letter(a, best)]
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
    out.append(f'Trained as one program with others: {_listed(shared)}. Their times and memory are a run\'s share, which can '
               'be less than it would take alone; FLOPs compare.')
  return out


def _tuned(study: Study, c: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
  """How many settings each arm could choose from, and which choices lie at an edge."""
  tried = {a['arm']: len({str(r['setting']) for r in rows if r['arm'] == a['arm']}) for a in c['arms']}
  out = [f'Settings tried: {_listed(f"{arm} {n}" for arm, n in tried.items())}; chosen by {study.select}, mean over seeds.']
  for a in c['arms']:
    for field, values in study.arms[a['arm']].get('grid', {}).items():
      value = a['selected'][field.split('.')[-1]]
      if 'learning_rate' in field and value in (min(values), max(values)):
        edge = 'only one' if len(set(values)) == 1 else 'lowest' if value == min(values) else 'highest'
        out.append(f'{a["arm"]}: the chosen {field.split(".")[-1]} {shown(value)} is the {edge} of its grid; a better one may '
                   'lie beyond it.')
  return out


def _overfit(c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> list[str]:
  out = []
  for r in (r for a in c['arms'] for r in rows if r['selected'] and r['arm'] == a['arm']):
    path = workdir / RUNS / r['key'] / files.METRICS
    lines = read_jsonl(path) if path.exists() and path.stat().st_size else []      # empty: nothing was trained
    valid = [x for x in lines if 'valid/loss' in x]
    lowest = min(valid, key=lambda x: x['valid/loss'])['step'] if valid else 0
    if valid and valid[-1]['step'] > lowest:
      out.append(f'{r["arm"]}, seed {r["seed"]}: validation loss turned up after step {lowest} of {r["result"]["steps"]} '
                 f'(overfitting); the weights of step {r["result"]["best_step"]} were kept.')
  return out or ['No chosen run\'s validation loss turned up before its end.']


def _disagreements(c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> Part:
  """Examples to which the arms give different answers, those with the most different ones first; of each arm's first seed."""
  said = {}
  for a in c['arms']:
    row = next(r for r in rows if r['selected'] and r['arm'] == a['arm'])
    said[a['arm']] = read_jsonl(workdir / RUNS / row['key'] / files.PREDICTIONS / 'test.jsonl')
  first = next(iter(said.values()))
  if not any(line['prediction'].strip() for lines in said.values() for line in lines):
    return Part('Where the arms disagree', ['Nothing was answered: only the loss was measured.'])
  answers = [{arm: lines[i]['prediction'].strip() for arm, lines in said.items()} for i in range(len(first))]
  differ = [i for i, one in enumerate(answers) if len({*one.values()}) > 1]
  chosen = sorted(differ, key=lambda i: (-len({*answers[i].values()}), i))[:SHOWN]
  sentence = f'On {len(differ)} of {len(first)} test examples some arm answers otherwise than another (the first seed of each).'
  shown_one = lambda i: {'prompt': first[i]['prompt'].strip()[-WORDS:], 'target': first[i]['target'].strip(),
                         'answers': answers[i]}
  return Part('Where the arms disagree', [sentence], examples=list(map(shown_one, chosen)))


def _listed(words, last: str = 'and') -> str:
  *first, final = map(str, words)
  return f'{", ".join(first)} {last} {final}' if first else final
