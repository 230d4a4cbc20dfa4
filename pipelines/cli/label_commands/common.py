"""What several label commands share."""

from rich.console import Console

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.core.settings import ConfigError


def asked_space(classes: str | None, label_space: str | None) -> LabelSpace:
    """The label space of `--classes a,b` or of `--label-space NAME`.

    Raises:
        ConfigError: both were given, or neither.
    """
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    if bool(names) == bool(label_space):
        raise ConfigError("expected either --classes 'horse,person' or --label-space voc, found both or neither")
    return load_label_space(label_space) if label_space else LabelSpace.from_names(names)


def print_summary(console: Console, counts: dict[str, int]) -> None:
    """One line: how many were labelled, and how many were not by reason."""
    left_out = ", ".join(
        f"{number} {reason.replace('_', ' ')}" for reason, number in counts.items() if reason != "kept"
    )
    console.print(
        f"labelled {counts.get('kept', 0)} of {sum(counts.values())}" + (f" ({left_out})" if left_out else "")
    )
