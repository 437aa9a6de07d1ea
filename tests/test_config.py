"""A config's fields: each of one type, the same from a file, a flag or a study."""

import pytest
from helpers import config

from research import config as configs
from research import config_fields
from research.errors import InputError
from research.strategies import table

pytestmark = pytest.mark.quick


def test_every_field_of_the_default_config_has_a_type_and_no_other():
  made = config()
  for group in configs.GROUPS:
    assert sorted(config_fields.types(configs.GROUPS[group])) == sorted(made[group]), group
  assert {*made} == {*configs.GROUPS, *configs.OF_ALL}
  configs.read(made)


def test_fields_that_the_default_config_gives_are_needed_and_the_others_may_be_left_out():
  made = config()
  for group in configs.GROUPS:
    given = {field for field, value in made[group].items() if value is not None}
    needed = config_fields.needed(configs.GROUPS[group])
    assert given - {'allow_other_base'} == needed, group      # no study says that of its arms


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
    configs.read(made)


def test_a_whole_number_is_a_number():
  made = config()
  made['training']['learning_rate'] = 1
  configs.read(made)


@pytest.mark.parametrize('name', table.STRATEGIES)
def test_what_a_strategy_resolves_its_fields_to_is_a_config_too(name):
  made = config()
  made['strategy'] |= {'name': name, **table.make(name, {}).fields}
  configs.read(made)


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
    configs.read(made)


def test_a_config_may_leave_out_whether_memory_is_checked():
  made = config()
  del made['check_memory']
  configs.read(made)


def test_a_config_that_was_read_goes_back_into_the_file_as_it_was():
  made = config(strategy__name='lora', strategy__rank_pattern=(('mlp/down', 16),), task__choices=('a', 'b'))
  there = configs.read(made).config()
  assert there['strategy'] == {'name': 'lora', 'rank_pattern': {'mlp/down': 16}, 'init_from': None, 'allow_other_base': False}
  assert {group: there[group] for group in ('model', 'task', 'training', 'mesh')} == {
      group: made[group] for group in ('model', 'task', 'training', 'mesh')}
  assert configs.read({**made, **there}) == configs.read(made)


def test_settings_with_other_values_are_others():
  made = configs.read(config())
  other = made.replace({'training.steps': 9, 'mesh.fsdp': 2})
  assert (other.training.steps, other.mesh.fsdp, made.training.steps) == (9, 2, 4) and hash(other) != hash(made)
