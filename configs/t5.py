"""T5 (T5 1.1, Flan-T5, mT5, ByT5, UMT5) on the shipped translation task, English to German, by LoRA.

    python -m research.train --config=configs/t5.py:models/t5-hass --workdir=runs/t5
    python -m research.train --config=configs/t5.py:google/flan-t5-small --workdir=runs/flan

The encoder reads the prompt, the decoder learns the target. The variant is the model's source; `configs/pretrain.py` says how
models/t5-hass is made. Without a variant it is random:t5-small, which shows that everything runs, and learns little.
Another strategy: `--config.strategy.name=full`.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).with_name('default.py'))
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config(source='random:t5-small'):
  config = _default.get_config()
  config.model.update({'source': source, 'scan': False})
  config.task.update({'name': 'translation', 'prompt': '{source}', 'target': '{target}'})
  config.training.update({'learning_rate': 3e-3, 'steps': 600, 'batch_size': 32, 'eval_every': 100, 'log_every': 20,
                          'eval_batch_size': 16})
  return config
