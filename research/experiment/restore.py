"""Variables and states of an experiment: at step 0, from an adapter or an earlier run, and as a run has learned them."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import safetensors.numpy

from research import json_text, run_files, tree
from research.adapters import modules, reading
from research.config import SEEDS
from research.console import say
from research.distributed import partition, placement, processes
from research.errors import InputError
from research.experiment import provenance
from research.experiment.assemble import Experiment, assemble, check_finite, strategy_of_run
from research.models import names
from research.strategies import table, values
from research.strategies.bind import bind
from research.training import optim
from research.training.checkpoint import Checkpoints, checksum
from research.training.objective import REFERENCE
from research.training.steps import TrainState
from research.tree import Tree


def variables(experiment: Experiment) -> tuple[Tree, Tree]:
  """(trainable, frozen) of an experiment, at step 0: new deltas, or those of `strategy.init_from`.

  An adapter or run to start from that does not fit, and numbers that are not finite, are refused (`InputError`).
  """
  settings = experiment.settings
  check_finite(experiment.params, f'model.source={settings.model.source}')
  key = jax.random.fold_in(jax.random.key(settings.training.seed_of('init')), 1)
  trainable, frozen = bind(key, experiment.strategy, experiment.model, experiment.params, experiment.tokenizer.encode)
  if begins := settings.strategy.init_from:
    trainable, frozen = _start_from(experiment, trainable, frozen)
    check_finite(tree.split(frozen, '^delta')[0], f'strategy.init_from={begins}')
    check_finite(trainable, f'strategy.init_from={begins}')
  return trainable, frozen


def begin(experiment: Experiment) -> tuple[TrainState, Tree]:
  """(state, frozen) at step 0.

  Raises:
    InputError: the strategy and the training are both to start from something.
  """
  t = experiment.settings.training
  trainable, frozen = variables(experiment)
  if t.init_from:
    if experiment.settings.strategy.init_from:
      raise InputError('strategy.init_from and training.init_from are both given; one says where to begin')
    trainable, frozen = continued(Path(t.init_from), experiment, trainable, frozen)
  opt_state = optim.init(optimizer(experiment), trainable, t.learning_rate, t.weight_decay, warmup(experiment))
  if experiment.objective.of_pairs:
    frozen = {**frozen, REFERENCE: jax.tree.map(jnp.copy, trainable)}
  return TrainState(jnp.int32(0), jax.random.key(t.seed_of('dropout')), trainable, opt_state), frozen


def num_params(trainable: Tree, frozen: Tree) -> tuple[int, int]:
  """How many numbers are trainable, and how many there are in all; a copy of what they were at step 0 is none of them."""
  learn = tree.size(trainable)
  return learn, learn + tree.size({name: x for name, x in frozen.items() if name != REFERENCE})


def optimizer(experiment: Experiment) -> optax.GradientTransformation:
  """The optimiser that an experiment names."""
  t = experiment.settings.training
  return optim.make(t.optimizer, t.schedule, t.steps, t.clip, t.b1, t.b2, t.eps, experiment.strategy.lr_multipliers)


def warmup(experiment: Experiment) -> int:
  """Steps in which the rate rises."""
  t = experiment.settings.training
  return math.ceil(t.warmup * t.steps)


def of_run(workdir: Path, splits: Iterable[str] = (), allow_changed: bool = False, **model_fields: Any) -> Experiment:
  """The experiment of the run in `workdir`, to use what it learned (see `learned_and_frozen`).

  A folder that holds no run, or one that was made from something else than is there now, is refused (`InputError`).

  Args:
    workdir: the run's.
    splits: those whose rows are used, and so must be what they were.
    allow_changed: use it all the same, and record that (see `provenance.check`).
    model_fields: fields of `config.model` that shall differ.
  """
  config = run_files.read_config(workdir)
  json_text.expect(config, dict.fromkeys(('model', 'task', 'strategy', 'training'), dict), str(workdir / run_files.CONFIG))
  config['model'] = {'quantize': 'none', 'remat': 'none', 'attention': 'auto', **config['model'],       # older runs lack some
                     **model_fields}
  config['task'] = {'rows': 0, 'stop': (), **config['task']}      # older ones ended answers at EOS alone
  config['training'] = {'best_metric': 'loss', **{f'{part}_seed': None for part in SEEDS}, **config['training']}
  config['mesh'] = dict(partition.EVAL_MESH)
  if config['training'].get('steps'):      # what it began with is in its own files
    config['strategy'] |= {'init_from': None, 'allow_other_base': False}
  found = assemble(config, trains=False)
  provenance.check(workdir, found, {*splits, 'train'} if found.strategy.shots else splits, allow_changed)
  return found


def learned(workdir: Path, experiment: Experiment) -> Tree:
  """The variables of a run at its best step."""
  return tree.join(*learned_and_frozen(workdir, experiment))


def learned_and_frozen(workdir: Path, experiment: Experiment) -> tuple[Tree, Tree]:
  """(trainable, frozen) of a run at its best step."""
  trainable, frozen = variables(experiment)
  if not jax.tree.leaves(trainable) or experiment.settings.strategy.init_from:      # nothing has learned here
    return trainable, frozen
  return _restored(workdir, trainable, frozen, experiment.fingerprint)


def _restored(workdir: Path, trainable: Tree, frozen: Tree, base: str | None) -> tuple[Tree, Tree]:
  """The variables with what the run in `workdir` learned up to its best step, and with what its deltas have that is fixed.

  Raises:
    InputError: the checkpoint is not of the step that the run's result names.
  """
  checkpoints = Checkpoints(workdir / run_files.CHECKPOINTS, base)
  try:
    best, step = jax.tree.map(jnp.asarray, checkpoints.restore_best(trainable)), checkpoints.step('best')
  finally:
    checkpoints.close()
  check_finite(best, str(workdir / run_files.CHECKPOINTS))
  if (workdir / run_files.RESULT).exists() and (told := run_files.read_result(workdir).get('best_step', step)) != step:
    raise InputError(f'{workdir / run_files.CHECKPOINTS}: the best checkpoint is of step {step}, but {run_files.RESULT} says '
                     f'{told}: one of them is of another run; put it back from a copy, or train the run again elsewhere')
  return values.placed_in(best, frozen, tree.leaves(best) | _fixed(workdir, frozen), str(workdir))


def _fixed(workdir: Path, frozen: Tree) -> dict[str, Any]:
  """What `keep_fixed` saved of such a tree.

  Raises:
    InputError: the file is not what was written.
  """
  path = workdir / run_files.FIXED
  if not values.fixed_names(frozen):
    return {}
  if not path.exists():
    raise InputError(f'{path}: no such file, and what the run learned fits only what it holds; put it back from a copy, or '
                     'train the run again in another workdir')
  try:
    fixed = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, 'numpy') as f:
      written = json.loads((f.metadata() or {}).get('checksums', '{}'))
  except (safetensors.SafetensorError, OSError, ValueError) as e:
    raise InputError(f'{path}: is damaged ({e}); train the run again in another workdir') from None
  for name in written:
    if name not in fixed or checksum(fixed[name]) != written[name]:
      raise InputError(f'{path}: is damaged ({name} is not what was written); train the run again in another workdir')
  return fixed


def keep_fixed(workdir: Path, trainable: Tree, frozen: Tree) -> Tree:
  """Saves what of the deltas is frozen and is part of them: what was drawn, or decomposed from the base as it then was.

  Args:
    workdir: the run directory.
    trainable: of the run at step 0.
    frozen: what is frozen of it.
  Returns:
    What is frozen, with what an earlier start of the run has saved.
  """
  if processes.all_gather_object((workdir / run_files.FIXED).exists())[0]:
    kept = tree.leaves(trainable) | _fixed(workdir, frozen)
    return placement.shard(values.placed_in(trainable, frozen, kept, str(workdir))[1])
  fixed = values.fixed(frozen)
  if fixed and processes.is_primary():
    checksums = json.dumps({name: checksum(x) for name, x in fixed.items()})
    run_files.write_bytes(workdir / run_files.FIXED, safetensors.numpy.save(fixed, {'checksums': checksums}))
  return frozen


def _start_from(experiment: Experiment, trainable: Tree, frozen: Tree) -> tuple[Tree, Tree]:
  """The variables with what `strategy.init_from` holds: an adapter folder, or a run at its best step.

  Raises:
    InputError: it belongs to another base model, and that is not allowed.
  """
  own = experiment.settings.strategy
  assert own.init_from is not None      # as the caller has looked
  folder, any_base = Path(own.init_from), bool(own.allow_other_base)
  if not modules.is_folder(folder):
    return continued(folder, experiment, trainable, frozen, any_base)
  model = experiment.model.config
  found = reading.read(folder, model, names.shapes(model))
  if found.base is None:
    say(f'warning: {folder} does not say which base model it belongs to; its shapes fit this one')
  elif found.base != experiment.fingerprint and not any_base:
    raise InputError(f'strategy.init_from={folder}: belongs to another base model ({found.base}, not '
                     f'{experiment.fingerprint}); --config.strategy.allow_other_base=True takes it all the same')
  for note in found.notes:
    say(note)
  return values.placed_in(trainable, frozen, found.values, f'strategy.init_from={folder}')


def continued(workdir: Path, experiment: Experiment, trainable: Tree, frozen: Tree,
              any_base: bool = False) -> tuple[Tree, Tree]:
  """What an earlier run had learned at its best step, to go on from with a new optimiser and new data.

  Args:
    workdir: the earlier run's.
    experiment: the one that is to begin there.
    trainable: what is trainable of it at step 0, for names, shapes and types.
    frozen: what is frozen of it.
    any_base: whether the earlier run may be of another base model.
  Returns:
    (trainable, frozen), with the earlier run's values.
  Raises:
    InputError: the run is of another strategy, or of another base model where that is not allowed.
  """
  earlier = table.make(*strategy_of_run(workdir))
  here = experiment.strategy
  same = (earlier.kin or earlier.name) == (here.kin or here.name)      # which differ in how they learn alone
  different = [] if same else [f'name={earlier.name!r} there, {here.name!r} here']
  different += [f'{n}={v!r} there, {here.fields.get(n)!r} here' for n, v in earlier.fields.items()
                if here.fields.get(n) != v and (n in here.fields or not same)]
  if different:
    raise InputError(f'{workdir}: was trained with another strategy ({"; ".join(different)})')
  found = _restored(workdir, trainable, frozen, None if any_base else experiment.fingerprint)
  if not any_base:
    provenance.check_tokenizer(workdir, experiment)
  return found
