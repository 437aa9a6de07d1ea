"""A study's report: the same table and findings as report.md and as report.html, which opens by itself."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from research import workdir as files
from research.data.sources import read_jsonl
from research.evaluation import metrics
from research.studies import figures
from research.studies.figures import count, shown
from research.studies.grid import Study
from research.studies.runner import RUNS

COLUMNS = ('arm', 'setting', 'score [95 %]', 'difference [95 %]', 'learn', 'memory', 'time', 'FLOPs')


def write(study: Study, comparison: dict[str, Any], rows: list[dict[str, Any]], workdir: Path, command: str) -> None:
  """Writes report.md, report.html and figures/ into the study's workdir."""
  drawn = figures.draw(study, comparison, rows, workdir)
  for figure in drawn:
    data = (workdir / 'figures' / figure['name']).read_bytes()
    figure['data'] = 'data:image/png;base64,' + base64.b64encode(data).decode()
  first = next(r for r in rows if r['result'])
  provenance = files.read_json(workdir / RUNS / first['key'] / files.PROVENANCE)
  facts = {
      'study': study, 'command': command, 'columns': COLUMNS, 'figures': drawn, 'rows': rows,
      'comparisons': [{**c, 'table': [_row(a) for a in c['arms']], 'findings': findings(study, c, rows, workdir)}
                      for c in comparison['comparisons']],
      'failed': [r for r in rows if r['error']], 'provenance': provenance,
      'config': json.dumps(files.read_json(workdir / RUNS / first['key'] / files.CONFIG)['training']),
  }
  environment = jinja2.Environment(loader=jinja2.PackageLoader('research.studies', '.'), trim_blocks=True,
                                   lstrip_blocks=True, autoescape=lambda name: name and '.html' in name,
                                   undefined=jinja2.StrictUndefined)
  for name in ('report.md', 'report.html'):
    files.write_text(workdir / name, environment.get_template(f'{name}.jinja').render(facts))


def _row(arm: dict[str, Any]) -> dict[str, str]:
  cost, d = arm['cost'], arm['difference']
  gap = '(baseline)'
  if d:
    gap = f'{d["mean"]:+.3f} [{d["low"]:+.3f}, {d["high"]:+.3f}]'
    if d['p_adjusted'] is not None:
      gap += f', p {d["p_adjusted"]:.2g}'
  trained = cost['train_flops'] > 0
  return dict(zip(COLUMNS, (
      arm['arm'], ', '.join(f'{k} {shown(v)}' for k, v in arm['selected'].items()),
      f'{arm["mean"]:.3f} [{arm["low"]:.3f}, {arm["high"]:.3f}]', gap, count(cost['trainable_params']),
      f'{cost["peak_bytes"] / 2 ** 30:.2f} GiB' if trained else '–',
      f'{cost["train_seconds"]:.0f} s' if trained else '–', f'{cost["train_flops"]:.2g}' if trained else '–')))


def findings(study: Study, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path) -> list[str]:
  """What the numbers say, in sentences, and what they do not."""
  out = []
  higher = metrics.get(study.report.split('/')[1]).higher_is_better
  ranked = sorted(c['arms'], key=lambda a: a['mean'], reverse=higher)
  out.append(f'{"Highest" if higher else "Lowest"} {study.report}: {ranked[0]["arm"]}, {ranked[0]["mean"]:.3f} '
             f'[{ranked[0]["low"]:.3f}, {ranked[0]["high"]:.3f}].')
  for a in c['arms']:
    d = a['difference']
    if d:
      word = 'is above' if d['low'] > 0 else 'is below' if d['high'] < 0 else 'cannot be told from'
      out.append(f'{a["arm"]} {word} the baseline {c["baseline"]}: difference {d["mean"]:+.3f}, 95 % interval '
                 f'[{d["low"]:+.3f}, {d["high"]:+.3f}].')
  seeds = {len(a['seeds']) for a in c['arms']}
  if seeds == {1}:
    out.append('One seed: the intervals are over test examples only. They tell how these trained models differ, and '
               'nothing about how much another seed would move them; there are no p-values about arms.')
  elif 1 in seeds:
    out.append('Some arms ended with one seed only: their intervals are over test examples alone.')
  for a in c['arms']:
    grid = study.arms[a['arm']].get('grid', {})
    for field, values in grid.items():
      value = a['selected'][field.split('.')[-1]]
      if 'learning_rate' in field and value in (min(values), max(values)):
        edge = 'lowest' if value == min(values) else 'highest'
        out.append(f'{a["arm"]}: the chosen {field.split(".")[-1]} {value:g} is the {edge} of its grid; a better one may '
                   'lie beyond it.')
    for r in (r for r in rows if r['selected'] and r['arm'] == a['arm'] and (r['model'], r['task']) ==
              (c['model'], c['task'])):
      valid = [x for x in read_jsonl_or_empty(workdir / RUNS / r['key'] / files.METRICS) if 'valid/loss' in x]
      lowest = min(valid, key=lambda x: x['valid/loss'])['step'] if valid else 0
      if valid and valid[-1]['step'] > lowest:
        out.append(f'{a["arm"]}, seed {r["seed"]}: validation loss turned up after step {lowest} of {r["result"]["steps"]} '
                   f'(overfitting); the weights of step {r["result"]["best_step"]} were kept.')
  for arm in c['missing']:
    out.append(f'{arm}: no cell ended, so it is not in the table.')
  return out


def read_jsonl_or_empty(path: Path) -> list[dict[str, Any]]:
  """Rows of a metrics file, which is empty where nothing was trained."""
  return read_jsonl(path) if path.exists() and path.stat().st_size else []


def table_text(comparison: dict[str, Any]) -> str:
  """The table for a terminal."""
  lines = []
  for c in comparison['comparisons']:
    lines.append(f'{c["task"]} on {c["model"]}: {c["metric"]}')
    table = [COLUMNS, *(tuple(_row(a).values()) for a in c['arms'])]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    lines += ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in table]
  return '\n'.join(lines)
