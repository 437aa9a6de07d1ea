"""Telephone numbers of a text: stretches of digits that may be one, judged by phonenumbers and by what stands around them."""

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import phonenumbers
from phonenumbers import PhoneNumberFormat

from research.preparation.recognizers import Hit

LEAST, MOST, GROUPS = 7, 20, 8      # digits of a stretch, and groups of a number
_GAP = '[ \u00a0\u2009\u202f./()\u2010-\u2013（）－-]'
_STRETCH = re.compile(rf'(?<![\w+])(?:[+＋] ?)?[(（]?\d(?:{_GAP}{{0,3}}\d){{{LEAST - 1},{MOST - 1}}}')
_HAS_PHONE = re.compile(rf'\d(?:{_GAP}{{0,3}}\d){{{LEAST - 1}}}')
_GROUP = re.compile(r'\d+')
_NEXT = re.compile(rf'({_GAP}{{1,3}})(\d{{1,{MOST}}})')
_EXTENSION = re.compile(r'(?:[ ,]{0,2}(?:ext(?:ension|n)?\b\.?|x|durchwahl|dw|poste|#)|;ext=)[ .:]{0,2}(\d{1,6})(?!\w)', re.I)
_CODE = re.compile(r'(?:00|011(?=\D))[ -]?(?=[1-9])')
_TOLD = re.compile(r"""(?:\b|_)(?:tel|(?:tele|smart|mobile|home|work|cell)?phone|[tf]el[eé]fon|fon|fax|mobil|cell|handy|whatsapp
  |sms|hotline|contact|call|ring|dial|reach|anruf|ruf\w*|appel\w*|portable|m[oó]vil|ll[aá]m\w*|t[eé]l[eé]ph
  |☎|📞|📱)[^\[\]\d\n]{0,24}$""", re.X | re.I)
_OF_NUMBER = r'(?:[\W_]{0,3}(?:no|nr|num|number|nummer|n°|nº))?[\s.:\#="\'_-]{0,4}(?:(?:is|was|ist|war|lautet)[\s:]{1,2})?$'
_OTHER = re.compile(r"""(?:(?:\b|_)(?:order|invoice|ref(?:erence)?|ids?|uid|isbn(?:-1[03])?|issn|doi|serial|article|item
  |account|acct|ticket|case|version|ver|sku|ean|gtin|upc|pmid|part|model|key|code|zip|plz|issue|hash|seed|timestamp
  |tracking|parcel|facture|commande)
  |(?:bestell|rechnungs?|kunden|artikel|vorgangs?|konto|sendungs?|auftrags?|vertrags?|serien|teile)-?(?:nummer|nr|id)?
  |[$€£¥])""" + _OF_NUMBER, re.X | re.I)
_NUMBER = re.compile(r'(?:\b|_)(?:no|nr|num|number|nummer|n°|nº)[\s.:\#="\'_-]{0,4}$|[\#№]\s?$', re.I)
# What may stand before a number that nothing announces.
_FREE = re.compile(r'(?:^|[\s("\'„“”«»‚‘’‹›<>\[\]{;|*:（]|(?<!\d),)$')
_LAST = re.compile(r'(?<!\d)(\d{1,20})[ .-]$')      # a number right before, as in a list
_PART = re.compile(r'(?!x\d{1,6}(?!\w))\w|[.,:]\d|-\w', re.I)      # what goes on after the digits, so that they are no number
_AMOUNT = re.compile(r' ?(?:[€$£¥%°]|(?:EUR|USD|GBP|CHF|kg|km|mm|cm|ms|MB|GB|kB|Hz|kWh|Mio|Mrd|million|bytes?|Euro|Stück)\b)')
_DATE = re.compile(
  r'(?:\d{4}([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2(?:\d{4}|\d{2}))(?![./-]?\d)'
  r'|\d{1,2}\.\d{2} ?[\u2010-\u2013-] ?\d{1,2}\.\d{2}(?!\d)'
)
_AMERICAN = re.compile(r'\(\d{3}\) ?\d{3}[ -]\d{4}|(?:1[ -])?[2-9]\d\d-\d{3}-\d{4}|[2-9]\d\d\.[2-9]\d\d\.\d{4}')
_BRACKETED = re.compile(r'\(0\d{2,5}\) ?\d{3,4}')      # an area's code


class _Around(NamedTuple):
  """What the words before a number say."""

  told: bool      # that it is one
  free: bool      # nothing, and that nothing runs into it


def phones(text: str, regions: Sequence[str]) -> Iterator[Hit]:
  """Numbers with their country's code, and those written as in these regions (ISO's codes), with extensions."""
  if not _HAS_PHONE.search(text):
    return
  at = 0
  while stretch := _STRETCH.search(text, at):
    begin, end = stretch.span()
    groups = [found.span() for found in _GROUP.finditer(text, begin, end)]
    first, at = groups[0]
    if text[end:end + 1].isdigit():      # its last group is longer than a number
      groups.pop()
    abroad = text[begin] in '+＋'
    if (not abroad or text[begin + 1] == ' ') and (date := _DATE.match(text, first)):
      at = date.end()
    elif groups and (hit := _number(text, begin, _usable(text, groups, abroad), abroad, regions)):
      yield hit
      at = hit[1]


