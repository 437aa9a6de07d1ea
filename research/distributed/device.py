"""The machine: what JAX is told about it before a verb computes anything, and what is chosen because of it."""

import logging
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import jax

from research.errors import InputError


def configure_jax() -> None:
  """Keeps compiled programs on disk, so that what was compiled once starts at once the next time, in any process.

  They lie under `$JAX_COMPILATION_CACHE_DIR`, or else under `flaxtune/jax` in `$XDG_CACHE_HOME` (~/.cache); JAX finds a program
  by its content, versions and machine, so the folder can be deleted at any time. `JAX_ENABLE_COMPILATION_CACHE=false`
  switches this off. Small programs are kept too: before the first step there are hundreds of them.

  Raises:
    InputError: the folder cannot be made.
  """
  # jax.config makes its attributes as JAX starts.
  if jax.config.jax_compilation_cache_dir is None and jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
    home = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'flaxtune' / 'jax'
    try:
      home.mkdir(parents=True, exist_ok=True)
    except OSError as e:
      raise InputError(f'{home}: compiled programs cannot be kept here ({e.strerror}); set JAX_COMPILATION_CACHE_DIR to '
                       'another folder, or JAX_ENABLE_COMPILATION_CACHE=false') from None
    jax.config.update('jax_compilation_cache_dir', str(home))
  logging.getLogger('jax._src.xla_bridge').setLevel(logging.ERROR)       # it tells of every accelerator that is not there
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def _lines(path: str) -> list[str]:
  """A file of Linux's account of itself; nothing elsewhere."""
  return Path(path).read_text(encoding='utf-8', errors='replace').splitlines() if Path(path).exists() else []


def _of_processor(field: str) -> str:
  return next((line.partition(':')[2].strip() for line in _lines('/proc/cpuinfo') if line.split(':')[0].strip() == field), '')


def processor() -> str:
  """The processor's name."""
  return _of_processor('model name') or platform.processor() or platform.machine()


def allocator() -> str:
  """Who hands out this process's memory; `unknown` outside of Linux."""
  maps = _lines('/proc/self/maps')
  loaded = {name for line in maps for name in ('tcmalloc', 'jemalloc', 'mimalloc') if name in line}
  return ' and '.join(sorted(loaded)) or ('the C library\'s' if maps else 'unknown')


def memory() -> int:
  """Bytes of each device here that a program may use: what an accelerator gives this process, of a computer three quarters."""
  of_device = jax.local_devices()[0].memory_stats()
  if of_device and 'bytes_limit' in of_device:
    return of_device['bytes_limit']
  limit = ''.join(_lines('/sys/fs/cgroup/memory.max')).strip()             # of a container
  there = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return (min(there, int(limit)) if limit.isdecimal() else there) * 3 // 4 // jax.local_device_count()


_target: tuple[str, float] | None = None      # see `compiling_for`


@contextmanager
def compiling_for(platform: str, capability: float = 0.0) -> Iterator[None]:
  """While in use, programs are made for another kind of device than those that are here.

  Args:
    platform: cpu, gpu or tpu.
    capability: see `compute_capability`.
  """
  global _target
  before, _target = _target, (platform, capability)
  try:
    yield
  finally:
    _target = before


def platform_kind() -> str:
  """The kind of device that programs are made for."""
  return _target[0] if _target else jax.default_backend()


def multiplies_bfloat16() -> bool:
  """Whether the device multiplies bfloat16 faster than float32: accelerators do, processors with AMX, and AMD's with AVX-512's.

  Elsewhere XLA's bfloat16 products take about twice as long as float32 ones: measured on an AMD EPYC with AVX2, and on an
  Intel Xeon that has AVX-512's instruction and no AMX (168 GFLOP/s against 290). Where the processor does not say (ARM, macOS),
  float32 is the choice that cannot be much slower.
  """
  return platform_kind() != 'cpu' or _processor_multiplies_bfloat16()


def native_dtype() -> str:
  """`bfloat16` on accelerators; `float32` on CPU, where bfloat16 is not reliably faster."""
  return 'float32' if platform_kind() == 'cpu' else 'bfloat16'


MOST_UNROLLED = 64                           # layers; more take minutes to compile
STEPS_UNROLLED = {'cpu': 200, 'gpu': 200}    # of a training, from which unrolled layers win back what they take to compile


def prefers_scan(layers: int, steps: float | None) -> bool:
  """What `model.scan=auto` comes to.

  Unrolled, SmolLM2's 30 layers took 11 to 12 seconds more on two cores until the first step. A step of 1,024 tokens then took
  0.90 (LoRA) and 0.93 times (full) as long (docs/performance.md), and a token 0.5 to 0.75 times. On an H100 a step of 1B took
  0.85 times as long. TPUs were not measured.

  Args:
    layers: of the model.
    steps: of the training; None: text is generated.
  """
  least = STEPS_UNROLLED.get(platform_kind())
  return least is None or layers > MOST_UNROLLED or (steps is not None and steps < least)


def copies_for_decoding(size: int) -> bool:
  """Whether weights are copied into a better order before text is generated: on processors, where memory has room.

  Args:
    size: bytes of the weights.
  """
  return platform_kind() == 'cpu' and 4 * size <= memory()


def targets_at_once() -> int:
  """How many targets' logits are alive at one time where a loss is computed."""
  return 1024 if platform_kind() == 'gpu' else 256


def compute_capability() -> float:
  """Of the NVIDIA card that programs are made for, such as 9.0 for an H100; 0 for all other devices."""
  if _target:
    return _target[1]
  said = str(getattr(jax.devices()[0], 'compute_capability', ''))      # AMD's cards have one like gfx942
  return float(said) if re.fullmatch(r'\d+\.\d+', said) else 0.0


@lru_cache(maxsize=1)
def _processor_multiplies_bfloat16() -> bool:
  flags = _of_processor('flags').split()
  return 'amx_bf16' in flags or ('avx512_bf16' in flags and _of_processor('vendor_id') == 'AuthenticAMD')


def fastest(call: Callable[[], jax.Array]) -> float:
  """Seconds of the best of five calls, which give an array of any shape, after one that compiles."""
  call().block_until_ready()
  best = math.inf
  for _ in range(5):
    began = time.perf_counter()
    call().block_until_ready()
    best = min(best, time.perf_counter() - began)
  return best


def settings() -> dict[str, str]:
  """What was chosen because of this machine, and what a person could choose otherwise."""
  found = {'device': f'{len(jax.devices())} x {jax.devices()[0].device_kind}', 'processor': processor(),
           'cores': str(os.cpu_count()), 'allocator': allocator(), 'XLA_FLAGS': os.environ.get('XLA_FLAGS', 'none')}
  if not multiplies_bfloat16():
    found['bfloat16 products'] = 'computed in float32'
  return found
