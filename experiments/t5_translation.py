"""How far do the ways of adapting a small T5 carry it from filling gaps to translating, and at what cost?

    python -m research.train --config=configs/pretrain.py --workdir=runs/pretrained
    python -m research.export --workdir=runs/pretrained --output=models/t5-hass
    python -m research.study --study=experiments/t5_translation.py --workdir=runs/t5_translation

A T5 of 6.9 million parameters that was pretrained here on Home Assistant's texts in both languages, and has never seen which
sentence belongs to which, learns English to German from 2,400 pairs: by full fine-tuning, by LoRA and by adapters. The baseline
is the merely pretrained model. One rate for each arm, so that it runs in an hour; `t5_translation.py:tuned` has three, and
three seeds. The loss on validation turns up long before BLEU does, so a run keeps the step where BLEU is best.

Result (one seed, 400 test rows, intervals over rows alone; two cores of an AMD EPYC shared with other work; the code of commit
4d4e476, before studies kept what their report is made of, so that no report of it is here):

    arm         BLEU                 chrF                 learn    training
    pretrained   0.3 [ 0.1,  0.5]    13.0 [12.3, 13.8]    -        (pretraining: 10 minutes)
    copying      2.6 [ 1.4,  3.8]    23.6 [22.6, 24.8]    -
    full        14.5 [11.5, 17.9]    33.5 [30.8, 36.2]    6.9 M    17 minutes
    lora        13.9 [11.5, 16.6]    31.8 [29.5, 34.4]    1.4 M    14 minutes
    adapter     11.8 [ 9.5, 14.2]    26.3 [24.2, 28.7]    0.7 M    11 minutes

Each way carries it far above the pretrained model and above copying the source. Paired by row, LoRA cannot be told from full
fine-tuning (BLEU -0.5 [-3.4, +2.3], chrF -1.7 [-3.3, +0.04]); adapters are below it in chrF (-7.2 [-9.2, -5.1]). On a base that
learned span corruption instead of denoising, LoRA of the same size hardly learned (valid BLEU 0.5 after 250 steps).
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
