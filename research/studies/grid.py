"""A study as data: from question, arms, tasks and seeds to cells, each a run's whole config."""

import copy
import hashlib
import itertools
import json
import re
from typing import Any, NamedTuple

from research import config as configs
from research.config_fields import MOST
from research.errors import InputError
from research.evaluation import metrics

# What `get_study()` returns; those without a default must be there.
FIELDS: dict[str, Any] = {
    'question': ..., 'base': ..., 'arms': ..., 'select': ..., 'report': ..., 'baseline': ...,
    'seeds': (0,), 'report_seeds': (), 'tasks': (None,), 'models': (None,), 'budget': {}, 'margin': None,
    'diverged': 'left_out', 'vary': 'seed', 'extend': 2, 'retain': (),
}
VARIED = ('seed', 'order_seed', 'init_seed', 'dropout_seed', 'rows_seed', 'shots_seed')      # of config.training
PLACE = ('mesh', 'check_memory')      # what of a config is nothing of a cell's name: names are kept as they once were
FRESH = 'fresh'      # report_seeds: as many as the seeds, and none of them


class Study(NamedTuple):
  """A comparison, checked."""
  question: str
  base: str                                 # config file that every cell starts from
  arms: dict[str, dict[str, Any]]           # name -> {strategy: fields, grid: {dotted config field: values}}
  seeds: tuple[int, ...]                    # with which settings are chosen
  report_seeds: tuple[int, ...]             # with which the chosen settings are trained again for the answer; none: it is about
                                            # the runs by which they were chosen
  tasks: tuple[str | dict[str, Any] | None, ...]      # names, or fields of config.task, `label` among them; None: the base's
  models: tuple[str | None, ...]            # sources; None: the base config's
  budget: dict[str, Any]                    # fields of config.training, the same for all arms
  select: str                               # what a setting is chosen by, on the validation split: 'valid/accuracy'
  report: str                               # what the answer is about, on the test split: 'test/accuracy'
  baseline: str                             # the arm that the others are compared with
  margin: float | None                      # the smallest difference that matters
  diverged: str                             # what a run that diverged counts as: left_out, with its seed in all arms; worst
  vary: str                                 # what the seeds are of: `seed`, all that is drawn; or one of VARIED alone
  extend: int                               # how often a numeric grid is widened whose lowest or highest value is chosen
  retain: tuple[str | dict[str, Any], ...]  # tasks that no arm trains on, as `tasks`: what is forgotten of them is told


# Axes that are widened where their last value is chosen, each by the ratio of its last two.
SCALES = ('training.learning_rate', 'training.weight_decay', 'training.steps', 'training.epochs', 'training.batch_size',
          'strategy.rank', 'strategy.alpha', 'strategy.ratio', 'strategy.width', 'strategy.slots', 'strategy.hidden',
          'strategy.shots')


class Cell(NamedTuple):
  """One run of a study."""
  key: str                                  # folder name: readable, and unique by the config's hash
  model: str
  task: str                                 # its label, where it has one
  arm: str
  seed: int
  setting: dict[str, Any]                   # the grid's fields at this cell
  config: dict[str, Any]
  reports: bool = False                     # whether its seed is one of `report_seeds`


