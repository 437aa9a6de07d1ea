"""Rows of real text with personal data planted in them, and things that only look like it: what stands where is known.

The values are made here, by rules of their own, and not by what finds them.
"""

import base64
import ipaddress
import json
import random
import string
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import phonenumbers

from research.data import sources
from research.preparation import personal

HOME = ('US', 'GB', 'DE', 'AT', 'CH', 'FR')  # whose numbers are written without their country's code, too
ABROAD = (
  *HOME,
  'IT',
  'ES',
  'NL',
  'BE',
  'SE',
  'NO',
  'DK',
  'PL',
  'CZ',
  'PT',
  'IE',
  'IN',
  'JP',
  'CN',
  'KR',
  'AU',
  'BR',
  'MX',
  'TR',
  'ZA',
)
THERE = ('192.168.1.58', '192.168.1.25', '192.168.1.1', '192.168.1.0', '192.168.0.0')  # addresses that our samples hold
Maker = Callable[[random.Random], str]


class Truth(NamedTuple):
  kind: str
  start: int
  end: int


class Planted(NamedTuple):
  text: str
  truth: tuple[Truth, ...]


def _drawn(rng: random.Random, signs: str, count: int) -> str:
  return ''.join(rng.choices(signs, k=count))


def _grouped(text: str, sizes: Iterable[int], between: str) -> str:
  parts, at = [], 0
  for size in sizes:
    parts.append(text[at : at + size])
    at += size
  return between.join(part for part in (*parts, text[at:]) if part)


LETTERS, DIGITS = string.ascii_letters, string.digits
BOTH = LETTERS + DIGITS
NAMES = (
  'anna',
  'john.doe',
  'j.müller',
  'Max_Mustermann',
  "o'brien",
  'sales',
  'info+news',
  'x',
  'li-wei',
  'jean-luc.p',
  'K.Smith99',
)
HOSTS = (
  'example.com',
  'mail.example.co.uk',
  'uni-köln.de',
  'firma.berlin',
  'sub.a-b.org',
  'gmail.com',
  'web.de',
  'x.io',
  'EXAMPLE.NET',
)


def email(rng: random.Random) -> str:
  """An address."""
  return f'{rng.choice(NAMES)}{rng.choice(("", rng.randint(1, 99)))}@{rng.choice(HOSTS)}'


def phone(rng: random.Random) -> str:
  """A number, with its country's code or as it is written at home."""
  home = rng.random() < 0.4
  while True:
    region = rng.choice(HOME if home else ABROAD)
    kind = rng.choice((phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE))
    example = phonenumbers.example_number_for_type(region, kind)
    national = str(example.national_number)
    kept = rng.randint(2, 4)
    number = phonenumbers.PhoneNumber(
      example.country_code,
      int(national[:kept] + _drawn(rng, DIGITS, len(national) - kept)),
      italian_leading_zero=example.italian_leading_zero,
    )
    if phonenumbers.is_valid_number(number):
      break
  form = phonenumbers.PhoneNumberFormat
  written = phonenumbers.format_number(number, form.NATIONAL if home else rng.choice((form.INTERNATIONAL, form.E164)))
  if home and region != 'US' and rng.random() < 0.2:
    return written.replace(' ', '')
  if rng.random() < 0.3:
    written = written.replace(' ', rng.choice('-.'))
  if not home and written.startswith(('+49 ', '+44 ', '+33 ')) and rng.random() < 0.3:
    written = written.replace(' ', ' (0)', 1)
  return written + (rng.choice((' ext. 12', ' x305')) if rng.random() < 0.05 else '')


def card(rng: random.Random, right: bool = True) -> str:
  """A card's number; not right: with another check digit."""
  start, length = rng.choice((
    ('4', 16),
    ('51', 16),
    ('55', 16),
    ('2221', 16),
    ('34', 15),
    ('37', 15),
    ('36', 14),
    ('6011', 16),
    ('65', 16),
    ('3530', 16),
    ('62', 16),
  ))
  body = start + _drawn(rng, DIGITS, length - len(start) - 1)
  total = sum(int(sign) if at % 2 else sum(map(int, str(2 * int(sign)))) for at, sign in enumerate(reversed(body)))
  digits = f'{body}{(-total + (not right)) % 10}'
  between = rng.choice(('', ' ', '-'))
  return _grouped(digits, (4, 4, 4) if length == 16 else (4, 6), between)


