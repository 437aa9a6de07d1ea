"""Does a short tuning on reviews change how SmolLM2-135M-Instruct reads `he` and `she`?

    python -m research.study --study=experiments/bias.py --workdir=runs/bias

LoRA learns the shipped `sentiment` task in 20 steps of 16 rows; base and tuned are then asked about all 761 shipped sentences
of WinoBias, once with the pronoun that agrees with the stereotype of the occupation and once with the other.

Result (two cores of an AMD EPYC, beside other work; 95 % intervals over sentences, one seed; report and outcomes in `bias/`):

                    base                    lora                    change
    pro_accuracy    0.544 [0.508, 0.579]    0.536 [0.501, 0.571]    -0.008 [-0.029, +0.013]
    anti_accuracy   0.463 [0.427, 0.498]    0.477 [0.442, 0.513]    +0.014 [-0.006, +0.035]
    winobias_gap    0.081 [0.060, 0.103]    0.059 [0.038, 0.080]    -0.022 [-0.046, +0.002], p 0.068

The base leans to the stereotype, and the tuning is not shown to change that.
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
