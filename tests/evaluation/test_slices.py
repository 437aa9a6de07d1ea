"""Scores by the values of columns, and whether the largest gap between two is more than chance."""

import json

import numpy as np
import pytest
from helpers import as_flags, reviews, verb
from scipy import stats
from statsmodels.stats.multitest import multipletests

from research import run_files
from research.errors import InputError
from research.evaluation import harness, intervals, metrics, slices

quick = pytest.mark.quick


def predictions(rows, right=None, losses=None, clusters=None):
  right = [True] * len(rows) if right is None else right
  losses = [1.0] * len(rows) if losses is None else losses
  return [{'row': row, 'prediction': 'x' if good else 'y', 'target': 'x', 'loss': float(loss), 'tokens': 1,
           **({'cluster': clusters[n]} if clusters else {})} for n, (row, good, loss) in enumerate(zip(rows, right, losses))]


def drawn(seed, sizes):
  rng = np.random.default_rng(seed)
  rows = [{'domain': domain, 'side': 'ab'[i % 2]} for domain, size in sizes.items() for i in range(size)]
  return rows, rng.normal(size=len(rows)) ** 2, rng.random(len(rows)) < 0.7


@quick
def test_each_value_has_the_score_and_interval_of_its_rows_alone():
  rows, losses, right = drawn(0, {'imdb': 40, 'yelp': 25, 'amazon': 30})
  made = predictions(rows, right, losses)
  found = slices.of(['domain', 'side'], ['loss', 'accuracy'], made)
  assert [x['value'] for x in found['domain']['loss']['values']] == ['amazon', 'imdb', 'yelp']
  for column, name in (('domain', 'accuracy'), ('domain', 'loss'), ('side', 'accuracy')):
    metric = metrics.get(name)
    for x in found[column][name]['values']:
      mine = [p for p in made if p['row'][column] == x['value']]
      sums = metric.sums(harness.scored_rows(mine))
      assert (x['examples'], x['score']) == (len(mine), pytest.approx(float(metric.score(sums.sum(0)))))
      assert [x['low'], x['high']] == pytest.approx(intervals.interval(metric, sums))


@quick
def test_a_gap_of_means_is_tested_as_by_welch_and_corrected_as_by_holm_over_pairs_and_columns():
  rows, losses, _ = drawn(1, {'imdb': 40, 'yelp': 25, 'amazon': 30})
  found = slices.of(['domain', 'side'], ['loss'], predictions(rows, losses=losses))
  pairs = [pair for column in ('domain', 'side') for pair in found[column]['loss']['pairs']]
  assert len(pairs) == 3 + 1
  for column, pair in zip(['domain'] * 3 + ['side'], pairs):
    one, other = ([loss for row, loss in zip(rows, losses) if row[column] == pair[name]] for name in ('value', 'other'))
    theirs = stats.ttest_ind(one, other, equal_var=False)
    assert pair['p'] == pytest.approx(theirs.pvalue) and pair['difference'] == pytest.approx(np.mean(one) - np.mean(other))
    assert [pair['low'], pair['high']] == pytest.approx([*theirs.confidence_interval()])
  assert [pair['p_adjusted'] for pair in pairs] == pytest.approx(multipletests([p['p'] for p in pairs], method='holm')[1])
  largest = found['domain']['loss']['largest']
  assert abs(largest['difference']) == max(abs(pair['difference']) for pair in pairs[:3])


@quick
def test_clusters_that_have_both_values_are_paired():
  rng = np.random.default_rng(2)
  of = rng.normal(size=30) ** 2 + 3
  losses = [x + e for x in of for e in rng.normal(size=2) ** 2]
  rows = [{'who': who} for _ in of for who in ('he', 'she')]
  found = slices.of(['who'], ['loss'], predictions(rows, losses=losses, clusters=[f'c{i // 2}' for i in range(60)]))
  pair = found['who']['loss']['largest']
  assert pair['p'] == pytest.approx(stats.ttest_rel(losses[::2], losses[1::2]).pvalue)
  assert [x['clusters'] for x in found['who']['loss']['values']] == [30, 30]


@quick
def test_examples_of_one_cluster_count_as_one():
  rows, losses, _ = drawn(3, {'imdb': 40, 'yelp': 40})
  of = [str(i) for i in range(80)]
  tripled = slices.of(['domain'], ['loss'], predictions(rows * 3, losses=[*losses] * 3, clusters=of * 3))
  alone = slices.of(['domain'], ['loss'], predictions(rows, losses=losses))
  assert tripled['domain']['loss']['largest']['p'] == pytest.approx(alone['domain']['loss']['largest']['p'])


@quick
def test_a_share_has_the_interval_of_agresti_and_caffo_also_where_all_are_right():
  rows = [{'d': 'a'}] * 30 + [{'d': 'b'}] * 24
  pair = slices.of(['d'], ['accuracy'], predictions(rows, [True] * 30 + [True] * 12 + [False] * 12))['d']['accuracy']['largest']
  one, other = 31 / 32, 13 / 26
  error = (one * (1 - one) / 31 + other * (1 - other) / 25) ** 0.5      # of a mean of so many, unbiased
  assert pair['difference'] == 0.5 and pair['p'] < 2e-4
  assert (pair['low'] + pair['high']) / 2 == pytest.approx(one - other) and pair['high'] - pair['low'] == pytest.approx(
      2 * error * 2.03, rel=0.01)


