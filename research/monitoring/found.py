"""Everything that a look tells, computed from what was seen."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.evaluation import intervals
from research.monitoring import accuracy, seen, shift, streams
from research.monitoring.sample import Reference, Sample
from research.monitoring.streams import Alarm

EXAMPLES = 10
POINTS = 400      # of a curve that are kept
WHAT = {'topic': 'what requests are about', 'length': 'how long prompts are', 'language': 'languages', 'words': 'words',
        'labels': 'the labels that are answered', 'loss': 'how likely the model finds its answers',
        'endings': 'how many answers are cut or refused'}


def found(requests: list[dict[str, Any]], feedback: dict[str, dict[str, Any]], reference: Reference, held_out: bool,
          settings: dict[str, Any], context: int) -> dict[str, Any]:
  """What monitor.json holds of the requests.

  Args:
    requests: as the folder keeps them.
    feedback: id -> what was said.
    reference: as the model reads it.
    held_out: whether its fresh rows are of splits that nothing was trained on.
    settings: of the folder.
    context: the most tokens that the model reads.
  """
  sample = seen.sample(requests, reference.fresh.vectors.shape[1])
  p = streams.p_values(reference, sample, settings['seed'])
  wealth = streams.wealths(p)
  alarms = streams.alarms(p, wealth)
  return {
      'run': settings['of']['run'], 'requests': len(requests),
      'reference': {'folder': settings['of']['reference'], 'learned': reference.learned.rows, 'fresh': reference.fresh.rows,
                    'held_out': held_out},
      'first': min((one['time'] for one in requests), default=None),
      'last': max((one['time'] for one in requests), default=None),
      'alarm': alarm(alarms, requests),
      'evidence': {kind: _evidence(kind, of) for kind, of in wealth.items()},
      'traffic': traffic(requests), 'inputs': inputs(reference, sample, context, settings['seed']),
      'answers': answered(requests, sample, reference), 'accuracy': right(requests, feedback),
      'examples': examples(requests, reference, sample, p, alarms)}


def alarm(alarms: Sequence[Alarm], requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What alarms, since when, and in one sentence."""
  at = lambda number: {'request': number + 1, 'id': requests[number]['id'], 'time': requests[number]['time']}
  kinds = [{'kind': one.kind, 'what': one.what, 'since': at(one.since), 'crossed': at(one.crossed)} for one in alarms]
  changed = [*dict.fromkeys(one.what for one in alarms)]
  sentence = f'quiet: no change in {len(requests):,} requests' if requests else 'quiet: there is no request yet'
  if alarms:
    since = alarms[0].since      # of the kind that was known first
    sentence = f'{", ".join(changed)} changed, since about request {since + 1:,} of {len(requests):,}'
  return {'alarmed': bool(alarms), 'sentence': sentence, 'what': changed, 'kinds': kinds, 'level': streams.LEVEL,
          'threshold': streams.THRESHOLD}


def _evidence(kind: str, wealth: np.ndarray) -> dict[str, Any]:
  """A kind's wealth: what it is, the most that it was, and its curve in few points."""
  at = np.unique(np.linspace(0, len(wealth) - 1, POINTS).round().astype(int)) if len(wealth) else np.zeros(0, int)
  return {'what': streams.KINDS[kind][0], 'wealth': float(wealth[-1]) if len(wealth) else 1.0,
          'most': float(wealth.max(initial=1.0)),
          'curve': {'request': (at + 1).tolist(), 'wealth': [float(f'{x:.4g}') for x in wealth[at].tolist()]}}


