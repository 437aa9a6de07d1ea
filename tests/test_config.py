"""A config's fields: each of one type, the same from a file, a flag or a study."""

import pytest
from helpers import config

from research import config as config_fields
from research.errors import InputError
from research.strategies import table

pytestmark = pytest.mark.quick


def test_every_field_of_the_default_config_has_a_type_and_no_other():
  made = config()
  for group, types in config_fields.TYPES.items():
    typed = [field for fields in types.values() for field in fields.split()]
    assert sorted(typed) == sorted(made[group]), group
    assert set(config_fields.NEEDED[group].split()) <= set(typed)
  config_fields.check(made)


def test_fields_that_the_default_config_gives_are_needed_and_the_others_may_be_left_out():
  made = config()
  for group in config_fields.TYPES:
    given = {field for field, value in made[group].items() if value is not None}
    assert given - {'allow_other_base'} == set(config_fields.NEEDED[group].split()), group      # no study says that of its arms


@pytest.mark.parametrize('group, field, value, says', [
    ('training', 'learning_rate', '1e-3', "training.learning_rate='1e-3': must be a number"),
    ('training', 'steps', 2.5, 'training.steps=2.5: must be a whole number'),
    ('training', 'steps', True, 'training.steps=True: must be a whole number'),
    ('training', 'eps', None, 'training.eps=None: must be a number'),
    ('strategy', 'targets', 1e308, 'strategy.targets=1e\\+308: must be text'),
    ('strategy', 'layers', 10 ** 400, 'strategy.layers=1000.*: must be below 2\\^31'),
    ('strategy', 'alpha', float('nan'), 'strategy.alpha=nan: must be a finite number'),
    ('task', 'choices', 'yes', "task.choices='yes': must be a list"),
    ('task', 'prompt', '\ud800', 'task.prompt=.*: must be text'),
    ('mesh', 'data', None, 'mesh.data=None: must be a whole number'),
    ('training', 'batchsize', 4, 'training.batchsize: no config has this field')])
def test_a_field_of_another_type_is_named(group, field, value, says):
  made = config()
  made[group][field] = value
  with pytest.raises(InputError, match=says):
    config_fields.check(made)


def test_a_whole_number_is_a_number():
  made = config()
  made['training']['learning_rate'] = 1
  config_fields.check(made)


@pytest.mark.parametrize('name', table.STRATEGIES)
def test_what_a_strategy_resolves_its_fields_to_is_a_config_too(name):
  made = config()
  made['strategy'] |= {'name': name, **table.make(name, {}).fields}
  config_fields.check(made)


@pytest.mark.parametrize('change, says', [
    (lambda c: c.pop('mesh'), 'mesh: is missing from the config'),
    (lambda c: c['training'].pop('clip'), 'training.clip: is missing'),
    (lambda c: c.update(trainng={}), 'trainng: no config has this group'),
    (lambda c: c.update(training=[]), 'training: is missing'),
    (lambda c: c['training'].update(eps=1e-300), 'training.eps=1e-300: is beyond what a float32 holds'),
    (lambda c: c['strategy'].update(alpha_pattern=[['mlp', float('inf')]]), 'strategy.alpha_pattern=inf: must be a finite'),
    (lambda c: c['strategy'].update(alpha=1e39), 'strategy.alpha=1e\\+39: is beyond')])
def test_a_config_that_lacks_something_or_holds_what_no_float32_can_is_named(change, says):
  made = config()
  change(made)
  with pytest.raises(InputError, match=says):
    config_fields.check(made)


def test_a_config_may_leave_out_whether_memory_is_checked():
  made = config()
  del made['check_memory']
  config_fields.check(made)
