"""Object lists that an alignment is given, checked before anything is made."""

from __future__ import annotations

from pathlib import Path

from veridical.data.image_checks import find_images
from veridical.data.object_lists import match_image_ids, name_objects, read_objects
from veridical.data.vocabulary import read_vocabulary
from veridical.runtime.errors import UserError


def check_labels(objects: Path, vocabulary: Path | None, images: Path | None) -> None:
    """Refuse object lists that no evaluation could use, rather than after the training.

    Args:
        objects: JSON {image_id: [object names]}.
        vocabulary: which words name which object; COCO's if not set.
        images: the folder to evaluate on, if there is one.

    Raises:
        UserError: a file is of another form, the folder has no image, no image has a list, or the
            vocabulary knows none of the objects.
    """
    listed, words = read_objects(objects), read_vocabulary(vocabulary)
    if images is None:
        name_objects(listed, words, warn=False)
        return
    ids = match_image_ids(find_images(images), listed)
    known = [image for image in ids.values() if image is not None]
    if not known:
        raise UserError(
            f"{objects} lists no image of {images}: its entries are named as {min(listed)}, the "
            f"images as {min(ids)}. Name each entry as its image, without suffix."
        )
    name_objects({image: listed[image] for image in known}, words, warn=False)
