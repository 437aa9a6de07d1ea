"""The strategies: each is a row that says which deltas are added, where, and which leaves learn.

`strategy.name` is a row's name, or several with `+` between them: `prefix+lora+adapter`. A field then goes to all of them that
take it.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from research.errors import InputError
from research.strategies import initializers
from research.strategies.initializers import Make, Ranks

WEIGHTS = r'^params/'                                  # patterns of what is trainable: all of the base
DELTAS = r'^(delta|shared)/(?!.*/fixed_)'              # what was added, except what `deltas` calls fixed
NOTHING = r'(?!)'


class Placement(NamedTuple):
  """What is added, and where."""
  targets: str                 # see `targets`
  kinds: tuple[str, ...]       # of sites (see `models.sites.Site`)
  make: Make
  required: bool = True        # whether it is an error where no site matches
  peft: str = 'lora'           # whose targets in PEFT `peft` stands for: a key of `targets.PEFTS`


class Strategy(NamedTuple):
  """A way of adapting a model, as data."""
  name: str
  fields: dict[str, Any]                               # the row's own settings, none left open
  deltas: tuple[Placement, ...] = ()
  trains: str = DELTAS                                 # patterns of the variables that are trainable,
  frozen: str = NOTHING                                # but for these
  kin: str = ''                                        # the row with the same deltas, whose adapter folders are its own
  fused: bool = False                                  # q, k and v are changed as one kernel, by one delta
  lr_multipliers: tuple[tuple[str, float], ...] = ()   # (pattern of variables, times the learning rate)
  last_layers: int = 0                                 # of the decoder, which alone are trainable
  slots: int = 0                                       # places of a soft prompt, before the prompt's tokens
  prefix_slots: int = 0                                # positions that a prefix takes before them
  shots: int = 0                                       # demonstrations written into the prompt
  selection: str = 'random'                            # how they are chosen: a key of `demonstrations.SELECTIONS`
  calibrate: bool = False                              # contextual calibration of the choices

  trains_base: bool = False                            # kernels of the base learn: it is kept in float32, and never quantised

  @property
  def trainable(self) -> str:
    """The pattern of the variables that are trainable."""
    return rf'^(?!.*(?:{self.frozen}))(?=.*(?:{self.trains}))'

  @property
  def learns(self) -> bool:
    return self.trains != NOTHING


def full() -> Strategy:
  """Full fine-tuning: every parameter learns."""
  return Strategy('full', {}, trains=WEIGHTS, trains_base=True)


def last_layers(layers: int = 2) -> Strategy:
  """The decoder's last layers learn, and nothing else (as in Hu et al. 2021, table 3: "FT-top2")."""
  _require(layers >= 1, f'layers={layers}: must be 1 or more')
  return Strategy('last_layers', {'layers': layers}, trains=r'^params/last_layers/', last_layers=layers, trains_base=True)


def bitfit() -> Strategy:
  """Biases learn (Ben Zaken et al. 2021, arXiv 2106.10199); a layer that has none gets one."""
  return Strategy('bitfit', {}, (Placement(r'layers/.*bias$', ('bias',), initializers.shift(), required=False),),
                  trains=rf'{WEIGHTS}.*bias$|{DELTAS}')


def _ranked(name: str, make: Callable[..., Make], fields: dict[str, Any], root: bool = False,
            kinds: tuple[str, ...] = ('kernel',), **rest: Any) -> Strategy:
  """A row of LoRA's kind."""
  f = fields
  f['rank_pattern'], f['alpha_pattern'] = (_pattern(f[n], n) for n in ('rank_pattern', 'alpha_pattern'))
  for rank in (f['rank'], *f['rank_pattern'].values()):
    _require(isinstance(rank, int) and rank >= 1, f'rank={rank}: must be 1 or more')
  for alpha in (f['alpha'], *f['alpha_pattern'].values()):
    _require(alpha > 0, f'alpha={alpha}: must be above 0')
  _rate(f['dropout'])
  rest['trains'] = '|'.join((DELTAS, *also_learns(f['also'])))
  ranks = Ranks(f['rank'], f['alpha'], f['rank_pattern'], f['alpha_pattern'], root)
  return Strategy(name, f, (Placement(f['targets'], kinds, make(ranks, f['dropout'])),), fused=f['fused'], **rest)


