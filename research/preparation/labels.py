"""Labels: those that mean the same made one, and rows whose label their words contradict."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from research.preparation.words import split

FOLDS = 5
MOST = 50_000          # rows that are looked at for suspects, drawn by the seed
CONFIDENT = 0.9        # probability of another label from which on a row is a suspect
LEAST = 10             # rows of a label from which on it can be told from others by words


class Suspect(NamedTuple):
  """A row whose label its words contradict."""
  number: int
  label: str
  other: str             # what they say
  probability: float


def same(label: str) -> str:
  """What labels that differ by capitals or blanks alone have in common."""
  return ' '.join(label.casefold().split())


def joined(labels: Sequence[str | None], choices: Sequence[str]) -> dict[str, str]:
  """Label -> the one that it becomes, for those that change: a choice, or the commonest of those that mean the same.

  Args:
    labels: of all rows.
    choices: what labels can be, where that is known.
  """
  counts = Counter(label for label in labels if label is not None)
  of: dict[str, list[str]] = {}
  for label in sorted(counts, key=lambda label: (label not in choices, -counts[label], label)):
    of.setdefault(same(label), []).append(label)
  own = {same(choice): choice for choice in choices}
  return {label: into for key, forms in of.items() for into in [own.get(key, forms[0])] for label in forms if label != into}


def suspects(texts: Sequence[str], labels: Sequence[str], numbers: Sequence[int], seed: int) -> list[Suspect]:
  """Rows to which logistic regression on words, trained on the others, gives another label with `CONFIDENT` probability.

  Each row is judged by a model that has not seen it (five folds). The most confident come first.

  Args:
    texts: of rows.
    labels: of them.
    numbers: of them.
    seed: of the folds.
  """
  counts = Counter(labels)
  told = [at for at, label in enumerate(labels) if counts[label] >= LEAST]
  names = sorted({labels[at] for at in told})
  if len(names) < 2:
    return []
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import StratifiedKFold, cross_val_predict
  read = TfidfVectorizer(tokenizer=split, token_pattern=None, lowercase=False, sublinear_tf=True, ngram_range=(1, 2), min_df=2,
                         max_features=200_000)
  try:
    words = read.fit_transform([texts[at] for at in told])
  except ValueError:          # no word stands in two rows
    return []
  of = np.array([names.index(labels[at]) for at in told])
  model, folds = LogisticRegression(C=10.0, max_iter=300), StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
  shares = cross_val_predict(model, words, of, cv=folds, method='predict_proba')
  best = shares.argmax(1)
  found = [Suspect(numbers[told[i]], names[of[i]], names[best[i]], float(shares[i, best[i]]))
           for i in np.flatnonzero((best != of) & (shares.max(1) >= CONFIDENT)).tolist()]
  return sorted(found, key=lambda one: (-one.probability, one.number))
