"""QLoRA on Llama-3-70B, on a slice of 64 TPU v5e: text in rows of 4,096 tokens.

    python -m research.plan --config=configs/pods/llama_3_70b_qlora.py --topology=v5e:8x8 --tokens=4096
    python -m research.train --config=configs/pods/llama_3_70b_qlora.py --workdir=runs/llama_3_70b_qlora

The shipped text stands in for one's own: `--config.task.train=FILE.jsonl`.

Plan (by the account; not compiled yet; prices of 2025-07-01): 15.0 of 15.75 GiB on each chip, which is close; a step of 262,144
tokens takes 8.5 s at least, bound by products; 1,000 steps 2.4 hours, 181 USD.
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).parents[1] / 'default.py')
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)


def get_config():
  config = _default.get_config()
  config.model.update({'source': 'meta-llama/Meta-Llama-3-70B', 'dtype': 'bfloat16', 'quantize': 'nf4', 'remat': 'layer',
                       'context': 4096})
  config.task.update({'name': 'text', 'subset': 'docstring_summary'})
  config.strategy.update({'name': 'lora', 'rank': 16, 'targets': 'all_linear'})
  config.training.update({'learning_rate': 2e-4, 'steps': 1000, 'batch_size': 64})
  config.mesh.update({'data': 1, 'fsdp': -1})
  return config
