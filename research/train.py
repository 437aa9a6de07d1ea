"""Trains one strategy on one task from a config.

    python -m research.train --config=configs/default.py --workdir=runs/lora --config.training.learning_rate=1e-3

The same command goes on with a run that was stopped. See README for what stands in the workdir afterwards.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from research import cli, experiment, machine, tree
from research import workdir as files
from research.errors import InputError
from research.evaluation import harness, metrics
from research.strategies import bind
from research.training import compile, flops, loop, optim
from research.training.checkpoint import Checkpoints
from research.training.monitor import Monitor, say
from research.training.steps import TrainState, train_step


def run(config: dict[str, Any], workdir: Path, label: str = 'train', profile: bool = False) -> dict[str, Any]:
  """Trains, validates at the best step, and leaves a run in `workdir`; gives its result.json.

  Args:
    profile: also writes a trace of five steps beside TensorBoard's metrics, which shows where a step's time goes.
  Raises:
    InputError: the config cannot be right, or the workdir holds another run.
  """
  exp = experiment.assemble(config)
  files.check(workdir, exp.config)
  if (workdir / files.RESULT).exists():
    say(f'{label}: {workdir} is finished already')
    return files.read_json(workdir / files.RESULT)
  t, steps = exp.config['training'], exp.config['training']['steps']
  if profile and steps < 2:
    raise InputError(f'--profile: training.steps={steps}: the first step compiles, and the second is the first to be traced')
  batch_of = exp.training_batches() if steps else None
  held_out = exp.examples('valid') if 'valid' in exp.task.splits else []
  trainable, frozen = exp.variables()
  if t['init_from']:
    if exp.config['strategy']['init_from']:
      raise InputError('strategy.init_from and training.init_from are both given; one says where to begin')
    trainable, frozen = experiment.continued(Path(t['init_from']), exp, trainable, frozen)
  tx, warmup = experiment.optimizer(exp, steps)
  files.claim(workdir, exp.config)
  experiment.keep_fixed(workdir, frozen)
  lines = bind.table(trainable, frozen)
  files.write_json(workdir / files.SITES, [line._asdict() for line in lines])
  if not held_out:
    say(f'{label}: no validation split: the last step is kept')
  files.write_json(workdir / files.PROVENANCE, experiment.provenance(exp))
  trainable_params = tree.size(trainable)
  say(f'{label}: {exp.strategy.name} on {exp.task.name}, {trainable_params:,} of '
      f'{tree.size(trainable) + tree.size(frozen):,} parameters learn')
  for line in lines:
    say(f'  {line}')
  say(f'{label}: on ' + ', '.join(f'{what} {value}' for what, value in machine.settings().items()))

  by = metrics.get(t['best_metric'])
  generates = by.name != 'loss'
  seen: dict[int, harness.Evaluation] = {}      # this process's best step -> what validation found, where that is all

  def look(variables, generate, label=None) -> harness.Evaluation:
    return harness.evaluate(exp.model, variables, exp.tokenizer, exp.task, held_out, t['eval_batch_size'], generate,
                            label)

  def validate(step, variables):
    if not sys.stderr.isatty():
      say(f'{label}  {step}/{steps}  validating')
    evaluation = look(variables, generates)
    cost = lambda e: -e.scores[by.name] if by.higher_is_better else e.scores[by.name]
    if (exp.task.choices or generates) and all(cost(evaluation) < cost(e) for e in seen.values()):
      seen.clear()
      seen[step] = evaluation
    return {f'valid/{name}': value for name, value in evaluation.scores.items()}

  monitor = Monitor(workdir)
  checkpoints = Checkpoints(workdir / files.CHECKPOINTS, exp.fingerprint)
  try:
    state = TrainState(jnp.int32(0), jax.random.key(t['seed']), trainable,
                       optim.init(tx, trainable, t['learning_rate'], t['weight_decay']))
    outcome = loop.train(
        exp.model, state, frozen, tx, batch_of, validate if held_out else None, label=label, steps=steps,
        eval_every=t['eval_every'], checkpoint_every=t['checkpoint_every'], log_every=t['log_every'],
        best_metric=f'valid/{by.name}', higher_is_better=by.higher_is_better, patience=t['patience'],
        label_smoothing=t['label_smoothing'], schedule=t['schedule'], warmup=warmup, learning_rate=t['learning_rate'],
        checkpoints=checkpoints, monitor=monitor, profile=workdir / files.TENSORBOARD if profile else None)
  finally:
    monitor.close()
    checkpoints.close()
  if profile and not (workdir / files.TENSORBOARD / 'plugins').exists():
    say(f'{label}: nothing was traced: only the step that compiles was left')
  result = describe(exp, outcome, trainable_params, tree.size(trainable) + tree.size(frozen))
  if held_out:
    evaluation = seen.get(outcome.best_step) or look(tree.join(outcome.trainable, frozen), True, f'{label}: valid')
    record(result, evaluation, workdir, 'valid')
  files.write_json(workdir / files.RESULT, result)
  say(f'{label}: best step {outcome.best_step} of {outcome.steps}; '
      + ', '.join(f'{k} {v:.4f}' for k, v in result['metrics'].items()))
  return result


def predict(config: dict[str, Any]) -> dict[str, Any]:
  """What training a config would take, from its compiled step, which a run finds again: nothing is run or written."""
  exp = experiment.assemble(config)
  t, steps = exp.config['training'], exp.config['training']['steps']
  trainable, frozen = exp.variables()
  predicted = {'trainable_params': tree.size(trainable), 'train_flops': 0.0, 'peak_bytes': 0}
  if steps:
    tx, _ = experiment.optimizer(exp, steps)
    state = TrainState(jnp.int32(0), jax.random.key(t['seed']), trainable, tx.init(trainable))
    step = compile.compiled(train_step, state, frozen, exp.training_batches()(0), donate=(0,), model=exp.model, tx=tx,
                            label_smoothing=t['label_smoothing'])
    predicted |= {'train_flops': steps * step.flops, 'peak_bytes': step.peak_bytes}
  return predicted


def describe(exp: experiment.Experiment, outcome: loop.Outcome, trainable: int, total: int) -> dict[str, Any]:
  """A run's result before anything was evaluated."""
  c = outcome.cost
  per_second = lambda x: x / c.train_seconds if c.train_seconds else 0.0
  memory = _memory(c.peak_bytes)                 # before the product below, which takes some too
  peak = flops.matrix_peak(exp.model.config.dtype) if c.train_flops else 0.0
  return {
      'model': exp.config['model']['source'], 'task': exp.task.name, 'strategy': exp.strategy.name,
      'seed': exp.config['training']['seed'], 'best_step': outcome.best_step, 'steps': outcome.steps,
      'metrics': {}, 'intervals': {},
      'cost': {'total_params': total, 'trainable_params': trainable, **c._asdict(),
               'tokens_per_second': per_second(c.train_tokens), 'matrix_peak': peak,
               'utilisation': per_second(c.train_flops) / peak if peak else 0.0,
               **memory, 'cohort_size': 1},
  }


