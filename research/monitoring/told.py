"""A look in words: the parts that terminal and page share, and the terminal's one screen."""

import textwrap
import time
from pathlib import Path
from typing import Any

from research import look
from research.monitoring import folder
from research.monitoring.found import WHAT

WIDTH = 79      # of a line on a terminal


def when(seconds: float | None) -> str:
  """A time as people write it, in UTC."""
  return 'never' if seconds is None else time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(seconds))


def share(found: dict[str, Any] | None) -> str:
  """A share with its interval."""
  if not found:
    return 'not known'
  between = f'{look.percent(found["low"])} to {look.percent(found["high"])}'
  return f'{look.percent(found["share"])} ({found["count"]:,} of {found["of"]:,}; 95 % interval {between})'


def estimate(found: dict[str, Any]) -> str:
  """An accuracy with its interval."""
  return f'{look.percent(found["mean"])} (95 % interval {look.percent(found["low"])} to {look.percent(found["high"])})'


def changes(found: dict[str, Any]) -> list[list[str]]:
  """A row for each kind that alarms: what changed, since when, when that was known."""
  at = lambda one: f'request {one["request"]:,}, {when(one["time"])}'
  return [[f'{one["what"]}: {WHAT[one["what"]]}', one['kind'], at(one['since']), at(one['crossed'])]
          for one in found['alarm']['kinds']]


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
  """What a look found, each part under a word."""
  t, i, a, c = found['traffic'], found['inputs'], found['answers'], found['accuracy']
  counts = lambda of: ', '.join(f'{n:,} {name}' for name, n in of.items()) or 'none'
  beside = lambda of, form: f'{form(of["requests"])} (reference {form(of["reference"])})'
  middle = lambda of: f'{of["median"]:,.0f}' if of else 'not known'
  spoken = lambda of: ', '.join(f'{name} {look.percent(x)}' for name, x in [*of.items()][:3]) or 'not known'
  seconds = lambda of: f'{of["median"]:.2f} s, 99 % within {of["99 %"]:.2f} s' if of else 'not known'
  times = f'{when(found["first"])} to {when(found["last"])}'
  rows = [('requests', f'{found["requests"]:,}, of which {found["new"]:,} new; {times}'),
          ('endpoints', counts(t['endpoints'])), ('endings', counts(t['ended'])),
          ('tokens', f'{t["tokens"]["prompt"]["sum"]:,} read, {t["tokens"]["answer"]["sum"]:,} written'),
          ('seconds', f'in all {seconds(t["seconds"]["total"])}; to the first token {seconds(t["seconds"]["first"])}'),
          ('prompts', f'median {beside(i["tokens"], middle)} tokens'), ('languages', beside(i['languages'], spoken)),
          ('new words', beside(i['unknown_words'], lambda x: 'not known' if x is None else look.percent(x)))]
  if one := i['classifier']:
    rows.append(('told apart', f'ROC AUC {one["auc"]:.2f} between {one["requests"]} requests and {one["rows"]} reference rows '
                               f'(0.5: alike; p = {one["p"]:.2f} at this look)'))
  if i['refused'] and i['refused']['count']:
    rows.append(('too long', f'{share(i["refused"])} of prompts were over the context'))
  rows += [(name, share(a[key])) for name, key in (('cut', 'cut'), ('refusals', 'refusals'), ('loops', 'loops')) if a[key]]
  if a['labels']:
    rows.append(('labels', f'PSI {a["labels"]["psi"]:.2f} to the reference\'s labels'))
  if a['loss']['mean'] is not None:
    rows.append(('loss', f'{a["loss"]["mean"]:.2f} nats per token of its answers'))
  if c:
    rows.append(('accuracy', f'{estimate(c["by_labels"])} of {c["labelled"]:,} answers with feedback'))
    if c['on_all'] and c['on_all']['weight']:
      rows.append(('on all', f'{estimate(c["on_all"])}, prediction-powered with the confidence in {c["of"]:,} answers'))
    if c['calibration']:
      rows.append(('calibration', f'expected error {c["calibration"]["ece"]:.2f}'))
  return rows


def lines(found: dict[str, Any], output: Path) -> list[str]:
  """The terminal's screen.

  Args:
    found: what monitor.json holds.
    output: the monitor's folder.
  """
  wrapped = lambda name, text: textwrap.wrap(text, WIDTH, initial_indent=f'{name:<12}', subsequent_indent=' ' * 12)
  out = wrapped('ALARM' if found['alarm']['alarmed'] else 'quiet', found['alarm']['sentence'].removeprefix('quiet: '))
  for what, kind, since, crossed in changes(found):
    out += wrapped('', f'{what} ({kind}): since {since}; known at {crossed}')
  for name, text in facts(found):
    out += wrapped(name, text)
  if (sent := found['webhook']) and sent['error']:
    out += wrapped('webhook', f'{sent["url"]}: not delivered ({sent["error"]})')
  return [*out, f'{"more":<12}{output / folder.REPORT}']
