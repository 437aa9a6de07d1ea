"""What a report says of classes that are taken for one another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.studies import confusion_figure
from research.studies.figures import CONFUSION
from research.studies.findings import Part

TITLE = 'Which classes are confused'


def parts(c: dict[str, Any], rows: Sequence[Mapping[str, Any]], workdir: Path, others: Sequence[Part]) -> list[Part]:
  """A report's parts, with this one before the examples on which arms disagree, where all rows have the same few choices.

  Args:
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl.
    workdir: the study's, which holds the runs' predictions.
    others: the parts, the disagreements last.
  """
  classes, found = confusion_figure.totals(c, rows, workdir)
  sentences = []
  for arm, table in found.items():
    names = [*classes, 'no class at all']
    wrong = {(i, j): int(table[i, j]) for i in range(len(classes)) for j in range(len(names)) if i != j}
    i, j = max(wrong, key=lambda pair: wrong[pair])
    if wrong[i, j]:
      sentences.append(f'{arm}: most often {names[i]} is taken for {names[j]} ({wrong[i, j]} of its {table[i].sum()}).')
  if not found:
    return [*others]
  return [*others[:-1], Part(TITLE, sentences or ['No class was taken for another.'], CONFUSION), *others[-1:]]
