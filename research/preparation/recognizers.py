"""What of a text is an e-mail address, a key, an IBAN, a card's number or an address on the network.

How each is written, and the check that it holds. Every pattern reads a long text once, whatever stands in it.
"""

import base64
import functools
import ipaddress
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator

Hit = tuple[int, int, str]      # where it begins and ends, and its value, which every way to write it shares

_CJK = '\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af'      # scripts that put no blanks between words
_LETTER = f'[^\\W{_CJK}]'
_LABEL = '(?:{letter}(?:(?:{letter}|-){{0,61}}{letter})?)'
_DOMAIN = '(?:' + '|'.join(f'(?:{label}\\.){{1,9}}(?:xn--[\\w-]{{2,59}}|[^\\W\\d_{other}]{{2,24}})(?!{letter}|-{letter})'
                           for letter, other in ((_LETTER, _CJK), ('\\w', ''))
                           for label in [_LABEL.format(letter=letter)]) + ')'
_EMAIL = re.compile(rf"(?<![\w.+'-])[.'-]*([\w+][\w.+'-]{{0,63}})(?:@|＠|%40|&#64;)({_DOMAIN})")
_HAS_AT = re.compile('@|＠|%40|&#64;')
_AFTER_CJK = re.compile(f'.*[{_CJK}](?=.)', re.S)
_ENDINGS = '''
  png jpg jpeg gif svg webp css js jsx ts tsx json html htm pdf txt xml yaml yml toml lock rc service
'''
_FILES = frozenset(_ENDINGS.split())
_NO_CALL = frozenset(['com', 'org', 'net', 'edu', 'gov', 'info'])


def emails(text: str) -> Iterator[Hit]:
  """Addresses with a local part and a domain that ends in letters; no handles, file names, matrix products or `git@`."""
  if not _HAS_AT.search(text):
    return
  for found in _EMAIL.finditer(text):
    local, domain = found.groups()
    begin = found.start(1)
    if before := _AFTER_CJK.match(local):      # text that runs into an address without a blank is none of it
      begin, local = begin + before.end(), local[before.end():]
    last = domain.rpartition('.')[2].lower()
    call = text.startswith('(', found.end()) and len(last) > 2 and last not in _NO_CALL
    if local.strip('.+-\'') and local != 'git' and last not in _FILES and not call:
      yield begin, found.end(), f'{local}@{domain}'.casefold()


_MARKS = ('PRIVATE KEY', 'AKIA', 'ASIA', 'ghp_', 'gho_', 'ghu_', 'ghs_', 'ghr_', 'github_', 'glpat-', 'sk-', 'xox', 'xapp',
          'AIza', 'ya29', 'GOCSPX', 'k_live', 'k_test', 'whsec_', 'hf_', 'npm_', 'pypi-',
          'SG.', 'dop_v1_', 'shpat_', 'eyJ', 'hooks.slack')
_SAYING = re.compile('pass|pwd|kennwort|token|secret|key|bearer|basic|://')
_KEY = re.compile(r'''
    -----BEGIN\ [A-Z0-9 ]{0,30}PRIVATE\ KEY(?:\ BLOCK)?-----
      (?:(?:[^-]|-(?!----))++-----END\ [A-Z0-9 ]{0,30}PRIVATE\ KEY(?:\ BLOCK)?-----|(?:(?:\s|\\n)*[A-Za-z0-9+/=]{40,})+)
  | (?<![A-Za-z0-9_-])(?:
      (?:AKIA|ASIA)[A-Z0-9]{16} | gh[opusr]_[A-Za-z0-9]{36,255} | github_pat_\w{22,255} | glpat-[\w-]{20,64}
      | sk-(?=[\w-]*\d)[\w-]{20,255} | xox[abeoprs]-(?=[\w-]*\d)[\w-]{10,255} | xapp-\d-[\w-]{10,255} | AIza[\w-]{35}
       | ya29\.[\w-]{20,400}
      | GOCSPX-[\w-]{20,40} | [prs]k_(?:live|test)_\w{16,255} | whsec_[A-Za-z0-9+/=]{24,64} | hf_[A-Za-z0-9]{30,64}
      | npm_[A-Za-z0-9]{36} | pypi-[\w-]{50,255} | SG\.[\w-]{16,32}\.[\w-]{32,64} | dop_v1_[0-9a-f]{64} | shpat_[0-9a-fA-F]{32}
      | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*(?:\.[\w-]+){0,2})(?![A-Za-z0-9])
  | (?<=hooks\.slack\.com/services/)T\w{8,12}/B\w{8,12}/\w{20,40}''', re.X | re.ASCII)
