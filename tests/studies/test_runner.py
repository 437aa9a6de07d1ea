"""The whole path from a study file to its report, on a tiny random model."""

import csv
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, reviews, verb

from research import run_files
from research.errors import InputError
from research.runs.evaluate import evaluate_finished
from research.runs.train import train_one
from research.studies import (
  carry_out,
  commands,
  compare,
  grid,
  outcomes,
  pace,
  registration,
  report,
  results,
  runner,
  study_file,
)

RATE = 'training.learning_rate'
SPLITS = reviews(train=24, valid=12, test=16)
FOLDER = Path(SPLITS['task__test']).parent           # as if it had been prepared, and training held three test rows
LEAKED = [0, 7, 15]
run_files.write_json(FOLDER / 'task.json', {'target': SPLITS['task__target'], 'choices': SPLITS['task__choices'],
                                            'splits': ['train', 'valid', 'test'], 'leaked': {'test': LEAKED}})
TASK = {'name': 'files', 'path': str(FOLDER), 'prompt': 'Review: {text} Sentiment:'}      # a command of one line
ARMS = {
    'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': {'strategy.shots': [0, 16]}},    # 16 shots: over the context
    'full': {'strategy': {'name': 'full'}, 'grid': {RATE: [1e-3]}},
    'lora': {'strategy': {'name': 'lora'}, 'grid': {RATE: [1e-3, 1e-2]}},
}


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """(study, cells, workdir, rows, comparison) of a study that ran once."""
  study = grid.study({
      'question': 'Which?', 'base': 'configs/quickstart.py', 'models': ('random:llama-tiny',), 'tasks': (TASK,), 'arms': ARMS,
      'seeds': (0, 1), 'budget': {'steps': 4, 'eval_every': 2}, 'select': 'valid/accuracy', 'report': 'test/accuracy',
      'baseline': 'few_shot', 'extend': 0}, 'x.py')
  base = study_file.base_config(study, Path('experiments/x.py').absolute())
  cells = grid.cells(study, base)
  workdir = tmp_path_factory.mktemp('study') / 'w'
  registration.claim(study, cells, workdir)
  # Two machines share the folder: the first leaves its part, the second ends the study.
  test = lambda runs: evaluate_finished(runs, 'test')
  assert runner.run(study, cells, workdir, train_one, test, registration.shard('1/2')) is None
  trained = {p.name for p in (workdir / 'runs').iterdir()}
  assert trained == {c.key for c in cells[::2]}
  rows = runner.run(study, cells, workdir, train_one, test, registration.shard('2/2'))
  comparison = compare.compare(study, rows, workdir)
  report.write(registration.planned(workdir), comparison, rows, workdir, 'the command',
               {c.key: commands.command(c, study.base, base) for c in cells})
  return study, cells, workdir, rows, comparison


def test_a_broken_cell_is_reported_and_stops_no_other(ran):
  _, _, workdir, rows, _ = ran
  broken = [r for r in rows if r['error']]
  assert {r['setting']['strategy.shots'] for r in broken} == {16}
  assert 'context' in broken[0]['error'] and len(broken) == 2
  assert sum(r['result'] is not None for r in rows) == len(rows) - 2
  assert broken[0]['key'] in (workdir / 'report.md').read_text()


def test_only_the_chosen_setting_reads_the_test_split(ran):
  _, _, workdir, rows, _ = ran
  for row in rows:
    tested = (workdir / 'runs' / row['key'] / 'predictions' / 'test.jsonl').exists()
    assert tested == row['selected']
  lora = [r for r in rows if r['arm'] == 'lora']
  mean = {rate: sum(r['result']['metrics']['valid/accuracy'] for r in lora if r['setting'][RATE] == rate)
          for rate in (1e-3, 1e-2)}
  chosen = {r['setting'][RATE] for r in lora if r['selected']}
  assert len(chosen) == 1 and mean[chosen.pop()] == max(mean.values())


