"""Personal data: what has its form is found, what only looks like it is not, and a value has one mask in a row."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks import planted
from research.data import sources
from research.preparation import personal
from research.preparation.personal import find, mask

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('kind, text, value', [
    ('email', 'Write to <Anna.Müller+news@uni-köln.de>, please.', 'Anna.Müller+news@uni-köln.de'),
    ('phone', 'Ruf an: 030 2093-1234.', '030 2093-1234'), ('phone', 'call (212) 555-0123 now', '(212) 555-0123'),
    ('phone', '+49 (0)30 20931234 oder später', '+49 (0)30 20931234'),
    ('phone', 'Tel. +44 20 7946 0958 x12!', '+44 20 7946 0958 x12'), ('phone', '„030 20931234“ sagt er', '030 20931234'),
    ('phone', 'or 206.269.0743x9150, ok', '206.269.0743x9150'), ('phone', 'at +1-780-563-6083x7783', '+1-780-563-6083x7783'),
    ('phone', 'at +441632 960070 or', '+441632 960070'), ('phone', 'at +441632960423.', '+441632960423'),
    ('phone', 'ring (0115) 496 0483', '(0115) 496 0483'), ('phone', 'at +4930123456 12 times', '+4930123456'),
    ('phone', '＋４９ ３０ ２０９３１２３４', '＋４９ ３０ ２０９３１２３４'),
    ('card', 'Visa 4111 1111 1111 1111.', '4111 1111 1111 1111'), ('card', 'pay 378282246310005', '378282246310005'),
    ('card', 'JCB 3506191316878487', '3506191316878487'), ('card', 'JCB 180094304723328', '180094304723328'),
    ('key', 'Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==', 'QWxhZGRpbjpvcGVuIHNlc2FtZQ=='),
    ('iban', 'IBAN: DE89 3704 0044 0532 0130 00, danke', 'DE89 3704 0044 0532 0130 00'),
    ('iban', 'gb82west12345698765432', None),
    ('ip', 'from 203.0.113.77:8080', '203.0.113.77'), ('ip', 'at [2001:db8::8a2e:370:7334]', '2001:db8::8a2e:370:7334'),
    ('key', 'export KEY=AKIAIOSFODNN7EXAMPLE', 'AKIAIOSFODNN7EXAMPLE'),
    ('key', 'token ghp_' + 'aB3' * 12, 'ghp_' + 'aB3' * 12), ('key', 'password: hunter2!xY9', 'hunter2!xY9')])
def test_what_has_the_form_of_personal_data_is_found(kind, text, value):
  [one] = find(text)
  assert one.kind == kind and text[one.start:one.end] == (value or text)


@pytest.mark.parametrize('text', [
    '2024-05-31 10:22:33 and 31.05.2024', '$1,234,567.89 or 1.234.567,89 €', 'ISBN 978-3-16-148410-0', 'order 12345678901',
    'version 1.2.3.4, v10.0.0.1', 'std::vector<int>::iterator, a::b', 'react@18.2.0 and icon@2x.png', '@anna said', 'A @ B',
    'DE89 3704 0044 0532 0130 01', '4111 1111 1111 1112', '52.520008, 13.404954', '550e8400-e29b-41d4-a716-446655440000',
    'either basic Bestellnummer', 'Basic understanding of it', 'at 1280x1024, 0.30103x1',
    'password: required', 'token=get_token()', 'the years 1990-2010', '12:30:45', '0.123456789012', ''])
def test_what_only_looks_like_it_is_left(text):
  assert find(text) == []


def test_a_value_has_one_mask_in_a_row_however_it_is_written():
  row = {'a': 'Anna@B.org or c@d.org, +49 30 20931234', 'b': ['030 20931234', {'c': 'ANNA@b.org'}], 'id': 'x@y.org', 'n': 5}
  masked, counts = mask(row, ('DE',), ('id',))
  assert masked == {'a': '[EMAIL] or [EMAIL_2], [PHONE]', 'b': ['[PHONE]', {'c': '[EMAIL]'}], 'id': 'x@y.org', 'n': 5}
  assert counts == {'email': 3, 'phone': 2} and row['id'] == 'x@y.org'
  assert mask(masked, ('DE',), ('id',)) == (masked, {})
  assert mask({'a': 'see [EMAIL_3] and e@f.org'})[0] == {'a': 'see [EMAIL_3] and [EMAIL_4]'}


PIECES = st.sampled_from(['a@b.org', '+49 30 20931234', '4111 1111 1111 1111', 'DE89370400440532013000', '10.11.12.13',
                          'fd12::1', 'sk-' + 'a1' * 20, '[EMAIL]', '[PHONE_2]', ' ', '.', ',', '(', '“', '2024-05-31', '0',
                          '@', '::', 'password: '])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=6), max_size=12).map(''.join))
def test_whatever_the_text_places_are_in_order_and_what_is_masked_is_gone(text):
  found = find(text)
  assert all(0 <= one.start < one.end <= len(text) for one in found)
  assert all(one.end <= other.start for one, other in itertools.pairwise(found))
  masked, counts = mask({'x': text})
  assert sum(counts.values()) == len(found) and mask(masked) == (masked, {})


def test_planted_values_are_found_and_little_else():
  texts = [row['text'] for of_split in sources.sample_texts().values() for row in of_split]
  rows = planted.planted(texts, 800, seed=3)
  found = [[planted.Truth(one.kind, one.start, one.end) for one in find(row.text)] for row in rows]
  for kind, told in planted.score([row.truth for row in rows], found).items():
    assert told['planted'] > 80 and told['recall'] >= 0.96 and told['precision'] >= 0.95, (kind, told)
  assert {*personal.KINDS} == {*planted.MAKERS}


@pytest.mark.parametrize('text', ['7' * 200_000, '1 ' * 100_000, '@' * 200_000, 'a@' * 100_000, '12:' * 60_000, 'ab1' * 60_000,
                                  '+49 ' * 50_000, 'key=' * 50_000, '1.' * 100_000, 'DE12 ' * 40_000])
def test_time_grows_with_the_length_of_a_text_and_not_with_its_square(text):
  def seconds(one: str) -> float:
    times = []
    for _ in range(3):
      began = time.thread_time()  # this thread's alone: others of the process go on beside it
      find(one)
      times.append(time.thread_time() - began)
    return min(times)

  assert seconds(text) < 8 * seconds(text[:len(text) // 4]) + .1  # a square would take 16 times as long
