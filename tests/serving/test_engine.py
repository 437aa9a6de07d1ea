"""The engine: whoever shares the batch, an answer is the one that `generate` writes, and each request comes to its end."""

import dataclasses
import functools
import itertools
import random
import threading
import time
from functools import partial

import pytest
from serving import fleets
from serving.fleets import BASE, LORA, answered, broken, ended, generated, request, run, text, tokens

from research.evaluation import decode, harness
from research.evaluation.decoding import Decoding
from research.runs.generate import stream
from research.serving import programs, reader
from research.serving.engine import NOT_A_NUMBER, Busy, Closed
from research.serving.requests import CANCELLED, FAILED, LENGTH, STOP, TIME, Ended, Piece, Ticket, Times, Token
from research.serving.sequences import Line

TEXTS = ['Once upon', 'a', 'The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.', 'x y']
LONG = TEXTS[2]      # longer than a piece of a prompt
engine = partial(fleets.engine, context=128)


@functools.cache
def fleet(preset):
  """Runs by name, of one base and of several kinds: `a`, `b` and the base share a batch, the others take turns with them."""
  found = [run('a', preset, 1, **LORA), run('b', preset, 2, **LORA), run('ia3', preset, 3, strategy__name='ia3'),
           run('full', preset, 4, 0.02, strategy__name='full'), run('base', preset, **BASE)]
  return {one.name: one for one in found}


@functools.cache
def expected(preset, name, said):
  """The tokens that `generate` writes."""
  return all_expected(preset, name)[TEXTS.index(said)]


@functools.cache
def all_expected(preset, name):
  one = fleet(preset)[name]
  prompts = [[*fleets.ids(one, said)] for said in TEXTS]
  return decode.generate(one.exp.model, one.variables, prompts, 8, one.exp.tokenizer.ends)


@pytest.fixture(scope='module')
def runs():
  return fleet('llama-tiny')


@pytest.fixture(scope='module')
def served(runs):
  """An engine with one more run, whose numbers are not finite."""
  yield (e := engine([*runs.values(), broken('nan')]))
  fleets.assert_nothing_is_lost(e)


@pytest.mark.parametrize('preset, batch, side, reach, context', [
    ('llama-tiny', 1, 4, 128, 128), ('gpt2-tiny', 4, 1, 32, 100), ('t5-tiny', 4, 1, 32, 96)])
def test_answers_are_those_of_generate_alone_and_in_a_full_batch_that_grows(preset, batch, side, reach, context, monkeypatch):
  """One after the other, each three ticks, all at one time; also where a slot is looked at in part."""
  for name, value in (('BATCH', batch), ('SIDE', side), ('REACH', reach)):
    monkeypatch.setattr(reader, name, value)
  some = [*fleet(preset).values()]
  e = fleets.engine(some, context=context)
  asked = [request(one, said) for one in some for said in TEXTS]
  wanted = [expected(preset, one.name, said) for one in some for said in TEXTS]
  assert len({*map(tuple, wanted)}) > 10
  for joins in (0, 1, 3):
    found = answered(e, asked, joins)
    assert [[token.id for token in tokens(events)] for events in found] == wanted
  assert [text(events) for events in found] == [some[0].exp.tokenizer.decode(ids) for ids in wanted]


def test_what_is_drawn_is_what_generate_draws_with_the_same_settings(served, runs):
  """Answer n is drawn as the prompt of number n is there; and rows with other settings beside it change nothing."""
  hows = [Decoding(1.3, seed=5), Decoding(1.5, top_k=40, top_p=0.9, min_p=0.02, seed=7)]
  asked = [request(runs['a'], TEXTS[0], decoding=how, answers=3) for how in hows] + [request(runs['b'], TEXTS[0])]
  found = answered(served, asked)
  for how, events in zip(hows, found):
    drawn = generated(runs['a'], TEXTS[0], 3, decoding=how)
    assert [[token.id for token in tokens(events, n)] for n in range(3)] == drawn and len({*map(tuple, drawn)}) == 3
  assert [token.id for token in tokens(found[2])] == expected('llama-tiny', 'b', TEXTS[0])


