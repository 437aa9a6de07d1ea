"""Several processes that run one program together, each on devices of its own (`jax.distributed`).

All run the same code from the same config. Each lays out the lines and reads the weights that its own devices need, and what
they have to agree on is found out together; what is written for a person comes from the first one, into a folder that all see.
A single process is the usual case, in which nothing here does anything.
"""

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.errors import InputError

JOIN_TIMEOUT = 30      # seconds that processes wait for each other at the beginning, where a person starts them
CLUSTER_JOIN_TIMEOUT = 300   # where a cluster starts them, some perhaps minutes after others
HEARTBEAT_TIMEOUT = 30       # seconds after which a process that says nothing is taken for dead
ALL_HERE = 'all here'


def begin(coordinator: str | None = None, processes: int | None = None, process: int | None = None,
          saves: bool = False) -> None:
  """Joins the other processes, before anything asks for a device. They end together: a dead one ends all.

  Args:
    coordinator: host:port of process 0. With this and the next two left out, all three are found where there is a TPU slice,
      SLURM, Open MPI or Kubernetes, and elsewhere this process is alone.
    processes: how many there are; with 1 this process is alone anywhere.
    process: the number of this one, from 0.
    saves: whether it asks `preemption_requested` after its steps, and saves; otherwise SIGTERM ends it at once.
  Raises:
    InputError: some of the three are missing or wrong, or not all came to the coordinator's address. Where a cluster starts
      the processes and one does not come, JAX itself ends the others, in its own words.
  """
  given = (coordinator, processes, process)
  nothing_said = given == (None,) * 3
  if processes == 1 or (nothing_said and not (told_of_others() or _on_tpu())):
    return
  if None in given and not nothing_said:
    raise InputError('--coordinator, --processes and --process: give all three, or none where they are found by themselves')
  if coordinator is not None:
    assert processes is not None and process is not None      # all three are given, or none
    host, _, port = coordinator.rpartition(':')
    if not (host and port.isdecimal() and 0 < int(port) < 2 ** 16):
      raise InputError(f'--coordinator={coordinator}: must be host:port of process 0, such as 10.0.0.2:8476')
    if not 0 <= process < processes:
      raise InputError(f'--process={process}: must be 0 to {processes - 1}, another one in each of --processes={processes}')
    print(f'process {process} of {processes} waits for the others, for {JOIN_TIMEOUT} s', file=sys.stderr, flush=True)
    if process:
      _come(host.strip('[]'), int(port), process)
    else:
      _gather(int(port), processes)
  jax.config.update('jax_enable_preemption_service', saves)
  try:
    jax.distributed.initialize(
        coordinator_address=coordinator, num_processes=processes, process_id=process,
        initialization_timeout=JOIN_TIMEOUT if coordinator else CLUSTER_JOIN_TIMEOUT,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        shutdown_timeout_seconds=HEARTBEAT_TIMEOUT, cluster_detection_method='deactivate' if coordinator else None)
  except (ValueError, RuntimeError, OSError) as e:
    if not (coordinator or told_of_others()) and 'coordinator_address should be defined' in str(e):      # no slice, after all
      return
    raise InputError(f'the processes cannot begin ({e}); give --coordinator, --processes and --process, or --processes=1 to '
                     'run alone; on Kubernetes JAX finds them where the package kubernetes is installed') from None


