"""A small AMBER: three images, each described and asked about once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RELATION = {"car": ["vehicle"], "truck": [], "tree": [], "cup": [], "dog": []}
# Cosines: car and truck 0.9, cup and dog 0.
VECTORS = "car 1 0 0\ntruck 0.9 0.4358899 0\ncup 0 0 1\ndog 0 1 0\ntree 0 0 -1\n"
GENERATIVE = [
    {"truth": ["car", "tree"], "hallu": ["truck", "dog"]},
    {"truth": ["cup"], "hallu": ["car"]},
    {"truth": ["dog"], "hallu": ["cup"]},
]
YES_NO = [
    ("existence", "discriminative-hallucination", "Is there a car in this image?", "yes"),
    ("attribute", "discriminative-attribute-state", "Is the cup red in this image?", "no"),
    ("relation", "relation", "Is there direct contact between the dog and cup?", "no"),
]


def write_amber(folder: Path, names: tuple[str, ...] = ("AMBER_1", "AMBER_2", "AMBER_3")) -> Path:
    """AMBER's files, of ids 1 to 3 (descriptions) and 4 to 6 (questions)."""
    images = [f"{name}.jpg" for name in names]
    files: dict[str, Any] = {
        "relation.json": RELATION,
        "annotations.json": [
            {"id": n, "type": "generative", **own} for n, own in enumerate(GENERATIVE, start=1)
        ],
        "query_generative.json": [
            {"id": n, "image": image, "query": "Describe this image."}
            for n, image in enumerate(images, start=1)
        ],
    }
    for n, (image, (kind, type, query, truth)) in enumerate(
        zip(images, YES_NO, strict=False), start=4
    ):
        files["annotations.json"].append({"id": n, "type": type, "truth": truth, "hallu": truth})
        files[f"query_discriminative-{kind}.json"] = [{"id": n, "image": image, "query": query}]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "safe_words.txt").write_text("tree\n", encoding="utf-8")
    return folder
