"""What result.json says of a run: its scores, their intervals and its cost."""

from pathlib import Path
from typing import Any

import jax

from research import run_files
from research.data import choices, prompts, sources
from research.data.tasks import Task
from research.distributed import processes
from research.evaluation import calibration, copies, decoding, harness, metrics, templates
from research.experiment.assemble import Experiment
from research.planning import plans
from research.programs import flops
from research.training import ledger


def describe(exp: Experiment, outcome: ledger.TrainResult, trainable: int, total: int,
             planned: plans.LocalPlan | None = None) -> dict[str, Any]:
  """A run's result before anything was evaluated, as result.json holds it.

  Args:
    exp: what the run's config names.
    outcome: what its training came to.
    trainable: number of trainable parameters.
    total: number of all parameters.
    planned: what it was to take, alone; None where that was not looked at.
  """
  c = outcome.cost
  per_second = lambda x: x / c.train_seconds if c.train_seconds else 0.0
  memory = _memory(c.peak_bytes, c.cohort_size)      # before the product below, which takes some too
  devices = jax.device_count()
  peak = devices * flops.matrix_peak(exp.model.config.dtype, per_second(c.train_flops) / devices) if c.train_flops else 0.0
  return {
      'model': exp.settings.model.source, 'task': exp.called,
      'strategy': exp.strategy.name, **({'scoring': exp.task.scoring} if exp.task.choices else {}),
      'seed': exp.settings.training.seed, 'best_step': outcome.best_step, 'steps': outcome.steps,
      **({'decoding': decoding.of_pairs(exp.task.decoding)._asdict()} if exp.task.decoding else {}),
      'metrics': {}, 'intervals': {},
      'cost': {'total_params': total, 'trainable_params': trainable, **c._asdict(),
               'tokens_per_second': per_second(c.train_tokens), 'matrix_peak': peak,
               'utilisation': per_second(c.train_flops) / peak if peak else 0.0, **memory,
               'planned_peak_bytes': planned.bytes() if planned else None,
               'planned_train_seconds': planned.step_seconds * outcome.steps if planned else None},
  }


def _memory(compiled_bytes: int, members: int) -> dict[str, Any]:
  """The most memory that was in use: of a run alone the device's own count where it keeps one, else the compiler's."""
  if members > 1:
    return {'peak_bytes': compiled_bytes, 'memory_source': 'compiled: what the cohort shares, and its share of the rest of the '
                                                           'training step\'s arguments, results and temporaries'}
  counted = jax.local_devices()[0].memory_stats()
  if counted and 'peak_bytes_in_use' in counted:
    return {'peak_bytes': counted['peak_bytes_in_use'], 'memory_source': 'device: peak of this process'}
  return {'peak_bytes': compiled_bytes,
          'memory_source': 'compiled: arguments, results and temporaries of the training step'}


def record(result: dict[str, Any], evaluation: harness.Evaluation, workdir: Path, split: str, task: Task) -> None:
  """Writes a split's predictions and adds its scores to a result; numbers that are not finite are refused (`InputError`).

  Args:
    result: gets the scores, in place.
    evaluation: of the split.
    workdir: the run directory, which gets the predictions.
    split: train, valid or test, or retain/NAME.
    task: the run's own, from whose training rows answers may be copied.
  """
  harness.check_finite(evaluation, str(workdir))
  _find_copies(result, evaluation, split, task)
  path = workdir / run_files.PREDICTIONS / f'{split}.jsonl'
  path.parent.mkdir(parents=True, exist_ok=True)
  run_files.write_jsonl(path, evaluation.predictions)
  for told, found in (('metrics', evaluation.scores), ('intervals', evaluation.intervals)):
    for name in [name for name in result[told] if name.startswith(f'{split}/') and name.endswith(harness.WITHOUT)]:
      del result[told][name]                       # of what training held when the split was evaluated before
    result[told] |= {f'{split}/{name}': x for name, x in found.items()}
  if split == 'test' or (split in sources.SPLITS and 'prompt_tokens' not in result['cost']):
    result['cost']['prompt_tokens'] = evaluation.prompt_tokens
  if signatures := {**(result.pop('signatures', None) or {}),
                    **{f'{split}/{name}': x for name, x in evaluation.signatures.items()}}:
    result['signatures'] = signatures
  _scale(result, workdir)
  leaked = {**(result.pop('leaked', None) or {}), split: evaluation.leaked}
  if leaked := {name: count for name, count in leaked.items() if count}:
    result['leaked'] = leaked


