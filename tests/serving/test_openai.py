"""The interface as the official client uses it."""

import json
import time
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest
from serving.fleets import engine, run
from serving.listening import listening

from research.evaluation import decode, embed
from research.evaluation.decoding import GREEDY, Decoding
from research.runs import generate
from research.serving import log
from research.serving.asked import Limits
from research.serving.keys import read as read_keys
from research.serving.record import Record

TEMPLATE = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
            '{% if add_generation_prompt %}<assistant>{% endif %}')
SAID = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello?'}]


@pytest.fixture(scope='module')
def runs():
  found = [run(name, seed=seed, strategy__name='lora', strategy__rank=3) for seed, name in enumerate('ab')]
  found[0].exp.tokenizer.hf.chat_template = TEMPLATE
  yield found
  found[0].exp.tokenizer.hf.chat_template = None


@pytest.fixture(scope='module')
def served(runs, tmp_path_factory):
  """(server, client, path of the log)."""
  path = tmp_path_factory.mktemp('log') / 'traffic.jsonl'
  record = Record(path)
  with listening(engine(runs), record=record) as (server, client):
    yield server, client, path
  record.close()


@pytest.fixture(scope='module')
def client(served):
  return served[1]


def alone(one, prompt, new):
  """What `generate` says to a prompt."""
  return ''.join(generate.stream(one.exp, one.variables, prompt, new, GREEDY))


def test_the_models_are_told(client, runs):
  assert [model.id for model in client.models.list()] == ['a', 'b']
  assert client.models.retrieve('b').owned_by == 'flaxtune'


@pytest.mark.parametrize('name', ['a', 'b'])
def test_a_completion_is_what_generate_says(client, runs, name):
  one = runs['ab'.index(name)]
  found = client.completions.create(model=name, prompt='Once upon', max_tokens=9, temperature=0)
  assert found.choices[0].text == alone(one, 'Once upon', 9) and found.object == 'text_completion'
  assert found.choices[0].finish_reason == 'length'
  assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (10, 9, 19)


def test_a_stream_is_the_whole_in_parts(client, runs):
  chunks = list(client.completions.create(model='a', prompt='Once upon', max_tokens=9, temperature=0, stream=True,
                                          stream_options={'include_usage': True}))
  assert ''.join(chunk.choices[0].text for chunk in chunks if chunk.choices) == alone(runs[0], 'Once upon', 9)
  assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, 'length'] and not chunks[-1].choices
  assert chunks[-1].usage.total_tokens == 19 and len(chunks) > 5


def test_a_chat_is_asked_in_the_template(client, runs):
  prompt = runs[0].exp.tokenizer.chat(SAID)
  whole = client.chat.completions.create(model='a', messages=SAID, max_completion_tokens=6, temperature=0)
  assert whole.choices[0].message.content == alone(runs[0], prompt, 6) and whole.choices[0].message.role == 'assistant'
  parts = list(client.chat.completions.create(model='a', messages=SAID, max_tokens=6, temperature=0, stream=True))
  assert ''.join(part.choices[0].delta.content or '' for part in parts) == whole.choices[0].message.content
  assert parts[0].choices[0].delta.role == 'assistant' and parts[-1].choices[0].finish_reason == 'length'
  in_parts = [{'role': 'developer', 'content': [{'type': 'text', 'text': 'Be '}, {'type': 'text', 'text': 'brief.'}]}, SAID[1]]
  again = client.chat.completions.create(model='a', messages=in_parts, max_tokens=6, temperature=0)
  assert again.choices[0].message.content == whole.choices[0].message.content


def test_several_prompts_and_answers_are_numbered(client, runs):
  found = client.completions.create(model='a', prompt=['x', 'Once'], max_tokens=4, n=2, temperature=1.0, seed=5, top_p=.9)
  drawn = [decode.generate(runs[0].exp.model, runs[0].variables, [runs[0].exp.tokenizer.prompt(text)] * 2, 4,
                           runs[0].exp.tokenizer.ends, 2, Decoding(1.0, top_p=.9, seed=5)) for text in ('x', 'Once')]
  decoded = [runs[0].exp.tokenizer.decode(ids) for pair in drawn for ids in pair]
  assert [choice.text for choice in found.choices] == decoded and [choice.index for choice in found.choices] == [0, 1, 2, 3]
  assert len({*decoded}) > 2
  unseeded = [client.completions.create(model='a', prompt='x', max_tokens=8, temperature=1.0).choices[0].text for _ in range(2)]
  assert unseeded[0] != unseeded[1]


