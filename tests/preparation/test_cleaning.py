"""What happens to one row: its texts, label, length, language, turns, groups."""

import random

import pytest
from preparing import made, prepared, sentences, written
from statsmodels.stats.proportion import confint_proportions_2indep

from research.evaluation.intervals import wilson
from research.preparation import clean, labels
from research.preparation.prepare import prepare

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('before, after, fields', [
    ('cafÃ©\u0000 e\u0301', 'café é', {}), ('a \t b\r\n\n\n\n c ', 'a b\n\nc', {}), ('“so” ﬁne', '“so” ﬁne', {}),
    ('<p>A &amp; <b>B</b></p><script>x</script> 1 < 2', 'A & B 1 < 2', {'clean__markup': True}),
    ('a &lt; b', 'a < b', {'clean__markup': True}),
    ('<b> a', '<b> a', {}), (' a ', ' a ', {'clean__whitespace': False})])
def test_texts_are_cleaned(before, after, fields):
  s = made(**fields).clean
  row = {'x': [{'y': after}], 'n': 1}
  cleaned, steps = clean.clean({'x': [{'y': before}], 'n': 1}, s)
  assert cleaned == row and bool(steps) == (before != after) and clean.clean(row, s) == (row, [])


def test_rows_go_by_length_and_language_and_what_no_file_holds(tmp_path):
  rows = [{'text': 'Short'}, {'text': 'This sentence is written in English, I believe.'},
          {'text': 'Dieser Satz ist auf Deutsch geschrieben.'}, {'text': 'This one is written in English. ' * 9}, {'text': ''}]
  (tmp_path / 'more.jsonl').write_text('{"text": "half a pair \\ud800 is here"}\n')
  report = prepare(made(characters__min=6, characters__max=200, languages=('en',), clean__unicode=False, split__test=0.0,
                        split__valid=0.0), [written(tmp_path, rows), str(tmp_path / 'more.jsonl')], tmp_path / 'out')
  assert report['rows'] == {'read': 6, 'kept': 1, 'dropped': {'short': 1, 'language': 1, 'long': 1, 'empty': 1, 'parse': 1}}


def test_chat_logs_are_compared_by_what_is_said(tmp_path):
  rows = [{'conversations': [{'from': 'human', 'value': f'Hi {i % 3}'}, {'from': 'gpt', 'value': text}]}
          for i, text in enumerate(sentences(9))]
  report, kept, _ = prepared(tmp_path, [*rows, rows[0], {'conversations': [{'from': 'who', 'value': ''}]}])
  assert report['rows'] == {'read': 11, 'kept': 9, 'dropped': {'parse': 1, 'exact_duplicate': 1}}
  assert kept['train'][0]['messages'][0]['role'] == 'user'


def test_labels_that_differ_by_capitals_or_blanks_become_the_commonest(tmp_path):
  forms = ['spam'] * 12 + ['Spam '] * 5 + ['SPAM'] + ['ham'] * 12
  rows = [{'text': text, 'label': label} for text, label in zip(sentences(30), forms)]
  report, kept, _ = prepared(tmp_path, rows, label='label', clean__whitespace=False)
  assert {row['label'] for of in kept.values() for row in of} == {'spam', 'ham'}
  assert report['labels']['joined'] == [['SPAM', 'spam', 1], ['Spam ', 'spam', 5]]
  assert labels.joined(['Yes', 'yes', 'yes', None, 'no'], ('Yes', 'No')) == {'yes': 'Yes', 'no': 'No'}
  (tmp_path / 'two').mkdir()
  _, kept, dropped = prepared(tmp_path / 'two', rows[:30], label='label', choices=('spam', 'Spam '), clean__whitespace=False,
                              labels__join=False)
  assert {row['label'] for of in kept.values() for row in of} == {'spam', 'Spam '}
  assert {(one['reason'], one['row']['label']) for one in dropped} == {('label', 'SPAM'), ('label', 'ham')}


