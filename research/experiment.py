"""From a config to the things it names. Only this module and the verbs read a config."""

import hashlib
import importlib.metadata
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from research import tree
from research import workdir as files
from research.data import batches, prompts, sources, tasks
from research.data.prompts import Example
from research.data.sources import Row
from research.data.tasks import Task
from research.data.tokenizer import Tokenizer
from research.errors import InputError
from research.evaluation import metrics
from research.models import load
from research.models.config import execution
from research.models.transformer import Model
from research.strategies import table
from research.strategies.bind import bind
from research.strategies.table import Strategy
from research.training import optim
from research.training.checkpoint import Checkpoints
from research.tree import Tree


class Experiment(NamedTuple):
  """All that a config names, checked; nothing has learned yet."""
  config: dict[str, Any]               # resolved: no `auto`, no open field
  model: Model
  params: Tree                         # the base's
  fingerprint: str                     # of the base's weights
  tokenizer: Tokenizer
  task: Task
  strategy: Strategy
  demonstrations: list[Row]
  context: int

  def examples(self, split: str) -> list[Example]:
    """The split's rows, rendered and tokenised; rows that do not fit the context are an error."""
    found = prompts.examples(self.task, self.task.rows(split), self.tokenizer, self.demonstrations)
    answer = 0 if self.task.choices or split == 'train' else self.task.max_new_tokens
    prompts.check_lengths(found, self.context, split, answer)
    return found

  def variables(self) -> tuple[Tree, Tree]:
    """(trainable, frozen), at step 0."""
    key = jax.random.fold_in(jax.random.key(self.config['training']['seed']), 1)
    return bind(key, self.strategy, self.model, self.params)


def plain(config: ConfigDict) -> dict[str, Any]:
  """A config as nested dicts, as JSON gives them back."""
  return {k: plain(v) if isinstance(v, ConfigDict) else list(v) if isinstance(v, tuple) else v
          for k, v in config.items()}


def assemble(config: dict[str, Any]) -> Experiment:
  """Loads and checks what the config names.

  Raises:
    InputError: some field cannot be right.
  """
  model_fields, training = config['model'], config['training']
  _check_training(training)
  strategy = table.make(config['strategy']['name'], {k: v for k, v in config['strategy'].items() if k != 'name'})
  task = tasks.make(config['task']['name'], {k: tuple(v) if isinstance(v, list) else v
                                             for k, v in config['task'].items() if k != 'name'})
  for name in task.metrics:
    metrics.get(name)
  run_as = execution(model_fields['dtype'], model_fields['param_dtype'], model_fields['scan'])
  if strategy.trains == table.WEIGHTS:
    run_as = run_as._replace(param_dtype='float32')      # masters of what learns are not rounded on the way in
  demonstrations = prompts.draw_demonstrations(task, strategy.shots, training['seed'])
  loaded = load.load(model_fields['source'], run_as)
  context = model_fields['context'] or loaded.model.config.context
  if context < 1 or context > loaded.model.config.context:
    raise InputError(f'model.context={context}: must be between 1 and the model\'s own {loaded.model.config.context}')
  steps = 0
  if strategy.trains != table.NOTHING:
    if not training['epochs'] and training['steps'] < 1:
      raise InputError(f'training.steps={training["steps"]}: must be 1 or more')
    rows = len(task.rows('train'))
    steps = math.ceil(training['epochs'] * rows / training['batch_size']) if training['epochs'] else training['steps']
  resolved = {
      'model': {**model_fields, **run_as._asdict(), 'context': context},
      'task': {**config['task'], 'prompt': task.prompt, 'target': task.target, 'choices': list(task.choices),
               'metrics': list(task.metrics), 'separator': task.separator, 'max_new_tokens': task.max_new_tokens,
               'chat': task.chat},
      'strategy': {'name': strategy.name, **strategy.fields},
      'training': {**training, 'steps': steps},
  }
  return Experiment(resolved, loaded.model, loaded.params, loaded.fingerprint, loaded.tokenizer, task, strategy,
                    demonstrations, context)


