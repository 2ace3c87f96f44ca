"""The Avoiding plane: swept collisions against hand-computed distances, and the mode code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.tasks.avoiding import geometry


def test_clearance_is_the_distance_to_the_nearest_cylinder_less_both_radii():
    # Passing the first cylinder (0.5, −0.1), r 0.03, 5 cm beside its centre, rod radius 1 cm.
    free = geometry.clearance(jnp.array([0.45, -0.2]), jnp.array([0.45, 0.0]))
    np.testing.assert_allclose(free, 0.05 - 0.03 - 0.01, atol=1e-6)
    # Beyond the segment's end the distance is to the end point.
    free = geometry.clearance(jnp.array([0.5, -0.3]), jnp.array([0.5, -0.2]))
    np.testing.assert_allclose(free, 0.1 - 0.04, atol=1e-6)


@pytest.mark.parametrize("centre", geometry.CENTRES)
def test_a_step_through_a_cylinder_collides_though_both_ends_are_free(centre):
    start, end = centre - [0.045, 0.0], centre + [0.045, 0.0]
    for point in (start, end):
        assert not geometry.collides(point, point)
    assert geometry.collides(start, end)


def test_touching_is_a_collision_and_radii_differ_between_rows():
    for row, reach in ((0, 0.04), (1, 0.035), (5, 0.035)):
        x, y = geometry.CENTRES[row]
        for offset, touches in ((reach - 1e-4, True), (reach + 1e-4, False)):
            point = jnp.array([x + offset, y])
            assert bool(geometry.collides(point, point)) == touches


def test_clearance_of_a_rod_at_rest_is_finite_with_a_finite_gradient():
    at = jnp.array(geometry.CENTRES[0])
    assert jnp.isfinite(geometry.clearance(at, at))
    assert jnp.isfinite(jax.grad(lambda p: geometry.clearance(p, p))(at)).all()


def path(*x):
    """A way through the three rows at the given x, one point per row and one beyond."""
    return jnp.array([[0.525, -0.28], [x[0], -0.1], [x[1], 0.08], [x[2], 0.27], [x[2], 0.4]])


@pytest.mark.parametrize(
    ("x", "mode", "bits"),
    [
        ((0.4, 0.35, 0.3), 0, [1, 0, 1, 0, 0, 1, 0, 0, 0]),
        ((0.4, 0.35, 0.7), 3, [1, 0, 1, 0, 0, 0, 0, 0, 1]),
        ((0.4, 0.5, 0.42), 5, [1, 0, 0, 1, 0, 0, 1, 0, 0]),
        ((0.6, 0.5, 0.57), 18, [0, 1, 0, 1, 0, 0, 0, 1, 0]),
        ((0.6, 0.65, 0.7), 23, [0, 1, 0, 0, 1, 0, 0, 0, 1]),
    ],
)
def test_mode_codes_by_hand(x, mode, bits):
    assert geometry.mode_of_path(path(*x)) == mode
    np.testing.assert_array_equal(geometry.mode_bits(jnp.array(geometry.ways_of(mode))), bits)


def test_the_24_modes_have_24_codes():
    ways = geometry.ways_of(np.arange(24))
    np.testing.assert_array_equal(geometry.mode_of(jnp.array(ways)), np.arange(24))
    bits = np.asarray(geometry.mode_bits(jnp.array(ways)))
    assert len({tuple(b) for b in bits}) == 24 and (bits.sum(1) == 3).all()


def test_the_first_passage_counts():
    there_and_back = jnp.array([[0.4, -0.1], [0.6, -0.1], [0.5, 0.08], [0.3, 0.26], [0.7, 0.3]])
    assert geometry.mode_of_path(there_and_back) == 0 * 12 + 1 * 4 + 0


def test_bands_of_the_rows():
    nothing = jnp.full(3, -1)
    for y, row in (
        (-0.131, None),
        (-0.129, 0),
        (-0.069, None),
        (0.051, 1),
        (0.259, None),
        (0.26, 2),
    ):
        ways = geometry.update_ways(nothing, jnp.array([0.3, y]))
        np.testing.assert_array_equal(ways >= 0, np.arange(3) == (9 if row is None else row))
    assert geometry.mode_of(jnp.array([0, -1, 2])) == -1
    assert geometry.mode_bits(jnp.array([0, -1, 2])).sum() == 2


def test_finish_and_corridor():
    tcp = jnp.array([[0.5, 0.349], [0.5, 0.351], [0.179, 0.0], [0.851, 0.0], [0.84, 0.0]])
    np.testing.assert_array_equal(geometry.reached(tcp), [False, True, False, False, False])
    np.testing.assert_array_equal(geometry.outside(tcp), [False, False, True, True, False])
