"""A study's report: the same table and findings as report.md and as report.html, which opens by itself."""

import csv
import io
import json
import textwrap
from pathlib import Path
from typing import Any

from research import look, run_files
from research.look import count
from research.studies import (
  across,
  bias_report,
  by_heart,
  confused,
  figures,
  findings,
  forgotten,
  leaked,
  method,
  scoring,
  varied,
  verdict,
)
from research.studies.figures import shown
from research.studies.findings import interval, p_value
from research.studies.grid import Study
from research.studies.outcomes import RUNS
from research.studies.registration import Plan

COLUMNS = ('arm', 'setting', 'score [95 %]', 'group', 'difference [95 %]', 'learn', 'memory', 'time', 'FLOPs')
ROWS = 'rows'      # to train on, and to test on
LINES = {'chance': 'at random', 'majority': 'most frequent'}
RETAINED = 5      # the column before which stands what arms retain


def write(plan: Plan, comparison: dict[str, Any], rows: list[dict[str, Any]], workdir: Path, command: str,
          of_cells: dict[str, str | None]) -> None:
  """Writes report.md, report.html, table.csv, table.tex, provenance.json and figures/ into the study's workdir.

  Args:
    plan: of the study that was run.
    comparison: what comparison.json holds.
    rows: the lines of results.jsonl.
    workdir: the study's.
    command: that makes the study.
    of_cells: key of a cell -> the command that makes it alone, or None where no flags say it.
  """
  study = plan.study
  drawn = figures.draw(study, comparison, rows, workdir)
  for figure in (figure for of_comparison in drawn for figure in of_comparison.values()):
    figure['data'] = look.embedded(workdir / 'figures' / figure['svg'])
  provenance = _provenance(rows, workdir)
  told, cited = method.paragraph(study, comparison, provenance)
  seen = [{**c, 'rows': method.rows_of(c, rows, provenance)} for c in comparison['comparisons']]
  facts = {
      'css': look.css(), 'study': study, 'command': command,
      'plan': comparison.get('plan'), 'interim': comparison.get('interim'),
      'commands': [of_cells[r['key']] or f'# no flags say what {r["key"]} is: see its config.json'
                   for r in rows if r['selected']],
      'rows': rows, 'validated': [*dict.fromkeys((study.select, 'valid/loss'))],
      'overall': across.part(comparison),
      'comparisons': [{**c, 'columns': columns(c), 'table': _table(c), 'figures': of_comparison,
                       'verdict': verdict.verdict(study, c, rows),
                       'parts': _parts(plan, c, rows, workdir, of_comparison)}
                      for c, of_comparison in zip(seen, drawn)],
      'failed': [r for r in rows if r['error']], 'provenance': provenance,
      'method': told, 'bibtex': method.bibtex(cited, provenance),
      'config': json.dumps(plan.cells[0].config['training']),
  }
  for name in ('report.md', 'report.html'):
    run_files.write_text(workdir / name, look.template('research.studies', name).render(facts))
  run_files.write_text(workdir / 'table.csv', table_csv(comparison))
  run_files.write_text(workdir / 'table.tex', table_tex(comparison))


def _parts(plan: Plan, c: dict[str, Any], rows: list[dict[str, Any]], workdir: Path,
           drawn: dict[str, dict[str, str]]) -> list[findings.Part]:
  """The questions that the report of one comparison answers, each module adding its own to those before."""
  found = findings.parts(plan.study, c, rows, workdir, plan.earlier)
  found = varied.parts(c, found, plan.cells)
  found = confused.parts(c, rows, workdir, found)
  found = scoring.parts(c, found, drawn)
  found = leaked.parts(c, found)
  found = forgotten.parts(c, found)
  found = by_heart.parts(c, rows, found)
  return bias_report.parts(c, found)


def _provenance(rows: list[dict[str, Any]], workdir: Path) -> dict[str, Any]:
  """What the study's runs came from: the first one's provenance, with the commits of all; kept beside its results."""
  if (workdir / RUNS).exists():
    found = {r['key']: run_files.read_json(workdir / RUNS / r['key'] / run_files.PROVENANCE) for r in rows if r['result']}
    commits = list(dict.fromkeys(one['code']['commit'] for one in found.values()))
    counts = {r['key']: {split: of['rows'] for split, of in found[r['key']]['data'].items()} for r in rows if r['selected']}
    run_files.write_json(workdir / run_files.PROVENANCE, {**next(iter(found.values())), 'commits': commits, 'rows': counts})
  return run_files.read_json(workdir / run_files.PROVENANCE)


def columns(c: dict[str, Any]) -> list[str]:
  """The columns of a comparison's table: `COLUMNS`, and what arms retain of each task that the study names."""
  more = [f'{r["name"]} [95 %]' for r in c.get('retained', ())]
  return [*COLUMNS[:RETAINED], *more, *COLUMNS[RETAINED:], *([ROWS] if c.get('rows') else [])]