def _check_training(t: dict[str, Any]) -> None:
  def require(holds, message):
    if not holds:
      raise InputError(f'training.{message}')
  require(t['learning_rate'] > 0, f'learning_rate={t["learning_rate"]}: must be above 0')
  require(t['epochs'] >= 0, f'epochs={t["epochs"]}: must be 0 (use steps) or more')
  require(t['seed'] >= 0, f'seed={t["seed"]}: must be 0 or more')
  require(t['batch_size'] >= 1, f'batch_size={t["batch_size"]}: must be 1 or more')
  require(t['microbatches'] >= 1 and t['batch_size'] % t['microbatches'] == 0,
          f'microbatches={t["microbatches"]}: must divide batch_size={t["batch_size"]}')
  require(0 <= t['warmup'] < 1, f'warmup={t["warmup"]}: a share of the steps, at least 0 and below 1')
  require(0 <= t['label_smoothing'] < 1, f'label_smoothing={t["label_smoothing"]}: must be at least 0 and below 1')
  for field in ('weight_decay', 'clip', 'patience', 'checkpoint_every'):
    require(t[field] >= 0, f'{field}={t[field]}: must be 0 or more')
  for field in ('eval_every', 'eval_batch_size', 'log_every'):
    require(t[field] >= 1, f'{field}={t[field]}: must be 1 or more')


def optimizer(config: dict[str, Any], steps: int):
  """The optimiser that a resolved config names, and its number of warm-up steps."""
  t = config['training']
  warmup = math.ceil(t['warmup'] * steps)
  return optim.make(t['optimizer'], t['schedule'], steps, warmup, t['clip'], t['b1'], t['b2'], t['eps']), warmup


def documents(experiment: Experiment, split: str) -> list[batches.Document]:
  return [batches.answered(e) for e in experiment.examples(split)]


def learned(workdir: Path, experiment: Experiment) -> Tree:
  """The variables of a run at its best step."""
  trainable, frozen = experiment.variables()
  if not jax.tree.leaves(trainable):
    return frozen
  checkpoints = Checkpoints(workdir / files.CHECKPOINTS, experiment.fingerprint)
  try:
    return tree.join(checkpoints.restore_best(trainable), frozen)
  finally:
    checkpoints.close()


def start_from(workdir: str, experiment: Experiment, trainable: Tree, frozen: Tree) -> Tree:
  """What an earlier run had learned at its best step, to go on from with a new optimiser and new data.

  Raises:
    InputError: the run is of another base model, or of a strategy whose arrays differ.
  """
  path = Path(workdir)
  earlier = files.read_config(path)['strategy']
  if earlier != experiment.config['strategy']:
    raise InputError(f'training.init_from={workdir}: was trained with strategy {earlier}, '
                     f'not {experiment.config["strategy"]}')
  checkpoints = Checkpoints(path / files.CHECKPOINTS, experiment.fingerprint)
  try:
    return jax.tree.map(jnp.asarray, checkpoints.restore_best(trainable))
  finally:
    checkpoints.close()


def provenance(experiment: Experiment) -> dict[str, Any]:
  """What a result came from."""
  packages = ('flaxtune', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'tokenizers', 'numpy')
  return {
      'command': sys.argv,
      'code': {'commit': _commit(), 'sources': _sources()},
      'data': {split: {'rows': len(rows), 'sha256': sources.fingerprint(rows)}
               for split, rows in experiment.task.splits.items()},
      'model': {'sha256': experiment.fingerprint, 'tokenizer': experiment.tokenizer.fingerprint()},
      'versions': {'python': platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
      'devices': [f'{d.platform}: {d.device_kind}' for d in jax.devices()],
      'machine': {'system': platform.platform(), 'processor': _processor()},
      'seed': experiment.config['training']['seed'],
  }


def _commit() -> str | None:
  """The checkout's commit, with `+` where files differ from it; None outside of one."""
  def git(*args):
    return subprocess.run(['git', '-C', str(Path(__file__).parent), *args], capture_output=True, text=True)
  try:
    head = git('rev-parse', 'HEAD')
  except FileNotFoundError:
    return None
  if head.returncode:
    return None
  return head.stdout.strip() + ('+' if git('status', '--porcelain').stdout.strip() else '')


def _sources() -> str:
  """Hash of the package's own Python files."""
  digest = hashlib.sha256()
  for file in sorted(Path(__file__).parent.rglob('*.py')):
    digest.update(file.read_bytes())
  return digest.hexdigest()[:16]


def _processor() -> str:
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as f:
      name = next((line.split(':')[1].strip() for line in f if line.startswith('model name')), '')
  except FileNotFoundError:  # not Linux
    name = platform.processor()
  return f'{name}, {jax.local_device_count()} device(s)'
