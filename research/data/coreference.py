"""Bias probes of coreference: whom a pronoun refers to, which gender should not decide. WinoBias and Winogender.

The question is put as a choice between the two people of the sentence.
"""

import re
from pathlib import Path

from research.console import say_once
from research.data import formats
from research.data.probe_rows import COLUMN, different, one_of, text_of, with_columns
from research.data.rows import Row
from research.errors import InputError

# WinoBias. The occupations that Zhao et al. (2018) take for those of men and of women, by US labour statistics.
MALE = ('driver', 'supervisor', 'janitor', 'cook', 'mover', 'laborer', 'construction worker', 'chief', 'developer', 'carpenter',
        'manager', 'lawyer', 'farmer', 'salesperson', 'physician', 'guard', 'analyst', 'mechanic', 'sheriff', 'CEO')
FEMALE = ('attendant', 'cashier', 'teacher', 'nurse', 'assistant', 'secretary', 'auditor', 'cleaner', 'receptionist', 'clerk',
          'counselor', 'designer', 'hairdresser', 'writer', 'housekeeper', 'baker', 'accountant', 'editor', 'librarian',
          'tailor')
PRONOUNS = {'he': 'male', 'him': 'male', 'his': 'male', 'she': 'female', 'her': 'female', 'hers': 'female',
            'they': 'neutral', 'them': 'neutral', 'their': 'neutral', 'theirs': 'neutral'}
VARIANTS = ('pro', 'anti')
TYPES = ('type1', 'type2')


def _occupations(where: str, text: str) -> list[str]:
  """The two occupations of a sentence, as they come in it: one of either list.

  Raises:
    InputError: it names others.
  """
  at = {one: found.start() for one in (*MALE, *FEMALE) if (found := re.search(rf'\b(?:the|an?) {one}s?\b', text, re.I))}
  if len(at) != 2 or len(at.keys() & {*MALE}) != 1:
    raise InputError(f'{where}: names {", ".join(at) or "no occupation"}; must be one occupation of WinoBias\'s list of men\'s '
                     f'and one of women\'s: {text!r:.120}')
  return sorted(at, key=at.__getitem__)


def _sentence(where: str, name: str, kind: str, variant: str, text: str, pronoun: str, referent: str | None = None) -> Row:
  """A row of WinoBias; without a referent it is the one whom the stereotype tells.

  Raises:
    InputError: the referent is neither of the sentence's occupations.
  """
  both = _occupations(where, text)
  if referent is None:
    of_women = (PRONOUNS[pronoun.lower()] == 'female') == (variant == 'pro')
    referent = next(one for one in both if (one in FEMALE) == of_women)
  if referent not in both:
    raise InputError(f'{where}: marks {referent!r} and names {" and ".join(both)}')
  return {'sentence': name, 'type': kind, 'variant': variant, 'text': text, 'pronoun': pronoun, 'referent': referent,
          'options': [f'the {one}' for one in both], 'answer': f'the {referent}', COLUMN: [variant, kind]}


def winobias(path: Path) -> list[Row]:
  """Each sentence twice, with a pronoun that agrees with the stereotype and with one that does not.

  Raises:
    InputError: a line is of another form.
  """
  if path.is_dir():
    return _winobias_folder(path)
  rows = []
  for number, (where, row) in enumerate(with_columns(path, ('text', 'pro_stereotyped', 'anti_stereotyped'))):
    kind = one_of(where, row, 'type', TYPES) if 'type' in row else TYPES[0]
    if row['text'].count('[MASK]') != 1:
      raise InputError(f'{where}: text must hold [MASK] once, where the pronoun stands')
    genders = [PRONOUNS.get(str(row[f'{variant}_stereotyped']).strip().lower()) for variant in VARIANTS]
    if {*genders} != {'male', 'female'}:
      raise InputError(f'{where}: pro_stereotyped={row["pro_stereotyped"]!r:.40} and anti_stereotyped='
                       f'{row["anti_stereotyped"]!r:.40}: must be pronouns of the two genders')
    for variant in VARIANTS:
      pronoun = row[f'{variant}_stereotyped'].strip()
      text = re.sub(r" ('\w)", r'\1', row['text'].replace('[MASK]', pronoun))
      rows.append(_sentence(where, str(number), kind, variant, text, pronoun))
  return rows


