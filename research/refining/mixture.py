"""The data that a challenger learns from and is judged on: new rows, and old ones so that it forgets nothing.

It is written as a folder that `prepare` might have made, so that the challenger is a run like any other.
"""

import json
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from research import json_text, run_files, shipped
from research.config import Settings, TaskSettings
from research.config_fields import plain
from research.data import sources, tasks
from research.data.choices import are_own
from research.data.rows import Row
from research.data.tasks import Task
from research.errors import InputError
from research.preparation import folder, settings, splits
from research.preparation.prepare import DROPPED, prepare
from research.preparation.settings import PrepareSettings, SplitSettings
from research.refining.rows import CONVERSATION
from research.studies import study_file

RECORD = 'refine.json'             # beside the rows: what they were made from, and how many there are of each kind
FIELDS = {'asked': dict, 'rows': {'old': {str: int}, 'new': {str: int}}}
PREPARATION = 'preparation'        # beside them: what `prepare` has to say
VALID = 0.1                        # share of the new rows that chooses the step
SPLIT, PLACE = '_split', '_place'      # columns while it is prepared: of which split a row is, and of an old one its number
NEW = -1                           # the place of a new row


class Shares(NamedTuple):
  """How much there is of what."""
  old: float       # of the training rows, and of those that choose the step
  test: float      # of the new rows
  seed: int        # of both draws


def reference(path: Path, task: TaskSettings, needs_train: bool) -> Task:
  """The rows of a prepared folder, as the task of a run.

  Args:
    path: of the folder.
    task: of the run.
    needs_train: whether old rows are learned again.
  Raises:
    InputError: it is no such folder, or its rows are not those of the task.
  """
  if not (path / sources.TASK).is_file():
    raise InputError(f'--reference={path}: holds no {sources.TASK}; give a folder that research.prepare made')
  fields = {name: value for name, value in task._asdict().items() if name not in tasks.OF_A_RUN}
  try:
    found = tasks.make('files', {**fields, **dict.fromkeys((*sources.SPLITS, 'subset')), 'path': str(path)})
  except InputError as e:
    raise InputError(f'--reference={path}: its rows are not what the run has learned: {e}') from None
  for split in ('test', *(['train'] if needs_train else [])):
    if not found.splits.get(split):
      raise InputError(f'--reference={path}: has no {split}.jsonl, which the challenger is '
                       f'{"compared on" if split == "test" else "kept from forgetting by (or give --old_share=0)"}')
  return found


def write(into: Path, new: Sequence[Row], old: Task, shares: Shares, about: dict[str, Any], where: Path) -> dict[str, Any]:
  """Writes the folder, whole or not at all; gives what its record says. Nothing left to train on is refused (`InputError`).

  Args:
    into: the folder to be made.
    new: rows, the newest first.
    old: as `reference` gives it.
    shares: of old and of test rows.
    about: what the record says beside: `asked`, by what command it was made, and of which log.
    where: the reference's folder.
  """
  record: dict[str, Any] = {}

  def fill(unfinished: Path) -> None:
    record.update(_filled(unfinished, new, old, shares, about, where))
  run_files.write_folder(into, fill)
  return record


def _filled(into: Path, new: Sequence[Row], old: Task, shares: Shares, about: dict[str, Any], where: Path) -> dict[str, Any]:
  drawn = _shared_out(new, old, shares)
  held = {name: drawn.count(name) for name in sources.SPLITS}
  again = {name: _some(len(old.splits.get(name, ())), held[name], shares) for name in ('train', 'valid')}
  # Of rows that are one the first stays: new training rows and old test rows.
  kept: dict[str, list[list[Row]]] = {name: [[], []] for name in sources.SPLITS}      # split -> old, new
  parts: list[list[Row]] = [
      [{**row, SPLIT: 'train', PLACE: NEW} for row, split in zip(new, drawn) if split == 'train'],
      [{**old.splits['train'][n], SPLIT: 'train', PLACE: n} for n in again['train']],
      [{**row, SPLIT: 'test', PLACE: n} for n, row in enumerate(old.splits['test'])],
      [{**old.splits['valid'][n], SPLIT: 'valid', PLACE: n} for n in again['valid']],
      [{**row, SPLIT: split, PLACE: NEW} for row, split in zip(new, drawn) if split != 'train']]
  names = ('new_train', 'old_train', 'old_test', 'old_valid', 'new_held_out')
  rows = into / PREPARATION / 'rows'
  for name, part in zip(names, parts):
    if part:
      run_files.write_jsonl(rows / f'{name}.jsonl', part)
  how = _settings(where, old, new)
  prepare(how, [str(rows / f'{name}.jsonl') for name, part in zip(names, parts) if part], into / 'prepared')
  for name in sources.SPLITS:
    for row in sources.read_jsonl(into / 'prepared' / f'{name}.jsonl') if _is_there(into / 'prepared', name) else ():
      place = row.pop(PLACE)
      del row[SPLIT]
      if place == NEW:
        kept[name][1].append(row)
      elif name != 'test':
        kept[name][0].append(old.splits[name][place])      # as it was, whatever `prepare` would make of it
    if name != 'test':
      del kept[name][0][_most(len(kept[name][1]), shares):]
  kept['test'][0] = list(old.splits['test'])      # all of it, in its order
  if not kept['train'][1]:
    raise InputError(f'none of the {len(new)} new rows is left to train on: {_went(into / "prepared" / DROPPED)}')
  for name, (ours, theirs) in kept.items():
    if ours or theirs:
      run_files.write_jsonl(into / f'{name}.jsonl', [*ours, *theirs])
  record = {**about, 'seed': shares.seed, 'shares': {'old': shares.old, 'test': shares.test, 'valid': VALID},
            'rows': {kind: {name: len(parts_of[number]) for name, parts_of in kept.items()}
                     for number, kind in enumerate(('old', 'new'))}, 'dropped': _went(into / 'prepared' / DROPPED)}
  said = {'prompt': old.prompt, 'target': old.target, 'choices': list(old.choices), 'metrics': list(old.metrics)}
  run_files.write_json(into / sources.TASK, {**{field: value for field, value in said.items() if value},
                                             'splits': [name for name, found in kept.items() if any(found)]})
  run_files.write_json(into / run_files.PROVENANCE, folder.provenance(how, sorted(rows.iterdir()), into))
  run_files.write_json(into / RECORD, record)
  _keep_report(into, rows)
  return record