def test_the_report_gives_every_arms_score_without_the_test_rows_that_training_holds(ran):
  _, _, workdir, rows, comparison = ran
  [c] = comparison['comparisons']
  found = c['without_leaked']
  assert (c['examples'], found['leaked'], found['examples']) == (16, 3, 13) and len(found['arms']) == len(ARMS)
  markdown, html = (' '.join((workdir / f'report.{kind}').read_text().split()) for kind in ('md', 'html'))
  for a in found['arms']:
    results = [r['result'] for r in rows if r['selected'] and r['arm'] == a['arm']]
    assert all(result['leaked'] == {'test': 3} for result in results)
    assert a['mean'] == pytest.approx(sum(r['metrics']['test/accuracy_without_leaked'] for r in results) / len(results))
    assert a['low'] <= a['mean'] <= a['high'] and (a['difference'] is None) == (a['arm'] == 'few_shot')
    shown = f'{a["mean"]:.3f} [{a["low"]:.3f}, {a["high"]:.3f}]'
    assert f'| {shown} |' in markdown and f'<td>{shown}</td>' in html
  for text in (markdown, html):
    assert 'Training holds 3 of the 16 test rows, in whole or in part.' in text


def test_finished_cells_are_not_run_again_and_give_the_same_comparison(ran):
  study, cells, workdir, rows, comparison = ran

  def never(*args):
    raise AssertionError('a finished cell was run again')
  finished = {str(workdir / 'runs' / r['key']): r['result'] for r in rows if r['result']}
  def train(config, folder, label):
    if str(folder) not in finished:
      raise InputError('broken as before')
    return json.loads((folder / 'result.json').read_text())
  again = runner.run(study, cells, workdir, train, never)
  assert compare.compare(study, again, workdir) == comparison
  assert {r['error'] for r in again} == {None, 'broken as before'}


class Recorded:
  """Trains nothing: notes what was trained with what, and leaves a result for it."""

  def __init__(self, workdir, fails=(), **more):
    study = grid.study({'extend': 0, 'question': 'Which?', 'seeds': (0, 1), **more, 'base': 'configs/default.py',
                        'select': 'valid/loss', 'report': 'test/loss', 'baseline': 'full', 'arms': {
                            'full': {'strategy': {'name': 'full'}, 'grid': {RATE: [1e-3, 1e-2, 1e-1]}},
                            'lora': {'strategy': {'name': 'lora'}, 'grid': {'strategy.rank': [2, 4]}}}}, 'x.py')
    self.cells = grid.cells(study, study_file.base_config(study, Path('experiments/x.py').absolute()))
    self.study, self.workdir, self.fails, self.trained, self.asked = study, workdir, fails, [], []

  def size(self, configs):
    self.asked.append(len(configs))
    return {'size': 4}

  def together(self, jobs, latest):
    self.trained.append([folder.name for _, folder, _ in jobs])
    if len(jobs) in self.fails:
      raise InputError('not together')
    return [self.result(folder) for _, folder, _ in jobs]

  def alone(self, config, folder, label):
    self.trained.append([folder.name])
    return self.result(folder)

  def result(self, folder, metrics=()):
    found = {'metrics': {'valid/loss': 1.0, 'test/loss': 1.0, **dict(metrics)}, 'steps': 0, 'cost': {'cohort_size': 1}}
    if self.study.report_seeds:
      del found['metrics']['test/loss']
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'result.json').write_text(json.dumps(found))
    return found

  def run(self, part=registration.WHOLE):
    cohorts = registration.Cohorts(self.size, self.together)
    return runner.run(self.study, self.cells, self.workdir, self.alone, None, part, cohorts)