_SAID = re.compile(r"""bearer\s{1,3}(?P<bearer>[\w.~+/=-]{16,2048}) | basic\s{1,3}(?P<basic>[a-z0-9+/]{12,400}={0,2}(?![\w+/=]))
  | ://[^\s:/@\[\]]{0,64}:(?P<url>[^\s/@\[\]]{1,128})(?=@)
  | (?:(?P<word>passw(?:or)?d|passwort|passphrase|pwd|kennwort)|token|secret|(?P<key>key)(?:[_-]?id)?)
    (?![^\W\d_])[\d]{0,2}["'`]{0,2}\s{0,3}(?:[=:]|:=|=>|\bis\b|\bist\b)\s{0,3}
    ["'`]?(?P<value>(?:[^\s"'`<>,;&()\[\]{}\0]|&(?!\w{1,40}=)){8,256})(?![(\[{\w])""", re.X)      # of small letters
_OF_KEY = re.compile('(?:api|access|secret|private|auth|account|encryption|signing)[_ -]?$')


def _entropy(value: str) -> float:
  return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _drawn(value: str) -> bool:
  """Whether a value looks as if it had been drawn at random, and not like words or a number."""
  letters, digits = any(map(str.isalpha, value)), any(map(str.isdigit, value))
  mixed = letters and digits and _entropy(value) >= 3
  return mixed or (value != value.lower() and value != value.upper() and _entropy(value) >= 4.2)


def _secret(found: re.Match[str], value: str) -> bool:
  if found['url']:
    return True
  if found['basic']:
    bare = value.rstrip('=')
    return len(bare) % 4 != 1 and b':' in base64.b64decode(bare + '=' * (-len(bare) % 4))      # a name and a password
  if found['word']:
    kinds = sum(any(map(test, value)) for test in (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum()))
    return kinds >= 3 or (any(map(str.isdigit, value)) and any(map(str.isalpha, value)))
  return len(value) >= 16 and _drawn(value)


def keys(text: str) -> Iterator[Hit]:
  """Keys and tokens by the marks of those who give them out, private keys, and drawn values that are said to be secret."""
  found = []
  if any(mark in text for mark in _MARKS) and (max(map(len, text.split())) >= 15 or 'PRIVATE KEY' in text):
    found += [known.span() for known in _KEY.finditer(text)]
  small = _small(text)
  for saying in _SAYING.finditer(small):
    said = _SAID.match(small, saying.start())
    if said and not (said['key'] and not _OF_KEY.search(small[max(0, said.start() - 12):said.start()])):
      begin, end = said.span(str(said.lastgroup))
      value = text[begin:end].rstrip('.:!?*')
      if _secret(said, value):
        found.append((begin, begin + len(value)))
  ended = 0
  for begin, end in sorted(found, key=lambda span: (span[0], -span[1])):
    if begin >= ended:
      yield begin, end, text[begin:end]
      ended = end


def _small(text: str) -> str:
  """In small letters, as many as there were."""
  small = text.lower()
  return small if len(small) == len(text) else ''.join(sign.lower() if sign.isascii() else sign for sign in text)