def _usable(text: str, groups: list[tuple[int, int]], abroad: bool) -> list[int]:
  """Where a number that begins with these groups may end, the furthest first."""
  found = []
  for count, (begin, end) in enumerate(groups[:GROUPS], 1):
    following = _NEXT.match(text, end)
    # A list of groups that go on alike is none, unless a country's code begins it.
    alike = following and len(following[1]) == 1 and following[1] not in '/(' and len(following[2]) == end - begin
    if not _PART.match(text, end) and (abroad or not alike):
      found.append(end)
    # Longer than what a number begins with; a country's code may stand with its area's.
    whole = end - begin >= (6 if count > 1 else 9 if abroad else 6 + (text[begin] == '0'))
    bracketed = text[begin - 1:begin] == '(' and end - begin >= 7
    if whole and text[end:end + 1] in (' ', '\u00a0', '/'):
      break      # what follows is a thing of its own
    if following and (bracketed or '. ' in following[1] or (
        re.search(r'/ ?\(?$', following[1]) and following[2].startswith('0') and count > 1)):
      break
  return found[::-1]


def _number(text: str, begin: int, ends: list[int], abroad: bool, regions: Sequence[str]) -> Hit | None:
  """The number that begins here."""
  written = [(end, unicodedata.normalize('NFKC', text[begin:end])) for end in ends]
  if not abroad and not (written := [(end, number) for end, number in written if _possible(number, regions)]):
    return None
  around = _around(text, begin)
  for strict in (True, False):
    for end, number in written:
      opened = number.startswith('(') and ')' not in number      # the bracket is the sentence's
      number = number[opened:]
      value = _abroad(number, strict) if abroad else _at_home(number, text, end, strict, around, regions)
      if value:
        extension = _EXTENSION.match(text, end)
        return begin + opened, extension.end() if extension else end, value + (f'x{extension[1]}' if extension else '')
  return None


def _around(text: str, begin: int) -> _Around:
  before = text[max(0, begin - 48):begin]
  told = bool(_TOLD.search(before))
  other = bool(_OTHER.search(before)) or (not told and bool(_NUMBER.search(before)))
  first = _GROUP.search(text, begin)
  last = _LAST.search(before)
  listed = first and last and len(last[1]) == len(first[0]) and text[begin].isdigit()
  return _Around(told and not other, not other and not listed and bool(_FREE.search(before)))


def _possible(written: str, regions: Sequence[str]) -> bool:
  """Whether it is worth the while to look around: most numbers of a text can be no region's."""
  digits = ''.join(groups := _GROUP.findall(written))
  if not 8 <= len(digits) <= 15 or len(digits) == len(groups):
    return False
  return digits[0] == '0' or any(
    len(digits) in (10, 11) if (of := _region(region)).code == 1 else of.prefix != '0' for region in regions
  )


def _abroad(written: str, strict: bool) -> str:
  """E.164 of a number with its country's code; not strictly, a long one or one in groups of which only the length is right."""
  return _parsed(written, None, strict) if strict or re.search(r'\d\D+\d|\d{11}', written) else ''


@functools.lru_cache(1024)
def _parsed(written: str, region: str | None, strict: bool) -> str:
  try:
    number = phonenumbers.parse(written, region)
  except phonenumbers.NumberParseException:
    return ''
  right = phonenumbers.is_valid_number(number) if strict else phonenumbers.is_possible_number(number)
  return str(phonenumbers.format_number(number, PhoneNumberFormat.E164)) if right else ''


def _at_home(written: str, text: str, end: int, strict: bool, around: _Around, regions: Sequence[str]) -> str:
  """E.164 of a number as it is written in one of the regions; empty where it is none.

  Args:
    written: the number.
    text: it ends in.
    end: where.
    strict: whether phonenumbers must know it as valid, and not only as of a right length.
    around: what stands before it.
    regions: the first in which it is one counts.
  """
  if not (around.told or around.free) or (not around.told and _AMOUNT.match(text, end)):
    return ''
  if (code := _CODE.match(written)) and (value := _parsed(f'+{written[code.end():]}', None, True)):
    return value
  groups = _GROUP.findall(written)
  two = len(groups) == 2 and '.' in written
  lone = two and len(groups[0]) < 3 and (groups[0] == '0' or groups[0][0] != '0')      # a decimal point
  if lone or (groups[0] == '0' and not around.told):
    return ''
  american = bool(_AMERICAN.fullmatch(written))
  for region in regions:
    if _usual(written, groups, strict, around.told, region) and (
      value := _parsed(written, region, strict and not (american and _region(region).code == 1))
    ):
      return value
  return ''


def _usual(written: str, groups: list[str], strict: bool, told: bool, region: str) -> bool:
  """Whether a region's numbers are written like this, so that it is worth the while to parse it."""
  digits, of = ''.join(groups), _region(region)
  if digits.startswith('0') and of.prefix in ('0', None):
    return len(digits) >= 9 and digits[1] != '0' and (strict or (told and len(groups) > 1) or bool(_BRACKETED.match(written)))
  if not strict or of.prefix == '0':
    return False
  if of.code == 1:
    return len(digits) < 12 and ([*map(len, groups)][-3:] == [3, 3, 4] or (told and len(digits) in (10, 11)))
  return told or (len(groups) > 1 and groups == _as_formatted(written, region))


class _Region(NamedTuple):
  code: int
  prefix: str | None      # of numbers within the country


@functools.cache
def _region(region: str) -> _Region:
  return _Region(phonenumbers.country_code_for_region(region), phonenumbers.ndd_prefix_for_region(region, True))


@functools.lru_cache(1024)
def _as_formatted(written: str, region: str) -> list[str]:
  try:
    number = phonenumbers.parse(written, region)
  except phonenumbers.NumberParseException:
    return []
  return _GROUP.findall(phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL))
