"""A Llama, Mistral, Qwen, Gemma, SmolLM3, OLMo 2 or Phi-3 model on a task of one's own, by LoRA.

    python -m research.train --config=configs/llama.py --workdir=runs/llama
    python -m research.train --config=configs/llama.py:meta-llama/Llama-3.2-1B --workdir=runs/llama-1b

The variant is the model's source: a folder, a .gguf file, a hub id, or random:NAME. Without one it is random:llama-small, which
shows that everything runs (a minute on two cores) and learns little; SmolLM2 is `configs/default.py`.
Another strategy: `--config.strategy.name=full`.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).with_name('default.py'))
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config(source='random:llama-small'):
  config = _default.get_config()
  config.model.source = source
  config.training.update({'learning_rate': 2e-4, 'steps': 100})
  return config
