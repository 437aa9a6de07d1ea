"""From a run and what people said of its answers to the next run, and whether that takes its place."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from research import config as configs
from research import run_files
from research.config import MeshSettings
from research.console import say
from research.data.tasks import TEXT, Task
from research.distributed import mesh, partition
from research.errors import InputError
from research.evaluation import metrics
from research.evaluation.metrics import Metric
from research.experiment import restore
from research.experiment.assemble import Experiment, assemble
from research.json_text import NUMBER
from research.refining import judged, mixture, promotion, rows, versions
from research.refining.promotion import Compared, Decision
from research.refining.versions import PROMOTION
from research.runs.train import train_one
from research.serving import log as logs

DATA, LOCK = 'data', '.lock.refine'
PROMOTION_FIELDS = {'promoted': bool, 'incumbent': str, 'challenger': str, 'metric': str, 'reasons': [str], 'versions': str,
                    'version?': int, 'old': {'margin': NUMBER}, 'new': dict}


class Asked(NamedTuple):
  """What `refine` is told."""
  workdir: Path                          # of the incumbent
  log: Path
  reference: Path
  output: Path                           # of the challenger
  versions: Path | None = None           # None: see `versions.folder_of`
  metric: str | None = None              # None: the task's first
  margin: float | None = None            # None: see `promotion.margin_of`
  old_share: float = 0.5
  test_share: float = 0.3
  steps: int | None = None               # None, as of the next two: as the incumbent was trained
  epochs: float | None = None
  learning_rate: float | None = None
  seed: int | None = None
  allow_changed: bool = False

  def named(self) -> dict[str, Any]:
    """What makes another command of it: all but where versions are kept and by which metric and margin it is decided."""
    places = {name: str(getattr(self, name).resolve()) for name in ('workdir', 'log', 'reference')}
    numbers = ('old_share', 'test_share', 'steps', 'epochs', 'learning_rate', 'seed')
    return {**places, **{name: getattr(self, name) for name in numbers}}


def refine(asked: Asked) -> dict[str, Any]:
  """Trains on from a run on what its log says was right, and decides whether the new run takes its place.

  Args:
    asked: what is asked for. The same again resumes, and of what is finished only tells the outcome.
  Returns:
    What promotion.json holds.

  What cannot be is an `InputError`, and nothing that was there before is written over.
  """
  run_files.check_name(asked.output)
  exp = _incumbent(asked)
  name = judged.metric_of(exp, asked.metric)
  margin = _checked(asked, metrics.get(name))
  folder = asked.versions or versions.folder_of(asked.workdir)
  if _begun(asked) and (asked.output / PROMOTION).exists():
    return _tell(_decided(asked.output / PROMOTION, name, margin))
  versions.check(folder, asked.workdir, asked.output)
  if not _begun(asked):
    old = mixture.reference(asked.reference, exp.settings.task, asked.old_share > 0)
    made = _rows(asked, exp, folder)
    with run_files.held(asked.output, LOCK):
      _write_data(asked, exp, made, old)
  with run_files.held(asked.output, LOCK):
    versions.begin(folder, asked.workdir, asked.output)
    record = run_files.read_json(asked.output / DATA / mixture.RECORD, mixture.FIELDS)
    _train(asked, exp)
    old_test, new_test = judged.judge(asked.output, asked.workdir, name, record['rows']['old']['test'], asked.allow_changed)
    decision = promotion.decide(old_test, new_test, margin)
    current = versions.promote(folder, asked.workdir, asked.output) if decision.promoted else None
    found = _promotion(asked, name, margin, old_test, new_test, decision) | {
        'versions': str(folder.resolve()), 'model': versions.model_of(folder), 'version': current.version if current else None,
        'data': {'rows': record['rows'], 'log': record['log'], 'dropped': record['dropped']}}
    run_files.write_json(asked.output / PROMOTION, found)
  return _tell(found)


def rollback(folder: Path) -> None:
  """Goes back to the version before the current one, and says so; where there is none that is an `InputError`."""
  current = versions.rollback(folder)
  print(f'rolled back: version {current.version} of {current.model}, {current.workdir}, is current in '
        f'{folder / versions.CURRENT}')


def _incumbent(asked: Asked) -> Experiment:
  """The run to go on from.

  Raises:
    InputError: it is not finished, or it is none that can be trained on.
  """
  workdir = asked.workdir
  config, result = run_files.read_config(workdir), run_files.read_result(workdir)
  if config['task'].get('name') == TEXT or config['task'].get('rejected'):
    kind = 'plain text' if config['task'].get('name') == TEXT else 'pairs of answers'
    raise InputError(f'--workdir={workdir}: has learned from {kind}, of which no feedback says what is right')
  if not result['steps']:
    raise InputError(f'--workdir={workdir}: its strategy {config["strategy"].get("name")} was not trained, so there is nothing '
                     'to train on from; give a run of research.train')
  if config['model'].get('vocab'):
    raise InputError(f'--workdir={workdir}: model.vocab={config["model"]["vocab"]}: its tokenizer was learned from its '
                     'training rows, and others would give another')
  with mesh.use(mesh.make(partition.EVAL_MESH)):
    return restore.of_run(workdir, (), asked.allow_changed)


def _checked(asked: Asked, metric: Metric) -> float:
  """The margin.

  Raises:
    InputError: a number of the command cannot be.
  """
  margin, most = promotion.margin_of(metric, asked.margin), metric.most - metric.least
  for holds, message in (
      (0 < margin < most, f'--margin={asked.margin}: must be above 0' + (
          f' and below {most:g}, the range of {metric.name}' if metric.limited else ' and finite')),
      (0 <= asked.old_share < 1, f'--old_share={asked.old_share}: must be at least 0 and below 1'),
      (0 < asked.test_share <= 0.8, f'--test_share={asked.test_share}: must be above 0 and at most 0.8'),
      (asked.steps is None or asked.epochs is None, '--steps and --epochs: give one of them'),
      (asked.steps is None or asked.steps > 0, f'--steps={asked.steps}: must be 1 or more'),
      (asked.epochs is None or asked.epochs > 0, f'--epochs={asked.epochs}: must be above 0'),
      (asked.learning_rate is None or asked.learning_rate > 0, f'--learning_rate={asked.learning_rate}: must be above 0')):
    if not holds:
      raise InputError(message)
  return margin


def _begun(asked: Asked) -> bool:
  """Whether this command has begun in its output already.

  Raises:
    InputError: something else stands there.
  """
  output = asked.output
  if output.resolve() == asked.workdir.resolve():
    raise InputError(f'--output={output}: is the incumbent\'s own; give another folder')
  record = output / DATA / mixture.RECORD
  if not record.exists():
    if run_files.is_taken(output):
      raise InputError(f'--output={output}: exists and is not what this command began; give another folder')
    return False
  there, here = run_files.read_json(record, mixture.FIELDS)['asked'], asked.named()
  if different := [f'--{name}={there.get(name)} there, {here[name]} here' for name in here if there.get(name) != here[name]]:
    raise InputError(f'--output={output}: was begun by another command ({"; ".join(different)}); give another folder')
  return True


def _decided(path: Path, name: str, margin: float) -> dict[str, Any]:
  """What was decided before.

  Args:
    path: of the promotion.json.
    name: of the metric that is asked for now.
    margin: that is asked for now.
  Raises:
    InputError: it was decided by another metric or margin.
  """
  found: dict[str, Any] = run_files.read_json(path, PROMOTION_FIELDS)
  if (found['metric'], found['old']['margin']) != (name, margin):
    raise InputError(f'{path}: was decided by {found["metric"]} with a margin of {found["old"]["margin"]:g}, not by {name} '
                     f'with {margin:g}: both are chosen before the outcome is known; give them again, or another --output')
  return found


def _rows(asked: Asked, exp: Experiment, folder: Path) -> rows.Made:
  """What the log came to, which is told."""
  traffic = logs.read(asked.log)
  line = versions.history(folder)
  made = rows.from_log(traffic, exp, asked.log, [asked.workdir.resolve().name, *(Path(one.workdir).name for one in line)])
  say(f'refine: {len(made.rows)} rows from {len(traffic.feedback)} answers with feedback, {made.labelled} with a label' +
      (f'; left out: {rows.reasons(made.left_out)}' if made.left_out else ''))
  return made


def _write_data(asked: Asked, exp: Experiment, made: rows.Made, old: Task) -> None:
  """Makes the challenger's data."""
  seed = exp.settings.training.seed if asked.seed is None else asked.seed
  about = {'sha256': hashlib.sha256(asked.log.read_bytes()).hexdigest(), 'rows': len(made.rows), 'labelled': made.labelled,
           'left_out': made.left_out}
  shares = mixture.Shares(asked.old_share, asked.test_share, seed)
  record = mixture.write(asked.output / DATA, made.rows, old, shares, {'asked': asked.named(), 'log': about}, asked.reference)
  told = ', '.join(f'{split} {record["rows"]["old"][split]} old + {record["rows"]["new"][split]} new'
                   for split in record['rows']['old'])
  say(f'refine: {asked.output / DATA}: {told}')


