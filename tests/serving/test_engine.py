"""The engine: whoever shares the batch, an answer is the one that `generate` writes."""

import numpy as np
import pytest
from serving.fleets import answered, engine, experiment, request, run, text, tokens

from research.evaluation import decode
from research.evaluation.decoding import Decoding
from research.serving.requests import Ended

TEXTS = ['Once upon', 'a', 'The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.', 'x y']


def alone(run, ids, new=8, decoding=Decoding(), ended=None):
  """What `generate` writes to one prompt."""
  model = run.exp.model
  return decode.generate(model, run.variables, [list(ids)], new, run.exp.tokenizer.ends, 1, decoding, ended=ended)[0]


@pytest.mark.parametrize('preset', ['llama-tiny', 'gpt2-tiny', 't5-tiny'])
def test_answers_are_those_of_generate_alone_and_in_a_full_batch_that_grows(preset):
  lora = {'strategy__name': 'lora', 'strategy__rank': 3}
  runs = [run('a', preset, 1, **lora), run('b', preset, 2, **lora), run('c', preset, 3, strategy__name='ia3'),
          run('full', preset, 4, 0.02, strategy__name='full'), run('base', preset, strategy__name='few_shot', strategy__shots=0)]
  e = engine(runs)
  asked = [request(one, said) for one in runs for said in TEXTS]
  expected = [alone(one, request(one, said).prompt) for one in runs for said in TEXTS]
  assert len({*map(tuple, expected)}) > 10
  for joins in (0, 1, 3):
    found = answered(e, asked, joins)
    assert [[token.id for token in tokens(events)] for events in found] == expected
  assert [text(events) for events in found] == [runs[0].exp.tokenizer.decode(ids) for ids in expected]
  assert e.load() == (0, 0, 0.0) and sorted(e._free) == [0, 1, 2, 3]