def study(fields: dict[str, Any], where: str) -> Study:
  """Checks what a study file says.

  Raises:
    InputError: a field is unknown or missing, or does not fit the others.
  """
  if not isinstance(fields, dict):
    raise InputError(f'{where}: get_study() returns {type(fields).__name__}, not a dict')
  unknown, missing = fields.keys() - FIELDS.keys(), {f for f, d in FIELDS.items() if d is ...} - fields.keys()
  if unknown or missing:
    what = f'unknown field {sorted(unknown)[0]!r}' if unknown else f'no field {sorted(missing)[0]!r}'
    raise InputError(f'{where}: {what} (fields of a study: {", ".join(FIELDS)})')
  s = Study(**{f: fields.get(f, default) for f, default in FIELDS.items()})
  for name in ('question', 'base', 'select', 'report', 'baseline', 'vary', 'diverged'):
    if not isinstance(getattr(s, name), str):
      raise InputError(f'{where}: {name}={getattr(s, name)!r:.60}: must be text')
  fresh = fields.get('report_seeds') == FRESH
  for name in ('seeds', *([] if fresh else ['report_seeds'])):
    seeds = getattr(s, name)
    if not isinstance(seeds, (list, tuple)) or not all(type(seed) is int and 0 <= seed < MOST for seed in seeds):
      raise InputError(f'{where}: {name}={seeds!r:.60}: must be a list of seeds, whole numbers from 0 on and below 2^31' +
                       (f', or {FRESH!r}: as many as seeds' if name == 'report_seeds' else ''))
  if fresh and s.seeds:
    s = s._replace(report_seeds=tuple(max(s.seeds) + 1 + i for i in range(len(s.seeds))))
  for name in ('arms', 'budget'):
    if not isinstance(getattr(s, name), dict):
      raise InputError(f'{where}: {name} must be a dict')
  for arm, spec in s.arms.items():
    if not (isinstance(arm, str) and arm and isinstance(spec, dict) and isinstance(spec.get('strategy'), dict)
            and not spec.keys() - {'strategy', 'grid'} and isinstance(spec.get('grid', {}), dict)
            and all(isinstance(field, str) for field in spec.get('grid', {}))):
      raise InputError(f'{where}: arm {arm}: must be {{"strategy": {{…}}, "grid": {{field: [values]}}}}')
  grids = {f'grid {f!r} of arm {arm}': v for arm, spec in s.arms.items() for f, v in spec.get('grid', {}).items()}
  for name, values in {'seeds': s.seeds, 'tasks': s.tasks, 'models': s.models, **grids}.items():
    if not isinstance(values, (list, tuple)) or not values:
      raise InputError(f'{where}: {name} must be a list of one or more values')
  if not isinstance(s.retain, (list, tuple)):
    raise InputError(f'{where}: retain={s.retain!r:.60}: must be a list of tasks')
  of_task = 'a task\'s name, or fields of config.task'
  for name, kinds, what in (('tasks', (str, dict), of_task), ('models', (str,), 'a source'), ('retain', (str, dict), of_task)):
    for one in getattr(s, name):
      if (one is not None or name == 'retain') and not isinstance(one, kinds):
        raise InputError(f'{where}: {name}: {one!r:.60}: must be {what}, or None for that of the base config')
  of_arms = [(f'the grid of arm {arm}', spec.get('grid', {})) for arm, spec in s.arms.items()]
  if s.vary not in VARIED:
    raise InputError(f'{where}: vary={s.vary!r}: must be one of {", ".join(VARIED)}')
  for place, given in (('budget', s.budget), *of_arms):
    for field in given:
      if str(field).removeprefix('training.') == s.vary:
        raise InputError(f'{where}: {place} sets training.{s.vary}, which is what the seeds of the study vary')
  if s.baseline not in s.arms:
    raise InputError(f'{where}: baseline {s.baseline!r} is no arm (arms: {", ".join(s.arms)})')
  if not s.select.startswith('valid/'):
    raise InputError(f'{where}: select={s.select!r} must be a validation metric, valid/…: choosing by the test split '
                     'would leak it')
  if not s.report.startswith('test/'):
    raise InputError(f'{where}: report={s.report!r} must be a test metric, test/…')
  if s.margin is not None and not (isinstance(s.margin, (int, float)) and 0 < s.margin < float('inf')):
    raise InputError(f'{where}: margin={s.margin!r}: must be a number above 0, the smallest difference that matters, or None')
  for name, seeds in (('seeds', s.seeds), ('report_seeds', s.report_seeds)):
    if len(set(seeds)) != len(seeds):
      raise InputError(f'{where}: {name}={seeds}: each once')
  if {*s.seeds} & {*s.report_seeds}:
    raise InputError(f'{where}: report_seeds={s.report_seeds}: none of them may be one of seeds={s.seeds}, with which settings '
                     'are chosen')
  if type(s.extend) is not int or s.extend < 0:
    raise InputError(f'{where}: extend={s.extend!r}: must be 0 or more: how often a grid is widened whose last value is chosen')
  if s.diverged not in ('left_out', 'worst'):
    raise InputError(f'{where}: diverged={s.diverged!r}: must be left_out or worst')
  if s.diverged == 'worst' and not metrics.measured(s.report).limited:
    raise InputError(f'{where}: diverged=worst: {s.report} has no worst score; give left_out')
  return s


