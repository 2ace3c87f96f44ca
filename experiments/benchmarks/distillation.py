"""A whole distillation at the sizes of the relay kitchen, from start to last checkpoint.

    python experiments/benchmarks/distillation.py --batch=1024 --precision=bfloat16 --out=FILE

The stages of `python -m vdd_jax.main`, with log, health checks and checkpoints, on demonstrations
as many and as long as the kitchen's, of random numbers: what is measured is time, not quality. The
teacher is trained for a few updates only, so that there is one. The time of the distillation is
that of the stage: reading the teacher, compiling, 20,000 iterations, writing checkpoints.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import step_jax
from step_rows import Sizes

from vdd_jax import config as config_lib
from vdd_jax import distill, problem, train_teacher

EPISODES, STEPS = 566, 227  # about those of the relay data


def write_demonstrations(path: Path, sizes: Sizes, episodes: int) -> None:
    random = np.random.default_rng(0)
    n = episodes * STEPS
    np.savez(path, observations=random.standard_normal((n, sizes.observation_dim), np.float32),
             actions=random.standard_normal((n, sizes.action_dim), np.float32),
             episode_ends=STEPS * np.arange(1, episodes + 1))


def configure(a, demonstrations: Path):
    """The run's configuration; `a` are the options."""
    sizes = Sizes()._replace(experts=a.experts)
    config = step_jax.configure(sizes, a.window, a.batch, a.precision)
    config.stages = ("train_teacher", "distill")
    config.task.update(name="recorded", demonstrations=str(demonstrations), window=sizes.window,
                       goal_length=sizes.goal_length)
    config.teacher.update(num_iterations=10, check_every=10, batch_size=64)
    config.distill.update(num_iterations=a.iterations, reallocations=0)  # as published
    config.run.update(steps_per_dispatch=min(100, a.iterations), log_every=1_000,
                      checkpoint_every=5_000)
    config_lib.validate(config)
    return config


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024, help="windows in an iteration")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--stop_at", type=int, help="end early: a rehearsal, which leaves the "
                        "programs in JAX_COMPILATION_CACHE_DIR")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of demonstrations")
    parser.add_argument("--window", choices=("all", "last", "joint"), default="all",
                        help="config.distill.window")
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def main(argv=None) -> None:
    a = parse(argv)
    with tempfile.TemporaryDirectory() as scratch:
        demonstrations = Path(scratch) / "demonstrations.npz"
        write_demonstrations(demonstrations, Sizes(), a.episodes)
        config, workdir = configure(a, demonstrations), Path(scratch) / "run"
        with jax.default_matmul_precision(problem.MATMUL[a.precision]):
            train_teacher.run(config, workdir)
            start = time.perf_counter()
            distill.run(config, workdir, stop_at=a.stop_at)
            seconds = time.perf_counter() - start
    device = jax.devices()[0].device_kind
    done = a.stop_at or a.iterations
    per_iteration = 1e3 * seconds / done
    print(f"{device}, {a.precision}, window='{a.window}', {a.experts} experts: {done} "
          f"iterations of {a.batch} windows in {seconds:.0f} s, {per_iteration:.2f} ms each with "
          "all that is beside them")
    if a.out:
        record = {**{k: v for k, v in vars(a).items() if k != "out"}, "device": device,
                  "seconds": round(seconds, 1), "ms_per_iteration": round(per_iteration, 3),
                  "versions": config_lib.versions()}
        a.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
