"""Templates of a prompt are a sample: levels and intervals hold where templates suit arms differently, and a whole study."""

import json
import shutil

import numpy as np
import pytest
import simulated
from helpers import reviews, verb
from scipy import stats
from simulated import POINT

from research import run_files
from research.evaluation import crossed, harness, intervals, metrics, templates
from research.runs.train import train_one
from research.studies import outcomes, statistics, varied

PROMPTS = ('Review: {text}\nSentiment:', '{text} I find this', 'Is "{text}" good? It is')


def drawn(rng, studies, arms, seeds, count, examples, suits=3 * POINT, spread=2 * POINT):
  """Right or wrong, [studies, arms, seeds, templates, examples]: a template is hard for all arms, and suits some of them."""
  normal = lambda *shape: rng.standard_normal((studies, *shape))
  chance = 0.7 + (spread * normal(arms, seeds, 1, 1) + suits * (normal(arms, 1, count, 1) + normal(1, 1, count, 1))
                  + 0.1 * normal(1, 1, count, examples) + 0.2 * normal(1, 1, 1, examples))
  return (rng.random((studies, arms, seeds, count, examples), np.float32) < chance.clip(0, 1)).astype(float)


def by_templates(values):
  """As `simulated.tested`, of [studies, arms, seeds, templates, examples]."""
  found, means = crossed.fit_templates(values, [True] * values.shape[1], 1.0), values.mean((2, 3, 4))
  p, covered = [], []
  for one in range(values.shape[1]):
    for other in range(one + 1, values.shape[1]):
      deviation, freedom = crossed.difference(found, one, other)
      p_of_0 = 2 * deviation.beyond(abs(means[:, one] - means[:, other]))
      p.append(np.where(freedom > 1, p_of_0, np.nan))
      covered.append(p_of_0)
  return np.stack(p, 1), np.stack(covered, 1)


@pytest.mark.quick
@pytest.mark.parametrize('arms, seeds, count, suits', [(2, 3, 5, 6), (2, 5, 8, 3), (4, 3, 3, 5), (4, 3, 4, 3), (4, 5, 5, 4)])
def test_templates_keep_the_level_and_prompts_taken_for_examples_do_not(arms, seeds, count, suits):
  rng = np.random.default_rng(5)
  by = {'templates': [], 'examples': []}
  for _ in range(25):
    values = drawn(rng, 40, arms, seeds, count, 200, suits * POINT)
    by['templates'].append(by_templates(values))
    by['examples'].append(simulated.tested(values.reshape(40, arms, seeds, -1)))
  for name, found in by.items():
    p, covered = (np.concatenate(one) for one in zip(*found))
    told, held = simulated.holm(p).any(1).mean(), (covered > 0.05).mean()
    print(f'{arms} x {seeds} x {count} templates, by {name}: told apart {100 * told:.1f} %, held {100 * held:.1f} %')
    if name == 'templates':
      assert 0.02 <= told <= 0.06 and 0.92 <= held <= 0.98
    else:
      assert told > 0.09 and held < 0.92


@pytest.mark.quick
def test_of_one_seed_the_test_is_about_other_templates_and_examples():
  rng = np.random.default_rng(6)
  found = [by_templates(drawn(rng, 50, 2, 1, 5, 200, spread=0.0)) for _ in range(60)]
  p, covered = (np.concatenate(one) for one in zip(*found))
  told, held = (p < 0.05).mean(), (covered > 0.05).mean()
  print(f'one seed: told apart {100 * told:.1f} %, held {100 * held:.1f} %')
  assert 0.02 <= told <= 0.06 and 0.92 <= held <= 0.98


@pytest.mark.quick
def test_one_runs_interval_holds_the_truth_over_templates_and_not_over_examples_alone():
  rng, metric, held = np.random.default_rng(7), metrics.get('accuracy'), {True: 0, False: 0}
  over = templates.over(metric, 6)
  for values in drawn(rng, 500, 1, 1, 6, 200, spread=0.0)[:, 0, 0]:
    flat = np.stack([values.ravel(), np.ones(values.size)], 1)
    alone = templates.side_by_side(flat, 6)
    found = {True: templates.interval(over, alone), False: intervals.interval(metric, flat)}
    truth = 0.6917                                       # 0.7, less what is cut off at 1
    for by, (low, high) in found.items():
      held[by] += low <= truth <= high
  print({by: count / 500 for by, count in held.items()})
  assert 0.92 <= held[True] / 500 <= 0.98 and held[False] / 500 < 0.9


