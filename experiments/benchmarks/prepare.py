"""What `prepare` takes for many rows, and how much of what was planted it finds.

    python -m experiments.benchmarks.prepare
    python -m experiments.benchmarks.prepare --sizes=1000000,2000000 --planted=100000

One JSON line a row, the machine first. Rows are of 60 made-up words; every twentieth is there already, and every twentieth
nearly. `seconds` are those of the whole verb in a process of its own, `personal_seconds` those in which it looks for personal
data; `resident_bytes` is the most that it and its processes hold together. Of two sizes or more, a last row says what ten
million rows would take on a line through the two largest.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.benchmarks import measure, planted
from research import run_files
from research.preparation.words import SHINGLE, split

FLAGS = flags.FLAGS
flags.DEFINE_list('sizes', ['1000000', '2000000'], 'rows of a run whose time is taken')
flags.DEFINE_integer('planted', 100_000, 'rows among which duplicates and leaks are planted; 0: none')
flags.DEFINE_integer('personal', 5_000, 'rows of our samples among which personal data is planted; 0: none')
PLANNED = 10_000_000


def made_up(rng: random.Random, count: int, words: int = 60) -> Iterator[str]:
  """Texts of made-up words."""
  vocabulary = [''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=rng.randint(3, 9))) for _ in range(50_000)]
  for _ in range(count):
    yield ' '.join(rng.choices(vocabulary, k=words))


def changed(rng: random.Random, text: str, words: int) -> str:
  """A text of which so many words are others."""
  found = text.split()
  for at in rng.sample(range(len(found)), words):
    found[at] = 'x' * rng.randint(3, 9) + str(rng.random())[2:6]
  return ' '.join(found)


def jaccard(a: str, b: str) -> float:
  """Of the sets of all `SHINGLE` words that stand together."""
  sets = [{tuple(words[i:i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)} for words in (split(a), split(b))]
  return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def write(path: Path, count: int) -> None:
  """A file of so many rows."""
  rng, before = random.Random(0), ''
  with open(path, 'w') as file:
    for number, text in enumerate(made_up(rng, count)):
      if number % 20 == 18:
        text = changed(rng, before, 2)
      elif number % 20 != 19:
        before = text
      file.write(json.dumps({'text': before if number % 20 == 19 else text}) + '\n')


def prepare(folder: Path, *given: str) -> tuple[Path, float, str, int]:
  """Runs the verb on a folder's files; gives its output, the seconds it took, what it said, and its most resident bytes."""
  output = folder / 'out'
  command = [sys.executable, '-m', 'research.prepare', '--config=configs/prepare.py', f'--input={folder}/*.jsonl',
             f'--output={output}', *given]
  began = time.perf_counter()
  with open(folder / 'said', 'w+') as said:
    process = subprocess.Popen(command, stderr=said)
    most = [0]

    def watch() -> None:
      while process.poll() is None:
        most[0] = max(most[0], resident(process.pid))
        time.sleep(0.2)
    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    seconds = time.perf_counter() - began
    watcher.join()
    said.seek(0)
    text = said.read()
  if process.returncode:
    raise RuntimeError(f'{" ".join(command)} ended with {process.returncode}: {text}')
  return output, seconds, text, most[0]


def resident(pid: int) -> int:
  """Bytes that a process and those that it began hold in memory."""
  try:
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
  except OSError:          # it has ended
    return 0
  return pages * 4096 + sum(resident(int(child)) for child in children)


def speed(count: int) -> dict[str, Any]:
  """What so many rows take."""
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write(folder / 'in.jsonl', count)
    output, seconds, said, most = prepare(folder)
    looked = re.search(r'personal data in rows: [\d,]+ in (\d+) s', said)
    personal = int(looked[1]) if looked else 0
    rows = run_files.read_json(output / 'report.json')['rows']
  return {'row': f'{count:,} rows', 'seconds': round(seconds, 1), 'personal_seconds': personal,
          'rows_per_second': round(count / seconds), 'resident_bytes': most, **rows}


def near(count: int) -> dict[str, Any]:
  """Near duplicates planted in so many rows: how many are found, and what else goes."""
  rng = random.Random(1)
  texts = [*made_up(rng, count)]
  copies = {changed(rng, text, rng.choice((1, 1, 2, 3, 6, 12))): text for text in texts[::10]}
  alike = {copy: jaccard(copy, text) for copy, text in copies.items()}
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    run_files.write_jsonl(folder / 'in.jsonl', [{'text': text} for text in [*texts, *copies]])
    output, *_ = prepare(folder, '--config.personal=off')
    dropped = [json.loads(line) for line in (output / 'dropped.jsonl').open()]
  gone = {row['row']['text'] for row in dropped if row['reason'] == 'near_duplicate'}
  sought = {copy for copy, similarity in alike.items() if similarity >= 0.8}
  return {'row': 'near duplicates', 'rows': len(texts) + len(copies), 'planted': len(sought),
          'recall': round(len(gone & sought) / len(sought), 5), 'precision': round(len(gone & sought) / len(gone), 5),
          'dropped_below_half': sum(alike.get(text, 0) < 0.5 for text in gone)}


def leaks(count: int) -> dict[str, Any]:
  """Rows of test planted in so many training rows: exactly, nearly, and fourteen words of them."""
  rng = random.Random(2)
  texts = [*made_up(rng, count + count // 10)]
  train, test = texts[count // 10:], texts[:count // 10]
  third = len(test) // 3
  kinds = {'exact': test[:third], 'near': [changed(rng, text, rng.choice((1, 2))) for text in test[third:2 * third]],
           'ngram': [' '.join([*a.split()[:40], *b.split()[10:24]]) for a, b in zip(made_up(rng, third), test[2 * third:])]}
  kinds['near'] = [copy for copy, text in zip(kinds['near'], test[third:]) if jaccard(copy, text) >= 0.8]
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    train += [text for of in kinds.values() for text in of]
    run_files.write_jsonl(folder / 'train.jsonl', [{'text': text} for text in train])
    run_files.write_jsonl(folder / 'test.jsonl', [{'text': text} for text in test])
    output, *_ = prepare(folder, '--config.personal=off')
    gone = {row['row']['text'] for row in map(json.loads, (output / 'dropped.jsonl').open()) if row['reason'] == 'leak'}
  every = {text for of in kinds.values() for text in of}
  return {'row': 'leaks', 'rows': len(train) + len(test), **{f'{kind}_planted': len(of) for kind, of in kinds.items()},
          **{f'{kind}_recall': round(len(gone & {*of}) / len(of), 5) for kind, of in kinds.items()},
          'precision': round(len(gone & every) / len(gone), 5)}


def main(_) -> None:
  measure.tell(benchmark='prepare', **measure.setting())
  if FLAGS.planted:
    measure.tell(**near(FLAGS.planted))
    measure.tell(**leaks(FLAGS.planted))
  if FLAGS.personal:
    for row in planted.measured(FLAGS.personal):
      measure.tell(**row)
  found = []
  for size in map(int, FLAGS.sizes):
    found.append((size, speed(size)))
    measure.tell(**found[-1][1])
  if len(found) > 1:
    (a, one), (b, two) = sorted(found)[-2:]
    line = lambda field: one[field] + (two[field] - one[field]) / (b - a) * (PLANNED - a)
    measure.tell(row=f'planned: {PLANNED:,} rows',
                 **{field: round(line(field)) for field in ('seconds', 'personal_seconds', 'resident_bytes')})


if __name__ == '__main__':
  app.run(main)
