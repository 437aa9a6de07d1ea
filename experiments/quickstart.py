"""Which way of adapting SmolLM2-135M-Instruct names a review's website best, from a few hundred reviews, and at what cost?

    python -m research.study --study=experiments/quickstart.py --workdir=runs/quickstart

Four arms on the shipped `domain` task (amazon, imdb or yelp): few-shot prompting, full fine-tuning, LoRA and bottleneck
adapters, each with its own grid (the deltas' rates are about three times full's), one seed. `quickstart.py:full` is 3
rates x 3 seeds. What is forgotten is measured on two tasks that no arm trains on: sentiment, and bits per byte of
documentation.

Result (two cores of an AMD EPYC, 22 minutes beside other work; 95 % intervals over test examples, one seed; report and
outcomes in `quickstart/`):

    arm       chosen                 test/accuracy          sentiment kept         documentation, bits per byte
    few_shot  shots 8                0.468 [0.423, 0.512]   0.890 [0.839, 0.926]   1.378 [1.274, 1.491]
    full      learning_rate 0.0003   0.839 [0.804, 0.869]   0.570 [0.500, 0.637]   1.869 [1.724, 2.026]
    lora      learning_rate 0.001    0.802 [0.764, 0.835]   0.820 [0.760, 0.867]   1.641 [1.519, 1.773]
    adapter   learning_rate 0.001    0.781 [0.742, 0.816]   0.500 [0.431, 0.569]   2.445 [2.252, 2.654]

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
