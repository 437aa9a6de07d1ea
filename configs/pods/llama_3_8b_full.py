"""Full fine-tuning of Llama-3-8B, on a slice of 256 TPU v5e: text in rows of 4,096 tokens.

    python -m research.plan --config=configs/pods/llama_3_8b_full.py --topology=v5e:16x16 --tokens=4096
    python -m research.train --config=configs/pods/llama_3_8b_full.py --workdir=runs/llama_3_8b_full

The shipped text stands in for one's own: `--config.task.train=FILE.jsonl`.

Plan (by the account; not compiled yet; prices of 2025-07-01): 4.8 of 15.75 GiB on each chip; a step of a million tokens takes
1.3 s at least, bound by products; 1,000 steps 21 minutes, 109 USD.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).parents[1] / 'default.py')
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config():
  config = _default.get_config()
  config.model.update({'source': 'meta-llama/Meta-Llama-3-8B', 'dtype': 'bfloat16', 'remat': 'layer', 'context': 4096})
  config.task.update({'name': 'text', 'subset': 'docstring_summary'})
  config.strategy.name = 'full'
  config.training.update({'learning_rate': 1e-5, 'steps': 1000, 'batch_size': 256})
  config.mesh.update({'data': 1, 'fsdp': -1})
  return config
