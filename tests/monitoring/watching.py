"""A run, a reference and logs of what it was asked, made by hand: prompts of a few words, with true answers."""

import random

from helpers import config

from research import run_files
from research.runs.train import train_one
from research.serving import log

TOPICS = {
    'billing': 'the invoice of last month shows a wrong amount and the card was charged twice for my order',
    'travel': 'my flight to the island was cancelled and the hotel near the beach has no room for us tonight',
    'garden': 'these tomato plants need water and the soil under the old apple tree is dry since early spring'}
KNOWN = ('billing', 'travel')
GERMAN = 'die Rechnung vom letzten Monat zeigt einen falschen Betrag und die Karte wurde zweimal belastet für meine Bestellung'


def said(rng, topic, words=12):
  """A text of so many words of a topic."""
  return ' '.join(rng.choices((GERMAN if topic == 'german' else TOPICS[topic]).split(), k=words))


def row(rng, topics=KNOWN, words=12):
  topic = rng.choice(topics)
  return {'text': said(rng, topic, rng.randint(words - 3, words + 3)), 'label': 'yes' if topic == 'billing' else 'no'}


def reference(folder, counts=(120, 60, 60), **columns):
  """Writes train, valid and test rows."""
  rng = random.Random(1)
  for split, count in zip(('train', 'valid', 'test'), counts):
    rows = [row(rng) for _ in range(count)]
    run_files.write_jsonl(folder / f'{split}.jsonl', [{columns.get(k, k): v for k, v in one.items()} for one in rows])
  return folder


def run(folder, there, **fields):
  """A finished run on the reference's rows."""
  train_one(config(**{'task__name': 'files', 'task__train': f'{there}/train.jsonl', 'task__valid': f'{there}/valid.jsonl',
                      'task__prompt': 'Ticket: {text}\nBilling:', 'task__target': ' {label}', 'task__choices': ('no', 'yes'),
                      'strategy__name': 'lora', 'training__steps': 2, **fields}), folder)
  return folder


def asked(path, workdir, count, seed=2, first=0, change=None, after=0, every=3, feedback=0):
  """Writes requests to a log: from `after` on every so many-th is changed; the first few get feedback."""
  rng, writer = random.Random(seed), log.Writer(path)
  for number in range(first, first + count):
    changed = change if number >= after and number % every == 0 else None
    one = row(rng, (changed,) if changed in ('garden', 'german') else KNOWN, 40 if changed == 'long' else 12)
    right = rng.random() < 0.8
    answer = one['label'] if right else {'yes': 'no', 'no': 'yes'}[one['label']]
    sure = rng.uniform(0.5, 0.99)
    writer.request(id=f'r{number}', time=1.7e9 + 60 * number, model=workdir.name, workdir=str(workdir), endpoint='choices',
                   prompt=f'Ticket: {one["text"]}\nBilling:', row={'text': one['text']}, answer=answer,
                   choices={answer: -0.1, 'other': -0.1 - sure}, log_probability=-0.5 - rng.random(),
                   tokens={'prompt': 60, 'answer': 4}, seconds={'queued': 0.01, 'first': 0.1, 'total': 0.2 + rng.random()},
                   ended='stop')
    if number < feedback:
      writer.feedback(id=f'r{number}', label=one['label'])
  writer.close()
  return path
