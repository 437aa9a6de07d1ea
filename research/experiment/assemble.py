"""From a config to the things it names: model, task, strategy, rows; all of it checked before anything is computed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from research import config as configs
from research import config_fields, run_files, tree
from research.adapters import modules, reading
from research.config import Config, ModelSettings, Settings, StrategySettings
from research.console import say, say_once
from research.data import batches, demonstrations, few_rows, prompts, tasks, texts, turns
from research.data import tokenizer as tokenizers
from research.data.batches import Document
from research.data.demonstrations import DemonstrationFn
from research.data.prompts import Example
from research.data.tasks import Task
from research.data.tokenizer import Tokenizer
from research.distributed import mesh, placement
from research.errors import InputError
from research.evaluation import decoding, metrics, weighed
from research.experiment import watched as watching
from research.models import load, names
from research.models.config import Execution, execution
from research.models.functions import Model
from research.strategies import table
from research.strategies.table import Strategy
from research.training.objective import CrossEntropy, Objective, PreferenceLoss
from research.tree import Tree


class Experiment(NamedTuple):
  """All that a config names, checked; nothing has learned yet."""
  settings: Settings                   # resolved: no `auto`, no open field
  model: Model
  params: Tree                         # the base's
  fingerprint: str                     # of the base's weights
  tokenizer: Tokenizer
  hf: dict[str, Any]                   # the base's config.json
  task: Task
  strategy: Strategy
  demonstrations: DemonstrationFn
  context: int
  watched: Task | None = None          # what training measures beside its own task

  def examples(self, split: str) -> list[Example]:
    """The split's rows, rendered and tokenised; rows that do not fit the context are an error (plain text is cut)."""
    if self.task.objective in tasks.GAPS:
      corrupted = self.corrupted(split)
      return [self.prepared(corrupted.example(number)) for number in range(len(corrupted))]
    if self.task.objective == 'continuation':
      return [self.prepared(e) for e in texts.next_token(self.task.rows(split), self.tokenizer, self.text_context)]
    found = [self.prepared(e) for e in prompts.examples(self.task, self.task.rows(split), self.tokenizer,
                                                        self.demonstrations, self.strategy.calibrate)]
    say_once(prompts.told(self.task, found, split))
    answer = 0
    if split != 'train' and self.task.writes:
      lengths, answer = [len(e.target_ids) for e in found if not e.template], self.task.max_new_tokens
      if max(lengths, default=0) > answer:
        say(f'{sum(n > answer for n in lengths)} of {len(lengths)} {split} targets are longer than task.max_new_tokens={answer}'
            f'; so answers may have {max(lengths)} tokens, as the longest of them')
        answer = max(lengths)
    say_once(turns.told(turns.altered_prompts(self.task, found, self.tokenizer), len(found), split))
    prompts.check_lengths(found, self.context - self.strategy.prefix_slots, split, answer, apart=self.model.config.has_encoder)
    return found

  def training_examples(self) -> list[Example]:
    """The training rows as they are learned from: chats with each of the assistant's turns where `task.turns` says so."""
    if self.task.turns == 'last':
      return self.examples('train')
    found, altered = turns.examples(self.task, self.task.rows('train'), self.tokenizer)
    count = sum(1 + len(e.learned) for e in found)
    say_once(f'train: a loss on {count} answers in {len(found)} rows (task.turns=all); other splits measure the last of a row')
    say_once(turns.told(altered, len(found), 'train', every_turn=True))
    found = [self.prepared(e) for e in found]
    prompts.check_lengths(found, self.context - self.strategy.prefix_slots, 'train')
    return found

  def document(self, example: Example) -> Document:
    """A training row as a step is given it."""
    made = batches.prompt_with_choices if self.objective.of_pairs else batches.prompt_with_answer
    return made(example, self.model.config.decoder_start_id)

  def prepared(self, example: Example) -> Example:
    """An example with the places of the strategy's soft prompt before its prompt."""
    places = prompts.placeholders(self.strategy.slots)
    return example._replace(prompt_ids=[*places, *example.prompt_ids],
                            learned=tuple((first + len(places), end + len(places)) for first, end in example.learned),
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
                           self.settings.training.seed_of('order'), whole=self.task.objective == 'denoising')

  def training_batches(self, looked_at: int = 2000) -> batches.TrainingBatches:
    """The batches of all steps; the first ones, so many, determine their shape."""
    t, redraw = self.settings.training, None
    documents = [self.document(e) for e in self.training_examples()]
    if self.task.objective in tasks.GAPS:
      corrupted = self.corrupted('train')
      redraw = lambda number, epoch: self.document(self.prepared(corrupted.example(number, epoch)))
    return batches.TrainingBatches(documents, t.batch_size, t.microbatches, t.seed_of('order'),
                                   min(t.steps, looked_at), redraw, mesh.batch_shards(), placement.local_rows,
                                   max(1, len(self.task.prompts)))

  @property
  def called(self) -> str:
    """The task's name in results, tables and figures: its label where it has one."""
    return self.settings.task.label or self.task.name

  @property
  def objective(self) -> Objective:
    """What its training lowers."""
    t = self.settings.training
    if t.loss != 'dpo':
      return CrossEntropy(t.label_smoothing)
    assert t.dpo_beta is not None      # settings are resolved
    return PreferenceLoss(t.dpo_beta)

  @property
  def seeds(self) -> dict[str, int]:
    """Each of `config.SEEDS`."""
    return {part: self.settings.training.seed_of(part) for part in configs.SEEDS}

  @property
  def execution(self) -> Execution:
    """How its model is computed and kept."""
    return Execution(*(getattr(self.settings.model, field) for field in Execution._fields))


