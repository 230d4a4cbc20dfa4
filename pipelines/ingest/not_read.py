"""What lies in the folders of a source and nothing reads: so that the account of a run is one of all that is there."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from maskmill.data_contracts import Problem, Reason, storable
from maskmill.data_contracts.image_files import IMAGE_SUFFIXES
from maskmill.pipelines.ingest.spill import Spill

# What to do about files that people have instead of those that a source reads.
ADVICE = {
    ".arrow": "a dataset of `save_to_disk`: set source.kind: save_to_disk",
    ".parquet": "rows with images: set source.kind: hf_parquet",
    ".tar": "shards of a WebDataset: set source.kind: webdataset; else make the archive the `root`",
    ".gz": "unpack it, or make the archive the `root`",
    ".zip": "unpack it, or make the archive the `root`",
    ".heic": "`pip install pillow-heif`, and it is read",
    ".heif": "`pip install pillow-heif`, and it is read",
    ".nii": "volumes: set source.kind: nifti",
    ".mhd": "volumes: set source.kind: mhd",
    ".mha": "volumes: set source.kind: mhd",
    ".h5": "volumes: set source.kind: h5",
    ".dvc": "a pointer: fetch the files with `dvc pull`",
    ".npz": "save the array as .npy, or as PNG",
    ".mat": "save the array as PNG of class ids",
    ".svg": "draw it as PNG",
    ".eps": "draw it as PNG",
    ".psd": "save it as PNG",
    ".xcf": "save it as PNG",
    ".dcm": "convert it to .nii.gz, e.g. with dcm2niix",
    ".nrrd": "convert it to .nii.gz, e.g. with SimpleITK's ReadImage and WriteImage",
    ".mp4": "frames of a video: set source.kind: video",
}


MOST_ROWS = 100  # of one kind that are named one by one; what comes after is one row


class PassedOver:
    """Paths that walks through a root met and left alone, on disk, each with its problem where it has its own."""

    def __init__(self) -> None:
        self.walks: list[tuple[str, frozenset[str]]] = []  # folders that were walked, and the suffixes that were read
        self.opened: set[str] = set()  # lists and annotation files, which no walk has to read
        self._paths: Spill | None = None

    def add(self, path: str, problem: Problem | None) -> None:
        """Note a path that a walk left alone."""
        if self._paths is None:
            self._paths = Spill()
        parts = None if problem is None else [problem.reason, problem.expected, problem.found, problem.fix]
        self._paths.add([(path, parts)])

    def beginning(self, start: str, most: int = 3) -> list[str]:
        """Noted paths that begin so."""
        if self._paths is None:
            return []
        return [storable(path) for path, _ in self._paths.slice_from(start, most) if path.startswith(start)]

    def problems(self) -> Iterator[tuple[str, Problem]]:
        """Path and problem of all that no walk read, sorted, each once."""
        last, more = None, Counter[str]()
        for path, parts in self._paths or ():
            if path != last and path not in self.opened and not self._read(path):
                more[kind := PurePosixPath(path).suffix.lower() if parts is None else parts[1]] += 1
                if more[kind] <= MOST_ROWS:
                    odd = None if parts is None else Problem(Reason(parts[0]), *parts[1:])
                    yield path, odd or _unread(path, self._suffixes())
            last = path
        for kind, count in sorted(more.items()):
            if count > MOST_ROWS:
                found = f"{count - MOST_ROWS} more like the {MOST_ROWS} before"
                fix = "look at those; these lie there for the same reason"
                yield (
                    f"*{kind}" if kind.startswith(".") else "*",
                    Problem(Reason.NOT_READ, "files that are read", found, fix),
                )

    def _read(self, path: str) -> bool:
        name = path.lower()
        return any(
            name.endswith(tuple(suffixes)) and (not folder or path.startswith(f"{folder}/"))
            for folder, suffixes in self.walks
            if not path.rsplit("/", 1)[-1].startswith(".")
        )

    def _suffixes(self) -> list[str]:
        wanted = {suffix for _, suffixes in self.walks for suffix in suffixes}
        some = [".jpg", ".png", ".tif and other images"] if wanted > {".jpg", ".png", ".tif"} else []
        return [*sorted(wanted - (IMAGE_SUFFIXES if some else set())), *some]


def _unread(path: str, suffixes: list[str]) -> Problem:
    suffix = PurePosixPath(path).suffix.lower()
    fix = ADVICE.get(suffix, "convert it if it belongs to the set; else leave it, nothing depends on it")
    return Problem(
        Reason.NOT_READ, f"files in {', '.join(suffixes)}", f"one {f'in {suffix}' if suffix else 'without'}", fix
    )
