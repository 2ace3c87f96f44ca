"""Images → features: a ResNet-18 with group norm for each camera.

The network of He et al. 2016 (a 7×7 stem, four stages of two basic blocks) with every batch norm a
group norm, whose statistics are of one image alone: a moving average of parameters and batches of
any size mean the same thing (Wu and He 2018; Chi et al. 2023). Behind the last stage each channel
says *where* it is active, by a spatial softmax (Levine et al. 2016): a policy needs positions,
which the mean over an image forgets. Images are uint8, `[..., C, S, S, 3]`, C cameras.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike as DType

from vdd_jax.models.products import Dense

CHANNELS_IN_GROUP = 16  # a multiple of it are the channels of every stage
RESNET_18 = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, and stride of the first block


def norm(channels: int, dtype: DType) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=channels // CHANNELS_IN_GROUP, dtype=dtype)


def convolution(channels: int, size: int, stride: int, dtype: DType) -> nn.Conv:
    """Without bias, for a norm follows; padded by size // 2, as the original."""
    return nn.Conv(channels, (size, size), (stride, stride), padding=size // 2, use_bias=False,
                   kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                   dtype=dtype)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a convolution where shapes differ."""

    channels: int
    stride: int
    dtype: DType

    @nn.compact
    def __call__(self, x):
        h = convolution(self.channels, 3, self.stride, self.dtype)(x)
        h = nn.relu(norm(self.channels, self.dtype)(h))
        h = convolution(self.channels, 3, 1, self.dtype)(h)
        h = norm(self.channels, self.dtype)(h)
        if x.shape[-1] != self.channels or self.stride > 1:
            x = convolution(self.channels, 1, self.stride, self.dtype)(x)
            x = norm(self.channels, self.dtype)(x)
        return nn.relu(x + h)


class ResNet(nn.Module):
    """Images `[B, S, S, 3]`, −1 to 1 → maps `[B, S/32, S/32, 512]`; of 18 layers as it is."""

    stages: tuple[tuple[int, int], ...] = RESNET_18
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x):
        first = self.stages[0][0]
        x = nn.relu(norm(first, self.dtype)(convolution(first, 7, 2, self.dtype)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for channels, stride in self.stages:
            x = BasicBlock(channels, stride, self.dtype)(x)
            x = BasicBlock(channels, 1, self.dtype)(x)
        return x


def spatial_softmax(maps: jax.Array) -> jax.Array:
    """Where each channel of `[..., H, W, K]` is active: expected x and y, −1 to 1, `[..., 2 K]`."""
    *batch, height, width, channels = maps.shape
    weight = jax.nn.softmax(
        maps.astype(jnp.float32).reshape(*batch, height * width, channels), axis=-2)
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    places = jnp.stack([x.ravel(), y.ravel()])
    return jnp.einsum("...pk,dp->...kd", weight, places).reshape(*batch, 2 * channels)


class ImageEncoder(nn.Module):
    """Features `[..., C · width]` of images `[..., C, S, S, 3]` uint8, float32.

    In training each image is cropped at random to a `crop` share of its sides; otherwise from the
    middle. The cameras of one state are cropped each on its own. Needs the rng `crop` for that.
    """

    width: int = 64  # features of each camera
    crop: float = 0.875
    stages: tuple[tuple[int, int], ...] = RESNET_18
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool = False):
        *batch, cameras, height, width, _ = images.shape
        flat = images.reshape(-1, cameras, height, width, 3)
        size = round(self.crop * height), round(self.crop * width)
        key = self.make_rng("crop") if train else None
        found = []
        for camera in range(cameras):
            own = None if key is None else jax.random.fold_in(key, camera)
            seen = scaled(cropped(flat[:, camera], size, own)).astype(self.dtype)
            maps = ResNet(self.stages, self.dtype, name=f"camera_{camera}")(seen)
            found.append(Dense(self.width, dtype=self.dtype, name=f"features_{camera}")(
                spatial_softmax(maps)))
        return jnp.concatenate(found, axis=-1).astype(jnp.float32).reshape(*batch, -1)


def encoder(config, dtype: DType = jnp.float32) -> ImageEncoder:
    """That of `config.vision`; `config` is `config.teacher`. Strides are those of ResNet-18."""
    given = config.vision
    stages = tuple((channels, 1 if i == 0 else 2) for i, channels in enumerate(given.channels))
    return ImageEncoder(given.width, given.crop, stages, dtype)


def scaled(images: jax.Array) -> jax.Array:
    """uint8 → float32 from −1 to 1."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def cropped(images: jax.Array, size: tuple[int, int], key: jax.Array | None) -> jax.Array:
    """`[B, H, W, 3]` → `[B, *size, 3]`, each image at a place of its own; without a key the
    middle."""
    room = images.shape[1] - size[0], images.shape[2] - size[1]
    if key is None:
        top, left = room[0] // 2, room[1] // 2
        return images[:, top : top + size[0], left : left + size[1]]
    tops, lefts = (jax.random.randint(k, images.shape[:1], 0, r + 1)
                   for k, r in zip(jax.random.split(key), room, strict=True))

    def one(image, top, left):
        return jax.lax.dynamic_slice(image, (top, left, 0), (*size, image.shape[-1]))

    return jax.vmap(one)(images, tops, lefts)
