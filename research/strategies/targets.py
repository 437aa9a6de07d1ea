"""Which sites a row changes: named sets, and regexes over the sites' paths, which are the same in all families."""

import re

from research.errors import InputError
from research.models.block import FUSED, QKV
from research.models.sites import Site

NAMED = {
    'attention': r'layers/(attn|cross)/',
    'mlp': r'layers/mlp/',
    'all_linear': r'layers/',
    'embed': r'^embed/embedding$',
    'head': r'^head/kernel$',
}
PEFT = 'peft'      # what PEFT changes where its user names nothing
_ONE = dict.fromkeys(('gpt2', 'gpt_neox', 'phi3'), r'layers/attn/qkv$')      # whose q, k and v are one module
_QV, _KV = r'layers/(attn|cross)/[qv]/kernel$', r'layers/(attn|cross)/[kv]/kernel$'
PEFTS = {   # row -> (family -> pattern, the pattern of other families)
    'lora': (_ONE, _QV),
    'ia3': (_ONE | dict.fromkeys(('gemma', 'gemma2', 'gemma3_text', 'qwen2', 'qwen3'), _QV), _KV),
}


def patterns(targets: str, family: str, peft: str) -> list[str]:
  """The regexes that `targets` stands for.

  Args:
    targets: `peft`, a key of `NAMED` or a regex over sites' paths, or several with commas between them.
    family: the model's, which decides what `peft` stands for.
    peft: whose targets in PEFT `peft` stands for: a key of `PEFTS`.
  Raises:
    InputError: nothing stands before, between or after the commas.
  """
  found = [part.strip() for part in re.split(r',(?![^{]*\})', targets)]
  if not all(found):
    raise InputError(f'strategy.targets={targets!r}: a part is empty')
  of, others = PEFTS[peft]
  return [of.get(family, others) if part == PEFT else NAMED.get(part, part) for part in found]


def find(targets: str, kinds: tuple[str, ...], sites: dict[str, Site], family: str, fused: bool, row: str,
         required: bool = True, peft: str = 'lora') -> list[str]:
  """The paths that `targets` means, in the model's order.

  q, k and v of a layer are changed as one (`qkv`) where `fused` says so or a pattern names it; the embedding only where a
  pattern names it.

  Args:
    targets: as for `patterns`.
    kinds: the kinds of sites that are meant (see `models.sites.Site`).
    sites: the model's, by path.
    family: the model's, as for `patterns`.
    fused: q, k and v are changed as one wherever they are meant.
    row: the strategy's name, for the message of an error.
    required: whether it is an error where a pattern matches no site.
    peft: as for `patterns`.
  Raises:
    InputError: a part of `targets` is no regular expression, or matches no site where it must.
  """
  candidates = {path: site for path, site in sites.items() if site.kind in kinds}
  split = tuple(f'attn/{name}/kernel' for name in QKV)
  chosen = set()
  for pattern in patterns(targets, family, peft):
    as_one = fused or FUSED in pattern
    try:
      matched = {path for path in candidates if re.search(pattern, path)
                 and (as_one or not path.endswith(FUSED)) and not (as_one and path.endswith(split))
                 and (not path.startswith('embed/embedding') or 'embed' in pattern)}
    except re.error as e:
      raise InputError(f'strategy.targets={pattern!r}: not a regular expression ({e})') from None
    if required and not matched:
      hint = ' (the head is the embedding, and has no kernel)' if pattern == NAMED['head'] else ''
      raise InputError(f'strategy {row}: the pattern {pattern!r} matches no site{hint}; sites are '
                       f'{", ".join(p for p in candidates if fused or not p.endswith(FUSED))}')
    chosen |= matched
  return [path for path in candidates if path in chosen]
