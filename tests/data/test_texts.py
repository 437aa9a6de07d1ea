"""Plain text as something to learn from: its continuation, and gaps that can be filled again."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, config

from research.data import sources, tasks, texts, tokenizer
from research.data.texts import Corrupted
from research.errors import InputError
from research.experiment.assemble import assemble

SENTINELS = tokenizer.of_bytes(100)
BYTES = tokenizer.of_bytes()
WORDS = 'Größe and 10 µm: the quick brown fox jumps over the lazy dog 😀 '


@pytest.fixture(scope='module')
def shipped():
  return sources.sample_texts()['train']


@pytest.fixture(scope='module')
def learned(shipped):
  return tokenizer.learned((row['text'] for row in shipped), 900, sentinels=100)


def text_of(length):
  """ASCII, so that the byte tokenizer gives `length` tokens."""
  return ''.join(chr(97 + i * i % 26) for i in range(length))


def corrupted(lengths, context=512, noise=0.15, span=3.0, seed=0, tokens=SENTINELS):
  return Corrupted([{'text': text_of(n)} for n in lengths], tokens, context, noise, span, seed)


def filled(example, tokens):
  """The source with every gap filled from the target; both end with EOS, and the sentinels come in order."""
  source, target = example.prompt_ids, example.target_ids
  assert source[-1] == target[-1] == tokens.eos and tokens.eos not in [*source[:-1], *target[:-1]]
  numbers = {tokens.encode(f'<extra_id_{i}>')[0]: i for i in range(100)}
  gaps = []
  for i in target[:-1]:
    if i in numbers:
      assert numbers[i] == len(gaps)
      gaps.append([])
    else:
      gaps[-1].append(i)
  assert [numbers[i] for i in source if i in numbers] == list(range(len(gaps))) and all(gaps)
  assert not any(a in numbers and b in numbers for a, b in itertools.pairwise(source))         # gaps do not touch
  return list(itertools.chain(*(gaps[numbers[i]] if i in numbers else [i] for i in source[:-1])))


@pytest.mark.parametrize('noise', [0.01, 0.15, 0.5, 0.9])
@pytest.mark.parametrize('span', [1.0, 3.0, 10.0])
def test_filling_each_gap_from_the_target_gives_back_the_text(noise, span):
  lengths = [2, 3, 4, 5, 7, 10, 20, 33, 64, 100, 150]
  made = corrupted(lengths, noise=noise, span=span)
  assert len(made) == len(lengths)
  for number, length in enumerate(lengths):
    for epoch in range(4):
      example = made.example(number, epoch)
      assert filled(example, SENTINELS) == list(text_of(length).encode())


@pytest.mark.quick
def test_denoising_reads_the_same_gaps_and_answers_with_the_whole_text():
  for number, length in enumerate(lengths := [2, 20, 64, 150]):
    for epoch in range(3):
      gaps = corrupted(lengths, noise=0.3).example(number, epoch)
      whole = Corrupted([{'text': text_of(n)} for n in lengths], SENTINELS, 512, 0.3, 3.0, 0, whole=True).example(number, epoch)
      assert (whole.prompt_ids, whole.prompt) == (gaps.prompt_ids, gaps.prompt)
      assert whole.target == text_of(length) and whole.target_ids == [*text_of(length).encode(), SENTINELS.eos]


def test_texts_of_a_learned_vocabulary_can_be_filled_again(learned, shipped):
  made = Corrupted(shipped[::50], learned, 128, 0.3, 2.0, seed=1)
  whole = {}
  for number in range(len(made)):
    example = made.example(number)
    whole.setdefault(example.row['text'], []).extend(filled(example, learned))
  assert len(whole) > 100
  for text, ids in whole.items():
    assert learned.decode(ids) == text


@pytest.mark.quick
@pytest.mark.parametrize('noise, span', [(0.15, 3.0), (0.5, 2.0), (0.3, 8.0)])
def test_lengths_and_the_share_in_gaps_depend_on_the_texts_length_alone(noise, span):
  for length in (2, 5, 19, 40, 100, 120):
    made = corrupted([length] * 3, noise=noise, span=span, seed=length)
    examples = [made.example(number, epoch) for number in range(3) for epoch in range(5)]
    [(source, target)] = {(len(e.prompt_ids), len(e.target_ids)) for e in examples}
    gaps = sum(i >= tokenizer.BYTES for i in examples[0].prompt_ids)
    lost = length - (source - gaps - 1)
    assert lost == target - gaps - 1 and gaps >= 1
    assert abs(lost - noise * length) <= 0.5 or lost in (1, length - 1)
    assert abs(gaps - lost / span) <= 0.5 or gaps in (1, length - lost)
    assert gaps == 1 or len({tuple(e.prompt_ids) for e in examples}) > 1


@pytest.mark.quick
def test_every_token_is_lost_about_as_often_as_the_noise_says():
  made, lost = corrupted([60], noise=0.25, span=3.0), np.zeros(60)
  for epoch in range(2000):
    at = 0
    gap = dict(spans(made.example(0, epoch)))
    for i in made.example(0, epoch).prompt_ids[:-1]:
      if i in gap:
        lost[at:at + gap[i]] += 1
        at += gap[i]
      else:
        at += 1
  assert lost.mean() / 2000 == pytest.approx(0.25)             # 15 of 60, each time
  assert lost[5:50].min() / 2000 > 0.12 and lost[5:50].max() / 2000 < 0.38


def spans(example):
  """(sentinel, tokens in its gap), in order."""
  marks = [at for at, i in enumerate(example.target_ids) if i >= tokenizer.BYTES]
  return [(example.target_ids[a], b - a - 1) for a, b in itertools.pairwise([*marks, len(example.target_ids) - 1])]


@pytest.mark.quick
def test_gaps_are_a_pure_function_of_seed_number_and_epoch():
  made, again = corrupted([80] * 4, seed=3), corrupted([80] * 4, seed=3)
  draws = {(number, epoch): made.example(number, epoch) for number in range(4) for epoch in range(4)}
  for number, epoch in reversed(draws):
    assert again.example(number, epoch) == draws[number, epoch]
  assert len({tuple(e.prompt_ids) for e in draws.values()}) == 16
  assert corrupted([80] * 4, seed=4).example(0) != draws[0, 0]


@pytest.mark.quick
def test_a_text_with_more_gaps_than_sentinels_is_refused():
  corrupted([1000], context=1024, noise=0.3)
  with pytest.raises(InputError, match=r'a text needs 102 sentinels, but the vocabulary has only 100 .* task\.span'):
    corrupted([1020], context=1024, noise=0.3)
  corrupted([1020], context=512, noise=0.3)
  with pytest.raises(InputError, match='needs 4 sentinels, but the vocabulary has only 0'):
    corrupted([80], tokens=BYTES)


@pytest.mark.quick
def test_every_sentinel_is_one_token_and_text_around_it_is_read_as_ever(learned):
  for tokens in (SENTINELS, learned):
    ids = [tokens.encode(f'<extra_id_{i}>') for i in range(100)]
    assert {len(i) for i in ids} == {1} and len({i[0] for i in ids}) == 100
    assert len(tokens.encode('<extra_id_100>')) > 1
    assert tokens.encode(f'{WORDS}<extra_id_7>{WORDS}') == [*tokens.encode(WORDS), *ids[7], *tokens.encode(WORDS)]
    assert tokens.decode(tokens.encode(WORDS)) == WORDS and not {*tokens.encode(WORDS)} & {i[0] for i in ids}
    assert tokens.prompt('hi') == [*tokens.encode('hi')] and tokens.bos is None


@pytest.mark.quick
def test_a_learned_vocabulary_has_the_size_asked_for_shortens_its_texts_and_gives_them_back(learned, shipped):
  assert learned.size == len(learned.hf) == 900 and learned.eos == learned.hf.eos_token_id
  of_bytes, of_words = 0, 0
  for row in shipped[::20]:
    ids = learned.encode(row['text'])
    assert learned.decode(ids) == row['text'] and max(ids) < 900
    of_bytes, of_words = of_bytes + len(row['text'].encode()), of_words + len(ids)
  assert of_words < 0.6 * of_bytes
  assert learned.decode(learned.encode('日本語 \n\t 😀')) == '日本語 \n\t 😀'                   # no byte is unknown
  with_bos = tokenizer.learned([WORDS] * 9, 300)
  assert with_bos.prompt('fox') == [with_bos.bos, *with_bos.encode('fox')] and with_bos.eos != with_bos.bos


@pytest.mark.quick
def test_a_vocabulary_smaller_than_the_bytes_and_special_tokens_is_refused():
  with pytest.raises(InputError, match=r'model\.vocab=300: must be at least 359'):
    tokenizer.learned([WORDS], 300, sentinels=100)


def test_another_process_learns_the_same_vocabulary(shipped):
  code = ('from research.data import sources, tokenizer\n'
          'rows = sources.sample_texts()["train"][:300]\n'
          'print(tokenizer.learned((row["text"] for row in rows), 900, 100).fingerprint())')
  said = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
  assert said == tokenizer.learned((row['text'] for row in shipped[:300]), 900, 100).fingerprint()


@pytest.mark.quick
@pytest.mark.parametrize('context', [16, 33, 64])
def test_pieces_of_a_long_text_are_together_the_text_and_fit_the_context(context):
  rows = [{'text': text_of(n)} for n in (1, 5, context - 2, context - 1, context, 3 * context, 200)]
  continued = texts.next_token(rows, BYTES, context)
  assert max(len(e.prompt_ids) + len(e.target_ids) for e in continued) == context
  for row in rows:
    own = [e for e in continued if e.row is row]
    assert ''.join(e.target for e in own) == row['text']
    assert [i for e in own for i in e.target_ids] == [*row['text'].encode(), BYTES.eos]      # which ends the last piece
    assert len(own) == -(-len(row['text']) // (context - 2))
  made = Corrupted(rows, SENTINELS, context, 0.5, 1.0, seed=0)
  examples = [made.example(number) for number in range(len(made))]
  assert max(max(len(e.prompt_ids), len(e.target_ids)) for e in examples) <= context
  for row in rows[1:]:
    ids = list(itertools.chain(*(filled(e, SENTINELS) for e in examples if e.row is row)))
    assert ids == list(row['text'].encode())[:len(ids)] and len(ids) >= len(row['text']) - 1


@pytest.mark.quick
def test_continuation_predicts_every_token_once_and_the_end_after_it():
  rows = [{'text': WORDS}, {'text': text_of(40)}, {'text': text_of(7)}]
  for tokens, first in ((BYTES, BYTES.bos), (BYTES._replace(bos=None), BYTES.eos)):
    found = texts.next_token(rows, tokens, 512)
    assert [e.id for e in found] == [0, 1, 2]
    for row, example in zip(rows, found):
      assert example.prompt_ids == [first] and example.target_ids == [*row['text'].encode(), BYTES.eos]
      assert example.choices == {} and example.target == row['text'] and example.prompt == ''


# The task `text`, from a person's files.


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return str(path)


@pytest.mark.quick
def test_a_text_file_is_read_by_paragraphs_and_json_lines_by_rows(tmp_path):
  plain = write(tmp_path / 'a.txt', '\ufeffOne line\r\nand another.\r\n\r\n \t\r\n\r\nSecond: äöü\n\n\n')
  rows = write(tmp_path / 'b.jsonl', '{"text": "Größe", "n": 1}\n\n{"text": "two\\n\\nparts"}\n')
  task = tasks.make('text', {'train': plain, 'valid': rows})
  assert task.splits == {'train': [{'text': 'One line\nand another.'}, {'text': 'Second: äöü'}],
                         'valid': [{'text': 'Größe', 'n': 1}, {'text': 'two\n\nparts'}]}
  assert (task.choices, task.metrics, task.objective) == ((), (), None)


@pytest.mark.quick
def test_without_files_the_texts_are_those_that_ship(shipped):
  task = tasks.make('text', {})
  assert task.rows('train') == shipped and len(shipped) == 2 * 2400 + 2 * 934 + 2200
  one = tasks.make('text', {'subset': 'hass_ende'})
  assert len(one.rows('valid')) == 400
  with pytest.raises(InputError, match=r'task\.subset=hass: .* \(known: hass_ende, '):
    tasks.make('text', {'subset': 'hass'})


@pytest.mark.quick
@pytest.mark.parametrize('name, content, match', [
    ('a.txt', '', r'a\.txt: holds no text'), ('a.txt', ' \n\n\t\n', r'a\.txt: holds no text'),
    ('a.txt', 'Größe'.encode('latin-1'), r'a\.txt: is not UTF-8 text .* save the file as UTF-8'),
    ('a.txt', None, r'a\.txt: no such file'), ('a.jsonl', None, r'a\.jsonl: no such file'),
    ('a.jsonl', '', r'a\.jsonl: holds no rows'),
    ('a.jsonl', '{"text": "a"}\n{"txt": "b"}\n', 'valid row 2: has no column `text`'),
    ('a.jsonl', '{"text": " \\n"}\n', 'valid row 1: has no column'), ('a.jsonl', '{"text": 7}\n', 'valid row 1: has no column'),
    ('a.jsonl', 'plain text\n', 'line 1 is not JSON')])
def test_a_file_without_text_is_refused(tmp_path, name, content, match):
  if content is not None:
    write(tmp_path / name, content)
  with pytest.raises(InputError, match=match):
    tasks.make('text', {'valid': str(tmp_path / name)})


@pytest.mark.quick
@pytest.mark.parametrize('fields, match', [
    ({'prompt': '{text}:'}, 'has no prompt'), ({'target': ' {text}'}, 'has no prompt, target'), ({'chat': True}, 'or chat'),
    ({'choices': ('a', 'b')}, 'choices'), ({'metrics': ('bleu',)}, 'metrics'), ({'path': 'x'}, r'task\.path is of task\.name='),
    ({'objective': 'shuffling'}, r"task\.objective='shuffling': must be one of continuation, span_corruption, denoising"),
    ({'noise': 0.0}, r'task\.noise=0\.0'), ({'noise': 1.0}, r'task\.noise=1\.0'), ({'span': 0.5}, r'task\.span=0\.5')])
def test_fields_that_text_does_not_have_are_refused(fields, match):
  with pytest.raises(InputError, match=match):
    tasks.make('text', fields)


@pytest.mark.quick
def test_an_objective_is_of_text_alone():
  with pytest.raises(InputError, match=r"task\.objective='continuation' is of task\.name=text alone"):
    tasks.make('sentiment', {'objective': 'continuation'})


@pytest.fixture(scope='module')
def assembled(tmp_path_factory):
  """From a config's fields to its experiment, on nine short texts and a long one."""
  folder = tmp_path_factory.mktemp('texts')
  file = write(folder / 'a.txt', '\n\n'.join([*(f'{i} {text_of(60)}' for i in range(9)), text_of(1300)]))
  return lambda model, **fields: assemble(
      config(model__source=f'random:{model}-tiny', task__name='text', **{'task__train': file, **fields}))


