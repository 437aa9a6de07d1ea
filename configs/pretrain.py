"""Pretrains a small model on plain text, so that there is something to fine-tune where no hub can be reached.

    python -m research.train --config=configs/pretrain.py --workdir=runs/pretrained
    python -m research.export --workdir=runs/pretrained --output=models/t5-hass
    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-llama
    python -m research.export --workdir=runs/pretrained-llama --output=models/llama-texts

The variant is the model's source. T5 learns to give back a text with gaps (denoising), from Home Assistant's user interface
in English and in German; with so little text the gaps alone (span corruption) hardly teach a small T5 to attend to what it
reads. A decoder learns to continue every text that ships with the package (interface, documentation, reviews). For your own
text, `--config.task.train=a.txt --config.task.valid=b.txt`, paragraphs apart by empty lines, or JSON lines with `text`.
About 10 minutes on two cores for t5-small (6.9 million parameters, 7 passes) or llama-small (5.1 million).
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).with_name('default.py'))
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config(source='random:t5-small'):
  config = _default.get_config()
  config.model.update({'source': source, 'vocab': 2500, 'scan': False})
  config.task.name = 'text'
  if source.startswith('random:t5'):
    config.task.update({'subset': 'hass_ende', 'objective': 'denoising', 'noise': 0.3, 'span': 2.5})    # short texts: many gaps
  config.strategy.name = 'full'
  config.training.update({'learning_rate': 1e-3, 'schedule': 'cosine', 'steps': 1000, 'batch_size': 32, 'eval_every': 250,
                          'checkpoint_every': 250, 'log_every': 20})
  return config
