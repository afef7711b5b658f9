"""The training side: latents of a pinned snapshot as batches for torch."""
