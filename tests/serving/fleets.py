"""Runs over one small base, as a server loads them; their deltas are moved at random, so that each answers otherwise."""

import functools
from pathlib import Path

from helpers import config, moved, scaled_up

from research import tree
from research.data.prompts import placeholders
from research.evaluation import decode
from research.evaluation.decoding import GREEDY
from research.experiment import restore
from research.experiment.assemble import assemble
from research.serving import models
from research.serving.engine import Engine
from research.serving.models import Loaded
from research.serving.requests import Ended, Request

LORA, BASE = {'strategy__name': 'lora', 'strategy__rank': 3}, {'strategy__name': 'few_shot', 'strategy__shots': 0}


@functools.cache
def experiment(preset, **fields):
  """One without data, on a preset whose weights are scaled up."""
  exp = assemble(config(model__source=f'random:{preset}', **fields), trains=False)
  return exp._replace(params=scaled_up(preset).params)


def run(name, preset='llama-tiny', seed=0, by=0.1, **fields):
  """A run that has learned something random; the same seed, the same run."""
  exp = experiment(preset, **fields)
  trainable, frozen = restore.variables(exp)
  keeps = not any(leaf.startswith('params/') for leaf in tree.leaves(trainable))
  return Loaded(name, Path(name), exp, tree.join(moved(trainable, seed, by), frozen), 0, keeps)


def broken(name, preset='llama-tiny'):
  """A run whose numbers are finite, and grow too large on the way."""
  one = run(name, preset, strategy__name='full')
  too_large = lambda name, x: x * 1e30 if '/attn/q/' in name or '/attn/k/' in name else x
  return one._replace(variables=tree.map_named(too_large, one.variables))


def engine(runs, spare=(), **how):
  served, groups = models.group(runs, spare)
  return Engine(served, groups, **{'slots': 4, 'context': 160, **how})


def request(run, text, **fields):
  """For an answer to a text."""
  return Request(**{'model': run.name, 'prompt': ids(run, text), 'limit': 8, 'ends': run.exp.tokenizer.ends, **fields})


def ids(run, text):
  return (*placeholders(run.exp.strategy.slots), *run.exp.tokenizer.prompt(text))


def generated(run, text, answers=1, new=8, decoding=GREEDY):
  """What `generate` writes to a prompt that is given so many times; four at one time, which changes nothing."""
  prompts = [list(ids(run, text))] * answers
  return decode.generate(run.exp.model, run.variables, prompts, new, run.exp.tokenizer.ends, 4, decoding)


def answered(engine, requests, joins=0):
  """What the engine tells of each request; one joins each so many ticks."""
  told = [[] for _ in requests]
  waiting = [*zip(requests, told)]
  while waiting or any(engine.load()[:2]):
    for one, into in waiting[:1] if joins else waiting:
      engine.submit(one, into.append)
    waiting = waiting[1:] if joins else []
    for _ in range(max(joins, 1)):
      engine.tick()
  assert all(sum(isinstance(event, Ended) for event in events) == one.answers for one, events in zip(requests, told))
  assert_nothing_is_lost(engine)
  return told


def assert_nothing_is_lost(engine):
  """All slots of an engine that has answered all are free."""
  assert engine.load() == (0, 0, 0.0) and sorted(engine._free) == [*range(engine.reader.slots)]


def text(events, answer=0):
  return ''.join(event.text for event in events if getattr(event, 'text', None) and event.answer == answer)


def tokens(events, answer=0):
  return [token for event in events if hasattr(event, 'tokens') and event.answer == answer for token in event.tokens]


def ended(events, answer=0):
  """How an answer ended; nothing is told after that."""
  own = [event for event in events if not hasattr(event, 'answer') or event.answer == answer]
  assert isinstance(own[-1], Ended) and not any(isinstance(event, Ended) for event in own[:-1])
  return own[-1].how
