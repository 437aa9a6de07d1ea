"""Which way of adapting SmolLM2-135M-Instruct names a review's website best, from a few hundred reviews, and at what cost?

    python -m research.study --study=experiments/quickstart.py --workdir=runs/quickstart

Four arms on the shipped `domain` task (amazon, imdb or yelp): few-shot prompting, full fine-tuning, LoRA and bottleneck
adapters, each with its own grid (the deltas' rates are about three times full's), one seed. `quickstart.py:full` is 3
rates x 3 seeds.

Result (two cores of an AMD EPYC, about 15 minutes by the times of its parts alone; 95 % intervals over test examples, one
seed; report and outcomes in `quickstart/`, of a run of 39 minutes beside other work):

    arm       chosen                 test/accuracy          difference to few_shot
    few_shot  shots 8                0.468 [0.423, 0.512]   (baseline)
    full      learning_rate 0.0003   0.839 [0.804, 0.869]   +0.372 [+0.314, +0.429]
    lora      learning_rate 0.001    0.802 [0.764, 0.835]   +0.334 [+0.279, +0.389]
    adapter   learning_rate 0.001    0.781 [0.742, 0.816]   +0.313 [+0.256, +0.370]

Each chosen value lies inside its grid.
"""


def get_study(variant=''):
  size = {'': {'full': [1e-4, 3e-4, 1e-3], 'delta': [3e-4, 1e-3, 3e-3], 'seeds': (0,)},
          'full': {'full': [3e-5, 1e-4, 3e-4], 'delta': [3e-4, 1e-3, 3e-3], 'seeds': (0, 1, 2)}}[variant]
  rate = 'training.learning_rate'
  return {
      'question': "Which way of adapting SmolLM2-135M-Instruct names a review's website best, and at what cost?",
      'base': 'configs/quickstart.py',
      'arms': {
          'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': {'strategy.shots': [0, 4, 8, 16]}},
          'full': {'strategy': {'name': 'full'}, 'grid': {rate: size['full']}},
          'lora': {'strategy': {'name': 'lora', 'rank': 8, 'alpha': 16.0}, 'grid': {rate: size['delta']}},
          'adapter': {'strategy': {'name': 'adapter', 'width': 32}, 'grid': {rate: size['delta']}},
      },
      'seeds': size['seeds'],
      'select': 'valid/accuracy',
      'report': 'test/accuracy',
      'baseline': 'few_shot',
      'retain': [{'name': 'sentiment', 'rows': 200}, {'name': 'text', 'subset': 'docstring_summary', 'label': 'documentation',
                                                      'metrics': ('bits_per_byte',), 'rows': 80}],
      'margin': 0.02,
      'extend': 0,                      # the two minutes of a cell more are not a quick start's
  }