def _memory(compiled_bytes: int) -> dict[str, Any]:
  """The most memory that was in use: the device's own count where it keeps one, else the compiler's."""
  counted = jax.devices()[0].memory_stats()
  if counted and 'peak_bytes_in_use' in counted:
    return {'peak_bytes': counted['peak_bytes_in_use'], 'memory_source': 'device: peak of this process'}
  return {'peak_bytes': compiled_bytes,
          'memory_source': 'compiled: arguments, results and temporaries of the training step'}


def record(result: dict[str, Any], evaluation: harness.Evaluation, workdir: Path, split: str) -> None:
  """Writes a split's predictions and adds its scores to a result."""
  files.write_jsonl(workdir / files.PREDICTIONS / f'{split}.jsonl', evaluation.predictions)
  result['metrics'] |= {f'{split}/{name}': value for name, value in evaluation.scores.items()}
  result['intervals'] |= {f'{split}/{name}': ends for name, ends in evaluation.intervals.items()}


def main() -> None:
  cli.required('config', 'workdir')
  run(experiment.plain(flags.FLAGS.config), Path(flags.FLAGS.workdir), profile=flags.FLAGS.profile)


if __name__ == '__main__':
  cli.config_flag()
  flags.DEFINE_string('workdir', None, 'where the run is kept')
  flags.DEFINE_bool('profile', False, 'write a trace of five steps, which TensorBoard opens')
  cli.run(main, __doc__)
