"""From a config to the things it names: model, task, strategy, rows; all of it checked before anything is computed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research import config as config_fields
from research import run_files, tree
from research.adapters import modules, reading
from research.console import say
from research.data import batches, demonstrations, prompts, tasks, texts
from research.data import tokenizer as tokenizers
from research.data.demonstrations import DemonstrationFn
from research.data.prompts import Example
from research.data.tasks import Task
from research.data.tokenizer import Tokenizer
from research.distributed import mesh, placement
from research.errors import InputError
from research.evaluation import metrics
from research.experiment.settings import SEEDS, seed
from research.models import load, names
from research.models.config import execution
from research.models.functions import Model
from research.strategies import table
from research.strategies.table import Strategy
from research.training.objective import CrossEntropy, Objective
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
  demonstrations: DemonstrationFn
  context: int

  def examples(self, split: str) -> list[Example]:
    """The split's rows, rendered and tokenised; rows that do not fit the context are an error (plain text is cut)."""
    if self.task.objective in tasks.GAPS:
      corrupted = self.corrupted(split)
      return [self.prepared(corrupted.example(number)) for number in range(len(corrupted))]
    if self.task.objective == 'continuation':
      return [self.prepared(e) for e in texts.next_token(self.task.rows(split), self.tokenizer, self.text_context)]
    found = [self.prepared(e) for e in prompts.examples(self.task, self.task.rows(split), self.tokenizer,
                                                        self.demonstrations, self.strategy.calibrate)]
    answer = 0
    if split != 'train' and self.task.metrics and not self.task.choices:
      lengths, answer = [len(e.target_ids) for e in found], self.task.max_new_tokens
      if max(lengths, default=0) > answer:
        say(f'{sum(n > answer for n in lengths)} of {len(found)} {split} targets are longer than task.max_new_tokens={answer}; '
            f'so answers may have {max(lengths)} tokens, as the longest of them')
        answer = max(lengths)
    prompts.check_lengths(found, self.context - self.strategy.prefix_slots, split, answer, apart=self.model.config.has_encoder)
    return found

  def prepared(self, example: Example) -> Example:
    """An example with the places of the strategy's soft prompt before its prompt."""
    places = prompts.placeholders(self.strategy.slots)
    return example._replace(prompt_ids=[*places, *example.prompt_ids],
                            content_free=tuple([*places, *ids] for ids in example.content_free))

  @property
  def text_context(self) -> int:
    """Tokens that a piece of plain text may have."""
    return self.context - self.strategy.prefix_slots - self.strategy.slots

  def count(self, split: str) -> int:
    """Documents in one pass over a split: its rows, or the pieces of its texts."""
    return len(self.examples(split) if self.task.name == tasks.TEXT else self.task.rows(split))

  def corrupted(self, split: str) -> texts.Corrupted:
    return texts.Corrupted(self.task.rows(split), self.tokenizer, self.text_context, self.task.noise, self.task.span,
                           seed(self.config['training'], 'order'), whole=self.task.objective == 'denoising')

  def training_batches(self, looked_at: int = 2000) -> batches.TrainingBatches:
    """The batches of all steps; the first ones, so many, determine their shape."""
    t, start = self.config['training'], self.model.config.decoder_start_id
    if self.task.objective in tasks.GAPS:
      corrupted = self.corrupted('train')
      redraw = lambda number, epoch: batches.prompt_with_answer(self.prepared(corrupted.example(number, epoch)), start)
      documents = [redraw(number, 0) for number in range(len(corrupted))]
    else:
      redraw, documents = None, [batches.prompt_with_answer(e, start) for e in self.examples('train')]
    return batches.TrainingBatches(documents, t['batch_size'], t['microbatches'], seed(t, 'order'),
                                   min(t['steps'], looked_at), redraw, mesh.batch_shards(), placement.local_rows)

  @property
  def called(self) -> str:
    """The task's name in results, tables and figures: its label where it has one."""
    return self.config['task'].get('label') or self.task.name

  @property
  def objective(self) -> Objective:
    """What its training lowers."""
    return CrossEntropy(self.config['training']['label_smoothing'])

  @property
  def seeds(self) -> dict[str, int]:
    """Each of `SEEDS`."""
    return {part: seed(self.config['training'], part) for part in SEEDS}


def check_finite(variables: Tree, where: str) -> None:
  """Refuses variables of which nothing can be measured.

  Raises:
    InputError: some number is not finite; names its leaf.
  """
  name = tree.first_not_finite(variables)
  if name:
    raise InputError(f'{where}: {name} holds numbers that are not finite (NaN or infinite), from which no score can come')


