"""The engine: whoever shares the batch, an answer is the one that `generate` writes."""

import pytest
from serving.fleets import answered, engine, request, run, text, tokens

from research.evaluation import decode
from research.evaluation.decoding import GREEDY

TEXTS = ['Once upon', 'a', 'The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.', 'x y']


def alone(run, ids, new=8, decoding=GREEDY, ended=None):
  """What `generate` writes to one prompt."""
  model = run.exp.model
  return decode.generate(model, run.variables, [list(ids)], new, run.exp.tokenizer.ends, 1, decoding, ended=ended)[0]


@pytest.mark.parametrize('preset', ['llama-tiny', 'gpt2-tiny', 't5-tiny'])
def test_answers_are_those_of_generate_alone_and_in_a_full_batch_that_grows(preset):
  lora = {'strategy__name': 'lora', 'strategy__rank': 3}
  runs = [run('a', preset, 1, **lora), run('b', preset, 2, **lora), run('c', preset, 3, strategy__name='ia3'),
          run('full', preset, 4, 0.02, strategy__name='full'),
          run('base', preset, strategy__name='few_shot', strategy__shots=0)]
  e = engine(runs)
  asked = [request(one, said) for one in runs for said in TEXTS]
  expected = [alone(one, request(one, said).prompt) for one in runs for said in TEXTS]
  assert len({*map(tuple, expected)}) > 10
  for joins in (0, 1, 3):
    found = answered(e, asked, joins)
    assert [[token.id for token in tokens(events)] for events in found] == expected
  assert [text(events) for events in found] == [runs[0].exp.tokenizer.decode(ids) for ids in expected]
  assert e.load() == (0, 0, 0.0) and sorted(e._free) == [0, 1, 2, 3]


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
    assert [token.id for token in tokens(told)] == alone(before, asked.prompt)
    assert [token.id for token in tokens(late)] == alone(after, asked.prompt)
    assert [token.id for token in tokens(events)] == alone(other, request(other, 'x y').prompt)
  assert len(e.groups) <= 3
