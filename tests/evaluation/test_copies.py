"""Answers that are copies of training rows, and runs that learned theirs by heart."""

import json

import pytest
from helpers import WORDS, by_heart, write_pairs

from research.evaluation.copies import Copy, found
from research.runs.train import train_one
from research.training import memorised

SENTENCE = 'the cat that sat on the mat ate a fish and went to bed again'


@pytest.mark.quick
@pytest.mark.parametrize('answer, known, expected', [
    (f'Well: {SENTENCE.upper()}!', (), Copy(1, 'the cat that sat on the mat ate a fish and went to')),
    (SENTENCE, (f'Say {SENTENCE}',), None),                                                  # its own prompt has it
    ('the cat that sat on the mat', (), None),                                               # seven words
    ('the cat that sat on the mat ate', (), Copy(1, 'the cat that sat on the mat ate')),     # a whole answer of eight
    ('the cat that sat on the mat ate a bird', (), None),                                    # eight, but not the whole
    ('he cat that sat on the mat ate', (), None),                                            # words, not letters
    ('', (), None)])
def test_a_copy_is_a_stretch_of_words_that_its_own_row_has_not(answer, known, expected):
  assert found([answer], [known], [['nothing of it'], ['', f'So {SENTENCE}.'], [SENTENCE]]) == [expected]


@pytest.mark.quick
def test_characters_of_scripts_without_blanks_are_words():
  [copy] = found(['他昨天在北京买了一本书'], [()], [['我知道他昨天在北京买了一本书，你呢']])
  assert copy == Copy(0, '他 昨 天 在 北 京 买 了 一 本 书')


@pytest.mark.quick
def test_learned_by_heart_is_both_near_zero_and_risen():
  lines = [{'step': n, 'train/loss': 1 / n ** 2} for n in range(1, 31)]
  look = lambda *losses: [line | ({'valid/loss': losses[line['step'] // 10 - 1]} if line['step'] % 10 == 0 else {})
                          for line in lines]
  assert memorised.found(look(1., .8, 1.2)) == pytest.approx((1 / 29 ** 2 / 3 + 1 / 28 ** 2 / 3 + 1 / 30 ** 2 / 3, .8, 20, 1.2))
  assert memorised.found(look(1., .8, .81)) is None                                  # validation has hardly risen
  assert memorised.found([x | {'train/loss': .5} for x in look(1., .8, 1.2)]) is None       # training is not near zero
  assert memorised.found(lines) is None and memorised.found([]) is None


def test_a_run_that_learns_by_heart_is_told_and_its_copies_are_counted(tmp_path, capfd):
  answers = [' '.join(WORDS[n:n + 8]) for n in range(4)]
  made = by_heart(tmp_path, task__max_new_tokens=60, training__patience=0, training__best_metric='exact_match',
                  strategy__name='full', training__learning_rate=3e-3,
                  task__train=write_pairs(tmp_path / 'long.jsonl', list(zip('abcd', answers))),
                  task__valid=write_pairs(tmp_path / 'other.jsonl', [('a', 'x'), ('b', answers[1])]))
  result = train_one({**made, 'training': {**made['training'], 'steps': 240, 'eval_every': 40}}, tmp_path / 'run')
  said = capfd.readouterr().err
  told = result['memorised']
  assert told['training'] < .1 * told['last'] and f'{told["last"]:.3g}: it learned its training rows by heart' in said
  lines = [json.loads(line) for line in (tmp_path / 'run' / 'predictions' / 'valid.jsonl').read_text().splitlines()]
  assert [line['prediction'] for line in lines] == answers[:2]
  assert lines[0]['copied'] == {'row': 0, 'words': answers[0].lower()} and 'copied' not in lines[1]
  assert result['copies'] == {'valid': 1} and '1 of 2 valid answers hold words of a training row' in said