@pytest.mark.quick
def test_cells_that_differ_in_seed_and_rate_train_together_and_what_is_finished_does_not(tmp_path):
  of = Recorded(tmp_path)
  keys = [cell.key for cell in of.cells]
  of.result(tmp_path / 'runs' / keys[0])
  rows = of.run()
  assert of.asked == [6, 2, 2]                                                  # full: 3 rates x 2 seeds; LoRA's ranks
  assert of.trained == [keys[1:3], keys[3:6], keys[6:8], keys[8:10]]            # six in two equal parts
  assert [r['key'] for r in rows] == keys and all(r['result'] for r in rows)
  again = Recorded(tmp_path)
  assert again.run() == rows and again.trained == again.asked == []


@pytest.mark.quick
def test_shards_share_whole_cohorts(tmp_path):
  first, second = Recorded(tmp_path), Recorded(tmp_path)
  keys = [cell.key for cell in first.cells]
  assert first.run(registration.shard('1/2')) is None and len(second.run(registration.shard('2/2'))) == 10
  assert (first.trained, second.trained) == ([keys[:3], keys[6:8]], [keys[3:6], keys[8:10]])
  assert second.asked == []                                                     # what the first machine found stands


@pytest.mark.quick
def test_shards_that_would_share_cells_differently_are_refused(tmp_path):
  of, two = Recorded(tmp_path), registration.shard('2/2')
  registration.claim(of.study, of.cells, tmp_path / 'w', registration.shard('1/2'), registration.Cohorts(of.size, of.together))
  with pytest.raises(InputError, match='was begun with --cohorts=auto, not off: shards would not share its cells'):
    registration.claim(of.study, of.cells, tmp_path / 'w', two)
  registration.claim(of.study, of.cells, tmp_path / 'w', two, registration.Cohorts(of.size, of.together))
  registration.claim(of.study, of.cells, tmp_path / 'w')                # alone it may be gone on with as one likes


@pytest.mark.quick
def test_chosen_settings_are_trained_again_with_the_reports_seeds_which_alone_read_the_test_split(tmp_path):
  of, tested = Recorded(tmp_path, report_seeds='fresh'), []
  assert of.study.report_seeds == (2, 3)

  def test(runs):
    tested.extend(run.name for run in runs)
    return [{'metrics': {'valid/loss': 1.0, 'test/loss': 2.0}, 'steps': 0, 'cost': {'cohort_size': 1}} for _ in runs]
  of.result = lambda folder, write=of.result: write(folder, {'valid/loss': float(folder.name.split('seed')[0].count('0.01'))})
  rows = runner.run(of.study, of.cells, tmp_path, of.alone, test)
  chosen, again = ([r for r in rows if r[what]] for what in ('chosen', 'reports'))
  assert {str(r['setting']) for r in chosen} == {str(r['setting']) for r in again} and len(again) == 4
  assert [r['seed'] for r in again] == [2, 3] * 2 and all(r['selected'] for r in again)
  assert not any(r['selected'] for r in rows if not r['reports'])
  assert sorted(tested) == sorted(r['key'] for r in again)
  assert len(runner.known(of.study, of.cells, tmp_path)) == len(of.cells) + 4 == len(rows)
  trained = len(of.trained)
  assert runner.run(of.study, of.cells, tmp_path, of.alone, test) == rows and len(of.trained) == trained


@pytest.mark.quick
def test_a_grid_whose_last_value_is_chosen_is_widened_at_most_twice(tmp_path):
  of = Recorded(tmp_path, extend=2, report_seeds=(7,))
  rate = lambda folder: float(folder.name.split('learning_rate=')[1].split('-seed')[0]) if 'rate' in folder.name else 0.5
  of.result = lambda folder, write=of.result: write(folder, {'valid/loss': 1 / rate(folder)})      # the higher the better
  test = lambda runs: [{'metrics': {'valid/loss': 1.0, 'test/loss': 2.0}, 'steps': 0, 'cost': {'cohort_size': 1}} for _ in runs]
  rows = runner.run(of.study, of.cells, tmp_path, of.alone, test)
  tried = sorted({r['setting'][RATE] for r in rows if r['arm'] == 'full'})
  assert tried == [1e-3, 1e-2, 1e-1, 1.0, 10.0]
  assert {r['setting'][RATE] for r in rows if r['arm'] == 'full' and r['reports']} == {10.0}
  assert {r['setting']['strategy.rank'] for r in rows if r['arm'] == 'lora'} == {1, 2, 4}      # all alike: the first is chosen
  trained = len(of.trained)
  assert runner.run(of.study, of.cells, tmp_path, of.alone, test) == rows and len(of.trained) == trained


