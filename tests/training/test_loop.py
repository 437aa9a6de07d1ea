"""Whole runs in this process: where they end, what they keep, and what they go on from."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from helpers import WORDS, by_heart, config, write_pairs

from research import tree
from research.errors import InputError
from research.experiment import restore
from research.experiment.assemble import assemble
from research.runs.train import train_one
from research.training.metrics_log import MetricsLog


@pytest.fixture(scope='module')
def overfit(tmp_path_factory):
  """A run that learns six rows by heart while validation asks for their opposite, with patience 1."""
  folder = tmp_path_factory.mktemp('overfit')
  made = by_heart(folder)
  return made, folder / 'run', train_one(made, folder / 'run')


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def learned(made, workdir):
  return tree.leaves(restore.learned(workdir, assemble(made))['delta'])


def test_a_run_ends_once_validation_stops_to_improve(overfit):
  _, workdir, result = overfit
  found = {line['step']: line['valid/loss'] for line in lines(workdir) if 'valid/loss' in line}
  best = min(found, key=found.get)
  assert result['steps'] == list(found)[-1] == best + 10 < 100
  assert result['best_step'] == best and result['metrics']['valid/loss'] == pytest.approx(found[best], rel=1e-6)


def test_what_a_run_keeps_is_what_it_had_learned_at_its_best_step(overfit, tmp_path):
  made, workdir, result = overfit
  best = result['best_step']
  shorter = {**made, 'training': {**made['training'], 'steps': best}}
  longer = {**made, 'training': {**made['training'], 'steps': best + 10, 'patience': 0, 'eval_every': best + 10}}
  for other in (shorter, longer):
    train_one(other, tmp_path / str(other['training']['steps']))
  kept, at_best, later = (learned(made, w) for w in (workdir, tmp_path / str(best), tmp_path / str(best + 10)))
  for name, x in kept.items():
    np.testing.assert_allclose(x, at_best[name], atol=1e-4, err_msg=name)
  assert max(np.abs(x - later[name]).max() for name, x in kept.items()) > 1e-2


def test_the_best_step_is_where_best_metric_is_best(overfit, tmp_path):
  """Validation asks for more than the answer: learning that brings chrF, and what follows becomes ever less likely."""
  made, _, _ = overfit
  valid = write_pairs(tmp_path / 'valid.jsonl', [(a, f'{b} {b[::-1]}') for a, b in zip(WORDS[:6], WORDS[6:])])
  made = {**made, 'task': {**made['task'], 'valid': valid, 'metrics': ('chrf',)},
          'strategy': {**made['strategy'], 'name': 'full'},
          'training': {**made['training'], 'best_metric': 'chrf', 'patience': 0, 'steps': 60, 'learning_rate': 5e-3}}
  result = train_one(made, tmp_path / 'run')
  found = [line for line in lines(tmp_path / 'run') if 'valid/chrf' in line]
  assert [line['step'] for line in found] == [10, 20, 30, 40, 50, 60]
  best = max(found, key=lambda line: line['valid/chrf'])
  assert result['best_step'] == best['step'] > min(found, key=lambda line: line['valid/loss'])['step']
  assert result['metrics'] == pytest.approx({name: best[name] for name in ('valid/loss', 'valid/chrf')})
  again = train_one({**made, 'training': {**made['training'], 'patience': 1}}, tmp_path / 'patient')
  worse = [b['step'] for a, b in itertools.pairwise(found) if b['valid/chrf'] <= a['valid/chrf']]
  assert again['steps'] == [*worse, 60][0]


def test_the_account_adds_up_over_a_run_and_its_lines(overfit):
  """Seconds in steps, of them waiting for input, in evaluations and at checkpoints; and what the steps reached of the peak."""
  _, workdir, result = overfit
  cost = result['cost']
  for name, of_lines in (('train_seconds', 'seconds'), ('input_seconds', 'input_seconds'),
                         ('evaluation_seconds', 'evaluation_seconds')):
    assert cost[name] == pytest.approx(sum(line.get(of_lines, 0) for line in lines(workdir))) and cost[name] > 0
  assert cost['input_seconds'] < cost['train_seconds'] and cost['checkpoint_seconds'] > 0
  assert [line['step'] for line in lines(workdir) if 'evaluation_seconds' in line] == list(range(10, result['steps'] + 1, 10))
  assert cost['utilisation'] == pytest.approx(cost['train_flops'] / cost['train_seconds'] / cost['matrix_peak'])


def test_a_run_compiles_nothing_after_its_first_evaluation(overfit, tmp_path, monkeypatch):
  made, _, _ = overfit
  made = {**made, 'training': {**made['training'], 'steps': 40, 'checkpoint_every': 10, 'patience': 0, 'batch_size': 5}}
  compiled, of_lines = [], {}
  write = MetricsLog.write

  def noted(self, rows):
    write(self, rows)
    of_lines.update({row['step']: len(compiled) for row in rows})
  monkeypatch.setattr(MetricsLog, 'write', noted)
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: compiled.append(event) if event == '/jax/core/compile/backend_compile_duration' else None)
  train_one(made, tmp_path / 'run')
  assert of_lines[10] > 0 and of_lines[40] == of_lines[20] <= of_lines[10] + 2      # a first best and latest were saved at 10


def test_profile_leaves_a_trace_where_tensorboard_looks_for_it(overfit, tmp_path):
  made, _, _ = overfit
  made = {**made, 'training': {**made['training'], 'steps': 3, 'eval_every': 3, 'patience': 0}}
  train_one(made, tmp_path / 'run', profile=True)
  assert list((tmp_path / 'run' / 'tensorboard' / 'plugins' / 'profile').rglob('*.xplane.pb'))
  with pytest.raises(InputError, match=r'--profile: training.steps=1'):
    train_one({**made, 'training': {**made['training'], 'steps': 1}}, tmp_path / 'short', profile=True)


@pytest.mark.parametrize('valid, metric, message', [
    (True, 'bleu', 'training.best_metric=bleu: task files measures loss, exact_match'),
    (False, 'exact_match', 'training.best_metric=exact_match: task files has no validation split')])
def test_a_best_metric_that_is_not_measured_is_refused(overfit, valid, metric, message):
  made, _, _ = overfit
  task = made['task'] if valid else {**made['task'], 'valid': None}
  with pytest.raises(InputError, match=message):
    assemble({**made, 'task': task, 'training': {**made['training'], 'best_metric': metric}})


def test_a_run_goes_on_from_what_an_earlier_one_learned(overfit, tmp_path):
  made, workdir, result = overfit
  again = {**made, 'training': {**made['training'], 'init_from': str(workdir), 'steps': 1},
           'task': {**made['task'], 'train': write_pairs(tmp_path / 'new.jsonl', list(zip(WORDS[:6], WORDS[5:11])))}}
  train_one(again, tmp_path / 'again')
  began, ended = lines(workdir)[0]['train/loss'], lines(workdir)[result['best_step'] - 1]['train/loss']
  first = lines(tmp_path / 'again')[0]['train/loss']
  assert ended < 0.9 * began and abs(first - ended) < 0.5 * abs(first - began)


def test_a_run_of_before_a_field_was_there_is_read(overfit, tmp_path):
  made, workdir, _ = overfit
  shutil.copytree(workdir, tmp_path / 'old')
  config = json.loads((workdir / 'config.json').read_text())
  del config['model']['attention'], config['model']['remat'], config['model']['quantize'], config['training']['best_metric']
  (tmp_path / 'old' / 'config.json').write_text(json.dumps(config))
  provenance = json.loads((workdir / 'provenance.json').read_text())
  del provenance['config'], provenance['model']['template']
  (tmp_path / 'old' / 'provenance.json').write_text(json.dumps(provenance))
  old = restore.of_run(tmp_path / 'old')
  assert tree.leaves(restore.learned(tmp_path / 'old', old)['delta']).keys() == learned(made, workdir).keys()


@pytest.mark.parametrize('group, field, value, message', [
    ('strategy', 'rank', 4, 'was trained with another strategy .*rank=8 there, 4 here'),
    ('model', 'source', 'random:llama-small', 'was trained on another base model'),
    ('training', 'init_from', 'nowhere', 'is nowhere the workdir of a run')])
def test_a_run_goes_on_from_no_other_model_or_strategy(overfit, tmp_path, group, field, value, message):
  made, workdir, _ = overfit
  made = {**made, 'training': {**made['training'], 'init_from': str(workdir)}}
  with pytest.raises(InputError, match=message):
    train_one({**made, group: {**made[group], field: value}}, tmp_path / 'again')
  assert not (tmp_path / 'again').exists()


def test_the_event_file_holds_the_scalars_of_metrics_jsonl(overfit):
  from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
  _, workdir, _ = overfit
  [file] = (workdir / 'tensorboard').iterdir()
  found = {}
  for event in EventFileLoader(str(file)).Load():
    for value in event.summary.value:
      found.setdefault(event.step, {})[value.tag] = value.tensor.float_val[0]
  expected = {line.pop('step'): line for line in lines(workdir)}
  assert found.keys() == expected.keys()
  for step, line in expected.items():
    assert found[step] == pytest.approx(line, rel=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(tmp_path):
  with pytest.raises(InputError, match=r'training diverged: the loss of step .* lower training\.learning_rate'):
    train_one(by_heart(tmp_path, training__learning_rate=1e30, training__clip=0.0, training__steps=6), tmp_path / 'run')


def test_epochs_are_passes_over_the_training_rows(tmp_path):
  rows = write_pairs(tmp_path / 'rows.jsonl', list(zip(WORDS, WORDS[::-1])))
  made = config(task__name='files', task__train=rows, task__prompt='{a}:', task__target=' {b}', training__epochs=1.5,
                training__batch_size=8, strategy__rank=1)
  result = train_one(made, tmp_path / 'run')
  assert result['steps'] == result['best_step'] == 3     # 18 of 8 at a time
  assert result['metrics'] == {} and jax.tree.leaves(learned(made, tmp_path / 'run'))
