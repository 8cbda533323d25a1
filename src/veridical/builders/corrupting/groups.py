"""Which objects could stand in each other's place in a sentence."""

from __future__ import annotations

_GROUPS = (
    ("person",),
    ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    (
        "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
    ),
    ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    (
        "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove",
        "skateboard", "surfboard", "tennis racket",
    ),
    ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    (
        "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
        "cake",
    ),
    ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    ("microwave", "oven", "toaster", "sink", "refrigerator"),
    ("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)  # fmt: skip
"""COCO's 80 classes in its 12 supercategories (Lin et al. 2014)."""
_GROUP_OF = {name: number for number, names in enumerate(_GROUPS) for name in names}


def alike(one: str, other: str) -> bool:
    """Whether two objects are of one group; true where either is in none."""
    known = _GROUP_OF.get(one), _GROUP_OF.get(other)
    return None in known or known[0] == known[1]
