"""The tasks by name; each is a module (see `toy` and `avoiding` for what one holds)."""

from vdd_jax.tasks import avoiding, toy

TASKS = {"toy": toy, "toy1d": toy, "avoiding": avoiding}
