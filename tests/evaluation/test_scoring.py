"""By what choices are ranked: each rule by hand from log-likelihoods, alike for every batch size."""

import json

import numpy as np
import pytest

from research.data import choices, prompts, tasks
from research.evaluation import harness
from research.evaluation.score import score
from research.studies import outcomes, rules

ROWS = [{'q': f'What is {i} and {i + 1}?', 'options': [f'ö{i}', 'something longer', 'no', f'{i} or {i + 1}'][:2 + i % 3],
         'answer': i % 2} for i in range(14)]
METRICS = ('accuracy', 'ece', 'brier', 'log_loss')


def made(tmp_path, **fields):
  (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
  return tasks.make('files', {'prompt': 'Q: {q}\nA:', 'target': ' {answer}', 'choices': '{options}', 'metrics': METRICS,
                              'test': str(tmp_path / 'rows.jsonl'), **fields})


def evaluated(tiny, task, batch_size=4):
  examples = prompts.examples(task, task.rows('test'), tiny.tokenizer)
  return harness.evaluate(tiny.model, {'params': tiny.params}, tiny.tokenizer, task, examples, batch_size)


@pytest.mark.parametrize('scoring', ['sum', 'pmi'])
def test_no_score_of_rows_with_choices_of_their_own_depends_on_the_batch_size(tiny, tmp_path, scoring):
  one, *others = [evaluated(tiny, made(tmp_path, scoring=scoring), batch_size) for batch_size in (1, 3, 16)]
  assert one.scores.keys() == {'loss', *METRICS}
  for other in others:
    assert other.scores == pytest.approx(one.scores, abs=1e-4)
    assert [p['prediction'] for p in other.predictions] == [p['prediction'] for p in one.predictions]
  assert [p['target'] for p in one.predictions] == [row['options'][row['answer']] for row in ROWS]
  assert [[*p['choices']] for p in one.predictions] == [row['options'] for row in ROWS]


def test_each_rule_ranks_by_what_its_name_says_of_the_same_log_likelihoods(tiny, tmp_path):
  by = {scoring: evaluated(tiny, made(tmp_path, scoring=scoring)).predictions for scoring in choices.SCORINGS}
  task = made(tmp_path)
  bare = [e._replace(prompt_ids=tiny.tokenizer.prompt('Q: \nA:')) for e in prompts.examples(task, ROWS, tiny.tokenizer)]
  without = score(tiny.model, {'params': tiny.params}, bare, 4)
  for number, row in enumerate(ROWS):
    log_likelihoods = np.array([*by['sum'][number]['choices'].values()])
    assert 'ranked' not in by['sum'][number]
    texts = row['options']
    sizes = {'mean': [1 + len(text.encode()) for text in texts], 'char': list(map(len, texts)),      # bytes are its tokens
             'byte': [len(text.encode()) for text in texts]}
    expected = {rule: log_likelihoods / size for rule, size in sizes.items()}
    expected['pmi'] = log_likelihoods - [*without[number].choices.values()]
    for rule, values in expected.items():
      found = by[rule][number]
      assert [*found['choices'].values()] == pytest.approx(log_likelihoods, abs=1e-3)
      assert [*found['ranked'].values()] == pytest.approx(values, abs=2e-3)
      assert found['prediction'] == max(found['ranked'], key=found['ranked'].get)
    assert by['sum'][number]['choice_tokens'] == sizes['mean'] and by['sum'][number]['choice_bytes'] == sizes['byte']


def test_other_rules_are_followed_again_from_kept_predictions(tiny, tmp_path):
  from research.evaluation import metrics
  by = {scoring: evaluated(tiny, made(tmp_path, scoring=scoring)) for scoring in ('sum', 'mean', 'byte')}
  lines = json.loads(json.dumps(by['mean'].predictions))
  kept = outcomes._lines(json.loads(json.dumps(outcomes._columns(lines, outcomes.EXAMPLE))))
  for name in ('accuracy', 'brier'):
    metric = metrics.get(name)
    for some in (lines, kept):
      found = rules.by_rule(metric, {'arm': {0: some}, 'short': {}}, [0])
      assert found == {rule: {'arm': pytest.approx(by[rule].scores[name], abs=1e-4)} for rule in rules.RULES}
  assert harness.scored_rows(kept)[3].ranked == pytest.approx([*lines[3]['ranked'].values()])
  assert rules.by_rule(metric, {'arm': {0: [{**line, 'choices': list(line['choices'])} for line in lines]}}, [0]) == {}
