"""Which arm is better over all: tasks are the sample, and the report says so."""

import itertools
import shutil

import numpy as np
import pytest
import simulated
from helpers import reviews, verb
from scipy import stats
from simulated import POINT
from test_findings import study

from research import run_files
from research.evaluation import crossed, metrics
from research.studies import across, overall, statistics

ACCURACY = metrics.get('accuracy')


def drawn(rng, studies, arms, tasks, seeds=3, examples=100, suits=4 * POINT, better=0.0):
  """Right or wrong, [studies, tasks, arms, seeds, examples]: a task is hard for all arms or easy, and suits some of them."""
  normal = lambda *shape: rng.standard_normal((studies, tasks, *shape))
  gain = np.zeros((arms, 1, 1))
  gain[0] = better
  chance = 0.65 + gain + (suits * normal(arms, 1, 1) + POINT * normal(arms, seeds, 1) + 0.08 * normal(1, 1, 1)
                          + 0.2 * normal(1, 1, examples))
  return (rng.random((studies, tasks, arms, seeds, examples), np.float32) < chance.clip(0, 1)).astype(float)


def over_tasks(values):
  """As `simulated.tested`, of [studies, tasks, arms, seeds, examples]."""
  arms, by_task = values.shape[2], values.mean((3, 4)).swapaxes(1, 2)
  found = crossed.fit(np.stack([by_task, by_task], -1), [True] * arms, 0.0)
  of_tasks = crossed.fit(values, [True] * arms, 1.0)
  p, covered = [], []
  for one, other in itertools.combinations(range(arms), 2):
    within = overall.measured(of_tasks, one, other).mean(1)
    deviation, freedom = overall.difference(found, one, other, within)
    p_of_0 = 2 * deviation.beyond(abs(by_task[:, one].mean(1) - by_task[:, other].mean(1)))
    p.append(np.where(freedom > 1, p_of_0, np.nan))
    covered.append(p_of_0)
  return np.stack(p, 1), np.stack(covered, 1)


@pytest.mark.quick
@pytest.mark.parametrize('arms, tasks, suits', [(2, 5, 4), (2, 10, 4), (4, 6, 4), (4, 3, 4), (4, 8, 3)])
def test_tasks_keep_the_level_and_examples_of_all_tasks_together_do_not(arms, tasks, suits):
  rng = np.random.default_rng(5)
  by = {'tasks': [], 'examples': []}
  for _ in range(20):
    values = drawn(rng, 50, arms, tasks, suits=suits * POINT)
    by['tasks'].append(over_tasks(values))
    by['examples'].append(simulated.tested(np.moveaxis(values, 1, 3).reshape(50, arms, 3, -1)))
  for name, found in by.items():
    p, covered = (np.concatenate(one) for one in zip(*found))
    told, held = simulated.holm(p).any(1).mean(), (covered > 0.05).mean()
    print(f'{arms} arms, {tasks} tasks, by {name}: told apart {100 * told:.1f} %, held {100 * held:.1f} %')
    if name == 'tasks':
      assert 0.02 <= told <= 0.06 and 0.92 <= held <= 0.98
    else:
      assert told > 0.09 and held < 0.92


def scores(values, arms):
  """What arms scored on one task, of [arms, seeds, examples]."""
  sums = {arm: [np.stack([one, np.ones(len(one))], 1) for one in of_seeds] for arm, of_seeds in zip(arms, values)}
  return statistics.scores(ACCURACY, sums, arms)


def answered(values, models=('m',), looks=1, missing=()):
  """`overall` of a study with these scores, [tasks (x models), arms, seeds, examples]; missing: arms that the first lacks."""
  names = [f'arm {number}' for number in range(values.shape[1])]
  kept = [number for number in range(len(names)) if number not in missing]
  cases = [(models[number % len(models)], f't{number // len(models)}',
            scores(one[kept], [names[n] for n in kept]) if number == 0 else scores(one, names))
           for number, one in enumerate(values)]
  return overall.of_cases(study(names), ACCURACY, cases, looks).get('overall')


@pytest.mark.quick
def test_of_two_arms_it_is_a_paired_t_test_over_tasks():
  [values] = drawn(np.random.default_rng(6), 1, 2, 7, suits=20 * POINT)
  found = answered(values)
  by_task = values.mean((2, 3))
  expected = stats.ttest_rel(by_task[:, 0], by_task[:, 1])
  low, high = expected.confidence_interval(0.95)
  [pair] = found['pairs']
  assert pair['p'] == pytest.approx(expected.pvalue, rel=2e-2) and pair['p_adjusted'] == pair['p']
  assert (pair['low'], pair['high']) == pytest.approx((low, high), rel=1e-2)
  each = by_task[:, 0] - by_task[:, 1]
  assert (pair['ahead'], pair['behind']) == ((each > 0).sum(), (each < 0).sum())
  assert found['arms'][1]['difference']['mean'] == -pair['mean'] and found['arms'][0]['difference'] is None
  assert found['arms'][0]['by_unit'] == pytest.approx(by_task[:, 0].tolist())


