"""Replays recorded demonstrations of the Avoiding task open loop in the re-created simulator.

    python experiments/avoiding_replay.py --demonstrations=DIR

DIR holds the 96 official D3IL pickles. Only the recorded desired positions are given; the rod's
way is the identified model's. Expected: 96/96 succeed, 96/96 in the recorded mode, some seconds.
`experiments/avoiding_dynamics.py` has the same number for demonstrations not fitted on.
"""

import argparse

import jax
import numpy as np
from avoiding_dynamics import load, outcome  # beside this file

from vdd_jax.tasks.avoiding import dynamics, geometry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demonstrations", required=True, help="directory of official pickles")
    flags = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    desired, recorded, weight, mask = load(flags.demonstrations)
    replayed = np.asarray(dynamics.follow(desired))
    modes = {}
    for name, tcp in (("recorded", recorded), ("replayed", replayed)):
        success, modes[name], clearance = outcome(tcp, mask)
        histogram = np.bincount(modes[name][modes[name] >= 0], minlength=geometry.NUM_MODES)
        print(
            f"{name}: success {success.sum()}/{len(success)}, smallest clearance "
            f"{1000 * clearance.min():.1f} mm, modes {histogram.tolist()}"
        )
    same = np.sum(modes["recorded"] == modes["replayed"])
    error = np.sum((replayed - recorded) ** 2, -1)[weight == 1.0]
    print(
        f"same mode {same}/{len(mask)}; free-running RMS {100 * np.sqrt(error.mean()):.3f} cm "
        f"up to the finish line"
    )


if __name__ == "__main__":
    main()
