"""GPT-2 (or Pythia, its younger sibling GPT-NeoX) on a task, by LoRA.

    python -m research.train --config=configs/gpt2.py --workdir=runs/gpt2
    python -m research.train --config=configs/gpt2.py:openai-community/gpt2 --workdir=runs/gpt2-124m

The variant is the model's source. Without one it is random:gpt2-small, which shows that everything runs (a minute on two cores)
and learns little; `configs/pretrain.py:random:gpt2-small` gives it something to start from.
Another strategy: `--config.strategy.name=full`.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).with_name('default.py'))
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config(source='random:gpt2-small'):
  config = _default.get_config()
  config.model.source = source
  config.training.update({'learning_rate': 5e-4, 'steps': 100})
  return config
