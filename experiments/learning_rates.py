"""Is LoRA's best learning rate about ten times full fine-tuning's, whatever the rank?

    python -m research.train --config=configs/pretrain_docs.py --workdir=runs/pretrained-docs
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs
    python -m research.study --study=experiments/learning_rates.py --workdir=runs/learning_rates

So says "LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025). A small Llama that learned Python's
documentation here learns to write reviews. Each arm has the same grid of seven rates, a factor of about 3 apart, and two seeds.
The answer is in the report's tuning figure, as finely as the grid is; `notebooks/read_a_study.ipynb` goes between its points.
`learning_rates.py:gpu` is SmolLM2-135M-Instruct on the shipped `domain` task.

Result (two seeds, 479 test reviews, both sampled; two cores of an AMD EPYC shared with other work, 32 minutes; commit 28b7344;
report and results in `learning_rates/`):

    arm       chosen rate    between the points, over full's    test/loss               difference to full
    full      0.003          0.0021   1                         5.076 [5.017, 5.135]    (baseline)
    lora_2    0.01           0.0074   3.6                       5.758 [5.721, 5.796]    +0.683 [+0.647, +0.718]
    lora_8    0.01           0.0058   2.8                       5.733 [5.695, 5.771]    +0.657 [+0.623, +0.691]
    lora_32   0.003          0.0024   1.2                       5.714 [5.675, 5.753]    +0.638 [+0.599, +0.678]

Not here: LoRA's best rate is one to four times full's, and it falls as the rank rises. With 5 million parameters and 80 steps
this is not what the claim is about: LoRA cannot follow full fine-tuning to the new kind of text at any rate.
"""

# A rate's best is a little above full's for deltas; a grid whose end is chosen is widened, at most twice.
RATES = {'': {'full': (3e-4, 1e-3, 3e-3, 1e-2), 'lora': (1e-3, 3e-3, 1e-2, 3e-2)},
         'gpu': {'full': (1e-5, 3e-5, 1e-4, 3e-4), 'lora': (1e-4, 3e-4, 1e-3, 3e-3)}}


def get_study(variant=''):
  grid = {name: {'training.learning_rate': rates} for name, rates in RATES[variant].items()}
  lora = lambda rank, alpha: {'strategy': {'name': 'lora', 'rank': rank, 'alpha': float(alpha)}, 'grid': grid['lora']}
  return {
      'question': "Is LoRA's best learning rate about ten times full fine-tuning's, whatever the rank?",
      'base': {'': 'configs/reviews.py', 'gpu': 'configs/quickstart.py'}[variant],
      'arms': {'full': {'strategy': {'name': 'full'}, 'grid': grid['full']},
               'lora_2_alpha_32': lora(2, 32), 'lora_32_alpha_32': lora(32, 32),
               'lora_2_alpha_2r': lora(2, 4), 'lora_32_alpha_2r': lora(32, 64)},
      'seeds': (0, 1, 2, 3, 4),
      'budget': {'steps': 80, 'batch_size': 8, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/loss',
      'report': 'test/loss',
      'baseline': 'full',
  }