def assemble(config: dict[str, Any], abstract: bool = False, trains: bool = True) -> Experiment:
  """Loads and checks what the config names.

  Args:
    config: as nested dicts (see `settings.plain`).
    abstract: with shapes in place of weights, to plan with.
    trains: whether a step may be taken; without one, training rows and a batch that the mesh divides are not asked for.
  Raises:
    InputError: some field cannot be right.
  """
  config_fields.check(config)
  model_fields, training = config['model'], config['training']
  _check_training(training)
  if trains:
    _check_mesh(training)
  task = tasks.make(config['task']['name'], {k: tuple(v) if isinstance(v, list) else v
                                             for k, v in config['task'].items() if k not in ('name', 'label', 'rows')})
  if config['task']['rows'] and (trains or 'train' in task.splits):
    task = tasks.subsample(task, config['task']['rows'], seed(training, 'rows'))
  for name in task.metrics:
    metrics.get(name)
  run_as = execution(model_fields['dtype'], model_fields['param_dtype'], model_fields['scan'], model_fields['quantize'],
                     model_fields['remat'], model_fields['attention'])
  def base(apart: int = 0) -> load.Loaded:
    named = (model_fields['source'], run_as, _learned_tokenizer(model_fields, task))
    return load.load_with_last_layers(*named, apart, abstract) if apart else load.load(*named, abstract)
  strategy, own = _strategy(config['strategy'], base)
  if strategy.trains_base:
    if run_as.quantize != 'none':
      raise InputError(f'model.quantize={run_as.quantize}: strategy {strategy.name} changes the kernels, and needs none')
    run_as = run_as._replace(param_dtype='float32')      # masters of what is trainable are not rounded on the way in
  if task.name == tasks.TEXT and strategy.shots:
    raise InputError(f'strategy.shots={strategy.shots}: task text has no answers to demonstrate')
  if strategy.calibrate and not task.choices:
    raise InputError('strategy.calibrate=True: needs a task with choices to weigh')
  shown = demonstrations.choose(task, strategy.shots, strategy.selection, seed(training, 'shots'))
  loaded = base(strategy.last_layers)
  model = loaded.model.config
  mesh.check_heads(model.heads, model.kv_heads)
  context = model_fields['context'] or model.context
  if context < 1 or (context > model.context and model.has_max_length):
    raise InputError(f'model.context={context}: must be between 1 and the model\'s own {model.context}')
  if strategy.slots + strategy.prefix_slots >= context:
    raise InputError(f'strategy.slots: {strategy.slots + strategy.prefix_slots} leave no room in the context of '
                     f'{context} tokens')
  if task.objective is None:
    task = task._replace(objective='span_corruption' if model.has_encoder else 'continuation')
  elif task.objective in tasks.GAPS and not model.has_encoder:
    raise InputError(f'task.objective={task.objective}: needs a model with an encoder, such as T5')
  elif task.objective == 'continuation' and model.has_encoder:
    raise InputError(f'task.objective=continuation: a model with an encoder learns plain text by {" or ".join(tasks.GAPS)}')
  learns = strategy.learns
  if learns and trains:
    task.rows('train')
    if not training['epochs'] and training['steps'] < 1 and not own['init_from']:
      raise InputError(f'training.steps={training["steps"]}: must be 1 or more')
    if training['best_metric'] not in ('loss', *task.metrics):
      raise InputError(f'training.best_metric={training["best_metric"]}: task {task.name} measures '
                       f'{", ".join(("loss", *task.metrics))}')
    if training['best_metric'] != 'loss' and 'valid' not in task.splits:
      raise InputError(f'training.best_metric={training["best_metric"]}: task {task.name} has no validation split')
  resolved = {
      'model': {**model_fields, **run_as._asdict(), 'context': context},
      'task': {**config['task'], 'prompt': task.prompt, 'target': task.target, 'choices': list(task.choices),
               'metrics': list(task.metrics), 'separator': task.separator, 'max_new_tokens': task.max_new_tokens,
               'stop': list(task.stop),
               'chat': task.chat, 'objective': task.objective, 'noise': task.noise, 'span': task.span},
      'strategy': {'name': strategy.name, **strategy.fields, **own},
      'training': {**training, 'steps': training['steps'] if learns else 0},
      'mesh': config['mesh'],
  }
  exp = Experiment(resolved, loaded.model, loaded.params, loaded.fingerprint, loaded.tokenizer, loaded.hf, task, strategy,
                   shown, context)
  if learns and trains and training['epochs']:
    steps = training['epochs'] * exp.count('train') / training['batch_size']
    if steps >= config_fields.MOST:
      raise InputError(f'training.epochs={training["epochs"]:g}: comes to {steps:.3g} steps; must be below 2^31')
    resolved['training']['steps'] = math.ceil(steps)
  return exp


