"""mmldm: sounding video generation with multi-modal latent diffusion."""

__version__ = "0.1.0"
