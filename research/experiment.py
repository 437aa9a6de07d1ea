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
from research.data import batches, prompts, sources, tasks, texts
from research.data import tokenizer as tokenizers
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
  hf: dict[str, Any]                   # the base's config.json
  task: Task
  strategy: Strategy
  demonstrations: list[Row]
  context: int

  def examples(self, split: str) -> list[Example]:
    """The split's rows, rendered and tokenised; rows that do not fit the context are an error (plain text is cut)."""
    if self.task.objective == 'span_corruption':
      corrupted = self.corrupted(split)
      return [corrupted.example(number) for number in range(len(corrupted))]
    if self.task.objective == 'continuation':
      return texts.continued(self.task.rows(split), self.tokenizer, self.context)
    found = prompts.examples(self.task, self.task.rows(split), self.tokenizer, self.demonstrations)
    answer = 0 if self.task.choices or split == 'train' else self.task.max_new_tokens
    prompts.check_lengths(found, self.context, split, answer, apart=self.model.config.has_encoder)
    return found

  def count(self, split: str) -> int:
    """Documents in one pass over a split: its rows, or the pieces of its texts."""
    return len(self.examples(split) if self.task.name == tasks.TEXT else self.task.rows(split))

  def corrupted(self, split: str) -> texts.Corrupted:
    return texts.Corrupted(self.task.rows(split), self.tokenizer, self.context, self.task.noise, self.task.span,
                           self.config['training']['seed'])

  def training_batches(self) -> batches.TrainingBatches:
    t, start = self.config['training'], self.model.config.start
    if self.task.objective == 'span_corruption':
      corrupted = self.corrupted('train')
      redraw = lambda number, epoch: batches.answered(corrupted.example(number, epoch), start)
      documents = [redraw(number, 0) for number in range(len(corrupted))]
    else:
      redraw, documents = None, [batches.answered(e, start) for e in self.examples('train')]
    return batches.TrainingBatches(documents, t['batch_size'], t['microbatches'], t['seed'], t['steps'], redraw)

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
  if task.name == tasks.TEXT and strategy.shots:
    raise InputError(f'strategy.shots={strategy.shots}: task text has no answers to demonstrate')
  demonstrations = prompts.draw_demonstrations(task, strategy.shots, training['seed'])
  loaded = load.load(model_fields['source'], run_as, _learned_tokenizer(model_fields, task))
  model = loaded.model.config
  context = model_fields['context'] or model.context
  if context < 1 or (context > model.context and model.bounded):
    raise InputError(f'model.context={context}: must be between 1 and the model\'s own {model.context}')
  if task.objective is None:
    task = task._replace(objective='span_corruption' if model.has_encoder else 'continuation')
  elif task.objective == 'span_corruption' and not model.has_encoder:
    raise InputError('task.objective=span_corruption: needs a model with an encoder, such as T5')
  elif task.objective == 'continuation' and model.has_encoder:
    raise InputError('task.objective=continuation: a model with an encoder learns plain text by span_corruption')
  learns = strategy.trains != table.NOTHING
  if learns:
    task.rows('train')
    if not training['epochs'] and training['steps'] < 1:
      raise InputError(f'training.steps={training["steps"]}: must be 1 or more')
  resolved = {
      'model': {**model_fields, **run_as._asdict(), 'context': context},
      'task': {**config['task'], 'prompt': task.prompt, 'target': task.target, 'choices': list(task.choices),
               'metrics': list(task.metrics), 'separator': task.separator, 'max_new_tokens': task.max_new_tokens,
               'chat': task.chat, 'objective': task.objective, 'noise': task.noise, 'span': task.span},
      'strategy': {'name': strategy.name, **strategy.fields},
      'training': {**training, 'steps': training['steps'] if learns else 0},
  }
  exp = Experiment(resolved, loaded.model, loaded.params, loaded.fingerprint, loaded.tokenizer, loaded.hf, task, strategy,
                   demonstrations, context)
  if learns and training['epochs']:
    resolved['training']['steps'] = math.ceil(training['epochs'] * exp.count('train') / training['batch_size'])
  return exp


def _learned_tokenizer(model_fields: dict[str, Any], task: Task) -> Tokenizer | None:
  """The vocabulary that `model.vocab` asks for: learned from the task's training rows, for random weights alone."""
  if not model_fields['vocab']:
    return None
  if model_fields['vocab'] < 0:
    raise InputError(f'model.vocab={model_fields["vocab"]}: must be 0 (bytes) or the size of a vocabulary')
  kind, _, name = model_fields['source'].partition(':')
  if kind != 'random':
    raise InputError(f'model.vocab={model_fields["vocab"]}: {model_fields["source"]} brings its own vocabulary; only '
                     'random:NAME learns one')
  strings = (value for row in task.rows('train') for value in row.values() if isinstance(value, str))
  return tokenizers.learned(strings, model_fields['vocab'], load.sentinels(name))


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
