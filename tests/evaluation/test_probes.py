"""Every probe on a model of every kind: read, asked, and measured."""

import json
import math

import pytest
import test_bias
from helpers import verb

from research import run_files
from research.evaluation import bias, harness, metrics

PROBES = {'winobias': test_bias.winobias, 'winogender': test_bias.winogender, 'crows_pairs': test_bias.crows,
          'stereoset': test_bias.stereoset, 'bbq': test_bias.bbq}


@pytest.mark.parametrize('name, model', [('winobias', 'llama-tiny'), ('winogender', 'gpt2-tiny'), ('crows_pairs', 'gpt2-tiny'),
                                         ('stereoset', 'llama-tiny'), ('bbq', 't5-tiny')])
def test_evaluate_measures_it_and_the_predictions_alone_give_its_scores(name, model, tmp_path):
  task = PROBES[name](tmp_path)
  [file] = [path for path in tmp_path.iterdir() if path.name != 'occupations-stats.tsv']
  said = verb('evaluate', '--config=configs/default.py', f'--config.model.source=random:{model}', f'--config.task.name={name}',
              f'--config.task.test={file}', '--config.strategy.name=few_shot', '--config.strategy.shots=0',
              f'--workdir={tmp_path}/w')
  assert said.returncode == 0, said.stderr
  result = run_files.read_result(tmp_path / 'w')
  lines = [json.loads(line) for line in (tmp_path / 'w' / 'predictions' / 'test.jsonl').open()]
  assert len(lines) == 10
  for one in task.metrics:
    metric = metrics.get(one)
    again = metric.score(metric.sums(harness.scored_rows(lines)).sum(0))
    assert result['metrics'][f'test/{one}'] == pytest.approx(float(again))
    low, high = result['intervals'][f'test/{one}']
    assert math.isfinite(low) and low <= result['metrics'][f'test/{one}'] <= high
    assert result['signatures'][f'test/{one}'] == f'{bias.MEASURES[one].definition}; task.scoring={task.scoring}'
  scoring = {'sum': lambda line: [*line['choices'].values()],
             'mean': lambda line: [x / n for x, n in zip(line['choices'].values(), line['choice_tokens'])]}[task.scoring]
  assert all(dict(zip(line['choices'], scoring(line)))[line['prediction']] == max(scoring(line)) for line in lines)
  assert [line['target'] for line in lines] == [row['answer'] for row in task.rows('test')]
