"""Are LoRA's variants equivalent once each has its own learning rate?

    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-llama
    python -m research.export --workdir=runs/pretrained-llama --output=models/llama-texts
    python -m research.study --study=experiments/variants.py --workdir=runs/variants

Comparisons in which each variant was tuned find them within a point of each other; the papers that introduced them did not.
Equivalent here means: closer to LoRA than two points of accuracy, by two one-sided tests. `variants.py:gpu` is SmolLM2-135M.
"""


def get_study(variant=''):
  rates = {'': (1e-3, 3e-3, 1e-2), 'gpu': (3e-4, 1e-3, 3e-3)}[variant]
  slow = {'training.learning_rate': tuple(rate / 10 for rate in rates)}      # of A; B learns at 16 times that
  fast = {'training.learning_rate': rates}
  row = lambda name, **fields: {'name': name, 'rank': 8, **fields}
  return {
      'question': "Are LoRA's variants equivalent once each has its own learning rate?",
      'base': {'': 'configs/llama.py:models/llama-texts', 'gpu': 'configs/quickstart.py'}[variant],
      'tasks': ('domain',),
      'arms': {
          'lora': {'strategy': row('lora', alpha=16.0), 'grid': fast},
          'rslora': {'strategy': row('rslora', alpha=16.0), 'grid': fast},
          'lora_plus': {'strategy': row('lora_plus', alpha=16.0), 'grid': slow},
          'pissa': {'strategy': row('pissa', alpha=8.0), 'grid': fast},
          'dora': {'strategy': row('dora', alpha=16.0), 'grid': fast},
      },
      'seeds': (0, 1, 2),
      'budget': {'steps': 80, 'batch_size': 16, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/loss',
      'report': 'test/accuracy',
      'baseline': 'lora',
      'margin': 0.02,
  }
