"""What says which step is best: a metric, or a weighed sum of them, such as `accuracy + 0.5*retain/accuracy`."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from research.data.tasks import Task
from research.errors import InputError
from research.evaluation import metrics

RETAIN = 'retain/'      # before a metric: of the task that training watches beside its own (`task.retain`)
_TERM = re.compile(r'(?:((?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\*)?(.+)')


class Weighed(NamedTuple):
  """A sum of metrics, each with its weight; of one metric the weight is 1."""
  terms: tuple[tuple[float, str], ...]      # (weight, metric), a metric of the watched task after `retain/`
  higher_is_better: bool

  @property
  def name(self) -> str:
    """What it is called in the lines of a run: the metric where it is one alone."""
    return self.terms[0][1] if self.is_one else 'weighed'

  @property
  def is_one(self) -> bool:
    return len(self.terms) == 1 and self.terms[0][0] == 1

  @property
  def of_task(self) -> frozenset[str]:
    """The metrics of the task itself."""
    return frozenset(name for _, name in self.terms if not name.startswith(RETAIN))

  @property
  def of_watched(self) -> frozenset[str]:
    """The metrics of the watched task."""
    return frozenset(name.removeprefix(RETAIN) for _, name in self.terms if name.startswith(RETAIN))

  def of(self, scores: Mapping[str, float]) -> float:
    """The sum, where the scores are known by the names that the terms have."""
    return sum(weight * scores[name] for weight, name in self.terms)


def read(text: str) -> Weighed:
  """What `training.best_metric` says.

  Args:
    text: metrics with ` + ` or ` - ` between them, each with a weight before it where that is not 1 (`0.5*chrf`). The first
      decides whether more is better; one for which less is better is taken away where more is better, and the other way round.
  Raises:
    InputError: it is no such sum, names no metric, or adds what is better high to what is better low.
  """
  first, *others = re.split(r'\s+([+-])\s+', text.strip())
  terms: list[tuple[float, str]] = []
  higher = True
  for sign, term in zip(('+', *others[::2]), (first, *others[1::2])):
    found = _TERM.fullmatch(term)
    if not found or not float(found[1] or 1):
      raise InputError(f'training.best_metric={text}: {term!r} is no metric, nor one with a weight above 0 such as '
                       '0.5*accuracy; between two stands " + " or " - "')
    try:
      better_high = metrics.get(found[2].removeprefix(RETAIN)).higher_is_better
    except InputError as e:
      raise InputError(f'training.best_metric={text}: {str(e).removeprefix("task.metrics: ")}') from None
    higher = higher if terms else better_high
    if (better_high == higher) != (sign == '+'):
      raise InputError(f'training.best_metric={text}: of {found[2]} {"more" if better_high else "less"} is better, of '
                       f'the first {"more" if higher else "less"}: write " {"-" if sign == "+" else "+"} {term}"')
    terms.append((float(found[1] or 1) * (1 if sign == '+' else -1), found[2]))
  return Weighed(tuple(terms), higher)


def check(by: Weighed, text: str, task: Task, watched: Task | None) -> None:
  """Refuses metrics that are not measured.

  Args:
    by: what `read` found.
    text: where it found that.
    task: what is learned.
    watched: the task that training watches; None where there is none.
  Raises:
    InputError: says what is measured instead.
  """
  if by.of_watched and watched is None:
    raise InputError(f'training.best_metric={text}: {RETAIN}… is of a task that is watched; name one by task.retain')
  for prefix, names, of in (('', by.of_task, task), (RETAIN, by.of_watched, watched)):
    known = ('loss', *(of.metrics if of else ()))
    if not names <= {*known}:
      raise InputError(f'training.best_metric={text}: {"what task.retain names" if prefix else f"task {task.name}"} measures '
                       f'{", ".join(prefix + one for one in known)}')
