"""Where arms answer differently: the rows themselves, in a table, grouped by who is right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.evaluation import templates
from research.studies import outcomes

SHOWN = 6             # examples in the table
GROUPS = 8            # that are counted in a sentence
RIGHT = '✓ '     # before an answer that is right
Lines = Sequence[Mapping[str, Any]]


def found(c: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
          workdir: Path) -> tuple[list[str], list[tuple[str, ...]] | None]:
  """Sentences on the examples to which the arms give different answers, of each arm's first seed, and a table of some of them.

  Args:
    c: one of comparison.json's `comparisons`.
    rows: the lines of results.jsonl of its model and task.
    workdir: the study's, which holds the runs' predictions.
  """
  said: dict[str, list[dict[str, Any]]] = {}
  for a in c['arms']:
    row = next(r for r in rows if r['selected'] and r['arm'] == a['arm'])
    said[a['arm']] = [*templates.rows(outcomes.predictions(workdir, row['key'], c['split']))]
  first = next(iter(said.values()))
  if not any(line['prediction'].strip() for lines in said.values() for line in lines):
    return ['Nothing was answered: only the loss was measured.'], None
  answers = [{arm: lines[i]['prediction'].strip() for arm, lines in said.items()} for i in range(len(first))]
  differ = [i for i, one in enumerate(answers) if len({*one.values()}) > 1]
  out = [f'On {len(differ)} of {len(first)} {c["split"]} examples some arm answers otherwise than another (the first seed of '
         'each).']
  right = {i: tuple(arm for arm, answer in answers[i].items() if answer in _truths(first[i])) for i in differ}
  groups = Counter(right.values()).most_common()
  if not differ:
    return out, None
  told = [f'{_named(arms, said)} {count}' for arms, count in groups[:GROUPS]]
  out.append(f'Who is right there: {"; ".join(told)}' +
             (f'; and {len(groups) - GROUPS} other groups.' if len(groups) > GROUPS else '.'))
  shown = rows_shown(first)
  columns = list(dict.fromkeys(name for i in differ for name in shown[i]))
  table: list[tuple[str, ...]] = [('right', columns[0] if len(columns) == 1 else 'row', 'truth', *said)]
  for i in _chosen(differ, right, answers, [arms for arms, _ in groups]):
    text_of = ' · '.join(f'{name}: {text}' if len(columns) > 1 else text for name, text in shown[i].items())
    table.append((_named(right[i], said), text_of, outcomes.cut(first[i]['target'].strip()),
                  *(RIGHT * (arm in right[i]) + outcomes.cut(answer) for arm, answer in answers[i].items())))
  return out, table


def _truths(line: Mapping[str, Any]) -> list[str]:
  return [text.strip() for text in (line['target'], *(line.get('references') or ()))]


def _named(arms: Sequence[str], of: Mapping[str, Any]) -> str:
  return 'all' if len(arms) == len(of) else ', '.join(arms) or 'none'


def _chosen(differ: Sequence[int], right: Mapping[int, tuple[str, ...]], answers: Sequence[Mapping[str, str]],
            groups: Sequence[tuple[str, ...]]) -> list[int]:
  """Some examples of each group in turn, the larger groups first, those with the most different answers first in each."""
  by_group = {arms: sorted((i for i in differ if right[i] == arms), key=lambda i: (-len({*answers[i].values()}), i))
              for arms in groups}
  in_turn = [of[n] for n in range(SHOWN) for of in by_group.values() if n < len(of)][:SHOWN]
  return sorted(in_turn, key=lambda i: (groups.index(right[i]), i))


def rows_shown(lines: Lines) -> list[dict[str, str]]:
  """Of each example its row's columns but the one that is the target; where rows were not kept, what its prompt alone holds."""
  if all(line.get('shown') or line.get('row') for line in lines):
    kept = [line.get('shown') or outcomes.shown(line['row']) for line in lines]
    return [{name: text for name, text in row.items() if text != line['target'].strip()} or row
            for row, line in zip(kept, lines)]
  of_each = [line['prompt'].strip().split('\n\n') for line in lines]
  of_each = [found[1:] if len(line['prompt'].strip()) >= outcomes.PROMPT and len(found) > 1 else found
             for found, line in zip(of_each, lines)]                      # the first may be cut in its midst
  held = Counter(text for texts in of_each for text in {*texts})
  return [{'prompt': outcomes.cut('\n\n'.join(text for text in texts if held[text] == 1) or texts[-1])} for texts in of_each]
