"""Segmenters of `transformers` as networks from images to logits: one file a family, found by `model_type`."""

from typing import Any

from maskmill.vision.library_segmenters.base import LibrarySegmenter, folder_normalisation
from maskmill.vision.pretrained import ModelError, check_family, class_in, library_class, model_folder, quiet

FAMILIES = {
    "segformer": "segformer:Segformer",
    "upernet": "upernet:UperNet",
    "dpt": "dpt:Dpt",
    "mask2former": "mask2former:Mask2Former",
    "eomt": "eomt:Eomt",
    "eomt_dinov3": "eomt:EomtDinov3",
}
EXAMPLES = 4


def build_library_segmenter(
    source: str, classes: int, *, config: dict[str, Any] | None = None, weights: str = "auto"
) -> LibrarySegmenter:
    """A network from float32 (B, 3, H, W) to logits (B, classes, H, W), its first weights those of the folder `source`
    but for layers that depend on the number of classes; or, with `config` (or `weights: random`), drawn at random.

    Raises:
        FileNotFoundError: no such folder. ModelError: no segmenter, or weights missing that no class changes.
    """
    settings: Any = library_class("AutoConfig")
    if config is not None:
        kind = str(config.get("model_type"))
        made = settings.for_model(kind).from_dict(dict(config))
    else:
        folder = model_folder(source)
        kind = check_family(folder, FAMILIES, "segmentation")
        made = settings.from_pretrained(str(folder), local_files_only=True)
    if kind not in FAMILIES:
        raise ModelError(f"segmenter {kind!r}: expected one of {', '.join(FAMILIES)}")
    family: type[LibrarySegmenter] = class_in(__name__, FAMILIES[kind])
    made.num_labels = classes
    library = library_class(family.model_class)
    if config is not None or weights == "random":
        return family(library(made))
    options = {"use_safetensors": True, "local_files_only": True, "ignore_mismatched_sizes": True}
    with quiet():
        model, info = library.from_pretrained(str(folder), config=made, output_loading_info=True, **options)
    odd = [str(key) for key in info["missing_keys"] if not str(key).startswith(family.heads)]
    odd += [str(key[0]) for key in info["mismatched_keys"] if not str(key[0]).startswith(family.heads)]
    if odd:
        found = f"{len(odd)} missing or of another shape ({', '.join(sorted(odd)[:EXAMPLES])})"
        raise ModelError(f"{folder}: expected all weights of {family.model_class} but its heads, found {found}")
    return family(model.float())


__all__ = ["FAMILIES", "LibrarySegmenter", "build_library_segmenter", "folder_normalisation"]