def test_an_answer_ends_before_a_stop_and_nothing_that_is_told_is_taken_back(served, runs):
  """As `stream` tells it: a stop lies across tokens, and half a character is not told until it is whole."""
  one, how = runs['a'], Decoding(1.5, seed=1)
  [whole] = decode.generate(one.exp.model, one.variables, [list(fleets.ids(one, 'x'))], 40, one.exp.tokenizer.ends, 1, how)
  said = one.exp.tokenizer.decode(whole)
  stops = [(), (said[9:12],), (said[-3:], said[4:6]), ('never',), (said[:2],)]
  found = answered(served, [request(one, 'x', limit=40, decoding=how, stops=stop) for stop in stops])
  for stop, events in zip(stops, found):
    wanted = harness.cut(said, stop)
    pieces = [event.text for event in events if isinstance(event, Piece)]
    assert ''.join(pieces) == wanted == ''.join(stream(one.exp, one.variables, 'x', 40, how, stop=stop))
    assert ended(events) == (STOP if wanted != said or len(whole) < 40 else LENGTH)
    assert len([*filter(None, pieces)]) > 1 or len(wanted) < 5
  tell_again = tokens(found[0])
  assert [token.id for token in tell_again] == whole and len(tokens(found[1])) < len(whole)


def test_characters_of_several_bytes_are_told_whole(served, runs):
  """The model is made to write them, by what it must choose at each place."""
  one, said = runs['base'], 'Grö🎉ß你'
  line, pieces = one.exp.tokenizer.encode(said), []
  asked = request(one, 'x', limit=len(line))
  writes = Line(Ticket(asked, pieces.append, Times(0.0), settled=served.models['base']), 0, None)
  writes.used = len(asked.prompt) - 1
  for token in line:
    pieces += writes.has_read(writes.next_tokens(1), Token(token, -1.0), one.exp.tokenizer)
  assert [event.text for event in pieces[:-1]] == [*said] and ended(pieces) == LENGTH


def test_limits_ends_and_biases_are_kept(served, runs):
  one, first = runs['a'], expected('llama-tiny', 'a', 'x y')
  forced = first[2] ^ 1
  asked = [request(one, 'x y', limit=3), request(one, 'x y', ends=(first[4],)),
           request(one, 'x y', bias=((forced, 1000.0),), limit=4),
           request(one, 'x y', bias=tuple((token, -100.0) for token in {*first})), request(one, 'x y', limit=0)]
  found = [([token.id for token in tokens(events)], ended(events)) for events in answered(served, asked)]
  assert found[0] == (first[:3], LENGTH) and found[1] == (first[:first.index(first[4])], STOP)
  assert found[2] == ([forced] * 4, LENGTH) and not {*first} & {*found[3][0]} and found[4] == ([], LENGTH)


def test_requests_end_when_they_are_cancelled_or_late_wherever_they_are(served, runs):
  told = [[] for _ in range(7)]
  asked = [request(runs['a'], LONG, limit=40), request(runs['ia3'], LONG * 1), request(runs['b'], 'x y'),
           request(runs['base'], 'a', limit=40), request(runs['full'], 'a'), request(runs['a'], 'x y'),
           request(runs['a'], 'x y', deadline=time.monotonic() - 1)]
  tickets = [served.submit(one, into.append) for one, into in zip(asked, told)]
  served.tick()
  assert served.load()[:2] == (4, 2)
  for number in (0, 1, 4):      # within a long prompt, before it is read, waiting
    served.cancel(tickets[number])
  for _ in range(3):
    served.tick()
  served.cancel(tickets[3])     # while it is written
  while any(served.load()[:2]):
    served.tick()
  assert [ended(events) for events in told] == [CANCELLED, CANCELLED, LENGTH, CANCELLED, CANCELLED, LENGTH, TIME]
  assert [token.id for token in tokens(told[2])] == expected('llama-tiny', 'b', 'x y')
  assert 0 < len(tokens(told[3])) < 40 and not tokens(told[6])
  assert tickets[2].times.came <= tickets[2].times.begun <= tickets[2].times.first <= tickets[2].times.ended
  served.cancel(tickets[2])     # which has ended: nothing happens
  served.tick()


