"""Which sites a row changes: named sets, and regexes over the sites' paths, which are the same in all families."""

import re

from research.errors import InputError
from research.models.transformer import FUSED, QKV, Site

NAMED = {
    'attention': r'layers/(attn|cross)/',
    'mlp': r'layers/mlp/',
    'all_linear': r'layers/',
    'embed': r'^embed/embedding$',
    'head': r'^head/kernel$',
}
PEFT = 'peft'      # what PEFT changes where its user names nothing, for LoRA and its kin
_PEFT = {'gpt2': r'layers/attn/qkv$', 'gpt_neox': r'layers/attn/qkv$', 'phi3': r'layers/attn/qkv$'}
_OTHERS = r'layers/(attn|cross)/[qv]/kernel$'


def patterns(targets: str, family: str) -> list[str]:
  """The regexes that `targets` stands for: a named set or a regex, or several with commas between them."""
  found = []
  for part in re.split(r',(?![^{]*\})', targets):
    name = part.strip()
    found.append(_PEFT.get(family, _OTHERS) if name == PEFT else NAMED.get(name, name))
  return found


def find(targets: str, kinds: tuple[str, ...], sites: dict[str, Site], family: str, fused: bool, row: str,
         required: bool = True) -> list[str]:
  """The paths that `targets` means, in the model's order.

  q, k and v of a layer are changed as one (`qkv`) where `fused` says so or a pattern names it; the embedding only where a
  pattern names it.

  Raises:
    InputError: a part of `targets` matches nothing, or is no regular expression.
  """
  candidates = {path: site for path, site in sites.items() if site.kind in kinds}
  split = tuple(f'attn/{name}/kernel' for name in QKV)
  chosen = set()
  for pattern in patterns(targets, family):
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