ALSO = {'head': r'^head/', 'embed': r'^embed/', 'bias': r'bias$'}


def also_learns(also: str) -> tuple[str, ...]:
  """Patterns of the variables that `also` means: `head`, `embed`, `bias` (all there are), a regex over the parameters' paths,
  or several with commas between them.

  Raises:
    InputError: a part is empty or no regular expression.
  """
  found = []
  for part in (also.split(',') if also else ()):
    pattern = ALSO.get(part.strip(), part.strip())
    try:
      re.compile(pattern)
    except re.error as e:
      raise InputError(f'strategy.also={part!r}: not a regular expression ({e})') from None
    _require(bool(pattern), f'also={also!r}: a part is empty')
    found.append(f'{WEIGHTS}{pattern[1:]}' if pattern.startswith('^') else f'{WEIGHTS}.*(?:{pattern})')
  return tuple(found)


def lora(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
         rank_pattern: Any = (), alpha_pattern: Any = (), also: str = '') -> Strategy:
  """LoRA (Hu et al. 2021, arXiv 2106.09685): a low-rank delta on the kernels that `targets` names.

  Args:
    rank: R, of A [I, R] and B [R, O], where `rank_pattern` says no other.
    alpha: the product A B is scaled by alpha / rank, where `alpha_pattern` says no other alpha.
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`); with `embed` among them the embedding gets one too.
    fused: q, k and v of a layer get one delta, which has one A for the three.
    rank_pattern: {pattern: rank}, or pairs of these, for sites whose path it matches; the first that matches counts.
    alpha_pattern: {pattern: alpha}, in the same way.
    also: parameters of the base that learn in full beside the deltas (see `also_learns`); '' for none.
  """
  return _ranked('lora', initializers.low_rank, locals(), kinds=('kernel', 'embedding'))


def rslora(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
           rank_pattern: Any = (), alpha_pattern: Any = (), also: str = '') -> Strategy:
  """rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA scaled by alpha / √rank, so that high ranks learn too.

  Args:
    rank: R, of A [I, R] and B [R, O], where `rank_pattern` says no other.
    alpha: the product A B is scaled by alpha / √rank, where `alpha_pattern` says no other alpha.
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`); with `embed` among them the embedding gets one too.
    fused: q, k and v of a layer get one delta, which has one A for the three.
    rank_pattern: {pattern: rank}, or pairs of these, for sites whose path it matches; the first that matches counts.
    alpha_pattern: {pattern: alpha}, in the same way.
    also: parameters of the base that learn in full beside the deltas (see `also_learns`); '' for none.
  """
  return _ranked('rslora', initializers.low_rank, locals(), root=True, kinds=('kernel', 'embedding'))


def lora_plus(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
              rank_pattern: Any = (), alpha_pattern: Any = (), also: str = '', ratio: float = 16.0) -> Strategy:
  """LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B learns at `ratio` times the rate of A.

  Args:
    rank: R, of A [I, R] and B [R, O], where `rank_pattern` says no other.
    alpha: the product A B is scaled by alpha / rank, where `alpha_pattern` says no other alpha.
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`); with `embed` among them the embedding gets one too.
    fused: q, k and v of a layer get one delta, which has one A for the three.
    rank_pattern: {pattern: rank}, or pairs of these, for sites whose path it matches; the first that matches counts.
    alpha_pattern: {pattern: alpha}, in the same way.
    also: parameters of the base that learn in full beside the deltas (see `also_learns`); '' for none.
    ratio: B's learning rate over A's.
  """
  fields = locals()
  _require(ratio > 0, f'ratio={ratio}: must be above 0')
  return _ranked('lora_plus', initializers.low_rank, fields, kinds=('kernel', 'embedding'),
                 lr_multipliers=((r'^delta/.*/b$', ratio),), kin='lora')