def traffic(requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """How many requests, of which kinds, how long they took."""
  of = lambda name: dict(Counter(one[name] for one in requests).most_common())
  numbers = lambda group, name: np.array([one[group].get(name, np.nan) for one in requests], float)
  return {'models': of('model'), 'endpoints': of('endpoint'), 'ended': of('ended'),
          'tokens': {name: {'sum': int(np.nansum(numbers('tokens', name))), **shift.quantiles(numbers('tokens', name))}
                     for name in ('prompt', 'answer')},
          'seconds': {name: shift.quantiles(numbers('seconds', name)) for name in ('queued', 'first', 'total')}}


def _share(flags: Sequence[bool]) -> dict[str, Any] | None:
  """A share with its 95 % interval."""
  if not flags:
    return None
  mean = sum(flags) / len(flags)
  low, high = intervals.wilson(mean, len(flags))
  return {'share': mean, 'low': max(0.0, low), 'high': min(1.0, high), 'count': int(sum(flags)), 'of': len(flags)}


def inputs(reference: Reference, sample: Sample, context: int, seed: int) -> dict[str, Any]:
  """What was asked, beside the reference's fresh rows.

  Args:
    reference: rows that traffic is held against.
    sample: the requests.
    context: the most tokens that the model reads.
    seed: of the classifier's folds and permutations.
  """
  beside = lambda of: {'reference': of(reference.fresh), 'requests': of(sample)}
  share = lambda rows: shift.shares([x or 'too short to tell' for x in rows.language.tolist()]) if rows.rows else {}
  return {'classifier': shift.separability(reference.fresh.vectors, sample.vectors, seed), 'context': context,
          'tokens': beside(lambda rows: shift.quantiles(rows.tokens.astype(float))), 'languages': beside(share),
          'unknown_words': beside(lambda rows: float(rows.unknown.mean()) if rows.rows else None),
          'refused': _share((sample.ended == 'refused').tolist())}


def answered(requests: Sequence[dict[str, Any]], sample: Sample, reference: Reference) -> dict[str, Any]:
  """What was answered.

  Args:
    requests: as the folder keeps them.
    sample: the same as they are compared.
    reference: whose labels are right.
  """
  written = [one for one in requests if one['ended'] != 'refused' and one['endpoint'] != 'choices']
  confidence = np.array([np.nan if one.get('confidence') is None else one['confidence'] for one in requests], float)
  return {'cut': _share([one['ended'] == 'length' for one in written]), 'refusals': _share([one['refusal'] for one in written]),
          'loops': _share([one['loop'] for one in written]),
          'loss': {'mean': _mean(sample.loss), **shift.quantiles(sample.loss)},
          'confidence': {'mean': _mean(confidence), **shift.quantiles(confidence)},
          'labels': shift.psi([*reference.learned.label.tolist(), *reference.fresh.label.tolist()], sample.label.tolist())}


def _mean(values: np.ndarray) -> float | None:
  return None if np.isnan(values).all() else float(np.nanmean(values))


def right(requests: Sequence[dict[str, Any]], feedback: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
  """Accuracy and calibration by feedback; None where nothing was said of any answer.

  Args:
    requests: as the folder keeps them.
    feedback: id -> {label, rating}; a label counts before a rating.
  """
  labelled: list[dict[str, Any]] = []
  others: list[dict[str, Any]] = []
  scores: list[float] = []
  for one in requests:
    said = feedback.get(one['id'], {})
    if said.get('label') is not None:
      scores.append(float(seen.digest(said['label']) == one['whole']))
    elif said.get('rating') is not None:
      scores.append(min(1.0, max(0.0, float(said['rating']))))
    (labelled if said.get('label') is not None or said.get('rating') is not None else others).append(one)
  if not labelled:
    return None
  of = lambda some: np.array([np.nan if one.get('confidence') is None else one['confidence'] for one in some], float)
  scored, confidence, rest = np.array(scores), of(labelled), of(others)
  told: dict[str, Any] = {'labelled': len(labelled), 'of': len(requests), 'by_labels': accuracy.of_labelled(scored)._asdict(),
                          'on_all': None, 'calibration': None}
  if (both := ~np.isnan(confidence)).any():
    told['on_all'] = accuracy.powered(scored[both], confidence[both], rest[~np.isnan(rest)])._asdict()
    told['calibration'] = accuracy.calibration(scored[both], confidence[both])
  return told


def examples(requests: Sequence[dict[str, Any]], reference: Reference, sample: Sample, p: dict[str, np.ndarray],
             alarms: Sequence[Alarm]) -> list[dict[str, Any]]:
  """The most foreign requests: by the kinds that alarm and since the first of them began to change, else by `novelty`.

  Args:
    requests: as the folder keeps them.
    reference: rows that traffic is held against.
    sample: the requests as they are compared.
    p: kind -> their p-values [T].
    alarms: kinds that alarm.
  """
  if not requests:
    return []
  kinds = [one.kind for one in alarms] or ['novelty']
  folded = [np.minimum(p[kind], 1 - p[kind]) if streams.KINDS[kind][1] == 'both' else p[kind] for kind in kinds]
  strange = np.nan_to_num(np.array(folded), nan=1.0)      # [kinds, T]
  far = streams.distances(sample.vectors, reference.learned.vectors)
  first = alarms[0].since if alarms else 0
  order = np.lexsort((-far, np.round(strange.min(0), 3)))
  chosen = [n for n in order.tolist() if n >= first][:EXAMPLES]
  return [{'request': n + 1, 'kind': kinds[int(strange[:, n].argmin())], 'distance': float(far[n]),
           **{name: requests[n][name] for name in ('id', 'time', 'prompt', 'answer', 'language', 'read')}} for n in chosen]
