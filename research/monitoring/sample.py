"""What is known of a request, or of a reference row, when it is compared: numbers alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
  """Requests in their order, or reference rows; each array has one entry for each of them."""
  vectors: np.ndarray      # [N, D] where a text lies, after `space.Space`
  tokens: np.ndarray       # [N] of the prompt
  language: np.ndarray     # [N] of its text; '' where that is too short to tell
  unknown: np.ndarray      # [N] share of its words that the reference does not have
  label: np.ndarray        # [N] what was answered, of choices; '' where there were none; of a reference what is right
  loss: np.ndarray         # [N] of the answer, in nats per token; NaN where it is not known, as for a reference
  ended: np.ndarray        # [N] how the answer ended; '' for a reference

  @property
  def rows(self) -> int:
    """How many they are."""
    return len(self.tokens)

  def part(self, which: slice | np.ndarray) -> 'Sample':
    """Some of them; `which` is a slice, or numbers of shape [K]."""
    return Sample(*(getattr(self, name)[which] for name in self._fields))


def joined(parts: Sequence[Sample]) -> Sample:
  """All of them, one sample after the other."""
  return Sample(*(np.concatenate([getattr(part, name) for part in parts]) for name in Sample._fields))


class Reference(NamedTuple):
  """Rows that traffic is held against, in two parts that share no row."""
  learned: Sample      # by which scores are made; the model may have been trained on them
  fresh: Sample        # which nothing was made by: requests are ranked among them
