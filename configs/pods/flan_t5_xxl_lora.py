"""LoRA on Flan-T5-XXL, on a slice of 16 TPU v5e: text in rows of 1,024 tokens.

    python -m research.plan --config=configs/pods/flan_t5_xxl_lora.py --topology=v5e:4x4 --tokens=1024
    python -m research.train --config=configs/pods/flan_t5_xxl_lora.py --workdir=runs/flan_t5_xxl_lora

The shipped text stands in for one's own: `--config.task.train=FILE.jsonl`.

Plan (prices of 2025-07-01): the compiler needs 7.86 of 15.75 GiB on each chip (the account says 8.20); a step of 65,536 prompt
tokens takes 0.85 s at least, bound by products; 1,000 steps a quarter of an hour, 5 USD (`experiments/plans/`).
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).parents[1] / 'default.py')
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config():
  config = _default.get_config()
  config.model.update({'source': 'google/flan-t5-xxl', 'dtype': 'bfloat16', 'remat': 'layer', 'context': 1024})
  config.task.update({'name': 'text', 'subset': 'docstring_summary'})
  config.strategy.update({'name': 'lora', 'rank': 16, 'targets': 'all_linear'})
  config.training.update({'learning_rate': 3e-4, 'steps': 1000, 'batch_size': 64})
  config.mesh.update({'data': 1, 'fsdp': -1})
  return config
