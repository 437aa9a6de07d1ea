"""Who may ask a server: API keys, and the addresses that need none."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from research.errors import InputError

SHORTEST = 16      # characters of a key: fewer can be guessed


def read(path: Path) -> list[bytes]:
  """Digests of the keys in a file: one a line; lines that begin with # are comments.

  Raises:
    InputError: it cannot be read, holds no key, or one that is too short.
  """
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except OSError as e:
    raise InputError(f'--api_keys={path}: cannot be read ({e.strerror})') from None
  except UnicodeDecodeError:
    raise InputError(f'--api_keys={path}: is no text; give a file with one key a line') from None
  keys = [line.strip() for line in lines if line.strip() and not line.startswith('#')]
  if not keys:
    raise InputError(f'--api_keys={path}: holds no key; give one a line')
  if short := next((number for number, line in enumerate(lines, 1) if 0 < len(line.strip()) < SHORTEST and line[0] != '#'), 0):
    raise InputError(f'--api_keys={path} line {short}: the key has fewer than {SHORTEST} characters; make one with '
                     '`openssl rand -hex 32`')
  return [_digest(key) for key in keys]


def _digest(key: str) -> bytes:
  return hashlib.sha256(key.encode('utf-8', 'surrogateescape')).digest()


def is_known(given: str, keys: Sequence[bytes]) -> bool:
  """Whether a key is one of these; the time that it takes tells nothing of them."""
  mine = _digest(given)
  return any([hmac.compare_digest(mine, key) for key in keys])      # noqa: C419  # a list, so that all are compared


def check_address(host: str, has_keys: bool) -> None:
  """Refuses to be open to others without keys.

  Raises:
    InputError: the address is not this machine's own, and there are no keys.
  """
  try:
    own = ipaddress.ip_address(host).is_loopback
  except ValueError:
    own = host == 'localhost'
  if not own and not has_keys:
    raise InputError(f'--host={host}: whoever reaches that address could ask; give --api_keys=FILE (one key a line), or leave '
                     '--host at 127.0.0.1')
