"""Every strategy as the tests try it. A row of the table that is not here fails a test; one that is here is tested everywhere.

That is: at step 0, after it moved, with dropout, merged, for what is frozen, on quantised bases, with q, k and v as one, in
bfloat16, out to an adapter folder and in again, and against PEFT. In which of these a row takes part follows from the row.
"""

import inspect
from typing import Any, NamedTuple

from research.strategies import table

SLOTS = 6


class Row(NamedTuple):
  """A strategy with settings for the small models, whose widths no activation has: a shape tells what it belongs to."""
  name: str                                # as `strategy.name` has it
  fields: dict[str, Any]
  peft: dict[str, tuple[str, dict[str, Any]]] | str     # method -> PEFT's config class and its arguments; or why there is none
  moved: float = 0.1                       # how far a leaf can be moved at random so that bfloat16 still follows

  def make(self, **more: Any) -> table.Strategy:
    return table.make(self.name, self.fields | more)

  def takes(self, field: str) -> bool:
    return any(field in inspect.signature(table.STRATEGIES[one]).parameters for one in self.name.split('+'))


_RANKED = {'r': 4, 'lora_alpha': 6, 'target_modules': 'all-linear'}
_UNKNOWN = 'PEFT has no such method'
_BASE = 'nothing is added: there is no adapter'
_SEVERAL = 'a PEFT folder holds one method'

ROWS = {
    'full': Row('full', {}, _BASE),
    'last_layers': Row('last_layers', {'layers': 1}, _BASE),
    'bitfit': Row('bitfit', {}, _UNKNOWN),
    'lora': Row('lora', {'rank': 5}, {
        'lora': ('LoraConfig', _RANKED),
        'lora by default': ('LoraConfig', {'r': 4, 'lora_alpha': 6}),
        'lora with ranks': ('LoraConfig', _RANKED | {'rank_pattern': {r'.*(o|o_proj|attn\.c_proj)': 2},
                                                     'alpha_pattern': {r'.*(wo|down_proj|mlp\.c_proj)': 3}})}),
    'lora, embedding too': Row('lora', {'rank': 5, 'also': 'embed'}, 'which parameters learn beside it is a test of its own'),
    'rslora': Row('rslora', {'rank': 5}, {'rslora': ('LoraConfig', _RANKED | {'use_rslora': True})}),
    'lora_plus': Row('lora_plus', {'rank': 5}, 'PEFT has it as an optimiser, which a test of its own compares'),
    'lora_fa': Row('lora_fa', {'rank': 5}, 'PEFT has it as an optimiser; its folder is that of LoRA'),
    'pissa': Row('pissa', {'rank': 5}, {'pissa': ('LoraConfig', _RANKED | {'init_lora_weights': 'pissa'})}, moved=0.01),
    'dora': Row('dora', {'rank': 5}, {'dora': ('LoraConfig', _RANKED | {'use_dora': True})}),
    'vera': Row('vera', {'rank': 5}, {'vera': ('VeraConfig', {'r': 6, 'target_modules': 'all-linear'})}),
    'oft': Row('oft', {'block': 8}, {'oft': ('OFTConfig', {
        'oft_block_size': 8, 'target_modules': 'all-linear', 'use_cayley_neumann': False})}),
    'oft by a series': Row('oft', {'block': 8, 'neumann': 5}, {'oft by a series': ('OFTConfig', {
        'oft_block_size': 8, 'target_modules': 'all-linear'})}),
    'ia3': Row('ia3', {}, {'ia3': ('IA3Config', {})}),
    'adapter': Row('adapter', {'width': 24}, _UNKNOWN),
    'adapter, pfeiffer': Row('adapter', {'width': 24, 'placement': 'pfeiffer'}, _UNKNOWN),
    'adapter, parallel': Row('adapter', {'width': 24, 'placement': 'parallel'}, _UNKNOWN),
    'prefix': Row('prefix', {'slots': SLOTS}, {'prefix': ('PrefixTuningConfig', {'num_virtual_tokens': 5})}),
    'prefix by an mlp': Row('prefix', {'slots': SLOTS, 'hidden': 24}, {'prefix by an mlp': (
        'PrefixTuningConfig', {'num_virtual_tokens': 5, 'prefix_projection': True, 'encoder_hidden_size': 24})}),
    'prompt': Row('prompt', {'slots': SLOTS}, {'prompt': ('PromptTuningConfig', {'num_virtual_tokens': 5})}),
    'few_shot': Row('few_shot', {'shots': 1}, _BASE),
    'prefix+lora+adapter': Row('prefix+lora+adapter', {'slots': SLOTS, 'rank': 5, 'width': 24}, _SEVERAL),
    'prompt+lora': Row('prompt+lora', {'slots': SLOTS, 'rank': 5}, _SEVERAL),
    'bitfit+lora': Row('bitfit+lora', {'rank': 5}, _SEVERAL),
    'prefix+vera': Row('prefix+vera', {'slots': SLOTS, 'rank': 5}, _SEVERAL),
    'ia3+prefix': Row('ia3+prefix', {'slots': SLOTS}, _SEVERAL),
}
ALONE = [name for name, row in ROWS.items() if '+' not in row.name]
LEARNS = [name for name, row in ROWS.items() if row.make().learns]
ADDS = [name for name in LEARNS if not ROWS[name].make().trains_base]        # deltas, to a base that stays as it is
AT_SITES = [name for name in ADDS if not ROWS[name].make().slots and not ROWS[name].make().prefix_slots]   # no soft prompt
METHODS = {method: (name, *of) for name, row in ROWS.items() if isinstance(row.peft, dict) for method, of in row.peft.items()}


def taking(field: str, names: list[str] = ALONE) -> list[str]:
  """Those of the rows that have this field."""
  return [name for name in names if ROWS[name].takes(field)]