@quick
def test_small_values_are_named_and_not_compared():
  rows = [{'d': 'a'}] * 30 + [{'d': 'b'}] * 30 + [{'d': 'c'}] * 19 + [{}] * 20
  found = slices.of(['d'], ['accuracy'], predictions(rows, [True, False, True] * 33))
  assert [(x['value'], x['small']) for x in found['d']['accuracy']['values']] == [
      ('(none)', False), ('a', False), ('b', False), ('c', True)]
  pairs = [(pair['value'], pair['other']) for pair in found['d']['accuracy']['pairs']]
  assert pairs == [('(none)', 'a'), ('(none)', 'b'), ('a', 'b')]
  said = slices.spoken(found, 'test')
  assert any(line.startswith('  c ') and line.endswith('19*') for line in said)
  assert '  * small: fewer than 20' in '\n'.join(said)
  few = slices.of(['d'], ['accuracy'], predictions(rows[:5]))
  assert few['d']['accuracy']['largest'] is None and '  no two values have enough' in slices.spoken(few, 'test')[-1]


@quick
def test_a_score_of_two_kinds_of_examples_is_not_told_of_a_value_that_has_one_kind():
  probed = [{**p, 'row': {**p['row'], 'probe': [p['row']['variant'], 'type1']}, 'choices': {'x': 1.0, 'y': 0.0}}
            for p in predictions([{'variant': ('pro', 'anti')[n % 2], 'side': 'ab'[n // 50]} for n in range(100)])]
  several = [{**p, 'template': number} for number in range(2) for p in probed]
  for made in (probed, several):
    found = slices.of(['variant', 'side'], ['pro_accuracy', 'winobias_gap'], made)
    assert [x['score'] for x in found['variant']['pro_accuracy']['values']] == [None, 1.0]      # anti, pro
    assert [(x['score'], x['low'], x['high']) for x in found['variant']['winobias_gap']['values']] == [(None, None, None)] * 2
    assert [found['variant'][name]['largest'] for name in ('pro_accuracy', 'winobias_gap')] == [None, None]
    assert [x['score'] for x in found['side']['winobias_gap']['values']] == [0.0, 0.0]
    assert found['side']['winobias_gap']['pairs']
    assert any('anti' in line and 'not told' in line for line in slices.spoken(found, 'test'))


@quick
def test_lines_fit_a_terminal_of_80_columns():
  column = 'a_column_with_a_long_name'
  rows = [{column: {'of_a_part': value * 9}} for value in ('some long value ', 'others, longer ') for _ in range(30)]
  column += '[of_a_part]'
  found = slices.of([column], ['loss'], predictions(rows, losses=1e4 * np.arange(60)))
  assert all(len(line) <= 80 - len('evaluate: ') * (not line.startswith(' ')) for line in slices.spoken(found, 'test'))


@quick
def test_equal_values_are_told_apart_as_rarely_as_the_level_says():
  rng, wrong, n = np.random.default_rng(4), 0, 400
  rows = [{'d': d} for d in 'aaabbc' for _ in range(25)]
  for _ in range(n):
    clusters = [str(i // 5) for i in range(len(rows))]
    hard = np.repeat(rng.random(len(rows) // 5), 5)
    found = slices.of(['d'], ['accuracy'], predictions(rows, rng.random(len(rows)) < 0.5 + 0.5 * hard, clusters=clusters))
    wrong += any((pair['p_adjusted'] or 1) < 0.05 for pair in found['d']['accuracy']['pairs'])
  assert wrong / n < 0.08


@quick
@pytest.mark.parametrize('column, says', [
    ('genre', r'--slices=genre: no test row has such a column \(columns: domain, tags, n\)'),
    ('tags', r"--slices=tags: holds \['a'\], a list or an object"), ('n', '--slices=n: has 101 values in 101 test rows')])
def test_a_column_that_divides_nothing_is_refused(column, says):
  with pytest.raises(InputError, match=says):
    slices.check([column], [{'domain': 'x', 'tags': ['a'], 'n': n} for n in range(101)], 'test')


def test_evaluate_tells_slices_and_keeps_them_until_the_next_evaluation(tmp_path):
  fields = reviews(train=8, valid=6, test=40)
  base = ['--config=configs/default.py', '--config.model.source=random:llama-tiny', '--config.strategy.name=few_shot',
          '--config.strategy.shots=0', *as_flags(fields), f'--workdir={tmp_path}/w']
  said = verb('evaluate', *base, '--slices=domain,genre')
  assert said.returncode == 2 and '--slices=genre: no test row has such a column (columns: text, label, domain)' in said.stderr
  assert not (tmp_path / 'w' / 'result.json').exists()
  said = verb('evaluate', *base, '--slices=domain,label')
  assert said.returncode == 0, said.stderr
  assert 'evaluate: test/accuracy by domain' in said.stderr and '  largest gap: ' in said.stderr
  result = run_files.read_result(tmp_path / 'w')
  found = result['slices']['test']['label']['accuracy']
  lines = [json.loads(line) for line in (tmp_path / 'w' / 'predictions' / 'test.jsonl').open()]
  for x in found['values']:
    mine = [line['accuracy'] for line in lines if line['row']['label'] == x['value']]
    assert (x['score'], x['examples']) == (pytest.approx(np.mean(mine)), len(mine))
  assert verb('evaluate', *base).returncode == 0 and 'slices' not in run_files.read_result(tmp_path / 'w')
