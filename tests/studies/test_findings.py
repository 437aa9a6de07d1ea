"""The report's sentences say what the numbers say: no more, no less, and never two things at once."""

import json
import shutil

import numpy as np
import pytest

from research import look
from research.errors import InputError
from research.studies import compare, findings, grid, outcomes, registration, report, runner
from research.studies import leaked as without_leaked

EXAMPLES = 60


def study(arms, margin=None, **more):
  return grid.study({**more,
      'question': 'Which?', 'base': 'configs/default.py', 'select': 'valid/accuracy', 'report': 'test/accuracy',
      'baseline': arms[0], 'margin': margin, 'seeds': (0, 1, 2), 'arms': {
          arm: {'strategy': {'name': 'lora'}, 'grid': {'training.learning_rate': [1e-3]}} for arm in arms}}, 'x.py')


def ran(workdir, arms, margin=None, examples=EXAMPLES, answers=('yes', 'no'), members=None, earlier=(), leaked=(),
        each=0, **of_study):
  """{question title: sentences} of a finished study.

  arms: {arm: {seed: share of right answers, or 'failed' or 'diverged'}}; members: {arm: how many were trained as one program};
  earlier: the fields of the plan that were changed after each report; leaked: numbers of the examples that training holds;
  each: examples of a cluster, where there are some.
  """
  rng, rows, s = np.random.default_rng(0), [], study(list(arms), margin, **of_study)
  hard = rng.random(examples)
  for arm, seeds in arms.items():
    for seed, share in seeds.items():
      told = {'key': f'{arm}-{seed}', 'model': 'm', 'task': 't', 'arm': arm, 'seed': seed, 'reports': False,
              'setting': {'training.learning_rate': 1e-3}, 'diverged': share == 'diverged'}
      if isinstance(share, str):
        rows.append({**told, 'chosen': False, 'selected': False, 'error': share, 'result': None})
        continue
      right = hard + rng.normal(0, 0.1, examples) < share
      lines = [{'prompt': f'Is it {i}?', 'prediction': answers[0 if r else 1], 'target': answers[0], 'loss': 1.0, 'tokens': 1,
                'choices': {}, **({'leaked': True} if i in leaked else {}),
                **({'cluster': f'passage {i // each}'} if each else {})} for i, r in enumerate(right)]
      folder = workdir / runner.RUNS / f'{arm}-{seed}' / 'predictions'
      folder.mkdir(parents=True)
      (folder / 'test.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
      of_metric = np.mean([line['prediction'] == line['target'] for line in lines])
      result = {'metrics': {'test/accuracy': of_metric, 'valid/accuracy': share}, 'steps': 1, 'best_step': 1,
                'intervals': {'test/accuracy': [share - 0.1, share + 0.1]}, 'cost': {
                    'train_flops': 1e9, 'trainable_params': 10, 'peak_bytes': 1, 'train_seconds': 1.0,
                    'cohort_size': (members or {}).get(arm, 1)}}
      rows.append({**told, 'chosen': True, 'selected': True, 'error': None, 'result': result})
  plan = registration.Plan(s, [], [{'plan': 'abc', 'changed': list(fields)} for fields in earlier])
  [c] = compare.compare(s, rows, workdir, plan.looks)['comparisons']
  report.table_text({'comparisons': [c]})
  told = without_leaked.parts(c, findings.parts(s, c, rows, workdir, plan.earlier))
  return c, {part.title: part.sentences for part in told}


def same(share, seeds=(0, 1, 2)):
  return dict.fromkeys(seeds, share)


def test_letters_and_sentences_never_contradict_each_other(tmp_path):
  """Arms a little apart: some differences hold alone and not among all tests."""
  seen = set()
  for number in range(12):
    shares = [0.5, 0.5 + 0.03 * number, 0.52, 0.9]
    c, said = ran(tmp_path / str(number), {f'arm{i}': same(share) for i, share in enumerate(shares)})
    base, *others = c['arms']
    for arm in others:
      apart = not {*arm['group']} & {*base['group']}
      [sentence] = [x for x in said['The answer'] if x.startswith(f'{arm["arm"]} ') and 'baseline' in x]
      assert ('cannot be told from' in sentence) == (not apart) == (arm['difference']['p_adjusted'] >= 0.05)
      seen.add((apart, bool(arm['difference']['low'] > 0)))
  assert seen == {(True, True), (False, False), (False, True)}      # the last: above alone, and not among all


@pytest.mark.quick
def test_one_seed_speaks_of_trained_models_and_not_of_arms(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.3, [0]), 'other': same(0.8, [0])})
  found = c['arms'][1]['difference']
  assert found['p'] is found['p_adjusted'] is found['p_equivalence'] is None and c['arms'][1]['group'] is None
  assert said['How sure'][0].startswith('One seed: the intervals are over test examples only')
  assert said['The answer'][1].startswith('Of these trained models, other is above the baseline base: +0.500')
  assert said['The answer'][1].endswith('p < 0.0001 after Holm.') and found['p_models'] < 1e-4