def test_a_queue_has_an_end_and_a_stopped_engine_takes_nothing(runs):
  e, told = engine([runs['base']], slots=2, queue=3), []
  for _ in range(5):
    e.submit(request(runs['base'], 'a'), told.append)
  with pytest.raises(Busy):
    e.submit(request(runs['base'], 'a'), told.append)
  e.stop()
  with pytest.raises(Closed):
    e.submit(request(runs['base'], 'a'), told.append)
  assert [event.how for event in told] == [CANCELLED] * 5
  e.run()      # which ends at once
  fleets.assert_nothing_is_lost(e)


def test_numbers_that_are_not_finite_end_their_own_requests_alone(served, runs):
  """Also those that a slot is filled with afterwards."""
  nan = dataclasses.replace(request(runs['a'], LONG), model='nan')
  asked = [nan, request(runs['a'], LONG), nan, request(runs['full'], LONG), dataclasses.replace(nan, limit=0, embeds=True)] * 2
  found = answered(served, asked)
  for one, events in zip(asked, found):
    if one.model == 'nan':
      assert events == [Ended(0, FAILED, NOT_A_NUMBER)]
    else:
      assert [token.id for token in tokens(events)] == expected('llama-tiny', one.model, LONG)


def test_an_error_of_the_device_ends_what_ran_and_one_of_a_listener_its_own_request(served, runs, monkeypatch, capsys):
  answers, said = threading.Event(), [[] for _ in range(6)]
  read, calls = programs.read, itertools.count()

  def fails_once(*args, **how):
    if next(calls) == 2:
      jaxes = read(*args, **how)      # the pool is used up
      raise RuntimeError(f'out of memory\nand more of {len(jaxes)}')
    return read(*args, **how)
  monkeypatch.setattr(programs, 'read', fails_once)

  def listener(event):
    said[5].append(event)
    if isinstance(event, Ended):
      answers.set()
    raise ValueError('who listens?')
  for into in said[:5]:
    served.submit(request(runs['a'], 'x y'), into.append)
  served.submit(request(runs['a'], 'x y'), listener)
  thread = threading.Thread(target=served.run)
  thread.start()
  assert answers.wait(60)
  while any(served.load()[:2]):
    time.sleep(0.01)
  with served._changed:
    served._stopping = True
    served._changed.notify_all()
  thread.join(60)
  served._stopping = False
  assert [ended(events) for events in said] == [FAILED] * 4 + [LENGTH, CANCELLED]
  assert said[0][-1].error == 'RuntimeError: out of memory'
  assert [token.id for token in tokens(said[4])] == expected('llama-tiny', 'a', 'x y') and len(said[5]) == 2
  assert 'who listens?' in capsys.readouterr().err


@pytest.mark.parametrize('seed', range(2))
def test_under_any_schedule_no_slot_is_lost_or_shared_and_what_is_answered_is_right(served, runs, seed):
  draw, going = random.Random(seed), []
  for _ in range(60):
    for _ in range(draw.choice((0, 0, 1, 3))):
      one, said, told = draw.choice([*runs.values()]), draw.choice(TEXTS), []
      asked = request(one, said, limit=draw.choice((1, 8)), answers=draw.choice((1, 1, 2)), echo=draw.random() < 0.1)
      going.append((asked, said, told, served.submit(asked, told.append)))
    if going and draw.random() < 0.2:
      served.cancel(draw.choice(going)[-1])
    served.tick()
    slots = [line.slot for line in served._running]
    assert sorted([*slots, *served._free]) == [0, 1, 2, 3]
  while any(served.load()[:2]):
    served.tick()
  for asked, said, told, _ in going:
    for number in range(asked.answers):
      ids = [token.id for token in tokens(told, number)][len(asked.prompt) if asked.echo else 0:]
      wanted = expected('llama-tiny', asked.model, said)[:asked.limit]
      assert ids == wanted if ended(told, number) != CANCELLED else ids == wanted[:len(ids)]
  assert {CANCELLED, LENGTH} <= {ended(told) for *_, told, _ in going}