@pytest.mark.quick
def test_where_all_values_of_a_template_are_alike_it_is_a_t_test_over_templates():
  rng = np.random.default_rng(8)
  scores = rng.normal(0.5, 0.05, (2, 1, 6, 1)) + np.zeros(50)
  deviation, freedom = crossed.difference(crossed.fit_templates(scores, [True, True], 0.0), 0, 1)
  low, high = stats.ttest_rel(*scores[:, 0, :, 0]).confidence_interval(0.95)
  assert freedom == 5 and deviation.half() == pytest.approx((high - low) / 2, rel=2e-2)


@pytest.mark.quick
def test_components_are_those_that_were_drawn():
  rng, K, S, n = np.random.default_rng(9), 12, 12, 400
  normal = lambda *shape: rng.standard_normal(shape)
  found = []
  for _ in range(30):
    values = (0.02 * normal(S, 1, 1) + 0.03 * normal(1, K, 1) + 0.2 * normal(1, 1, n) + 0.02 * normal(S, K, 1)
              + 0.1 * normal(1, K, n) + 0.1 * normal(S, 1, n) + 0.3 * normal(S, K, n))
    fit = crossed.fit_templates(np.stack([values, values]), [True] * 2, 0.0)
    found.append(crossed.components(fit, lambda x: x[0, 0]))
  for name, true in (('seeds', 0.02), ('templates', 0.03), ('examples', 0.2)):
    assert np.mean([one[name].variance for one in found]) == pytest.approx(true ** 2, rel=0.25)
    assert np.mean([one[name].low <= true ** 2 <= one[name].high for one in found]) >= 0.85


@pytest.mark.quick
@pytest.mark.parametrize('name', ['accuracy', 'macro_f1', 'loss'])
def test_a_score_is_the_mean_of_the_scores_under_each_template(name):
  rng, metric = np.random.default_rng(10), metrics.get(name)
  scored = [metrics.Scored('ab'[rng.integers(2)], 'ab'[row % 2], float(rng.random()), 2, ('a', 'b')) for _ in range(3)
            for row in range(40)]
  over = templates.over(metric, 3)
  sums = over.sums(scored)
  parts = [metric.score(metric.sums(scored[at:at + 40]).sum(0)) for at in (0, 40, 80)]
  assert over.score(sums.sum(0)) == pytest.approx(np.mean(parts)) and len(sums) == 40
  assert over.worst(scored).shape == sums.shape
  found = statistics.scores(over, {'x': [sums], 'y': [sums]}, [])
  assert statistics.mean(found, 'x').mean == pytest.approx(np.mean(parts)) and found.fit.templates.seeds == 3
  assert templates.over(metric, 1) is metric


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """(folder of a study with three templates that ran whole, the folder of its files)."""
  folder = tmp_path_factory.mktemp('templates')
  fields = {name.removeprefix('task__'): value for name, value in reviews(train=16, valid=8, test=12).items()}
  fields |= {'prompt': None, 'prompts': PROMPTS, 'cluster': 'domain', 'metrics': ('accuracy', 'macro_f1', 'ece')}
  study = {
      'question': 'Which, under any template?', 'base': 'configs/quickstart.py', 'models': ['random:llama-tiny'],
      'tasks': [fields], 'arms': {'shown': {'strategy': {'name': 'few_shot', 'shots': 1}},
                                  'lora': {'strategy': {'name': 'lora'}, 'grid': {'training.learning_rate': [1e-2]}}},
      'seeds': [0, 1, 2], 'budget': {'steps': 4, 'eval_every': 2}, 'select': 'valid/accuracy', 'report': 'test/macro_f1',
      'baseline': 'shown', 'extend': 0, 'retain': [{**fields, 'cluster': None, 'label': 'again', 'prompts': PROMPTS[:2]}]}
  (folder / 'study.py').write_text(f'def get_study():\n  return {study!r}\n')
  said = verb('study', f'--study={folder}/study.py', f'--workdir={folder}/w', '--cohorts=3')
  assert said.returncode == 0, said.stderr
  return folder / 'w', folder


def lines_of(path):
  return [json.loads(line) for line in path.open()]


