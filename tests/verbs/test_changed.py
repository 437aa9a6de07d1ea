"""A run directory that was changed, damaged or is in use: said in one line, and never gone on with in silence."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
from helpers import ROOT, WORDS, steady, verb, write_pairs

from research import run_files
from research.deployment import folder as folders
from research.deployment.export import export_adapter, export_model
from research.errors import InputError, InUse
from research.experiment import provenance, restore
from research.models import families, functions, load, names
from research.models.config import Execution
from research.runs.evaluate import evaluate_one
from research.runs.train import train_cohort, train_one


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A model folder, whose tokenizer and weights the tests change copies of."""
  output = tmp_path_factory.mktemp('model') / 'tiny'
  loaded = load.load('random:llama-tiny', Execution('float32', 'float32', True))
  family = families.FAMILIES[loaded.model.config.family]
  tensors = names.export_params(family, *functions.split_last_layers(loaded.model.config, loaded.params, 0))
  fill = lambda into: folders.model(into, loaded.hf, tensors, loaded.tokenizer, np.dtype('float32'), 10 ** 9, {}, {})
  run_files.write_folder(output, fill)
  return output


@pytest.fixture(scope='module')
def stopped(model, tmp_path_factory):
  """(config, folder) of a run of six steps in `folder/run`, as it was when step 3 was saved; rows and model lie beside it."""
  folder = tmp_path_factory.mktemp('stopped')
  shutil.copytree(model, folder / 'model')
  made = steady(folder, model__source=str(folder / 'model'))
  train_one(made, folder / 'run')
  (folder / 'run' / 'result.json').rename(folder / 'result.json')      # with it the run is finished
  shutil.rmtree(folder / 'run' / 'checkpoints' / 'latest' / '6')
  return made, folder


@pytest.fixture
def here(stopped, tmp_path):
  """(config, folder): a copy of the same that a test may change."""
  made, folder = stopped
  shutil.copytree(folder, tmp_path / 'copy')
  moved = json.loads(json.dumps(made).replace(str(folder), str(tmp_path / 'copy')))
  workdir = tmp_path / 'copy' / 'run'
  (workdir / 'config.json').write_text(json.dumps(json.loads((workdir / 'config.json').read_text().replace(
      str(folder), str(tmp_path / 'copy')))))
  record = json.loads((workdir / 'provenance.json').read_text())
  record['config'] = provenance.config_fingerprint(run_files.read_config(workdir))
  (workdir / 'provenance.json').write_text(json.dumps(record))
  return moved, tmp_path / 'copy'


@pytest.fixture(autouse=True)
def as_in_a_new_process():
  """Nothing that an earlier test loaded is found again."""
  forget()


def forget():
  for cached in (load._load, load._load_with_last_layers, load._planned, load._open):
    cached.cache_clear()


def finished(folder):
  shutil.copy(folder / 'result.json', folder / 'run' / 'result.json')


def lines(path):
  return path.read_text().splitlines(keepends=True)


def reordered(folder):
  first, second, *rest = lines(folder / 'train.jsonl')
  (folder / 'train.jsonl').write_text(''.join([second, first, *rest]))


def edited(folder):
  write_pairs(folder / 'train.jsonl', [(a, b) for a in WORDS[:6] for b in WORDS[6:]][:27])


def edited_validation(folder):
  write_pairs(folder / 'valid.jsonl', [('amber', 'birch')])


def two_tokens_swapped(folder):
  path = folder / 'model' / 'tokenizer.json'
  rules = json.loads(path.read_text())
  vocabulary = rules['model']['vocab']
  one, other = [token for token in vocabulary if len(token) == 1 and token.isalpha()][:2]
  vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
  path.write_text(json.dumps(rules))


def another_template(folder):
  path = folder / 'model' / 'tokenizer_config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'chat_template': '{{ messages[0].content }}'}))