@pytest.mark.quick
def test_arms_without_a_seed_in_common_are_not_compared(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.3, [0, 2]), 'one': same(0.8, [2, 1]), 'none': same(0.8, [1])})
  differences = {a['arm']: a['difference'] for a in c['arms']}
  assert differences['none'] is None and differences['one']['p'] is None
  assert any('none ended with no seed in common with the others' in x for x in said['How sure'])
  assert c['seeds'] == [2] and [a['seeds'] for a in c['arms']] == [[2], [2], [1]]
  assert '(no seed in common)' in report.table_text({'comparisons': [c]})


@pytest.mark.quick
def test_runs_that_diverged_or_failed_are_counted_and_their_seeds_left_out_in_all_arms(tmp_path):
  """By hand: the means and the difference are over seeds 0, 3 and 4, on which both arms ended."""
  whole = {seed: 0.4 + 0.1 * seed for seed in range(5)}
  c, said = ran(tmp_path, {'base': whole, 'other': {**whole, 1: 'diverged', 2: 'failed'}}, examples=400)
  base, other = c['arms']
  assert base['runs'] == {'planned': 5, 'finished': 5, 'failed': 0, 'diverged': 0}
  assert other['runs'] == {'planned': 5, 'finished': 3, 'failed': 1, 'diverged': 1}
  assert c['seeds'] == base['seeds'] == other['seeds'] == [0, 3, 4]
  assert base['mean'] == pytest.approx((0.4 + 0.7 + 0.8) / 3, abs=0.05)
  assert other['difference']['mean'] == pytest.approx(other['mean'] - base['mean'])      # the table agrees with itself
  assert any(x.startswith('other (3 of 5 runs; 1 diverged and 1 failed) cannot be told from') for x in said['The answer'])
  assert 'other (3 of 5)' in report.table_text({'comparisons': [c]})
  worst = {a['arm']: a for a in c['otherwise']['arms']}
  assert c['otherwise']['seeds'] == [0, 1, 3, 4]
  assert worst['base']['mean'] == pytest.approx((0.4 + 0.5 + 0.7 + 0.8) / 4, abs=0.05)
  assert worst['other']['mean'] == pytest.approx((0.4 + 0 + 0.7 + 0.8) / 4, abs=0.05)
  assert any(x.startswith('If a run that diverged counted as one with the worst score, the means would be base 0.5')
             for x in said['The answer'])


@pytest.mark.quick
def test_a_study_can_count_runs_that_diverged_as_the_worst(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.5), 'other': {0: 0.9, 1: 'diverged', 2: 0.9}}, diverged='worst')
  assert c['seeds'] == [0, 1, 2] and c['arms'][1]['mean'] == pytest.approx(0.6, abs=0.07)
  assert c['otherwise']['diverged'] == 'left_out' and c['otherwise']['arms'][1]['mean'] == pytest.approx(0.9, abs=0.07)


@pytest.mark.quick
def test_every_pair_of_arms_stands_in_the_report(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.3), 'one': same(0.5), 'other': same(0.9)}, examples=300)
  assert [(x['arm'], x['other']) for x in c['pairs']] == [('base', 'one'), ('base', 'other'), ('one', 'other')]
  means = {a['arm']: a['mean'] for a in c['arms']}
  for x in c['pairs']:
    assert x['mean'] == pytest.approx(means[x['arm']] - means[x['other']]) and x['p_adjusted'] >= x['p']


