"""The next token of rows that each have settings of their own: for each row what `decoding` says of it alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.evaluation import decoding
from research.evaluation.decoding import NOT_FINITE, Decoding
from research.serving import sampling

V = 60
FILTERS = [*itertools.product((0, 1, 3, V - 1, V, 2 * V), (1.0, 0.9, 0.5, 0.01), (0.0, 0.05, 0.5, 1.0))]


def logits(rows, ties=False):
  """Random ones; where `ties`, many are the same."""
  drawn = 2 * np.random.default_rng(rows).normal(size=(rows, V)).astype(np.float32)
  return np.round(drawn) if ties else drawn


def settings(decodings, numbers=None, places=None, bias=()):
  """Of rows that are decoded so."""
  s = sampling.usual(len(decodings))
  for row, d in enumerate(decodings):
    s.temperature[row], s.top_k[row], s.top_p[row], s.min_p[row], s.seed[row] = d.temperature, d.top_k, d.top_p, d.min_p, d.seed
    s.answer[row], s.place[row] = (numbers or [*range(len(decodings))])[row], (places or [0] * len(decodings))[row]
  for row, token, by in bias:
    free = int(np.argmax(s.biased[row] < 0))
    s.biased[row, free], s.bias[row, free] = token, by
  return s


choose = jax.jit(sampling.choose)


@pytest.mark.parametrize('ties', [False, True])
def test_what_is_left_out_is_exactly_what_decoding_leaves_out(ties):
  rows = logits(len(FILTERS), ties)
  k, p, m = (np.array(values, kind) for values, kind in zip(zip(*FILTERS), (np.int32, np.float32, np.float32)))
  found = np.asarray(jax.jit(jax.vmap(sampling._kept))(rows, k, p, m))
  for row, (top_k, top_p, min_p) in enumerate(FILTERS):
    expected = decoding.to_draw_from(jnp.asarray(rows[row]), 1.0, Decoding(1.0, top_k, top_p, min_p))
    np.testing.assert_array_equal(found[row], np.asarray(expected), err_msg=str(FILTERS[row]))
  assert len({*np.isfinite(found).sum(axis=1).tolist()}) > 10


def test_rows_are_drawn_as_each_is_alone_whoever_shares_the_batch():
  """By settings, seed, answer and place: also where nobody draws, and where nobody leaves anything out."""
  hot, greedy = [Decoding(1.5, seed=4), Decoding(0.7, seed=2 ** 31 - 1)], [Decoding()]
  filtered = [Decoding(1.0, top_k=5, seed=1), Decoding(2.0, top_p=0.8), Decoding(1.2, min_p=0.1),
              Decoding(3.0, 40, 0.9, 0.01, seed=9)]
  for company in (greedy * 3, [*greedy, *hot], [*hot, *greedy, *filtered], filtered):
    rows, places = logits(len(company)), [3 * row for row in range(len(company))]
    found = np.asarray(choose(rows, settings(company, places=places)).token)
    for row, d in enumerate(company):
      key = jax.random.fold_in(jax.random.key(d.seed), row)
      assert found[row] == decoding.next_token(rows[row:row + 1], key[None], places[row], d.temperature, d)[0]
  same = logits(1).repeat(64, axis=0)
  draws = lambda **of: {*np.asarray(choose(same, settings([Decoding(2.0)] * 64, **of)).token).tolist()}
  assert len(draws()) > 10 and len(draws(places=[*range(64)], numbers=[1] * 64)) > 10 and len(draws(numbers=[1] * 64)) == 1


def test_log_probabilities_are_the_models_own_whatever_was_done_to_choose():
  rows = logits(4)
  how = settings([Decoding(), Decoding(1.0, top_k=2), Decoding(3.0), Decoding()],
                 bias=[(0, 7, 100.0), (3, 7, 100.0), (3, 7, -200.0)])
  found = choose(rows, how._replace(tops=np.array([True, False, False, False])))
  own = np.asarray(jax.nn.log_softmax(rows))
  np.testing.assert_allclose(found.log_probability, own[range(4), found.token], atol=1e-5)
  assert found.token[0] == 7 and own[0, 7] < own[0].max()
  assert found.token[3] == np.argmax(np.where(np.arange(V) == 7, -99, rows[3]))
  best = np.argsort(-own, axis=1)[:, :sampling.MOST_TOP]
  np.testing.assert_array_equal(found.top.tokens, best)
  np.testing.assert_allclose(found.top.log_probabilities, np.take_along_axis(own, best, 1), atol=1e-5)
  assert not np.any(choose(rows, how).top.tokens)      # nobody asked


def test_a_forbidden_token_is_never_drawn_and_one_row_that_is_not_finite_harms_no_other():
  rows = logits(1).repeat(200, axis=0)
  likeliest = int(rows[0].argmax())
  drawn = lambda **more: np.asarray(choose(rows, settings([Decoding(1.0)] * 200, **more)).token)
  assert likeliest in drawn() and likeliest not in drawn(bias=[(row, likeliest, -100.0) for row in range(200)])
  broken = rows.copy()
  broken[3, 5], broken[4, 0], broken[5, 1] = np.nan, np.inf, -np.inf      # the last one is a token that is forbidden
  found = np.asarray(choose(broken, settings([Decoding(1.0)] * 200)).token)
  assert found[3] == found[4] == NOT_FINITE and (found[5:] >= 0).all()
  np.testing.assert_array_equal(np.delete(found, [3, 4, 5]), np.delete(drawn(), [3, 4, 5]))
