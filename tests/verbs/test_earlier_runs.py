"""Runs that an earlier state of the library left are resumed, evaluated and exported to the numbers that it found.

`tests/fixtures/runs_of_0.2.tar.xz` holds five of them (commit 4ab55a0, before the rooms were redrawn): six steps of LoRA, VeRA,
(IA)³ and an adapter on tiny models, and few-shot prompting, each with the checkpoint of step 3 to resume from.
"""

import json
import tarfile

import pytest
from helpers import ROOT

from research.deployment.export import export_adapter, export_model
from research.runs.evaluate import evaluate_one
from research.runs.train import train_one

RUNS = ('lora', 'vera', 'ia3', 'adapter', 'few')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('earlier')
  with tarfile.open(ROOT / 'tests' / 'fixtures' / 'runs_of_0.2.tar.xz') as packed:
    packed.extractall(folder, filter='data')
  return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
  monkeypatch.chdir(folder)      # where their rows lie


def result(folder, name):
  return json.loads((folder / 'runs' / name / 'result.json').read_text())


@pytest.mark.parametrize('name', RUNS)
def test_an_earlier_run_is_evaluated_to_the_same_numbers(folder, name):
  before = result(folder, name)['metrics']
  assert evaluate_one(folder / 'runs' / name, 'test')['metrics'] == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize('name, scan', [('lora', 'auto'), ('vera', False)])      # then there was True alone
def test_an_earlier_run_is_resumed_to_the_same_end(folder, name, scan):
  before = result(folder, name)
  (folder / 'runs' / name / 'result.json').unlink()
  config = {**json.loads((folder / 'runs' / name / 'config.json').read_text()), 'check_memory': False}
  config['model']['scan'] = scan
  after = train_one(config, folder / 'runs' / name)
  assert (after['best_step'], after['steps']) == (before['best_step'], before['steps'])
  assert after['metrics'] == pytest.approx({name: x for name, x in before['metrics'].items() if name.startswith('valid')},
                                           abs=1e-5)


def test_an_earlier_run_is_exported(folder, tmp_path):
  assert export_model(folder / 'runs' / 'lora', tmp_path / 'whole', 'float32', '5GB')['largest_logit_difference'] < 1e-4
  assert export_adapter(folder / 'runs' / 'ia3', tmp_path / 'adapter', base='tiny')['strategy']['name'] == 'ia3'
