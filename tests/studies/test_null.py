"""Studies of arms that do not differ, from results.jsonl to comparison.json: how often they are told apart all the same."""

import json

import numpy as np

from research.studies import compare, grid, runner

STUDIES, EXAMPLES = 1000, 120
DESIGNS = [(seeds, spread) for seeds in (3, 5) for spread in (0.0, 0.015, 0.03, 0.06)]
STUDY = grid.study({
    'question': 'Do two equal arms differ?', 'base': 'configs/default.py', 'select': 'valid/accuracy',
    'report': 'test/accuracy', 'baseline': 'one',
    'arms': {arm: {'strategy': {'name': 'lora'}} for arm in ('one', 'other')}}, 'null.py')


def write(workdir, rng, seeds, spread):
  """A finished study on disk: examples of different hardness, and seeds whose accuracy deviates by `spread`."""
  hardness, rows = rng.normal(0, 0.2, EXAMPLES), []
  for arm in STUDY.arms:
    for seed in range(seeds):
      key = f'{arm}-{seed}'
      right = rng.random(EXAMPLES) < np.clip(0.7 + hardness + rng.normal(0, spread), 0, 1)
      lines = [{'prediction': 'a' if r else 'b', 'target': 'a', 'loss': 1.0, 'tokens': 1, 'choices': {'a': 0.0, 'b': 0.0}}
               for r in right]
      folder = workdir / runner.RUNS / key / 'predictions'
      folder.mkdir(parents=True)
      (folder / 'test.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
      rows.append({'key': key, 'model': 'm', 'task': 't', 'arm': arm, 'seed': seed, 'setting': {}, 'selected': True,
                   'error': None, 'result': {'metrics': {'test/accuracy': right.mean()}, 'cost': {}}})
  (workdir / runner.RESULTS).write_text(''.join(json.dumps(row) + '\n' for row in rows))


def test_a_thousand_studies_of_equal_arms_find_a_difference_in_about_5_percent(tmp_path):
  rejected, covered, each = [], [], STUDIES // len(DESIGNS)
  for number, (seeds, spread) in enumerate(DESIGNS):
    rng = np.random.default_rng([6, number])
    found = []
    for study in range(each):
      workdir = tmp_path / f'{number}-{study}'
      write(workdir, rng, seeds, spread)
      rows = [json.loads(line) for line in (workdir / runner.RESULTS).read_text().splitlines()]
      [comparison] = compare.compare(STUDY, rows, workdir)['comparisons']
      one, other = comparison['arms']
      difference = other['difference']
      found.append((difference['p_adjusted'] < 0.05, difference['low'] <= 0 <= difference['high']))
      assert (one['group'] == other['group']) == (difference['p'] >= 0.05)
    r, c = np.mean(found, axis=0)
    print(f'{seeds} seeds, spread {100 * spread:g} points: rejected {100 * r:.1f} %, covered {100 * c:.1f} %')
    rejected.append(r)
    covered.append(c)
  print(f'all: rejected {100 * np.mean(rejected):.1f} %, covered {100 * np.mean(covered):.1f} %')
  assert 0.01 <= np.mean(rejected) <= 0.07 and 0.93 <= np.mean(covered) <= 0.99
  # One design's 125 studies: within three standard errors of those bounds.
  assert max(rejected) <= 0.07 + 3 * (0.07 * 0.93 / each) ** 0.5 and min(covered) >= 0.93 - 3 * (0.07 * 0.93 / each) ** 0.5