@pytest.mark.quick
@pytest.mark.parametrize('tried, chosen, beyond', [
    ([1e-4, 3e-4], 3e-4, 9e-4), ([1e-4, 3e-4], 1e-4, 3.33e-5), ([1e-4, 3e-4, 1e-3], 3e-4, None), ([1e-3], 1e-3, None),
    ([0, 4, 8], 8, 16), ([0, 4, 8], 0, None), ([2, 4], 2, 1), ([1, 2], 1, None), ([0.0, 0.1], 0.1, None)])
def test_the_next_value_goes_on_by_the_ratio_of_the_last_two(tried, chosen, beyond):
  assert grid._next(tried, chosen) == (beyond if beyond is None else pytest.approx(beyond))


@pytest.mark.quick
def test_of_two_machines_one_trains_the_chosen_settings_again(tmp_path):
  test = lambda runs: [{'metrics': {'valid/loss': 1.0, 'test/loss': 2.0}, 'steps': 0, 'cost': {'cohort_size': 1}} for _ in runs]
  first, second = (Recorded(tmp_path, report_seeds=(5,)) for _ in range(2))
  go_on = lambda of, part: runner.run(of.study, of.cells, tmp_path, of.alone, test, registration.shard(part))
  assert go_on(first, '1/2') is None and len(go_on(second, '2/2')) == len(first.cells) + 2
  assert json.loads((tmp_path / runner.CHOOSER).read_text()) == {'shard': 2}
  assert go_on(first, '1/2') is None


@pytest.mark.quick
def test_a_run_that_ends_worse_than_it_began_has_diverged(tmp_path):
  for folder, began, kept in (('a', 2.0, 1.9), ('b', 2.0, 2.4), ('c', 2.0, 2.6)):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'metrics.jsonl').write_text(json.dumps({'step': 1, 'train/loss': began}) + '\n')
    found = results._exploded(tmp_path / folder, {'steps': 5, 'metrics': {'valid/loss': kept}})
    assert found == (folder == 'c')


@pytest.mark.quick
def test_a_number_given_is_not_found_by_a_trial(tmp_path):
  of = Recorded(tmp_path)
  runner.run(of.study, of.cells, tmp_path, of.alone, None, cohorts=registration.Cohorts(2, of.together))
  assert of.asked == [] and [len(jobs) for jobs in of.trained] == [2, 2, 2, 2, 2]


@pytest.mark.quick
def test_cells_that_cannot_be_trained_together_are_trained_one_by_one(tmp_path):
  of = Recorded(tmp_path, fails={3})
  keys = [cell.key for cell in of.cells]
  assert all(r['result'] for r in of.run())
  assert of.trained == [keys[:3], *([k] for k in keys[:3]), keys[3:6], *([k] for k in keys[3:6]), keys[6:8], keys[8:10]]


@pytest.mark.quick
def test_a_cell_that_fails_keeps_what_it_may_resume_from_and_one_that_ended_does_not(tmp_path):
  of = Recorded(tmp_path)
  latest = lambda cell: tmp_path / 'runs' / cell.key / 'checkpoints' / 'latest'
  for cell in of.cells:
    latest(cell).mkdir(parents=True)

  def train(config, folder, label):
    if folder.name == of.cells[0].key:
      raise InputError('its rows were changed')
    return of.result(folder)
  runner.run(of.study, of.cells[:2], tmp_path, train, None)
  assert latest(of.cells[0]).exists() and not latest(of.cells[1]).exists()


