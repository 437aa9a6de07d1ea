"""LoRA on Llama-3-8B, on a slice of 16 TPU v5e: text in rows of 4,096 tokens.

    python -m research.plan --config=configs/pods/llama_3_8b_lora.py --topology=v5e:4x4 --tokens=4096
    python -m research.train --config=configs/pods/llama_3_8b_lora.py --workdir=runs/llama_3_8b_lora

The shipped text stands in for one's own: `--config.task.train=FILE.jsonl`.

Plan (prices of 2025-07-01): the compiler needs 8.53 of 15.75 GiB on each chip (the account says 8.80); a step of 131,072 tokens
takes 1.9 s at least, bound by products; 1,000 steps half an hour, 10 USD (`experiments/plans/llama_3_8b_lora.json`).
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
  config.strategy.update({'name': 'lora', 'rank': 16, 'targets': 'all_linear'})
  config.training.update({'learning_rate': 2e-4, 'steps': 1000, 'batch_size': 32})
  config.mesh.update({'data': 1, 'fsdp': -1})
  return config
