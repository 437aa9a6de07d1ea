"""What all prompts begin with is read once, and nothing that is measured depends on it."""

import jax
import numpy as np
import pytest
from helpers import scaled_up

from research import tree
from research.data import demonstrations, prompts, tasks
from research.evaluation import harness, shared_prefix
from research.evaluation.score import score
from research.models.functions import build, split_last_layers
from research.strategies import table
from research.strategies.bind import bind, from_collections

SETTINGS = {'base': ('few_shot', {}), 'prefix': ('prefix', {'slots': 4}),
            'prefix by an mlp': ('prefix', {'slots': 4, 'hidden': 8}), 'prompt': ('prompt', {'slots': 4}),
            'last layers': ('last_layers', {'layers': 1})}


def examples_of(loaded, task, shots, slots=0, blank=False):
  task = tasks.make(task, {'max_new_tokens': 6})
  shown = demonstrations.choose(task, shots, 'random', seed=3)
  found = prompts.examples(task, task.rows('valid'), loaded.tokenizer, shown, blank)
  places = prompts.placeholders(slots)
  found = [e._replace(prompt_ids=[*places, *e.prompt_ids],
                      content_free=tuple([*places, *ids] for ids in e.content_free)) for e in found]
  return task, [e for e in found if len(e.prompt_ids) < 400][:8]


@pytest.mark.diagonal('model', 'name', 'task')
@pytest.mark.parametrize('task', ['sentiment', 'translation'])
@pytest.mark.parametrize('name', SETTINGS)
@pytest.mark.parametrize('model', ['llama-tiny', 'gpt2-tiny'])
def test_scores_and_answers_are_those_of_every_prompt_read_anew(model, name, task, monkeypatch):
  loaded = scaled_up(model)
  strategy = table.make(*SETTINGS[name])
  config, params = split_last_layers(loaded.model.config, loaded.params, strategy.last_layers)
  model = build(config)
  variables = tree.join(*bind(jax.random.key(0), strategy, model, params))
  task, examples = examples_of(loaded, task, 2, strategy.slots)
  read, cut = shared_prefix.read(model, variables, [e.prompt_ids for e in examples])
  assert cut > 50 and sum(d.slots for p, d in from_collections(read).items() if p == 'layers/attn/prefix') >= cut
  assert cut == shared_prefix.common([e.prompt_ids for e in examples])
  once = harness.evaluate(model, variables, loaded.tokenizer, task, examples, 4)
  monkeypatch.setattr(shared_prefix, 'MIN_SHARED_TOKENS', 10 ** 6)
  anew = harness.evaluate(model, variables, loaded.tokenizer, task, examples, 4)
  for one, other in zip(once.predictions, anew.predictions):
    assert one['loss'] == pytest.approx(other['loss'], abs=1e-3) and one['prediction'] == other['prediction']
    for choice, value in other.get('choices', {}).items():
      assert one['choices'][choice] == pytest.approx(value, abs=1e-3)


@pytest.mark.quick
def test_what_all_begin_with_leaves_every_prompt_a_token_of_its_own():
  assert shared_prefix.common([[1, 2, 3], [1, 2, 4, 5]]) == 2
  assert shared_prefix.common([[1, 2], [1, 2, 3]]) == 1
  assert shared_prefix.common([[1, 2, 3]] * 2) == 2
  assert shared_prefix.common([[1, 2], [3, 2]]) == 0


def test_an_encoder_reads_every_prompt_anew():
  loaded = scaled_up('t5-tiny')
  _, examples = examples_of(loaded, 'translation', 2)
  assert shared_prefix.read(loaded.model, {'params': loaded.params}, [e.prompt_ids for e in examples])[1] == 0


def test_calibrated_choices_are_weighed_against_prompts_without_content(tiny):
  """Zhao et al. 2021: choices' probabilities over those that N/A, nothing and [MASK] give them on average."""
  task, examples = examples_of(tiny, 'sentiment', 1, blank=True)
  variables = {'params': tiny.params}
  assert len({tuple(map(tuple, e.content_free)) for e in examples}) == 1 and len(examples[0].content_free) == 3
  plain = score(tiny.model, variables, [e._replace(content_free=()) for e in examples], 4)
  blanks = [examples[0]._replace(prompt_ids=ids, content_free=()) for ids in examples[0].content_free]
  shares = np.array([[*s.choices.values()] for s in score(tiny.model, variables, blanks, 4)])
  shares = np.exp(shares) / np.exp(shares).sum(1, keepdims=True)
  evaluation = harness.evaluate(tiny.model, variables, tiny.tokenizer, task, examples, 4)
  for prediction, without in zip(evaluation.predictions, plain):
    expected = np.array([*without.choices.values()]) - np.log(shares.mean(0))
    assert [*prediction['choices'].values()] == pytest.approx([*without.choices.values()], abs=1e-3)
    assert [*prediction['calibrated'].values()] == pytest.approx(expected, abs=1e-3)
    assert prediction['prediction'] == task.choices[int(expected.argmax())]