@pytest.mark.quick
def test_tests_are_corrected_over_all_pairs_and_a_large_difference_is_found():
  [values] = drawn(np.random.default_rng(7), 1, 4, 8, better=15 * POINT)
  found = answered(values)
  assert all(x['p_adjusted'] >= x['p'] for x in found['pairs']) and len(found['pairs']) == 6
  first, *others = found['arms']
  assert first['group'] == 'a' and all('a' not in a['group'] for a in others)
  twice = answered(values, looks=2)['pairs'][0]
  assert twice['p_adjusted'] == pytest.approx(2 * found['pairs'][0]['p_adjusted'])
  assert all(x['p'] is x['p_adjusted'] is None for x in answered(values, looks=0)['pairs'])      # an interim report


@pytest.mark.quick
def test_models_are_averaged_within_tasks_and_stand_in_their_place_where_there_is_one_task():
  [values] = drawn(np.random.default_rng(8), 1, 3, 6)
  found = answered(values, models=('m', 'n'))
  assert found['over'] == 'tasks' and found['units'] == ['t0', 't1', 't2'] and found['models'] == ['m', 'n']
  assert found['arms'][1]['by_unit'] == pytest.approx(values[:, 1].mean((1, 2)).reshape(3, 2).mean(1).tolist())
  alone = answered(values[:2], models=('m', 'n'))
  assert alone['over'] == 'models' and alone['units'] == ['m', 'n'] and alone['pairs'][0]['p'] is not None
  assert answered(values[:1]) is None


@pytest.mark.quick
def test_two_tasks_tell_two_arms_apart_by_no_test_and_what_is_missing_somewhere_is_left_out():
  [values] = drawn(np.random.default_rng(9), 1, 3, 2)
  found = answered(values, missing=(2,))
  assert found['missing'] == ['arm 2'] and [a['arm'] for a in found['arms']] == ['arm 0', 'arm 1']
  assert found['pairs'][0]['p'] is None and not any(a['group'] for a in found['arms'])
  assert found['pairs'][0]['high'] - found['pairs'][0]['low'] > 0.2


def test_a_study_of_three_tasks_answers_over_all_and_by_task(tmp_path):
  fields = {name.removeprefix('task__'): value for name, value in reviews(train=8, valid=6, test=12).items()}
  tasks = [{**fields, 'label': 'tone'},
           {**fields, 'label': 'site', 'target': ' {domain}', 'choices': ('amazon', 'imdb', 'yelp')},
           {**fields, 'label': 'is it', 'prompt': '{text} It is'}]
  study = {
      'question': 'Which over all?', 'base': 'configs/quickstart.py', 'models': ['random:llama-tiny'], 'tasks': tasks,
      'arms': {name: {'strategy': {'name': 'few_shot', 'shots': n}} for n, name in enumerate(('bare', 'one', 'two'))},
      'seeds': [0, 1], 'select': 'valid/accuracy', 'report': 'test/accuracy', 'baseline': 'bare', 'extend': 0}
  (tmp_path / 'study.py').write_text(f'def get_study():\n  return {study!r}\n')
  said = verb('study', f'--study={tmp_path}/study.py', f'--workdir={tmp_path}/w')
  assert said.returncode == 0, said.stderr
  assert 'Over all tasks: Highest test/accuracy over all: ' in said.stdout
  found = run_files.read_json(tmp_path / 'w' / 'comparison.json')
  o, cs = found['overall'], found['comparisons']
  assert o['over'] == 'tasks' and o['units'] == ['tone', 'site', 'is it'] and len(o['pairs']) == 3
  for a in o['arms']:
    assert a['by_unit'] == pytest.approx([next(x['mean'] for x in c['arms'] if x['arm'] == a['arm']) for c in cs])
    assert a['low'] <= a['mean'] <= a['high'] and a['mean'] == pytest.approx(np.mean(a['by_unit']))
  markdown, page = ((tmp_path / 'w' / name).read_text() for name in ('report.md', 'report.html'))
  assert '| arm | tone | site | is it | over all [95 %] | group | difference over all [95 %] |' in markdown
  assert '## Over all tasks' in markdown.split('## tone')[0] and '<h2>Over all tasks</h2>' in page
  assert 'With 3 tasks little can be known of others' in markdown and 'The 3 tasks are a sample: ' in markdown
  assert 'draws of demonstrations | 2 |' in markdown      # which are shown, and in which order, is a sample too
  shutil.rmtree(tmp_path / 'w' / 'runs')
  assert verb('study', '--report_only', f'--workdir={tmp_path}/w').returncode == 0
  assert run_files.read_json(tmp_path / 'w' / 'comparison.json')['overall']['arms'] == o['arms']
  assert across.part({**found, 'overall': None}) is None
