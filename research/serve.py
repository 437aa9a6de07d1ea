"""Serves runs over one base by the interface of OpenAI's clients.

    python -m research.serve --workdir=runs/lora --port=8000
    python -m research.serve --study=runs/quickstart --log=traffic.jsonl --api_keys=keys.txt --host=0.0.0.0

Runs whose deltas are of one kind share a batch, and so answer together. Everything is compiled before the port opens. Without
--api_keys only this machine can ask. --log keeps requests, answers and feedback (POST /v1/feedback), personal data masked, for
`research.monitor` and `research.refine`. SIGTERM and Ctrl-C let those requests end that run, within --grace seconds.
"""

from pathlib import Path

from absl import flags

from research import cli
from research.errors import InputError


def main() -> None:
  f = flags.FLAGS
  workdirs = [Path(part).expanduser() for given in f.workdir for part in given.split(',') if part]
  if not workdirs and not f.study and not f.follow:
    raise InputError('--workdir is missing; --help shows an example')
  try:
    from research.serving import serve
  except ModuleNotFoundError as e:
    raise InputError(f"a server needs the package {e.name} (pip install 'flaxtune[serve]')") from None
  path = lambda name: Path(str(f[name].value)).expanduser() if f[name].value else None
  serve.serve(workdirs, path('study'), serve.Settings(
      f.host, f.port, path('api_keys'), f.slots, f.context, f.queue, f.max_prompt, f.max_answer, f.max_body, f.timeout, f.grace,
      path('log'), path('follow'), f.allow_changed))


if __name__ == '__main__':
  flags.DEFINE_multi_string('workdir', [], 'a run, whose folder\'s name is the model\'s; several with commas, or given again')
  flags.DEFINE_string('study', None, 'a study; the chosen run of each arm is served under the arm\'s name')
  cli.changed_flag()
  flags.DEFINE_string('host', '127.0.0.1', 'the address; another than this machine\'s own needs --api_keys')
  flags.DEFINE_integer('port', 8000, 'of the address; 0: one that is free', 0, 65535)
  flags.DEFINE_string('api_keys', None, 'a file with one key a line, one of which every request must bring')
  flags.DEFINE_string('log', None, 'a JSON-lines file that keeps requests, answers and feedback, personal data masked')
  flags.DEFINE_string('follow', None, 'the current.json that `research.refine` writes: its run is served, and each next one')
  flags.DEFINE_integer('slots', 16, 'answers that are written at one time', 1, 1024)
  flags.DEFINE_integer('context', None, 'tokens of a slot; the models\' own, but at most 2048, where not given', 16)
  flags.DEFINE_integer('queue', 256, 'answers that may wait for a slot; further requests get status 429', 0)
  flags.DEFINE_integer('max_prompt', None, 'tokens of a prompt; what the context holds where not given', 1)
  flags.DEFINE_integer('max_answer', None, 'tokens of an answer; what the context holds where not given', 1)
  flags.DEFINE_integer('max_body', 4_000_000, 'bytes of a request', 1)
  flags.DEFINE_float('timeout', 600, 'seconds that a request may take', 0.001)
  flags.DEFINE_float('grace', 30, 'seconds that requests have to end in when the server is stopped', 0)
  cli.run(main, __doc__, stopped='requests that were running have ended')
