"""SAM 3 as judge of masks by names: what it finds in a photo for the words of the mask's own classes.

It reads names, which a judge by boxes does not: a mask of the right place under the wrong name has little in common
with what lies under its word, and objects that the mask left out count as well.
"""

from maskmill.curation.sds.by_boxes import painted
from maskmill.curation.sds.images import Prepared
from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.vision.concepts import Concepts


def named(model: Concepts, sample: Prepared, space: LabelSpace, background: int, least: float) -> Uint8Array:
    """The model's label map uint8 (H, W): a pixel belongs to the best-scored instance above `least` that holds it."""
    classes = sample.mask_classes
    found = list(model.find(sample.image, [space.by_id[class_id].text for class_id in classes], least))
    answers = [(one.score, classes[one.word], one.mask) for one in found]
    return painted(sample.image.shape[:2], background, answers)