def _train(asked: Asked, exp: Experiment) -> None:
  """Trains the challenger, or resumes it."""
  changes = {field: value for field in ('steps', 'epochs', 'learning_rate', 'seed')
             if (value := getattr(asked, field)) is not None}
  own = run_files.read_config(asked.workdir)
  run = exp.settings._replace(mesh=MeshSettings(**own.get('mesh') or exp.settings.mesh._asdict()))
  settings = configs.read(mixture.settings_of(run, asked.workdir, asked.output / DATA, changes, exp.called))
  if not (asked.output / run_files.CONFIG).exists():      # which makes the folder a run's
    run_files.write_json(asked.output / run_files.CONFIG, assemble(settings, abstract=True).settings.config())
  train_one(settings, asked.output, label='refine', allow_changed=asked.allow_changed)


def _promotion(asked: Asked, name: str, margin: float, old: Compared, new: Compared, decision: Decision) -> dict[str, Any]:
  """What promotion.json says of the comparison."""
  of = lambda found, holds: {**found._asdict(), 'holds': holds}
  return {'promoted': decision.promoted, 'incumbent': str(asked.workdir.resolve()), 'challenger': str(asked.output.resolve()),
          'metric': name, 'higher_is_better': metrics.get(name).higher_is_better, 'level': promotion.LEVEL,
          'old': {**of(old, decision.old_holds), 'margin': margin},
          'new': {**of(new, decision.new_holds), 'least': promotion.LEAST}, 'reasons': decision.reasons}


def _tell(found: dict[str, Any]) -> dict[str, Any]:
  """Two lines for a person: the numbers, and what follows from them."""
  def side(kind: str, also: str) -> str:
    one = found[kind]
    if one['mean'] is None or one['mean'] != one['mean']:
      return f'{kind} test rows {one["examples"]}: too few to compare'
    return (f'{kind} test rows {one["examples"]}: {one["incumbent"]:.4f} -> {one["challenger"]:.4f}, difference '
            f'{one["mean"]:+.4f} [{one["low"]:+.4f}, {one["high"]:+.4f}], ' + also.format(**one))
  print(f'{found["metric"]}, {side("old", "no lower than {bound:+.4f} (margin {margin:g})")}; {side("new", "p = {p:.3g}")}')
  if found['promoted']:
    print(f'promoted: {found["challenger"]} is version {found["version"]} of {found["model"]} in {found["versions"]}')
  else:
    print(f'not promoted: {"; ".join(found["reasons"])}')
  return found
