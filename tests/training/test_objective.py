"""What a step lowers: direct preference optimisation against TRL, and as a run."""

import json

import jax
import numpy as np
import pytest
from helpers import batch, config, moved, scaled_up, start, take

from research import tree
from research.data import batches, prompts, tasks
from research.errors import InputError
from research.evaluation import harness
from research.experiment.assemble import assemble
from research.runs.train import train_one
from research.strategies import table
from research.training.metrics_log import MetricsLog
from research.training.objective import REFERENCE, PreferenceLoss

RATE = 3e-4
PAIRS = [{'question': f'Which is {size}, {a} or {b}?', 'good': f' {a}.', 'bad': f' {b}, of course.'}
         for size in ('larger', 'older') for a, b in (('a whale', 'an ant'), ('the sea', 'a pond'), ('Rome', 'a tent'),
                                                      ('an oak', 'moss'), ('a glacier', 'dew'))]


@pytest.fixture
def pairs(tmp_path):
  """Fields of a task of pairs."""
  for split, rows in (('train', PAIRS), ('valid', PAIRS[:4])):
    (tmp_path / f'{split}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return {'task__name': 'files', 'task__train': str(tmp_path / 'train.jsonl'), 'task__valid': str(tmp_path / 'valid.jsonl'),
          'task__prompt': '{question}', 'task__target': '{good}', 'task__rejected': '{bad}', 'training__loss': 'dpo',
          'training__best_metric': 'accuracy'}


def of_steps(loaded, count, per_line=2):
  """So many batches of four pairs."""
  task = tasks.Task('pairs', {}, '{question}', '{good}', tasks.PAIR, rejected='{bad}')
  rows = [PAIRS[i % len(PAIRS)] for i in range(4 * count)]
  found = prompts.examples(task, rows, loaded.tokenizer)
  documents = [batches.prompt_with_choices(e, loaded.model.config.decoder_start_id) for e in found]
  return [batch(documents[i:i + 4], 200, per_line) for i in range(0, len(documents), 4)]


def with_reference(frozen, trainable):
  return {**frozen, REFERENCE: jax.tree.map(np.array, trainable)}


def trl_losses(model, reference, loaded, steps, folder, beta, learning_rate):
  """TRL's trainer on the same pairs in the same order."""
  import datasets
  import torch
  import trl

  class InOrder(trl.DPOTrainer):
    def _get_train_sampler(self, *_):
      return torch.utils.data.SequentialSampler(self.train_dataset)
  rows = [PAIRS[i % len(PAIRS)] for i in range(4 * steps)]
  rows = [{'prompt': r['question'], 'chosen': r['good'], 'rejected': r['bad']} for r in rows]
  how = trl.DPOConfig(str(folder), beta=beta, learning_rate=learning_rate, per_device_train_batch_size=4, max_steps=steps,
                      lr_scheduler_type='constant', warmup_steps=0, weight_decay=0.0, max_grad_norm=0.0, logging_steps=1,
                      save_strategy='no', report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
                      disable_tqdm=True, max_length=None)
  trainer = InOrder(model, reference, args=how, train_dataset=datasets.Dataset.from_list(rows),
                    processing_class=loaded.tokenizer.hf)
  trainer.train()
  return [line['loss'] for line in trainer.state.log_history if 'loss' in line]


@pytest.mark.parity
@pytest.mark.parametrize('name', ['lora', 'full'])
def test_dpo_learns_as_trl_does(name, tmp_path):
  from helpers import torch_twin
  from strategies.test_peft import RANKED, ours_from, with_peft
  loaded = scaled_up('llama-tiny')
  state, frozen, tx = start(loaded, table.make(name, {}), RATE)
  model = torch_twin(loaded)
  if name == 'lora':
    model = with_peft(loaded, **RANKED)
    model.save_pretrained(tmp_path / 'theirs')
    strategy, trainable, frozen = ours_from(loaded, tmp_path / 'theirs')
    state, _, tx = start(loaded, strategy, RATE)
    state = state._replace(trainable=trainable)
  _, ours = take(loaded, state, with_reference(frozen, state.trainable), tx, of_steps(loaded, 10), PreferenceLoss(0.5))
  theirs = trl_losses(model, None if name == 'lora' else torch_twin(loaded), loaded, 10, tmp_path, 0.5, RATE)
  assert ours[0] == pytest.approx(np.log(2)) and ours[-1] < 0.9 * ours[0]
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name, preset', [('pissa', 'llama-tiny'), ('full', 't5-tiny')])
def test_nothing_is_lost_at_step_0_and_the_reference_stays_where_it_was(name, preset):
  loaded = scaled_up(preset)
  state, frozen, tx = start(loaded, table.make(name, {}), 1e-2)
  [one] = of_steps(loaded, 1)
  frozen = with_reference(frozen, state.trainable)
  after, losses = take(loaded, state, frozen, tx, [one] * 3, PreferenceLoss())
  assert losses[0] == pytest.approx(np.log(2), abs=1e-5) and losses[2] < losses[1] < losses[0]
  told = PreferenceLoss()(loaded.model, tree.join(frozen, after.trainable), jax.tree.map(lambda x: x[0], one))[1]
  assert told['pairs'] == 4 and told['tokens'] == one.weights.sum() and told['accuracy'] == 4 and told['margin'] > 0