def other_weights(folder):
  path = folder / 'model' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  name = next(name for name in tensors if 'q_proj' in name)
  safetensors.numpy.save_file(tensors | {name: tensors[name] * 1.01}, path, {'format': 'pt'})


def another_alpha(folder):
  path = folder / 'run' / 'config.json'
  config = json.loads(path.read_text())
  config['strategy']['alpha'] = 32.0
  path.write_text(json.dumps(config))


@pytest.mark.parametrize('change, says', [
    (edited, 'the rows of train'), (reordered, 'the rows of train'), (edited_validation, 'the rows of valid'),
    (two_tokens_swapped, 'the tokenizer'), (another_template, 'the chat template'),
    (other_weights, "the base model's weights")])
def test_a_run_does_not_go_on_with_other_rows_tokenizer_or_base_unless_allowed_and_recorded(here, change, says):
  made, folder = here
  before = (folder / 'run' / 'provenance.json').read_text()
  change(folder)
  with pytest.raises(InputError, match=f'changed since the run began: {says}.*--allow_changed'):
    train_one(made, folder / 'run')
  assert (folder / 'run' / 'provenance.json').read_text() == before
  if change in (edited, two_tokens_swapped):
    train_one(made, folder / 'run', allow_changed=True)
    record, there = json.loads((folder / 'run' / 'provenance.json').read_text()), json.loads(before)
    assert record['data'] == there['data'] and record['model'] == there['model']      # what it began with
    [change] = record['changed']
    [(name, what)] = change['what'].items()
    assert what['before'] != what['after'] and name in ('data.train.sha256', 'model.tokenizer')
    train_one(made, folder / 'run')                                                    # and from then on it is made of that
    evaluate_one(folder / 'run', 'valid')


def test_a_run_that_is_trained_beside_others_is_asked_the_same(here):
  made, folder = here
  edited(folder)
  jobs = [(made, folder / 'run', 'run')]
  [refused] = train_cohort(jobs, folder / 'latest')
  assert isinstance(refused, InputError) and 'the rows of train' in str(refused)
  [result] = train_cohort(jobs, folder / 'latest', allow_changed=True)
  assert result['steps'] == 6


@pytest.mark.parametrize('change, says', [(two_tokens_swapped, 'the tokenizer'), (another_template, 'the chat template'),
                                          (another_alpha, 'config.json'), (edited_validation, 'the rows of valid')])
def test_what_a_run_learned_is_not_used_with_another_tokenizer_config_or_rows(here, tmp_path, change, says):
  _, folder = here
  finished(folder)
  change(folder)
  uses = {'evaluate': lambda: evaluate_one(folder / 'run', 'valid'),
          'export': lambda: export_model(folder / 'run', tmp_path / 'out', 'float32', '5GB'),
          'generate': lambda: restore.of_run(folder / 'run'),
          'peft': lambda: export_adapter(folder / 'run', tmp_path / 'out')}
  for name, use in uses.items():
    if change is edited_validation and name in ('generate', 'peft'):
      use()                                      # which read no rows
    else:
      with pytest.raises(InputError, match=f'changed since the run began: {says}'):
        use()


def test_a_few_shot_run_is_compared_with_its_base(here, tmp_path):
  made, folder = here
  made = {**made, 'strategy': {**dict.fromkeys(made['strategy']), 'name': 'few_shot', 'shots': 2, 'allow_other_base': False}}
  evaluate_one(tmp_path / 'shots', 'valid', made)
  other_weights(folder)
  forget()
  for config in (None, made):
    with pytest.raises(InputError, match="changed since the run began: the base model's weights"):
      evaluate_one(tmp_path / 'shots', 'valid', config)


def test_the_flag_of_the_verbs_allows_a_change(here):
  _, folder = here
  finished(folder)
  edited_validation(folder)
  said = verb('evaluate', f'--workdir={folder}/run', '--split=valid')
  assert said.returncode == 2 and said.stderr.count('\n') == 1 and 'the rows of valid' in said.stderr
  said = verb('evaluate', f'--workdir={folder}/run', '--split=valid', '--allow_changed')
  assert said.returncode == 0 and 'goes on although changed' in said.stderr