@pytest.mark.quick
@pytest.mark.parametrize('text', ['0/2', '3/2', '1/0', '1', 'a/b', '-1/2', '1/2/3'])
def test_a_shard_outside_its_range_is_refused(text):
  with pytest.raises(InputError, match=r'must be i/n with 1 <= i <= n'):
    registration.shard(text)


def test_comparison_holds_the_contracts_fields(ran):
  _, _, workdir, _, comparison = ran
  c = comparison['comparisons'][0]
  assert (c['model'], c['task'], c['metric'], c['baseline']) == ('random:llama-tiny', 'files', 'test/accuracy', 'few_shot')
  for arm in c['arms']:
    assert arm['low'] <= arm['mean'] <= arm['high'] and arm['seeds'] == [0, 1]
    assert arm['group'] is None                              # two seeds of two trained arms allow no test
    assert arm['runs'] == {'planned': 2, 'finished': 2, 'failed': 0, 'diverged': 0}
    if arm['arm'] != 'few_shot':
      assert {'mean', 'low', 'high', 'p', 'p_adjusted', 'p_models', 'p_equivalence', 'seeds', 'seed_spread',
              'seed_spread_range', 'needed'} == set(arm['difference'])
      assert arm['cost']['train_flops'] > 0 and arm['cost']['peak_bytes'] > 0


def test_the_table_stands_beside_the_report_for_other_programs(ran):
  workdir, comparison = ran[2], ran[4]
  with (workdir / 'table.csv').open(newline='') as f:
    rows = list(csv.DictReader(f))
  assert [row['arm'] for row in rows] == list(ARMS)
  for row, arm in zip(rows, comparison['comparisons'][0]['arms']):
    assert float(row['mean']) == arm['mean'] and json.loads(row['setting']) == arm['selected'] and row['runs_finished'] == '2'
  tex = (workdir / 'table.tex').read_text()
  assert tex.count(r'\\') == 6 and r'few\_shot & shots 0' in tex and r'score [95 \%]' in tex


def test_the_report_opens_by_itself(ran):
  workdir = ran[2]
  html = (workdir / 'report.html').read_text()
  assert html.count('data:image/svg+xml;base64,') == 4
  assert 'http://' not in html and 'https://' not in html
  assert {f.name for f in (workdir / 'figures').iterdir()} == {
      f'{name}.{kind}' for name in ('learning', 'tuning', 'cost', 'confusion') for kind in ('png', 'svg', 'pdf')}


def test_a_cells_command_makes_its_run_again(ran, tmp_path):
  """The command as the report gives it, in a process of its own: the same config, the same scores."""
  _, _, workdir, rows, _ = ran
  for row in (r for r in rows if r['selected'] and r['arm'] in ('few_shot', 'lora') and r['seed'] == 1):
    [command] = [line for line in (workdir / 'report.md').read_text().splitlines() if line.endswith(row['key']) or
                 f'runs/{row["key"]} ' in line]
    arguments = shlex.split(command.replace(f'runs/{row["key"]}', str(tmp_path / row['key'])))
    assert arguments.pop(0) == 'python'
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, capture_output=True)
    there, here = workdir / 'runs' / row['key'], tmp_path / row['key']
    assert json.loads((here / 'config.json').read_text()) == json.loads((there / 'config.json').read_text())
    again = json.loads((here / 'result.json').read_text())['metrics']
    assert again == pytest.approx({name: row['result']['metrics'][name] for name in again}, rel=1e-5)