def test_stops_and_biases(client, runs):
  text = alone(runs[0], 'Once upon', 9)
  found = client.completions.create(model='a', prompt='Once upon', max_tokens=9, temperature=0, stop=[text[3:5], 'zzz'])
  assert found.choices[0].text == text[:text.index(text[3:5])] and found.choices[0].finish_reason == 'stop'
  biased = client.completions.create(model='a', prompt='Once upon', max_tokens=3, temperature=0, logit_bias={'65': 100})
  assert biased.choices[0].text == 'AAA'
  ended = client.completions.create(model='a', prompt='Once', max_tokens=3, logit_bias={str(runs[0].exp.tokenizer.eos): 100})
  assert ended.choices[0].text == '' and ended.choices[0].finish_reason == 'stop' and ended.usage.completion_tokens == 0


def test_log_probabilities_in_both_schemas(client, runs):
  exp = runs[0].exp
  ids = exp.tokenizer.prompt('Once upon')
  whole = client.completions.create(model='a', prompt='Once upon', max_tokens=3, temperature=0, logprobs=2, echo=True)
  said = whole.choices[0].logprobs
  assert whole.choices[0].text.startswith('Once upon') and len(said.tokens) == len(ids) + 3
  assert said.token_logprobs[0] is None and all(value < 0 for value in said.token_logprobs[1:])
  for value, top in zip(said.token_logprobs[1:], said.top_logprobs[1:]):
    assert 2 <= len(top) <= 3 and max(top.values()) >= value
  chat = client.chat.completions.create(model='a', messages=SAID, max_tokens=3, temperature=0, logprobs=True, top_logprobs=4)
  for one in chat.choices[0].logprobs.content:
    assert one.logprob == pytest.approx(max(top.logprob for top in one.top_logprobs)) and len(one.top_logprobs) == 4
  scored = client.completions.create(model='a', prompt='Once upon', max_tokens=0, logprobs=0, echo=True)
  assert scored.choices[0].logprobs.token_logprobs == said.token_logprobs[:len(ids)] and scored.usage.completion_tokens == 0


def test_choices_are_ranked_exactly(client, runs):
  found = client.completions.create(model='b', prompt='Once', extra_body={'choices': [' x', ' other', ' yes']})
  ranked = {one['text']: one for one in found.choices[0].ranked}
  assert found.choices[0].text == max(ranked, key=lambda text: ranked[text]['logprob'])
  assert sum(one['probability'] for one in ranked.values()) == pytest.approx(1)
  for text, one in ranked.items():
    echoed = client.completions.create(model='b', prompt='Once' + text, max_tokens=0, logprobs=0, echo=True)
    told = echoed.choices[0].logprobs.token_logprobs[-len(text):]
    assert one['logprob'] == pytest.approx(sum(told), abs=1e-5)
  chat = client.chat.completions.create(model='b', messages=SAID, extra_body={'choices': ['yes', 'no']})
  assert chat.choices[0].message.content in ('yes', 'no')


def test_texts_become_vectors(client, runs):
  found = client.embeddings.create(model='a', input=['Once upon', 'x'])
  expected = embed.embed(runs[0].exp.model, runs[0].variables, [runs[0].exp.tokenizer.prompt(t) for t in ('Once upon', 'x')])
  np.testing.assert_allclose([one.embedding for one in found.data], expected, atol=1e-5)
  [plain] = client.embeddings.create(model='a', input='x', encoding_format='float').data
  np.testing.assert_allclose(plain.embedding, expected[1], atol=1e-5)