def told_of_others() -> bool:
  """Whether the surroundings tell of other processes."""
  e = os.environ
  return (any(int(e.get(name, '1')) > 1 for name in ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE'))
          or {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'} <= e.keys()
          or re.fullmatch(r'[^,\s]+(,[^,\s]+)+', e.get('TPU_WORKER_HOSTNAMES', '')) is not None)


def _on_tpu() -> bool:
  """Whether this can be a host of a TPU slice, which asks its surroundings over the network."""
  return any(os.path.exists(f'/dev/{name}') for name in ('accel0', 'vfio/0'))


def _gather(port: int, processes: int) -> None:
  """Waits, as process 0, until all others have come to this port. JAX, which would end the process with a stack where one
  does not, meets them at the same port afterwards.

  Raises:
    InputError: the port cannot be opened, one process does not come or does not stay, or two say that they are the same one.
  """
  until = time.monotonic() + JOIN_TIMEOUT
  came: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as open_ones:
    try:
      both = socket.has_dualstack_ipv6()
      family = socket.AF_INET6 if both else socket.AF_INET
      here = open_ones.enter_context(socket.create_server(('', port), family=family, dualstack_ipv6=both))
    except OSError as e:
      raise InputError(f'--coordinator: port {port} of process 0 cannot be opened ({e.strerror})') from None
    here.settimeout(0.5)
    while missing := [n for n in range(1, processes) if n not in came or _left(came[n])]:
      if time.monotonic() > until:
        raise InputError(f'--processes={processes}: after {JOIN_TIMEOUT} s process {", ".join(map(str, missing))} did not come '
                         f'to port {port} of process 0; start all within that time, with the same --coordinator')
      try:
        one = open_ones.enter_context(here.accept()[0])
      except TimeoutError:
        continue
      said = _line(one, 1.0)
      if said not in map(str, range(1, processes)):      # a stranger
        continue
      number = int(said)
      if number in came and not _left(came[number]):
        raise InputError(f'--process={number}: said to two processes; must be another one in each')
      came[number] = one
    for number, one in came.items():
      try:
        one.sendall(f'{ALL_HERE}\n'.encode())
      except OSError as e:
        raise InputError(f'process {number} came, and left before all had come ({e.strerror})') from None
    for one in came.values():      # each closes its end first, which leaves the port free
      _line(one, 1.0)


def _come(host: str, port: int, process: int) -> None:
  """Comes to process 0, and waits until all others have. Whoever closes the connection before that is asked again.

  Raises:
    InputError: the address is none, or nobody there says in time that all have come.
  """
  until = time.monotonic() + JOIN_TIMEOUT
  while (left := until - time.monotonic()) > 0:
    try:
      with socket.create_connection((host, port), timeout=min(3.0, left)) as there:
        there.sendall(f'{process}\n'.encode())
        if _line(there, JOIN_TIMEOUT + 1.0) == ALL_HERE:      # process 0 loses patience first, and closes
          return
    except UnicodeError:
      raise InputError(f'--coordinator={host}:{port}: {host!r} is no host\'s name') from None
    except OSError:
      pass                         # not yet
    time.sleep(0.2)
  raise InputError(f'--coordinator={host}:{port}: nobody said there, within {JOIN_TIMEOUT} s, that all processes have come; '
                   'process 0 must run at that address, which this machine must reach, and says which did not come')


def _left(end: socket.socket) -> bool:
  """Whether the process at the other end has closed the connection."""
  end.setblocking(False)
  try:
    return end.recv(1, socket.MSG_PEEK) == b''
  except BlockingIOError:
    return False
  except OSError:
    return True


def _line(end: socket.socket, seconds: float) -> str:
  """What the other end of a connection says before it ends its line or itself; nothing where it says nothing in time."""
  end.settimeout(seconds)
  try:
    return end.makefile('rb').readline(80).decode(errors='replace').strip()
  except OSError:
    return ''


def is_multiprocess() -> bool:
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_primary() -> bool:
  """Whether this process is the one that writes."""
  return not is_multiprocess() or jax.process_index() == 0


def barrier(point: str) -> None:
  """Waits until all processes have come to this point, with what they have written."""
  if is_multiprocess():
    multihost_utils.sync_global_devices(point)


def all_gather_object(value: Any) -> list[Any]:
  """What each process has here, as JSON holds it, in the processes' order."""
  if not is_multiprocess():
    return [value]
  mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(mine)))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[:len(mine)] = mine
  return [json.loads(bytes(one[:size])) for one, size in zip(multihost_utils.process_allgather(padded), sizes)]


def assert_equal_across_processes(fields: Callable[[], dict[str, Any]]) -> None:
  """Refuses to go on where the processes were given different things; of a single process nothing is asked.

  Raises:
    InputError: names what differs, in every process.
  """
  if not is_multiprocess():
    return
  told, *others = all_gather_object(fields())
  for number, other in enumerate(others, 1):
    different = [f'{name}={told.get(name)!r} in process 0, {other.get(name)!r} in process {number}'
                 for name in {**told, **other} if told.get(name) != other.get(name)]
    if different:
      raise InputError(f'the processes were started differently: {"; ".join(different[:3])}')


def preemption_requested(step: int) -> bool:
  """Whether SIGTERM came to any process: true in all of them after the same step, if each asks after every step."""
  return is_multiprocess() and multihost_utils.reached_preemption_sync_point(step)


def to_host(x: jax.Array) -> np.ndarray:
  """A whole array, of any shape, on this host, also where other processes hold parts of it."""
  if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
    return multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)
