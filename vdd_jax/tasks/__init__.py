"""The tasks by name; each is a module, or used like one (see `toy` and `avoiding` for what one
holds)."""

from vdd_jax.tasks import avoiding, kitchen, recorded, stacking, toy
from vdd_jax.tasks.planar import aligning, block_push, pushing, sorting
from vdd_jax.tasks.with_images import WithImages

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
    # of the robot its commanded place; of the hand that stacks place and width
    **{name: WithImages(name, of, 2, sorting.EPISODES_PER_CONTEXT[of.num_boxes])
       for name, of in (("sorting_image", sorting.SORTING_4),
                        ("sorting_2_image", sorting.SORTING_2))},
    "stacking": stacking,
    "stacking_image": WithImages("stacking_image", stacking, 5, stacking.EPISODES_PER_CONTEXT),
    "kitchen": kitchen,
    "recorded": recorded,
}
