"""The report in words: sections of sentences, a table, a figure and examples, for Markdown and for the page alike."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

LONGEST = 240      # characters of a row that is shown
ROWS = 20          # of a table
EXAMPLES = 10      # suspects and clusters that are shown
WORDS = {
    'parse': 'is no row, or cannot be put into the task', 'empty': 'says nothing', 'language': 'is in another language',
    'short': 'is too short', 'long': 'is too long', 'exact_duplicate': 'was there already',
    'near_duplicate': 'was nearly there already', 'leak': 'is in valid or test, or a part of it is',
    'personal': 'holds personal data', 'label': 'has no label that the task knows', 'column': 'lacks what its columns must say'}

CHANGES = {
    'unicode': 'characters that were decoded wrongly, or are none, were mended', 'markup': 'tags and entities were taken out',
    'whitespace': 'white space was made even', 'turns joined': 'turns of one role running were joined to one',
    'turns cut': 'what stands behind the assistant\'s last turn, and nothing answers, was cut off'}


class Section(NamedTuple):
  """One part of the report."""
  title: str
  sentences: Sequence[str]
  table: Sequence[Sequence[str]] = ()         # its first row is the header
  figure: str = ''                    # its name, where it was drawn
  examples: Sequence[tuple[str, str]] = ()      # (what it is, the text)


def of(found: dict[str, Any]) -> list[Section]:
  """The sections of a report.

  Args:
    found: what report.json holds.
  """
  return [section for part in (_came, _went, _duplicates, _leaks, _personal, _labels, _suspects, _lengths, _groups)
          for section in part(found)]


def _rows(count: int) -> str:
  return '1 row' if count == 1 else f'{count:,} rows'


def shown(row: Any) -> str:
  """A row, or a text, in one short line."""
  text = ' '.join((row if isinstance(row, str) else ' | '.join(f'{k}: {v}' for k, v in row.items())
                   if isinstance(row, dict) else 'nothing could be read' if row is None else str(row)).split())
  text = text.encode(errors='backslashreplace').decode()      # what went may hold what no file does
  return text if len(text) <= LONGEST else f'{text[:LONGEST - 1]}…'


def _came(found: dict[str, Any]) -> Iterator[Section]:
  files = found['files']
  named = files[0] if len(files) == 1 else f'{len(files)} files, {files[0]} first'
  table = [['split', 'rows', 'fingerprint'], *([name, f'{count:,}', found['fingerprints'][name]]
                                              for name, count in found['splits'].items())]
  sentences = [f'{_rows(found["rows"]["read"])} came in from {named}; {found["rows"]["kept"]:,} are left.',
               'A run keeps the fingerprints of the rows that it read in its provenance.json, so that a score can be led back '
               'to these files.']
  sentences += [f'In {_rows(count)} {CHANGES[kind]}.' for kind, count in found['changes'].items()]
  yield Section('What is left', sentences, table)


def _went(found: dict[str, Any]) -> Iterator[Section]:
  dropped = found['rows']['dropped']
  if not dropped:
    yield Section('What went', ['Nothing went.'])
    return
  table = [['reason', 'rows', 'such a row …'], *([reason, f'{count:,}', WORDS[reason]] for reason, count in dropped.items())]
  examples = [(f'{reason}: {one["file"]}, line {one["line"]}' + (f' ({one["detail"]})' if 'detail' in one else ''),
               shown(one['row'])) for reason in dropped for one in found['examples'][reason]]
  said = f'{_rows(sum(dropped.values()))} went; dropped.jsonl holds each of them.'
  yield Section('What went, and why', [said], table, 'dropped', examples)


def _duplicates(found: dict[str, Any]) -> Iterator[Section]:
  d, config = found['duplicates'], found['config']
  if not d['exact'] + d['near']:
    return
  kept = {kind: '' if config[kind]['drop'] else ' (kept)' for kind in ('exact', 'near')}
  sentences = [f'{_rows(d["exact"])}{kept["exact"]} said exactly what another says, {_rows(d["near"])}{kept["near"]} nearly, '
               f'at a similarity of {config["near"]["threshold"]:g} and more.',
               'The rows that came most often, the first of which stays:']
  table = [['times', 'first', 'others', 'row'], *(
      [str(one['rows']), one['at'], ', '.join(one['others']) + (' …' if one['rows'] > len(one['others']) + 1 else ''),
       shown(one['row'])] for one in d['clusters'][:EXAMPLES])]
  yield Section('Duplicates', sentences, table)


def _leaks(found: dict[str, Any]) -> Iterator[Section]:
  leaks, of = found['leaks'], found['leaks']['of']
  count = sum(leaks[kind] for kind in ('exact', 'near', 'ngram'))
  if not count:
    yield Section('Leaks', ['No training row is in valid or test, exactly, nearly or in part.'])
    return
  said = (f'{_rows(count)} of training {"is" if count == 1 else "are"} in valid or test: {leaks["exact"]:,} exactly, '
          f'{leaks["near"]:,} nearly, and of {leaks["ngram"]:,} a part of {found["config"]["ngram"]} words or more.')
  then = 'They were dropped from training.'
  if leaks['kept']:
    held = ' and '.join(f'{n:,} rows of {name}' for name, n in of.items())
    then = f'They were kept; {held} leaked, and every evaluation on them says its scores with and without those.'
  yield Section('Leaks', [said, then])


def _personal(found: dict[str, Any]) -> Iterator[Section]:
  what = {'mask': 'Each value was masked, such as [EMAIL]; the same value has the same mask within a row.',
          'drop': 'The rows that hold it were dropped.', 'keep': 'It was left where it stands.',
          'off': 'It was not looked for (personal=off).'}[found['config']['personal']]
  if not found['personal']:
    none = [] if found['config']['personal'] == 'off' else ['None was found.']
    yield Section('Personal data', none or [what])
    return
  yield Section('Personal data', [what, 'What is found are e-mail and IP addresses, phone, card and account numbers, and keys; '
                                  'names and places are not looked for.'],
                [['kind', 'values'], *([kind, f'{count:,}'] for kind, count in found['personal'].items())])


def _labels(found: dict[str, Any]) -> Iterator[Section]:
  of = found['labels']
  named = list(dict.fromkeys(label for counts in of['splits'].values() for label in counts))
  if not named:
    return
  sentences = [f'{len(named)} labels in the column {of["column"]}.' if of['column'] else f'{len(named)} labels.']
  sentences += [f'{label!r} became {into!r} in {_rows(count)}.' for label, into, count in of['joined'][:ROWS]]
  if len(named) > ROWS:
    sentences.append(f'The {ROWS} commonest are listed.')
  table = [['label', *of['splits']], *([label, *(f'{counts.get(label, 0):,}' for counts in of['splits'].values())]
                                       for label in named[:ROWS])]
  yield Section('Labels', sentences, table, 'labels')


def _suspects(found: dict[str, Any]) -> Iterator[Section]:
  count, among = found['suspects_in_all'], found['suspects_among']
  if not among:
    return
  if not count:
    yield Section('Suspects', [f'Of {among:,} rows none has a label that its words contradict.'])
    return
  yield Section('Suspects', [
      f'Of {among:,} rows {count:,} {"has" if count == 1 else "have"} a label that {"its" if count == 1 else "their"} words '
      'contradict: logistic regression on words, trained on the other rows, gives another one a probability of 0.9 or more.',
      'They are kept: look at them, and mend the label or leave it.'],
      [['line', 'label', 'words say', 'probability', 'text'], *(
          [f'{one["file"]}:{one["line"]}', one['label'], one['suggests'], f'{one["probability"]:.2f}', shown(one['text'])]
          for one in found['suspects'][:EXAMPLES])])


def _lengths(found: dict[str, Any]) -> Iterator[Section]:
  unit = 'tokens' if found['model'] else 'bytes'
  sentences = [f'In tokens of {found["model"]}, of prompt and answer together.' if found['model'] else
               'In bytes of JSON; with `model` they are counted in its tokens.']
  beyond = {name: count for name, count in found['beyond_context'].items() if count}
  if found['context']:
    said = ', '.join(f'{_rows(count)} of {name}' for name, count in beyond.items())
    sentences.append(f'Longer than the context of {found["context"]:,} tokens: {said}; a run refuses such rows, and tokens.max '
                     'leaves them out.' if beyond else f'All fit into the context of {found["context"]:,} tokens.')
  of = {name: lengths for name, lengths in found['lengths'][unit].items() if lengths}
  table = [['split', 'least', 'median', '90 %', 'most'],
           *([name, *(f'{n:,}' for n in lengths.values())] for name, lengths in of.items())]
  yield Section('Lengths', sentences, table, 'lengths')


def _groups(found: dict[str, Any]) -> Iterator[Section]:
  share = lambda s: f'{s["share"]:.3f} [{s["low"]:.3f}, {s["high"]:.3f}]'
  for number, (column, of) in enumerate(found['groups'].items(), 1):
    names = list(of['gaps'])[:4]
    sentences = [f'{label}: the largest gap is {gap["gap"]:.3f} [{gap["low"]:.3f}, {gap["high"]:.3f}], between '
                 f'{gap["most"]!r} and {gap["least"]!r}.' for label, gap in of['gaps'].items()]
    if of['gaps']:
      sentences.append('The intervals are of these two groups alone: the largest of many gaps is large by chance too.')
    if of['without']:
      sentences.append(f'{_rows(of["without"])} say nothing there.')
    if of['more']:
      sentences.append(f'{of["more"]:,} rarer values are not listed.')
    table = [[column, 'rows', 'share of rows [95 %]', *(f'{label} [95 %]' for label in names)], *(
        [group['value'], f'{group["rows"]:,}', share(group['of_rows']),
         *(share(group['labels'][label]) if group['labels'] else '–' for label in names)] for group in of['groups'][:ROWS])]
    yield Section(f'Groups: {column}', sentences, table, f'group-{number}')
