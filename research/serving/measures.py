"""What Prometheus reads of a server, under the names that vLLM gives."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from research.serving.requests import Times

SECONDS = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


class Measures:
  """Counters and histograms of one server."""

  def __init__(self, load: Callable[[], tuple[int, int, float]]):
    """
    Args:
      load: gives answers that are written, answers that wait, and the share of the cache that is filled.
    """
    self._registry = CollectorRegistry()
    self._load = load
    self._registry.register(self)
    histogram = lambda name, says, buckets: Histogram(f'vllm:{name}', says, ['model_name'], buckets=buckets,
                                                      registry=self._registry)
    counter = lambda name, says, *labels: Counter(f'vllm:{name}', says, ['model_name', *labels], registry=self._registry)
    self._read = counter('prompt_tokens', 'Tokens of prompts that were read.')
    self._written = counter('generation_tokens', 'Tokens that were written.')
    self._ended = counter('request_success', 'Answers by how they ended.', 'finished_reason')
    self._refused = counter('request_refused', 'Requests that were refused, by status.', 'status')
    self._first = histogram('time_to_first_token_seconds', 'From a request to its first token.', SECONDS)
    self._each = histogram('inter_token_latency_seconds', 'From one token to the next, on average over an answer.', SECONDS)
    self._whole = histogram('e2e_request_latency_seconds', 'From a request to its end.', SECONDS)
    self._queued = histogram('request_queue_time_seconds', 'From a request to its slot.', SECONDS)
    self._prompt = histogram('request_prompt_tokens', 'Tokens of a prompt.', TOKENS)
    self._answer = histogram('request_generation_tokens', 'Tokens of an answer.', TOKENS)

  def collect(self) -> Iterator[GaugeMetricFamily]:
    """What is read off the engine each time that somebody asks."""
    running, waiting, filled = self._load()
    yield GaugeMetricFamily('vllm:num_requests_running', 'Answers that are written.', running)
    yield GaugeMetricFamily('vllm:num_requests_waiting', 'Answers that wait for a slot.', waiting)
    yield GaugeMetricFamily('vllm:kv_cache_usage_perc', 'The share of the slots that is filled; 1 is all.', filled)

  def answered(self, model: str, prompt: int, answer: int, ended: str, times: Times) -> None:
    """Counts one answer.

    Args:
      model: its name.
      prompt: tokens of the prompt.
      answer: tokens of the answer.
      ended: how.
      times: of the request.
    """
    self._read.labels(model).inc(prompt)
    self._written.labels(model).inc(answer)
    self._ended.labels(model, ended).inc()
    self._prompt.labels(model).observe(prompt)
    self._answer.labels(model).observe(answer)
    self._queued.labels(model).observe(times.since(times.begun))
    self._whole.labels(model).observe(times.since(times.ended))
    if times.first:
      self._first.labels(model).observe(times.since(times.first))
      if answer > 1:
        self._each.labels(model).observe((times.ended - times.first) / (answer - 1))

  def refused(self, model: str, status: int) -> None:
    """Counts a request that was refused, of a model that is served, or of none ('')."""
    self._refused.labels(model, str(status)).inc()

  def text(self) -> bytes:
    """All of it, as Prometheus reads it."""
    return generate_latest(self._registry)