def missing(of):
  return of[:1] + of[2:]


def doubled(of):
  return of[:2] + of[1:]


def half(of):
  return [of[0], of[1][:20] + '\n', *of[2:]]


def swapped(of):
  return [of[1], of[0], *of[2:]]


def null(of):
  return [of[0], 'null\n', *of[2:]]


def short(of):
  return of[:2]


@pytest.mark.parametrize('change', [missing, doubled, half, swapped, null, short])
def test_metrics_that_are_not_those_of_every_step_once_are_not_gone_on_with(here, change):
  made, folder = here
  path = folder / 'run' / 'metrics.jsonl'
  path.write_text(''.join(change(lines(path)[:3])))
  with pytest.raises(InputError, match=r'metrics\.jsonl: line \d is not that of step \d, and a checkpoint resumes after'):
    train_one(made, folder / 'run')


def test_what_was_learned_with_another_tokenizer_is_not_gone_on_from(here, tmp_path):
  made, folder = here
  finished(folder)
  two_tokens_swapped(folder)
  for group in ('training', 'strategy'):
    with pytest.raises(InputError, match='what it learned is of another tokenizer'):
      train_one({**made, group: {**made[group], 'init_from': str(folder / 'run')}}, tmp_path / 'new')


@pytest.mark.parametrize('text', ['{}', 'null', '[]', '{"model": "x", "met', '{"steps": 6, "metrics": [], "cost": {}}', ''])
def test_a_damaged_result_is_named(here, text):
  made, folder = here
  (folder / 'run' / 'result.json').write_text(text)
  for use in (lambda: train_one(made, folder / 'run'), lambda: evaluate_one(folder / 'run', 'valid'),
              lambda: export_model(folder / 'run', folder / 'out', 'float32', '5GB')):
    with pytest.raises(InputError, match=r'result\.json: is damaged'):
      use()


def test_a_damaged_best_is_one_line_that_says_what_to_do(here):
  _, folder = here
  finished(folder)
  for file in (f for f in (folder / 'run' / 'checkpoints' / 'best').rglob('*') if f.is_file()):
    file.write_bytes(b'x' * file.stat().st_size)
  said = verb('evaluate', f'--workdir={folder}/run', '--split=valid')
  assert said.returncode == 2 and said.stderr.count('\n') == 1
  assert 'is damaged' in said.stderr and 'train the run again in another workdir' in said.stderr


def test_one_process_works_in_a_workdir_and_a_killed_one_leaves_no_lock(here):
  made, folder = here
  holder = subprocess.Popen([sys.executable, '-c', f"""
import time
from pathlib import Path
from research import run_files
with run_files.held(Path({str(folder / 'run')!r})):
  print('held', flush=True)
  time.sleep(600)
"""], stdout=subprocess.PIPE, text=True, cwd=ROOT)
  assert holder.stdout.readline() == 'held\n'
  before = (folder / 'run' / 'metrics.jsonl').read_text()
  with pytest.raises(InUse, match=f'process {holder.pid} on .* is at work there'):
    train_one(made, folder / 'run')
  assert (folder / 'run' / 'metrics.jsonl').read_text() == before
  (folder / 'run' / '.config.json.0123.tmp').write_text('{"mod')      # what a killed process had begun to write
  os.utime(folder / 'run' / '.config.json.0123.tmp', (0, 0))
  (folder / 'run' / '.config.json.4567.tmp').write_text('{"mod')      # what another may be writing now
  holder.kill()
  holder.wait()
  train_one(made, folder / 'run')
  assert not (folder / 'run' / '.config.json.0123.tmp').exists() and (folder / 'run' / '.config.json.4567.tmp').exists()


