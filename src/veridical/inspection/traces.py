"""What is kept of each usable row until the set is known: hashes and sketches, no texts."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.data.record_kinds import Kind
from veridical.data.record_types import OF_ONE_ANSWER
from veridical.inspection.near import HASHES
from veridical.inspection.pictures import NO_HASH, short_hash
from veridical.inspection.rows import Row
from veridical.inspection.texts import shingles, words

FEWEST_WORDS = 20
"""Below, texts of different rows are often the same by chance, and only copies count."""

REST = (*OF_ONE_ANSWER, "facts", "expected_answer")
"""Fields in which rows with the same images, question and answers can differ."""


class Traces:
    """A set's rows, some hundred bytes each."""

    def __init__(self, kind: Kind, marks_of: Callable[[dict[str, str]], tuple[int, int]]) -> None:
        """Begin.

        Args:
            kind: of the rows.
            marks_of: bits of what the form of the chosen and of the rejected answer has.
        """
        self.kind = kind
        self.rows = 0
        self.numbers: list[int] = []
        self.ids: list[str] = []
        self.keys: list[bytes] = []  # of each row's images together
        self.texts: list[bytes] = []  # of what was asked and answered
        self.rests: list[bytes] = []  # of what else a row has that is learned from
        self.swapped: list[bytes] = []
        self.picture_names: list[str] = []  # of distinct images, with the place of a row
        self.picture_rows: list[int] = []
        self._looks: list[int] = []
        self._mirrored: list[int] = []
        self._pictures: set[bytes] = set()
        self._signatures: list[NDArray[Any]] = []
        self._signed: list[int] = []
        self._marks_of = marks_of
        self.marks: Counter[tuple[int, int]] = Counter()  # of pairs, by what each answer has
        self._sketch: Any = None

    def add(self, row: Row) -> None:
        """Take what is needed of a row."""
        self.rows += 1
        if row.record is None:
            return  # left out, so no other row is one too many because of it
        place = len(self.numbers)
        self.numbers.append(row.number)
        self.ids.append(row.id)
        answers = list(row.answers.values())
        self.keys.append(short_hash(b"".join(picture.key for picture in row.pictures)))
        self.texts.append(_hash_of([row.prompt, *answers]))
        self.swapped.append(_hash_of([row.prompt, *reversed(answers)]))
        self.rests.append(_rest(row.record))
        for picture in row.pictures:
            if picture.key not in self._pictures and picture.look != NO_HASH:
                self._pictures.add(picture.key)
                self.picture_names.append(picture.name)
                self.picture_rows.append(place)
                self._looks.append(picture.look)
                self._mirrored.append(picture.mirrored)
        found = words("\n".join([row.prompt, *answers]))
        if len(found) >= FEWEST_WORDS:
            self._signed.append(place)
            self._signatures.append(self._signature(found))
        if self.kind == "preference":
            self.marks[self._marks_of(row.answers)] += 1

    def contents(self) -> Iterator[tuple[int, str, bytes, bytes]]:
        """Number, id, and hashes of each row's images and texts, as they are and swapped."""
        columns = (self.numbers, self.ids, self.keys, self.texts, self.swapped, self.rests)
        for number, id, key, text, swapped, rest in zip(*columns, strict=True):
            other = key + rest + swapped if self.kind == "preference" and swapped != text else b""
            yield number, id, key + rest + text, other

    def signatures(self) -> tuple[list[int], NDArray[np.uint64]]:
        """MinHash signatures of the rows with enough words, and the places of those rows."""
        if not self._signatures:
            return [], np.zeros((0, HASHES), dtype=np.uint64)
        return self._signed, np.stack(self._signatures).astype(np.uint64)

    def looks(self) -> NDArray[np.uint64]:
        """Perceptual hashes of the distinct images."""
        return np.array(self._looks, dtype=np.uint64)

    def mirrored(self) -> NDArray[np.uint64]:
        """Those of their mirror images."""
        return np.array(self._mirrored, dtype=np.uint64)

    def _signature(self, found: list[str]) -> NDArray[Any]:
        from datasketch import MinHash

        if self._sketch is None:
            self._sketch = MinHash(num_perm=HASHES, seed=1, hashfunc=zlib.crc32)
        sketch = self._sketch.copy()
        sketch.update_batch(sorted(shingles(found)))
        values: NDArray[Any] = np.asarray(sketch.hashvalues)
        return values.astype(np.uint32) if values.max() < 2**32 else values


def _hash_of(texts: list[str]) -> bytes:
    return short_hash("\0".join(text.strip() for text in texts).encode(errors="replace"))


def _rest(record: Mapping[str, Any]) -> bytes:
    rest = [(name, record[name]) for name in REST if record.get(name)]
    return short_hash(repr(rest).encode(errors="replace")) if rest else b""