def test_without_its_runs_a_study_comes_to_the_same_comparison_and_report(ran, tmp_path):
  """From plan.json, results.jsonl, provenance.json and outcomes.jsonl.gz alone, as they are committed."""
  workdir = ran[2]
  carry_out.write_report(registration.planned(workdir), workdir, None)
  for name in (registration.PLAN, registration.RESULTS, outcomes.FILE, 'provenance.json'):
    shutil.copy(workdir / name, tmp_path / name)
  carry_out.write_report(registration.planned(tmp_path), tmp_path, None)
  before, after = (json.loads((folder / 'comparison.json').read_text()) for folder in (workdir, tmp_path))
  number = lambda x: pytest.approx(x, rel=1e-5, abs=1e-6) if isinstance(x, float) else x
  assert flat(after) == {name: number(value) for name, value in flat(before).items()}
  sentences, again = ([line for line in (folder / 'report.md').read_text().splitlines() if line.startswith('- ')]
                      for folder in (workdir, tmp_path))
  assert sentences == again
  assert {f.name for f in (tmp_path / 'figures').iterdir()} == {
      f'{name}.{kind}' for name in ('learning', 'tuning', 'cost', 'confusion') for kind in ('png', 'svg', 'pdf')}
  assert (workdir / outcomes.FILE).stat().st_size < 20_000
  (tmp_path / outcomes.FILE).write_bytes((workdir / outcomes.FILE).read_bytes()[:-100])
  with pytest.raises(InputError, match=r'outcomes\.jsonl\.gz: is damaged'):
    carry_out.write_report(registration.planned(tmp_path), tmp_path, None)


def dropped(rows):
  del rows[1]


def doubled(rows):
  rows[2] = rows[1]


def another_answer(rows):
  rows[0]['prediction'] = next(c for c in rows[0]['choices'] if c != rows[0]['prediction'])


def other_rows(rows):
  rows.reverse()


@pytest.mark.parametrize('change, says', [(dropped, 'line 2 is that of row 2'), (doubled, 'line 3 is that of row 1'),
                                          (another_answer, 'come to test/accuracy'), (other_rows, 'line 1 is that of row')])
def test_single_examples_that_are_not_those_of_the_result_are_not_compared(ran, tmp_path, change, says):
  study, cells, workdir, rows, _ = ran
  key = next(r['key'] for r in rows if r['selected'])
  shutil.copytree(workdir, tmp_path / 'w')
  path = tmp_path / 'w' / 'runs' / key / 'predictions' / 'test.jsonl'
  found = [json.loads(line) for line in path.read_text().splitlines()]
  change(found)
  path.write_text(''.join(json.dumps(row) + '\n' for row in found))
  with pytest.raises(InputError, match=says):
    carry_out.write_report(registration.planned(tmp_path / 'w'), tmp_path / 'w', None)


DAMAGE = {'plan.json': [lambda f: f['cells'].clear(), lambda f: f.update(earlier=5), lambda f: f['cells'].pop(),
                        lambda f: f['study'].update(select=5), lambda f: f['cells'][0].update(key=3),
                        lambda f: f['cells'][0].update(config=None), lambda f: f['cells'][0].update(setting=None),
                        lambda f: f.update(cells=None)],
          'result.json': [lambda f: f.update(metrics={}), lambda f: f.update(cost={}), lambda f: f.pop('intervals'),
                          lambda f: f.update(steps='2'), lambda f: f['metrics'].update({'test/accuracy': None})]}


@pytest.mark.parametrize('name, number', [(name, number) for name, changes in DAMAGE.items() for number in range(len(changes))])
def test_a_file_of_a_study_of_another_form_is_named_in_one_line(ran, tmp_path, name, number):
  study, cells, workdir, rows, _ = ran
  shutil.copytree(workdir, tmp_path / 'w')
  key = next(r['key'] for r in rows if r['selected'])
  path = tmp_path / 'w' / (name if name == 'plan.json' else f'runs/{key}/{name}')
  found = json.loads(path.read_text())
  DAMAGE[name][number](found)
  path.write_text(json.dumps(found))
  with pytest.raises(InputError):
    carry_out.write_report(registration.planned(tmp_path / 'w'), tmp_path / 'w', None)


def flat(value, name=''):
  """{path: leaf} of JSON."""
  inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
  return {name: value} if inner is None else {k: v for key, one in inner for k, v in flat(one, f'{name}/{key}').items()}


