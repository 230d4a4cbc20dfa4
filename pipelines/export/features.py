"""The columns of a sample as `datasets` describes them, with names and colours of classes, for dataset cards."""

from typing import Any

from maskmill.data_contracts import SAMPLE, LabelSpace
from maskmill.data_contracts.texts import parse_json

_RAW = parse_json(SAMPLE.schema.metadata[b"huggingface"])["info"]["features"]
_ORIGIN = {field.name: _RAW["provenance"][field.name] for field in SAMPLE.schema.field("provenance").type}
FEATURES: dict[str, Any] = {**{name: _RAW[name] for name in SAMPLE.schema.names}, "provenance": _ORIGIN}


CLASSES = frozenset(("class_ids", "prompt_class_ids", "class_id"))  # columns and fields whose numbers are classes


def class_names(space: LabelSpace) -> list[str]:
    """A name for every id from 0 to the highest, as ClassLabel has it: ids that are no class are called so."""
    names = {entry.id: entry.name for entry in space.classes}
    if space.background_id is not None:
        names = {space.background_id: "background", **names}
    return [names.get(i, f"no class {i}") for i in range(max(names, default=-1) + 1)]


def hex_colour(class_id: int, space: LabelSpace) -> str:
    """`#rrggbb` of a class (or of background, or 255) in palettes and pictures."""
    return "#" + bytes(space.palette[3 * class_id : 3 * class_id + 3]).hex()


def with_classes(features: dict[str, Any], space: LabelSpace) -> dict[str, Any]:
    """Features in which class ids are ClassLabels of a space, at any depth."""
    label = {"names": class_names(space), "_type": "ClassLabel"}
    return {name: _labelled(feature, label, name in CLASSES) for name, feature in features.items()}


def _labelled(feature: dict[str, Any], label: dict[str, Any], is_class: bool) -> dict[str, Any]:
    if feature.get("_type") == "List":
        return {**feature, "feature": _labelled(feature["feature"], label, is_class)}
    if "_type" not in feature:
        return {name: _labelled(inner, label, name in CLASSES) for name, inner in feature.items()}
    return label if is_class else feature


def yaml_features(features: dict[str, Any]) -> list[dict[str, Any]]:
    """Features as the card's YAML writes them."""
    listed: list[dict[str, Any]] = []
    for name, feature in features.items():
        kind = feature.get("_type")
        if kind == "Image":
            listed.append({"name": name, "dtype": "image"})
        elif kind == "List":
            inner = feature["feature"]
            listed.append({"name": name, "list": _yaml_items(inner)})
        elif kind == "Value":
            listed.append({"name": name, "dtype": feature["dtype"]})
        elif kind == "ClassLabel":
            listed.append({"name": name, "dtype": _yaml_label(feature)})
        else:
            listed.append({"name": name, "struct": yaml_features(feature)})
    return listed


def _yaml_items(inner: dict[str, Any]) -> Any:
    if inner.get("_type") == "Value":
        return inner["dtype"]
    return _yaml_label(inner) if inner.get("_type") == "ClassLabel" else yaml_features(inner)


def _yaml_label(feature: dict[str, Any]) -> dict[str, Any]:
    return {"class_label": {"names": {str(i): name for i, name in enumerate(feature["names"])}}}
