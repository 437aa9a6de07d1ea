"""Where should LoRA's parameters go: to attention alone, to the MLP, or to all linear layers, at an equal number of them?

    python -m research.train --config=configs/pretrain_docs.py --workdir=runs/pretrained-docs
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs
    python -m research.study --study=experiments/placement.py --workdir=runs/placement

"LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025) finds that attention alone is behind even at a higher rank;
Hu et al. 2021 (arXiv 2106.09685) had put all of it there. A small Llama that learned Python's documentation here learns to
write reviews. The ranks give each arm the same number of parameters to within 2 %. `placement.py:gpu` is
SmolLM2-135M-Instruct on the shipped `domain` task.

Result (3 seeds choose and 5 others report, 479 test reviews, both sampled; two cores of an AMD EPYC, 22 minutes beside other
work; commit 4ab55a0; report and outcomes in `placement/`):

    arm          best rate    learn    test/loss               difference to attention
    attention    0.0021       312 k    5.821 [5.786, 5.857]    (baseline)
    mlp          0.0042       311 k    5.843 [5.808, 5.878]    +0.022 [+0.015, +0.028], p < 0.0001
    all_linear   0.0047       308 k    5.802 [5.766, 5.838]    -0.019 [-0.025, -0.014], p < 0.0001

All linear layers are best, as the claim has it; the MLP alone is not better than attention alone but a little worse. No best
rate lies at an edge of its grid.
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
