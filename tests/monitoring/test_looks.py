"""The verb, from a log to an exit status: a change is found and named, and looks add up."""

import http.server
import json
import threading

import pytest
import watching
from helpers import verb

from research import run_files
from research.monitoring import folder, streams


@pytest.fixture(scope='module')
def there(tmp_path_factory):
  """(a reference, a run on it)."""
  place = tmp_path_factory.mktemp('monitor')
  known = watching.reference(place / 'tickets')
  return known, watching.run(place / 'runs' / 'lora', known)


def look(there, path, output, *given):
  known, run = there
  return verb('monitor', f'--log={path}', f'--reference={known}', f'--workdir={run}', f'--output={output}', *given)


def told(output):
  return run_files.read_json(output / folder.MONITOR)


def without_looks(found):
  return {name: value for name, value in found.items() if name not in ('looks', 'new')}


@pytest.mark.parametrize('change, what', [('garden', 'topic'), ('german', 'language'), ('long', 'length')])
def test_what_changed_is_found_and_named_with_the_request_since_when(there, tmp_path, change, what):
  path = watching.asked(tmp_path / 'log.jsonl', there[1], 360, change=change, after=150)
  done = look(there, path, tmp_path / 'watch')
  assert done.returncode == 3, done.stdout + done.stderr
  found = told(tmp_path / 'watch')
  assert what in found['alarm']['what'] and done.stdout.startswith('ALARM') and what in done.stdout
  since = [one['since']['request'] for one in found['alarm']['kinds'] if one['what'] == what]
  assert min(since) in range(100, 220)
  assert len(found['examples']) == 10
  words = {'garden': 'tomato apple tree soil plants', 'german': watching.GERMAN, 'long': ''}[change].split()
  assert sum(any(word in one['prompt'] for word in words) or one['read'] > 150 for one in found['examples']) >= 8
  page = (tmp_path / 'watch' / folder.REPORT).read_text()
  assert found['alarm']['sentence'] in page and page.count('data:image/svg+xml') >= 3 and 'src="http' not in page


def test_looks_add_up_to_what_one_look_finds_and_a_quiet_log_is_quiet(there, tmp_path):
  path = watching.asked(tmp_path / 'log.jsonl', there[1], 130, feedback=40)
  done = look(there, path, tmp_path / 'twice')
  assert done.returncode == 0 and done.stdout.startswith('quiet') and max(map(len, done.stdout.splitlines()[:-1])) <= 80
  assert len(done.stdout.splitlines()) <= 30
  watching.asked(path, there[1], 130, seed=3, first=130)
  with open(tmp_path / 'twice' / folder.REQUESTS, 'ab') as file:      # a look was killed while it wrote
    file.write(b'{"id": "r13')
  assert look(there, path, tmp_path / 'twice').returncode == 0
  assert look(there, path, tmp_path / 'twice').returncode == 0      # nothing new
  assert look(there, path, tmp_path / 'once').returncode == 0
  twice, once = told(tmp_path / 'twice'), told(tmp_path / 'once')
  assert (twice['looks'], twice['new'], twice['requests'], once['looks'], once['new']) == (3, 0, 260, 1, 260)
  for kind in streams.KINDS:
    assert twice['evidence'][kind]['wealth'] == pytest.approx(once['evidence'][kind]['wealth'], rel=0.05)
  same = lambda found: {name: found[name] for name in ('traffic', 'accuracy', 'alarm', 'answers')}
  assert same(twice) == same(once)
  right = once['accuracy']
  assert right['labelled'] == 40 and right['by_labels']['low'] < 0.8 < right['by_labels']['high']
  assert right['on_all'] and 0 <= right['calibration']['ece'] <= 1 and once['inputs']['classifier']['p'] > 0.01


def test_an_alarm_is_sent_once_and_stays(there, tmp_path):
  got = []

  class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      got.append(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
      self.send_response(204)
      self.end_headers()

    def log_message(self, *given):
      pass
  server = http.server.HTTPServer(('127.0.0.1', 0), Hook)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  hook = f'--webhook=http://127.0.0.1:{server.server_port}/'
  path = watching.asked(tmp_path / 'log.jsonl', there[1], 60)
  assert look(there, path, tmp_path / 'watch', hook).returncode == 0 and not got
  watching.asked(path, there[1], 120, seed=4, first=60, change='german', every=1)
  assert look(there, path, tmp_path / 'watch', hook).returncode == 3
  first = told(tmp_path / 'watch')
  assert [one['alarm'] for one in got] == [first['alarm']['sentence']] and first['webhook']['status'] == 204
  watching.asked(path, there[1], 60, seed=5, first=180)
  assert look(there, path, tmp_path / 'watch', hook).returncode == 3 and len(got) == 1
  server.shutdown()
  known = {one['kind']: one['since'] for one in told(tmp_path / 'watch')['alarm']['kinds']}
  assert all(known[one['kind']] == one['since'] for one in first['alarm']['kinds'])
  done = look(there, path, tmp_path / 'other', hook)
  assert done.returncode == 3 and 'was not delivered' in done.stderr and told(tmp_path / 'other')['webhook']['error']


def test_an_empty_log_is_quiet(there, tmp_path):
  (tmp_path / 'log.jsonl').write_text('')
  done = look(there, tmp_path / 'log.jsonl', tmp_path / 'watch')
  assert done.returncode == 0 and 'there is no request yet' in done.stdout
  assert told(tmp_path / 'watch')['requests'] == 0
