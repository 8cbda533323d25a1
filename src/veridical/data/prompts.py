"""What is asked, of a model or of a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from veridical.data.messages import Message, user_message

if TYPE_CHECKING:
    from veridical.data.images import ImageLike


@dataclass(frozen=True)
class Prompt:
    """A conversation that an answer continues, with its images.

    Attributes:
        id: the record's, or one made of it; what is drawn at random for the prompt depends on it.
        images: in the order of the image blocks; rows' images are opened when they are needed.
        messages: everything before the answer; the last turn is a user's.
        facts: captions, regions or options that a judge may be told.
        expected_answer: what a short answer should say, if the record knows.
    """

    id: str
    images: Sequence[ImageLike]
    messages: Sequence[Message]
    facts: Sequence[str] = ()
    expected_answer: str | None = None

    @property
    def files(self) -> list[Path]:
        """Those of the images that are files."""
        return [image for image in self.images if isinstance(image, Path)]


def image_question(id: str, image: Path | None, text: str) -> Prompt:
    """A question about one image, or about none."""
    images = [] if image is None else [image]
    return Prompt(id, images, [user_message(text, len(images))])
