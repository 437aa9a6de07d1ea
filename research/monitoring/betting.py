r"""Evidence that may be looked at whenever one likes: bets on p-values that are uniform as long as nothing changed.

Where p-values p_1, p_2, … are independent and uniform, a player who pays f(p_t) for each unit staked, f ≥ 0 with ∫f = 1 and
chosen before p_t is seen, has a wealth that is a martingale with mean 1. By Ville's inequality it ever reaches 1/α with
probability α at most, however often one looks (Shafer 2021, "Testing by betting"; Waudby-Smith & Ramdas 2024, arXiv
2010.09686). So wealth is evidence: an e-process.

`wealth` spreads the one unit over bets (`BETS`: what p-values may look like where requests are stranger, less strange, or both)
and over the requests from which on they are placed, since nobody knows when a change comes. What has not begun yet is kept. The
share that begins with request t is 1/log2(1+t) - 1/log2(2+t), so that 1/log2(2+t) is left after it: a change after 4,000 quiet
requests is found with some nats more evidence than one at the first, and quiet requests never use the wealth up.
"""

from typing import NamedTuple

import numpy as np

MOST = 1e100      # wealth that no more is counted above


class Bet(NamedTuple):
  """The density 1 - share + share * [p < below] / below, of p or of 1 - p."""
  share: float
  below: float
  mirrored: bool


STRANGER = tuple(Bet(share, below, False) for share in (0.05, 0.1, 0.25, 0.6) for below in (0.01, 0.05, 0.2, 0.5))
BETS = {'upper': STRANGER, 'both': STRANGER + tuple(bet._replace(mirrored=True) for bet in STRANGER)}


def pays(p: np.ndarray, bets: tuple[Bet, ...]) -> np.ndarray:
  """What each bet pays, of shape [..., bets], at p-values [...]; where there is none (NaN) the stake comes back."""
  share, below, mirrored = (np.array(x) for x in zip(*bets))
  sides = np.where(mirrored, 1 - p[..., None], p[..., None])
  return np.where(np.isnan(p)[..., None], 1.0, 1 - share + share * (sides < below) / below)


def wealth(p: np.ndarray, sides: str) -> np.ndarray:
  """The wealth after each p-value, of shape [..., T]; it begins with 1.

  Args:
    p: p-values of shape [..., T], in the order in which they came.
    sides: 'upper': strange requests have small ones; 'both': or large ones.
  """
  bets = BETS[sides]
  times = p.shape[-1]
  kept = 1 / np.log2(2 + np.arange(times + 1))                       # [T + 1], after each request
  placed = np.zeros((*p.shape[:-1], len(bets)))
  found = np.empty(p.shape)
  for t in range(times):
    placed = np.minimum((placed + (kept[t] - kept[t + 1]) / len(bets)) * pays(p[..., t], bets), MOST)
    found[..., t] = kept[t + 1] + placed.sum(-1)
  return found


def since(p: np.ndarray, crossed: int, sides: str) -> int:
  """The request, from 0, with which the change began: after it the bet that won most had its lowest wealth.

  Args:
    p: p-values of shape [T].
    crossed: the request at which the wealth crossed its threshold.
    sides: as for `wealth`.
  """
  logs = np.cumsum(np.log(pays(p[:crossed + 1], BETS[sides])), axis=0)      # [T, bets]
  logs = np.concatenate([np.zeros((1, logs.shape[1])), logs])
  risen = logs[-1] - logs.min(0)
  return int(logs[:, risen.argmax()].argmin())