def test_rows_whose_words_contradict_their_label_are_listed_and_stay(tmp_path):
  rng = random.Random(0)
  words = {'sport': 'goal team match ball score win', 'money': 'bank loan rate credit share tax'}
  rows = [{'text': ' '.join(rng.choices(words[label].split(), k=12)) + f' {i}', 'label': label}
          for i in range(60) for label in words]
  flipped = [dict(row, label='money' if row['label'] == 'sport' else 'sport') if i in (5, 50, 90) else row
             for i, row in enumerate(rows)]
  report, kept, _ = prepared(tmp_path, flipped, label='label', near__drop=False)
  assert {one['text'] for one in report['suspects']} == {rows[i]['text'] for i in (5, 50, 90)}
  assert all(one['suggests'] != one['label'] and one['probability'] >= 0.9 for one in report['suspects'])
  assert report['suspects'][0].keys() == {'file', 'line', 'label', 'suggests', 'probability', 'text'}
  assert sum(map(len, kept.values())) == 120 == report['suspects_among']


def test_groups_are_told_with_their_label_shares_and_the_largest_gap(tmp_path):
  rows = [{'text': text, 'label': 'yes' if i % 10 < at else 'no', 'where': where}
          for where, at, seed in (('north', 8, 1), ('south', 2, 2)) for i, text in enumerate(sentences(50, seed=seed))]
  report, _, _ = prepared(tmp_path, [*rows, {'text': 'Nowhere at all.', 'label': 'no'}], label='label', groups=('where',))
  of = report['groups']['where']
  assert [(g['value'], g['rows']) for g in of['groups']] == [('north', 50), ('south', 50)] and of['without'] == 1
  share = of['groups'][0]['labels']['yes']
  assert share['share'] == 0.8 and [share['low'], share['high']] == pytest.approx(wilson(0.8, 50))
  gap = of['gaps']['yes']
  assert gap['gap'] == pytest.approx(0.6) and (gap['most'], gap['least']) == ('north', 'south')
  assert [gap['low'], gap['high']] == pytest.approx(confint_proportions_2indep(40, 50, 10, 50, method='newcomb'))
  assert "the largest gap is 0.600 [0.416, 0.724], between 'north' and 'south'" in (tmp_path / 'out' / 'report.md').read_text()


def test_the_tokens_of_a_model_are_counted_and_its_context_is_held_against_them(tmp_path):
  rows = [{'text': 'x' * n, 'label': 'ab'[n % 2]} for n in (5, 40, 200, 600)]
  report, _, dropped = prepared(tmp_path, rows, prompt='{text}?', target=' {label}', label='label', model='random:llama-tiny',
                                tokens__max=300, near__drop=False, split__test=0.0, split__valid=0.0)
  assert [(one['reason'], one['detail']) for one in dropped] == [('long', '603 tokens')]      # bytes: 600, and '? a'
  assert report['lengths']['tokens']['train'] == {'least': 8, 'median': 43, '90 %': 171, 'most': 203}
  context = report['context']
  assert context and report['beyond_context'] == {'train': sum(n + 3 > context for n in (5, 40, 200)), 'valid': 0, 'test': 0}


def test_conversations_are_put_in_the_order_that_a_template_asks_for(tmp_path):
  say = lambda *turns: {'messages': [{'role': role, 'content': text} for role, text in turns]}
  a, b, c, d = sentences(4)
  rows = [say(('user', a), ('user', 'And?'), ('assistant', b), ('user', 'Thanks')), say(('user', c), ('assistant', d)),
          say(('user', 'Hello?')), say(('assistant', 'Hello!')), say(('user', c), ('assistant', ' ')),
          say(('user', [{'type': 'text', 'text': 'Part'}]), ('assistant', 'x')),
          {'messages': [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': None, 'tool_calls': [{}]}]}]
  report, kept, dropped = prepared(tmp_path, rows, split__test=0.0, split__valid=0.0)
  assert kept['train'][0] == say(('user', f'{a}\n\nAnd?'), ('assistant', b)) and len(kept['train']) == 3
  assert report['rows']['dropped'] == {'parse': 3, 'empty': 1}
  assert report['changes'] == {'turns cut': 1, 'turns joined': 1, 'whitespace': 1}
  details = ['no assistant turn', 'none that it answers', 'the last turn is empty', 'calls a tool']
  assert all(says in one['detail'] for says, one in zip(details, dropped))