def _winobias_folder(folder: Path) -> list[Row]:
  """The authors' files: `7 The cook called [the accountant] and explained to [her] …`, the pairs by their lines.

  Raises:
    InputError: a file is missing, has another number of lines, or a line of another form.
  """
  rows = []
  for kind in (kind for kind in TYPES if (folder / f'pro_stereotyped_{kind}.txt.test').exists()):
    lines = {}
    for variant in VARIANTS:
      path = folder / f'{variant}_stereotyped_{kind}.txt.test'
      formats.check(path, '.txt')
      lines[variant] = [(f'{path}: line {n}', one) for n, one in enumerate(text_of(path).splitlines(), 1) if one.strip()]
    if len(lines['pro']) != len(lines['anti']):
      raise InputError(f'{folder}: {kind} has {len(lines["pro"])} pro- and {len(lines["anti"])} anti-stereotyped sentences, '
                       'which are to be pairs, line by line')
    for number, pair in enumerate(zip(lines['pro'], lines['anti']), 1):
      for variant, (where, line) in zip(VARIANTS, pair):
        marked = re.findall(r'\[([^\]]*)\]', line)
        pronoun = next((one for one in marked if one.lower() in PRONOUNS), None)
        one = next((job for mark in marked for job in (*MALE, *FEMALE) if re.search(rf'\b{job}\b', mark, re.I)), None)
        if pronoun is None or one is None:
          raise InputError(f'{where}: must mark an occupation and its pronoun, as in "1 The cook called [the clerk] and asked '
                           f'[her] …": {line!r:.100}')
        text = re.sub(r'[\[\]]', '', re.sub(r'^\d+ ', '', line)).strip()
        rows.append(_sentence(where, f'{kind}-{number}', kind, variant, text, pronoun, one))
  if not rows:
    raise InputError(f'{folder}: holds no sentences of WinoBias: files pro_stereotyped_type1.txt.test, '
                     'anti_stereotyped_type1.txt.test, and those of type2')
  return rows


STATISTICS = 'occupations-stats.tsv'
_SENTID = re.compile(r'(?P<occupation>.+)\.(?P<participant>.+)\.(?P<answer>[01])\.(?P<gender>male|female|neutral)\.txt')


def winogender(path: Path) -> list[Row]:
  """Sentences of three genders; with the shares of women in the occupations where their file lies beside them.

  Raises:
    InputError: a line is of another form, or of an occupation that the file of shares lacks.
  """
  shares, rows = _shares(path.with_name(STATISTICS)), []
  for where, row in with_columns(path, ('sentid', 'sentence')):
    name = _SENTID.fullmatch(row['sentid'].strip())
    if not name:
      raise InputError(f'{where}: sentid={row["sentid"]!r:.60}: must be as technician.customer.1.male.txt')
    gender, job = name['gender'], name['occupation']
    pronoun = next((word for word in re.findall(r'\w+', row['sentence']) if PRONOUNS.get(word.lower()) == gender), None)
    if pronoun is None:
      raise InputError(f'{where}: the sentence has no {gender} pronoun: {row["sentence"]!r:.100}')
    if shares and job not in shares:
      raise InputError(f'{where}: {path.with_name(STATISTICS)} says nothing of {job!r}')
    options = different(where, [f'the {job}', name['participant'] if name['participant'] == 'someone' else
                                 f'the {name["participant"]}'])
    of_job = name['answer'] == '0'
    gotcha = '' if not shares or gender == 'neutral' else \
        'gotcha' if (of_job == (shares[job] >= 50)) == (gender == 'male') else 'plain'
    rows.append({**row, 'text': row['sentence'].strip(), 'occupation': job, 'participant': name['participant'],
                 'gender': gender, 'gotcha': gotcha, 'template': f'{job}.{name["participant"]}.{name["answer"]}',
                 'pronoun': pronoun, 'options': options, 'answer': options[not of_job],
                 COLUMN: [gender, gotcha, job, str(shares[job]) if shares else '']})
  if not shares:
    say_once(f'{path}: {STATISTICS} does not lie beside it, so nothing is said of gotchas and of women\'s share in '
             'occupations')
  return rows


def _shares(path: Path) -> dict[str, float]:
  """Occupation -> percent of women in it (US Bureau of Labor Statistics); none where there is no such file.

  Raises:
    InputError: a line holds no such number.
  """
  found = {}
  for where, row in with_columns(path, ('occupation', 'bls_pct_female')) if path.exists() else ():
    try:
      percent = float(row['bls_pct_female'])
    except ValueError:
      percent = -1.0
    if not 0 <= percent <= 100:
      raise InputError(f'{where}: bls_pct_female={row["bls_pct_female"]!r:.40}: must be a number from 0 to 100')
    found[row['occupation']] = percent
  return found
