"""Parts that several rooms share: CLIP, refiners, segmenters, starter models."""
