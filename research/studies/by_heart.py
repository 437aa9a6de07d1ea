"""What a report says of runs that learned their training rows by heart, and of answers that are copies of such rows."""

from collections.abc import Sequence
from typing import Any

from research.evaluation.copies import SHORTEST, STRETCH
from research.studies.findings import Part
from research.studies.variation import templates
from research.training.memorised import Memorised


def parts(c: dict[str, Any], rows: Sequence[dict[str, Any]], others: Sequence[Part]) -> list[Part]:
  """A report's parts, where the one on overfitting also says what was learned by heart.

  Args:
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
    others: the parts.
  """
  chosen = [row for row in rows if row['selected'] and (row['model'], row['task']) == (c['model'], c['task'])]
  sentences = [f'{row["arm"]}, seed {row["seed"]}: {Memorised(**row["result"]["memorised"])}.' for row in chosen
               if row['result'].get('memorised')]
  copies: dict[str, list[int]] = {}
  for row in chosen:
    if c['split'] in (found := row['result'].get('copies') or {}):
      copies.setdefault(row['arm'], []).append(found[c['split']])
  if copies:
    told = ', '.join(f'{arm} {sum(found)} of {c["examples"] * templates(c) * len(found)}' for arm, found in copies.items())
    sentences.append(f'Answers that hold {STRETCH} words in a row of a training row (or are {SHORTEST} or more words that as a '
                     f'whole stand in one), which neither their prompt nor a right answer has: {told}.')
  return [part._replace(sentences=[*part.sentences, *sentences]) if part.figure == 'learning' else part for part in others]