def test_several_threads_ask_while_one_answers(runs):
  e, right = engine([*runs.values()]), []
  thread = threading.Thread(target=e.run)
  thread.start()

  def hears(told, done, event):
    told.append(event)
    if isinstance(event, Ended):
      done.set()

  def asks(number):
    for one, said in itertools.islice(itertools.cycle(itertools.product(runs.values(), TEXTS)), number, number + 5):
      told, done = [], threading.Event()
      e.submit(request(one, said), partial(hears, told, done))
      assert done.wait(60)
      right.append([token.id for token in tokens(told)] == expected('llama-tiny', one.name, said))
  several = [threading.Thread(target=asks, args=(number,)) for number in range(0, 20, 4)]
  for one in several:
    one.start()
  for one in several:
    one.join(120)
  told = []
  e.submit(request(runs['a'], LONG, limit=40), told.append)
  e.stop(grace=60)
  thread.join(60)
  assert right == [True] * 25 and not thread.is_alive() and ended(told) == LENGTH
  fleets.assert_nothing_is_lost(e)


@pytest.mark.parametrize('name, more', [('prompt', {'strategy__slots': 5}), ('prefix', {'strategy__slots': 5})])
def test_soft_prompts_share_a_batch_too(name, more, monkeypatch):
  monkeypatch.setattr(reader, 'BATCH', 2)
  monkeypatch.setattr(reader, 'SIDE', 1)
  some = [run(name, seed=seed, by=0.3, strategy__name=name, **more)._replace(name=str(seed)) for seed in (1, 2)]
  e = engine(some, slots=2)
  assert len(e._groups) == 1
  found = answered(e, [request(one, said) for one in some for said in TEXTS[1:3]])
  wanted = [generated(one, said)[0] for one in some for said in TEXTS[1:3]]
  assert [[token.id for token in tokens(events)] for events in found] == wanted and wanted[0] != wanted[2]


def test_once_it_is_warm_nothing_is_compiled(runs):
  e = engine([runs[name] for name in ('a', 'b', 'base')])
  count = e.reader.warm(e._groups.values())
  size = lambda: sum(one._cache_size() for one in (programs.read, programs.choose, programs.score, programs.clear))
  before = size()
  assert count == 7
  more = [{}, {'decoding': Decoding(1.0, 5, 0.9, 0.1)}, {'echo': True, 'tops': 3}, {'limit': 0, 'embeds': True},
          {'limit': 0, 'choices': (('1', (3,)), ('2', (3, 4)))}, {'answers': 4, 'bias': ((3, 5.0),)}]
  answered(e, [request(runs[name], said, **how) for name in ('a', 'base') for said in TEXTS for how in more], joins=2)
  assert size() == before


@pytest.mark.parametrize('kind', ['lora', 'ia3', 'full'])
def test_another_version_answers_what_comes_next_and_what_runs_ends_as_it_began(kind):
  fields = {'strategy__name': kind}
  first, second, third = (run('a', seed=seed, by=0.02 if kind == 'full' else 0.1, **fields) for seed in (1, 2, 3))
  other = run('b', seed=9, **{**fields, 'strategy__name': 'lora' if kind == 'full' else kind})
  e = engine([first, other], spare=['a'])
  asked = request(first, 'Once upon')
  for before, after in ((first, second), (second, third), (third, first)):
    told, late = [], []
    e.submit(asked, told.append)
    for _ in range(3):
      e.tick()
    e.replace(after)
    e.submit(asked, late.append)
    [events] = answered(e, [request(other, 'x y')])
    assert [token.id for token in tokens(told)] == generated(before, 'Once upon')[0]
    assert [token.id for token in tokens(late)] == generated(after, 'Once upon')[0]
    assert [token.id for token in tokens(events)] == generated(other, 'x y')[0]
  assert len(e.groups) <= 3


def test_another_version_of_another_kind_has_a_place_of_its_own_beside_a_run_that_is_alone():
  first, other, after = run('a', seed=1, strategy__name='ia3'), run('b', seed=2, **LORA), run('a', seed=3, **LORA)
  e = engine([first, other], spare=['a'])
  e.replace(after)
  found = answered(e, [request(after, 'x y'), request(other, 'x y')])
  assert [[token.id for token in tokens(events)] for events in found] == [generated(one, 'x y')[0] for one in (after, other)]
