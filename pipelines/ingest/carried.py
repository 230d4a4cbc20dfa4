"""Objects that a source's own rows carry beside a mask file: maskmill's Parquet and tars give theirs back."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskmill.data_contracts import Instance, LabelSpace, check_instances
from maskmill.pipelines.ingest.masks import Labels, MaskRule

MISFITS = "samples whose objects do not fit their mask and were left out"


def carry(entries: Sequence[Any], labels: Labels, rule: MaskRule, space: LabelSpace) -> tuple[Labels, Counter[str]]:
    """The labels with the objects of `entries` (as a Sample row has them, in the mask file's own ids).

    Objects of classes that became background or ignore go; where the rest does not fit the mask, all go, and a note
    says so.
    """
    try:
        found = [_object(entry, labels, rule) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError):
        return labels, Counter({MISFITS: 1})
    objects = tuple(one for one in found if one is not None and one.class_id in space.by_id)
    if check_instances(objects, labels.mask, space) is not None:
        return labels, Counter({MISFITS: 1})
    return Labels(labels.mask, objects), Counter()


def _object(entry: Mapping[str, Any], labels: Labels, rule: MaskRule) -> Instance | None:
    height, width = labels.mask.shape
    one = Instance.read(entry, height, width)
    value = rule.id_of(one.class_id)
    return None if value is None else replace(one, class_id=value)
