"""The benchmark commands run, on a tiny model, and say what they promise."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT

from research.programs import flops

TINY = ['--model=random:llama-tiny', '--precisions=float32']


def rows(name, *arguments):
  done = subprocess.run([sys.executable, '-m', f'experiments.benchmarks.{name}', *arguments], cwd=ROOT, capture_output=True,
                        text=True)
  assert done.returncode == 0, done.stderr
  machine, *found = map(json.loads, done.stdout.splitlines())
  assert machine['benchmark'] == name and int(machine['cores']) >= 1 and machine['jax']
  return found


@pytest.mark.parity
def test_step_takes_turns_with_peft():
  found = rows('step', *TINY, '--strategies=forward,lora', '--rounds=2', '--length=32', '--against=peft',
               '--layouts=scanned,unrolled')
  assert [row['row'] for row in found] == [one for s in ('forward', 'lora') for one in (
      'matrix peak', f'{s} float32 scanned', f'{s} float32 unrolled')]
  for row in found:
    if row['row'] == 'matrix peak':
      peak = row['gflops_per_second']
      continue
    assert row['rounds'] == 2 and row['middle_half'][0] <= row['ratio'] <= row['middle_half'][1]
    assert row['of_peak'] == pytest.approx(row['gflops'] / row['seconds'] / peak, rel=0.2, abs=1e-2) and row['of_peak'] <= 1


@pytest.mark.quick
def test_a_share_of_the_peak_is_never_above_one(monkeypatch):
  rates = iter([50.0, 40.0, 90.0, *[10.0] * 40])      # a disturbed measurement, and better ones after it
  monkeypatch.setattr(flops, '_peaks', {})
  monkeypatch.setattr(flops, '_product_rate', lambda dtype: next(rates))
  assert flops.matrix_peak('float32') == 50 and flops.matrix_peak('float32', 45) == 50
  assert flops.matrix_peak('float32', 80) == 90      # measured again, as a program was faster
  assert flops.matrix_peak('float32', 95) == 95 and flops.matrix_peak('float32') == 95


@pytest.mark.parity
def test_decode_says_what_transformers_says():
  for row in rows('decode', *TINY, '--batches=1,3', '--rounds=1', '--new=8', '--prompt=16', '--against=peft'):
    assert row['same'] == 1 and row['tokens_per_second'] > 0


@pytest.mark.parity
def test_epoch_reaches_the_loss_that_trainer_reaches():
  ours, theirs = rows('epoch', '--model=random:llama-tiny', '--rows=32', '--held_out=16', '--against=peft')
  assert ours['ratio'] == pytest.approx(theirs['seconds'] / ours['seconds'], rel=1e-2)
  assert ours['valid_loss'] == pytest.approx(theirs['valid_loss'], rel=1e-2)


def test_start_is_cold_once_and_warm_afterwards():
  cold, warm = rows('start', '--override=model.source=random:llama-tiny', '--override=training.batch_size=2', '--rounds=1')
  assert cold['compiled'] > 0 == warm['compiled'] and cold['seconds'] > 0 < warm['seconds']


def test_memory_is_measured_in_a_process_of_its_own():
  [row] = rows('memory', *TINY, '--strategies=lora', '--layouts=scanned', '--length=32')
  assert row['step_bytes'] > 0 and row['process_bytes'] > 0


def test_serving_is_measured_with_several_deltas_offline_and_beside_answers():
  found = rows('serving', '--model=random:llama-tiny', '--deltas=2', '--requests=3', '--running=2', '--prompt=8', '--new=4',
               '--rounds=1')
  assert [row['row'] for row in found] == ['deltas', 'offline', 'first token']
  assert all(row['ratio'] > 0 and row['rounds'] == 1 for row in found)
  assert found[0]['tokens_per_second'] == found[1]['tokens_per_second'] == pytest.approx(12 / found[0]['seconds'], rel=0.02)


def test_a_cohort_takes_turns_with_its_members():
  [row] = rows('cohort', '--model=random:llama-tiny', '--rows=3:1x32', '--rounds=2')
  assert row['row'] == 'lora 3 x 1 x 32' and row['rounds'] == 2 and row['ratio'] > 0 and row['chosen'] in (1, 3)
  assert row['alone_peak_bytes'] < row['peak_bytes'] < 3 * row['alone_peak_bytes']


def test_prepare_finds_what_is_planted_and_says_what_more_rows_would_take():
  found = {row.pop('row'): row for row in rows('prepare', '--sizes=300,600', '--planted=400', '--personal=60')}
  assert found['near duplicates']['recall'] == found['near duplicates']['precision'] == 1
  assert found['near duplicates']['dropped_below_half'] == 0
  leaks = found['leaks']
  assert leaks['exact_recall'] == leaks['near_recall'] == leaks['ngram_recall'] == leaks['precision'] == 1
  assert all(found[f'personal data: {kind}']['planted'] > 0 for kind in ('email', 'phone', 'card', 'iban', 'ip', 'key'))
  assert found['300 rows']['read'] == 300 and found['600 rows']['dropped']['exact_duplicate'] == 30
  assert found['600 rows']['resident_bytes'] > 1e8 and found['planned: 10,000,000 rows'].keys() == {
      'seconds', 'personal_seconds', 'resident_bytes'}
