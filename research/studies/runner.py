"""Runs a study's cells, chooses each arm's setting on validation, and reads the test split once.

What a cell came to stands in its own folder alone, so a study can be stopped anywhere, and several machines can share one.
"""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research import workdir as files
from research.errors import InputError
from research.evaluation import metrics
from research.studies.grid import Cell, Study
from research.training.monitor import say

PLAN, RESULTS, RUNS = 'plan.json', 'results.jsonl', 'runs'
FAILED = 'failed.json'      # in the folder of a cell that ended with an error


class Shard(NamedTuple):
  """The part of a study's cells that one of several machines runs: number `number` of `count`, from 1."""
  number: int = 1
  count: int = 1

  def holds(self, cell: int) -> bool:
    return cell % self.count == self.number - 1


WHOLE = Shard()


def shard(text: str) -> Shard:
  """`i/n` as a shard.

  Raises:
    InputError: it is not two numbers, 1 <= i <= n.
  """
  number, _, count = text.partition('/')
  if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
    raise InputError(f'--shard={text}: must be i/n with 1 <= i <= n, such as 1/2 on one machine and 2/2 on another')
  return Shard(int(number), int(count))


def check(s: Study, cells: list[Cell], workdir: Path) -> None:
  """Refuses a folder that holds another study, or none.

  Raises:
    InputError: it does.
  """
  if not (workdir / PLAN).exists():
    raise InputError(f'{workdir}: holds no study')
  earlier = files.read_json(workdir / PLAN)
  for field in ('select', 'report'):
    if earlier['study'][field] != getattr(s, field):
      raise InputError(f'{workdir}: the study there has {field}={earlier["study"][field]!r}; with another the test split '
                       'would be read twice; give another --workdir')
  there, here = ({c['key'] for c in earlier['cells']}, {c.key for c in cells})
  if there != here:
    raise InputError(f'{workdir} holds another study ({len(there)} cells, {len(there & here)} of them also in this one); give '
                     'another --workdir')


def claim(s: Study, cells: list[Cell], workdir: Path) -> None:
  """Makes `workdir` this study's, or goes on in it; raises as `check` does."""
  path = workdir / PLAN
  if files.is_taken(workdir) and not path.exists():
    raise InputError(f'{workdir} exists and holds no study; give another --workdir')
  if path.exists():                                        # another machine may have begun it
    check(s, cells, workdir)
  files.write_json(path, {'study': s._asdict(), 'cells': [c._asdict() for c in cells]})


def run(s: Study, cells: list[Cell], workdir: Path, train: Callable[[dict, Path, str], dict],
        test: Callable[[Path], dict], part: Shard = WHOLE) -> list[dict[str, Any]] | None:
  """Every cell trained, the chosen ones tested; finished work is not done again, and a broken cell stops no other.

  Args:
    train: (config, workdir, label) -> result; test: workdir -> result, with test metrics.
    part: of the cells, those that are trained here; whoever ends last chooses and tests.
  Returns:
    The lines of results.jsonl; None where cells of other shards are still to be trained.
  """
  began = time.monotonic()
  for number, cell in enumerate(cells):
    if not part.holds(number):
      continue
    folder, label = workdir / RUNS / cell.key, f'[{number + 1}/{len(cells)}] {cell.key.rsplit("-", 1)[0]}'
    if (folder / files.RESULT).exists():
      say(f'{label} is finished already')
    else:
      (folder / FAILED).unlink(missing_ok=True)                  # it is tried again
      try:
        train(cell.config, folder, label)
      except (InputError, jax.errors.JaxRuntimeError) as e:      # the latter: out of memory, as a rule
        files.write_json(folder / FAILED, {'error': str(e)})
        say(f'{label} failed: {e}')
      files.write_jsonl(workdir / RESULTS, results(s, cells, workdir))
    # A cell that has ended is not gone on with; the optimiser's state is most of a checkpoint's bytes.
    shutil.rmtree(folder / files.CHECKPOINTS / 'latest', ignore_errors=True)
  rows = results(s, cells, workdir)
  if len(rows) < len(cells):
    say(f'study: shard {part.number} of {part.count} done, {time.monotonic() - began:.0f} s; {len(cells) - len(rows)} cells of '
        'other shards are still to be trained')
    return None
  for row in rows:
    if row['selected'] and s.report not in row['result']['metrics']:
      row['result'] = test(workdir / RUNS / row['key'])
  files.write_jsonl(workdir / RESULTS, rows)
  say(f'study: all {len(cells)} cells done, {time.monotonic() - began:.0f} s')
  return rows


def results(s: Study, cells: list[Cell], workdir: Path) -> list[dict[str, Any]]:
  """The lines of results.jsonl for the cells that have ended, whoever trained them; chosen among once all have."""
  rows = []
  for cell in cells:
    folder, error = workdir / RUNS / cell.key, None
    result = _read_if_there(folder / files.RESULT)
    if result is None:
      error = (_read_if_there(folder / FAILED) or {}).get('error')
    if result is not None or error is not None:
      told = {f: getattr(cell, f) for f in ('key', 'model', 'task', 'arm', 'seed', 'setting')}
      rows.append({**told, 'selected': False, 'error': error, 'result': result})
  for row in select(s, rows) if len(rows) == len(cells) else ():
    row['selected'] = True
  return rows


def _read_if_there(path: Path) -> Any:
  """What a JSON file holds; None without one, also where another machine removes it just now."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return None


def select(s: Study, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The rows of each arm's chosen setting: the best mean of `select` over seeds; a tie goes to the lower loss."""
  groups: dict[tuple, dict[str, list]] = defaultdict(lambda: defaultdict(list))
  for row in rows:
    if row['result'] is not None:
      groups[row['model'], row['task'], row['arm']][str(row['setting'])].append(row)
  metric = metrics.get(s.select.split('/')[1])

  def worth(of_setting: list[dict]) -> tuple[float, float, float]:
    mean = lambda name: sum(r['result']['metrics'][name] for r in of_setting) / len(of_setting)
    value = mean(s.select) if metric.higher_is_better else -mean(s.select)
    return len(of_setting), value, -mean('valid/loss')    # a setting that failed for some seed yields to whole ones
  return [row for settings in groups.values() for row in max(settings.values(), key=worth)]
