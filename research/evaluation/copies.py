"""Answers that a model wrote by copying from the rows that it was trained on."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from research.evaluation.words import words

STRETCH = 13      # words in a row that are a copy (as `prepare` looks for leaks, and GPT-3's authors did)
SHORTEST = 8      # words of an answer that is a copy as a whole


class Copy(NamedTuple):
  """What an answer shares with a training row."""
  row: int        # the training row's number, from 0; the first that holds it
  words: str      # the stretch, as words in lower case


def found(answers: Sequence[str], known: Sequence[Iterable[str]], training: Sequence[Iterable[str]]) -> list[Copy | None]:
  """Of each answer the first stretch of `STRETCH` words, or the whole of a shorter answer of `SHORTEST` or more, that stands
  word for word in a training row, and neither in its own prompt nor in an answer that is right.

  Args:
    answers: that were written.
    known: of each answer the texts that it may repeat.
    training: of each row its texts.
  """
  wanted = defaultdict[tuple[str, ...], list[tuple[int, str]]](list)      # the first words of a stretch -> answer, stretch
  for number, (answer, own) in enumerate(zip(answers, known)):
    said = words(answer)
    if len(said) < SHORTEST:
      continue
    may = [_spaced(words(text)) for text in own]
    length = min(STRETCH, len(said))
    for at in range(len(said) - length + 1):
      stretch = _spaced(said[at:at + length])
      if not any(stretch in text for text in may):
        wanted[(*said[at:at + SHORTEST],)].append((number, stretch))
  copies: list[Copy | None] = [None] * len(answers)
  for row, texts in enumerate(training if wanted else ()):
    for said in map(words, texts):
      whole = ''
      for at in range(len(said) - SHORTEST + 1):
        for number, stretch in wanted.get((*said[at:at + SHORTEST],), ()):
          whole = whole or _spaced(said)
          if copies[number] is None and stretch in whole:
            copies[number] = Copy(row, stretch.strip())
  return copies


def _spaced(of: Collection[str]) -> str:
  """Words as one text, in which whole words alone are found."""
  return f' {" ".join(of)} '
