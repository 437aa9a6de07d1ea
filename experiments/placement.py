"""Where should LoRA's parameters go: to attention alone, to the MLP, or to all linear layers, at an equal number of them?

    python -m research.train --config=configs/pretrain_docs.py --workdir=runs/pretrained-docs
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs
    python -m research.study --study=experiments/placement.py --workdir=runs/placement

"LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025) finds that attention alone is behind even at a higher rank;
Hu et al. 2021 (arXiv 2106.09685) had put all of it there. A small Llama that learned Python's documentation here learns to
write reviews. The ranks give each arm the same number of parameters to within 2 %. `placement.py:gpu` is
SmolLM2-135M-Instruct on the shipped `domain` task.

Result (two seeds, 479 test reviews, both sampled; two cores of an AMD EPYC, 16 minutes with tests beside it; commit 0f53a66;
report and results in `placement/`):

    arm          rate     learn    test/loss               difference to attention
    attention    0.003    312 k    5.780 [5.743, 5.817]    (baseline)
    mlp          0.01     311 k    5.797 [5.760, 5.834]    +0.017 [+0.009, +0.025], p 0.0003
    all_linear   0.01     308 k    5.749 [5.712, 5.787]    -0.031 [-0.037, -0.024], p < 1e-10

All linear layers are best, as the claim has it; the MLP alone is not better than attention alone but a little worse.
Attention's rate is the lowest of its grid, so a lower one may serve it better.
"""

# Ranks at which (attention, MLP, all linear layers) learn equally many numbers.
RANKS = {'': (29, 18, 11), 'gpu': (53, 32, 20)}


def get_study(variant=''):
  attention, mlp, everywhere = RANKS[variant]
  grid = {'training.learning_rate': {'': (1e-3, 3e-3, 1e-2, 3e-2), 'gpu': (3e-4, 1e-3, 3e-3)}[variant]}
  lora = lambda targets, rank: {'grid': grid,
                                'strategy': {'name': 'lora', 'rank': rank, 'alpha': 2.0 * rank, 'targets': targets}}
  return {
      'question': "Where should LoRA's parameters go, at an equal number of them: attention, MLP, or everywhere?",
      'base': {'': 'configs/reviews.py', 'gpu': 'configs/quickstart.py'}[variant],
      'arms': {'attention': lora('attention', attention), 'mlp': lora('mlp', mlp),
               'all_linear': lora('all_linear', everywhere)},
      'seeds': (0, 1, 2),
      'report_seeds': (3, 4, 5, 6, 7),
      'budget': {'steps': 80, 'batch_size': 8, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/loss',
      'report': {'': 'test/loss', 'gpu': 'test/accuracy'}[variant],
      'baseline': 'attention',
      'margin': 0.02,
  }
