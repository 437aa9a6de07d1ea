"""What is chosen because of the machine, and compiled programs, which are kept on disk."""

import json
import os

import pytest
from helpers import as_flags, process, reviews

from research import run_files
from research.distributed import device


def train(workdir, **environment):
  kept = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
  fields = {'model__source': 'random:llama-tiny', 'training__steps': 2, **reviews(train=8, valid=2)}
  return process('train', '--config=configs/default.py', f'--workdir={workdir}', *as_flags(fields), env=kept | environment)


def test_a_second_process_compiles_nothing_and_computes_the_same(tmp_path):
  kept = lambda: sorted(path.name for path in (tmp_path / 'flaxtune' / 'jax').iterdir())
  lines = lambda name: (tmp_path / name / run_files.METRICS).read_text().splitlines()
  losses = lambda name: [json.loads(line)['train/loss'] for line in lines(name)]
  assert train(tmp_path / 'first', XDG_CACHE_HOME=str(tmp_path)).returncode == 0
  first = kept()
  assert any('train_step' in name or 'lambda' in name for name in first)
  assert train(tmp_path / 'second', XDG_CACHE_HOME=str(tmp_path)).returncode == 0
  assert kept() == first and losses('second') == losses('first')


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path):
  (tmp_path / 'file').write_text('')
  ended = train(tmp_path / 'run', XDG_CACHE_HOME=str(tmp_path / 'file'))
  [line] = ended.stderr.splitlines()
  assert ended.returncode == 2 and line.startswith('error: ') and 'set JAX_COMPILATION_CACHE_DIR' in line
  assert train(tmp_path / 'run', XDG_CACHE_HOME=str(tmp_path / 'file'), JAX_ENABLE_COMPILATION_CACHE='false').returncode == 0


@pytest.mark.quick
@pytest.mark.parametrize('vendor, flags, does', [
    ('GenuineIntel', 'avx2 avx512f avx512_bf16 amx_bf16', True), ('GenuineIntel', 'avx2 avx512f avx512_bf16', False),
    ('AuthenticAMD', 'avx2 avx512f avx512_bf16', True), ('AuthenticAMD', 'avx2', False), ('', '', False)])
def test_processors_with_amx_and_amds_with_avx512s_instruction_multiply_bfloat16(monkeypatch, vendor, flags, does):
  monkeypatch.setattr(device, '_of_processor', {'vendor_id': vendor, 'flags': flags}.__getitem__)
  assert device._processor_multiplies_bfloat16.__wrapped__() == does
