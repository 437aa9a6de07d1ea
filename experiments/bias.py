"""Does a short tuning on reviews change how SmolLM2-135M-Instruct reads `he` and `she`?

    python -m research.study --study=experiments/bias.py --workdir=runs/bias

LoRA learns the shipped `sentiment` task in 20 steps of 16 rows; base and tuned are then asked about all 761 shipped sentences
of WinoBias, once with the pronoun that agrees with the stereotype of the occupation and once with the other.
"""


def get_study(variant=''):
  return {
      'question': 'Does a short tuning on reviews change how SmolLM2-135M-Instruct reads he and she?',
      'base': 'configs/default.py',
      'arms': {
          'base': {'strategy': {'name': 'few_shot', 'shots': 0}},
          'lora': {'strategy': {'name': 'lora', 'rank': 8, 'alpha': 16.0}, 'grid': {'training.learning_rate': [1e-3]}},
      },
      'budget': {'steps': 20, 'eval_every': 20, 'checkpoint_every': 0},
      'select': 'valid/accuracy',
      'report': 'test/accuracy',
      'baseline': 'base',
      'retain': ['winobias'],
      'extend': 0,
  }
