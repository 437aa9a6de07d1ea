"""What is chosen because of the machine."""

import pytest

from research.distributed import device

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('vendor, flags, does', [
    ('GenuineIntel', 'avx2 avx512f avx512_bf16 amx_bf16', True), ('GenuineIntel', 'avx2 avx512f avx512_bf16', False),
    ('AuthenticAMD', 'avx2 avx512f avx512_bf16', True), ('AuthenticAMD', 'avx2', False), ('', '', False)])
def test_processors_with_amx_and_amds_with_avx512s_instruction_multiply_bfloat16(monkeypatch, vendor, flags, does):
  monkeypatch.setattr(device, '_of_processor', {'vendor_id': vendor, 'flags': flags}.__getitem__)
  assert device._processor_multiplies_bfloat16.__wrapped__() == does


@pytest.mark.parametrize('maps, tunables, said', [
    (['7f0 r-xp /usr/lib/libtcmalloc_minimal.so.4'], 'glibc.malloc.hugetlb=1', 'tcmalloc'), ([], '', 'unknown'),
    (['7f0 r-xp /usr/lib/libc.so.6'], 'glibc.malloc.hugetlb=1', 'the C library\'s in large pages'),
    (['7f0 r-xp /usr/lib/libc.so.6'], 'glibc.malloc.arena_max=1', 'the C library\'s')])
def test_a_run_says_who_hands_out_its_memory(monkeypatch, maps, tunables, said):
  monkeypatch.setattr(device, '_lines', lambda path: maps)
  monkeypatch.setenv('GLIBC_TUNABLES', tunables)
  assert device.allocator() == said
