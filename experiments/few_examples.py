"""From how many examples on does training beat showing them in the prompt?

    python -m research.train --config=configs/pretrain.py:random:llama-small --workdir=runs/pretrained-llama
    python -m research.export --workdir=runs/pretrained-llama --output=models/llama-texts
    python -m research.study --study=experiments/few_examples.py --workdir=runs/few_examples

Full fine-tuning and LoRA learn from 64, 256 and 1,024 reviews that the seed draws; few-shot prompting has as many
demonstrations as serve it best, of all. Every arm's setting and step are chosen on the same 300 validation reviews, which few
examples would not come with. `few_examples.py:gpu` is SmolLM2-135M, which has learned to read demonstrations.
"""

COUNTS = {'': (64, 256, 1024), 'gpu': (16, 64, 256, 1024)}


def get_study(variant=''):
  rates = {'': {'full': (3e-4, 1e-3), 'lora': (1e-3, 3e-3)}, 'gpu': {'full': (3e-5, 1e-4), 'lora': (3e-4, 1e-3)}}[variant]
  settings = {'full': {'name': 'full'}, 'lora': {'name': 'lora', 'rank': 32}}
  learned = {f'{name}_{count}': {'strategy': settings[name], 'grid': {'training.learning_rate': of_name, 'task.rows': (count,)}}
             for name, of_name in rates.items() for count in COUNTS[variant]}
  return {
      'question': 'From how many examples on does training beat showing them in the prompt?',
      'base': {'': 'configs/llama.py:models/llama-texts', 'gpu': 'configs/quickstart.py'}[variant],
      'tasks': ('domain',),
      'arms': {'few_shot': {'strategy': {'name': 'few_shot'}, 'grid': {'strategy.shots': (0, 4, 8)}}, **learned},
      'seeds': (0, 1),
      'budget': {'steps': 160, 'batch_size': 8, 'eval_every': 40, 'checkpoint_every': 0},
      'select': 'valid/accuracy',
      'report': 'test/accuracy',
      'baseline': 'few_shot',
      'margin': 0.02,
  }