def test_pairs_weigh_the_same_however_they_are_laid_out():
  loaded = scaled_up('llama-tiny')
  state, frozen, tx = start(loaded, table.lora(), 1e-2)
  frozen = with_reference(frozen, moved(state.trainable, seed=3))
  found = []
  for per_line, parts in ((1, 1), (4, 1), (2, 2)):
    whole = of_steps(loaded, 1, per_line)[0]
    one = jax.tree.map(lambda x, parts=parts: x.reshape(parts, -1, x.shape[-1]), whole)
    after, losses = take(loaded, state, frozen, tx, [one], PreferenceLoss())
    found.append((losses[0], after.trainable))
  for loss, trainable in found[1:]:
    assert loss == pytest.approx(found[0][0], abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4), trainable, found[0][1])


@pytest.mark.parametrize('strategy', ['lora', 'full'])
def test_a_run_on_pairs_prefers_what_was_chosen_and_resumes_to_the_same(strategy, pairs, tmp_path):
  made = config(strategy__name=strategy, training__steps=12, training__learning_rate=1e-2, training__eval_every=6,
                training__checkpoint_every=6, check_memory=True, **pairs)
  result = train_one(made, tmp_path / 'run')
  first, *_, last = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
  assert first['train/loss'] == pytest.approx(np.log(2), abs=1e-4) and first['train/margin'] == pytest.approx(0, abs=1e-4)
  assert last['train/loss'] < 0.5 and last['train/accuracy'] > 0.7 and last['valid/accuracy'] >= 0.75
  assert result['metrics']['valid/accuracy'] == max(last['valid/accuracy'], result['metrics']['valid/accuracy'])
  added = result['cost']['trainable_params'] if strategy == 'lora' else 0
  assert result['cost']['total_params'] == tree.size(assemble(made).params) + added
  [one, *_] = [json.loads(line) for line in (tmp_path / 'run' / 'predictions' / 'valid.jsonl').open()]
  assert one['target'] == 'chosen' and set(one['choices']) == {'chosen', 'rejected'}

  write = MetricsLog.write

  def stopped(log, rows):
    write(log, rows)
    if rows[-1]['step'] >= 8:
      raise KeyboardInterrupt
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(MetricsLog, 'write', stopped)
    with pytest.raises(KeyboardInterrupt):
      train_one(made, tmp_path / 'again')
  again = train_one(made, tmp_path / 'again')
  assert again['metrics'] == result['metrics'] and again['best_step'] == result['best_step']


def test_an_answer_that_another_begins_with_is_ranked_with_its_end():
  loaded = scaled_up('llama-tiny')
  task = tasks.Task('pairs', {}, '{q}', '{a}', tasks.PAIR, ('accuracy',), rejected='{b}')
  found = prompts.examples(task, [{'q': 'Why?', 'a': ' So', 'b': ' So it is.'}] * 2, loaded.tokenizer)
  scores = harness.evaluate(loaded.model, {'params': loaded.params}, loaded.tokenizer, task, found, 2)
  one = scores.predictions[0]
  assert one['choices']['chosen'] == pytest.approx(-one['loss'])      # with the token that ends it


@pytest.mark.parametrize('fields, says', [
    ({'task__rejected': None}, 'training.loss=dpo: needs pairs'),
    ({'training__best_metric': 'loss'}, 'training.best_metric=loss: that is the loss of the chosen answers'),
    ({'training__dpo_beta': 0.0}, 'training.dpo_beta=0.0: must be above 0'),
    ({'training__loss': 'ppo'}, 'training.loss=ppo: must be one of cross_entropy, dpo'),
    ({'training__label_smoothing': 0.1}, 'training.label_smoothing=0.1: must be 0 with loss=dpo'),
    ({'task__choices': ('a', 'b')}, "task.rejected='{bad}': is of pairs of your own"),
    ({'task__metrics': ('exact_match',)}, 'task.metrics=.*: of pairs accuracy alone'),
    ({'task__rejected': '{good}'}, 'row 1: the rejected answer is empty, or the same as the target'),
    ({'task__rejected': '{worse}'}, 'row 1: .*worse'),
    ({'strategy__name': 'few_shot', 'strategy__calibrate': True}, 'strategy.calibrate=True: needs a task with choices'),
    ({'strategy__name': 'few_shot', 'strategy__shots': 2, 'strategy__selection': 'balanced'}, 'balanced: needs a task with')])
def test_what_cannot_be_learned_from_pairs_is_named(fields, says, pairs):
  with pytest.raises(InputError, match=says):
    assemble(config(**pairs | fields))


@pytest.mark.parametrize('fields', [{'task__target': '{good} {question}', 'task__rejected': '{bad} {question}'},
                                    {'task__rejected': "I don't know."}])
def test_templates_of_pairs_may_name_any_columns(fields, pairs):
  first = assemble(config(**pairs | fields)).examples('train')[0]
  assert first.choices['chosen'] == first.target_ids[:-1] != first.choices['rejected']
