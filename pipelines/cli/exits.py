"""What a process ends with."""

from enum import IntEnum


class Exit(IntEnum):
    """What a command ends with; docs/cli.md says the same."""

    DONE = 0
    DIFFERENT = 1  # what was compared or checked is not the same
    FAULT = 2  # a config, a file or a call that cannot be used; also what the machine could not do
    EMPTY = 3  # a run ended and kept nothing, or nothing was labelled
    BUG = 70  # an error of maskmill itself
    STOPPED = 130  # Ctrl-C
