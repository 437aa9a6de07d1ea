"""One evaluation, and what it leaves can be measured again by anybody."""

import json

import helpers
import numpy as np
import pytest

from research import run_files, tree
from research.data import prompts, tasks, tokenizer
from research.errors import InputError
from research.evaluation import harness
from research.programs import members
from research.strategies import table


def evaluated(tiny, name, count, batch_size, generate=True, split='valid', leaked=(), left_out=(), **fields):
  task = tasks.make(name, fields)
  found = [e for e in prompts.examples(task, task.rows(split), tiny.tokenizer) if len(e.prompt_ids) < 350][:count]
  found = [e for e in found if e.id not in left_out]
  return harness.evaluate(tiny.model, {'params': tiny.params}, tiny.tokenizer, task, found, batch_size, generate,
                          leaked=leaked)


@pytest.mark.parametrize('name', ['sentiment', 'translation'])
def test_nothing_depends_on_the_eval_batch_size(tiny, name):
  by_size = [evaluated(tiny, name, 60, batch_size, generate=False) for batch_size in (1, 4, 16)]
  for other in by_size[1:]:
    assert other.scores['loss'] == pytest.approx(by_size[0].scores['loss'], abs=1e-5)
    for one, two in zip(by_size[0].predictions, other.predictions):
      assert two['loss'] == pytest.approx(one['loss'], abs=1e-4) and two['prediction'] == one['prediction']
  assert by_size[0].scores['loss'] > 1


def test_generated_answers_do_not_depend_on_the_eval_batch_size(tiny):
  one, other = (evaluated(tiny, 'translation', 5, batch_size, max_new_tokens=12) for batch_size in (1, 4))
  assert [p['prediction'] for p in one.predictions] == [p['prediction'] for p in other.predictions]
  assert len({p['prediction'] for p in one.predictions}) == 5


@pytest.mark.parametrize('name, row, task', [
    ('llama-tiny', 'lora', 'sentiment'), ('llama-tiny', 'full', 'translation'), ('t5-tiny', 'vera', 'translation'),
    ('llama-tiny', 'prefix', 'beginning')])
def test_members_of_a_cohort_come_to_what_each_comes_to_alone(name, row, task):
  """Ranked choices and free text; what does not learn is there once, what all prompts begin with is read by every member."""
  loaded = helpers.scaled_up(name)
  fields = {'max_new_tokens': 8}
  if task == 'beginning':
    task, fields = 'translation', {**fields, 'prompt': 'Please translate this sentence for me.\n{source}\n'}
  task = tasks.make(task, fields)
  short = lambda e: len(e.prompt_ids) + len(e.target_ids) < 120
  found = [*filter(short, prompts.examples(task, task.rows('valid'), loaded.tokenizer))][:6]
  begun = [helpers.start(loaded, table.make(row, {}), seed=seed)[:2] for seed in (0, 1, 2)]
  learned = [helpers.moved(state.trainable, seed) for seed, (state, _) in enumerate(begun)]
  frozen = [frozen for _, frozen in begun]
  together = harness.evaluate_all(loaded.model, members.stack_variables(learned, frozen), loaded.tokenizer, task, found, 4)
  alone = [harness.evaluate(loaded.model, tree.join(*one), loaded.tokenizer, task, found, 4) for one in zip(learned, frozen)]
  assert len({str(e.predictions) for e in alone}) == 3
  for one, other in zip(together, alone, strict=True):
    assert one.scores == pytest.approx(other.scores, rel=1e-4)
    assert [p['prediction'] for p in one.predictions] == [p['prediction'] for p in other.predictions]
    assert [p['loss'] for p in one.predictions] == pytest.approx([p['loss'] for p in other.predictions], rel=1e-4)