def _shared_out(new: Sequence[Row], old: Task, shares: Shares) -> list[str]:
  """The split of each new row, drawn by the seed; a conversation, or what the task's examples belong to, is of one alone."""
  column = CONVERSATION if any(CONVERSATION in row for row in new) else old.cluster
  groups = [None if row.get(column) is None else str(row[column]) for row in new]
  if len({*groups}) == len(groups):      # each stands for itself
    groups = [None] * len(groups)
  label = tasks.label_column(old) if old.choices else None
  labels = [None if label is None else str(row.get(label)) for row in new]
  how = SplitSettings(VALID, shares.test, stratify=label is not None and old.numbered is None and not old.own_choices)
  return [splits.NAMES[split] for split in splits.at_random(labels, groups, how, shares.seed).tolist()]


def _most(new: int, shares: Shares) -> int:
  """How many old rows stand beside so many new ones."""
  return round(new * shares.old / (1 - shares.old))


def _some(old: int, new: int, shares: Shares) -> list[int]:
  """The numbers of the old rows that stand beside so many new ones, drawn by the seed."""
  rng = np.random.Generator(np.random.Philox(key=[shares.seed, 1]))
  return rng.permutation(old)[:_most(new, shares)].tolist()


def _settings(where: Path, task: Task, new: Sequence[Row]) -> PrepareSettings:
  """How new rows are prepared: as the reference was where that is known, with personal data masked in any case."""
  config = plain(study_file.load(shipped.path('config', 'prepare'), 'get_config'))
  path = where / run_files.PROVENANCE
  if path.exists():
    there = run_files.read_json(path, {'config?': dict}).get('config') or {}
    for field, value in there.items():
      config[field] = {**config[field], **value} if isinstance(value, dict) and isinstance(config.get(field), dict) else value
  found = settings.read(ConfigDict({name: config[name] for name in config if name in _KNOWN}))
  in_turns = any('messages' in row for row in new)
  fixed = bool(task.choices) and task.numbered is None and not are_own(task.choices)
  about = [name for name in (CONVERSATION, task.cluster) if name and any(name in row for row in new)]
  row = found.row._replace(
      leaks='drop', personal='mask', text=None if in_turns else _columns(task.prompt), label=None, group=None, time=None,
      groups=tuple(about) or None, prompt=None if in_turns else task.prompt or None, target=task.target or None,
      choices=task.choices if fixed else None, metrics=None, model=None)
  return found._replace(row=row, tokens=found.tokens._replace(min=0, max=0), labels=found.labels._replace(suspects=False),
                        split=found.split._replace(by='given', column=SPLIT))


def _columns(template: str) -> str:
  """What rows are compared by: the columns that a template names, without its own words, which all rows share."""
  named = [f'{{{field}}}' for _, field, _, _ in string.Formatter().parse(template) if field is not None]
  return '\n'.join(dict.fromkeys(named)) or template


_KNOWN = {*settings.RowSettings._fields, *settings.GROUPS}


def _is_there(path: Path, split: str) -> bool:
  return (path / f'{split}.jsonl').exists()


def _went(path: Path) -> dict[str, int]:
  """Why new rows went -> how many."""
  found: dict[str, int] = {}
  for line in map(json_text.loads, path.read_text(encoding='utf-8').splitlines()):
    if Path(line['file']).name.startswith('new_'):
      found[line['reason']] = found.get(line['reason'], 0) + 1
  return found


def _keep_report(into: Path, rows: Path) -> None:
  """Leaves of what `prepare` made its report and the rows that went, which name files that are no more by their names alone."""
  prepared = into / 'prepared'
  lines = (prepared / DROPPED).read_text(encoding='utf-8').replace(json.dumps(str(rows))[1:-1] + '/', '')
  run_files.write_text(into / PREPARATION / DROPPED, lines)
  shutil.copy(prepared / 'report.html', into / PREPARATION)
  shutil.rmtree(prepared)
  shutil.rmtree(rows)


def settings_of(run: Settings, incumbent: Path, data: Path, changes: dict[str, Any], called: str) -> Settings:
  """The config of a challenger: the incumbent's, with the new data, from what it has learned.

  Both are named by absolute paths, so that the challenger is found and served from any working directory.

  Args:
    run: of the incumbent, resolved.
    incumbent: the run directory.
    data: the folder that `write` made.
    changes: fields of `training`, those that were given.
    called: the task's name in results.
  """
  t = run.training
  if 'steps' in changes:
    changes = {**changes, 'epochs': 0.0}
  has_valid = _is_there(data, 'valid')
  return run.replace({
      'task.name': 'files', 'task.path': str(data.resolve()), **{f'task.{name}': None for name in (*sources.SPLITS, 'subset')},
      'task.rows': 0, 'task.label': run.task.label or (None if called == 'files' else called),
      'strategy.init_from': None, 'strategy.allow_other_base': False, 'training.init_from': str(incumbent.resolve()),
      'training.best_metric': t.best_metric if has_valid else 'loss',
      **{f'training.{name}': value for name, value in changes.items()}})
