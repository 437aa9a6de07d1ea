"""Several runs as one program come to what each would come to alone."""

import itertools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_heart, config, reviews, start, without_times

from experiments.benchmarks import sides
from research import tree
from research.data.batch import Batch
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import assemble
from research.programs import members
from research.runs import run, train
from research.runs.train import train_cohort, train_one
from research.strategies import table
from research.studies import carry_out
from research.training import cohort, trial
from research.training.metrics_log import MetricsLog
from research.training.signals import Stopped
from research.training.steps import TrainState

RATES, SEEDS = (3e-4, 1e-3), (0, 1)      # at which the loss falls smoothly


def read(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def jobs(configs, folder):
  return [(one, folder / str(number), str(number)) for number, one in enumerate(configs)]


def four(**fields):
  return [config(training__learning_rate=rate, training__seed=seed, training__steps=20, training__eval_every=5, **fields)
          for rate in RATES for seed in SEEDS]


ROWS = {**reviews(longest=90, train=60, valid=12), 'training__batch_size': 2}


def learned(made, workdir):
  return tree.leaves(restore.learned(workdir, assemble(made)))


@pytest.mark.parametrize('members, fields', [
    (4, {'strategy__name': 'lora', 'strategy__dropout': 0.1}),
    (2, {'strategy__name': 'full', 'strategy__rank': None, 'training__microbatches': 2}),
    (2, {'strategy__name': 'vera', 'strategy__rank': 8, 'model__source': 'random:t5-tiny'}),     # draws what does not learn
], ids=['lora', 'full', 'vera'])
def test_a_cohort_equals_runs_alone(members, fields, tmp_path):
  """Losses within 1e-5 over 20 steps, the same best step, the same scores, and what was learned."""
  configs = four(**fields, **ROWS)[:members]
  for number, made in enumerate(configs):
    made['strategy']['dropout'] = fields.get('strategy__dropout') and (0.1, 0.3)[number % 2]
  together = train_cohort(jobs(configs, tmp_path / 'cohort'), tmp_path / 'latest')
  for number, (made, found) in enumerate(zip(configs, together)):
    alone = train_one(made, tmp_path / 'alone' / str(number))
    here, there = tmp_path / 'cohort' / str(number), tmp_path / 'alone' / str(number)
    for a, b in zip(read(here), read(there), strict=True):
      assert a.keys() == b.keys()
      for name in {'train/loss', 'valid/loss', 'learning_rate', 'train/tokens'} & a.keys():
        assert a[name] == pytest.approx(b[name], rel=1e-5), (number, a['step'], name)
    losses = [line['train/loss'] for line in read(there)]
    assert fields['strategy__name'] == 'vera' or np.mean(losses[-5:]) < np.mean(losses[:5])
    assert found['best_step'] == alone['best_step'] and found['steps'] == alone['steps'] == 20
    assert found['metrics'] == pytest.approx(alone['metrics'], rel=1e-5)
    assert (found['cost']['cohort_size'], alone['cost']['cohort_size']) == (members, 1)
    assert found['cost']['train_flops'] == pytest.approx(alone['cost']['train_flops'], rel=0.01)
    of_alone = learned(made, there)
    for name, x in learned(made, here).items():
      np.testing.assert_allclose(x, of_alone[name], atol=1e-4, err_msg=name)


def test_what_is_the_same_in_all_is_there_once():
  loaded = sides.model('random:llama-tiny', 'vera', 'float32', 'scanned')
  begun = [start(loaded, table.make('vera', {}), seed=seed) for seed in (0, 1, 1)]
  state, frozen = cohort.stack_states([s for s, _, _ in begun], [f for _, f, _ in begun])
  assert all(x is y for x, y in zip(jax.tree.leaves(frozen.shared['params']), jax.tree.leaves(begun[0][1]['params'])))
  own = tree.leaves(frozen.own)
  assert own and all(x.shape[0] == 3 and 'fixed' in name for name, x in own.items())
  for number, (one, fixed, _) in enumerate(begun):
    variables = tree.leaves(members.select_member(number, members.join_variables(state.trainable, frozen)))
    jax.tree.map(np.testing.assert_array_equal, variables, tree.leaves(tree.join(one.trainable, fixed)))


@pytest.mark.quick
def test_batches_of_different_shapes_are_filled_up_with_padding():
  short, long = (Batch(*[np.ones((1, lines, 4), np.int32)] * 3) for lines in (2, 3))
  found = cohort.stack_batches([short, long]).tokens
  assert found.shape == (2, 1, 3, 4) and not found[0, 0, 2].any() and found[1].all()
  assert cohort.stack_batches([short]) is short


def test_a_member_that_diverges_stops_no_other(tmp_path):
  rates = (1e-3, 1e30)
  configs = [config(training__learning_rate=rate, training__clip=0.0, training__steps=6, **ROWS) for rate in rates]
  whole, broken = train_cohort(jobs(configs, tmp_path), tmp_path / 'latest')
  assert isinstance(broken, InputError) and 'training diverged' in str(broken) and '1e+30' in str(broken)
  alone = train_one(configs[0], tmp_path / 'alone')
  assert whole['metrics'] == pytest.approx(alone['metrics'], rel=1e-5) and whole['steps'] == 6
  assert not (tmp_path / '1' / 'result.json').exists()


def test_a_member_that_stops_early_keeps_what_it_had(tmp_path):
  """At the high rate validation gets worse soon, at the low one it improves to the end."""
  configs = [by_heart(tmp_path, training__learning_rate=rate, training__steps=40) for rate in (1e-4, 1e-2)]
  found = train_cohort(jobs(configs, tmp_path), tmp_path / 'latest')
  alone = [train_one(made, tmp_path / f'alone-{number}') for number, made in enumerate(configs)]
  assert [r['steps'] for r in found] == [r['steps'] for r in alone] and found[1]['steps'] < found[0]['steps'] == 40
  for number, made in enumerate(configs):
    expected = learned(made, tmp_path / f'alone-{number}')
    for name, x in learned(made, tmp_path / str(number)).items():
      np.testing.assert_allclose(x, expected[name], atol=1e-3, err_msg=name)      # one more step would move it by 1e-2


def test_a_cohort_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
  configs = [{**c, 'training': {**c['training'], 'log_every': 1}} for c in four(**ROWS)[:3]]
  undisturbed = train_cohort(jobs(configs, tmp_path / 'a'), tmp_path / 'latest-a')
  write = MetricsLog.write

  asked = []

  def writing(self, lines):
    write(self, lines)
    if lines[-1]['step'] == 7 and not asked:       # asked twice, it would end at once
      asked.append(7)
      signal.raise_signal(signal.SIGTERM)
  monkeypatch.setattr(MetricsLog, 'write', writing)
  with pytest.raises(Stopped):
    train_cohort(jobs(configs, tmp_path / 'b'), tmp_path / 'latest-b')
  monkeypatch.undo()
  assert [read(folder)[-1]['step'] for _, folder, _ in jobs(configs, tmp_path / 'b')] == [8, 8, 8]
  again = train_cohort(jobs(configs, tmp_path / 'b'), tmp_path / 'latest-b')
  assert without_times(again) == without_times(undisturbed)
  for number, made in enumerate(configs):
    expected = learned(made, tmp_path / 'a' / str(number))
    for name, x in learned(made, tmp_path / 'b' / str(number)).items():
      np.testing.assert_array_equal(x, expected[name], err_msg=name)


def test_what_does_not_fit_in_memory_is_trained_alone():
  loaded = sides.model('random:llama-tiny', 'lora', 'float32', 'scanned')
  tx = start(loaded, table.make('lora', {}))[2]

  def side(count):
    begun = [start(loaded, table.make('lora', {}), seed=number)[:2] for number in range(count)]
    batches = [sides.tokens(loaded, 1, 32, seed=number) for number in range(count)]
    return trial.timed_step(begun, batches, model=loaded.model, tx=tx)
  assert trial.tune_cohort_size(side, 4, 0) == trial.Trial(1)
  assert trial.tune_cohort_size(side, 4, 2 ** 40).tried == 4
  assert trial.tune_cohort_size(side, 1, 2 ** 40) == trial.Trial(1)


@pytest.mark.parametrize('together, size', [(3.5, 4), (3.7, 1)])
def test_a_trial_chooses_a_cohort_where_it_takes_clearly_less_time(together, size, monkeypatch):
  clock = itertools.accumulate(itertools.cycle([0, 1, 0, together]))      # a step alone takes 1, of all together so much
  monkeypatch.setattr(trial.time, 'perf_counter', lambda: next(clock))
  monkeypatch.setattr(trial, 'compiled', lambda *args, **_: Fake())
  one = TrainState(jnp.int32(0), jax.random.key(0), {'x': jnp.ones(3)}, {}), {'y': jnp.ones(3)}
  step = lambda count: trial.timed_step([one] * count, [Batch(*[np.ones((1, 2))] * 3)] * count)
  found = trial.tune_cohort_size(step, 4, 2 ** 40)
  assert found == trial.Trial(size, 1, pytest.approx(together), 4)


class Fake:
  peak_bytes = 100

  def __call__(self, state, frozen, batch):
    return state, {}


def test_how_many_is_not_tried_where_a_trial_takes_longer_than_it_can_win():
  configs = four(**ROWS)[:2]
  assert train.cohort_size(configs) == {'size': 1, 'because': '20 steps are too few for a trial to be worth its time'}
  longer = [{**c, 'training': {**c['training'], 'steps': 100}} for c in configs]
  found = train.cohort_size(longer)
  assert found['tried'] == 2 and found['size'] in (1, 2) and found['alone'] > 0
  none = [{**c, 'strategy': dict.fromkeys(c['strategy']) | {'name': 'few_shot', 'shots': 0}} for c in longer]
  assert train.cohort_size(none)['size'] == 1


def test_a_cohort_with_a_member_that_diverged_goes_on_from_its_last_step(tmp_path, monkeypatch):
  """Killed after the last step and before any result was written: the same results, the same words."""
  configs = [config(training__learning_rate=rate, training__clip=0.0, training__steps=6, **ROWS) for rate in (1e-3, 1e30)]
  expected = train_cohort(jobs(configs, tmp_path / 'a'), tmp_path / 'latest-a')

  def killed(*args):
    raise KeyboardInterrupt
  monkeypatch.setattr(run.Run, 'end', killed)
  with pytest.raises(KeyboardInterrupt):
    train_cohort(jobs(configs, tmp_path / 'b'), tmp_path / 'latest-b')
  monkeypatch.undo()
  again = train_cohort(jobs(configs, tmp_path / 'b'), tmp_path / 'latest-b')
  assert without_times(again[0]) == without_times(expected[0]) and str(again[1]) == str(expected[1])


def test_runs_of_which_no_one_step_can_be_made_are_refused(tmp_path):
  configs = [config(training__steps=steps, **ROWS) for steps in (2, 3)]
  with pytest.raises(InputError, match='other vocabularies or numbers of steps'):
    train_cohort(jobs(configs, tmp_path), tmp_path / 'latest')


@pytest.mark.quick
@pytest.mark.parametrize('text', ['0', '-2', 'many', '1.5'])
def test_a_number_of_members_that_is_none_is_refused(text):
  with pytest.raises(InputError, match='must be auto, off, or how many'):
    carry_out.cohorts(text)


def test_members_draw_dropout_by_their_own_keys():
  """From one beginning and one batch: two members of one key learn the same, of two keys not."""
  loaded = sides.model('random:llama-tiny', 'lora', 'float32', 'scanned')
  begun = [start(loaded, table.make('lora', {'dropout': 0.5})) for _ in range(3)]
  states = [s._replace(key=jax.random.key(seed)) for (s, _, _), seed in zip(begun, (0, 0, 1))]
  state, frozen = cohort.stack_states(states, [f for _, f, _ in begun])
  batch = cohort.stack_batches([sides.tokens(loaded, 1, 16)] * 3)
  step = jax.jit(lambda s: cohort.train_step(s, frozen, batch, model=loaded.model, tx=begun[0][2])[0])
  state = step(step(state))
  b = tree.leaves(state.trainable)
  assert all(jnp.array_equal(x[0], x[1]) for x in b.values())
  assert any(not jnp.array_equal(x[0], x[2]) for x in b.values())
