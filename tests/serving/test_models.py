"""The runs that answer: by name, of one base that is in memory once, and finished."""

import json
import os
from pathlib import Path

import jax
import pytest
from helpers import by_heart
from serving.fleets import answered, engine, request, tokens

from research import run_files
from research.errors import InputError
from research.evaluation import decode
from research.runs.train import train_one
from research.serving import models


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder of finished runs: two LoRAs, one of another base, and one that is not finished."""
  folder = tmp_path_factory.mktemp('runs')
  other = {'model__source': 'random:gpt2-tiny'}
  for name, more in (('low', {'strategy__rank': 2}), ('high', {'strategy__rank': 3}), ('other', other)):
    train_one(by_heart(folder, training__steps=2, training__eval_every=2, task__max_new_tokens=4, **more), folder / name)
  (folder / 'begun').mkdir()
  (folder / 'begun' / 'config.json').write_text((folder / 'low' / 'config.json').read_text())
  return folder


def test_runs_share_a_base_that_is_in_memory_once_and_answer_as_they_do_alone(trained):
  runs = models.load(models.named([trained / 'low', trained / 'high'], None))
  served, groups = models.group(runs)
  assert [one.name for one in served] == ['low', 'high'] and len(groups) == 1 and [one.number for one in served] == [0, 1]
  first, second = (jax.tree.leaves(one.variables['params']) for one in runs)
  assert all(x is y for x, y in zip(first, second))
  assert all(x.unsafe_buffer_pointer() == y.unsafe_buffer_pointer()
             for x, y in zip(jax.tree.leaves(groups[0].variables['params']), first))
  found = answered(engine(runs), [request(one, 'amber:', limit=4) for one in runs])
  for one, events in zip(runs, found):
    [wanted] = decode.generate(one.exp.model, one.variables, [one.exp.tokenizer.prompt('amber:')], 4, one.exp.tokenizer.ends, 1)
    assert [token.id for token in tokens(events)] == wanted
  assert served[0].created > 1e9


@pytest.mark.parametrize('names, says', [
    (['low', 'other'], r'low and .*other: are of different bases \(base model: random:llama-tiny and random:gpt2-tiny\)'),
    (['begun'], r'begun: the run is not finished; the same research.train command resumes it'),
    (['nothing'], r'nothing/config.json: no such file'), (['.'], r'config.json: no such file; is .* the workdir of a run\?')])
def test_runs_that_cannot_be_served_are_refused_in_one_line(trained, names, says):
  with pytest.raises(InputError, match=says) as e:
    models.load(models.named([trained / name for name in names], None))
  assert '\n' not in str(e.value)


def line(key, seed=0, **more):
  return {'key': key, 'model': 'm', 'task': 't', 'arm': 'lora', 'seed': seed, 'selected': True, **more}


@pytest.mark.quick
def test_a_studys_chosen_runs_are_named_by_arm_and_where_it_has_several_by_task(tmp_path):
  wanted = lambda: [(name, str(path.relative_to(tmp_path.resolve()))) for name, path in models.named([], tmp_path)]
  write = lambda *lines: run_files.write_jsonl(tmp_path / 'results.jsonl', [*lines])
  write(line('one', 1), line('two', 0), line('three', 0, arm='full'), line('four', 0, arm='ia3', selected=False))
  assert wanted() == [('lora', 'runs/two'), ('full', 'runs/three')]
  write(line('one'), line('two', task='u'))
  assert wanted() == [('t/lora', 'runs/one'), ('u/lora', 'runs/two')]


@pytest.mark.quick
@pytest.mark.parametrize('lines, says', [
    (None, 'holds no results.jsonl; is it the workdir of a study that has ended'),
    ([line('a', selected=False)], 'none of its runs is chosen yet; the same research.study command resumes it'),
    ([line('a'), line('b', model='n')], r'is of several base models \(m, n\), and a server has one; give --workdir of each'),
    ([{'key': 'a'}], 'results.jsonl')])
def test_a_study_that_cannot_be_served_is_refused(tmp_path, lines, says):
  if lines is not None:
    (tmp_path / 'results.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
  with pytest.raises(InputError, match=says):
    models.named([], tmp_path)


@pytest.mark.quick
def test_two_runs_of_one_name_are_refused(tmp_path, monkeypatch):
  for place in ('a/run', 'b/run'):
    (tmp_path / place).mkdir(parents=True)
  with pytest.raises(InputError, match=r"a/run and .*b/run: both would be the model 'run'; rename one of the folders"):
    models.named([tmp_path / 'a/run', tmp_path / 'b/run'], None)
  monkeypatch.chdir(tmp_path / 'a')
  assert models.named([Path('run')], None) == [('run', Path(os.path.realpath('run')))]
