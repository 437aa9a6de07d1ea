"""The space in which texts are compared: a model's vectors, whitened along the directions in which the reference varies."""

from typing import NamedTuple

import numpy as np

DIRECTIONS = 16


class Space(NamedTuple):
  """Made by the reference's learned rows alone."""
  center: np.ndarray      # [D]
  axes: np.ndarray        # [K, D] orthonormal
  scales: np.ndarray      # [K] standard deviations along them
  beside: np.ndarray      # [2] mean and standard deviation of the distance from all of them

  def place(self, vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] as [N, K + 1]: where they lie along the axes, and how far from all of them, in standard deviations."""
    centered = vectors.astype(np.float64) - self.center
    along = centered @ self.axes.T
    beside = np.sqrt(np.maximum((centered ** 2).sum(1) - (along ** 2).sum(1), 0))
    return np.column_stack([along / self.scales, (beside - self.beside[0]) / self.beside[1]])


def of(vectors: np.ndarray) -> Space:
  """The space of vectors [N, D], two or more: their principal components, and what these leave."""
  vectors = vectors.astype(np.float64)
  center = vectors.mean(0)
  _, singular, axes = np.linalg.svd(vectors - center, full_matrices=False)
  there = int((singular > 1e-4 * max(singular[0], 1e-12)).sum())
  most = max(1, min(DIRECTIONS, there, len(vectors) // 4))
  scales = np.maximum(singular[:most] / np.sqrt(len(vectors)), 1e-9)
  made = Space(center, axes[:most], scales, np.array([0.0, 1.0]))
  beside = made.place(vectors)[:, -1]
  return made._replace(beside=np.array([beside.mean(), max(beside.std(), 1e-3 * scales[0])]))
