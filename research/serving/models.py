"""The runs that a server answers with: models by name, over one base that is in memory once."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research import json_text, run_files, tree
from research.data.sources import read_jsonl
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.models.functions import Model
from research.serving import programs
from research.strategies import together
from research.tree import Tree


class Served(NamedTuple):
  """A run by the name that requests give."""
  name: str
  workdir: Path
  exp: Experiment          # without its parameters, which its group holds
  group: int               # whose variables it answers with
  number: int              # which of the group's deltas is its own; `together.NOBODY`: none, or it is alone
  created: int             # when the run ended, in seconds since 1970


class Group(NamedTuple):
  """Runs that answer in one batch: one program, one set of variables. Groups take turns."""
  model: Model
  variables: Tree
  kind: Any                # what their deltas have in common; None: a run that shares with nobody
  size: int                # how many deltas it has room for


class Loaded(NamedTuple):
  """A run before it has its place."""
  name: str
  workdir: Path
  exp: Experiment
  variables: Tree
  created: int             # see `Served`
  keeps_base: bool         # whether its parameters are the base's


def named(workdirs: Sequence[Path], study: Path | None) -> list[tuple[str, Path]]:
  """Names and run directories: runs by their folder's name, those of a study by their arm, or by task and arm.

  Args:
    workdirs: of runs.
    study: of a study whose chosen runs are wanted; of several seeds the first.
  Raises:
    InputError: two have one name, or there is no run.
  """
  found = [(path.resolve().name, path.resolve()) for path in workdirs] + (_of_study(study) if study else [])
  for name, _ in found:
    same = [other for other_name, other in found if other_name == name]
    if len(same) > 1:
      raise InputError(f'{same[0]} and {same[1]}: both would be the model {name!r}; rename one of the folders')
  return found


def _of_study(study: Path) -> list[tuple[str, Path]]:
  from research.studies.outcomes import RUNS  # half a second, that single runs need not wait for
  from research.studies.registration import RESULTS
  if not (study / RESULTS).exists():
    raise InputError(f'--study={study}: holds no {RESULTS}; is it the workdir of a study that has ended?')
  chosen: dict[tuple[str, str, str], tuple[int, Path]] = {}
  for line in read_jsonl(study / RESULTS):
    json_text.expect(line, {'key': str, 'model': str, 'task': str, 'arm': str, 'seed': int}, str(study / RESULTS))
    key = line['model'], line['task'], line['arm']
    if line.get('selected') and (key not in chosen or line['seed'] < chosen[key][0]):
      chosen[key] = line['seed'], study / RUNS / line['key']
  if not chosen:
    raise InputError(f'--study={study}: none of its runs is chosen yet; the same research.study command resumes it')
  if len({model for model, _, _ in chosen}) > 1:
    raise InputError(f'--study={study}: is of several base models ({", ".join(sorted({model for model, _, _ in chosen}))}), '
                     'and a server has one; give --workdir of each run that shall answer')
  several = len({task for _, task, _ in chosen}) > 1
  return [(f'{task}/{arm}' if several else arm, path.resolve()) for (_, task, arm), (_, path) in chosen.items()]


def load(places: Iterable[tuple[str, Path]], allow_changed: bool = False) -> list[Loaded]:
  """Reads runs. One that is not finished, or of another base than the first, is refused (`InputError`).

  Args:
    places: names and run directories.
    allow_changed: although a run was made from something else than is there now (see `provenance.check`).
  """
  found: list[Loaded] = []
  for name, workdir in places:
    run_files.read_config(workdir)
    run_files.read_result(workdir)
    exp = restore.of_run(workdir, allow_changed=allow_changed, scan='auto')
    ended = (workdir / run_files.RESULT).stat().st_mtime
    trainable, frozen = restore.learned_and_frozen(workdir, exp)
    keeps = not any(leaf.startswith('params/') for leaf in tree.leaves(trainable))
    one = Loaded(name, workdir, exp, tree.join(trainable, frozen), int(ended), keeps)
    if found:
      check_base(found[0], one)
    found.append(one)
  return found


def check_base(first: 'Loaded | Served', other: Loaded) -> None:
  """Refuses a run that does not share the first one's base.

  Raises:
    InputError: says what they differ in.
  """
  here, there = first.exp, other.exp
  for what, one, two in (('base model', here.settings.model.source, there.settings.model.source),
                         ('weights', here.fingerprint, there.fingerprint),
                         ('model.dtype', here.settings.model.dtype, there.settings.model.dtype),
                         ('model.quantize', here.settings.model.quantize, there.settings.model.quantize),
                         ('tokenizer', here.tokenizer.fingerprint, there.tokenizer.fingerprint)):
    if one != two and not (what == 'base model' and here.fingerprint == there.fingerprint):
      raise InputError(f'{first.workdir} and {other.workdir}: are of different bases ({what}: {one} and {two}), and a server '
                       'has one; start a server for each')


def group(runs: Sequence[Loaded], spare: Sequence[str] = ()) -> tuple[list[Served], list[Group]]:
  """Puts runs together that can share a batch; what of their parameters is the base's is there once.

  Args:
    runs: of one base.
    spare: names of runs whose group has room for another version of them.
  """
  base = next((one.variables['params'] for one in runs if one.keeps_base), None)
  kinds = [_kind(one) for one in runs]
  served: dict[int, Served] = {}
  groups: list[Group] = []
  for key in dict.fromkeys((i if kind is None else kind for i, kind in enumerate(kinds))):
    members = [i for i, kind in enumerate(kinds) if (i if kind is None else kind) == key]
    first = runs[members[0]]
    room = sum(runs[i].name in spare for i in members) if kinds[members[0]] is not None else 0
    variables = {**first.variables, **({'params': base} if first.keeps_base else {})}
    stacks = len(members) + room > 1
    if stacks:
      variables |= together.stack([runs[i].variables for i in members], room)
    for number, i in enumerate(members):
      served[i] = _served(runs[i], len(groups), number if stacks else together.NOBODY)
    groups.append(Group(first.exp.model, programs.placed(variables), kinds[members[0]], len(members) + room))
  return [served[i] for i in range(len(runs))], groups


def place(run: Loaded, groups: dict[int, Group], taken: Collection[tuple[int, int]]) -> tuple[Served, dict[int, Group]]:
  """Another version of a run beside those that are there: in a group of its kind where that has room, else in one of its own.

  Args:
    run: of the base that the groups share.
    groups: by number; they stay as they are.
    taken: (group, place in it) of all runs that still answer.
  """
  kind = _kind(run)
  for number, group in groups.items():
    free = [at for at in range(group.size) if (number, at) not in taken]
    if kind is not None and group.kind == kind and group.size > 1 and free:      # one that is alone is not stacked
      try:
        stacked = together.put({name: group.variables[name] for name in ('delta', 'shared')}, free[0], run.variables)
      except ValueError:      # LoRA's of another rank or other sites have no place there
        continue
      changed = group._replace(variables=programs.placed({**group.variables, **stacked}))
      return _served(run, number, free[0]), {**groups, number: changed}
  number = max(groups, default=-1) + 1
  params = next((group.variables['params'] for group in groups.values() if group.kind is not None), None)
  variables = {**run.variables, **({'params': params} if run.keeps_base and params is not None else {})}
  new = Group(run.exp.model, programs.placed(variables), None, 1)
  return _served(run, number, together.NOBODY), {**groups, number: new}


def _kind(run: Loaded) -> Any:
  return together.kind(run.variables) if run.keeps_base else None


def _served(run: Loaded, group: int, number: int) -> Served:
  return Served(run.name, run.workdir, run.exp._replace(params={}), group, number, run.created)
