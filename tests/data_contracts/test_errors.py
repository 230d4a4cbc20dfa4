"""Whose fault it is: the machine's is raised and tried again, the data's is recorded."""

import errno

import pytest

from maskmill.data_contracts import Problem, Reason, is_transient, raise_transient
from maskmill.data_contracts.image_files import faults


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (MemoryError(), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(errno.EIO, "input/output error"), True),
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (OSError(errno.EISDIR, "a folder"), False),
        (OSError(errno.ENAMETOOLONG, "too long"), False),
        (OSError("cannot identify image file"), False),  # what decoders say of bad content: no number
        (ValueError("no picture"), False),
    ],
)
def test_faults_of_the_machine_are_told_from_those_of_the_data(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient
    if not transient:
        raise_transient(error)
        return
    with pytest.raises(type(error)) as caught:
        raise_transient(error)
    assert caught.value is error


def test_a_decoder_that_runs_out_of_memory_is_no_bad_picture() -> None:
    with pytest.raises(MemoryError), faults(b"x", "a.jpg", Reason.UNDECODABLE_IMAGE):
        raise MemoryError


def test_a_problem_in_words() -> None:
    problem = Problem(Reason.BAD_ANNOTATION, "a box", "a line", "draw a box")
    assert str(problem) == "bad_annotation: expected a box, found a line. Fix: draw a box"
    there = Problem(Reason.BAD_ANNOTATION, "a box", "a line", "draw a box", where="id 7")
    assert str(there) == "bad_annotation at id 7: expected a box, found a line. Fix: draw a box"
