"""The real SmolLM2, against transformers' torch model, which dequantises the same file by its own code."""

import llamas
import numpy as np
import pytest

from research.data import sources
from research.evaluation import decode

pytestmark = [pytest.mark.smollm2, pytest.mark.parity]


@pytest.fixture(scope='module')
def theirs(smollm2_file):
  import torch
  from transformers import LlamaForCausalLM
  return LlamaForCausalLM.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name, dtype=torch.float32).eval()


@pytest.fixture(scope='module')
def prompts():
  review, strings, docs = (sources.sample(n)['test'][3] for n in ('sentiment_sentences', 'hass_ende',
                                                                  'docstring_summary'))
  return [f'Review: {review["text"]}\nSentiment:', f'English: {strings["source"]}\nGerman:',
          f'Documentation: {docs["document"][:600]}\nSummary:',
          'def fibonacci(n):\n    """The n-th Fibonacci number."""\n',
          '<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n']


def test_logits_equal_transformers_on_five_real_prompts(smollm2, theirs, prompts):
  import torch
  ids = [smollm2.tokenizer.prompt(p) for p in prompts]
  length = max(map(len, ids))
  found = llamas.logits(smollm2.model, smollm2.params, [i + [0] * (length - len(i)) for i in ids])   # padded at the end
  for prompt, one, logits in zip(prompts, ids, found):
    with torch.no_grad():
      expected = theirs(torch.tensor([one])).logits[0].numpy()
    assert expected.std() > 1
    assert np.abs(logits[:len(one)] - expected).max() <= 2e-3, prompt


def test_greedy_continuations_equal_transformers(smollm2, theirs, prompts):
  import torch
  ids = [smollm2.tokenizer.prompt(p) for p in prompts]
  found = decode.generate(smollm2.model, {'params': smollm2.params}, ids, 40, smollm2.tokenizer.ends, batch_size=5)
  assert any(len(f) == 40 for f in found) and any(len(f) < 40 for f in found)      # some end by themselves
  for prompt, one, continuation in zip(prompts, ids, found):
    out = theirs.generate(torch.tensor([one]), max_new_tokens=40, do_sample=False, eos_token_id=smollm2.tokenizer.eos,
                          pad_token_id=0, attention_mask=torch.ones(1, len(one), dtype=torch.long))
    expected = out[0, len(one):].tolist()
    if smollm2.tokenizer.eos in expected:
      expected = expected[:expected.index(smollm2.tokenizer.eos)]
    assert continuation == expected, prompt
