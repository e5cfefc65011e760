"""Some rows of a batch, as several processes or accumulated passes get them."""

from mmldm.types import Latents


def rows_of(batch: Latents, rows: range) -> Latents:
    part = slice(rows.start, rows.stop)
    mean, logvar, present = (pair.map(lambda x: x[part]) for pair in batch[:3])
    return Latents(mean, logvar, present, batch.class_labels[part])
