"""What a report says of how choices are scored: whether the order of the arms hangs on it."""

import itertools
from collections.abc import Collection, Sequence
from typing import Any

from research.studies.figures import RELIABILITY
from research.studies.findings import Part

TITLE = 'Does it hang on how choices are scored'


def parts(c: dict[str, Any], others: Sequence[Part], drawn: Collection[str] = ()) -> list[Part]:
  """A report's parts, with one on this after the answer where choices are ranked, and one on calibration where it is measured.

  Args:
    c: one of comparison.json's `comparisons`.
    others: the parts, the answer first.
    drawn: names of the figures that there are.
  """
  if RELIABILITY in drawn:
    others = [others[0], Part('Can its confidence be believed', [
        'ECE is how far the probability of the given answer is from how often it is right, on average; by the softmax of what '
        'choices are ranked by, before any scaling.'], RELIABILITY), *others[1:]]
  found = c.get('scorings')
  if not found or len(c['arms']) < 2:
    return [*others]
  before = {a['arm']: a['mean'] for a in c['arms']}
  turned = {rule: [(a, b) for a, b in itertools.combinations(means, 2) if (means[a] - means[b]) * (before[a] - before[b]) < 0]
            for rule, means in found.items()}
  said = ', '.join(f'task.scoring={rule} ({"; ".join(f"{a} and {b}" for a, b in pairs)} change places)'
                   for rule, pairs in turned.items() if pairs)
  sentence = (f'The order of the arms hangs on it: it is another under {said}.' if said else
              'By the sum of log-likelihoods, by token or by byte, the arms come in the same order.')
  table: list[tuple[str, ...]] = [('arm', 'reported', *found)]
  table += [(a, f'{before[a]:.3f}', *(f'{means[a]:.3f}' for means in found.values())) for a in next(iter(found.values()))]
  return [others[0], Part(TITLE, [sentence + ' Nothing here is tested; calibrated arms keep their own ranking.'], table=table),
          *others[1:]]
