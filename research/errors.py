"""The kinds of error that a person can put right."""


class InputError(Exception):
  """Something in a config, a file or a folder is wrong, and the message says what, where, and what would be right.

  Every verb prints it as one line that begins with `error:` and exits with status 2 (see `research.cli`).
  """


class InUse(InputError):
  """Another process is at work in a folder."""


class Diverged(InputError):
  """Training came to a loss that is not finite."""
