"""A plan as a person reads it."""

from collections.abc import Mapping
from typing import Any

from research.planning import account, plans
from research.planning.chips import GIB


def format_plan(found: Mapping[str, Any]) -> str:
  """A plan as a person reads it."""
  p, mesh = found['parameters'], ' x '.join(f'{axis}={n}' for axis, n in found['mesh'].items())
  lines = [f'{found["strategy"]} on {found["model"]}: {p["total"]:,} parameters, {p["trainable"]:,} of them learn',
           f'{found["devices"]} x {found["device"]} ({mesh})']
  if 'because' in found:
    return '\n'.join([*lines, found['because']])
  b = found['bytes_per_device']
  lines.append('on each device: ' + ', '.join(f'{kind} {b[kind] / GIB:.2f}' for kind in account.KINDS if b[kind])
               + f'; {b["total"] / GIB:.2f} of {found["memory_per_device"] / GIB:.2f} GiB (account)')
  if 'compiled' in found:
    c = found['compiled']
    lines.append(f'compiled: arguments {c["arguments"] / GIB:.2f}, temporaries {c["temporary"] / GIB:.2f}; '
                 f'{c["total"] / GIB:.2f} GiB ({c["compile_seconds"]:.0f} s to compile)')
  bounds = ', '.join(f'{name} {seconds:.3g} s' for name, seconds in found['bounds'].items() if seconds)
  lines += [f'a step: {found["flops_per_step"] / 1e12:,.3g} TFLOP, at least {found["step_seconds"]:.3g} s, bound by '
            f'{found["bound_by"]} ({bounds}); {found["tokens_per_second"]:,.0f} tokens/s',
            f'{found["steps"]:,} steps: {found["hours"]:.3g} hours or more']
  lines += [f'  {row["machines"]} x {row["machine"]} ({row["provider"]}): {row["usd_per_hour"]:,.2f} USD an hour, '
            f'{row["usd"]:,.2f} USD in all (prices of {row["prices_of"]})' for row in found['cost']]
  if not found['fits']:
    lines.append('it does not fit; these changes would:' if found['changes'] else 'it does not fit, nor after any change tried')
    lines += [f'  {plans.change(one)}' for one in found['changes']]
  return '\n'.join(lines)
