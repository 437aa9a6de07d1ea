"""Words of a text in any script, and the scores of texts that are made of them: token F1 and ROUGE."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import regex

# A character of a script that sets no blanks between words, with its marks: each is taken for a word.
_ALONE = (r'(?=[\p{L}\p{N}])[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u30fc]'
          r'[\p{M}\u200d]*')
_WITHOUT_BLANKS = regex.compile(_ALONE)
_WORD = regex.compile(rf'{_ALONE}|(?:(?!{_ALONE})[\p{{L}}\p{{N}}\p{{M}}])+|\p{{So}}')
_PIECE = regex.compile(rf'{_ALONE}|(?:(?!{_ALONE})\S)+')
_PUNCTUATION = regex.compile(r'[\p{P}\p{S}]')
_ASCII_PUNCTUATION = regex.compile(r'[!-/:-@\[-`{-~]')
_ARTICLE = regex.compile(r'\b(?:a|an|the)\b')
_STEMMED = 3      # words of more letters than these are stemmed


class _Stemmer(Protocol):
  def stem(self, word: str) -> str: ...


def without_blanks(text: str) -> bool:
  """Whether most letters of a text are of scripts that set no blanks between words, such as Chinese, Japanese and Thai."""
  return 2 * len(_WITHOUT_BLANKS.findall(text)) > sum(map(str.isalpha, text))


def words(text: str) -> list[str]:
  """The words of a text in lower case: of letters in any script, characters of scripts without blanks, and symbols."""
  return _WORD.findall(unicodedata.normalize('NFC', text).lower())


class Words:
  """A tokenizer for `rouge_score.rouge_scorer.RougeScorer`, whose own takes every letter outside of ASCII for a blank.

  Of a text in ASCII its tokens are those of rouge-score's own with the Porter stemmer. Letters of all scripts make words,
  characters of scripts without blanks are a word each, and so is a symbol such as an emoji.
  """

  def __init__(self) -> None:
    from nltk.stem.porter import PorterStemmer
    self._stem: _Stemmer = PorterStemmer()

  def tokenize(self, text: str) -> list[str]:
    found = words(text)
    return [self._stem.stem(word) if word.isascii() and len(word) > _STEMMED else word for word in found]


@lru_cache(maxsize=8)
def _rouge(kind: str) -> Any:
  from rouge_score import rouge_scorer
  return rouge_scorer.RougeScorer([kind], tokenizer=Words())


def rouge(kind: str, prediction: str, references: Sequence[str]) -> float:
  """ROUGE's F-measure by rouge-score; the best over the references.

  Args:
    kind: rouge1, rouge2, rougeL, or rougeLsum, for which each line is a sentence.
    prediction: what was said.
    references: what would be right to say.
  """
  return float(_rouge(kind).score_multi(references, prediction)[kind].fmeasure)


def answer_tokens(text: str, in_any_script: bool) -> list[str]:
  """A text's words as SQuAD's evaluation compares them: lower case, without punctuation and English articles.

  Args:
    text: an answer.
    in_any_script: punctuation goes in all scripts, not in ASCII alone, and characters of scripts without blanks are a word
      each. Of a text in ASCII the words are the same.
  """
  if not in_any_script:
    return _ARTICLE.sub(' ', _ASCII_PUNCTUATION.sub('', text.lower())).split()
  text = _PUNCTUATION.sub('', unicodedata.normalize('NFC', text).lower())
  return list(_PIECE.findall(_ARTICLE.sub(' ', text)))


def token_f1(prediction: str, references: Sequence[str], in_any_script: bool = False) -> float:
  """SQuAD's F1 of the words of two texts (Rajpurkar et al. 2016); the best over the references.

  Args:
    prediction: what was said.
    references: what would be right to say.
    in_any_script: as for `answer_tokens`.
  """
  said = answer_tokens(prediction, in_any_script)
  return max(_f1(said, answer_tokens(reference, in_any_script)) for reference in references)


def _f1(said: list[str], right: list[str]) -> float:
  if not said or not right:
    return float(said == right)
  return 2 * sum((Counter(said) & Counter(right)).values()) / (len(said) + len(right))
