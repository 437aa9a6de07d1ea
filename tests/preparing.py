"""Prepared folders of made rows, for the tests of `prepare`."""

import json
import random

from research import run_files, shipped
from research.preparation import settings as typed
from research.preparation.prepare import prepare
from research.preparation.words import SHINGLE, split
from research.studies import study_file

SPLITS = ('train', 'valid', 'test')


def made(**fields):
  """configs/prepare.py with other values, checked; `split__test=0.2` sets split.test."""
  config = study_file.load(shipped.path('config', 'prepare'), 'get_config')
  config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
  return typed.read(config)


def written(folder, rows, name='in.jsonl'):
  run_files.write_jsonl(folder / name, rows)
  return str(folder / name)


def read(folder):
  """Split -> its rows, and what went."""
  found = {name: [json.loads(line) for line in (folder / f'{name}.jsonl').open()] if (folder / f'{name}.jsonl').exists() else []
           for name in SPLITS}
  return found, [json.loads(line) for line in (folder / 'dropped.jsonl').open()]


def prepared(tmp_path, rows, **fields):
  report = prepare(made(**fields), [written(tmp_path, rows)], tmp_path / 'out')
  return report, *read(tmp_path / 'out')


def sentences(count, words=30, seed=0):
  """Texts of words that are made up, none like another."""
  rng = random.Random(seed)
  vocabulary = [''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=6)) for _ in range(3000)]
  return [' '.join(rng.choices(vocabulary, k=words)) for _ in range(count)]


def jaccard(a, b):
  sets = [{tuple(w[i:i + SHINGLE]) for i in range(len(w) - SHINGLE + 1)} for w in (split(a), split(b))]
  return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
