"""Pretrains a small Llama on Python's documentation: the model that the studies of published claims start from on two cores.

    python -m research.train --config=configs/pretrain_docs.py --workdir=runs/pretrained-docs
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs

The shipped docstrings and their summaries, 4 passes: about 8 minutes on two cores.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('pretrain', pathlib.Path(__file__).with_name('pretrain.py'))
_pretrain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_pretrain)


def get_config():
  config = _pretrain.get_config('random:llama-small')
  config.task.subset = 'docstring_summary'
  config.training.update({'steps': 500, 'batch_size': 16})
  return config
