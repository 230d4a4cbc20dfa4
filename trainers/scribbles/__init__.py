"""What trainers on scribbles share: their view of an example, and the losses on drawn pixels."""

from maskmill.trainers.scribbles.losses import balanced_pce, partial_ce
from maskmill.trainers.scribbles.view import ScribbleView, check_input, scribbled

__all__ = ["ScribbleView", "balanced_pce", "check_input", "partial_ce", "scribbled"]