WRONG = [
    ({'model': 'c', 'prompt': 'x'}, 404, "the model 'c' is not served (models: a, b)"),
    ({'model': 'a'}, 400, 'prompt: is missing'), ({'model': 'a', 'prompt': 3}, 400, 'prompt: must be a text'),
    ({'model': 'a', 'prompt': []}, 400, 'prompt: must be a text'), ({'model': 'a', 'prompt': [999]}, 400, 'from 0 to 258'),
    ({'model': 'a', 'prompt': 'x' * 155, 'max_tokens': 20}, 400, 'has 156 tokens and its answer 20 or more; together they may'),
    ({'model': 'a', 'prompt': 'x' * 500}, 400, 'has 501 tokens; a prompt may have 160'),
    ({'model': 'a', 'prompt': 'x', 'max_tokens': 0}, 400, 'max_tokens=0: must be from 1'),
    ({'model': 'a', 'prompt': 'x', 'max_tokens': 2.5}, 400, 'must be a whole number'),
    ({'model': 'a', 'prompt': 'x', 'temperature': 'warm'}, 400, "temperature='warm': must be a number"),
    ({'model': 'a', 'prompt': 'x', 'temperature': True}, 400, 'must be a number'),
    ({'model': 'a', 'prompt': 'x', 'top_p': 1.5}, 400, 'top_p=1.5: must be from 0 to 1'),
    ({'model': 'a', 'prompt': 'x', 'n': 0}, 400, 'n=0: must be from 1 to 16'),
    ({'model': 'a', 'prompt': 'x', 'stop': [1]}, 400, 'stop: must be a text or a list'),
    ({'model': 'a', 'prompt': 'x', 'logit_bias': {'9999': 1}}, 400, "'9999' is no token id"),
    ({'model': 'a', 'prompt': 'x', 'logit_bias': {'5': 'much'}}, 400, 'a number from -100 to 100'),
    ({'model': 'a', 'prompt': 'x', 'logprobs': 99}, 400, 'logprobs=99: must be from 0 to 20'),
    ({'model': 'a', 'prompt': 'x', 'suffix': 'y'}, 400, 'suffix: is not supported'),
    ({'model': 'a', 'prompt': 'x', 'presence_penalty': 1}, 400, 'presence_penalty: is not supported'),
    ({'model': 'a', 'prompt': 'x', 'tools': [{}]}, 400, 'tools: tool calls are not supported'),
    ({'model': 'a', 'prompt': 'x', 'promt': 'y'}, 400, 'promt: no such field'),
    ({'model': 'a', 'prompt': 'x', 'choices': ['y', 'y']}, 400, 'choices: must be a list of different texts'),
    ({'model': 'a', 'prompt': 'x', 'row': {}}, 400, 'leave out prompt and messages'),
    ({'model': 'a', 'prompt': 'x', 'stream': 'yes'}, 400, 'must be true or false'), ([], 400, 'must be a JSON object')]


@pytest.mark.parametrize('body, status, says', WRONG)
def test_what_is_wrong_is_named_and_the_server_goes_on(client, body, status, says):
  with pytest.raises(openai.APIStatusError) as raised:
    client.post('/completions', body=body, cast_to=object)
  assert raised.value.status_code == status and says in raised.value.body['message']
  assert raised.value.body.keys() == {'message', 'type', 'param', 'code'}
  assert client.completions.create(model='a', prompt='x', max_tokens=1).choices


@pytest.mark.parametrize('messages, says', [
    ([], 'must be a list of one turn'), ('hi', 'must be a list'), ([{'role': 'user'}], 'turn 1: content must be a text'),
    ([{'content': 'x'}], 'turn 1: must be an object with role'), ([{'role': 'tool', 'content': 'x'}], 'tool calls'),
    ([{'role': 'user', 'content': [{'type': 'image_url', 'image_url': 'x'}]}], 'parts of type text')])
def test_turns_that_cannot_be_are_named(client, messages, says):
  with pytest.raises(openai.BadRequestError, match=says):
    client.post('/chat/completions', body={'model': 'a', 'messages': messages}, cast_to=object)


def raw(client, path, data, headers=()):
  """(status, body) of a request as no client would send it."""
  url = str(client.base_url).removesuffix('/v1/') + path
  request = urllib.request.Request(url, data, {'content-type': 'application/json', **dict(headers)})
  try:
    with urllib.request.urlopen(request, timeout=30) as response:
      return response.status, response.read()
  except urllib.error.HTTPError as e:
    return e.code, e.read()


def test_bodies_and_routes_that_are_none(client):
  for path, data, headers, status, says in (
      ('/v1/completions', b'{"model": ', (), 400, 'not JSON'), ('/v1/completions', b'\xff', (), 400, 'not JSON'),
      ('/v1/completions', b'[' * 100_000, (), 400, 'not JSON'),
      ('/v1/completions', b'{"a": 1, "a": 2}', (), 400, 'given twice'),
      ('/v1/completions', b'{}', {'content-type': 'text/plain'}, 400, 'Content-Type: application/json'),
      ('/v1/completions', b' ' * 5_000_000, (), 413, 'longer than 4,000,000 bytes'),
      ('/v1/nothing', b'{}', (), 404, 'no such route'), ('/v1/models', b'{}', (), 405, 'no such route')):
    found, body = raw(client, path, data, headers)
    assert found == status and says in json.loads(body)['error']['message']
  assert raw(client, '/health', None) == (200, b'{"status":"ok"}')


