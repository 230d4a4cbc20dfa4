"""What a scorer reads of a Sample row: its picture and its mask, checked against each other."""

from typing import Any

from maskmill.data_contracts import ContractError, Problem, Reason, Uint8Array, decode_image, decode_mask

Row = dict[str, Any]


def open_pair(row: Row) -> tuple[Uint8Array, Uint8Array | None]:
    """Image uint8 (H, W, 3) and mask uint8 (H, W), or None where the row has no mask.

    Raises:
        ContractError: no image bytes, undecodable bytes, or sizes that differ.
    """
    sample_id = str(row["sample_id"])
    image_bytes, mask_bytes = _bytes(row["image"]), _bytes(row["mask"])
    if image_bytes is None:
        problem = Problem(Reason.MISSING_IMAGE, "embedded image bytes", "none", "ingest with embedded bytes")
        raise ContractError(sample_id, problem)
    image = decode_image(image_bytes, sample_id)
    mask = None if mask_bytes is None else decode_mask(mask_bytes, sample_id)
    if mask is not None and mask.shape != image.shape[:2]:
        problem = Problem(Reason.SIZE_MISMATCH, f"mask {image.shape[:2]}", f"{mask.shape}", "ingest the sample again")
        raise ContractError(sample_id, problem)
    return image, mask


def _bytes(file: dict[str, Any] | None) -> bytes | None:
    return None if file is None else file["bytes"]
