"""Is LoRA's best learning rate about ten times full fine-tuning's, whatever the rank?

    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-docs \\
      --config.task.subset=docstring_summary --config.training.steps=500 --config.training.batch_size=16
    python -m research.export --workdir=runs/pretrained-docs --output=models/llama-docs
    python -m research.study --study=experiments/learning_rates.py --workdir=runs/learning_rates

So says "LoRA Without Regret" (Schulman et al., Thinking Machines Lab, 2025). A small Llama that learned Python's
documentation here learns to write reviews. Each arm has the same grid of seven rates, a factor of about 3 apart, and two seeds.
The answer is in the report's tuning figure, as finely as the grid is; `notebooks/read_a_study.ipynb` goes between its points.
`learning_rates.py:gpu` is SmolLM2-135M on the shipped `domain` task.
"""

RATES = {'': (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 'gpu': (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
REVIEWS = {'name': 'text', 'subset': 'sentiment_sentences'}


def get_study(variant=''):
  grid = {'training.learning_rate': RATES[variant]}
  lora = lambda rank: {'strategy': {'name': 'lora', 'rank': rank, 'alpha': 2.0 * rank}, 'grid': grid}
  return {
      'question': "Is LoRA's best learning rate about ten times full fine-tuning's, whatever the rank?",
      'base': {'': 'configs/llama.py:models/llama-docs', 'gpu': 'configs/quickstart.py'}[variant],
      'tasks': ({'': REVIEWS, 'gpu': 'domain'}[variant],),
      'arms': {'full': {'strategy': {'name': 'full'}, 'grid': grid}, 'lora_2': lora(2), 'lora_8': lora(8), 'lora_32': lora(32)},
      'seeds': (0, 1),
      'budget': {'steps': 80, 'batch_size': 16, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/loss',
      'report': 'test/loss',
      'baseline': 'full',
  }
