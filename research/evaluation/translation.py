"""sacrebleu's corpus metrics by name: BLEU, chrF and TER, each a function of summed sentence statistics."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.errors import InputError

TOKENIZERS = ('13a', 'intl', 'zh', 'ja-mecab', 'ko-mecab', 'char', 'flores101', 'flores200', 'spBLEU-1K', 'none')
AT_BLANKS = ('13a', 'intl', 'none')                              # those to which a text without blanks is one word
VOCABULARIES = ('flores101', 'flores200', 'spBLEU-1K')           # those of which sacrebleu fetches a file
PACKAGES = {'ja-mecab': 'sacrebleu[ja]', 'ko-mecab': 'sacrebleu[ko]'}      # those that need more than sacrebleu
NAMES = ('bleu', 'chrf', 'chrf++', 'ter', 'ter:asian', *(f'bleu:{name}' for name in TOKENIZERS))


class Corpus(NamedTuple):
  """A metric of sacrebleu."""
  metric: Any
  whole: bool      # whether its statistics are whole numbers

  def sums(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """sacrebleu's statistics of every example, of shape [n, k].

    Args:
      predictions: what was said, n texts.
      references: of each example one text or more; examples may have different numbers of them.
    """
    found = self.metric._extract_corpus_statistics(predictions, _by_place(references))
    return np.array(found, np.float64)

  def score(self, totals: np.ndarray) -> np.ndarray:
    """Scores [...] of totals [..., k]."""
    flat = totals.reshape(-1, totals.shape[-1])
    counts = np.rint(flat).astype(int) if self.whole else flat
    return np.array([self.metric._compute_score_from_stats(t.tolist()).score for t in counts]).reshape(totals.shape[:-1])

  def signature(self, references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's own: all that a score depends on beside the texts, so that others come to the same."""
    counts = {len(of_one) for of_one in references}
    self.metric.num_refs = counts.pop() if len(counts) == 1 else -1
    return str(self.metric.get_signature())


def _by_place(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
  """References as sacrebleu takes them: the first of all examples, the second of all that have one, …"""
  most = max(map(len, references))
  return [[of_one[place] if place < len(of_one) else None for of_one in references] for place in range(most)]


@lru_cache(maxsize=16)
def corpus(name: str, by_sentence: bool = False) -> Corpus:
  """The metric of a name.

  Args:
    name: one of `NAMES`.
    by_sentence: BLEU of single sentences, which leaves out orders that are longer than the sentence.
  Raises:
    InputError: the tokenizer's package or vocabulary is not there.
  """
  from sacrebleu.metrics.bleu import BLEU
  from sacrebleu.metrics.chrf import CHRF
  from sacrebleu.metrics.ter import TER
  kind, _, option = name.partition(':')
  if kind == 'ter':
    return Corpus(TER(normalized=bool(option), asian_support=bool(option)), False)
  if kind != 'bleu':
    return Corpus(CHRF(word_order=2 if kind == 'chrf++' else 0), True)
  if option in VOCABULARIES:
    _check_vocabulary(name, option)
  try:
    return Corpus(BLEU(tokenize=option or BLEU.TOKENIZER_DEFAULT, effective_order=by_sentence), True)
  except (ImportError, RuntimeError) as e:
    package = PACKAGES.get(option, 'sentencepiece')
    raise InputError(f'task.metrics: {name} needs a package that is not there ({" ".join(str(e).split()):.80}); '
                     f'pip install "{package}"') from None


def _check_vocabulary(name: str, tokenizer: str) -> None:
  """Refuses a tokenizer whose vocabulary would have to be fetched in the middle of a run.

  Raises:
    InputError: says where it is looked for, and how to fetch it.
  """
  from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
  from sacrebleu.utils import SACREBLEU_DIR
  path = Path(SACREBLEU_DIR) / 'models' / Path(SPM_MODELS[tokenizer]['url']).name
  if not path.exists():
    raise InputError(f'task.metrics: {name} needs the vocabulary {path}, which is not there; fetch it once: pip install '
                     f'sentencepiece && python -c "from sacrebleu.metrics import BLEU; BLEU(tokenize=\'{tokenizer}\')"')
