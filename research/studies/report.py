"""A study's report: the same table and findings as report.md and as report.html, which opens by itself."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from research import look, run_files
from research.look import count
from research.studies import across, bias_report, by_heart, figures, findings, forgotten, leaked, scoring, varied
from research.studies.figures import shown
from research.studies.findings import interval, p_value
from research.studies.outcomes import RUNS
from research.studies.registration import Plan

COLUMNS = ('arm', 'setting', 'score [95 %]', 'group', 'difference [95 %]', 'learn', 'memory', 'time', 'FLOPs')
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
    figure['data'] = look.embedded(workdir / 'figures' / figure['name'])
  facts = {
      'css': look.css(), 'study': study, 'command': command,
      'plan': comparison.get('plan'), 'interim': comparison.get('interim'),
      'commands': [of_cells[r['key']] or f'# no flags say what {r["key"]} is: see its config.json'
                   for r in rows if r['selected']],
      'rows': rows, 'validated': [*dict.fromkeys((study.select, 'valid/loss'))],
      'overall': across.part(comparison),
      'comparisons': [{**c, 'columns': columns(c), 'table': [_row(a, c) for a in c['arms']], 'figures': of_comparison,
                       'parts': bias_report.parts(c, by_heart.parts(c, rows, forgotten.parts(c, leaked.parts(c, scoring.parts(
                           c, varied.parts(c, findings.parts(study, c, rows, workdir, plan.earlier), plan.cells),
                           of_comparison)))))}
                      for c, of_comparison in zip(comparison['comparisons'], drawn)],
      'failed': [r for r in rows if r['error']], 'provenance': _provenance(rows, workdir),
      'config': json.dumps(plan.cells[0].config['training']),
  }
  for name in ('report.md', 'report.html'):
    run_files.write_text(workdir / name, look.template('research.studies', name).render(facts))
  run_files.write_text(workdir / 'table.csv', table_csv(comparison))
  run_files.write_text(workdir / 'table.tex', table_tex(comparison))


def _provenance(rows: list[dict[str, Any]], workdir: Path) -> dict[str, Any]:
  """What the study's runs came from: the first one's provenance, with the commits of all; kept beside its results."""
  if (workdir / RUNS).exists():
    found = [run_files.read_json(workdir / RUNS / r['key'] / run_files.PROVENANCE) for r in rows if r['result']]
    commits = list(dict.fromkeys(one['code']['commit'] for one in found))
    run_files.write_json(workdir / run_files.PROVENANCE, {**found[0], 'commits': commits})
  return run_files.read_json(workdir / run_files.PROVENANCE)


def columns(c: dict[str, Any]) -> list[str]:
  """The columns of a comparison's table: `COLUMNS`, and what arms retain of each task that the study names."""
  more = [f'{r["name"]} [95 %]' for r in c.get('retained', ())]
  return [*COLUMNS[:RETAINED], *more, *COLUMNS[RETAINED:]]


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
      f'{cost["train_seconds"]:.0f} s' if trained else '–', f'{cost["train_flops"]:.2g}' if trained else '–')))


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
    rows, names = [_row(a, c) for a in c['arms']], columns(c)[:RETAINED + len(c.get('retained', ()))]
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


def table_text(comparison: dict[str, Any]) -> str:
  """The table for a terminal."""
  lines = []
  for c in comparison['comparisons']:
    lines.append(f'{c["task"]} on {c["model"]}: {c["metric"]}')
    table = [tuple(columns(c)), *(tuple(_row(a, c).values()) for a in c['arms'])]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines += ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in table] + leaked.line(c)
  return '\n'.join(lines + across.lines(comparison))