def test_a_report_before_the_end_says_so_tests_nothing_and_reads_no_test_split(ran, tmp_path):
  study, cells, workdir, _, _ = ran
  registration.claim(study, cells, tmp_path / 'w')
  with pytest.raises(InputError, match='no run of the study has ended'):
    carry_out.write_report(registration.planned(tmp_path / 'w'), tmp_path / 'w', None)
  for cell in [c for c in cells if c.seed == 0 or c.arm == 'few_shot']:      # LoRA's and full's second seeds have not ended
    shutil.copytree(workdir / 'runs' / cell.key, tmp_path / 'w' / 'runs' / cell.key)
    (tmp_path / 'w' / 'runs' / cell.key / 'predictions' / 'test.jsonl').unlink(missing_ok=True)
  carry_out.write_report(registration.planned(tmp_path / 'w'), tmp_path / 'w', None)
  found = json.loads((tmp_path / 'w' / 'comparison.json').read_text())
  assert found['interim'] == {'ended': 7, 'planned': 10} and found['tests'] == 0
  [c] = found['comparisons']
  assert c['metric'] == 'valid/accuracy' and [a['arm'] for a in c['arms']] == list(ARMS)
  assert all(pair['p'] is pair['p_adjusted'] is pair['p_models'] is None for pair in c['pairs'])
  told = (tmp_path / 'w' / 'report.md').read_text()
  assert '**Interim report: 7 of 10 runs have ended.**' in told and 'Nothing is tested' in told
  assert 'test/accuracy' not in told and 'cannot be told' not in told
  assert 'Interim report: 7 of 10' in (tmp_path / 'w' / 'report.html').read_text()
  assert not (tmp_path / 'w' / outcomes.FILE).exists()


@pytest.mark.quick
def test_seeds_added_after_a_report_are_told_and_paid_for(tmp_path):
  of, more = Recorded(tmp_path, report_seeds=(7,)), Recorded(tmp_path, report_seeds=(7, 8))
  registration.claim(of.study, of.cells, tmp_path / 'w')
  registration.claim(more.study, more.cells, tmp_path / 'w')
  assert registration.planned(tmp_path / 'w').looks == 1                        # nobody has read anything
  run_files.write_json(tmp_path / 'w' / 'comparison.json', {'looks': 0})
  third = Recorded(tmp_path, report_seeds=(7, 8, 9))
  registration.claim(third.study, third.cells, tmp_path / 'w')
  assert registration.planned(tmp_path / 'w').looks == 1                        # an interim report tests nothing
  run_files.write_json(tmp_path / 'w' / 'comparison.json', {'looks': 1})
  fourth = Recorded(tmp_path, report_seeds=(7, 8, 9, 10), seeds=(0, 1, 2))
  for _ in range(2):                                                      # gone on with: the same plan
    registration.claim(fourth.study, fourth.cells, tmp_path / 'w')
  plan = registration.planned(tmp_path / 'w')
  assert plan.looks == 2 and plan.study.report_seeds == [7, 8, 9, 10]
  assert plan.earlier == [{'plan': registration.plan_hash(third.study, third.cells), 'changed': ['seeds', 'report_seeds']}]
  asked = Recorded(tmp_path, report_seeds=(7, 8, 9, 10), seeds=(0, 1, 2), question='Which one?')
  registration.claim(asked.study, asked.cells, tmp_path / 'w')
  plan = registration.planned(tmp_path / 'w')
  assert plan.looks == 2 and plan.earlier[1]['changed'] == ['question']
  with pytest.raises(InputError, match=r'has the report_seeds \[8, 9, 10\] too; seeds can be added, not taken away'):
    registration.claim(of.study, fourth.cells, tmp_path / 'w')
  with pytest.raises(InputError, match='holds another study'):
    registration.claim(of.study, of.cells, tmp_path / 'w')


def test_another_study_is_refused_its_workdir(ran):
  study, cells, workdir, _, _ = ran
  with pytest.raises(InputError, match='another study'):
    registration.claim(study, cells[:-1], workdir)


