"""Attention as one kernel on TPUs: JAX's splash attention, whose blocks that no query sees take no time.

It takes no mask of all pairs: a query sees what stands before it in its own document, within its window. So it is used where a
line says no more: without prefixes, branches and relative biases. It was compared with plain attention by interpretation, and
compiled for v5e and v6e; it was not timed.
"""

from functools import lru_cache
from typing import Any

import jax

from research.distributed import device

Array = jax.Array

BLOCKS = 512, 256, 128      # tokens of a block: the largest that divides a line
INTERPRET = False           # whether the kernel is interpreted, on devices that cannot run it


def is_supported(queries: int, keys: int) -> bool:
  """Whether programs that are made now attend so.

  Args:
    queries: L, the tokens of a line.
    keys: S, those that they attend to.
  """
  return device.platform_kind() == 'tpu' and queries == keys and queries % BLOCKS[-1] == 0


@lru_cache(maxsize=64)
def _kernel(heads: int, length: int, window: int, cap: float, interpret: bool) -> Any:
  # What is imported here takes half a second, and no other kind of device needs it.
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
  block = next(n for n in BLOCKS if length % n == 0)
  sizes = kernels.BlockSizes(block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
                             block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block)
  shape = (length, length)
  mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
  with jax.ensure_compile_time_eval():      # it is made once, also inside a program that is being traced
    kernel = kernels.make_splash_mha(masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1,
                                     attn_logits_soft_cap=cap or None, interpret=interpret)
  return lambda q, k, v, segments: kernel(q, k, v, segment_ids=kernels.SegmentIds(segments, segments))


def attend(q: Array, k: Array, v: Array, segments: Array, scale: float, window: int, cap: float) -> Array:
  """What `layers.attend` computes of a line that sees itself.

  Args:
    q: [B, L, H, head_dim].
    k: [B, L, K, head_dim], where K divides H.
    v: of k's shape.
    segments: [B, L], the document of each token; those of padding see each other, and nobody reads what they get.
    scale: of the scores.
    window: a query sees this many tokens, its own among them; 0: all before it.
    cap: of the scaled scores (see `layers.softcap`); 0: none.
  Returns:
    [B, L, H, head_dim].
  """
  of_line = _kernel(q.shape[2], q.shape[1], window, cap, INTERPRET)
  heads_first = (x.swapaxes(1, 2) for x in ((q * scale).astype(q.dtype), k, v))
  return jax.vmap(of_line)(*heads_first, segments).swapaxes(1, 2).astype(q.dtype)
