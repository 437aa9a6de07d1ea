"""Large models on slices of TPUs: text in rows of 4,096 tokens (Flan-T5: 1,024), the shipped one in place of one's own.

    python -m research.plan --config=configs/pods.py:llama-3-8b-lora --topology=v5e:4x4 --tokens=4096
    python -m research.train --config=configs/pods.py:llama-3-8b-lora --workdir=runs/pod --config.task.train=FILE.jsonl

What `research.plan` says of each on the slice that it is made for: GiB of a v5e's 15.75 by the account and as the compiler lays
the step out on a chip, the least time of a step and what binds it, 1,000 steps at prices of 2025-07-01. The plans are in
`experiments/plans/`.
There `llama_3_8b_full_on_N.json` is full fine-tuning with a row a chip on 16 to 256 chips: weights and optimiser on a chip fall
from 5.61 GiB to 0.35 (1/n within 1 %), and products bind everywhere.

    variant              slice        account   compiled       a step               1,000 steps
    llama-3-8b-lora      v5e:4x4      7.76      4.94           1.93 s, products     0.54 h, 10 USD
    llama-3-8b-full      v5e:16x16    4.45      4.51           1.27 s, products     0.35 h, 108 USD
    llama-3-70b-qlora    v5e:8x8      11.96     8.45           8.49 s, products     2.36 h, 181 USD
    flan-t5-xxl-lora     v5e:4x4      6.55      5.61           0.85 s, products     0.24 h, 5 USD
"""

import importlib.util
import pathlib

_spec = importlib.util.spec_from_file_location('default', pathlib.Path(__file__).with_name('default.py'))
_default = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_default)

LORA = {'name': 'lora', 'rank': 16, 'targets': 'all_linear'}

# variant -> fields of model, strategy and training
PODS = {
    'llama-3-8b-lora': ({'source': 'meta-llama/Meta-Llama-3-8B', 'context': 4096}, LORA,
                        {'learning_rate': 2e-4, 'batch_size': 32}),
    'llama-3-8b-full': ({'source': 'meta-llama/Meta-Llama-3-8B', 'context': 4096}, {'name': 'full'},
                        {'learning_rate': 1e-5, 'batch_size': 256}),
    'llama-3-70b-qlora': ({'source': 'meta-llama/Meta-Llama-3-70B', 'context': 4096, 'quantize': 'nf4'}, LORA,
                          {'learning_rate': 2e-4, 'batch_size': 64}),
    'flan-t5-xxl-lora': ({'source': 'google/flan-t5-xxl', 'context': 1024}, LORA,
                         {'learning_rate': 3e-4, 'batch_size': 64}),
}


def get_config(variant='llama-3-8b-lora'):
  model, strategy, training = PODS[variant]
  config = _default.get_config()
  config.model.update({'dtype': 'bfloat16', 'remat': 'layer', **model})
  config.task.update({'name': 'text', 'subset': 'docstring_summary'})
  config.strategy.update(strategy)
  config.training.update({'steps': 1000, **training})
  config.mesh.update({'data': 1, 'fsdp': -1})
  return config
