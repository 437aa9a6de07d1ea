"""The strategies: each is a row that says which deltas are added, where, and which leaves learn."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from research.errors import InputError
from research.strategies import deltas

# Named sets of kernel sites, in an encoder's layers as in a decoder's; any other pattern is a regex over the sites' paths.
TARGETS = {
    'attention': r'layers/(attn|cross)/.*kernel$',
    'mlp': r'layers/mlp/.*kernel$',
    'all_linear': r'layers/.*kernel$',
}


WEIGHTS = r'^params/'   # patterns of what learns: all of the base, or nothing
NOTHING = r'(?!)'


class Strategy(NamedTuple):
  """A way of adapting a model, as data."""
  name: str
  fields: dict[str, Any]                               # the row's own settings, none left open
  deltas: tuple[tuple[str, Callable], ...] = ()        # (regex over sites, what makes the delta there)
  trains: str = r'^delta/'                             # which variables learn
  shots: int = 0                                       # demonstrations written into the prompt


def full() -> Strategy:
  """Full fine-tuning: every parameter learns."""
  return Strategy('full', {}, trains=WEIGHTS)


def lora(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear') -> Strategy:
  """LoRA (Hu et al. 2021): a low-rank delta on the kernels that `targets` names."""
  _require(rank >= 1, f'rank={rank}: must be 1 or more')
  _require(alpha > 0, f'alpha={alpha}: must be above 0')
  _rate(dropout)
  return Strategy('lora', {'rank': rank, 'alpha': alpha, 'dropout': dropout, 'targets': targets},
                  deltas=((TARGETS.get(targets, targets), deltas.low_rank(rank, alpha, dropout)),))


def adapter(width: int = 32, dropout: float = 0.0) -> Strategy:
  """Bottleneck adapters after every attention and MLP of every layer (Houlsby et al. 2019).

  The paper trains the layer norms too; here nothing but the adapters learns.
  """
  _require(width >= 1, f'width={width}: must be 1 or more')
  _rate(dropout)
  return Strategy('adapter', {'width': width, 'dropout': dropout},
                  deltas=((r'layers/.*/output$', deltas.bottleneck(width, dropout)),))


def few_shot(shots: int = 4) -> Strategy:
  """In-context learning (Brown et al. 2020, arXiv 2005.14165): demonstrations in the prompt, and nothing learns."""
  _require(shots >= 0, f'shots={shots}: must be 0 or more')
  return Strategy('few_shot', {'shots': shots}, trains=NOTHING, shots=shots)


STRATEGIES = {'full': full, 'lora': lora, 'adapter': adapter, 'few_shot': few_shot}


def make(name: str, fields: dict[str, Any]) -> Strategy:
  """The row `name` with its settings; a field that is None takes the row's own default.

  Raises:
    InputError: no such row, a field that the row does not have, or a value out of range.
  """
  if name not in STRATEGIES:
    raise InputError(f'strategy.name={name!r}: no such strategy (known: {", ".join(STRATEGIES)})')
  given = {field: value for field, value in fields.items() if value is not None}
  known = inspect.signature(STRATEGIES[name]).parameters
  for field in given:
    if field not in known:
      takes = ', '.join(known) or 'no field of its own'
      raise InputError(f'strategy.{field}: strategy {name} does not take it (it takes {takes})')
  return STRATEGIES[name](**given)


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise InputError(f'strategy.{message}')


def _rate(dropout: float) -> None:
  _require(0 <= dropout < 1, f'dropout={dropout}: must be at least 0 and below 1')
