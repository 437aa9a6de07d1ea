"""Words of any script: identical texts score 1, different ones do not; of ASCII they are what SQuAD and ROUGE make of it."""

import collections
import itertools
import re
import string

import pytest

from research.data import tasks
from research.evaluation import words

pytestmark = pytest.mark.quick

TEXTS = ['我喜欢这部电影', '映画が好きです。', 'Größe und Öl', 'ฉันชอบหนัง', 'Привет, мир', 'मुझे फ़िल्म पसंद है',
         '영화를 좋아해요', '👍', 'the cat sat', 'déjà vu', 'سلام دنیا']
SHIPPED = [row[column].strip() for name, column in (('summary', 'summary'), ('translation', 'source'), ('sentiment', 'text'))
           for row in tasks.make(name, {}).rows('test')]
HARD = ['', 'a', 'The', "it's an_under-score, isn't it?", 'a.b.c', 'one\ntwo\tthree', '  running   RUNNERS ran ', '!!!',
        '12.5%', 'x' * 300]


@pytest.mark.parametrize('kind', ['rouge1', 'rougeL', 'rougeLsum'])
@pytest.mark.parametrize('text', TEXTS)
def test_identical_texts_score_1_and_different_ones_0(text, kind):
  assert words.rouge(kind, text, [text]) == 1
  assert words.token_f1(text, [text]) == words.token_f1(text, [text], in_any_script=True) == 1
  other = 'zzz' if text != 'the cat sat' else 'Öl'
  assert words.rouge(kind, other, [text]) == words.token_f1(other, [text], in_any_script=True) == 0


def test_words_that_differ_outside_of_ascii_alone_differ():
  assert words.rouge('rouge1', 'Öl', ['Ül']) == 0 and words.token_f1('Öl', ['Ül']) == 0
  assert words.rouge('rouge1', 'Öl', ['O\u0308l']) == 1, 'the same letter, written in two ways'


def test_what_is_written_without_blanks_is_compared_by_its_characters():
  assert words.rouge('rouge1', '我喜欢电影', ['我喜欢这部电影']) == pytest.approx(2 * 5 / 12)
  assert words.token_f1('我喜欢电影。', ['我喜欢这部电影'], in_any_script=True) == pytest.approx(2 * 5 / 12)
  assert words.token_f1('我喜欢电影', ['我喜欢这部电影']) == 0, 'to SQuAD it is one word'
  assert all(map(words.without_blanks, ('我喜欢', 'カラー', 'ฉันชอบ')))
  assert not any(map(words.without_blanks, ('Öl', '영화를 좋아해요', 'see 電影 there', '', '12')))


def test_of_ascii_the_words_of_rouge_are_rouge_scores_own():
  from rouge_score import tokenizers
  ours, theirs = words.Words(), tokenizers.DefaultTokenizer(use_stemmer=True)
  plain = [text for text in (*SHIPPED, *HARD) if text.isascii()]
  assert len(plain) > 900
  for text in plain:
    assert ours.tokenize(text) == theirs.tokenize(text), text


def squad(text):
  """normalize_answer of SQuAD's evaluate-v1.1.py, split."""
  text = ''.join(c for c in text.lower() if c not in set(string.punctuation))
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split()).split()


def test_token_f1_is_squads():
  for text in (*SHIPPED, *HARD, *TEXTS):
    assert words.answer_tokens(text, False) == squad(text), text
    if text.isascii():
      assert words.answer_tokens(text, True) == squad(text), text
  for said, right in itertools.pairwise(SHIPPED):
    a, b = squad(said), squad(right)
    same = sum((collections.Counter(a) & collections.Counter(b)).values())
    expected = 0 if not same else 2 * (same / len(a)) * (same / len(b)) / (same / len(a) + same / len(b))
    assert words.token_f1(said, [right]) == pytest.approx(expected)


def test_no_words_at_all_are_right_where_none_are_asked():
  assert words.token_f1('', ['']) == words.token_f1('the', ['a']) == 1
  assert words.token_f1('', ['word']) == words.token_f1('word', ['']) == words.rouge('rouge1', '', ['word']) == 0


def test_a_sentence_of_rouge_lsum_is_a_line():
  assert words.rouge('rougeLsum', 'b\na', ['a\nb']) == 1 > words.rouge('rougeL', 'b\na', ['a\nb'])
