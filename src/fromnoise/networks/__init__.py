"""Networks f(x, t): they take a batch and its times and return the shape of the batch.

Autoencoders and the reader of digits have no time.
"""

from fromnoise.networks.digit_features import DigitFeatures
from fromnoise.networks.dit import DiT
from fromnoise.networks.image_vae import ImageVAE
from fromnoise.networks.mlp import MLP
from fromnoise.networks.preconditioned import Preconditioned
from fromnoise.networks.unet import UNet
from fromnoise.networks.vae import VAE, ConvVAE, LinearVAE

__all__ = [
    "MLP",
    "VAE",
    "ConvVAE",
    "DiT",
    "DigitFeatures",
    "ImageVAE",
    "LinearVAE",
    "Preconditioned",
    "UNet",
]