def test_feedback_comes_back_by_the_answers_id_and_the_log_is_masked(served):
  server, client, path = served
  answer = client.completions.create(model='a', prompt='Write to ann@example.org', max_tokens=3, temperature=0)
  pair = client.completions.create(model='b', prompt='x', max_tokens=2, n=2, temperature=1, seed=1)
  post = lambda body: client.post('/feedback', body=body, cast_to=object)
  assert post({'id': answer.id, 'label': 'to bob@example.org'})['id'] == answer.id
  post({'id': pair.choices[1].id, 'rating': .5})
  for body, status, says in (
      ({'id': 'cmpl-1', 'rating': 1}, 404, 'no answer of this log'), ({'id': answer.id}, 400, 'label or rating'),
      ({'id': answer.id, 'rating': 2}, 400, 'from 0 to 1'), ({'id': answer.id, 'why': 1}, 400, 'must be an object')):
    with pytest.raises(openai.APIStatusError) as raised:
      post(body)
    assert raised.value.status_code == status and says in raised.value.body['message']
  with pytest.raises(openai.BadRequestError):
    client.completions.create(model='a', prompt='x' * 500)
  until = time.monotonic() + 10
  while sum(1 for line in log.lines(path) if line.get('ended') == 'refused') < 1 and time.monotonic() < until:
    time.sleep(.02)
  traffic = log.read(path)
  kept = {one['id']: one for one in traffic.requests}
  assert kept[answer.id]['prompt'] == 'Write to [EMAIL]' and kept[answer.id]['answer'] == answer.choices[0].text
  assert kept[answer.id]['tokens'] == {'prompt': 25, 'answer': 3} and kept[answer.id]['log_probability'] < 0
  assert kept[answer.id]['seconds']['first'] <= kept[answer.id]['seconds']['total']
  assert traffic.feedback[answer.id]['label'] == 'to [EMAIL]' and traffic.feedback[pair.choices[1].id]['rating'] == .5
  assert traffic.requests[-1]['ended'] == 'refused'


def test_a_client_that_goes_away_leaves_its_slots_and_no_complaint(served, runs, caplog):
  server, client, path = served
  endless = {'logit_bias': {str(token): -100 for token in runs[0].exp.tokenizer.ends}}
  stream = client.completions.create(model='a', prompt='Once', max_tokens=120, temperature=1, n=4, stream=True,
                                     **endless)
  next(iter(stream))
  assert server.engine.load()[0] == 4
  stream.close()
  with pytest.raises(openai.APITimeoutError):
    client.with_options(timeout=0.05).completions.create(model='a', prompt='Once', max_tokens=140, temperature=1, n=16,
                                                          **endless)
  until = time.monotonic() + 20
  while any(server.engine.load()[:2]) and time.monotonic() < until:
    time.sleep(.02)
  assert server.engine.load() == (0, 0, 0.0) and not caplog.records


def test_prometheus_reads_vllms_names(client):
  client.completions.create(model='a', prompt='x', max_tokens=2)
  text = raw(client, '/metrics', None)[1].decode()
  for name in ('num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'prompt_tokens_total{model_name="a"}',
               'generation_tokens_total{model_name="a"}', 'time_to_first_token_seconds_count{model_name="a"}',
               'e2e_request_latency_seconds_sum{model_name="a"}',
               'request_success_total{finished_reason="length",model_name="a"}'):
    assert f'\nvllm:{name}' in text


def test_keys_limits_and_a_full_queue(runs, tmp_path):
  (tmp_path / 'keys').write_text('# ours\nanother key that is long\na key that is long enough\n')
  limits = Limits(160, 20, 150, .3)
  with listening(engine(runs, slots=1, queue=1), limits, keys=read_keys(tmp_path / 'keys')) as (server, client):
    create = lambda **more: client.completions.create(**{'model': 'a', 'prompt': 'x', 'max_tokens': 2, **more})
    assert create().choices
    for key in ('wrong', ''):
      with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key=key or 'x').completions.create(model='a', prompt='x')
    assert raw(client, '/metrics', None)[0] == 401 and raw(client, '/health', None)[0] == 200
    with pytest.raises(openai.BadRequestError, match='a prompt may have 20'):
      create(prompt='x' * 30)
    with pytest.raises(openai.BadRequestError, match='max_tokens=151: must be from 1 to 150'):
      create(max_tokens=151)
    with pytest.raises(openai.RateLimitError, match='as many requests wait'):
      create(n=3)
    with pytest.raises(openai.InternalServerError, match='longer than a request may') as raised:
      create(n=2, max_tokens=150)
    assert raised.value.status_code == 503
    server.engine.stop(5)
    with pytest.raises(openai.InternalServerError, match='being stopped') as raised:
      create()
    assert raised.value.status_code == 503
