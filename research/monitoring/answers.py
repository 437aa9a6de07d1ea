"""What answers are like: refusals, and texts that go round in circles."""

import re
from collections import Counter

from research.evaluation.words import words

# How a refusal begins; of English answers alone. A pattern counts within the first words of an answer.
REFUSALS = (r"i(?:'m| am) (?:so |very |really )?sorry", r"i (?:can ?not|can't|could not|couldn't|won't|will not) \w+",
            r"i(?:'m| am) (?:not able|unable) to", r'as an? (?:ai|language model|assistant)\b', r'i (?:must|have to) decline')
_REFUSAL = re.compile(rf"^\W*(?:(?:sorry|unfortunately|apologies|but|however)\W+){{0,2}}(?:{'|'.join(REFUSALS)})", re.I)
LOOP, TIMES = 4, 3      # so many words that stand so many times in an answer make a loop


def is_refusal(answer: str) -> bool:
  """Whether an answer begins as one of `REFUSALS`."""
  return _REFUSAL.search(answer.replace('’', "'")[:200]) is not None


def is_loop(answer: str) -> bool:
  """Whether the same `LOOP` words stand `TIMES` times or more in an answer."""
  found = words(answer)
  counts = Counter(tuple(found[at:at + LOOP]) for at in range(len(found) - LOOP + 1))
  return max(counts.values(), default=0) >= TIMES
