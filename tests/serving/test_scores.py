"""What the engine tells of likelihoods and vectors: what evaluation finds of the same run, whoever shares the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from serving import fleets
from serving.fleets import BASE, LORA, answered, ended, engine, request, run, tokens

from research.data.batch import Batch
from research.data.prompts import Example
from research.evaluation import embed, score
from research.serving import reader
from research.serving.requests import LENGTH, STOP, Embedded, Ended, Ranked

LONG = 'The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.'      # longer than a piece
CHOICES = (' yes', ' no', ' of another length, so that it is read in pieces', '! and once more' * 5)


@pytest.fixture(scope='module', params=['llama-tiny', 'gpt2-tiny', 't5-tiny'])
def fleet(request):
  """(two runs, an engine that has them and their base)."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(reader, 'BATCH', 2)
    patch.setattr(reader, 'SIDE', 1)
    runs = [run('a', request.param, 1, **LORA), run('b', request.param, 2, **LORA)]
    yield runs, engine([*runs, run('base', request.param, **BASE)], slots=2)


def company(runs):
  """Requests that change nothing for others."""
  return [request(runs[1], said, limit=12) for said in ('Once upon', LONG)]


def test_choices_have_the_likelihoods_that_evaluation_gives_them(fleet):
  """Of several tokens, longer than a piece, after a long prompt and after a single token."""
  runs, e = fleet
  ids = lambda one, texts: {text: one.exp.tokenizer.encode(text) for text in texts}
  prompts = [(list(fleets.ids(runs[0], LONG)), CHOICES[:3]), (list(fleets.ids(runs[0], '')), CHOICES)]
  assert len(prompts[1][0]) == 1 and len(ids(runs[0], CHOICES)[CHOICES[3]]) > reader.PIECE
  choices = lambda one, texts: tuple((text, tuple(i)) for text, i in ids(one, texts).items())
  asked = [request(one, '', prompt=tuple(prompt), limit=0, choices=choices(one, texts))
           for one in runs for prompt, texts in prompts]
  expected = []
  for one in runs:
    examples = [Example(number, {}, '', '', prompt, [*ids(one, texts)[texts[0]], one.exp.tokenizer.eos], ids(one, texts))
                for number, (prompt, texts) in enumerate(prompts)]
    expected += [scores.choices for scores in score.score(one.exp.model, one.variables, examples, 4)]
  alone, beside = answered(e, asked[:1]), answered(e, [*asked, *company(runs)], joins=2)[:4]
  for events, wanted in zip([*alone, *beside], expected[:1] + expected):
    assert events == [Ranked(pytest.approx(wanted, rel=1e-5, abs=1e-5)), Ended(0, STOP)]
  assert abs(expected[0][' yes'] - expected[2][' yes']) > 0.01


def test_vectors_are_those_of_evaluation(fleet):
  """Of a model with an encoder that one's."""
  runs, e = fleet
  prompts = [list(fleets.ids(runs[0], said)) for said in (LONG, 'x')]
  asked = [request(one, '', prompt=tuple(prompt), limit=0, embeds=True) for one in runs for prompt in prompts]
  expected = np.concatenate([embed.embed(one.exp.model, one.variables, prompts, 2) for one in runs])
  found = answered(e, [*asked, *company(runs)], joins=1)[:4]
  assert all(isinstance(events[0], Embedded) and events[1:] == [Ended(0, STOP)] for events in found)
  np.testing.assert_allclose([events[0].vector for events in found], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
  assert np.abs(expected[0] - expected[2]).max() > 0.01


@pytest.mark.parametrize('fleet', ['llama-tiny', 'gpt2-tiny'], indirect=True)
def test_a_prompt_and_its_answer_are_told_with_the_models_log_probabilities(fleet):
  """Also where no answer is wanted; an encoder gives its tokens no probability."""
  runs, e = fleet
  asked = [request(one, LONG, echo=True, tops=tops, limit=limit) for one in runs for tops, limit in ((4, 6), (0, 0))]
  alone, beside = answered(e, asked[:1]), answered(e, [*asked, *company(runs)], joins=2)[:4]
  for one, events in zip([asked[0], *asked], [*alone, *beside]):
    told = tokens(events)
    ids = [token.id for token in told]
    assert (*ids[:len(one.prompt)],) == one.prompt and len(ids) == len(one.prompt) + one.limit and ended(events) == LENGTH
    own = runs[one.model == 'b']
    batch = Batch(jnp.array([ids + [0] * (96 - len(ids))]), jnp.arange(96)[None], (jnp.arange(96) < len(ids))[None].astype(int))
    logits = own.exp.model.logits(own.variables, own.exp.model.hidden(own.variables, batch))[0]
    expected = np.asarray(jax.nn.log_softmax(logits))
    assert told[0].log_probability is None
    values = [token.log_probability for token in told[1:]]
    np.testing.assert_allclose(values, expected[range(len(ids) - 1), ids[1:]], rtol=1e-5, atol=1e-5)
    best = np.argsort(-expected, axis=1)[:, :one.tops]
    assert [[i for i, _ in t.top] for t in told[1:]] == best[:len(ids) - 1].tolist()
    np.testing.assert_allclose([[x for _, x in t.top] for t in told[1:]], np.take_along_axis(expected, best, 1)[:len(ids) - 1],
                               rtol=1e-5, atol=1e-5)


def test_the_log_probabilities_of_an_answer_do_not_depend_on_who_shares_the_batch(fleet):
  runs, e = fleet
  one = request(runs[0], 'Once upon', limit=12, tops=3)
  alone, beside = answered(e, [one])[0], answered(e, [one, *company(runs)])[0]
  values = lambda events: [[t.log_probability, *(x for _, x in t.top)] for t in tokens(events)]
  assert [t.id for t in tokens(alone)] == [t.id for t in tokens(beside)]
  np.testing.assert_allclose(values(alone), values(beside), rtol=1e-5, atol=1e-5)