def _find_copies(result: dict[str, Any], evaluation: harness.Evaluation, split: str, task: Task) -> None:
  """Adds to predictions what they hold of a training row, and to the result how many do, in place; of training's own answers,
  which are right to be those rows, and where nothing was written, nothing."""
  told = {name: count for name, count in (result.pop('copies', None) or {}).items() if name != split}
  rows = task.splits.get('train', ())
  lines = evaluation.predictions
  if rows and split != 'train' and any(p['prediction'] and 'choices' not in p for p in lines):
    known = [(p['prompt'], p['target'], *p.get('references', ())) for p in lines]
    found = copies.found([p['prediction'] for p in lines], known, [prompts.texts_of(task, row) for row in rows])
    for line, copy in zip(lines, found):
      line |= {'copied': copy._asdict()} if copy else {}
    told[split] = sum(copy is not None for copy in found)
  if told:
    result['copies'] = told


def _scale(result: dict[str, Any], workdir: Path) -> None:
  """Adds `temperature`, fitted on validation, and what scaling by it makes of each other split's calibration; in place.

  Its intervals are over the split's examples, at that temperature.

  Args:
    result: with the scores of splits, of which some may be of calibration.
    workdir: the run directory, which holds the splits' predictions.
  """
  for told in (result['metrics'], result['intervals']):
    for name in [name for name in told if name.endswith(calibration.SCALED)]:
      del told[name]                               # of other validation scores, perhaps
  result.pop('temperature', None)
  read = lambda split: sources.read_jsonl(workdir / run_files.PREDICTIONS / f'{split}.jsonl')
  wanted = [name.split('/') for name in result['metrics'] if name.count('/') == 1 and name.split('/')[1] in choices.CALIBRATION]
  if not any(split == 'valid' for split, _ in wanted) or not processes.is_primary():
    return                                         # only the first process writes the result, and sees all files
  result['temperature'] = calibration.temperature(harness.scored_rows(read('valid')))
  for split in dict.fromkeys(split for split, _ in wanted if split != 'valid'):
    predictions = read(split)
    scaled = calibration.scaled(harness.scored_rows(predictions), result['temperature'])
    for metric in (templates.over(metrics.get(name), templates.count(predictions)) for of, name in wanted if of == split):
      sums, name = metric.sums(scaled), f'{split}/{metric.name}{calibration.SCALED}'
      result['metrics'][name] = float(metric.score(sums.sum(0)))
      result['intervals'][name] = templates.interval(metric, sums)


def spoken(evaluation: harness.Evaluation, split: str, ranges: bool = True) -> list[str]:
  """A split's scores for people: a line of those over all rows and, where training holds some of these, one without them.

  Args:
    evaluation: of the split.
    split: train, valid or test, or retain/NAME.
    ranges: with their intervals.
  """
  def line(ends: str) -> str:
    return ', '.join(
        f'{split}/{name.removesuffix(ends)} {value:.4f}' + ranges * (' [{:.4f}, {:.4f}]'.format(*evaluation.intervals[name]))
        for name, value in evaluation.scores.items() if name.endswith(harness.WITHOUT) == bool(ends))

  count, rows = evaluation.leaked, len({p['id'] for p in evaluation.predictions})
  copied = [p for p in evaluation.predictions if 'copied' in p]
  ends = [f'{len(copied)} of {len(evaluation.predictions)} {split} answers hold words of a training row that neither their '
          f'prompt nor a right answer has (first: row {copied[0]["id"]}, of training row {copied[0]["copied"]["row"]})'
          ] if copied else []
  if not count:
    return [line(''), *ends]
  if count == rows:
    return [line(''), f'training holds all {rows} {split} rows, so there is no score without them', *ends]
  return [line(''), *ends, f'without the {count} of {rows} {split} rows that training holds: {line(harness.WITHOUT)}']
