"""Arrays by name → an episode: columns, order, and one sentence for each thing that is wrong."""

import numpy as np
import pytest

from vdd_jax.formats.arrays import FormatError, only, same_sizes, stacked, trajectory

ARRAYS = {"pos": np.arange(12.0).reshape(4, 3), "grip": np.arange(4.0), "flag": np.arange(4) > 1,
          "image": np.zeros((4, 8, 8, 3), np.uint8), "word": np.array(["a", "b", "c", "d"])}


def test_columns_are_put_side_by_side_in_the_order_of_the_keys():
    """Scalars are one column, slices choose, booleans are 0 and 1."""
    found = stacked(ARRAYS, ("grip", "pos[1:]", "flag", "pos[:-2]"), "observation", "here")
    np.testing.assert_array_equal(found, np.stack(
        [[0, 1, 2, 3], [1, 4, 7, 10], [2, 5, 8, 11], [0, 0, 1, 1], [0, 3, 6, 9]], 1))
    assert found.dtype == np.float64


@pytest.mark.parametrize("arrays, keys, words", [
    ({}, ("posn",), r"demo has no array 'posn' for config.task.observation_keys \(did you mean "
                    "'pos'.*it has pos, grip, flag"),
    ({}, ("image",), r"image of demo: shape \(4, 8, 8, 3\), type uint8; .*images are not read"),
    ({}, ("word",), "word of demo: .*should be numbers"),
    ({}, ("pos[3:]",), r"'pos\[3:\]' chooses none of the 3 columns of demo"),
    ({"grip": np.zeros(3)}, ("pos", "grip"), "observation of demo differ in their steps: pos 4, "
                                             "grip 3"),
    ({"pos": np.zeros((0, 3))}, ("pos",), "pos of demo: 0 steps"),
    ({"pos": np.array([[0.0], [np.nan], [np.inf]])}, ("pos",),
     r"pos of demo: 2 of 3 rows hold NaN or infinity \(the first is number 1\)"),
    ({"pos": np.zeros((4, 0))}, ("pos",), r"shape \(4, 0\)"),
])
def test_what_is_wrong_is_said_in_one_sentence(arrays, keys, words):
    with pytest.raises(FormatError, match=words) as error:
        stacked({**ARRAYS, **arrays}, keys, "observation", "demo")
    assert "\n" not in str(error.value)


def test_nan_in_columns_that_are_not_chosen_does_not_matter():
    arrays = {"pos": np.array([[0.0, np.nan], [1.0, 2.0]])}
    np.testing.assert_array_equal(stacked(arrays, ("pos[:1]",), "action", "x"), [[0.0], [1.0]])


def test_which_arrays_where_none_are_named():
    """The usual one, or the only one; otherwise the names have to be said."""
    assert only({"a": 0, "state": 0}, (), "state", "observation", "x") == ("state",)
    assert only({"a": 0}, (), "state", "observation", "x") == ("a",)
    assert only({"a": 0, "state": 0}, ("a",), "state", "observation", "x") == ("a",)
    with pytest.raises(FormatError, match="which actions. x has a, b; .*config.task.action_keys"):
        only({"a": 0, "b": 0}, (), "state", "action", "x")


def test_episodes_agree_in_their_sizes():
    one, other = (trajectory(np.zeros((3, n)), np.zeros((3, 2)), "x") for n in (4, 5))
    assert same_sizes([one, one], "ab") == [one, one]
    with pytest.raises(FormatError, match="observations of b have 5 numbers, those of a 4"):
        same_sizes([one, other], "ab")
    with pytest.raises(FormatError, match="x has 3 observations but 2 actions"):
        trajectory(np.zeros((3, 4)), np.zeros((2, 2)), "x")
