"""Which masks belong to which photo: by equal stems, or by a `pair` pattern."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from maskmill.data_contracts import Problem, Reason
from maskmill.pipelines.ingest.files import File, FileIndex, pack_file, unpack_file
from maskmill.pipelines.ingest.lists import missing_image
from maskmill.pipelines.ingest.pair_rule import MOST_NAMES, PairRule, guess_pattern
from maskmill.pipelines.ingest.spill import Spill


@dataclass(frozen=True)
class Masks:
    """What belongs to a photo: its masks with the class that each name states, and what is wrong with them."""

    files: tuple[tuple[File, str | None], ...] = ()
    problem: Problem | None = None


class StemPairs:
    """A mask has its photo's stem, or its whole name, and `suffix` behind it."""

    def __init__(self, images: FileIndex, masks: FileIndex | None, suffix: str = "") -> None:
        self.images, self.masks, self.suffix = images, masks, suffix
        self._together = masks is not None and masks.folder == images.folder
        self._advice = self._guess()

    def is_image(self, stem: str) -> bool:
        """Whether a stem of the images' folder is a photo's: masks may lie there too."""
        return not (self._together and stem.endswith(self.suffix))

    def masks_of(self, stem: str, image: File) -> Masks:
        """The one mask of a photo."""
        if self.masks is None:
            return Masks()
        found = self._found(stem, image)
        problem = pairing_problem(stem + self.suffix, found, self.masks, self._advice)
        return Masks(tuple((file, None) for file in found[:1]), problem)

    def _found(self, stem: str, image: File) -> list[File]:
        assert self.masks is not None
        name = self.images.inside(image.path)
        own = [] if image.problem else [f for f in self.masks.find(name + self.suffix) if f.path != image.path]
        return sorted({*self.masks.find(stem + self.suffix), *own}, key=lambda f: f.path)

    def left_over(self) -> Iterator[tuple[str, File]]:
        """Masks without a photo: the stem that the photo would have, and the mask with what is wrong."""
        for stem, mask in self.masks or ():
            own = stem.removesuffix(self.suffix)
            if stem.endswith(self.suffix) and not self.images.find(own) and self.images.find_path(own) is None:
                absent = missing_image(own, own, self.images.instead(own), advice=self._advice)
                yield own, mask if mask.problem else replace(mask, problem=absent.problem)

    def _guess(self) -> str:
        """A pattern that would pair names that differ, as words for whoever has to mend them; "" where none would."""
        if self.masks is None:
            return ""
        first = islice(self.images, MOST_NAMES)
        lone = [s for s, f in first if self.is_image(s) and not f.problem and not self._found(s, f)]
        spare = (stem for stem, _ in self.masks if not self.images.find(stem.removesuffix(self.suffix)))
        pattern = guess_pattern(lone, islice(spare, 3 * MOST_NAMES)) if lone else None
        return "" if pattern is None else f"; by their names they would pair with source.pair: '{pattern}'"


class PatternPairs:
    """Photos and masks whose names give the same key; a photo may have several masks."""

    def __init__(self, images: FileIndex, masks: FileIndex | None, rule: PairRule) -> None:
        self.images, self.masks, self.rule = images, masks, rule
        self._together = masks is not None and masks.folder == images.folder
        self._keys, self._by_key = Spill(), Spill()
        self._keys.add((m.key, 1) for stem, _ in images if (m := rule.match(stem)) is not None and m.side != "mask")
        self._by_key.add(
            (match.key, [pack_file(file), match.word])
            for stem, file in masks or ()
            if (match := rule.match(stem)) is not None and self._is_mask(match.side)
        )

    def _is_mask(self, side: str) -> bool:
        return side == "mask" or (side == "" and not self._together)

    def is_image(self, stem: str) -> bool:
        """Whether a stem of the images' folder is a photo's: masks may lie there too."""
        match = self.rule.match(stem)
        return match is None or match.side != "mask"

    def masks_of(self, stem: str, image: File) -> Masks:
        """All masks of a photo's key."""
        match = self.rule.match(stem)
        if match is None:
            return Masks(problem=self._odd(stem))
        if self.masks is None:
            return Masks()
        found = [(unpack_file(raw), word) for raw, word in self._by_key.get(match.key)]
        found.sort(key=lambda pair: pair[0].path)
        if not found:
            fix = "add the mask, drop the image, or mend source.pair"
            return Masks(problem=Problem(Reason.MISSING_MASK, f"a mask with the key {match.key!r}", "none", fix))
        fault = next((replace(f.problem, where=f.path) for f, _ in found if f.problem), None)
        return Masks(tuple(found), fault)

    def left_over(self) -> Iterator[tuple[str, File]]:
        """Masks without a photo, and names in the masks' folder that the pattern does not fit."""
        for stem, mask in self.masks or ():
            match = self.rule.match(stem)
            if match is None and not self._together:
                yield stem, replace(mask, problem=self._odd(stem))
            elif match is not None and self._is_mask(match.side) and not self._keys.get(match.key):
                expected, fix = f"an image with the key {match.key!r}", "add the image, or drop the mask"
                yield stem, replace(mask, problem=Problem(Reason.MISSING_IMAGE, expected, "none", fix))

    def _odd(self, stem: str) -> Problem:
        fix = "leave it if it is neither photo nor mask; else mend source.pair"
        return Problem(Reason.NOT_READ, f"a name that fits source.pair: {self.rule.pattern}", stem, fix)


Pairs = StemPairs | PatternPairs


def pairing_problem(stem: str, found: list[File], masks: FileIndex | None, advice: str = "") -> Problem | None:
    """What is wrong with the masks found for a stem: none, several, or one that may not be opened."""
    if masks is None:
        return None
    if not found:
        fix = f"add the mask, or drop the image{advice}"
        return Problem(Reason.MISSING_MASK, f"a mask {masks.folder}/{stem}.*", masks.instead(stem), fix)
    if len(found) > 1:
        names = ", ".join(f.path for f in found)
        fix = "remove all but one, or set source.pair, which unites several masks of a photo"
        return Problem(Reason.BAD_ANNOTATION, "one mask for an image", names, fix)
    fault = found[0].problem
    return None if fault is None else replace(fault, where=fault.where or found[0].path)
