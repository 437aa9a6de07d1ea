"""Prompts read back: the row that a template was filled in with, or none where there might be another."""

import itertools
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.templates import fill
from research.refining.inverted import FORMATTED, NO_MATCH, SEVERAL, NoRow, columns_of

pytestmark = pytest.mark.quick

LITERALS = st.sampled_from(['', ' ', ': ', '\n', 'ab', 'a', '{{}}', 'Q: ', '\nA:'])
FIELDS = st.sampled_from(['x', 'y', 'z'])
TEMPLATES = st.tuples(st.lists(st.tuples(LITERALS, FIELDS), max_size=4), LITERALS).map(
    lambda parts: ''.join(f'{literal}{{{field}}}' for literal, field in parts[0]) + parts[1])
TEXTS = st.text(alphabet='ab: \n{}Q', max_size=6)
ROWS = st.fixed_dictionaries(dict.fromkeys('xyz', TEXTS))


def named(template):
  return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


@settings(max_examples=600, deadline=None)
@given(template=TEMPLATES, row=ROWS)
def test_a_filled_template_gives_its_row_back_or_is_refused_as_ambiguous(template, row):
  row = {field: row[field] for field in named(template)}
  try:
    assert columns_of(template, fill(template, row)) == row
  except NoRow as why:
    assert str(why) == SEVERAL


@settings(max_examples=150, deadline=None)
@given(template=TEMPLATES, text=st.text(alphabet='ab:', max_size=5))
def test_what_is_found_is_what_trying_all_rows_finds(template, text):
  fields = sorted(named(template))
  parts = {text[a:b] for a in range(len(text) + 1) for b in range(a, len(text) + 1)}
  rows = [dict(zip(fields, values)) for values in itertools.product(parts, repeat=len(fields))]
  rows = [row for row in rows if fill(template, row) == text]
  try:
    found = columns_of(template, text)
  except NoRow as why:
    assert str(why) == (SEVERAL if len(rows) > 1 else NO_MATCH) and len(rows) != 1
  else:
    assert rows == [found]


@pytest.mark.parametrize('template, text, row', [
    ('Review: {text}\nSentiment:', 'Review: so: so\nSentiment:', {'text': 'so: so'}),
    ('{a} and {b}', 'this and that', {'a': 'this', 'b': 'that'}), ('{a}|{b}|{a}', 'x|y|x', {'a': 'x', 'b': 'y'}),
    ('{a}{a}', 'abab', {'a': 'ab'}), ('{{{a}}}', '{x}', {'a': 'x'}), ('always', 'always', {})])
def test_one_row_alone_makes_the_text(template, text, row):
  assert columns_of(template, text) == row


@pytest.mark.parametrize('template, text, why', [
    ('{a} and {b}', 'this and that and those', SEVERAL), ('{a}{b}', 'ab', SEVERAL), ('Q: {a}', 'A: x', NO_MATCH),
    ('{a}|{b}|{a}', 'x|y|z', NO_MATCH), ('always', 'never', NO_MATCH), ('{a}: {b}.', 'x: y', NO_MATCH),
    ('{n:>5}', '    3', FORMATTED), ('{a[0]}', 'x', FORMATTED), ('{a!r}', "'x'", FORMATTED),
    ('{a}{b}{c}{a}', 'ab' * 300, SEVERAL)])
def test_what_no_row_or_not_one_alone_makes_is_refused(template, text, why):
  with pytest.raises(NoRow) as said:
    columns_of(template, text)
  assert str(said.value) == why