def iban(rng: random.Random, right: bool = True) -> str:
  """An account's number; not right: with other check digits."""
  country, signs = rng.choice((
    ('DE', '9' * 18),
    ('GB', 'AAAA' + '9' * 14),
    ('FR', '9' * 10 + 'C' * 11 + '99'),
    ('NL', 'AAAA' + '9' * 10),
    ('ES', '9' * 20),
    ('IT', 'A' + '9' * 10 + 'C' * 12),
    ('AT', '9' * 16),
    ('CH', '9' * 5 + 'C' * 12),
    ('PL', '9' * 24),
    ('BE', '9' * 12),
    ('NO', '9' * 11),
    ('MT', 'AAAA' + '9' * 5 + 'C' * 18),
    ('SE', '9' * 20),
  ))
  of = {'9': DIGITS, 'A': string.ascii_uppercase, 'C': string.ascii_uppercase + DIGITS}
  account = ''.join(rng.choice(of[sign]) for sign in signs)
  rest = int(''.join(str(int(sign, 36)) for sign in f'{account}{country}00')) % 97
  written = f'{country}{(98 - rest + 7 * (not right)) % 100:02}{account}'
  written = _grouped(written, [4] * (len(written) // 4), rng.choice(('', ' ')))
  return written.lower() if rng.random() < 0.15 else written


def ip(rng: random.Random) -> str:
  """An address of version 4 or 6."""
  if rng.random() < 0.65:
    return '.'.join(str(rng.randint(low, high)) for low, high in ((1, 223), (0, 255), (0, 255), (1, 254))).replace(
      '127.', '126.', 1
    )
  address = ipaddress.IPv6Address(
    (rng.choice((0x2001, 0x2A02, 0xFE80, 0xFD12)) << 112) + rng.getrandbits(rng.choice((8, 40, 64, 112)))
  )
  return rng.choice((str(address), address.exploded, str(address).upper()))


def key(rng: random.Random) -> str:
  """A key or token with its giver's marks."""
  part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip('=')
  lines = '\n'.join(_drawn(rng, BOTH + '+/', 64) for _ in range(3))
  return rng.choice((
    'AKIA' + _drawn(rng, string.ascii_uppercase + DIGITS, 16),
    'ghp_' + _drawn(rng, BOTH, 36),
    'github_pat_' + _drawn(rng, BOTH, 59),
    'sk-' + _drawn(rng, BOTH, 48),
    'sk-proj-' + _drawn(rng, BOTH + '_-', 60) + 'a1',
    'xoxb-' + _drawn(rng, DIGITS, 12) + '-' + _drawn(rng, BOTH, 24),
    'AIza' + _drawn(rng, BOTH + '_-', 34) + 'a',
    'sk_live_' + _drawn(rng, BOTH, 24),
    'hf_' + _drawn(rng, LETTERS, 34),
    'glpat-' + _drawn(rng, BOTH, 20),
    'npm_' + _drawn(rng, BOTH, 36),
    f'{part({"alg": "HS256", "typ": "JWT"})}.{part({"sub": _drawn(rng, DIGITS, 9)})}.{_drawn(rng, BOTH, 43)}',
    f'-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----',
  ))


def secret(rng: random.Random) -> tuple[str, str]:
  """What announces a value that has no marks, and the value."""
  return rng.choice((
    ('password: ', _drawn(rng, BOTH, 9) + 'a1!x'),
    ('api_key="', _drawn(rng, BOTH, 32)),
    ('access_token=', _drawn(rng, '0123456789abcdef', 40)),
    ('Authorization: Bearer ', _drawn(rng, BOTH, 40)),
    ('"client_secret": "', _drawn(rng, BOTH, 24) + 'a1'),
  ))


MAKERS: dict[str, Maker] = {'email': email, 'phone': phone, 'card': card, 'iban': iban, 'ip': ip, 'key': key}
SAID = {
  'email': ('write to {}', 'mailto:{}', '<{}>', 'E-Mail: {}'),
  'phone': ('Tel. {}', 'call {}', 'Telefon: {}', 'Fax {}'),
  'card': ('card {}', 'Visa: {}'),
  'iban': ('IBAN {}', 'IBAN: {}', 'Konto {}'),
  'ip': ('from {}', 'host={}', 'http://{}/', 'IP: {}'),
  'key': ('key {}', 'export KEY={}'),
}
PLAIN = ('{}', '({})', '{},', '{}.', '"{}"', '{};', '„{}“', "'{}'", '{}!', '[{}]', '{}:')


def _decoy(rng: random.Random) -> str:
  n = rng.randint
  return rng.choice((
    lambda: f'{n(1900, 2030)}-{n(1, 12):02}-{n(1, 28):02} {n(0, 23):02}:{n(0, 59):02}:{n(0, 59):02}',
    lambda: f'{n(1, 28):02}.{n(1, 12):02}.{n(1900, 2030)}',
    lambda: f'{n(1, 12):02}/{n(1, 28):02}/{n(1900, 2030)}',
    lambda: f'{n(1990, 2010)}-{n(2011, 2030)}',
    lambda: f'${n(1, 999)},{n(0, 999):03},{n(0, 999):03}.{n(0, 99):02}',
    lambda: f'{n(1, 999)}.{n(0, 999):03}.{n(0, 999):03},{n(0, 99):02} €',
    lambda: f'order {n(10**7, 10**12)}',
    lambda: f'Bestellnummer 0{n(10**8, 10**9)}',
    lambda: f'v{n(0, 20)}.{n(0, 20)}.{n(0, 20)}.{n(0, 20)}',
    lambda: f'version {n(0, 20)}.{n(0, 20)}.{n(0, 20)}.{n(0, 20)}',
    lambda: f'{n(0, 20)}.{n(0, 20)}.{n(0, 20)}',
    lambda: f'Chrome/{n(50, 120)}.0.{n(0, 255)}.{n(0, 255)}',
    lambda: str(uuid.UUID(int=rng.getrandbits(128))),
    lambda: f'ISBN 978-3-{n(10, 99)}-{n(100000, 999999)}-{n(0, 9)}',
    lambda: f'ISBN 0-{n(100, 999)}-{n(10000, 99999)}-{n(0, 9)}',
    lambda: f'{rng.uniform(-90, 90):.6f}, {rng.uniform(-180, 180):.6f}',
    lambda: f'0.{n(10**8, 10**16)}',
    lambda: _drawn(rng, '0123456789abcdef', rng.choice((8, 32, 40, 64))),
    lambda: card(rng, False),
    lambda: iban(rng, False),
    lambda: '@' + rng.choice(NAMES),
    lambda: 'icon@2x.png',
    lambda: f'react@{n(1, 20)}.{n(0, 9)}.0',
    lambda: 'std::vector<int>::iterator',
    lambda: f'x[{n(1, 9)}::{n(2, 9)}]',
    lambda: 'A @ B',
    lambda: f'{n(0, 23)}:{n(0, 59):02}:{n(0, 59):02}',
    lambda: ':'.join(_drawn(rng, '0123456789abcdef', 2) for _ in range(6)),
    lambda: f'{n(1, 9)} {n(100, 999)} {n(100, 999)}',
    lambda: 'password: required',
    lambda: 'token=get_token()',
    lambda: f'timestamp {n(10**9, 2 * 10**9)}',
    lambda: f'{n(10**12, 2 * 10**12)}',
    lambda: 'risk-free task-oriented',
    lambda: f'#{n(1000, 10**6)}',
    lambda: f'{n(1, 9)}e-{n(10, 99)} {n(10, 99)} {n(10, 99)} {n(10, 99)} {n(10, 99)}',
    lambda: f'08.{n(10, 59)}-18.{n(10, 59)}',
  ))()


def planted(texts: Sequence[str], rows: int, seed: int = 0) -> list[Planted]:
  """So many of our samples' texts, each with up to two values and two decoys between its words.

  Args:
    texts: real ones; what personal data they hold already is of `THERE`.
    rows: how many.
    seed: of what is drawn.
  """
  rng = random.Random(seed)
  return [_row(rng, rng.choice(texts).split(' ')) for _ in range(rows)]


def _row(rng: random.Random, words: list[str]) -> Planted:
  pieces: list[tuple[str, Truth | None]] = [(word, _there(word)) for word in words]
  for _ in range(rng.randint(0, 2)):
    kind = rng.choice([*MAKERS])
    before, _, after = rng.choice((*SAID[kind], *PLAIN, *PLAIN[:3])).partition('{}')
    value = MAKERS[kind](rng)
    if kind == 'key' and rng.random() < 0.25:
      before, value = secret(rng)
      after = '"' if before.endswith('"') else ''
    _put(rng, pieces, before + value + after, Truth(kind, len(before), len(before) + len(value)))
  for _ in range(rng.randint(0, 2)):
    _put(rng, pieces, _decoy(rng), None)
  text, truth = '', []
  for piece, found in pieces:
    if found:
      truth.append(Truth(found.kind, found.start + len(text), found.end + len(text)))
    text += f'{piece} '
  return Planted(text.rstrip(), tuple(truth))


def _put(rng: random.Random, pieces: list[tuple[str, Truth | None]], piece: str, truth: Truth | None) -> None:
  pieces.insert(rng.randint(0, len(pieces)), (piece, truth))


def _there(word: str) -> Truth | None:
  return next((Truth('ip', word.index(one), word.index(one) + len(one)) for one in THERE if one in word), None)


def score(truth: Iterable[Iterable[Truth]], found: Iterable[Iterable[Truth]]) -> dict[str, dict[str, float]]:
  """Kind -> recall and precision, where what is found counts as right if its kind and both its ends are.

  Args:
    truth: of each row.
    found: in each row.
  """
  owed: Counter[str] = Counter()
  told: Counter[str] = Counter()
  right: Counter[str] = Counter()
  for there, here in zip(truth, found, strict=True):
    a, b = {*there}, {*here}
    owed.update(one.kind for one in a)
    told.update(one.kind for one in b)
    right.update(one.kind for one in a & b)
  return {
    kind: {
      'planted': owed[kind],
      'found': told[kind],
      'recall': round(right[kind] / max(1, owed[kind]), 4),
      'precision': round(right[kind] / max(1, told[kind]), 4),
    }
    for kind in MAKERS
  }


def measured(rows: int) -> list[dict[str, float | str]]:
  """Recall and precision of what `prepare` finds among so many rows of our samples' texts, a row for each kind."""
  texts = [row['text'] for of_split in sources.sample_texts().values() for row in of_split]
  some = planted(texts, rows)
  found = [[Truth(one.kind, one.start, one.end) for one in personal.find(row.text)] for row in some]
  return [
    {'row': f'personal data: {kind}', 'rows': rows, **told} for kind, told in score([row.truth for row in some], found).items()
  ]
