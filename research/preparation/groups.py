"""How the rows are spread over groups of people or things, and which label share each group has."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from research.evaluation.intervals import wilson

MOST = 50      # values of a column that are compared, the commonest; others are counted alone


def shares(values: Sequence[str | None], labels: Sequence[str | None]) -> dict[str, Any]:
  """Of one column: its values with their rows and label shares, and for each label the largest gap between two of them.

  Intervals are of 95 %: of a share Wilson's, of a gap Newcombe's of two shares (1998, his method 10). The largest of many gaps
  is large by chance too, so its interval speaks of these two groups alone.

  Args:
    values: of each row; None where it has none.
    labels: of each row; None where it has none.
  """
  rows = Counter(value for value in values if value is not None)
  of = Counter((value, label) for value, label in zip(values, labels) if value is not None and label is not None)
  known = sorted({label for _, label in of})
  groups = []
  for value, count in sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:MOST]:
    labelled = sum(of[value, label] for label in known)
    said = {label: _share(of[value, label], labelled) for label in known} if labelled else {}
    groups.append({'value': value, 'rows': count, 'of_rows': _share(count, len(values)), 'labels': said})
  return {'groups': groups, 'more': max(0, len(rows) - MOST), 'without': sum(value is None for value in values),
          'gaps': {label: gap for label in known if (gap := _largest(groups, label))}}


def _share(count: int, of: int) -> dict[str, Any]:
  low, high = wilson(count / of, of)
  return {'rows': count, 'share': count / of, 'low': max(0.0, low), 'high': min(1.0, high)}


def _largest(groups: Sequence[dict[str, Any]], label: str) -> dict[str, Any] | None:
  """The gap between the group with the largest and the one with the smallest share of a label."""
  there = [group for group in groups if group['labels']]
  if len(there) < 2:
    return None
  most, least = (choose(there, key=lambda group: group['labels'][label]['share']) for choose in (max, min))
  a, b = most['labels'][label], least['labels'][label]
  gap = a['share'] - b['share']
  return {'gap': gap, 'low': gap - ((a['share'] - a['low']) ** 2 + (b['high'] - b['share']) ** 2) ** 0.5,
          'high': gap + ((a['high'] - a['share']) ** 2 + (b['share'] - b['low']) ** 2) ** 0.5,
          'most': most['value'], 'least': least['value']}
