"""How the next token is chosen: each setting means what it means in transformers, and what is drawn is drawn from that."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import torch_twin

from research import tree
from research.data import gguf_tokenizer
from research.distributed import device
from research.errors import InputError
from research.evaluation import decoding
from research.evaluation.decode import generate, generate_all, stream
from research.evaluation.decoding import BLANK, Decoding
from research.evaluation.harness import ended_by
from research.models import load
from research.models.config import Execution
from research.models.kernels import Transposed, is_kernel
from research.programs import members
from research.unstacked import is_unstacked

NEVER = 257   # a token that none of these answers comes to
TEXTS = ['Review: good\nSentiment:', 'x', 'English: Turn on the light in the kitchen\nGerman:', 'yes', 'A much ' * 9]
DRAWN = Decoding(0.8, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.3, no_repeat_ngram=3, seed=5)


@pytest.fixture(scope='module')
def prompts(preset):
  return [preset.tokenizer.prompt(text) for text in TEXTS]


def theirs(name, *args):
  import transformers
  return getattr(transformers, name)(*args)


@pytest.fixture(scope='module')
def scores():
  """Logits of 24 rows, and the tokens before them, of a small alphabet so that they repeat."""
  drawn = np.random.default_rng(0)
  return (3 * drawn.normal(size=(24, 301))).astype(np.float32), drawn.integers(0, 4, (24, 17)).astype(np.int32)


@pytest.mark.parity
@pytest.mark.parametrize('ours, processor, args', [
    (lambda x, ids, end: decoding.keep_top_k(x, 7), 'TopKLogitsWarper', (7,)),
    (lambda x, ids, end: decoding.keep_top_k(x, 1000), 'TopKLogitsWarper', (1000,)),
    (lambda x, ids, end: decoding.keep_top_p(x, 0.9), 'TopPLogitsWarper', (0.9,)),
    (lambda x, ids, end: decoding.keep_top_p(x, 1e-6), 'TopPLogitsWarper', (1e-6,)),
    (lambda x, ids, end: decoding.keep_min_p(x, 0.1), 'MinPLogitsWarper', (0.1,)),
    (lambda x, ids, end: decoding.keep_min_p(x, 1.0), 'MinPLogitsWarper', (1.0,)),
    (lambda x, ids, end: decoding.penalise_repetition(x, ids, 1.7), 'RepetitionPenaltyLogitsProcessor', (1.7,)),
    (lambda x, ids, end: decoding.penalise_repetition(x, ids, 0.6), 'RepetitionPenaltyLogitsProcessor', (0.6,)),
    *((lambda x, ids, end, n=n: decoding.forbid_repeated(x, ids, end, n), 'NoRepeatNGramLogitsProcessor', (n,))
      for n in (1, 2, 3, 17, 18))])
def test_each_setting_does_what_transformers_processor_does(scores, ours, processor, args):
  import torch
  logits, ids = scores
  expected = theirs(processor, *args)(torch.tensor(ids.astype(np.int64)), torch.tensor(logits)).numpy()
  np.testing.assert_allclose(ours(jnp.asarray(logits), ids, ids.shape[1]), expected, rtol=1e-6)
  padded = np.pad(ids, ((0, 0), (5, 3)), constant_values=BLANK)      # neither slots before a prompt nor after a token count
  np.testing.assert_allclose(ours(jnp.asarray(logits), padded, ids.shape[1] + 5), expected, rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize('settings', [
    Decoding(1.0), Decoding(0.6, top_k=12), Decoding(1.4, top_p=0.8), Decoding(1.0, min_p=0.05),
    Decoding(1.0, repetition_penalty=1.5), Decoding(0.7, no_repeat_ngram=2),
    Decoding(1.2, top_k=30, top_p=0.95, min_p=0.01, repetition_penalty=1.4, no_repeat_ngram=2)])
def test_20000_draws_of_a_step_have_the_distribution_of_transformers_processors(scores, settings):
  """By the chi-square test: p would be below 1e-3 once in a thousand seeds; of a temperature a tenth higher it is far below."""
  import torch
  from scipy import stats
  from transformers import GenerationConfig
  logits, ids = scores[0][:1], scores[1][:1]
  config = GenerationConfig(do_sample=True, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p,
                            min_p=settings.min_p or None, repetition_penalty=settings.repetition_penalty,
                            no_repeat_ngram_size=settings.no_repeat_ngram)
  found = theirs('GPT2LMHeadModel', theirs('GPT2Config'))._get_logits_processor(config, input_ids_seq_length=ids.shape[1])
  expected = found(torch.tensor(ids.astype(np.int64)), torch.tensor(logits)).double().softmax(-1).numpy()[0]
  allowed = decoding.looking_back(jnp.asarray(logits), ids, ids.shape[1], settings)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(settings.seed), jnp.arange(20_000))
  draw = jax.jit(lambda how: decoding.next_token(jnp.broadcast_to(allowed, (20_000, 301)), keys, 3, how, settings))

  rare = expected * 20_000 < 5                                        # in one class
  in_classes = lambda x: np.append(x[~rare], x[rare].sum())
  some = in_classes(expected) > 0

  def p_of(tokens):
    counts = np.bincount(np.asarray(tokens), minlength=301)
    if counts[expected == 0].any():
      return 0.0
    seen, of = in_classes(counts)[some], 20_000 * in_classes(expected)[some]
    return stats.chisquare(seen, of).pvalue
  assert p_of(draw(settings.temperature)) > 1e-3
  assert p_of(draw(settings.temperature * 1.1)) < 1e-6


@pytest.mark.parity
def test_20000_answers_have_the_distribution_of_transformers_processors(tiny):
  """Each prompt draws on its own, here of its first token, whatever stands beside it in a batch."""
  import torch
  from scipy import stats
  ids, how = tiny.tokenizer.prompt('abab'), Decoding(0.7, top_k=40, top_p=0.9, repetition_penalty=1.3, seed=1)
  answers = generate(tiny.model, {'params': tiny.params}, [ids] * 20_000, 1, [NEVER], 2_000, how)
  counts = np.bincount(np.ravel(answers), minlength=tiny.model.config.vocab)
  with torch.no_grad():
    logits = torch_twin(tiny)(torch.tensor([ids])).logits[:, -1]
  for name, setting in (('RepetitionPenaltyLogitsProcessor', 1.3), ('TemperatureLogitsWarper', 0.7), ('TopKLogitsWarper', 40),
                        ('TopPLogitsWarper', 0.9)):
    logits = theirs(name, setting)(torch.tensor([ids]), logits)
  expected = logits.double().softmax(-1).numpy()[0] * 20_000
  assert not counts[expected == 0].any() and 10 < (expected > 0).sum() < 40
  assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


@pytest.mark.diagonal('preset', 'settings')
@pytest.mark.parametrize('settings', [DRAWN, DRAWN._replace(repetition_penalty=1.0, no_repeat_ngram=0)])
def test_what_is_drawn_is_the_same_in_any_batch(preset, prompts, settings):
  draw = lambda size, ids=prompts, **more: generate(preset.model, {'params': preset.params}, ids, 20, [NEVER], size, **more)
  alone = draw(1, decoding=settings)
  assert alone == draw(3, decoding=settings) == draw(16, decoding=settings)
  assert draw(16, prompts[3:], decoding=settings, first=3) == alone[3:]
  assert alone != draw(16, decoding=settings._replace(seed=6)) and len({*map(tuple, alone)}) == len(TEXTS)


def test_what_looks_back_is_seen_in_the_answers(tiny):
  ids = [tiny.tokenizer.prompt(text) for text in TEXTS]
  say = lambda **how: generate(tiny.model, {'params': tiny.params}, ids, 40, [NEVER], 8, Decoding(**how))
  def again(answers, n):
    """Whether some token makes n tokens stand a second time."""
    whole = [(len(prompt), [*prompt, *answer]) for prompt, answer in zip(ids, answers)]
    runs = [(size, [tuple(x[i:i + n]) for i in range(len(x) - n + 1)]) for size, x in whole]
    return any(run in found[:i] for size, found in runs for i, run in enumerate(found) if i + n > size)
  assert again(say(), 3) and again(say(), 2) and not again(say(no_repeat_ngram=2), 2)
  assert not any({*answer} & {*prompt} for prompt, answer in zip(ids, say(no_repeat_ngram=1)))
  assert say(repetition_penalty=1.5) != say() == say(repetition_penalty=1.0)


@pytest.mark.parity
@pytest.mark.diagonal('preset', 'how')
@pytest.mark.parametrize('how, given', [
    ({'repetition_penalty': 1.4, 'no_repeat_ngram': 2}, {'repetition_penalty': 1.4, 'no_repeat_ngram_size': 2}),
    ({'beams': 4}, {'num_beams': 4}), ({'beams': 3, 'length_penalty': -1.5}, {'num_beams': 3, 'length_penalty': -1.5}),
    ({'beams': 3, 'length_penalty': 2.0, 'early_stopping': 1}, {'num_beams': 3, 'length_penalty': 2.0, 'early_stopping': True}),
    ({'beams': 4, 'length_penalty': 2.0, 'repetition_penalty': 1.2, 'no_repeat_ngram': 3},
     {'num_beams': 4, 'length_penalty': 2.0, 'repetition_penalty': 1.2, 'no_repeat_ngram_size': 3})])
def test_answers_are_those_of_transformers_generate(preset, prompts, how, given):
  """Of several ends that answers come to; in batches of 1, 3 and 16."""
  import torch
  twin, variables = torch_twin(preset), {'params': preset.params}
  greedy = generate(preset.model, variables, prompts, 20, [NEVER], 16)
  ends = [NEVER, greedy[0][6], greedy[2][9]]
  say = lambda size: generate(preset.model, variables, prompts, 20, ends, size, Decoding(**how))
  found = say(16)
  for prompt, answer in zip(prompts, found):
    ids = torch.tensor([prompt])
    whole = twin.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=ends,
                          pad_token_id=NEVER, **{'early_stopping': False, **given})[0].tolist()
    new = whole[1 if twin.config.is_encoder_decoder else len(prompt):]
    assert answer == new[:next((n for n, token in enumerate(new) if token in ends), None)]
  assert say(1) == say(3) == found != greedy
  assert any(len(answer) < 20 for answer in found) or how.get('length_penalty') == 2.0      # which prefers long answers


@pytest.mark.parity
@pytest.mark.parametrize('beams', [1, 3])
def test_answers_end_where_transformers_stop_strings_end_them(tiny, beams):
  """With the token that completes a stop; `harness.cut` then takes the stop away."""
  import torch
  twin, hf = torch_twin(tiny), tiny.tokenizer.hf
  prompts, variables = [tiny.tokenizer.prompt(text) for text in TEXTS], {'params': tiny.params}
  how = Decoding(beams=beams)
  whole = generate(tiny.model, variables, prompts, 40, [NEVER], 16, how)
  letters = [hf.decode(answer) for answer in whole]
  stops = [next(text[i:i + 2] for text in letters[n:] for i in range(at, len(text) - 1) if text[i:i + 2].isascii())
           for n, at in ((0, 3), (2, 8))]
  ended = ended_by(tiny.tokenizer, lambda number: stops)
  found = generate(tiny.model, variables, prompts, 40, [NEVER], 3, how, ended=ended)
  for prompt, answer in zip(prompts, found):
    ids = torch.tensor([prompt])
    theirs = twin.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, eos_token_id=NEVER,
                           pad_token_id=NEVER, num_beams=beams, stop_strings=stops, tokenizer=hf)[0].tolist()[len(prompt):]
    assert answer == [token for token in theirs if token != NEVER]
  assert found == generate(tiny.model, variables, prompts, 40, [NEVER], 16, how, ended=ended)
  assert any(len(answer) < 40 for answer in found) and any(len(answer) == 40 for answer in found)


@pytest.mark.smollm2
@pytest.mark.parity
@pytest.mark.parametrize('stop', ['\n\nQ', 'estion: n', 'swer', ' 4', '.\n', 'wer is 42', 'é', 'never'])
def test_stops_that_span_tokens_or_end_within_one_are_found_where_transformers_finds_them(words, stop):
  import torch
  ids = words.hf.encode('The answer is 42.\n\nQuestion: next café unanswered')
  criterion, ended = theirs('StopStringCriteria', words.hf, [stop]), ended_by(words, lambda number: [stop])
  first = lambda has_ended: next((size for size in range(1, len(ids) + 1) if has_ended(ids[:size])), None)
  assert first(lambda some: ended(0, some)) == first(lambda some: bool(criterion(torch.tensor([some]), None)[0]))
  assert stop == 'never' or first(lambda some: ended(0, some))


@pytest.fixture(scope='module')
def words(smollm2_file):
  """A tokenizer whose tokens are of several letters."""
  import gguf
  fields = {n: f.contents() for n, f in gguf.GGUFReader(smollm2_file).fields.items() if n.startswith('tokenizer.')}
  return gguf_tokenizer.from_gguf(fields, 'SmolLM2')


@pytest.mark.parametrize('how', [Decoding(), DRAWN, Decoding(beams=3, no_repeat_ngram=2)])
def test_each_member_of_a_cohort_writes_what_it_writes_alone(tiny, how):
  ids = [tiny.tokenizer.prompt(text) for text in TEXTS]
  other = {**tiny.params, 'embed': jax.tree.map(lambda x: -x[::-1], tiny.params['embed'])}
  alone = [generate(tiny.model, {'params': one}, ids, 12, [NEVER], 4, how) for one in (tiny.params, other)]
  both = members.stack_variables([{}, {}], [{'params': tiny.params}, {'params': other}])
  ended = lambda number, ids: len(ids) >= 7 and number == 2
  assert generate_all(tiny.model, both, ids, 12, [NEVER], 4, how) == alone and alone[0] != alone[1]
  stopped = generate_all(tiny.model, both, ids, 12, [NEVER], 4, how, ended=ended)
  assert stopped == [[*of_one[:2], of_one[2][:7], *of_one[3:]] for of_one in alone] != alone


@pytest.mark.parametrize('quantize', ['none', 'int8'])
def test_weights_that_are_copied_into_another_order_write_the_same(preset, prompts, quantize, monkeypatch):
  keep = load.keep(Execution('float32', 'float32', True, quantize))
  variables = {'params': tree.map_named(keep, preset.params)}
  found = {}
  for copies in (True, False):
    monkeypatch.setattr(device, 'copies_for_decoding', lambda size, copies=copies: copies)
    arranged = tree.leaves(members.for_decoding(variables, 4), is_leaf=is_kernel)
    assert copies == any(map(is_unstacked, jax.tree.leaves([*arranged.values()], is_leaf=is_unstacked)))
    assert (copies and quantize == 'none') == any(isinstance(x, Transposed) for x in arranged.values())
    assert {path: x.shape for path, x in arranged.items()} == {
        path: x.shape for path, x in tree.leaves(variables, is_leaf=is_kernel).items()}
    found[copies] = generate(preset.model, variables, prompts, 12, [NEVER], 4)
  assert found[True] == found[False]


@pytest.mark.parametrize('how', [Decoding(), DRAWN])
def test_a_stream_grows_to_what_is_generated(tiny, how):
  ids, variables = tiny.tokenizer.prompt(TEXTS[2]), {'params': tiny.params}
  grown = [[*ids] for ids in stream(tiny.model, variables, ids, 30, [NEVER], how)]
  assert grown[-1] == generate(tiny.model, variables, [ids], 30, [NEVER], 1, how)[0] and len(grown) >= 29
  assert all(longer[:len(shorter)] == shorter for shorter, longer in itertools.pairwise(grown))


def test_logits_that_are_not_finite_are_refused_of_beams_too(tiny):
  broken = {**tiny.params, 'norm': jax.tree.map(lambda x: x * jnp.inf, tiny.params['norm'])}
  for how in (Decoding(), Decoding(beams=2), Decoding(1.0, no_repeat_ngram=1)):
    with pytest.raises(InputError, match='prompt 1: the logits are not finite'):
      generate(tiny.model, {'params': broken}, [[1, 2]], 4, [NEVER], 1, how)


@pytest.mark.quick
@pytest.mark.parametrize('settings, says', [
    ({'temperature': -1}, 'temperature=-1.0: must be 0'), ({'temperature': 1e-9}, 'must be 0 (the likeliest'),
    ({'temperature': 1, 'top_k': -1}, 'top_k=-1: must be 0'), ({'temperature': 1, 'top_p': 0}, 'top_p=0.0: a share'),
    ({'temperature': 1, 'top_p': 1.5}, 'top_p=1.5: a share'), ({'temperature': 1, 'min_p': 2}, 'min_p=2.0: a share'),
    ({'repetition_penalty': 0}, 'repetition_penalty=0.0: must be from'), ({'no_repeat_ngram': -2}, 'must be 0 (tokens may'),
    ({'beams': 0}, 'beams=0: must be from 1'), ({'beams': 2, 'temperature': 1}, 'is of drawing, and beams=2 draws nothing'),
    ({'top_p': 0.9}, 'give a temperature above 0 too'), ({'length_penalty': 2}, 'give beams above 1 too'),
    ({'early_stopping': 1}, 'early_stopping=1: is of beam search'), ({'beams': 2, 'early_stopping': 2}, 'must be 0 (while'),
    ({'seed': -1}, 'seed=-1: must be 0 or more'), ({'beams': 2.5}, 'beams=2.5: must be a whole number'),
    ({'warmth': 1}, "no setting is called 'warmth'"), ({'top_p': float('nan'), 'temperature': 1}, 'top_p=nan')])
def test_settings_that_cannot_be_are_refused_by_name(settings, says):
  with pytest.raises(InputError) as refused:
    decoding.of_pairs(settings.items())
  assert says in str(refused.value) and str(refused.value).startswith('task.decoding: ')
