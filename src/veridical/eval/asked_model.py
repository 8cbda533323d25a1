"""The model that an evaluation asks: loaded when it is first asked, and only once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.data.image_checks import refused_files
from veridical.runtime.errors import UserError
from veridical.runtime.options import Placement
from veridical.runtime.shards import print_result

if TYPE_CHECKING:
    from veridical.models.merge_cost import MergeCost
    from veridical.models.policy import Policy
    from veridical.runtime.cache import Cache
    from veridical.runtime.fingerprint import Fingerprint

# PyTorch takes seconds to import, and answers made elsewhere are scored without it: whatever needs
# it is imported where a model is asked.


@dataclass(frozen=True)
class AskedModel:
    """A model that questions are put to.

    Attributes:
        name: a hub name, a folder, or `embedded`, as for `load_policy`.
        placement: as for `load_placed`.
        template: what the chat template is given; a part of every answer's key.
        features: where to keep the image encoder's output for each image, so that an image is
            encoded once for all that is asked about it; None encodes it for each question.
        features_required: refuse a model that takes no features; else it encodes each image anew.
        loaded: the model, where it was loaded before.
    """

    name: str
    placement: Placement = Placement()
    template: Mapping[str, Any] | None = None
    features: Cache | None = None
    features_required: bool = True
    loaded: Policy | None = None

    @cached_property
    def policy(self) -> Policy:
        """The loaded model.

        Raises:
            UserError: it cannot be loaded, changed meanwhile, or takes no image features where they
                are to be kept.
        """
        from veridical.models.cache_keys import model_fingerprint
        from veridical.models.load import load_placed
        from veridical.models.vision_cache import VisionCache, features_if_taken

        model = self.loaded or self.name
        policy = load_placed(model, self.placement, self.template)
        if model_fingerprint(model).key != self.fingerprint.key:
            raise UserError(f"{self.name} changed since it was looked at. Start again.")
        if self.features is None:
            return policy
        if self.features_required:
            return replace(policy, vision=VisionCache(policy, self.features))
        vision, reason = features_if_taken(policy, self.features)
        if vision is None:
            print_result(f"{reason} Each image is encoded anew for every question.")
        return replace(policy, vision=vision)

    @property
    def merges(self) -> tuple[MergeCost, ...]:
        """What rounding cost of each adapter merged when it was loaded; none before that."""
        loaded: Policy | None = vars(self).get("policy")
        return () if loaded is None else loaded.merges

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Which model it is, known before it is loaded."""
        if self.loaded is not None:
            from veridical.models.cache_keys import model_fingerprint

            return model_fingerprint(self.loaded)
        from veridical.runtime.fingerprint import fingerprint

        return fingerprint(self.name)

    @property
    def folders(self) -> list[Path]:
        """The folder that it is loaded from, which an evaluation must not write into."""
        return [Path(self.name)] if Path(self.name).is_dir() else []

    def unusable_images(self, files: Iterable[Path]) -> dict[Path, str]:
        """The images that cannot be decoded, or that the model's processor refuses, and why.

        Found now and not in the middle of a run. The processor is loaded only if an image is of an
        unusual size.
        """

        def load() -> Any:
            if self.loaded is not None:
                return self.loaded.processor
            from veridical.models.load import load_processor

            return load_processor(self.name)

        return refused_files(files, load)
