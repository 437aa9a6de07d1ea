"""Compiled programs are kept on disk."""

import json
import os
import subprocess
import sys

from small import ROOT

from research import workdir as files

TRAIN = ('-m', 'research.train', '--config=configs/default.py', '--config.model.source=random:llama-tiny',
         '--config.training.steps=2')


def train(workdir, **environment):
  kept = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
  return subprocess.run([sys.executable, *TRAIN, f'--workdir={workdir}'], cwd=ROOT, env=kept | environment, capture_output=True,
                        text=True)


def test_a_second_process_compiles_nothing_and_computes_the_same(tmp_path):
  kept = lambda: sorted(path.name for path in (tmp_path / 'flaxtune' / 'jax').iterdir())
  losses = lambda name: [json.loads(line)['train/loss'] for line in (tmp_path / name / files.METRICS).read_text().splitlines()]
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
