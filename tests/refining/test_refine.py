"""From a run and a log with corrections to the next version, by the command line."""

import json
import os
import random
import shutil
import signal

import pytest
from helpers import config, verb

from research import json_text, run_files
from research.experiment import restore
from research.refining import refine as refining
from research.refining import rows, versions
from research.runs.train import train_one
from research.serving import follow, log
from research.training.signals import Stopped

OLD = {'amber': 'warm', 'ember': 'warm', 'birch': 'cold', 'fjord': 'cold'}
NEW = {'no amber': 'cold', 'no birch': 'warm'}      # which a run that has learned the old words gets wrong
SECONDS = {'queued': 0.0, 'first': 0.1, 'total': 0.2}


def drawn(words, count, seed):
  rng, found = random.Random(seed), {}
  while len(found) < count:
    word = [*words][len(found) % len(words)]
    found[f'{word} {rng.randrange(10_000)}'] = words[word]
  texts = [*found]
  rng.shuffle(texts)
  return [{'text': text, 'label': found[text]} for text in texts]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder with a reference, a run that has learned from it, and a log of what it was asked about since."""
  folder = tmp_path_factory.mktemp('refine')
  old = drawn(OLD, 120, 0)
  for split, some in (('train', old[:60]), ('valid', old[60:72]), ('test', old[72:])):
    run_files.write_jsonl(folder / 'data' / f'{split}.jsonl', some)
  run_files.write_json(folder / 'data' / 'task.json', {'prompt': '{text}:', 'target': ' {label}', 'choices': ['warm', 'cold'],
                                                       'splits': ['train', 'valid', 'test']})
  train_one(config(task__name='files', task__path=str(folder / 'data'), strategy__name='full', training__steps=40,
                   training__batch_size=8, training__eval_every=40, training__checkpoint_every=0,
                   training__learning_rate=5e-3), folder / 'lora')
  writer = log.Writer(folder / 'traffic.jsonl')
  for number, row in enumerate(drawn(NEW, 60, 1)):
    writer.request(id=f'r{number}', time=float(number), model='lora', workdir='lora', endpoint='choices',
                   prompt=f'<bos>{row["text"]}:', answer='warm', tokens={'prompt': 9, 'answer': 4}, seconds=SECONDS,
                   ended='stop')
    if number % 6:
      writer.feedback(id=f'r{number}', label=row['label'])
    else:
      writer.feedback(id=f'r{number}', rating=1 if row['label'] == 'warm' else 0)
  writer.request(id='odd', time=99.0, model='lora', workdir='lora', endpoint='completions', prompt='Anything else', answer='x',
                 tokens={'prompt': 9, 'answer': 1}, seconds=SECONDS, ended='stop')
  writer.feedback(id='odd', label='warm')
  writer.close()
  return folder


def refine(folder, *given, output='lora-2'):
  return verb('refine', '--workdir=lora', '--log=traffic.jsonl', '--reference=data', f'--output={output}', '--margin=0.1',
              *given, cwd=folder)


def test_corrections_become_the_next_version_and_back(made, monkeypatch):
  """Stopped before it trains and before it compares, the same command goes on, though the log has grown meanwhile."""
  def stopped(*given, **named):
    raise Stopped(signal.SIGTERM)
  for name, left in (('train_one', 'config.json'), ('judged.judge', 'result.json')):
    with monkeypatch.context() as patch:
      patch.setattr(f'research.refining.refine.{name}', stopped)
      said = refine(made)
    assert said.returncode == 143 and 'the same command resumes' in said.stderr and (made / 'lora-2' / left).exists()
    writer = log.Writer(made / 'traffic.jsonl')
    writer.feedback(id='r0', rating=1)
    writer.close()
  assert follow.current(made / 'lora.versions' / 'current.json')[:2] == (1, 'lora')
  said = refine(made)
  assert said.returncode == 0, said.stderr
  found = json.loads((made / 'lora-2' / 'promotion.json').read_text())
  warm = sum(row['label'] == 'warm' for row in drawn(NEW, 60, 1)[::6])
  left_out = {rows.UNRATED: 10 - warm, rows.NO_MATCH: 1}
  assert found['data']['log']['left_out'] == left_out and found['data']['log']['labelled'] == 50
  assert found['data']['log']['rows'] == 50 + warm == sum(found['data']['rows']['new'].values())
  assert (found['promoted'], found['version'], found['model'], found['reasons']) == (True, 2, 'lora', [])
  assert (found['incumbent'], found['challenger']) == (str(made / 'lora'), str(made / 'lora-2'))
  for part in ('old', 'new'):
    one = found[part]
    assert one['mean'] == pytest.approx(one['challenger'] - one['incumbent']) and one['low'] <= one['mean'] <= one['high']
  assert found['old']['margin'] == 0.1 and found['old']['bound'] > -0.1 and found['old']['examples'] == 48
  assert found['new']['p'] < 0.05 and found['new']['examples'] == found['data']['rows']['new']['test'] >= 8
  first, second = said.stdout.splitlines()
  assert first.startswith('accuracy, old test rows 48: ') and second == (
      f'promoted: {made}/lora-2 is version 2 of lora in {made}/lora.versions')
  _challenger_is_an_ordinary_run(made / 'lora-2', found)
  assert follow.current(made / 'lora.versions' / 'current.json') == (2, 'lora', made / 'lora-2')
  again = refine(made)
  assert again.returncode == 0 and again.stdout == said.stdout and len(versions.history(made / 'lora.versions')) == 2
  other = refine(made, '--margin=0.2')
  assert other.returncode == 2 and 'was decided by accuracy with a margin of 0.1, not by accuracy with 0.2' in other.stderr
  _next_round_starts_from_the_current_version(made)
  back = verb('refine', '--workdir=lora-2', '--rollback', cwd=made)
  assert back.returncode == 0 and back.stdout.startswith('rolled back: version 1 of lora, ')
  assert follow.current(made / 'lora.versions' / 'current.json') == (1, 'lora', made / 'lora')
  back = verb('refine', f'--versions={made}/lora.versions', '--rollback', cwd=made)
  assert back.returncode == 2 and back.stderr.startswith('error: --rollback: version 1 is the first in ')


def _challenger_is_an_ordinary_run(workdir, found):
  """Its result is that of the comparison, from any working directory, and its predictions are those of both."""
  result = run_files.read_result(workdir)
  counts = [found[part]['examples'] for part in ('old', 'new')]
  mean = lambda who: sum(found[part][who] * count for part, count in zip(('old', 'new'), counts)) / sum(counts)
  assert result['metrics']['test/accuracy'] == pytest.approx(mean('challenger')) and result['steps'] == 40
  lines = [json_text.loads(line) for line in (workdir / 'predictions' / 'incumbent' / 'test.jsonl').open()]
  assert sum(line['accuracy'] for line in lines) / len(lines) == pytest.approx(mean('incumbent'))
  assert restore.of_run(workdir, ('test',)).task.rows('test')[-1]['text'].startswith('no ')
  there, here = (run_files.read_config(one) for one in (workdir.with_name('lora'), workdir))
  changed = {field for field in json_text.flat(here) if json_text.flat(here)[field] != json_text.flat(there)[field]}
  assert changed == {'task.path', 'training.init_from'}


def _next_round_starts_from_the_current_version(folder):
  """An older version is not refined over the current one."""
  said = refine(folder, output='lora-3')
  assert said.returncode == 2 and 'its current version is' in said.stderr and not (folder / 'lora-3').exists()


def changed(path, **fields):
  config = json.loads(path.read_text())
  for name, value in fields.items():
    group, field = name.split('__')
    config[group][field] = value
  path.write_text(json.dumps(config))


def another(folder, name, **fields):
  """A copy of the run with something else in its config."""
  shutil.copytree(folder / 'lora', folder / name, dirs_exist_ok=True)
  changed(folder / name / 'config.json', **fields)


def unfinished(folder):
  another(folder, 'going')
  (folder / 'going' / 'result.json').unlink()


def untrained(folder):
  another(folder, 'shots', strategy__name='few_shot')
  path = folder / 'shots' / 'result.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'steps': 0}))


def taken(folder):
  (folder / 'taken').mkdir()
  (folder / 'taken' / 'mine.txt').write_text('mine')


def not_ours(folder):
  (folder / 'other.jsonl').write_text('{"a": 1}\n')


def silent(folder):
  kept = [line for line in (folder / 'traffic.jsonl').read_text().splitlines(True) if '"feedback"' not in line]
  (folder / 'silent.jsonl').write_text(''.join(kept))


def other_columns(folder):
  shutil.copytree(folder / 'data', folder / 'questions')
  (folder / 'questions' / 'test.jsonl').write_text('{"question": "x", "label": "warm"}\n')


@pytest.mark.parametrize('makes, given, says', [
    (not_ours, ['--log=other.jsonl'], '--log=other.jsonl line 1: not of a log that `research.serve` writes'),
    (None, ['--log=none.jsonl'], '--log=none.jsonl: cannot be read (No such file or directory)'),
    (silent, ['--log=silent.jsonl'], '--log=silent.jsonl: holds 61 requests, and no feedback on any; nothing can be learned'),
    (other_columns, ['--reference=questions'], "--reference=questions: its rows are not what the run has learned: task files, "
     "test row 1: no column 'text', which the template names"),
    (None, ['--reference=lora'], '--reference=lora: holds no task.json; give a folder that research.prepare made'),
    (unfinished, ['--workdir=going'], 'going: the run is not finished; the same research.train command resumes it'),
    (None, ['--workdir=data'], 'config.json: no such file; is data the workdir of a run?'),
    (untrained, ['--workdir=shots'], '--workdir=shots: its strategy few_shot was not trained, so there is nothing to train on'),
    (taken, ['--output=taken'], '--output=taken: exists and is not what this command began; give another folder'),
    (None, ['--output=lora'], "--output=lora: is the incumbent's own; give another folder"),
    (None, ['--margin=0'], '--margin=0.0: must be above 0 and below 1, the range of accuracy'),
    (None, ['--margin=1.5'], '--margin=1.5: must be above 0 and below 1'),
    (None, ['--metric=bleu'], '--metric=bleu: the task of the run measures accuracy, macro_f1, loss'),
    (None, ['--old_share=1'], '--old_share=1.0: must be at least 0 and below 1'),
    (None, ['--test_share=0'], '--test_share=0.0: must be above 0'),
    (None, ['--steps=5', '--epochs=1'], '--steps and --epochs: give one of them'),
    (None, ['--steps=0'], '--steps=0: must be 1 or more'),
    (None, ['--learning_rate=0'], '--learning_rate=0.0: must be above 0'),
    (taken, ['--versions=taken'], '--versions=taken: exists and holds no history.jsonl; give another folder'),
    (None, ['--rollback'], '--log: does not go with --rollback')])
def test_what_cannot_be_refined_is_one_line_and_nothing_is_written(made, tmp_path, makes, given, says):
  folder = tmp_path / 'x'
  shutil.copytree(made, folder, ignore=shutil.ignore_patterns('lora-2', 'lora.versions', 'tensorboard'))
  changed(folder / 'lora' / 'config.json', task__path=str(folder / 'data'))
  path = folder / 'lora' / 'provenance.json'      # the config's hash is of a place that is another now
  path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != 'config'}))
  if makes:
    makes(folder)
  files = lambda: {os.path.join(at, name): os.stat(os.path.join(at, name)).st_mtime_ns for at, _, names in os.walk(folder)
                   for name in names}
  before = files()
  own = {one.partition('=')[0] for one in given}
  usual = {'--workdir': 'lora', '--log': 'traffic.jsonl', '--reference': 'data', '--output': 'out'}
  said = verb('refine', *(f'{name}={value}' for name, value in usual.items() if name not in own), *given, cwd=folder)
  last = said.stderr.splitlines()[-1]
  assert said.returncode == 2 and last.startswith('error: ') and says in last and 'Traceback' not in said.stderr
  assert files() == before and not (folder / 'out').exists()


def test_an_output_that_another_command_began_is_not_gone_on_with(made, monkeypatch):
  monkeypatch.setattr(refining, 'train_one', lambda *given, **named: pytest.fail('it trains'))
  (made / 'begun' / 'data').mkdir(parents=True)
  run_files.write_json(made / 'begun' / 'data' / 'refine.json', {'asked': {'steps': 3}, 'rows': {'old': {}, 'new': {}}})
  said = refine(made, output='begun')
  assert said.returncode == 2 and '--output=begun: was begun by another command (' in said.stderr
  assert '--steps=3 there' in said.stderr
