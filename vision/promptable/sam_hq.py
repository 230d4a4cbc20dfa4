"""SAM-HQ: L. Ke et al., "Segment Anything in High Quality", NeurIPS 2023."""

from typing import Any, ClassVar

from maskmill.vision.promptable.base import PaddedFamily


class SamHq(PaddedFamily):
    """The library's `SamHQModel`. Beside the embedding its decoder reads the first global attention's features."""

    model_class: ClassVar[str] = "SamHQModel"
    processor_class: ClassVar[str] = "SamImageProcessor"

    def split(self, embeddings: Any) -> list[Any]:
        """Embeddings (B, C, h, w), and features (B, h, w, C) a layer, of which the first is read."""
        final, layers = embeddings
        return list(zip(final.split(1), layers[0].split(1), strict=True))

    def joined(self, embedding: Any) -> dict[str, Any]:
        final, first = embedding
        return {"image_embeddings": final, "intermediate_embeddings": [first]}