def read(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def test_ranked_predictions_scored_again_from_the_file_give_the_scores(tiny, tmp_path):
  from sklearn.metrics import accuracy_score, f1_score
  evaluation = evaluated(tiny, 'domain', 90, 8, split='test')
  run_files.write_jsonl(tmp_path / 'test.jsonl', evaluation.predictions)
  rows = read(tmp_path / 'test.jsonl')
  targets, predictions = [r['target'] for r in rows], [r['prediction'] for r in rows]
  assert len({*predictions}) > 1
  assert evaluation.scores == pytest.approx({
      'loss': sum(r['loss'] for r in rows) / sum(r['tokens'] for r in rows),
      'accuracy': accuracy_score(targets, predictions), 'macro_f1': f1_score(targets, predictions, average='macro')})
  for number, r in enumerate(rows):
    assert r['id'] == number and r['prompt'] == f'Review: {r["row"]["text"]}\nWebsite:'
    assert r['target'] == r['row']['domain'] and r['tokens'] == len(r['target']) + 2       # the blank and EOS
    assert r['prediction'] == max(r['choices'], key=r['choices'].get)
    assert r['accuracy'] == float(r['prediction'] == r['target'])
    assert r['loss'] > -r['choices'][r['target']] > 0                                       # EOS costs something


def test_generated_predictions_scored_again_from_the_file_give_the_scores(tiny, tmp_path):
  import sacrebleu
  from rouge_score import rouge_scorer
  metrics = ('bleu', 'chrf', 'exact_match', 'rouge1')
  evaluation = evaluated(tiny, 'translation', 12, 8, split='test', max_new_tokens=12, metrics=metrics)
  run_files.write_jsonl(tmp_path / 'test.jsonl', evaluation.predictions)
  rows = read(tmp_path / 'test.jsonl')
  targets, predictions = [r['target'] for r in rows], [r['prediction'] for r in rows]
  scorer = rouge_scorer.RougeScorer(['rouge1'], use_stemmer=True)
  rouge = [scorer.score(t, p)['rouge1'].fmeasure for t, p in zip(targets, predictions)]
  assert evaluation.scores == pytest.approx({
      'loss': sum(r['loss'] for r in rows) / sum(r['tokens'] for r in rows),
      'bleu': sacrebleu.corpus_bleu(predictions, [targets]).score,
      'chrf': sacrebleu.corpus_chrf(predictions, [targets]).score,
      'exact_match': np.mean([t == p for t, p in zip(targets, predictions)]), 'rouge1': np.mean(rouge)})
  assert [r['rouge1'] for r in rows] == pytest.approx(rouge)
  assert [r['row']['target'] for r in rows] == targets and [r['id'] for r in rows] == list(range(12))


@pytest.mark.quick
@pytest.mark.parametrize('stop', [(), ('\n\n',), ('\n\n', 'English:'), ('x',)])
@pytest.mark.parametrize('text', [' Paris\n\nCountry: Italy', 'English: a\n\nb', '\n\nlate', 'none', ''])
def test_an_answer_is_cut_as_the_evaluation_harness_cuts_until(text, stop):
  """By its definition: lm-evaluation-harness splits at each term in turn and keeps what stands before it."""
  expected = text
  for term in stop:
    expected = expected.split(term)[0]
  assert harness.cut(text, stop) == expected


@pytest.mark.quick
def test_targets_with_special_tokens_are_what_a_perfect_answer_is_read_as():
  task = tasks.make('translation', {})
  row = lambda target: {'source': 'a', 'target': target}
  found = prompts.examples(task, [row('plain'), row('ends<eos>'), row('<pad>within')], tokenizer.of_bytes())
  assert [harness._said(tokenizer.of_bytes(), e).strip() for e in found] == ['plain', 'ends', 'within']


@pytest.mark.quick
def test_answers_end_at_the_separator_unless_targets_hold_it_or_turns_end_them(tmp_path):
  assert tasks.make('translation', {}).stop == ('\n\n',)
  assert tasks.make('translation', {'separator': '\n#\n'}).stop == ('\n#\n',)
  assert tasks.make('sentiment', {}).stop == tasks.make('translation', {'chat': True}).stop == ()
  assert tasks.make('translation', {'stop': ('END', '\n')}).stop == ('END', '\n')
  (tmp_path / 'a.jsonl').write_text('{"a": "x", "b": "two\\n\\nparagraphs"}\n')
  own = {'prompt': '{a}:', 'target': ' {b}', 'test': str(tmp_path / 'a.jsonl')}
  assert tasks.make('files', own).stop == () and tasks.make('files', {**own, 'stop': '#'}).stop == ('#',)
  with pytest.raises(InputError, match='each must be a text'):
    tasks.make('files', {**own, 'stop': ('',)})


def test_a_target_longer_than_the_longest_answer_can_be_given(tiny):
  found = evaluated(tiny, 'translation', 3, 8, split='test', max_new_tokens=1)
  lengths = [len(p['prediction']) for p in found.predictions]
  assert 20 < max(lengths) <= max(p['tokens'] for p in found.predictions)


def test_every_score_lies_in_its_interval(tiny):
  evaluation = evaluated(tiny, 'sentiment', 60, 8)
  assert evaluation.scores.keys() == evaluation.intervals.keys() == {'loss', 'accuracy', 'macro_f1'}
  for name, (low, high) in evaluation.intervals.items():
    assert low < evaluation.scores[name] < high


@pytest.mark.parametrize('name, count, fields', [
    ('sentiment', 30, {}), ('translation', 5, {'max_new_tokens': 12, 'metrics': ('chrf', 'exact_match')})])
def test_scores_without_the_rows_that_training_holds_are_those_of_a_split_without_them(tiny, name, count, fields):
  leaked = {1, 2}            # not the longest target, which says how long answers may be
  whole, left = evaluated(tiny, name, count, 8, **fields), evaluated(tiny, name, count, 8, left_out=leaked, **fields)
  both = evaluated(tiny, name, count, 8, leaked=leaked, **fields)
  apart = {metric: metric + harness.WITHOUT for metric in whole.scores}
  assert both.scores.keys() == both.intervals.keys() == {*apart, *apart.values()} and (both.leaked, whole.leaked) == (2, 0)
  for metric, without in apart.items():
    assert (both.scores[metric], both.intervals[metric]) == (whole.scores[metric], whole.intervals[metric])
    assert both.scores[without] == pytest.approx(left.scores[metric], abs=1e-5)
    assert both.intervals[without] == pytest.approx(left.intervals[metric], abs=1e-5)
  assert both.scores['loss'] != both.scores[apart['loss']]
  assert [p['id'] for p in both.predictions if p.get('leaked')] == [1, 2]
  assert [{k: v for k, v in p.items() if k != 'leaked'} for p in both.predictions] == whole.predictions


def test_where_training_holds_every_row_there_is_no_score_without_them(tiny):
  held = evaluated(tiny, 'sentiment', 4, 4, leaked=range(10))
  assert held.leaked == 4 and held.scores.keys() == held.intervals.keys() == {'loss', 'accuracy', 'macro_f1'}


def test_an_evaluation_without_generation_leaves_out_what_needs_it(tiny):
  assert evaluated(tiny, 'translation', 8, 4, generate=False).scores.keys() == {'loss'}