def check_finite(variables: Tree, where: str) -> None:
  """Refuses variables of which nothing can be measured.

  Raises:
    InputError: some number is not finite; names its leaf.
  """
  name = tree.first_not_finite(variables)
  if name:
    raise InputError(f'{where}: {name} holds numbers that are not finite (NaN or infinite), from which no score can come')


def assemble(config: Config, abstract: bool = False, trains: bool = True) -> Experiment:
  """Loads and checks what the config names.

  Args:
    config: as nested dicts, or read already.
    abstract: with shapes in place of weights, to plan with.
    trains: whether a step may be taken; without one, training rows and a batch that the mesh divides are not asked for.
  Raises:
    InputError: some field cannot be right.
  """
  given = configs.read(config)
  training = given.training
  if trains:
    mesh.check_batch(training.batch_size, training.microbatches)
  task = tasks.make(given.task.name, {k: v for k, v in given.task._asdict().items() if k not in tasks.OF_A_RUN})
  if given.task.rows and (trains or 'train' in task.splits):
    task = few_rows.subsample(task, given.task.rows, training.seed_of('rows'))
  metrics.check(task, trains)
  if decoding.of_pairs(task.decoding) != decoding.GREEDY and (task.choices or task.name == tasks.TEXT):
    raise InputError(f'task.decoding={dict(task.decoding)}: task {task.name} generates no text')
  m, learned_tokenizer = given.model, _learned_tokenizer(given.model, task)
  steps = training.num_steps(len(task.rows('train')) if 'train' in task.splits else 0) if trains else None
  scan = load.resolve_scan(m.scan, m.source, learned_tokenizer, steps, abstract)
  run_as = execution(m.dtype, m.param_dtype, scan, m.quantize, m.remat, m.attention)
  def base(apart: int = 0) -> load.Loaded:
    named = (m.source, run_as, learned_tokenizer)
    return load.load_with_last_layers(*named, apart, abstract) if apart else load.load(*named, abstract)
  strategy = strategy_of(given.strategy, base)
  if strategy.trains_base:
    if run_as.quantize != 'none':
      raise InputError(f'model.quantize={run_as.quantize}: strategy {strategy.name} changes the kernels, and needs none')
    run_as = run_as._replace(param_dtype='float32')      # masters of what is trainable are not rounded on the way in
  if task.name == tasks.TEXT and strategy.shots:
    raise InputError(f'strategy.shots={strategy.shots}: task text has no answers to demonstrate')
  if strategy.calibrate and (task.rejected or not task.choices):
    raise InputError('strategy.calibrate=True: needs a task with choices to weigh')
  if strategy.calibrate and task.scoring != 'sum':
    raise InputError(f'strategy.calibrate=True: weighs sums of log-likelihoods, and not with task.scoring={task.scoring}')
  shown = demonstrations.choose(task, strategy.shots, strategy.selection, training.seed_of('shots'))
  loaded = base(strategy.last_layers)
  model = loaded.model.config
  mesh.check_heads(model.heads, model.kv_heads)
  context = m.context or model.context
  if context < 1 or (context > model.context and model.has_max_length):
    raise InputError(f'model.context={context}: must be between 1 and the model\'s own {model.context}')
  if strategy.slots + strategy.prefix_slots >= context:
    raise InputError(f'strategy.slots: {strategy.slots + strategy.prefix_slots} leave no room in the context of '
                     f'{context} tokens')
  task = texts.with_objective(task, model.has_encoder)
  if task.turns == 'all' and model.has_encoder:
    raise InputError('task.turns=all: an encoder reads the whole prompt at once, and earlier turns can have no loss; take a '
                     'model without one, or task.turns=last')
  learns, watched = strategy.learns, None
  if learns and trains:
    task.rows('train')
    if not training.epochs and training.steps < 1 and not given.strategy.init_from:
      raise InputError(f'training.steps={training.steps}: must be 1 or more')
    if training.loss == 'dpo':
      if not task.rejected:
        raise InputError(f'training.loss=dpo: needs pairs; task.rejected must say which answer to a row of task {task.name} '
                         'is the worse one')
      if training.best_metric == 'loss' and 'valid' in task.splits:
        raise InputError('training.best_metric=loss: that is the loss of the chosen answers, which dpo need not lower; give '
                         'accuracy: how often the chosen answer is the likelier one')
    watched = watching.task_of(given.task.retain, task, model.has_encoder) if given.task.retain else None
    weighed.check(weighed.read(training.best_metric), training.best_metric, task, watched)
    if training.best_metric != 'loss' and 'valid' not in task.splits:
      raise InputError(f'training.best_metric={training.best_metric}: task {task.name} has no validation split')
  if training.loss == 'dpo' and training.dpo_beta is None:
    training = training._replace(dpo_beta=PreferenceLoss.beta)
  steps = training.steps if learns else 0
  row = {field: config_fields.frozen(value) for field, value in strategy.fields.items()}
  settings = Settings(
      m._replace(**run_as._asdict(), context=context),
      given.task._replace(**{field: getattr(task, field) for field in SAID_BY_TASK}, rejected=task.rejected or None,
                          prompts=task.prompts or None, decoding=task.decoding or None,
                          turns=None if task.turns == 'last' else task.turns,
                          scoring=None if task.scoring == 'sum' else task.scoring),
      StrategySettings(name=strategy.name, **row, init_from=given.strategy.init_from,
                       allow_other_base=bool(given.strategy.allow_other_base)),
      training._replace(steps=steps), given.mesh, given.check_memory)
  exp = Experiment(settings, loaded.model, loaded.params, loaded.fingerprint, loaded.tokenizer, loaded.hf, task, strategy,
                   shown, context, watched)
  if learns and trains and training.epochs:
    epochs = training.num_steps(exp.count('train'))
    if epochs >= config_fields.MOST:
      raise InputError(f'training.epochs={training.epochs:g}: comes to {epochs:.3g} steps; must be below 2^31')
    exp = exp._replace(settings=settings.replace({'training.steps': math.ceil(epochs)}))
  return exp


