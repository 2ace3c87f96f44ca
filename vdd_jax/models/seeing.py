"""A denoiser that is shown features of images, both learned together."""

import flax.linen as nn

from vdd_jax.models.vision import ImageEncoder
from vdd_jax.types import Context


class Seeing(nn.Module):
    """`network` behind `encoder`: its contexts have images `[B, T, C, S, S, 3]`, whose features
    become more observed numbers. What is learned is `{"encoder": …, "network": …}`; with features
    in place of images the network is used without its encoder (`Scaler.encode`)."""

    encoder: ImageEncoder
    network: nn.Module

    def _seen(self, context: Context, train: bool) -> Context:
        return context.with_features(self.encoder(context.images, train))

    def __call__(self, x, noise, context: Context, train: bool = False, **more):
        """As of `network`."""
        return self.network(x, noise, self._seen(context, train), train=train, **more)

    def all_actions(self, x, noise, context: Context, train: bool = False):
        """As of `network`, which has whole windows."""
        return self.network.all_actions(x, noise, self._seen(context, train), train=train)
