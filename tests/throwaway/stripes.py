"""A throw-away source: striped images with a square."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from maskmill.data_contracts import LabelSpace, encode_image
from maskmill.pipelines.ingest.base import Entry, RawSample, Source


class StripesSource(Source):
    """`count` images 32 × 32; the square is of the label space's first class."""

    kind: Literal["stripes"] = "stripes"
    root: str = ""
    count: int = 4

    def entries(self) -> Iterator[Entry]:
        yield from (Entry(key=f"{number:03d}", stamp="1", fields={"number": number}) for number in range(self.count))

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        number = int(entry.fields["number"])
        image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
        image[:: number + 2] = 200
        image[8:24, 8:24, number % 3] = 255
        mask[8:24, 8:24] = space.ids[0]
        return RawSample(image=encode_image(image), drawn=mask)
