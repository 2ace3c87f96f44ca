"""Memory that was freed goes back to the system."""

import ctypes
import gc
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vdd_jax import host_memory


def resident_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def test_what_was_freed_in_pieces_is_given_back():
    """100 MiB in pieces of 1 KiB, of which every 100th stays."""
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pieces = [libc.malloc(1024) for _ in range(100_000)]
    for piece in pieces:
        libc.memset(piece, 1, 1024)
    for i, piece in enumerate(pieces):
        if i % 100:
            libc.free(piece)
    kept = resident_mib()
    host_memory.give_back()
    assert kept - resident_mib() > 50
    for piece in pieces[::100]:
        libc.free(piece)


def test_after_each_large_program(monkeypatch):
    """JAX tells of what it compiles, by the name that is listened for."""
    calls = []
    monkeypatch.setattr(host_memory, "give_back", lambda: calls.append(1))
    monkeypatch.setattr(host_memory, "LEAST", -1.0)
    host_memory.give_back_after_compiling()
    program = jax.jit(lambda x: jnp.sin(x) + 17.25)
    program(jnp.ones(3))
    seen = len(calls)
    assert seen >= 2  # before it is compiled, and after
    program(jnp.ones(3))
    assert len(calls) == seen
    monkeypatch.setattr(host_memory, "LEAST", 1e9)
    jax.jit(lambda x: jnp.cos(x) + 18.25)(jnp.ones(3))
    assert len(calls) == seen


def test_once_however_often_a_process_begins_a_run(monkeypatch):
    heard = []
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", heard.append)
    host_memory.give_back_after_compiling.cache_clear()
    for _ in range(3):
        host_memory.give_back_after_compiling()
    assert len(heard) == 1
    host_memory.give_back_after_compiling.cache_clear()


def test_what_is_left_in_cycles_is_freed():
    class Program:
        pass

    gc.disable()
    try:
        program = Program()
        program.itself, seen = program, weakref.ref(program)
        del program
        assert seen() is not None
        host_memory.give_back()
        assert seen() is None
    finally:
        gc.enable()


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    host_memory.give_back()
