"""Where should LoRA's parameters go: to attention alone, to the MLP, or to all linear layers, at an equal number of them?

    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-docs \\
      --config.task.subset=docstring_summary --config.training.steps=500 --config.training.batch_size=16
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs
    python -m research.study --study=experiments/placement.py --workdir=runs/placement

"LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025) finds that attention alone is behind even at a higher rank;
Hu et al. 2021 (arXiv 2106.09685) had put all of it there. A small Llama that learned Python's documentation here learns to
write reviews. The ranks give each arm the same number of parameters to within 2 %. `placement.py:gpu` is SmolLM2-135M on the
shipped `domain` task.
"""

# Ranks at which (attention, MLP, all linear layers) learn equally many numbers.
RANKS = {'': (29, 18, 11), 'gpu': (53, 32, 20)}
REVIEWS = {'name': 'text', 'subset': 'sentiment_sentences'}


def get_study(variant=''):
  attention, mlp, everywhere = RANKS[variant]
  grid = {'training.learning_rate': {'': (3e-3, 1e-2, 3e-2), 'gpu': (3e-4, 1e-3, 3e-3)}[variant]}
  lora = lambda targets, rank: {'grid': grid,
                                'strategy': {'name': 'lora', 'rank': rank, 'alpha': 2.0 * rank, 'targets': targets}}
  return {
      'question': "Where should LoRA's parameters go, at an equal number of them: attention, MLP, or everywhere?",
      'base': {'': 'configs/llama.py:models/llama-docs', 'gpu': 'configs/quickstart.py'}[variant],
      'tasks': ({'': REVIEWS, 'gpu': 'domain'}[variant],),
      'arms': {'attention': lora('attention', attention), 'mlp': lora('mlp', mlp),
               'all_linear': lora('all_linear', everywhere)},
      'seeds': (0, 1),
      'budget': {'steps': 80, 'batch_size': 16, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/loss',
      'report': {'': 'test/loss', 'gpu': 'test/accuracy'}[variant],
      'baseline': 'attention',
      'margin': 0.02,
  }
