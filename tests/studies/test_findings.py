"""The report's sentences say what the numbers say: no more, no less, and never two things at once."""

import json

import numpy as np
import pytest

from research.errors import InputError
from research.studies import compare, findings, grid, report, runner

EXAMPLES = 60


def study(arms, margin=None):
  return grid.study({
      'question': 'Which?', 'base': 'configs/default.py', 'select': 'valid/accuracy', 'report': 'test/accuracy',
      'baseline': arms[0], 'margin': margin, 'seeds': (0, 1, 2), 'arms': {
          arm: {'strategy': {'name': 'lora'}, 'grid': {'training.learning_rate': [1e-3]}} for arm in arms}}, 'x.py')


def ran(workdir, arms, margin=None, examples=EXAMPLES, answers=('yes', 'no'), members=None):
  """{question title: sentences} of a finished study.

  arms: {arm: {seed: share of right answers}}; members: {arm: how many were trained as one program}.
  """
  rng, rows, s = np.random.default_rng(0), [], study(list(arms), margin)
  hard = rng.random(examples)
  for arm, seeds in arms.items():
    for seed, share in seeds.items():
      right = hard + rng.normal(0, 0.1, examples) < share
      lines = [{'prompt': f'Is it {i}?', 'prediction': answers[0 if r else 1], 'target': answers[0], 'loss': 1.0, 'tokens': 1,
                'choices': {}} for i, r in enumerate(right)]
      folder = workdir / runner.RUNS / f'{arm}-{seed}' / 'predictions'
      folder.mkdir(parents=True)
      (folder / 'test.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
      interval = [share - 0.1, share + 0.1]
      rows.append({'key': f'{arm}-{seed}', 'model': 'm', 'task': 't', 'arm': arm, 'seed': seed, 'selected': True, 'error': None,
                   'setting': {'training.learning_rate': 1e-3}, 'result': {
                       'metrics': {'test/accuracy': right.mean(), 'valid/accuracy': share}, 'steps': 1, 'best_step': 1,
                       'intervals': {'test/accuracy': interval}, 'cost': {
                           'train_flops': 1e9, 'trainable_params': 10, 'peak_bytes': 1, 'train_seconds': 1.0,
                           'cohort_size': (members or {}).get(arm, 1)}}})
  [c] = compare.compare(s, rows, workdir)['comparisons']
  report.table_text({'comparisons': [c]})
  return c, {part.title: part.sentences for part in findings.parts(s, c, rows, workdir)}


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
def test_one_seed_gives_no_p_and_says_so(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.3, [0]), 'other': same(0.8, [0])})
  assert c['arms'][1]['difference']['p'] is None and c['arms'][1]['group'] is None
  assert said['How sure'][0].startswith('One seed: the intervals are over test examples only')
  assert 'other is above the baseline base' in said['The answer'][1] and ' p ' not in said['The answer'][1]


@pytest.mark.quick
def test_arms_without_a_seed_in_common_are_not_compared(tmp_path):
  c, said = ran(tmp_path, {'base': same(0.3, [0, 2]), 'one': same(0.8, [2, 1]), 'none': same(0.8, [1])})
  differences = {a['arm']: a['difference'] for a in c['arms']}
  assert differences['none'] is None and differences['one']['p'] is None
  assert any('none and base ended with no seed in common' in x for x in said['How sure'])
  assert any('one and base have one seed in common' in x for x in said['How sure'])
  assert '(no seed in common)' in report.table_text({'comparisons': [c]})


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
  rows = [{'key': f'{arm}-{seed}', 'model': 'm', 'task': 't', 'arm': arm, 'seed': seed, 'setting': {}, 'selected': True}
          for arm in ('base', 'other') for seed in range(3)]
  with pytest.raises(InputError, match=r'different numbers of examples .base 60, other 59 or 60'):
    compare.compare(study(['base', 'other']), rows, tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize('text, cell', [('a|b', r'a\|b'), ('two\nlines', 'two lines'), ('<extra_id_0>', r'\<extra_id_0>')])
def test_what_would_break_a_line_of_markdown_is_escaped(text, cell):
  assert report._cell(text) == cell