def lora_fa(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
            rank_pattern: Any = (), alpha_pattern: Any = (), also: str = '') -> Strategy:
  """LoRA-FA (Zhang et al. 2023, arXiv 2308.03303): LoRA whose A stays as it was drawn, so that B alone is trainable.

  Args:
    rank: R, of A [I, R] and B [R, O], where `rank_pattern` says no other.
    alpha: the product A B is scaled by alpha / rank, where `alpha_pattern` says no other alpha.
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`).
    fused: q, k and v of a layer get one delta, which has one A for the three.
    rank_pattern: {pattern: rank}, or pairs of these, for sites whose path it matches; the first that matches counts.
    alpha_pattern: {pattern: alpha}, in the same way.
    also: parameters of the base that learn in full beside the deltas (see `also_learns`); '' for none.
  """
  return _ranked('lora_fa', initializers.low_rank, locals(), frozen=r'^delta/.*/kernel/a$', kin='lora')


def pissa(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
          rank_pattern: Any = (), alpha_pattern: Any = (), also: str = '') -> Strategy:
  """PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA that begins at the kernel's largest singular directions.

  Args:
    rank: R, of A [I, R] and B [R, O], where `rank_pattern` says no other.
    alpha: the product A B is scaled by alpha / rank, where `alpha_pattern` says no other alpha.
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`).
    fused: q, k and v of a layer get one delta, which has one A for the three.
    rank_pattern: {pattern: rank}, or pairs of these, for sites whose path it matches; the first that matches counts.
    alpha_pattern: {pattern: alpha}, in the same way.
    also: parameters of the base that learn in full beside the deltas (see `also_learns`); '' for none.
  """
  return _ranked('pissa', initializers.principal, locals())


def dora(rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
         rank_pattern: Any = (), alpha_pattern: Any = (), also: str = '') -> Strategy:
  """DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA for the direction of each output's weights, and a magnitude.

  Args:
    rank: R, of A [I, R] and B [R, O], where `rank_pattern` says no other.
    alpha: the product A B is scaled by alpha / rank, where `alpha_pattern` says no other alpha.
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`).
    fused: q, k and v of a layer get one delta, which has one A for the three.
    rank_pattern: {pattern: rank}, or pairs of these, for sites whose path it matches; the first that matches counts.
    alpha_pattern: {pattern: alpha}, in the same way.
    also: parameters of the base that learn in full beside the deltas (see `also_learns`); '' for none.
  """
  return _ranked('dora', initializers.dora, locals())


def vera(rank: int = 256, dropout: float = 0.0, targets: str = 'all_linear', fused: bool = False,
         initial_d: float = 0.1) -> Strategy:
  """VeRA (Kopiczko et al. 2023, arXiv 2310.11454): two learned vectors around random matrices that all layers share.

  Args:
    rank: R, of the random matrices A [I, R] and B [R, O] and of the learned vector d [R].
    dropout: share of the delta's input that is zeroed in training; 0 for none.
    targets: the kernels that get a delta: a named set, a regex over the sites' paths, or several with commas between them
      (see `targets.patterns`).
    fused: q, k and v of a layer get one delta.
    initial_d: what every entry of d begins as; the other vector, o [O], begins as 0.
  """
  _require(rank >= 1, f'rank={rank}: must be 1 or more')
  _rate(dropout)
  return Strategy('vera', locals(), (Placement(targets, ('kernel',), initializers.vera(rank, initial_d, dropout)),),
                  fused=fused)


def oft(block: int = 32, targets: str = 'all_linear', fused: bool = False, neumann: int = 0) -> Strategy:
  """OFT (Qiu et al. 2023, arXiv 2306.07280): a layer's inputs are rotated, block by block.

  Args:
    block: the width of a block, which divides the inputs of every kernel.
    targets: the kernels whose inputs are rotated (see `targets.patterns`).
    fused: q, k and v of a layer share one rotation.
    neumann: terms of the series in place of the exact rotation, 2 or from 4 on; 0: exact.
  """
  _require(block >= 2, f'block={block}: must be 2 or more')
  _require(neumann in (0, 2) or neumann >= 4, f'neumann={neumann}: must be 0 (exact), 2, or 4 or more')
  return Strategy('oft', locals(), (Placement(targets, ('kernel',), initializers.rotation(block, neumann)),), fused=fused)


