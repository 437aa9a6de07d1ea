"""What is known of each row, and what was found out on the way."""

from array import array
from collections import Counter
from sys import intern

from research.preparation.corpus import SHOWN, Corpus
from research.preparation.duplicates import Leaks, Same
from research.preparation.examine import Examined
from research.preparation.labels import Suspect
from research.preparation.settings import PrepareSettings


class About:
  """What is known of each row that was kept once, by its number."""

  def __init__(self, settings: PrepareSettings):
    """
    Args:
      settings: name the columns.
    """
    self.labels: list[str | None] = []
    self.groups: list[str | None] = []
    self.times = array('d')
    self.splits = array('b')                            # that their own columns say
    self.tokens = array('i')
    self.values: dict[str, list[str | None]] = {column: [] for column in settings.row.groups or ()}
    self.changes: Counter[str] = Counter()              # see `examine.Part`

  def add(self, row: Examined) -> None:
    """One row more."""
    same = lambda value: None if value is None else intern(value)      # few values, many rows
    self.labels.append(same(row.label))
    self.groups.append(same(row.group))
    self.times.append(row.time)
    self.splits.append(row.split)
    self.tokens.append(row.tokens)
    for values, value in zip(self.values.values(), row.groups):
      values.append(same(value))


class Result:
  """What was found out on the way, for the report."""

  def __init__(self) -> None:
    self.same: Counter[str] = Counter()                 # exact and near duplicates
    self.clusters: Counter[int] = Counter()             # a row -> how many others it was, or nearly was
    self.of_cluster: dict[int, list[str]] = {}          # and where the first of them stand
    self.personal: Counter[str] = Counter()
    self.joined: Counter[tuple[str, str]] = Counter()      # (label, the one that it became) -> rows
    self.suspects: list[Suspect] = []
    self.looked_at = 0                                  # rows among which suspects were looked for
    self.leaks = Leaks([], [])
    self.times: dict[str, float] = {}                   # stage -> seconds

  def duplicate(self, corpus: Corpus, one: Same) -> None:
    """One row that is, or nearly is, another."""
    self.same[one.kind] += 1
    self.clusters[one.other] += 1
    where = self.of_cluster.setdefault(one.other, [])
    if len(where) < SHOWN:
      where.append(corpus.where(one.number))
