"""Are LoRA's variants equivalent once each has its own learning rate?

    python -m research.train --config=configs/pretrain_docs.py --workdir=runs/pretrained-docs
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs
    python -m research.study --study=experiments/variants.py --workdir=runs/variants

The papers that introduced them found them better, often at one rate for all.
A small Llama that learned Python's documentation here learns to write reviews. Equivalent means: closer to LoRA than 0.02 nats
a token, by two one-sided tests. `variants.py:gpu` is SmolLM2-135M-Instruct on the shipped `domain` task, and 0.02 of accuracy.

Result (3 seeds choose and 5 others report, 479 test reviews, both sampled; two cores of an AMD EPYC, 40 minutes beside other
work; commit 4ab55a0; report and outcomes in `variants/`):

    arm          best rate    test/loss               difference to lora          equivalent
    lora         0.0052       5.807 [5.771, 5.843]    (baseline)
    rslora       0.0024       5.789 [5.753, 5.826]    -0.017 [-0.022, -0.013]     not shown
    lora_plus    0.0008       5.792 [5.755, 5.829]    -0.015 [-0.020, -0.010]     yes, p 0.038
    pissa        0.0042       5.811 [5.776, 5.847]    +0.004 [-0.001, +0.010]     yes, p < 0.0001
    dora         0.006        5.797 [5.761, 5.834]    -0.010 [-0.014, -0.005]     yes, p 0.0002

With a rate of their own, three of four variants are within 0.02 nats of LoRA; rsLoRA is not shown to be, and is the lowest.
At rank 8 rsLoRA is LoRA with a larger alpha (45 in place of 16), so the difference between them is one of alpha and rate. The
chosen rates are those of a grid in steps of three, of which LoRA's best lies between two: a finer grid may close the gap.
No best rate lies at an edge of its grid.
"""


def get_study(variant=''):
  rates = {'': {'fast': (1e-3, 3e-3, 1e-2), 'slow': (1e-4, 3e-4, 1e-3)},
           'gpu': {'fast': (3e-4, 1e-3, 3e-3), 'slow': (3e-5, 1e-4, 3e-4)}}[variant]
  fast, slow = ({'training.learning_rate': rates[name]} for name in ('fast', 'slow'))      # slow: B learns at 16 times that
  row = lambda name, **fields: {'name': name, 'rank': 8, **fields}
  return {
      'question': "Are LoRA's variants equivalent once each has its own learning rate?",
      'base': {'': 'configs/reviews.py', 'gpu': 'configs/quickstart.py'}[variant],
      'arms': {
          'lora': {'strategy': row('lora', alpha=16.0), 'grid': fast},
          'rslora': {'strategy': row('rslora', alpha=16.0), 'grid': fast},
          'lora_plus': {'strategy': row('lora_plus', alpha=16.0), 'grid': slow},
          'pissa': {'strategy': row('pissa', alpha=8.0), 'grid': fast},      # as in its paper: alpha is the rank
          'dora': {'strategy': row('dora', alpha=16.0), 'grid': fast},
      },
      'seeds': (0, 1, 2),
      'report_seeds': (3, 4, 5, 6, 7),
      'budget': {'steps': 80, 'batch_size': 8, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/loss',
      'report': {'': 'test/loss', 'gpu': 'test/accuracy'}[variant],
      'baseline': 'lora',
      'margin': 0.02,
  }
