"""From documentation to reviews: what `models/llama-docs` (configs/pretrain_docs.py) learns in the studies of published claims.

    python -m research.train --config=configs/reviews.py --workdir=runs/reviews --config.training.learning_rate=1e-2

The text of the shipped reviews, one token after the other; its loss alone is measured.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('llama', pathlib.Path(__file__).with_name('llama.py'))
_llama = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_llama)


def get_config():
  config = _llama.get_config('models/llama-docs')
  config.task.update({'name': 'text', 'subset': 'sentiment_sentences'})
  return config