def test_every_row_is_scored_under_every_template(ran):
  workdir, _ = ran
  for row in lines_of(workdir / 'results.jsonl'):
    lines = lines_of(workdir / 'runs' / row['key'] / 'predictions' / 'test.jsonl')
    assert [(x['template'], x['id']) for x in lines] == [(t, n) for t in range(3) for n in range(12)]
    for x in lines:
      assert x['prompt'].endswith(PROMPTS[x['template']].format(**x['row']))
    metric = metrics.get('macro_f1')
    parts = [metric.score(metric.sums(harness.scored_rows(lines[at:at + 12])).sum(0)) for at in (0, 12, 24)]
    assert row['result']['metrics']['test/macro_f1'] == pytest.approx(np.mean(parts))
    assert row['result']['metrics']['test/accuracy'] == pytest.approx(np.mean([x['accuracy'] for x in lines]))
    assert {'test/ece', 'test/ece_scaled'} <= row['result']['metrics'].keys()
    low, high = row['result']['intervals']['test/accuracy']
    assert 0 <= low <= row['result']['metrics']['test/accuracy'] <= high <= 1


def test_a_cell_of_a_cohort_learns_what_it_learns_alone_and_another_seed_takes_other_turns(ran, tmp_path):
  workdir, _ = ran
  row = next(row for row in lines_of(workdir / 'results.jsonl') if row['arm'] == 'lora' and row['seed'] == 1)
  cell = next(cell for cell in run_files.read_json(workdir / 'plan.json')['cells'] if cell['key'] == row['key'])
  assert row['result']['cost']['cohort_size'] == 3
  alone = train_one(cell['config'], tmp_path / 'alone')
  for name, value in alone['metrics'].items():
    assert row['result']['metrics'][name] == pytest.approx(value, rel=1e-5), name
  losses = [[x['train/loss'] for x in lines_of(workdir / 'runs' / other['key'] / 'metrics.jsonl')]
            for other in lines_of(workdir / 'results.jsonl') if other['arm'] == 'lora']
  assert len({*map(tuple, losses)}) == 3


def test_the_comparison_has_a_row_for_each_sample(ran):
  workdir, _ = ran
  [c] = run_files.read_json(workdir / 'comparison.json')['comparisons']
  assert c['examples'] == 12 and c['variation']['templates'] == 3 and c['clusters'] <= 3
  by_arm = {a['arm']: a for a in c['variation']['arms']}
  assert [x['of'] for x in by_arm['shown']['samples']] == ['draws of demonstrations', 'templates', 'clusters']
  assert [x['of'] for x in by_arm['lora']['samples']] == ['seeds', 'templates', 'clusters']
  for a in c['arms']:
    assert np.mean(by_arm[a['arm']]['by_template']) == pytest.approx(a['mean'])
    assert a['low'] <= a['mean'] <= a['high']
  [kept] = c['retained']
  assert kept['examples'] == 12 and kept['name'] == 'again'
  markdown, page = (workdir / 'report.md').read_text(), (workdir / 'report.html').read_text()
  assert f'### {varied.TITLE}' in markdown and '| shown | templates | 3 |' in markdown
  assert '3 seeds, 3 templates, 12 examples in' in markdown and f'>{varied.TITLE}</h3>' in page
  assert "Template 2 ('{text} I find this'): " in markdown


def test_the_report_is_written_again_without_the_runs(ran, tmp_path):
  workdir, _ = ran
  shutil.copytree(workdir, tmp_path / 'kept', ignore=shutil.ignore_patterns('runs'))
  said = verb('study', '--report_only', f'--workdir={tmp_path}/kept')
  assert said.returncode == 0, said.stderr
  first = lambda folder: run_files.read_json(folder / 'comparison.json')['comparisons'][0]
  for a, b in zip(first(workdir)['arms'], first(tmp_path / 'kept')['arms']):
    assert all(a[name] == pytest.approx(b[name], abs=1e-5) for name in ('mean', 'low', 'high'))
  assert first(workdir)['variation']['arms'][0]['samples'] == first(tmp_path / 'kept')['variation']['arms'][0]['samples']


