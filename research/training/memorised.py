"""Whether a run has learned its training rows by heart: their loss is near zero while that of validation has risen."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NEAR_ZERO = 0.1      # of validation's loss: below that share of it training's counts as near zero
RISEN = 1.05         # times the lowest validation loss: above that validation's has risen
END = 0.1            # of the steps: over so many last ones training's loss is averaged


class Memorised(NamedTuple):
  """Losses, in nats a target token, of a run that learned by heart."""
  training: float      # over the last steps
  lowest: float        # of validation
  step: int            # where it was lowest
  last: float          # of validation, at its last look

  def __str__(self) -> str:
    return (f'its training loss fell to {self.training:.3g} while validation\'s rose from {self.lowest:.3g} (step {self.step}) '
            f'to {self.last:.3g}: it learned its training rows by heart')


def found(lines: Sequence[Mapping[str, Any]]) -> Memorised | None:
  """What a run's lines tell, or None where it did not learn by heart as far as they show.

  Args:
    lines: of metrics.jsonl, of a run whose training loss is that of its validation, a target token's.
  """
  valid = [(line['valid/loss'], line['step']) for line in lines if 'valid/loss' in line]
  training = [line['train/loss'] for line in lines if 'train/loss' in line]
  if not valid or not training:
    return None
  end = training[-max(1, round(END * len(training))):]
  last, (lowest, step) = valid[-1][0], min(valid)
  told = Memorised(sum(end) / len(end), lowest, step, last)
  return told if told.training < NEAR_ZERO * last and last > RISEN * lowest else None
