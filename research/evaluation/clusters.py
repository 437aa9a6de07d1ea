"""Examples that belong together: what varies is then the cluster, and its examples' sums are those of one.

Questions on one passage, or turns of one dialogue, are right or wrong together, so that 400 of them tell as much as their 20
passages do (Miller 2024, arXiv 2411.00640). A score is a function of sums, so a cluster stands where an example stood: in the
bootstrap, in the jackknife's pseudo-values, and in the crossed model of seeds and examples.
"""

from collections.abc import Hashable, Sequence

import numpy as np


def sums(vectors: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
  """A metric's sums over each cluster, of shape [c, k], in the order in which these come.

  Args:
    vectors: of each example, of shape [n, k].
    clusters: of each example, the one that it is of; none: each is its own.
  """
  if not len(clusters):
    return vectors
  number = {cluster: at for at, cluster in enumerate(dict.fromkeys(clusters))}
  out = np.zeros((len(number), vectors.shape[1]))
  np.add.at(out, [number[cluster] for cluster in clusters], vectors)
  return out