def ia3(targets: str = r'layers/(attn|cross)/[kv]/kernel$', feedforward: str = r'layers/mlp/down/kernel$',
        fused: bool = False) -> Strategy:
  """(IA)³ (Liu et al. 2022, arXiv 2205.05638): scales of keys, values and the MLP's activations.

  Args:
    targets: the kernels whose outputs are scaled, each by a factor of its own (see `targets.patterns`); '' for none.
    feedforward: the kernels whose inputs are scaled, in the same way; '' for none.
    fused: q, k and v of a layer are scaled by one delta.
  """
  fields = locals()
  _require(bool(targets or feedforward), 'targets and feedforward are both empty')
  placements = ((targets, initializers.scale_out()), (feedforward, initializers.scale_in()))
  return Strategy('ia3', fields, tuple(Placement(where, ('kernel',), make, peft='ia3') for where, make in placements if where),
                  fused=fused)


PLACES = {   # where an adapter stands, and its form
    'houlsby': (r'layers/.*/output$', {'scale': 1.0, 'parallel': False, 'activation': 'gelu'}),
    'pfeiffer': (r'layers/mlp/output$', {'scale': 1.0, 'parallel': False, 'activation': 'relu'}),
    'parallel': (r'layers/mlp/output$', {'scale': 4.0, 'parallel': True, 'activation': 'relu'}),
}


def adapter(width: int = 32, dropout: float = 0.0, placement: str = 'houlsby') -> Strategy:
  """Bottleneck adapters: after every attention and MLP (Houlsby et al. 2019, arXiv 1902.00751), after every MLP (`pfeiffer`,
  Pfeiffer et al. 2020, arXiv 2005.00247), or beside it, scaled by 4 (`parallel`, He et al. 2021, arXiv 2110.04366).

  Houlsby et al. train the layer norms too; here nothing but the adapters learns.

  Args:
    width: of the bottleneck: an adapter's matrices are [D, width] and [width, D].
    dropout: share of an adapter's output that is zeroed in training; 0 for none.
    placement: where adapters stand, and their form: a key of `PLACES`.
  """
  _require(width >= 1, f'width={width}: must be 1 or more')
  _require(placement in PLACES, f'placement={placement!r}: must be one of {", ".join(PLACES)}')
  _rate(dropout)
  fields = {'width': width, 'dropout': dropout, 'placement': placement}
  where, form = PLACES[placement]
  return Strategy('adapter', fields, (Placement(where, ('output',), initializers.bottleneck(width, dropout, **form)),))


def prefix(slots: int = 16, hidden: int = 0) -> Strategy:
  """Prefix tuning (Li & Liang 2021, arXiv 2101.00190): keys and values before every line, in every layer of the decoder.

  `hidden` above 0: while they learn, an MLP of that width makes them.
  """
  _slots(slots)
  _require(hidden >= 0, f'hidden={hidden}: must be 0 (no MLP) or more')
  make = initializers.projected_prefix(slots, hidden) if hidden else initializers.prefix(slots)
  return Strategy('prefix', {'slots': slots, 'hidden': hidden}, (Placement(r'layers/attn/prefix$', ('prefix',), make),),
                  prefix_slots=slots)


INITS = ('random', 'vocab', 'text')


def prompt(slots: int = 16, init: str = 'vocab', init_text: str = '') -> Strategy:
  """Prompt tuning (Lester et al. 2021, arXiv 2104.08691): vectors before the prompt's tokens, or the encoder's.

  Args:
    slots: how many vectors; each takes the place of a token in the context.
    init: what they begin as: `random`, N(0, 1); `vocab`, embeddings of tokens drawn at random; `text`, those of `init_text`.
    init_text: with `text` alone: the text, whose tokens are repeated or cut to `slots`.
  """
  _slots(slots)
  _require(init in INITS, f'init={init!r}: must be one of {", ".join(INITS)}')
  _require(bool(init_text) == (init == 'text'), 'init_text: is given with init=text, and only then')
  return Strategy('prompt', {'slots': slots, 'init': init, 'init_text': init_text},
                  (Placement(r'^embed/prompt$', ('prompt',), initializers.prompt(slots, init, init_text)),), slots=slots)


SELECTIONS = ('random', 'balanced', 'nearest')


