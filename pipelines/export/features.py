"""The columns of a sample as `datasets` describes them, for dataset cards."""

import json
from typing import Any

from maskmill.data_contracts import SAMPLE

_RAW = json.loads(SAMPLE.schema.metadata[b"huggingface"])["info"]["features"]
_ORIGIN = {field.name: _RAW["provenance"][field.name] for field in SAMPLE.schema.field("provenance").type}
FEATURES: dict[str, Any] = {**{name: _RAW[name] for name in SAMPLE.schema.names}, "provenance": _ORIGIN}


def yaml_features(features: dict[str, Any]) -> list[dict[str, Any]]:
    """Features as the card's YAML writes them."""
    listed: list[dict[str, Any]] = []
    for name, feature in features.items():
        kind = feature.get("_type")
        if kind == "Image":
            listed.append({"name": name, "dtype": "image"})
        elif kind == "List":
            inner = feature["feature"]
            items = inner["dtype"] if inner.get("_type") == "Value" else yaml_features(inner)
            listed.append({"name": name, "list": items})
        elif kind == "Value":
            listed.append({"name": name, "dtype": feature["dtype"]})
        else:
            listed.append({"name": name, "struct": yaml_features(feature)})
    return listed