@pytest.mark.parametrize('model, objective', [('gpt2', 'continuation'), ('t5', 'span_corruption')])
def test_a_model_has_the_objective_that_it_is_made_for_and_an_epoch_is_a_pass_over_all_pieces(assembled, model, objective):
  exp = assembled(model, training__epochs=2.0, training__batch_size=5)
  assert exp.task.objective == exp.settings.task.objective == objective
  assert len(exp.examples('train')) == 12 and exp.settings.training.steps == 5       # 24 of 5 at a time


@pytest.mark.parametrize('model, fields, match', [
    ('gpt2', {'task__objective': 'span_corruption'}, 'span_corruption: needs a model with an encoder'),
    ('gpt2', {'task__objective': 'denoising'}, 'denoising: needs a model with an encoder'),
    ('t5', {'task__objective': 'continuation'}, 'continuation: a model with an encoder learns'),
    ('gpt2', {'strategy__name': 'few_shot', 'strategy__shots': 2}, r'strategy\.shots=2: task text has no answers')])
def test_what_does_not_go_with_text_is_refused(assembled, model, fields, match):
  with pytest.raises(InputError, match=match):
    assembled(model, **fields)


def test_texts_or_a_context_too_short_to_learn_from_are_refused(assembled, tmp_path):
  letters = write(tmp_path / 'a.txt', 'a\n\nb')
  with pytest.raises(InputError, match='no piece of a text has two tokens'):
    assembled('t5', task__train=letters).training_batches()
  with pytest.raises(InputError, match='no piece of a text has two tokens'):
    assembled('t5', model__context=2).training_batches()
  with pytest.raises(InputError, match=r'model\.context: leaves no room'):
    assembled('gpt2', model__context=2).training_batches()
  assert len(assembled('gpt2', model__context=3).examples('train')) == 9 * 62 + 1300


@pytest.mark.parametrize('objective', ['span_corruption', 'denoising'])
def test_what_is_shown_of_an_example_is_what_the_model_reads(assembled, objective):
  exp = assembled('t5', task__objective=objective, task__noise=0.3, task__span=2.0)
  for example in exp.examples('train'):
    assert example.row in exp.task.rows('train') and '<extra_id_0>' in example.prompt
    assert [*exp.tokenizer.encode(example.prompt), exp.tokenizer.eos] == example.prompt_ids
    assert [*exp.tokenizer.encode(example.target), exp.tokenizer.eos] == example.target_ids


@pytest.mark.quick
def test_the_bytes_of_a_texts_pieces_are_those_of_the_text():
  """Also where a piece ends within a character, which decodes to another one of three bytes."""
  rows = [{'text': WORDS * 3}, {'text': 'ÄÖÜ😀' * 9}, {'text': 'a'}]
  for context in (5, 6, 64):
    found = texts.next_token(rows, BYTES, context)
    counts = texts.byte_counts(found)
    for row in rows:
      assert sum(n for n, e in zip(counts, found) if e.row is row) == len(row['text'].encode()) and min(counts) >= 0
