"""The image encoder: sizes, crops, where a spatial softmax points, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdd_jax.models import vision


@pytest.fixture(scope="module")
def images():
    return jax.random.randint(jax.random.key(0), (2, 2, 32, 32, 3), 0, 256).astype(jnp.uint8)


@pytest.fixture(scope="module")
def encoder(images):
    """`apply(params, images, train, rngs)` of a small one, compiled, and its parameters."""
    model = vision.ImageEncoder(width=8, stages=((16, 1), (32, 2)))
    apply = jax.jit(model.apply, static_argnames="train")
    return apply, jax.jit(model.init)(jax.random.key(1), images)


def test_a_resnet_18_has_its_number_of_parameters():
    """11.69 million with its classifier of 1000 classes, which takes 513,000."""
    shapes = jax.eval_shape(
        vision.ResNet().init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)))["params"]
    assert sum(v.size for v in jax.tree.leaves(shapes)) == 11_689_512 - 513_000


def test_maps_are_a_thirty_second_of_the_image():
    shape = jax.eval_shape(
        lambda x: vision.ResNet().init_with_output(jax.random.key(0), x)[0],
        jnp.zeros((1, 96, 96, 3))).shape
    assert shape == (1, 3, 3, 512)


def test_features_of_each_camera_and_any_batch_axes(encoder, images):
    apply, params = encoder
    found = apply(params, images)
    assert found.shape == (2, 16) and found.dtype == jnp.float32
    again = apply(params, images[:, None])
    assert again.shape == (2, 1, 16)
    np.testing.assert_allclose(again[:, 0], found, rtol=1e-4, atol=1e-5)
    other = images.at[:, 1].set(0)  # what the second camera sees changes its features alone
    changed = apply(params, other)
    np.testing.assert_allclose(changed[:, :8], found[:, :8], rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(changed[:, 8:] - found[:, 8:]).max()) > 1e-3


def test_an_image_is_judged_without_the_others(encoder, images):
    """Unlike with batch norm."""
    apply, params = encoder
    alone = apply(params, images[:1])
    np.testing.assert_allclose(alone[0], apply(params, images)[0], rtol=1e-4, atol=1e-5)


def test_training_crops_anew_with_each_key(encoder, images):
    apply, params = encoder

    def found(seed):
        return apply(params, images, train=True, rngs={"crop": jax.random.key(seed)})

    np.testing.assert_array_equal(found(0), found(0))
    assert float(jnp.abs(found(0) - found(1)).max()) > 1e-4


def test_crops_are_pieces_of_the_image():
    """Every place occurs, and what is cropped is what stands there."""
    rows, columns = jnp.meshgrid(jnp.arange(8), jnp.arange(8), indexing="ij")
    image = jnp.stack([rows, columns, 0 * rows], -1).astype(jnp.uint8)
    crops = vision.cropped(jnp.tile(image, (400, 1, 1, 1)), (6, 5), jax.random.key(0))
    assert crops.shape == (400, 6, 5, 3) and crops.dtype == jnp.uint8
    corners = np.asarray(crops[:, 0, 0, :2])
    assert {tuple(c) for c in corners.tolist()} == {(i, j) for i in range(3) for j in range(4)}
    np.testing.assert_array_equal(
        crops[..., 0], corners[:, :1, None] + np.arange(6)[None, :, None] + np.zeros((1, 1, 5)))
    middle = vision.cropped(image[None], (6, 5), None)
    np.testing.assert_array_equal(middle[0], image[1:7, 1:6])


def test_a_shifted_image_cropped_with_the_shift_is_the_same():
    image = jax.random.randint(jax.random.key(2), (1, 12, 12, 3), 0, 256).astype(jnp.uint8)
    shifted = jnp.roll(image, (1, 1), (1, 2))
    np.testing.assert_array_equal(vision.cropped(image, (6, 6), None)[:, :-1, :-1],
                                  vision.cropped(shifted, (6, 6), None)[:, 1:, 1:])


def test_the_spatial_softmax_points_at_what_is_bright():
    maps = jnp.zeros((1, 5, 5, 3)).at[0, 0, 4, 0].set(50.0).at[0, 3, 1, 1].set(50.0)
    np.testing.assert_allclose(
        vision.spatial_softmax(maps)[0], [1.0, -1.0, -0.5, 0.5, 0.0, 0.0], atol=1e-5)


def test_all_parameters_learn(encoder, images):
    apply, params = encoder

    def loss(params):
        return jnp.sum(jnp.square(apply(params, images) - 1.0))

    grads = jax.jit(jax.grad(loss))(params)
    silent = [path for path, g in jax.tree_util.tree_leaves_with_path(grads)
              if float(jnp.abs(g).max()) == 0.0]
    assert not silent