# Countries' account numbers by the registry of ISO 13616: n digits, a letters, c either.
_REGISTRY = '''
  AD:8n12c AE:19n AL:8n16c AT:16n AZ:4a20c BA:16n BE:12n BG:4a6n8c BH:4a14c BI:23n BR:23n1a1c BY:4c4n16c CH:5n12c CR:18n
  CY:8n16c CZ:20n DE:18n DJ:23n DK:14n DO:4c20n EE:16n EG:25n ES:20n FI:14n FK:2a12n FO:14n FR:10n11c2n GB:4a14n GE:2a16n
  GI:4a15c GL:14n GR:7n16c GT:24c HN:4a20n HR:17n HU:24n IE:4a14n IL:19n IQ:4a15n IS:22n IT:1a10n12c JO:4a4n18c KW:4a22c
  KZ:3n13c LB:4n20c LC:4a24c LI:5n12c LT:16n LU:3n13c LV:4a13c LY:21n MC:10n11c2n MD:20c ME:18n MK:3n10c2n MN:16n MR:23n
  MT:4a5n18c MU:4a19n3a NI:4a20n NL:4a10n NO:11n OM:3n16c PK:4a16c PL:24n PS:4a21c PT:21n QA:4a21c RO:4a16c RS:18n RU:14n15c
  SA:2n18c SC:4a20n3a SD:14n SE:20n SI:15n SK:20n SM:1a10n12c SO:19n ST:21n SV:4a20n TL:19n TN:20n TR:6n16c UA:6n19c VA:18n
  VG:4a16n XK:16n YE:4a4n18c
'''
_ACCOUNTS = dict(part.split(':') for part in _REGISTRY.split())
_BLANK = '[ \u00a0\u2009\u202f.-]?'
_CHECK = re.compile(f'[0-9](?:(?<=[A-Za-z][A-Za-z].)|(?<=[A-Za-z][A-Za-z]{_BLANK[:-1]}.)){_BLANK}[0-9](?={_BLANK}[A-Za-z0-9])')


@functools.cache
def _account(country: str) -> re.Pattern[str]:
  signs = {'n': '[0-9]', 'a': '[A-Za-z]', 'c': '[A-Za-z0-9]'}
  parts = (f'(?:{_BLANK}{signs[kind]}){{{count}}}' for count, kind in re.findall(r'(\d+)([nac])', _ACCOUNTS[country]))
  return re.compile(''.join(parts) + r'(?![^\W_])')


def ibans(text: str) -> Iterator[Hit]:
  """Account numbers of a country's length and kind of signs, whose remainder by 97 is 1."""
  for check in _CHECK.finditer(text):
    begin = check.start() - (2 if text[check.start() - 1].isalpha() else 3)
    country = text[begin:begin + 2].upper()
    rest = _account(country).match(text, check.end()) if country in _ACCOUNTS and not text[begin - 1:begin].isalnum() else None
    if rest:
      value = re.sub(r'[\W_]', '', text[begin:rest.end()]).upper()
      if int(''.join(str(int(sign, 36)) for sign in value[4:] + value[:4])) % 97 == 1:
        yield begin, rest.end(), value


_LONG = re.compile(r'\d(?:[ \u00a0\u2009\u202f.\u2010-\u2013-]?\d){12,}')
_DIGITS = re.compile(r'\d+')
_GROUPED = frozenset({(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 5), (6, 13), (8, 8), (4, 4, 4, 3),
                      (4, 4, 4, 2), *((whole,) for whole in range(13, 20))})
_ISSUERS = re.compile(r"""4(?:\d{12}|\d{15}|\d{18}) | (?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}
  | 3[47]\d{13} | 3(?:0[0-5]|[689]\d)\d{11} | 3(?:0[0-5]|[689]\d)\d{13,16}
  | (?:6011|65\d\d|64[4-9]\d|62\d\d|81[0-7]\d|35\d\d)\d{12,15} | (?:2131|1800)\d{11}
  | (?:50|5[6-8]|6[37])\d{11,17} | 220[0-4]\d{12,15}""", re.X)


def cards(text: str) -> Iterator[Hit]:
  """Numbers of 13 to 19 digits that an issuer gives out and whose check digit is right, whole or in usual groups."""
  for stretch in _LONG.finditer(text):
    groups, at = [found.span() for found in _DIGITS.finditer(text, *stretch.span())], 0
    while at < len(groups):
      for count in (1, 2, 3, 4, 5):
        if value := _card(text, groups[at:at + count]):
          yield groups[at][0], groups[at + count - 1][1], value
          at += count - 1
          break
      at += 1


