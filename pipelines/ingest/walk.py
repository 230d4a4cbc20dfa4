"""What lies in a local folder, link by link: files, and things that stand where a file should."""

import errno
import os
from collections.abc import Iterator

from maskmill.data_contracts import Problem, Reason

BAD_PATH = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES})  # the folder's own fault, not the disk's

NO_FILE = Problem(Reason.NOT_READ, "a file", "a named pipe, socket or device", "put a file there")

Found = tuple[str, "os.DirEntry[str] | None", Problem | None]  # path relative to the base, its entry, what is wrong


def walk_local(base: str, top: str, follow_links: bool) -> Iterator[Found]:
    """Everything under `top`, in no particular order; the path of a folder that is not entered ends in "/"."""
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if error.errno not in BAD_PATH:
                raise
            yield f"{_relative(folder, base)}/", None, _unlisted(error)
            continue
        for entry in entries:
            problem = _problem(entry, base, follow_links)
            if problem is None and _is_folder(entry):
                folders.append(entry.path)
            else:
                problem = problem or (None if entry.is_file() else NO_FILE)
                yield printable(_relative(entry.path, base)) + "/" * _is_folder(entry), entry, problem


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead in a circle
        return False


def _problem(entry: "os.DirEntry[str]", base: str, follow_links: bool) -> Problem | None:
    if entry.name.startswith("."):
        return hidden(entry.name)
    if printable(entry.name) != entry.name:
        return Problem(Reason.UNSAFE_PATH, "a file name in UTF-8", repr(entry.name), "rename the file")
    if not entry.is_symlink():
        return None
    if not os.path.exists(entry.path):
        return dead_link(entry.path)
    if _is_folder(entry):
        return _folder_link(entry, follow_links)
    return None if follow_links else escape(entry.path, base)


def _folder_link(entry: "os.DirEntry[str]", follow_links: bool) -> Problem | None:
    inside = os.path.realpath(entry.path)
    if follow_links and not os.path.realpath(os.path.dirname(entry.path)).startswith(inside):
        return None
    fix = "remove the link: it leads to a folder above it" if follow_links else "set follow_links: true"
    return Problem(Reason.UNSAFE_PATH, "a folder, no link to one", f"{entry.name} -> {inside}", fix)


def escape(path: str, base: str) -> Problem | None:
    """What is wrong with a link that leads out of `base`; None for all else."""
    target = os.path.realpath(path)
    if target.startswith(os.path.realpath(base) + os.sep):
        return None
    fix = "copy the file into the folder, or set follow_links: true"
    return Problem(Reason.UNSAFE_PATH, "a file inside the root", f"a link to {printable(target)}", fix)


def dead_link(path: str) -> Problem:
    """What is wrong with a link whose file is not there, or that leads in a circle."""
    target = printable(os.readlink(path))
    annex = ".git/annex" in target.replace(os.sep, "/")
    fix = "fetch the files first: `datalad get .` or `git annex get .`" if annex else "put the file there"
    return Problem(Reason.NOT_READ, "a file", f"a link to {target}, where there is none", f"{fix}, or remove the link")


def hidden(name: str) -> Problem:
    """Why a file whose name starts with a dot is left alone."""
    fix = "rename it if it belongs to the set"
    return Problem(Reason.NOT_READ, "names that do not start with a dot", f"the hidden {name}", fix)


def _unlisted(error: OSError) -> Problem:
    fix = "give it a shorter path, or the right to be read"
    return Problem(Reason.NOT_READ, "a folder that can be listed", f"{error.strerror}", fix)


def _relative(path: str, base: str) -> str:
    return path[len(base) + 1 :].replace(os.sep, "/")


def printable(name: str) -> str:
    """A name as text that can be stored; bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