OWN = ('init_from', 'allow_other_base')      # fields of config.strategy that are no row's


def _strategy(fields: dict[str, Any], base: Callable[[], load.Loaded] | None) -> tuple[Strategy, dict[str, Any]]:
  """The row that a config names, and the fields that are no row's own.

  With `init_from` the row's settings come from there; what the config says beside that must agree.

  Args:
    fields: of `config.strategy`.
    base: loads the model, whose modules an adapter folder names; None where `init_from` names none.
  Raises:
    InputError: `init_from` is of another strategy, or says something else of a field than the config.
  """
  name, given = fields['name'], {k: v for k, v in fields.items() if k not in ('name', *OWN) and v is not None}
  own: dict[str, Any] = {'init_from': fields.get('init_from'),
                         'allow_other_base': bool(fields.get('allow_other_base'))}
  if not own['init_from']:
    return table.make(name, given), own
  folder = Path(own['init_from'])
  if modules.is_folder(folder):
    assert base is not None      # as the fields say `init_from`
    model = base().model.config
    found = reading.read(folder, model, names.shapes(model))
    there, settings = found.name, found.fields
  else:
    settings = {k: v for k, v in run_files.read_config(folder)['strategy'].items() if k not in OWN}
    there = settings.pop('name')
  strategy = table.make(name, {**settings, **given}) if there == name or table.make(name, {}).kin == there else None
  if strategy is None:
    raise InputError(f'strategy.init_from={folder}: is of strategy {there}, not {name}; set strategy.name={there}')
  said = table.make(there, settings).fields
  for field in given:
    if field in settings and strategy.fields[field] != said[field]:
      raise InputError(f'strategy.{field}={given[field]!r}: {folder} says {settings[field]!r}; leave the field out')
  return strategy, own


def _learned_tokenizer(model_fields: dict[str, Any], task: Task) -> Tokenizer | None:
  """The vocabulary that `model.vocab` asks for: learned from the task's training rows, for random weights alone.

  Raises:
    InputError: its size is below 0, or the model brings its own.
  """
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
  def require(holds: Any, message: str) -> None:
    if not holds:
      raise InputError(f'training.{message}')
  require(t['learning_rate'] > 0, f'learning_rate={t["learning_rate"]}: must be above 0')
  require(t['epochs'] >= 0, f'epochs={t["epochs"]}: must be 0 (use steps) or more')
  for field in ('seed', *(f'{part}_seed' for part in SEEDS)):
    require(t.get(field) is None or 0 <= t[field] < config_fields.MOST,
            f'{field}={t.get(field)}: must be 0 or more, and below 2^31')
  for field in ('b1', 'b2'):
    require(0 <= np.float32(t[field]) < 1, f'{field}={t[field]}: must be at least 0 and below 1, as a float32 holds it')
  require(t['eps'] > 0, f'eps={t["eps"]}: must be above 0')
  require(t['batch_size'] >= 1, f'batch_size={t["batch_size"]}: must be 1 or more')
  require(t['microbatches'] >= 1 and t['batch_size'] % t['microbatches'] == 0,
          f'microbatches={t["microbatches"]}: must divide batch_size={t["batch_size"]}')
  require(0 <= t['warmup'] < 1, f'warmup={t["warmup"]}: a share of the steps, at least 0 and below 1')
  require(0 <= t['label_smoothing'] < 1, f'label_smoothing={t["label_smoothing"]}: must be at least 0 and below 1')
  for field in ('weight_decay', 'clip', 'patience', 'checkpoint_every'):
    require(t[field] >= 0, f'{field}={t[field]}: must be 0 or more')
  for field in ('eval_every', 'eval_batch_size', 'log_every'):
    require(t[field] >= 1, f'{field}={t[field]}: must be 1 or more')


def _check_mesh(t: dict[str, Any]) -> None:
  """Refuses a batch that the mesh in use does not divide.

  Raises:
    InputError: the rows of a microbatch cannot be dealt out evenly.
  """
  rows, sizes = t['batch_size'] // t['microbatches'], mesh.sizes()
  if rows % mesh.batch_shards():
    raise InputError(f'training.batch_size={t["batch_size"]}: the {rows} rows of each of its {t["microbatches"]} microbatches '
                     f'cannot be dealt out evenly to mesh.data={sizes["data"]} x mesh.fsdp={sizes["fsdp"]} devices')