def _card(text: str, groups: list[tuple[int, int]]) -> str:
  """The digits of a card's number that stands in these groups; empty where they are none."""
  lengths = tuple([end - begin for begin, end in groups])
  if lengths not in _GROUPED:
    return ''
  begin, end = groups[0][0], groups[-1][1]
  part_of_more = re.match(r'\w|[.,]\d', text[end:end + 2]) or re.search(r'[\w+＋]$|\d[.,]$', text[max(0, begin - 2):begin])
  between = {text[a:b] for (_, a), (b, _) in itertools.pairwise(groups)}
  digits = ''.join(str(int(sign)) for sign in text[begin:end] if sign.isdigit())
  wrong = part_of_more or len(between) > 1 or not _ISSUERS.fullmatch(digits) or not _sums_to_ten(digits) or _on_goods(digits)
  return '' if wrong else digits


def _sums_to_ten(digits: str) -> bool:
  """Luhn's check."""
  return sum(sum(divmod(int(sign) * (1 + i % 2), 10)) for i, sign in enumerate(reversed(digits))) % 10 == 0


def _on_goods(digits: str) -> bool:
  """Whether it is a number of goods (EAN-13), a tenth of which pass for a card's."""
  return len(digits) == 13 and sum(int(sign) * (1 + 2 * (i % 2)) for i, sign in enumerate(digits)) % 10 == 0


_HAS_V4 = re.compile(r'[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]')
_V4 = re.compile(r'(?<![\w.])(?<![^\W\d_]-)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.\w|-[^\W\d_])')
_V6 = re.compile(r'(?<![\w.:])(?:(?=\w{0,20}[G-Zg-z_])\w{1,24}:)?'
                 r'([0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:\.[0-9]{1,3}){0,3})(?!\w)')
_HAS_V6 = re.compile(':[0-9A-Fa-f]{0,4}:')
_NO_ADDRESS = re.compile(r"""(?:(?:\b|_)(?:v|ver|vers|version|release|rel|build|firmware|fw|update|revision|rev|section|sect
  |sec|chapter|clause|figure|fig|table|abschnitt|kapitel|ziffer|abb|tabelle)[\s.:\#="'_-]{0,3} | § \s? | [A-Za-z]/
  | [=!<>~]= \s? | [~^] \s?)$""", re.X | re.I)


def addresses(text: str) -> Iterator[Hit]:
  """Addresses of IP, but for those that are no machine's or every machine's own, and for numbers of versions and sections."""
  for found in _V4.finditer(text) if _HAS_V4.search(text) else ():
    if not _NO_ADDRESS.search(text[max(0, found.start() - 24):found.start()]) and (value := _address(found[0])):
      yield *found.span(), value
  if not _HAS_V6.search(text):
    return
  for found in _V6.finditer(text):
    begin, written = found.start(1), found[1]
    if written.endswith(':') and not written.endswith('::'):
      written = written[:-1]
    sliced = re.search(r'[\w)\]]\[$', text[max(0, begin - 2):begin])
    if not sliced and _like_v6(written) and (value := _address(written)):
      yield begin, begin + len(written), value


def _like_v6(written: str) -> bool:
  """Whether it is more than a slice, a time or a name in C++."""
  first = written.partition(':')[0]
  long = len(first) >= 3 if '::' in written else any(len(group) >= 3 for group in written.split(':'))
  return (long and any(map(str.isdigit, written))) or written.lower().startswith(('::ffff:', '64:ff9b:'))


def _address(written: str) -> str:
  try:
    address = ipaddress.ip_address(written)
  except ValueError:
    return ''
  reserved = address.version == 4 and (address.is_reserved or int(address) < 1 << 24)
  own = address.is_loopback or address.is_unspecified or reserved
  return '' if own else str(address)
