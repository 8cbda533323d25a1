"""Rows that say the same as an earlier one, nearly the same, or the opposite."""

from __future__ import annotations

from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.near import near_hashes, near_mirrored, near_signatures
from veridical.inspection.traces import Traces

EXACT, OPPOSITE = "duplicates", "contradictions"
NEAR_TEXT, NEAR_IMAGE = "near-duplicate texts", "near-duplicate images"


def check_duplicates(traces: Traces) -> Iterator[Finding]:
    """Check that no two rows have the same images and texts, or the same with answers swapped."""
    first: dict[bytes, int] = {}
    for number, id, content, swapped in traces.contents():
        if content in first:
            yield Finding(
                EXACT, "warning", number, id,
                f"has the images and texts of row {first[content]}",
                "take it out, or it counts twice", "drop",
            )  # fmt: skip
            continue
        if swapped in first:
            yield Finding(
                OPPOSITE, "warning", number, id,
                f"prefers the answer that row {first[swapped]} rejects",
                "read both and keep the right one; together they cancel out",
            )  # fmt: skip
        first[content] = number


def check_near_texts(traces: Traces) -> Iterator[Finding]:
    """No two rows have nearly the same long text (MinHash)."""
    places, signatures = traces.signatures()
    for later, earlier, similarity in near_signatures(signatures):
        one, other = places[later], places[earlier]
        if traces.texts[one] == traces.texts[other] and traces.keys[one] == traces.keys[other]:
            continue  # a duplicate, found by its content
        yield Finding(
            NEAR_TEXT, "warning", traces.numbers[one], traces.ids[one],
            f"about {100 * similarity:.0f} % of its phrases are those of "
            f"row {traces.numbers[other]}",
            "look at both: a model learns a template that many texts share, and one image's text "
            "copied to another image teaches hallucinations",
        )  # fmt: skip


def check_near_images(traces: Traces) -> Iterator[Finding]:
    """No two images look the same, or the same in a mirror, and are different files.

    Found by perceptual hash.
    """
    looks = traces.looks()
    same = set()
    for later, earlier, bits in near_hashes(looks):
        same.add(later)
        yield _alike(
            traces, later, earlier, f"({bits} of 64 bits differ)",
            "keep one file of each image; else the same image is in training and held-out rows",
        )  # fmt: skip
    for later, earlier, bits in near_mirrored(looks, traces.mirrored()):
        if later not in same:
            yield _alike(
                traces, later, earlier, f"in a mirror ({bits} of 64 bits differ)",
                "keep both in training rows or both in held-out rows, and check what the texts "
                "say of left and right",
            )  # fmt: skip


def _alike(traces: Traces, later: int, earlier: int, how: str, advice: str) -> Finding:
    row, other = traces.picture_rows[later], traces.picture_rows[earlier]
    return Finding(
        NEAR_IMAGE, "warning", traces.numbers[row], traces.ids[row],
        f"image {traces.picture_names[later] or 'of this row'} looks like "
        f"{traces.picture_names[earlier] or 'that'} of row {traces.numbers[other]} {how}",
        advice,
    )  # fmt: skip