def cells(s: Study, base: dict[str, Any]) -> list[Cell]:
  """Every run of the study: models x tasks x arms x their grids x seeds.

  Args:
    s: the study.
    base: the base config as nested dicts.
  Raises:
    InputError: an axis names no field of the config, or two cells are the same run.
  """
  for group, given in (('training', s.budget), *(('task', t) for t in (*s.tasks, *s.retain) if isinstance(t, dict)),
                       *(('strategy', spec['strategy']) for spec in s.arms.values())):
    for field in given:
      if field not in base[group]:
        raise InputError(f'the study sets {group}.{field}, which names no field of the config')
  for task in (t for t in s.tasks if isinstance(t, dict) and t.get('label') is not None):
    if not isinstance(task['label'], str) or not task['label'].strip():
      raise InputError(f'the study\'s tasks: label={task["label"]!r}: must be a text, what the task is called')
  found = []
  for model, task, (arm, spec) in itertools.product(s.models, s.tasks, s.arms.items()):
    grid = spec.get('grid', {})
    for values in itertools.product(*grid.values()):
      setting = dict(zip(grid, values))
      for seed in s.seeds:
        config = copy.deepcopy(base)
        if model is not None:
          config['model']['source'] = model
        if task is not None:
          config['task'] |= {'name': task} if isinstance(task, str) else task
        config['strategy'] = dict.fromkeys(config['strategy']) | spec['strategy']
        config['training'] |= {**s.budget, s.vary: seed}
        for field, value in setting.items():
          _set(config, field, value, arm)
        found.append(_cell(arm, seed, setting, config, several=len(s.models) > 1))
  for axis, names in (('tasks', [c.task for c in found]), ('models', [c.model for c in found])):
    if len(set(names)) < len(getattr(s, axis)):
      hint = '; give each a label of its own' if axis == 'tasks' else ''
      raise InputError(f'two {axis} of the study have one name: {", ".join(dict.fromkeys(names))}{hint}')
  keys = [c.key.rsplit('-', 1)[1] for c in found]
  for cell, key in zip(found, keys):
    if keys.count(key) > 1:
      raise InputError(f'two cells of the study are the same run: {cell.key}')
  return found


def _cell(arm: str, seed: int, setting: dict[str, Any], config: dict[str, Any], reports: bool = False,
          several: bool = False) -> Cell:
  """A cell; its name says the model where the study has several. A label changes no result, and so nothing of the hash."""
  digest = hashlib.sha256(json.dumps(_unlabelled(config, PLACE), sort_keys=True).encode()).hexdigest()[:8]
  source, task = config['model']['source'], config['task'].get('label') or config['task']['name']
  words = [*([called(source)] if several else []), task, *settled(arm, setting), f'seed={seed}']
  key = re.sub(r'[^\w.=+-]', '_', '-'.join(words)) + f'-{digest}'
  return Cell(key, source, task, arm, seed, setting, config, reports)


def content(cell: Cell) -> str:
  """What a cell trains, whatever it is called: all that its config says, but for where and how it runs and its task's name."""
  says = {group: {field: value for field, value in fields.items() if value is not None}
          for group, fields in _unlabelled(configs.decisive(cell.config)).items()}
  return json.dumps([cell.arm, says], sort_keys=True)


