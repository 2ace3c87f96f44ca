"""Memory that was freed goes back to the system."""

import ctypes
import gc
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib.version
import pytest

from vdd_jax import config as config_lib
from vdd_jax import host_memory, training


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


def test_the_program_that_a_state_is_born_by_goes():
    """Whatever holds the function; one that is compiled otherwise stays as long as that."""
    mesh = training.sharding.make_mesh(config_lib.default())

    def programs():
        gc.collect()
        return len(jax.devices()[0].client.live_executables())

    def init(x):
        return {"weights": x + 19.25}

    one = jnp.ones(())
    before = programs()
    training.born(init, lambda shapes: jax.tree.map(
        lambda _: training.sharding.replicated(mesh), shapes), one)
    assert programs() == before
    jax.jit(init)(one)
    assert programs() == before + 1


def test_memory_is_given_back_where_it_took_a_while(monkeypatch):
    calls = []
    monkeypatch.setattr(host_memory, "give_back", lambda: calls.append(1))
    for least, times in ((float("inf"), 0), (-1.0, 1)):
        monkeypatch.setattr(host_memory, "LEAST", least)
        with host_memory.given_back():
            assert not calls
        assert len(calls) == times


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


def test_transformers_are_compiled_without_the_newer_emitters():
    """Where this XLA can; and such a program is compiled so, or the option would be refused."""
    config = config_lib.default()
    config.student.trunk = config.teacher.backbone = "residual_mlp"
    assert host_memory.compiler_options(config) is None
    for part, key in (("student", "trunk"), ("teacher", "backbone")):
        ours = config.copy_and_resolve_references()
        ours[part][key] = "transformer"
        options = host_memory.compiler_options(ours)
        older = jaxlib.version.__version_info__ < (0, 11)
        assert options == (host_memory.OLDER_EMITTERS if older else None)
        assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2


def test_an_option_that_xla_does_not_have_is_left_out(monkeypatch):
    monkeypatch.setattr(host_memory, "OLDER_EMITTERS", {"xla_cpu_no_such_option": False})
    assert not host_memory._has_older_emitters.__wrapped__()