def few_shot(shots: int = 4, selection: str = 'random', calibrate: bool = False) -> Strategy:
  """In-context learning (Brown et al. 2020, arXiv 2005.14165): demonstrations in the prompt, and nothing learns.

  Args:
    shots: demonstrations before every prompt, from the training split; 0 for none.
    selection: `random`; `balanced`, as many of each choice; `nearest`, each row's own by TF-IDF (Liu et al. 2021, arXiv
      2101.06804).
    calibrate: choices are weighed against what they score without content (Zhao et al. 2021, arXiv 2102.09690).
  """
  _require(shots >= 0, f'shots={shots}: must be 0 or more')
  _require(selection in SELECTIONS, f'selection={selection!r}: must be one of {", ".join(SELECTIONS)}')
  return Strategy('few_shot', locals(), trains=NOTHING, shots=shots, selection=selection, calibrate=calibrate)


STRATEGIES = {row.__name__: row for row in (
    full, last_layers, bitfit, lora, rslora, lora_plus, lora_fa, pissa, dora, vera, oft, ia3, adapter, prefix, prompt,
    few_shot)}
ALONE = ('full', 'last_layers', 'few_shot')      # rows that no other can be added to


def make(name: str, fields: dict[str, Any]) -> Strategy:
  """The row `name`, or several, with its settings; a field that is None takes the row's own default.

  Raises:
    InputError: no such row, a field that the row does not have, or a value out of range.
  """
  names = name.split('+')
  for one in names:
    if one not in STRATEGIES:
      raise InputError(f'strategy.name={name!r}: no such strategy (known: {", ".join(STRATEGIES)}, and several with +)')
  if len(names) > 1 and (set(names) & set(ALONE) or len(set(names)) < len(names)):
    raise InputError(f'strategy.name={name!r}: {", ".join(ALONE)} stand alone, and no row twice')
  given = {field: value for field, value in fields.items() if value is not None}
  takes = {one: inspect.signature(STRATEGIES[one]).parameters for one in names}
  for field in given:
    if not any(field in known for known in takes.values()):
      known = ', '.join(dict.fromkeys(f for one in takes.values() for f in one)) or 'no field of its own'
      raise InputError(f'strategy.{field}: strategy {name} does not take it (it takes {known})')
  rows = [STRATEGIES[one](**{f: v for f, v in given.items() if f in takes[one]}) for one in names]
  return rows[0] if len(rows) == 1 else _combined(name, rows)


def _combined(name: str, rows: list[Strategy]) -> Strategy:
  """Several rows as one. Where two take a field it has one value for both, so a default that differs must be given."""
  fields: dict[str, Any] = {}
  for row in rows:
    for field, value in row.fields.items():
      _require(fields.setdefault(field, value) == value,
               f'{field}: {name} take it with different defaults; give one value for both')
  total = lambda field: sum(getattr(row, field) for row in rows)
  return Strategy(name, fields, tuple(p for row in rows for p in row.deltas),
                  trains='|'.join(dict.fromkeys(row.trains for row in rows)),
                  frozen='|'.join(dict.fromkeys(row.frozen for row in rows)), fused=any(row.fused for row in rows),
                  lr_multipliers=tuple(r for row in rows for r in row.lr_multipliers),
                  slots=total('slots'), prefix_slots=total('prefix_slots'))


def _require(holds: bool, message: str) -> None:
  if not holds:
    raise InputError(f'strategy.{message}')


def _rate(dropout: float) -> None:
  _require(0 <= dropout < 1, f'dropout={dropout}: must be at least 0 and below 1')


def _slots(slots: int) -> None:
  _require(slots >= 1, f'slots={slots}: must be 1 or more')


def _pattern(given: Any, field: str) -> dict[str, Any]:
  """`{pattern: value}` from that, or from pairs as a command line gives them: "(('mlp/down', 16),)".

  Raises:
    InputError: it is neither, a pattern is no regular expression, or a value no number.
  """
  try:
    found = dict(given)
    whole = all(re.compile(pattern) and isinstance(value, (int, float)) and not isinstance(value, bool)
                for pattern, value in found.items())
  except (TypeError, ValueError, re.error):
    whole = False
  if not whole:
    raise InputError(f'strategy.{field}={given!r}: must be pairs of a pattern and a number, such as '
                     "\"(('mlp/down',16),)\"")
  return found
