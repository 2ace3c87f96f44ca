"""The tasks by name; each is a module (see `toy` for what one holds)."""

from vdd_jax.tasks import toy

TASKS = {"toy": toy, "toy1d": toy}
