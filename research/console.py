"""What a person sees while something runs: lines, and a progress bar. Of several processes the first tells it."""

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from research.distributed import processes

T = TypeVar('T')


SECONDS_BETWEEN_UPDATES = 0.2
SECONDS_BETWEEN_LINES = 4.0     # where there is no terminal


LEAST_BAR, WIDEST_BAR = 10, 40      # columns of a terminal


class ProgressLine:
  """Loss, speed and the time left: a live bar on a terminal, a line now and then elsewhere.

  One that begins while another is open, such as validation within training, has its row below the other's, and no line of its
  own at its end.
  """
  _open: ClassVar[list['ProgressLine']] = []      # of this process; the first one's display shows the rows of all

  def __init__(self, label: str, total: int, start: int = 0):
    self._label, self._total, self._facts = label, total, ''
    self._began = self._said = time.monotonic()
    self._within = bool(ProgressLine._open)
    self._start = self._last = start, self._began      # what was done, and when
    self._first: tuple[int, float] | None = None       # at the first update, which comes after what compiles
    self._between = 0.0                                # seconds between the last two updates
    self._bar: Progress | None = None
    self._task: Any = None                             # its row there
    console = Console(stderr=True)
    if console.is_terminal and processes.is_primary():
      outer = ProgressLine._open[0]._bar if self._within else None
      self._bar = outer or Progress(TextColumn('{task.description}', table_column=Column(no_wrap=True)), BarColumn(),
                                    MofNCompleteColumn(), TextColumn('{task.fields[facts]}', table_column=Column(no_wrap=True)),
                                    _Left(table_column=Column(no_wrap=True)), console=console, transient=True)
    ProgressLine._open.append(self)
    if self._bar:
      room = self._fit()
      self._task = self._bar.add_task(escape(shortened(label, room)), total=total, completed=start, facts='', line=self)
      self._bar.start()

  def _fit(self) -> int:
    """Gives each row what a terminal's width leaves: bar, count, facts and time, and then as much of the label as there is room
    for, which it tells."""
    assert self._bar is not None
    bar = next(column for column in self._bar.columns if isinstance(column, BarColumn))
    lines = [line for line in ProgressLine._open if line._bar]
    widest = lambda text: max(len(text(line)) for line in lines)
    taken = widest(lambda line: f'{line._total}/{line._total}') + len('left 0:00:00') + 4
    rest = max(self._bar.console.width - 1 - taken, LEAST_BAR)
    facts = min(widest(lambda line: line._facts), rest - LEAST_BAR)
    rest -= facts
    room = min(widest(lambda line: line._label), rest - LEAST_BAR)
    bar.bar_width = min(WIDEST_BAR, rest - room)
    for line in (line for line in lines if line._task is not None):
      self._bar.update(line._task, description=escape(shortened(line._label, room)), facts=shortened(line._facts, facts))
    return room

  def seconds_left(self) -> float | None:
    """By the speed since the first update, however far updates are apart; None before there is one."""
    done, at = self._last
    first, since = self._first if self._first and done > self._first[0] else self._start
    if done <= first:
      return None
    passed = min(time.monotonic() - at, self._between)      # not what something else takes, such as validation
    return max(0.0, (at - since) / (done - first) * (self._total - done) - passed)

  def update(self, done: int, facts: str = '') -> None:
    now = time.monotonic()
    self._between = now - self._last[1]
    self._last, self._facts = (done, now), facts
    self._first = self._first or self._last
    if self._bar:
      self._fit()
      self._bar.update(self._task, completed=done)
      return
    if now - self._said < SECONDS_BETWEEN_LINES and (done < self._total or self._within):
      return
    self._said = now
    say(f'{self._label}  {done}/{self._total}  {facts}  {self.seconds_left() or 0:.0f} s left')

  def close(self) -> None:
    ProgressLine._open.remove(self)
    if self._bar and self._within:
      self._bar.remove_task(self._task)
    elif self._bar:
      self._bar.stop()


class _Left(ProgressColumn):
  """The time that is left, which goes on between updates."""

  def render(self, task: Task) -> Text:
    seconds = task.fields['line'].seconds_left()
    return Text('left ' + ('-:--:--' if seconds is None else str(datetime.timedelta(seconds=round(seconds)))))


def shortened(text: str, room: int) -> str:
  """A text in at most so many characters: its beginning and its end, with … between them."""
  if len(text) <= room:
    return text
  if room < 2:
    return '…'[:room]
  end = (room - 1) // 2
  return f'{text[:room - 1 - end]}…{text[len(text) - end:]}'


def tracked(items: Sequence[T], label: str | None, size: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
  """The items one by one, with a progress line under `label`; without one in silence.

  Args:
    items: what is to be done, part by part.
    label: of the line, or None.
    size: of each item, in what is counted.
  """
  if label is None:
    yield from items
    return
  progress, done = ProgressLine(label, sum(map(size, items))), 0
  try:
    for item in items:
      yield item
      done += size(item)
      progress.update(done)
  finally:
    progress.close()


@contextmanager
def progress(label: str, total: int, facts: Callable[[float], str] = lambda seconds: '') -> Iterator[Callable[[int], None]]:
  """Gives what is called with how many more are done, and shows it; without a terminal, what is quickly done is not told.

  Args:
    label: of the line.
    total: how many there are; 0: nobody knows, and nothing is shown.
    facts: of the seconds since it began, what is said beside it.
  """
  line, done, began = ProgressLine(label, total), 0, time.monotonic()
  said = began

  def more(count: int) -> None:
    nonlocal done, said
    done, now = done + count, time.monotonic()
    if total and now - said >= SECONDS_BETWEEN_UPDATES:
      said = now
      line.update(min(done, total - 1), facts(now - began))
  try:
    yield more
  finally:
    line.close()
  if (seconds := time.monotonic() - began) >= SECONDS_BETWEEN_LINES:
    say(f'{label}: {done:,} in {seconds:.0f} s')


def is_coloured() -> bool:
  """Whether what is printed may have colours (https://no-color.org)."""
  return sys.stdout.isatty() and not os.environ.get('NO_COLOR')


def say(text: str) -> None:
  """One line for the person who watches."""
  if processes.is_primary():
    print(text, file=sys.stderr, flush=True)


def put(pieces: Iterable[str]) -> None:
  """Prints a text and ends its line: piece by piece as they come on a terminal, elsewhere at one time."""
  for piece in pieces if sys.stdout.isatty() else [''.join(pieces)]:
    if processes.is_primary():
      print(piece, end='', flush=True)
  if processes.is_primary():
    print()


_SAID: set[str] = set()


def say_once(text: str) -> None:
  """The same of what is found each time that rows are read: a line that was said in this process is not said again."""
  if text and text not in _SAID:
    _SAID.add(text)
    say(text)
