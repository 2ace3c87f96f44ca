"""Runs the stages of a configuration:

    python -m vdd_jax.main --config=configs/toy.py [--workdir=DIR] [--config.key=value …]
"""

import os
import sys
import threading

# before JAX is imported: its C++ side otherwise prints a page of start-up notes
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from vdd_jax import config as config_lib  # noqa: E402
from vdd_jax import host_memory, preemption, stages  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, FILE[:variant].")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is written; a run found there is resumed. "
    "Default: runs/ and the name of the configuration.")
_PRINT = flags.DEFINE_bool("print_config", False, "Print the resolved configuration and stop.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes: HOST:PORT of the first one; with --num_processes and "
    "--process_id. Or 'auto': TPU pod, SLURM, Open MPI or Kubernetes, as JAX finds them.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Start afresh; what is in the workdir is moved aside, not deleted.")


def _main(_):
    if not flags.FLAGS["verbosity"].present:  # orbax tells every file it touches
        logging.set_verbosity(logging.ERROR)
    config = _CONFIG.value
    config_lib.validate(config)
    _join_processes()
    if _PRINT.value:
        print(config_lib.to_json(config))
        return
    file, _, variant = flags.FLAGS["config"].config_filename.partition(":")
    name = os.path.splitext(os.path.basename(file))[0] + (f"_{variant}" if variant else "")
    stages.run(config, _WORKDIR.value or os.path.join("runs", name), _OVERWRITE.value)


def _join_processes():
    """Makes this one of several processes, where the flags ask for it."""
    where, num, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if where is None:
        if num or index:
            raise config_lib.ConfigError("--num_processes and --process_id need --coordinator")
        return
    if where != "auto" and (num is None or index is None or index >= num):
        raise config_lib.ConfigError(
            f"--coordinator={where} needs --num_processes=N and --process_id below N")
    try:
        if where == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(where, num, index)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise config_lib.ConfigError(f"the processes did not find each other: {reason}") from error
    if jax.process_index():  # the first one speaks for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _parse(argv):
    """absl's parsing, every complaint as one sentence."""
    given = [a for a in argv[1:] if a.startswith(("--config=", "-config=")) or a == "--config"]
    asks_for_help = any(a.lstrip("-").startswith("help") for a in argv[1:])
    if not given and not asks_for_help:
        raise config_lib.ConfigError(
            "which experiment? give --config=FILE, for example --config=configs/toy.py")
    for argument in argv[1:]:
        file = argument.partition("=")[2].partition(":")[0]
        if argument.startswith("--config=") and not os.path.isfile(file):
            raise config_lib.ConfigError(f"there is no configuration file {file!r}")
        name = argument.lstrip("-").partition("=")[0]
        if name.startswith("config.") and name[len("config."):] not in config_lib.KEYS:
            name = name[len("config."):]
            raise config_lib.ConfigError(
                f"unknown key config.{name}{config_lib.did_you_mean(name)}")
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        last = str(error).strip().splitlines()[-1]
        if "Traceback" in str(error) and not last.startswith("ValueError: "):
            raise  # a mistake in a configuration file: its author wants to see where
        raise config_lib.ConfigError(last.removeprefix("ValueError: ")) from error
    except (TypeError, ValueError, KeyError, AttributeError, SyntaxError) as error:
        raise config_lib.ConfigError(str(error).strip("'\"")) from error
    if rest[1:]:
        raise config_lib.ConfigError(
            f"unexpected {rest[1]!r}; a key is set by --config.KEY=VALUE")
    return rest


def _configure_jax():
    # a program that was compiled once is not compiled again by the next run
    if not jax.config.jax_compilation_cache_dir:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "vdd_jax", "xla"))
    host_memory.give_back_after_compiling()
    # of a single action on a CPU a good part is the handing over to another thread
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def main():
    _configure_jax()
    # A save that fails in the background is told in a sentence by the thread that waits for it
    # (checkpoint.py); the background need not print a page of traceback as well.
    threading.excepthook = lambda failure: print(
        f"in the background: {str(failure.exc_value).splitlines()[:1]}", file=sys.stderr)
    try:
        app.run(_main, flags_parser=_parse)
    except stages.USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except preemption.Preempted as notice:
        print(f"\n{notice}", file=sys.stderr)
        sys.exit(preemption.EXIT_CODE)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
