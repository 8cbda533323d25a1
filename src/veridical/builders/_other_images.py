"""Another picture of the same set, drawn for each picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from datasets import Dataset
from PIL import Image

from veridical.data.images import RowImage, image_bytes_key, load_image
from veridical.runtime.errors import UserError
from veridical.runtime.progress import track
from veridical.runtime.randomness import generator

ALL_THE_SAME = "--how other needs two pictures that differ, and all pictures of DATA are the same."


class OtherImages:
    """The different pictures of a set, from which another one is drawn.

    Attributes:
        seed: of the draws.
        found: the pictures, in the order in which they are drawn from.
        key: a hash of them all: every draw depends on every one.
    """

    def __init__(self, rows: Dataset, indices: Sequence[int], seed: int) -> None:
        """Find them.

        Args:
            rows: the set.
            indices: those rows of it whose pictures are drawn from.
            seed: of the draws.

        Raises:
            UserError: there is one picture alone.
        """
        pictures = rows.select_columns(["images"])
        found: dict[str, RowImage] = {}
        raw = pictures.with_format("arrow")
        for index in track(indices, "pictures"):
            for number in range(len(raw[index].to_pylist()[0]["images"])):
                image = RowImage(pictures, index, number)
                found.setdefault(image_bytes_key(image), image)
        self.seed, self.found = seed, list(found.values())
        self.key = hashlib.sha256(" ".join(found).encode()).hexdigest()
        if len(self.found) < 2:
            raise UserError(ALL_THE_SAME)

    def instead_of(self, picture: Image.Image, name: str) -> Image.Image:
        """A picture of the set that shows something else; the same for the same name.

        Raises:
            UserError: there is none.
        """
        draw, count = generator(self.seed, "other", name), len(self.found)
        first = int(draw.integers(count))
        for place in range(count):
            other = load_image(self.found[(first + place) % count])
            # Files that differ may show the same.
            if other.size != picture.size or other.tobytes() != picture.tobytes():
                return other
        raise UserError(ALL_THE_SAME)