def _table(c: dict[str, Any]) -> list[dict[str, str]]:
  """A row for each arm, and one for each score that takes no model."""
  empty = dict.fromkeys(columns(c), '–')
  lines = [{**empty, 'arm': name, 'score [95 %]': f'{c[line]:.3f}'} for line, name in LINES.items() if c[line] is not None]
  return [*(_row(a, c) for a in c['arms']), *lines]


def _row(arm: dict[str, Any], c: dict[str, Any]) -> dict[str, str]:
  baseline = c['baseline']
  cost, d = arm['cost'], arm['difference']
  gap = '(baseline)' if arm['arm'] == baseline else '(no seed in common)'
  if d:
    gap = interval(d, '+') + ('' if d['p_adjusted'] is None else f', {p_value(d["p_adjusted"])}')
  trained, runs = cost['train_flops'] > 0, arm['runs']
  ended = '' if runs['finished'] == runs['planned'] else f' ({runs["finished"]} of {runs["planned"]})'
  kept = [next((interval(a) for a in r['arms'] if a['arm'] == arm['arm']), interval(r['base'])) for r in c.get('retained', ())]
  return dict(zip(columns(c), (
      arm['arm'] + ended, ', '.join(f'{k} {shown(v)}' for k, v in arm['selected'].items()),
      interval(arm), arm['group'] or '–', gap, *kept, count(cost['trainable_params']),
      f'{cost["peak_bytes"] / 2 ** 30:.2f} GiB' if trained else '–',
      f'{cost["train_seconds"]:.0f} s' if trained else '–', f'{cost["train_flops"]:.2g}' if trained else '–',
      *([_rows(c['rows'].get(arm['arm'], {}), trained)] if c.get('rows') else []))))


def _rows(of: dict[str, int], trained: bool) -> str:
  train = f'{of["train"]:,}' if trained and 'train' in of else '–'
  return f'{train} / {of.get("test", 0):,}'


def table_csv(comparison: dict[str, Any]) -> str:
  """The tables of all models and tasks as one, a line an arm, its numbers unrounded."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  runs, cost = ('planned', 'finished', 'failed', 'diverged'), ('trainable_params', 'peak_bytes', 'train_seconds', 'train_flops')
  gap = ('mean', 'low', 'high', 'p_adjusted')
  writer.writerow(['model', 'task', 'metric', 'arm', 'setting', 'seeds', 'mean', 'low', 'high', 'group',
                   *(f'difference_{name}' for name in gap), *(f'runs_{name}' for name in runs), *cost])
  for c in comparison['comparisons']:
    for a in c['arms']:
      writer.writerow([c['model'], c['task'], c['metric'], a['arm'], json.dumps(a['selected']), len(a['seeds']), a['mean'],
                       a['low'], a['high'], a['group'], *((a['difference'] or {}).get(name) for name in gap),
                       *(a['runs'][name] for name in runs), *(a['cost'][name] for name in cost)])
  return out.getvalue()


def table_tex(comparison: dict[str, Any]) -> str:
  """A tabular for LaTeX with the package booktabs for every model and task."""
  out = []
  for c in comparison['comparisons']:
    rows, names = _table(c), columns(c)[:RETAINED + len(c.get('retained', ()))]
    out += [f'% {c["task"]} on {c["model"]}: {c["metric"]}', f'\\begin{{tabular}}{{{"l" * len(names)}}}', '\\toprule',
            ' & '.join(map(_tex, names)) + r' \\', '\\midrule',
            *(' & '.join(_tex(row[name]) for name in names) + r' \\' for row in rows),
            '\\bottomrule', '\\end{tabular}']
  return '\n'.join(out) + '\n'


def _tex(text: str) -> str:
  """As text of LaTeX."""
  special = {'\\': r'\textbackslash{}', '<': '$<$', '>': '$>$', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
             '–': '--', **{c: f'\\{c}' for c in '&%$#_{}'}}
  return ''.join(special.get(c, c) for c in text)


def verdict_text(study: Study, comparison: dict[str, Any], rows: list[dict[str, Any]]) -> str:
  """The verdicts for a terminal.

  Args:
    study: the one that was run.
    comparison: what comparison.json holds.
    rows: the lines of results.jsonl.
  """
  said = {f'{c["task"]} on {c["model"]}': verdict.verdict(study, c, rows) for c in comparison['comparisons']}
  return '\n'.join(textwrap.fill(f'{name}: {" ".join(one)}', 120) for name, one in said.items()) + '\n'


def table_text(comparison: dict[str, Any]) -> str:
  """The table for a terminal."""
  lines = []
  for c in comparison['comparisons']:
    lines.append(f'{c["task"]} on {c["model"]}: {c["metric"]}')
    table = [tuple(columns(c)), *(tuple(row.values()) for row in _table(c))]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines += ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in table] + leaked.line(c)
  return '\n'.join(lines + across.lines(comparison))