@pytest.mark.quick
def test_arms_that_differ_by_less_than_the_margin_are_equivalent(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.5), 'alike': same(0.5), 'far': same(0.9)}, margin=0.2, examples=300)
  assert any(x.startswith('alike is equivalent to base: the difference is smaller than 0.2') for x in said['The answer'])
  assert not any(x.startswith('far is equivalent') for x in said['The answer'])


@pytest.mark.quick
def test_costs_that_are_shares_of_several_runs_are_said_to_be(tmp_path):
  of = lambda name, members: ' '.join(ran(tmp_path / name, {'base': same(0.5), 'other': same(0.9)}, members=members)[1]
                                      ['What it costs'])
  assert 'Trained as one program with others: other (6 runs).' in of('one', {'other': 6})
  assert 'Trained as one program' not in of('none', {}) + of('both', {'base': 3, 'other': 3})


@pytest.mark.quick
def test_an_arm_that_stands_alone_is_told_apart_from_nobody(tmp_path):
  _, said = ran(tmp_path, {'base': same(0.5)})
  assert said['The answer'] == [x for x in said['The answer'] if x.startswith('Highest')]


@pytest.mark.quick
def test_texts_have_no_answers_to_disagree_about(tmp_path):
  _, said = ran(tmp_path, {'base': same(0.5), 'other': same(0.6)}, answers=('', ''))
  assert said['Where the arms disagree'] == ['Nothing was answered: only the loss was measured.']


@pytest.mark.quick
def test_arms_tested_on_other_examples_are_refused(tmp_path):
  ran(tmp_path, {'base': same(0.5), 'other': same(0.6)})
  path = tmp_path / runner.RUNS / 'other-1' / 'predictions' / 'test.jsonl'
  path.write_text(''.join(line + '\n' for line in path.read_text().splitlines()[:-1]))
  rows = [{'key': f'{arm}-{seed}', 'model': 'm', 'task': 't', 'arm': arm, 'seed': seed, 'setting': {}, 'selected': True,
           'reports': False, 'diverged': False}
          for arm in ('base', 'other') for seed in range(3)]
  with pytest.raises(InputError, match=r'different numbers of examples .base 60, other 59 or 60'):
    compare.compare(study(['base', 'other']), rows, tmp_path)


def shares(workdir, arm, seeds, kept):
  """The mean share of right answers of an arm's runs among some examples."""
  of_seed = []
  for seed in seeds:
    path = workdir / runner.RUNS / f'{arm}-{seed}' / 'predictions' / 'test.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    of_seed.append(np.mean([lines[n]['prediction'] == lines[n]['target'] for n in kept]))
  return np.mean(of_seed)


@pytest.mark.quick
@pytest.mark.parametrize('seeds', [(0, 1, 2), (0,)])
def test_arms_are_scored_without_the_rows_that_training_holds_too(tmp_path, seeds):
  leaked = range(0, 60, 3)
  c, said = ran(tmp_path / 'leaked', {'base': same(0.3, seeds), 'other': same(0.8, seeds)}, leaked=leaked)
  plain, before = ran(tmp_path / 'plain', {'base': same(0.3, seeds), 'other': same(0.8, seeds)})
  found = c.pop('without_leaked')
  assert c == plain and 'without_leaked' not in plain      # what stands over all rows stays as it is
  assert list(said) == [next(iter(said)), without_leaked.TITLE, *list(before)[1:]]
  assert said[without_leaked.TITLE][0].startswith('Training holds 20 of the 60 test rows, in whole or in part.')
  assert (found['leaked'], found['examples']) == (20, 40)
  base, other = found['arms']
  for arm in (base, other):
    share = shares(tmp_path / 'leaked', arm['arm'], seeds, [n for n in range(60) if n not in leaked])
    assert arm['mean'] == pytest.approx(share) and arm['low'] < share < arm['high']
  assert base['difference'] is None and other['difference']['mean'] == pytest.approx(other['mean'] - base['mean'])
  assert other['difference']['low'] < other['difference']['mean'] < other['difference']['high']
  line = report.table_text({'comparisons': [{**c, 'without_leaked': found}]}).splitlines()[-1]
  assert line.startswith(f'without the 20 of 60 test rows that training holds: base {base["mean"]:.3f} [')