# Fields of `config.task` that the task's own row says where the config does not.
SAID_BY_TASK = ('prompt', 'target', 'choices', 'metrics', 'separator', 'max_new_tokens', 'stop', 'chat',
                'objective', 'noise', 'span')


def strategy_of(settings: StrategySettings, base: Callable[[], load.Loaded] | None) -> Strategy:
  """The row that a config names, with its fields.

  With `init_from` the row's settings come from there; what the config says beside that must agree.

  Args:
    settings: of the config.
    base: loads the model, whose modules an adapter folder names; None where `init_from` names none.
  Raises:
    InputError: `init_from` is of another strategy, or says something else of a field than the config.
  """
  name, given = settings.name, settings.of_row()
  if not settings.init_from:
    return table.make(name, given)
  folder = Path(settings.init_from)
  if modules.is_folder(folder):
    assert base is not None      # as the fields say `init_from`
    model = base().model.config
    found = reading.read(folder, model, names.shapes(model))
    there, earlier = found.name, found.fields
  else:
    there, earlier = strategy_of_run(folder)
  strategy = table.make(name, {**earlier, **given}) if there == name or table.make(name, {}).kin == there else None
  if strategy is None:
    raise InputError(f'strategy.init_from={folder}: is of strategy {there}, not {name}; set strategy.name={there}')
  said = table.make(there, earlier).fields
  for field in given:
    if field in earlier and strategy.fields[field] != said[field]:
      raise InputError(f'strategy.{field}={given[field]!r}: {folder} says {earlier[field]!r}; leave the field out')
  return strategy


def strategy_of_run(workdir: Path) -> tuple[str, dict[str, Any]]:
  """(name, fields) of the row that the run in `workdir` was trained with."""
  fields = dict(run_files.read_config(workdir)['strategy'])
  return fields.pop('name'), {field: value for field, value in fields.items() if field not in configs.NO_ROWS}


def _learned_tokenizer(settings: ModelSettings, task: Task) -> Tokenizer | None:
  """The vocabulary that `model.vocab` asks for: learned from the task's training rows, for random weights alone.

  Raises:
    InputError: its size is below 0, or the model brings its own.
  """
  if not settings.vocab:
    return None
  if settings.vocab < 0:
    raise InputError(f'model.vocab={settings.vocab}: must be 0 (bytes) or the size of a vocabulary')
  kind, _, name = settings.source.partition(':')
  if kind != 'random':
    raise InputError(f'model.vocab={settings.vocab}: {settings.source} brings its own vocabulary; only random:NAME learns one')
  strings = (value for row in task.rows('train') for value in row.values() if isinstance(value, str))
  return tokenizers.learned(strings, settings.vocab, load.sentinels(name))