def _unlabelled(config: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
  return {group: {field: value for field, value in fields.items() if field != 'label'}
          for group, fields in config.items() if group not in without}


def called(source: str) -> str:
  """A model's name in the names of cells: the last part of its source."""
  return re.split(r'[/:]', source.rstrip('/'))[-1]


def settled(arm: str, setting: dict[str, Any]) -> list[str]:
  """An arm and the grid's fields at a cell, as words."""
  return [arm, *(f'{field.split(".")[-1]}={value}' for field, value in setting.items())]


def labels(cells: list[Cell], reported: bool) -> list[str]:
  """What each cell is called while it runs: its number, its arm and setting, and what else differs in the study.

  Args:
    cells: all of the study.
    reported: whether there are seeds of the report, also where their cells are not known yet.
  """
  differ = lambda field: len({getattr(cell, field) for cell in cells}) > 1
  models, tasks, seeds = differ('model'), differ('task'), reported or differ('seed')
  words = ([*([called(c.model)] if models else []), *([c.task] if tasks else []), *settled(c.arm, c.setting),
            *([f'seed={c.seed}'] if seeds else [])] for c in cells)
  return [f'[{number}/{len(cells)}] {"-".join(some)}' for number, some in enumerate(words, 1)]


def again(s: Study, chosen: list[Cell]) -> list[Cell]:
  """The cells that train the chosen settings again, with the seeds of the report.

  Args:
    s: the study.
    chosen: the cells of each arm's chosen setting.
  """
  found = {}
  for cell in chosen:
    for seed in s.report_seeds:
      config = {**cell.config, 'training': {**cell.config['training'], s.vary: seed}}
      one = _cell(cell.arm, seed, cell.setting, config, reports=True, several=len(s.models) > 1)
      found[one.key] = one
  return [*found.values()]


def beyond(found: list[Cell], chosen: list[Cell]) -> list[Cell]:
  """The cells of one value more on each axis of which a chosen setting has the lowest or highest value that was tried.

  Args:
    found: all cells so far.
    chosen: those of each arm's chosen setting.
  """
  arm = lambda cell: (cell.model, cell.task, cell.arm)
  more = {}
  for cell in chosen:
    for field in SCALES:
      if field not in cell.setting:
        continue
      tried = sorted({other.setting[field] for other in found if arm(other) == arm(cell)})
      value = _next(tried, cell.setting[field])
      if value is not None:
        group, name = field.split('.')
        config = {**cell.config, group: {**cell.config[group], name: value}}
        one = _cell(cell.arm, cell.seed, {**cell.setting, field: value}, config, several=len({c.model for c in found}) > 1)
        more[one.key] = one
  return [*more.values()]


def _next(tried: list[float], chosen: float) -> float | None:
  """The value beyond the first or last of those tried, where that is the chosen one and the scale goes on."""
  if len(tried) < 2 or chosen not in (tried[0], tried[-1]):
    return None
  beside = tried[1] if chosen == tried[0] else tried[-2]
  if min(chosen, beside) <= 0:
    return None
  value = chosen * chosen / beside
  if isinstance(chosen, int):
    return round(value) if round(value) not in (0, chosen) else None
  return float(f'{value:.3g}')


# Fields that change nothing but arrays of a step.
ARRAYS = {'training': (*VARIED, 'learning_rate', 'weight_decay', 'warmup'), 'strategy': ('initial_d', 'init', 'init_text')}


def group_by_program(found: list[Cell]) -> list[list[Cell]]:
  """The cells whose runs can be one program, together, in their order."""
  groups: dict[str, list[Cell]] = {}
  for cell in found:
    rest = {group: {f: v for f, v in fields.items() if f not in ARRAYS.get(group, ())}
            for group, fields in cell.config.items() if group not in configs.OF_ALL}
    rest['strategy']['dropout'] = bool(rest['strategy'].get('dropout'))      # a step without draws nothing
    groups.setdefault(json.dumps(rest, sort_keys=True), []).append(cell)
  return [*groups.values()]


def _set(config: dict[str, Any], field: str, value: Any, arm: str) -> None:
  group, _, name = field.partition('.')
  if name not in config.get(group, {}):
    raise InputError(f'arm {arm}: the grid\'s axis {field!r} names no field of the config')
  config[group][name] = value
