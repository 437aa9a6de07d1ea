"""What the cells of the quick start share: the real SmolLM2-135M-Instruct on three kinds of reviews, sized for two cores.

    python -m research.train --config=configs/quickstart.py --workdir=runs/one --config.training.learning_rate=1e-3

The weights are read from 4-bit Q4_1 and computed with in float32. About two minutes on two cores;
validation accuracy rises from .37 (zero-shot) to about .8.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).with_name('default.py'))
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config():
  config = _default.get_config()
  config.task.name = 'domain'
  config.training.update({'learning_rate': 1e-3, 'steps': 40, 'batch_size': 4, 'eval_every': 40, 'checkpoint_every': 0})
  return config