@pytest.mark.quick
def test_where_training_holds_all_rows_no_arm_is_scored_without_them(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.3), 'other': same(0.8)}, leaked=range(60))
  assert c['without_leaked'] == {'leaked': 60, 'examples': 0, 'arms': []}
  [sentence] = said[without_leaked.TITLE]
  assert 'too few are left to score the arms without them' in sentence
  assert report.table_text({'comparisons': [c]}).endswith('too few are left to be scored')


@pytest.mark.quick
def test_which_rows_leaked_is_kept_with_the_test_examples(tmp_path):
  """So that a report without the runs says the same; a study without such rows keeps what it always kept."""
  arms = {'base': same(0.3), 'other': same(0.8)}
  for name, leaked in (('leaked', (1, 2)), ('plain', ())):
    ran(tmp_path / name, arms, leaked=leaked)
    rows = [{'key': f'{arm}-{seed}', 'model': 'm', 'task': 't', 'selected': True, 'result': {}}
            for arm in arms for seed in range(3)]
    outcomes.write(rows, tmp_path / name)
    shutil.rmtree(tmp_path / name / runner.RUNS)
    for row in rows:
      kept = outcomes.predictions(tmp_path / name, row['key'], 'test')
      assert tuple(n for n, line in enumerate(kept) if line.get('leaked')) == leaked
    assert ('leaked' in kept[0]) == bool(leaked)


@pytest.mark.quick
@pytest.mark.parametrize('text, cell', [('a|b', r'a\|b'), ('two\nlines', 'two lines'), ('<extra_id_0>', r'\<extra_id_0>')])
def test_what_would_break_a_line_of_markdown_is_escaped(text, cell):
  assert look.cell(text) == cell


def test_a_second_look_at_the_answer_is_told_and_each_p_counts_twice(tmp_path):
  arms = {'base': {0: 0.5, 1: 0.52, 2: 0.48}, 'other': {0: 0.6, 1: 0.57, 2: 0.61}}
  once, said = ran(tmp_path / '1', arms)
  assert not any('look' in sentence for sentence in said['How sure'])
  twice, said = ran(tmp_path / '2', arms, earlier=[['seeds'], ['question']])
  one, two = (c['arms'][1]['difference'] for c in (once, twice))
  assert two['p'] == one['p'] and two['p_adjusted'] == pytest.approx(min(1, 2 * one['p_adjusted']))
  assert ('After a report had been written, the plan was changed: seeds (the plan before: abc) and question (the plan before: '
          'abc). This is look 2 at the answer, so each p is 2 times what it would be at the first.') in said['How sure']
  _, said = ran(tmp_path / '3', arms, earlier=[['question']])
  assert any('That changes no test.' in sentence for sentence in said['How sure'])


def test_of_clusters_intervals_and_tests_are_over_these_and_scores_are_the_same(tmp_path):
  arms = {'base': same(0.4), 'other': same(0.6)}
  (alone, _), (c, told) = ran(tmp_path / 'a', arms), ran(tmp_path / 'c', arms, each=10)
  assert 'clusters' not in alone and c['clusters'] == -(-c['examples'] // 10) and c['examples'] == alone['examples']
  for one, other in zip(alone['arms'], c['arms']):
    assert one['mean'] == pytest.approx(other['mean'])
    assert other['low'] <= other['mean'] <= other['high'] and (other['low'], other['high']) != (one['low'], one['high'])
  assert f'in {c["clusters"]} clusters, over which everything here is counted' in told['How sure'][0]
  leaked, _ = ran(tmp_path / 'l', arms, each=10, leaked=range(10))
  assert leaked['without_leaked']['examples'] == c['examples'] - 10 and leaked['without_leaked']['arms'][0]['low'] > 0
