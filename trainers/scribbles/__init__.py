"""What trainers on scribbles share: settings, their view of an example, the losses on drawn pixels, a run's frame."""

from maskmill.trainers.scribbles.config import ScribbleConfig
from maskmill.trainers.scribbles.losses import balanced_pce, partial_ce
from maskmill.trainers.scribbles.run import ScribbleRun
from maskmill.trainers.scribbles.view import ScribbleView, scribbled

__all__ = ["ScribbleConfig", "ScribbleRun", "ScribbleView", "balanced_pce", "partial_ce", "scribbled"]