@pytest.mark.quick
def test_time_left_follows_what_was_planned_and_what_it_took():
  """Cells that train by their FLOPs, others by how long such took; nothing is said before one of each kind has ended."""
  of_study = pace.Pace(lambda config: config['operations'])
  trains, prompts = ({'operations': n} for n in (10.0, 0.0))
  assert of_study.left([trains]) is None and of_study.left([prompts]) is None and of_study.left([]) == 0
  of_study.note([trains, trains], 40)                  # side by side
  assert of_study.left([trains]) == 20 and of_study.left([prompts]) is None
  assert of_study.left([trains, {'operations': 25.0}]) == 70
  of_study.note([prompts], 7)
  assert of_study.left([trains, prompts, prompts]) == 34
  assert [pace.spoken(seconds) for seconds in (45, 750, 3 * 3600)] == ['45 seconds', '12 minutes', '3.0 hours']


@pytest.mark.quick
def test_a_study_tells_after_each_unit_how_long_is_left(tmp_path, capsys):
  of = Recorded(tmp_path)
  runner.run(of.study, of.cells, tmp_path, of.alone, None, registration.WHOLE, registration.Cohorts(of.size, of.together),
             lambda config: 10.0 if config['strategy']['name'] == 'full' else 20.0)
  said = [line for line in capsys.readouterr().err.splitlines() if 'left' in line]
  assert [line.split(';')[0] for line in said] == [f'study: {n} of 10 cells done' for n in (3, 6, 8)]


def test_a_study_says_once_what_each_kind_of_arm_adds_where(tmp_path):
  """Not for every rate; another rank is another kind. --dry_run and the run say the model of two, and the label."""
  rate = {RATE: [1e-3, 1e-2]}
  study = {
      'question': 'Which?', 'base': str(tmp_path / 'base.py'), 'models': ('random:llama-tiny', 'random:gpt2-tiny'),
      'tasks': ({**TASK, 'label': 'reviews'},), 'seeds': (0,), 'select': 'valid/accuracy', 'report': 'test/accuracy',
      'baseline': 'lora', 'extend': 0, 'budget': {'steps': 2, 'eval_every': 2}, 'arms': {
          'lora': {'strategy': {'name': 'lora', 'rank': 2}, 'grid': rate},
          'ranks': {'strategy': {'name': 'lora'}, 'grid': {'strategy.rank': [3]}}}}
  (tmp_path / 'base.py').write_text('from configs.default import get_config')
  (tmp_path / 'study.py').write_text(f'def get_study():\n  return {study!r}\n')
  planned = verb('study', f'--study={tmp_path}/study.py', '--dry_run')
  assert planned.returncode == 0, planned.stderr
  assert {line.split('-lora')[0].split('-ranks')[0] for line in planned.stdout.splitlines()[1:-1]} == {
      'llama-tiny-reviews', 'gpt2-tiny-reviews'}
  done = verb('study', f'--study={tmp_path}/study.py', f'--workdir={tmp_path}/w', '--cohorts=off')
  assert done.returncode == 0, done.stderr
  lines = done.stderr.splitlines()
  of = lambda site: [line for line in lines if line.startswith(f'  layers/{site}/kernel: LowRank on')]
  assert len(of('mlp/gate')) == len({*of('mlp/gate')}) == 2, lines      # llama-tiny's alone, of ranks 2 and 3
  assert len(of('attn/q')) == 4, lines                                  # and gpt2-tiny's
  assert [line.split(';')[0] for line in lines if ' left,' in line] == [f'study: {n} of 6 cells done' for n in range(1, 6)]
  result = json.loads(next((tmp_path / 'w' / 'runs').glob('*/result.json')).read_text())
  [one, two] = json.loads((tmp_path / 'w' / 'comparison.json').read_text())['comparisons']
  assert {result['task'], one['task'], two['task']} == {'reviews'}
