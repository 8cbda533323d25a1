"""Batches for training the embedded policy: an image once, then several texts about it.

Each row is the image's prefix ("USER: <image>" expanded to its patches) and then segments: a
prompt with its answer each. A segment sees the prefix and itself, and its positions go on from
the prefix, so that every segment is what it would be alone; the image is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlavaProcessor

from veridical.runtime.randomness import generator
from veridical.world.drawing import render_array
from veridical.world.language import DESCRIPTION_PROMPTS, SceneQuestion, describe_scene
from veridical.world.model import IMAGE, PATCHES
from veridical.world.scenes import Scene

IGNORED = -100
DESCRIPTION, ANSWER, VERDICT = 1, 2, 3


@dataclass(frozen=True)
class Segment:
    """Token ids, the token to be predicted at each, and what each target belongs to."""

    ids: list[int]
    targets: list[int]
    roles: list[int]


@dataclass(frozen=True)
class PackedRow:
    """One scene, its segments, and which of its patches may be seen."""

    scene: Scene
    segments: list[Segment]
    visible: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PackedBatch:
    """Tensors of a batch of rows; L counts prefix, segments and padding.

    pixel_values (B, 3, H, W); ids, positions, targets, roles (B, L); allowed (B, 1, L, L), true
    where a query (third axis) may see a key (fourth); image_start, the first patch's index.
    """

    pixel_values: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    roles: torch.Tensor
    allowed: torch.Tensor
    image_start: int


class Packer:
    """Turns scenes and texts into batches; keeps the tokens of texts already seen."""

    def __init__(self, processor: LlavaProcessor) -> None:
        self._tokenizer = processor.tokenizer
        self._image = self._tokenizer.convert_tokens_to_ids(IMAGE)
        self._known: dict[tuple[str, str], tuple[list[int], int]] = {}
        start = self._tokenizer("USER: <image>").input_ids.index(self._image)
        self.image_start = start
        head = self._tokenizer("USER: <image>").input_ids[:start]
        self.prefix: list[int] = head + [self._image] * PATCHES

    def description(self, scene: Scene, prompt: str = DESCRIPTION_PROMPTS[0]) -> Segment:
        """The description of a scene; every token of the answer is a target."""
        ids, start = self._tokens(prompt, describe_scene(scene))
        return _segment(ids, start, DESCRIPTION)

    def question(self, question: SceneQuestion) -> Segment:
        """A question; the verdict on existence is asked early too: from the noun on.

        Without the early targets, the way from the answer over the noun to the image has two
        steps that are of no use alone, and so small a model does not find it.
        """
        ids, start = self._tokens(question.text, question.answer)
        segment = _segment(ids, start, ANSWER)
        if question.kind == "existence":
            segment.roles[start - 1] = VERDICT
            noun = ids.index(self._tokenizer.convert_tokens_to_ids(f"▁{question.about}"))
            for early in range(noun, start - 1):
                segment.targets[early] = ids[start]
                segment.roles[early] = ANSWER
        return segment

    def batch(self, rows: Sequence[PackedRow]) -> PackedBatch:
        """Pack rows; shorter ones are padded on the right."""
        prefix = len(self.prefix)
        length = prefix + max(sum(len(s.ids) for s in row.segments) for row in rows)
        shape = (len(rows), length)
        ids = np.full(shape, self._tokenizer.pad_token_id, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        roles = np.zeros(shape, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        owner = np.full(shape, -1, dtype=np.int64)
        seen = np.ones(shape, dtype=bool)
        for number, row in enumerate(rows):
            ids[number, :prefix] = self.prefix
            positions[number, :prefix] = np.arange(prefix)
            owner[number, :prefix] = 0
            seen[number, self.image_start : prefix] = row.visible
            begin = prefix
            for index, segment in enumerate(row.segments, start=1):
                place = slice(begin, begin + len(segment.ids))
                ids[number, place] = segment.ids
                targets[number, place] = segment.targets
                roles[number, place] = segment.roles
                positions[number, place] = prefix + np.arange(len(segment.ids))
                owner[number, place] = index
                begin = place.stop
        pictures = np.stack([render_array(row.scene) for row in rows])
        return PackedBatch(
            pixel_values=pixels(pictures),
            ids=torch.from_numpy(ids),
            positions=torch.from_numpy(positions),
            targets=torch.from_numpy(targets),
            roles=torch.from_numpy(roles),
            allowed=_allowed(torch.from_numpy(owner), torch.from_numpy(seen)),
            image_start=self.image_start,
        )

    def _tokens(self, prompt: str, answer: str) -> tuple[list[int], int]:
        """Tokens behind the image, and where among them the answer starts."""
        if (prompt, answer) not in self._known:
            text = f"USER: <image>\n{prompt} ASSISTANT:"
            behind = self.image_start + 1
            start = len(self._tokenizer(text).input_ids) - behind
            ids = self._tokenizer(f"{text} {answer}</s>").input_ids[behind:]
            self._known[prompt, answer] = (ids, start)
        return self._known[prompt, answer]


def pixels(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """What the image processor makes of pictures (B, H, W, 3): (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def visible_patches(scene: Scene, masked: bool) -> npt.NDArray[np.bool_]:
    """Which patches are seen: all, or, in a masked row, between half and none of them.

    A third of the masked rows keep at most one patch, as guidance by a mask often does.
    """
    rng = generator(0, "mask", scene.id)
    if not masked:
        return np.ones(PATCHES, dtype=bool)
    if rng.random() < 1 / 3:
        kept = int(rng.integers(2))
    else:
        kept = round(PATCHES * float(rng.uniform(0.0, 0.5)))
    visible = np.zeros(PATCHES, dtype=bool)
    visible[rng.permutation(PATCHES)[:kept]] = True
    return visible


def _segment(ids: list[int], start: int, role: int) -> Segment:
    count = len(ids)
    targets = [IGNORED] * (start - 1) + ids[start:] + [IGNORED]
    roles = [role if target != IGNORED else 0 for target in targets]
    if len(targets) != count:
        raise AssertionError("each token has one target")
    return Segment(ids, targets, roles)


def _allowed(owner: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L) from each token's segment (0: the prefix, -1: padding) and visibility."""
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    related = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
    allowed = causal & related & seen[:, None, :]
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]