def test_a_study_with_templates_is_resumed_and_its_runs_are_evaluated_again(ran):
  workdir, folder = ran
  before = (workdir / 'comparison.json').read_text()
  said = verb('study', f'--study={folder}/study.py', f'--workdir={workdir}', '--cohorts=3')
  assert said.returncode == 0 and (workdir / 'comparison.json').read_text() == before
  key = next(row['key'] for row in lines_of(workdir / 'results.jsonl') if row['arm'] == 'lora')
  found = run_files.read_result(workdir / 'runs' / key)['metrics']
  said = verb('evaluate', f'--workdir={workdir}/runs/{key}', '--split=test')
  assert said.returncode == 0, said.stderr
  assert run_files.read_result(workdir / 'runs' / key)['metrics'] == pytest.approx(found, rel=1e-5)
  damaged = workdir / 'runs' / key / 'predictions' / 'test.jsonl'
  whole = damaged.read_text()
  damaged.write_text(''.join(line + '\n' for line in [*whole.splitlines()[1:], whole.splitlines()[0]]))
  with pytest.raises(Exception, match='line 1 is that of row 1, not of row 0'):
    outcomes.predictions(workdir, key, 'test')
  damaged.write_text(whole)


def test_arms_under_different_templates_are_refused(ran, tmp_path):
  workdir, _ = ran
  shutil.copytree(workdir, tmp_path / 'w')
  for row in lines_of(workdir / 'results.jsonl'):
    if row['arm'] == 'lora':
      path = tmp_path / 'w' / 'runs' / row['key'] / 'predictions' / 'test.jsonl'
      path.write_text(''.join(path.read_text().splitlines(keepends=True)[:24]))
  said = verb('study', '--report_only', f'--workdir={tmp_path}/w')
  assert said.returncode == 2 and 'under different numbers of templates (shown 3, lora 2)' in said.stderr


def test_free_answers_are_written_under_every_template(tmp_path):
  fields = {'prompts': ('German: {de}\nEnglish:', 'In English, "{de}" is'), 'metrics': ('bleu', 'exact_match'),
            'max_new_tokens': 4}
  rows = [{'de': f'Satz {n}', 'en': f'sentence {n}'} for n in range(4)]
  run_files.write_jsonl(tmp_path / 'test.jsonl', rows)
  fields |= {'name': 'files', 'test': f'{tmp_path}/test.jsonl', 'target': ' {en}'}
  flags = [f'--config.task.{name}={value}' for name, value in fields.items()]
  said = verb('evaluate', '--config=configs/default.py', '--config.model.source=random:llama-tiny',
              '--config.strategy.name=few_shot', '--config.strategy.shots=0', *flags, '--split=test', f'--workdir={tmp_path}/w')
  assert said.returncode == 0, said.stderr
  lines, result = lines_of(tmp_path / 'w' / 'predictions' / 'test.jsonl'), run_files.read_result(tmp_path / 'w')
  assert [x['prompt'] for x in lines[::4]] == ['German: Satz 0\nEnglish:', 'In English, "Satz 0" is']
  assert len(lines) == 8 and {'test/bleu', 'test/exact_match', 'test/loss'} == result['metrics'].keys()
  assert result['metrics']['test/loss'] == pytest.approx(sum(x['loss'] for x in lines) / sum(x['tokens'] for x in lines))


@pytest.mark.quick
@pytest.mark.parametrize('field, value, says', [
    ('arms', {'shown': {'strategy': {'name': 'few_shot'}, 'grid': {'task.prompts': [PROMPTS, PROMPTS[:2]]}}},
     'arm shown: the grid has task.prompts: arms are compared under the same templates'),
    ('tasks', [{'name': 'sentiment', 'prompts': PROMPTS[:1]}], 'two templates or more, each once'),
    ('tasks', [{'name': 'text', 'prompts': PROMPTS}], 'task text has no prompt')])
def test_a_study_that_cannot_have_templates_is_refused(field, value, says, tmp_path):
  study = {'question': '?', 'base': 'configs/quickstart.py', 'models': ['random:llama-tiny'], 'select': 'valid/loss',
           'arms': {'shown': {'strategy': {'name': 'few_shot'}}}, 'report': 'test/loss', 'baseline': 'shown', field: value}
  (tmp_path / 'study.py').write_text(f'def get_study():\n  return {study!r}\n')
  said = verb('study', f'--study={tmp_path}/study.py', f'--workdir={tmp_path}/w')
  assert said.returncode == 2 and says in said.stderr.splitlines()[-1]
