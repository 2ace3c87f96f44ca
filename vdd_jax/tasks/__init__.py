"""The tasks by name; each is a module, or used like one (see `toy` and `avoiding` for what one
holds)."""

from vdd_jax.tasks import avoiding, kitchen, recorded, stacking, toy
from vdd_jax.tasks.planar import aligning, block_push, pushing, sorting

TASKS = {
    "toy": toy,
    "toy1d": toy,
    "avoiding": avoiding,
    "block_push": block_push,
    "pushing": pushing,
    "aligning": aligning,
    "sorting_2": sorting.SORTING_2,
    "sorting_4": sorting.SORTING_4,
    "sorting_6": sorting.SORTING_6,
    "stacking": stacking,
    "kitchen": kitchen,
    "recorded": recorded,
}
