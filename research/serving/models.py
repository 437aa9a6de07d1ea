"""The runs that a server answers with: models by name, over one base that is in memory once."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research import json_text, run_files, tree
from research.data.sources import read_jsonl
from research.errors import InputError
from research.evaluation import decode
from research.experiment import restore
from research.experiment.assemble import Experiment
from research.models.functions import Model
from research.serving import programs
from research.strategies import together
from research.tree import Tree

RESULTS, RUNS = 'results.jsonl', 'runs'      # of a study


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
    exp = restore.of_run(workdir, allow_changed=allow_changed)
    ended = (workdir / run_files.RESULT).stat().st_mtime
    one = Loaded(name, workdir, exp, restore.learned(workdir, exp), int(ended))
    if found:
      check_base(found[0], one)
    found.append(one)
  return found


def check_base(first: Loaded, other: Loaded) -> None:
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
  base = _base(runs)
  kinds = [together.kind(one.variables) if _is_base(one.variables['params'], base) else None for one in runs]
  served: list[Served | None] = [None] * len(runs)
  groups: list[Group] = []
  for key in dict.fromkeys((i if kind is None else kind for i, kind in enumerate(kinds))):
    members = [i for i, kind in enumerate(kinds) if (i if kind is None else kind) == key]
    shared = kinds[members[0]] is not None
    room = sum(runs[i].name in spare for i in members) if shared else 0
    stacks = shared and len(members) + room > 1
    first = runs[members[0]].variables
    variables = {'params': first['params'], **together.stack([runs[i].variables for i in members], room)} if stacks else first
    for number, i in enumerate(members):
      served[i] = _served(runs[i], len(groups), number if stacks else together.NOBODY)
    model = decode.fastest(runs[members[0]].exp.model)
    groups.append(Group(model, programs.placed(variables), kinds[members[0]], len(members) + room))
  return [one for one in served if one is not None], groups


def _served(run: Loaded, group: int, number: int) -> Served:
  return Served(run.name, run.workdir, run.exp._replace(params={}), group, number, run.created)


def _base(runs: Sequence[Loaded]) -> Tree | None:
  """The parameters of a run that leaves the base as it is, which all such runs share; None where none does."""
  return next((one.exp.params for one in runs if _is_base(one.variables['params'], one.exp.params)), None)


def _is_base(params: Tree, base: Tree | None) -> bool:
  """Whether these parameters are the base's very arrays."""
  if base is None or tree.leaves(params).keys() != tree.leaves(base).keys():
    return False
  return all(x is y for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(base)))


def provenance_of(workdir: Path) -> dict[str, Any]:
  """What a server tells of a run: its task, strategy and scores."""
  result = json.loads((workdir / run_files.RESULT).read_text(encoding='utf-8'))
  return {field: result.get(field) for field in ('task', 'strategy', 'seed', 'best_step', 'metrics')}
