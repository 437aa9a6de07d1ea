"""Any change of kernels, brought to plain LoRA of a rank: what PEFT makes of the folder, and what the rank keeps."""

import functools

import jax
import numpy as np
import pytest
from helpers import moved, scaled_up, torch_twin
from rows import ROWS
from test_peft import batches_for, their_logits

from research import tree
from research.adapters import truncated
from research.deployment import folder as folders
from research.deployment import low_rank
from research.errors import InputError
from research.models import names
from research.models.families import FAMILIES
from research.strategies.bind import bind, merge

FULL_RANK = 200      # above every side of a small model's kernels
# (model, strategy) -> the rank of its changes, None where that is no less than a side of a kernel.
CASES = {('llama-tiny', 'lora'): 5, ('llama-tiny', 'pissa'): 10, ('llama-tiny', 'dora'): None, ('llama-tiny', 'vera'): None,
         ('llama-tiny', 'oft'): None, ('llama-tiny', 'ia3'): None, ('llama-tiny', 'full'): None, ('gpt2-tiny', 'lora'): None,
         ('gpt2-tiny', 'full'): None, ('t5-odd', 'dora'): None}


def changed(name, strategy):
  """(model, tensors of the base, tensors of the model after the strategy moved it)"""
  loaded = scaled_up(name)
  trainable, frozen = bind(jax.random.key(0), ROWS[strategy].make(), loaded.model, loaded.params)
  variables = tree.join(moved(trainable, seed=0, by=0.02), frozen)
  family, config = FAMILIES[loaded.model.config.family], loaded.model.config
  of = lambda params: names.export_params(family, config, params)
  return loaded, of(merge({'params': loaded.params, 'delta': {}})), of(merge(variables))


@functools.cache
def forward(name):
  """(a batch, the tensors of a model -> the logits of its real tokens), compiled once for all tests of a model."""
  loaded = scaled_up(name)
  [one, _] = batches_for(loaded, 1)
  tokens = jax.tree.map(lambda x: x[0], one)
  run = jax.jit(lambda v: loaded.model.logits(v, loaded.model.hidden(v, tokens)))
  return one, lambda tensors: np.asarray(run(variables_of(loaded, tensors)))[tokens.segments > 0]


def in_peft(loaded, folder, one):
  import peft
  import torch
  model = peft.PeftModel.from_pretrained(torch_twin(loaded), str(folder)).eval()
  b = jax.tree.map(lambda x: torch.tensor(x[0]), one)
  with torch.no_grad():
    return their_logits(model, b).numpy()[one.segments[0] > 0]


def truncate(loaded, base, merged, rank):
  config = loaded.model.config
  return truncated.truncate(config, names.shapes(config), base, merged, rank, 'base')


def variables_of(loaded, tensors):
  config = loaded.model.config
  return {'params': names.import_params(FAMILIES[config.family], config, tensors, 'here'), 'delta': {}}


@pytest.mark.parity
@pytest.mark.parametrize('name, strategy', CASES, ids=lambda x: x)
def test_peft_computes_what_the_run_does_at_full_rank_and_the_truncated_model_below(name, strategy, tmp_path):
  loaded, base, merged = changed(name, strategy)
  one, ours = forward(name)
  for rank in (FULL_RANK, 3):
    found = truncate(loaded, base, merged, rank)
    folders.adapter(tmp_path, found.said, found.tensors, {})
    theirs = in_peft(loaded, tmp_path, one)
    assert theirs.std() > 0.5 and np.abs(theirs - ours(found.changed)).max() < 1e-4
    if rank == FULL_RANK:
      whole = dict(base) | {n: merged[n] for n in merged if n not in found.lost}
      assert np.abs(theirs - ours(whole)).max() < 1e-4 and np.abs(theirs - ours(base)).max() > 1e-2
      assert found.kept_overall == pytest.approx(1, abs=1e-9)
      assert bool(found.lost) == (strategy == 'full')
    else:
      assert found.kept_overall < 0.999 and min(found.kept.values()) <= found.kept_overall <= max(found.kept.values())


@pytest.mark.parametrize('name, strategy, rank', [(*case, rank) for case, rank in CASES.items() if rank], ids=str)
def test_a_change_of_rank_r_loses_nothing_at_rank_r_and_something_below(name, strategy, rank):
  loaded, base, merged = changed(name, strategy)
  found, less = truncate(loaded, base, merged, rank), truncate(loaded, base, merged, rank - 1)
  assert 1 - found.kept_overall < 1e-5 < 1 - less.kept_overall
  for path, x in merged.items():
    np.testing.assert_allclose(found.changed[path], x, rtol=0, atol=1e-5, err_msg=path)


def test_the_share_that_is_kept_is_that_of_the_squared_norm():
  loaded, base, merged = changed('llama-tiny', 'full')
  found = truncate(loaded, base, merged, 4)
  left = kept = 0.0
  for name in merged:
    module = name.removesuffix('.weight')
    if module in found.kept:
      whole, rest = (np.sum((merged[name] - x).astype(float) ** 2) for x in (base[name], found.changed[name]))
      assert found.kept[module] == pytest.approx(1 - rest / whole, abs=1e-4)
      left, kept = left + rest, kept + whole
  assert found.kept_overall == pytest.approx(1 - left / kept, abs=1e-4)


def test_what_no_lora_expresses_is_refused_with_its_size_unless_it_may_be_lost():
  loaded, base, merged = changed('llama-tiny', 'full')
  found = truncate(loaded, base, merged, 4)
  embedding = np.linalg.norm(merged['model.embed_tokens.weight'] - base['model.embed_tokens.weight'])
  with pytest.raises(InputError, match=rf'model.embed_tokens.weight \(by {embedding:.3g}\).*--allow_lost') as e:
    low_rank.check_lost(found, allow_lost=False)
  assert len(str(e.value).splitlines()) == 1
  low_rank.check_lost(found, allow_lost=True)
  with pytest.raises(InputError, match='no kernel changed'):
    low_rank.check_lost(truncate(loaded, base, base, 4), allow_lost=True)


@pytest.mark.quick
def test_modules_are_named_by_their_last_names_where_that_means_no_others():
  every = {'a.0.q', 'a.1.q', 'a.0.o', 'a.1.o'}
  assert truncated.targets({'a.0.q', 'a.1.q'}, every) == ['q']
  assert truncated.targets({'a.1.q'}, every) == ['a.1.q']
