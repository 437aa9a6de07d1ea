"""How far do the ways of adapting a small T5 carry it from filling gaps to translating, and at what cost?

    python -m research.train --config=configs/pretrain.py --workdir=runs/pretrained
    python -m research.export --workdir=runs/pretrained --output=models/t5-hass
    python -m research.study --study=experiments/t5_translation.py --workdir=runs/t5_translation

A T5 of 6.9 million parameters that was pretrained here on Home Assistant's texts in both languages, and has never seen which
sentence belongs to which, learns English to German from 2,400 pairs: by full fine-tuning, by LoRA and by adapters. The baseline
is the merely pretrained model. Copying the source scores chrF 23.6 [22.6, 24.8] and BLEU 2.6 [1.4, 3.8]. One rate for each arm,
so that it runs in an hour; `t5_translation.py:tuned` has three, and three seeds.

The loss on validation turns up long before BLEU does, so a run keeps the step where BLEU is best. Full fine-tuning has 11.2 on
validation after 1,000 steps; LoRA of rank 32 diverges at a rate of 5e-3. The whole study has not been run yet.
"""


def get_study(variant=''):
  size = {'': {'full': [1e-3], 'delta': [3e-3], 'seeds': (0,)},
          'tuned': {'full': [3e-4, 1e-3, 3e-3], 'delta': [5e-4, 1e-3, 3e-3], 'seeds': (0, 1, 2)}}[variant]
  rate = 'training.learning_rate'
  return {
      'question': 'How far do the ways of adapting a small T5 carry it from filling gaps to translating, and at what cost?',
      'base': 'configs/t5.py:models/t5-hass',
      'arms': {
          'pretrained': {'strategy': {'name': 'few_shot', 'shots': 0}},
          'full': {'strategy': {'name': 'full'}, 'grid': {rate: size['full']}},
          'lora': {'strategy': {'name': 'lora', 'rank': 32, 'alpha': 64.0}, 'grid': {rate: size['delta']}},
          'adapter': {'strategy': {'name': 'adapter', 'width': 64}, 'grid': {rate: size['delta']}},
      },
      'seeds': size['seeds'],
      'budget': {'steps': 1000, 'batch_size': 32, 'eval_every': 250, 'best_metric': 'bleu', 'checkpoint_every': 0},
      'select': 'valid/bleu',
      'report': 'test/bleu',
      'baseline': 'pretrained',
  }
