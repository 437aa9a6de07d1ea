"""What JAX is told about the machine before a verb computes anything."""

import logging
import os
from pathlib import Path

import jax

from research.errors import InputError


def prepare() -> None:
  """Keeps compiled programs on disk, so that what was compiled once starts at once the next time, in any process.

  They lie under `$JAX_COMPILATION_CACHE_DIR`, or else under `flaxtune/jax` in `$XDG_CACHE_HOME` (~/.cache); JAX finds a program
  by its content, versions and machine, so the folder can be deleted at any time. `JAX_ENABLE_COMPILATION_CACHE=false`
  switches this off. Small programs are kept too: before the first step there are hundreds of them.
  """
  if jax.config.jax_compilation_cache_dir is None and jax.config.jax_enable_compilation_cache:
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
