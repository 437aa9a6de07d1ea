"""The one schema of a batch: what a model reads, and what is asked of it there."""

from typing import Any, NamedTuple

Array = Any      # of numpy where batches are made, of jax where they are computed with; None where a field is not there


class Batch(NamedTuple):
  """Packed sequences of L tokens, and T targets on each; other axes may stand before B (members, microbatches M).

  A field that is None is not there: no several answers to a prompt, no encoder, nothing asked.
  """
  tokens: Array                              # int32 [B, L], that the decoder reads; below 0: a soft prompt's
  positions: Array                           # int32 [B, L], of each token in its document
  segments: Array                            # int32 [B, L], the document's number on its line; 0: padding
  branches: Array = None                     # int32 [B, L], the answer's number in its document; 0: the prompt
  source_tokens: Array = None                # int32 [B, S'], that an encoder reads, with its positions and segments
  source_positions: Array = None
  source_segments: Array = None
  index: Array = None                        # int32 [B, T], the position before each target
  targets: Array = None                      # int32 [B, T], the tokens to be predicted there
  weights: Array = None                      # float32 [B, T], 1 for a target and 0 for padding

  def with_source(self, read: 'Batch') -> 'Batch':
    """The same, with an encoder that reads the tokens of `read`."""
    return self._replace(source_tokens=read.tokens, source_positions=read.positions, source_segments=read.segments)
