"""From a folder of clips to a model folder: `training.run` has the jobs, `training.loop` trains them."""

JOBS = ("vae", "autoencoder", "generator", "vocoder")
"""The jobs of a run in their order, by the names of their sections in a recipe; the vocoder's is optional."""