def test_a_lock_that_is_for_moments_is_waited_for(tmp_path):
  with open(tmp_path / '.lock', 'a') as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    waiting = subprocess.Popen([sys.executable, '-c', f"""
from pathlib import Path
from research import run_files
with run_files.held(Path({str(tmp_path)!r}), wait=True):
  print('held', flush=True)
"""], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    time.sleep(1)
    assert waiting.poll() is None
  assert waiting.communicate()[0] == 'held\n'


def bad_number(folder, value):
  path = folder / 'model' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  name = 'model.layers.1.mlp.up_proj.weight'
  tensors[name][3, 5] = value
  safetensors.numpy.save_file(tensors, path, {'format': 'pt'})


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_base_with_a_number_that_is_not_finite_is_refused_by_its_leaf(here, tmp_path, value):
  made, folder = here
  bad_number(folder, value)
  shots = {**made, 'strategy': {**dict.fromkeys(made['strategy']), 'name': 'few_shot', 'shots': 0, 'allow_other_base': False}}
  for use in (lambda: train_one(made, tmp_path / 'new'), lambda: evaluate_one(tmp_path / 'shots', 'valid', shots)):
    with pytest.raises(InputError, match='layers/mlp/up/kernel holds numbers that are not finite'):
      use()
  said = verb('generate', '--config=configs/default.py', f'--config.model.source={folder}/model', '--prompt=x',
              '--config.strategy.name=few_shot')
  assert said.returncode == 2 and 'layers/mlp/up/kernel holds numbers that are not finite' in said.stderr
  assert not (tmp_path / 'new').exists() and not (tmp_path / 'shots').exists()


@pytest.mark.quick
def test_json_files_hold_null_where_a_number_is_not_finite(tmp_path):
  run_files.write_json(tmp_path / 'x.json', {'a': float('nan'), 'b': [float('inf'), 1.0], 'c': (2, -float('inf'))})
  found = json.loads((tmp_path / 'x.json').read_text(), parse_constant=pytest.fail)
  assert found == {'a': None, 'b': [None, 1.0], 'c': [2, None]}


def without(name):
  def change(folder):
    path = folder / 'run' / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  return change


def hollow(folder):
  (folder / 'run' / 'provenance.json').write_text('{"data": {}, "model": {}}')


def of_another_step(folder):
  path = folder / 'run' / 'result.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'best_step': 2}))


@pytest.mark.parametrize('change, says', [
    (without('provenance.json'), r'without its provenance\.json, so nothing says what it was made from'),
    (hollow, r"provenance\.json: is damaged, .*: model holds no 'sha256'"),
    (without('checkpoints'), 'holds no best checkpoint'),
    (of_another_step, r'best checkpoint is of step \d, but result\.json says 2')])
def test_a_finished_run_that_has_lost_a_file_is_not_used_without_it(here, change, says):
  _, folder = here
  finished(folder)
  change(folder)
  uses = {'evaluate': '--split=valid', 'generate': '--prompt=amber:', 'export': f'--output={folder}/out'}
  for verb_, given in uses.items():
    said = verb(verb_, f'--workdir={folder}/run', given)
    assert said.returncode == 2 and said.stderr.count('\n') == 1 and re.search(says, said.stderr), said.stderr
  assert not (folder / 'out').exists()


@pytest.mark.parametrize('record', [
    '{"model": {"sha256": "x"}, "data": {}, "changed": [{}]}', '{"model": {"sha256": 5}, "data": {}}',
    '{"model": {"sha256": "x"}, "data": {}, "resumed": "x"}'])
def test_a_provenance_of_another_form_is_named(here, record):
  made, folder = here
  (folder / 'run' / 'provenance.json').write_text(record)
  with pytest.raises(InputError, match=r'provenance\.json: is damaged'):
    train_one(made, folder / 'run')


@pytest.mark.parametrize('field, value', [('valid/loss', 'x'), ('seconds', None), ('train/loss', float('nan')),
                                          ('train/tokens', [])])
def test_a_line_of_metrics_holds_numbers_alone(here, field, value):
  made, folder = here
  path = folder / 'run' / 'metrics.jsonl'
  rows = [json.loads(line) for line in lines(path)]
  path.write_text(''.join(json.dumps({**row, field: value}) + '\n' for row in rows))
  with pytest.raises(InputError, match=r'metrics\.jsonl: line 1 is not that of step 1'):
    train_one(made, folder / 'run')


def test_metrics_that_say_another_best_step_are_not_blamed_on_the_device_alone(here):
  made, folder = here
  path = folder / 'run' / 'metrics.jsonl'
  rows = [json.loads(line) for line in lines(path)]
  rows[2]['valid/loss'] = 0.1
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  shutil.rmtree(folder / 'run' / 'checkpoints' / 'best' / '3', ignore_errors=True)
  with pytest.raises(InputError, match=r'metrics\.jsonl says 3: either the file was changed'):
    train_one(made, folder / 'run')


@pytest.fixture(scope='module')
def adapter(stopped, tmp_path_factory):
  """The config of a run that begins from a VeRA adapter of another seed, whose random matrices no other draws again."""
  made, _ = stopped
  output = tmp_path_factory.mktemp('adapter')
  empty = dict.fromkeys(made['strategy'])
  vera = {**made, 'strategy': {**empty, 'name': 'vera', 'rank': 4, 'allow_other_base': False},
          'training': {**made['training'], 'seed': 7, 'steps': 3}}
  train_one(vera, output / 'run')
  export_adapter(output / 'run', output / 'adapter', base='tiny')
  return {**vera, 'strategy': {**empty, 'name': 'vera', 'init_from': str(output / 'adapter'), 'allow_other_base': False},
          'training': {**made['training'], 'steps': 3}}


def test_what_a_run_began_with_is_part_of_what_it_was_made_from(adapter, tmp_path):
  shutil.copytree(adapter['strategy']['init_from'], tmp_path / 'adapter')
  (tmp_path / 'adapter' / 'flaxtune.json').unlink()      # so that it is nobody's, and may be trained further elsewhere
  made = {**adapter, 'strategy': {**adapter['strategy'], 'init_from': str(tmp_path / 'adapter')}}
  train_one(made, tmp_path / 'run')
  evaluated = {**made, 'training': {**made['training'], 'steps': 0}}
  evaluate_one(tmp_path / 'measured', 'valid', evaluated)
  path = tmp_path / 'adapter' / 'adapter_model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file({name: x * 1.5 for name, x in tensors.items()}, path)
  (tmp_path / 'run' / 'result.json').unlink()
  for use in (lambda: train_one(made, tmp_path / 'run'), lambda: evaluate_one(tmp_path / 'measured', 'valid', evaluated)):
    with pytest.raises(InputError, match=r'changed since the run began: what strategy\.init_from holds'):
      use()


def test_matrices_that_were_drawn_are_not_drawn_again_where_they_are_lost(adapter, tmp_path):
  train_one(adapter, tmp_path / 'run')
  kept = (tmp_path / 'run' / 'fixed.safetensors').read_bytes()
  (tmp_path / 'run' / 'fixed.safetensors').unlink()
  with pytest.raises(InputError, match=r'fixed\.safetensors: no such file, and what the run learned fits only what it holds'):
    evaluate_one(tmp_path / 'run', 'valid')
  (tmp_path / 'run' / 'fixed.safetensors').write_bytes(kept)
  evaluate_one(tmp_path / 'run', 'valid')


def test_an_adapter_folder_of_ours_of_which_a_number_was_changed_is_refused(adapter, tmp_path):
  shutil.copytree(adapter['strategy']['init_from'], tmp_path / 'adapter')
  path = tmp_path / 'adapter' / 'adapter_model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  name = sorted(tensors)[0]
  tensors[name].flat[3] = 1e30
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(InputError, match=f'{re.escape(name)} is not what was written'):
    train_one({**adapter, 'strategy': {**adapter['strategy'], 'init_from': str(tmp_path / 'adapter')}}, tmp_path / 'run')


def test_the_demonstrations_of_a_few_shot_run_are_compared_however_it_is_used(here, tmp_path):
  made, folder = here
  shots = {**made, 'strategy': {**dict.fromkeys(made['strategy']), 'name': 'few_shot', 'shots': 2, 'allow_other_base': False}}
  evaluate_one(tmp_path / 'shots', 'valid', shots)
  edited(folder)
  said = [verb('evaluate', f'--workdir={tmp_path}/shots', '--split=valid'),
          verb('generate', f'--workdir={tmp_path}/shots', '--prompt=amber:')]
  assert [one.returncode for one in said] == [2, 2] and all('the rows of train' in one.stderr for one in said)


def test_numbers_that_are_not_finite_only_once_they_are_computed_are_no_score(here, tmp_path):
  made, folder = here
  path = folder / 'model' / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  tensors['model.norm.weight'][0] = 3e38
  safetensors.numpy.save_file(tensors, path, {'format': 'pt'})
  base = {**made, 'strategy': {**dict.fromkeys(made['strategy']), 'name': 'few_shot', 'shots': 0, 'allow_other_base': False}}
  with pytest.raises(InputError, match=r'of row 0 is not finite .* so nothing is scored'):
    evaluate_one(tmp_path / 'shots', 'valid', base)
  assert not (tmp_path / 'shots' / 'result.json').exists()
  said = verb('generate', '--config=default', f'--config.model.source={folder}/model', '--prompt=x',
              '--config.strategy.name=few_shot')
  assert said.returncode == 2 and 'prompt 1: the logits are not finite' in said.stderr


@pytest.mark.parametrize('change', [{'model': None}, {'training': []}, {'strategy': {'rank': 4}}, {'task': 5}])
def test_a_config_of_a_run_that_is_damaged_is_named(here, change):
  _, folder = here
  finished(folder)
  path = folder / 'run' / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  said = verb('evaluate', f'--workdir={folder}/run', '--split=valid')
  assert said.returncode == 2 and said.stderr.count('\n') == 1 and next(iter(change)) in said.stderr


def test_what_is_frozen_of_a_delta_is_saved_and_not_drawn_again(stopped, tmp_path):
  """LoRA-FA's A: with another seed another A would be drawn, and B means nothing beside it."""
  made, _ = stopped
  fields = {**dict.fromkeys(made['strategy']), 'name': 'lora_fa', 'rank': 4, 'allow_other_base': False}
  first = {**made, 'strategy': fields, 'training': {**made['training'], 'steps': 3, 'seed': 5}}
  train_one(first, tmp_path / 'first')
  expected = evaluate_one(tmp_path / 'first', 'valid')['metrics']['valid/loss']
  export_adapter(tmp_path / 'first', tmp_path / 'adapter', base='tiny')
  for name, begin in (('run', tmp_path / 'first'), ('adapter', tmp_path / 'adapter')):
    begins = {**dict.fromkeys(fields), 'name': 'lora_fa', 'init_from': str(begin), 'allow_other_base': True}
    again = {**made, 'strategy': begins, 'training': {**made['training'], 'steps': 0, 'seed': 6}}
    found = evaluate_one(tmp_path / f'of a {name}', 'valid', again)['metrics']['valid/loss']
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.quick
def test_the_fingerprint_of_the_code_is_that_of_the_whole_package(tmp_path, monkeypatch):
  here = provenance.code()
  shutil.copytree(ROOT / 'research', tmp_path / 'research', ignore=lambda folder, names: [
      n for n in names if n in ('samples', '__pycache__')])
  monkeypatch.setattr(provenance, 'PACKAGE', tmp_path / 'research')
  assert provenance.code() == here
  (tmp_path / 'research' / 'models' / 'layers.py').rename(tmp_path / 'research' / 'models' / 'others.py')
  moved = provenance.code()
  (tmp_path / 'research' / 'training' / 'losses.py').write_text('')
  assert len({here, moved, provenance.code()}) == 3
