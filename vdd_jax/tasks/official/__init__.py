"""The benchmarks' own simulators, where the user has installed them: one episode at a time.

`config.task.simulator = 'official'` drives them in the evaluation. They are slow (4 to 20 seconds
an episode) and need old packages, which is why they are not what this library uses by itself. The
episodes come back in the form of the task's own simulator, so that scores and reports are the same.

* D3IL (`d3il.py`: avoiding, pushing, aligning, sorting; `stacking.py`; sorting and stacking with
  images too): a checkout of ALRhub/d3il.
* Block push (`block_push.py`): a checkout of intuitive-robots/beso.
"""

from vdd_jax.tasks.official import block_push, d3il, stacking

SIMULATORS = {**{name: d3il for name in d3il.TASKS}, "stacking": stacking,
              "stacking_image": stacking, "block_push": block_push}


def about(task) -> str:
    """The simulator's name, for reports; `task` is `config.task`."""
    return SIMULATORS[task.name].ABOUT


def rollout(task, actor, key, num_episodes: int, encode=None):
    """Episodes of a policy in the official simulator of `task` = `config.task`.

    Args:
      actor: as in `vdd_jax.closed_loop`, for batches of one.
      encode: of a task with images, `[1, C, S, S, 3] → [1, F]`.

    Raises:
      ImportError: the simulator cannot be imported; the text says how to get it.
    """
    given = {} if encode is None else {"encode": encode}
    return SIMULATORS[task.name].rollout(task, actor, key, num_episodes, **given)
