"""Image features kept between steps and runs, in the place of pictures.

An image encoder's output for an image never changes while it is frozen, so the image needs to be
decoded, preprocessed and encoded once. Kept are the features after the projector, or what goes into
the projector where that is trained; per image, not per row. What the processor makes of a row's
text beside them (its ids with the placeholders filled in) is kept too, since it takes the image's
size to make it.

The model gets the features by the door that Transformers has for them, `mm_encoder_outputs`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from veridical.data.images import ImageLike, image_bytes_key, image_key
from veridical.data.records import user_message
from veridical.models.cache_keys import processor_hash, surroundings, tensors_hash
from veridical.models.decoder_inputs import decoder_inputs
from veridical.models.policy import Policy, image_features, image_token_id, takes_features
from veridical.models.positions import TOKEN_INPUTS, vision_inputs
from veridical.models.processing import process
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.tuning import find_projector
from veridical.runtime.cache import Cache, digest
from veridical.runtime.errors import UserError

FEATURES, COUNTS, FORM = "kept_features", "kept_counts", "kept_form"
"""Names under which features travel in a batch: pieces one after another, how long each is along
the first dimension, and their form."""

LIST, BEFORE, SINGLE = 1, 2, 4
"""Forms, to be added: the model's own output is a list of pieces; they are to go through the
projector; one by one, in a batch of one."""


class VisionCache:
    """The outputs of one model's image encoder."""

    def __init__(
        self, policy: Policy, cache: Cache, trains_projector: bool = False, required: bool = True
    ) -> None:
        """Prepare the model to take features.

        Args:
            policy: with the weights that the image encoder keeps.
            cache: where the features are.
            trains_projector: keep what goes into the projector, not what comes out.
            required: refuse rows whose images give other features beside others than alone; else
                these rows' images are encoded together, each time.

        Raises:
            UserError: the model takes no features, or nothing to keep them in is given.
        """
        self.cache, self.trains_projector, self.required = cache, trains_projector, required
        if cache.folder is None:
            raise UserError("--vision-cache needs a folder to keep features in; drop --cache none.")
        if not takes_features(policy.core):
            raise UserError(
                f"{type(policy.core).__name__} takes no image features in this version of "
                "Transformers, so they can't be kept. Leave --vision-cache off."
            )
        weights = vision_weights(policy, trains_projector)
        what = "before the projector" if trains_projector else "after the projector"
        key = digest(weights, processor_hash(policy), surroundings(policy), what)
        self.features_kind = f"vision/{key}"
        tokenizer = getattr(policy.processor.tokenizer, "backend_tokenizer", None)
        words = tokenizer.to_str() if tokenizer else json.dumps(policy.processor.tokenizer.vocab)
        self.rows_kind = f"rows/{digest(words, processor_hash(policy), surroundings(policy))}"
        self._image_keys: dict[str | int, str] = {}
        self._tried = False
        take_features(policy.core)

    def process(
        self,
        policy: Policy,
        images: Sequence[Sequence[ImageLike]],
        texts: Sequence[str],
        padding_side: str,
    ) -> dict[str, Tensor]:
        """What `processing.process` gives, with features where the pixels were, on the CPU.

        Raises:
            RefusedRowsError: the processor refuses rows; by their places.
            UserError: an image beside others gives other features than alone.
        """
        stock = dataclasses.replace(policy, vision=None)
        rows, reasons = [], {}
        for place, (own, text) in enumerate(zip(images, texts, strict=True)):
            try:
                rows.append(self._row(stock, own, text))
            except RefusedRowsError as error:
                reasons[place] = error.reason
        if reasons:
            raise RefusedRowsError(policy.name, reasons)
        inputs = _padded(rows, policy.processor.tokenizer.pad_token_id, padding_side)
        entries = [self._encoded(stock, image) for own in images for image in own]
        if entries:
            inputs[FEATURES] = torch.cat([entry[FEATURES] for entry in entries])
            inputs[COUNTS] = torch.cat([entry[COUNTS] for entry in entries])
            inputs[FORM] = entries[0][FORM]
            problem = "" if self.trains_projector else _missing_places(policy, inputs)
            if problem and self.required:
                raise UserError(problem)
            if problem:
                return process(stock, images, texts, padding_side)
        return inputs

    def output(self, policy: Policy, inputs: dict[str, Tensor]) -> BaseModelOutputWithPooling:
        """What `get_image_features` would give for a batch of `process`."""
        return BaseModelOutputWithPooling(pooler_output=features_of(policy.core, inputs))

    def _key(self, image: ImageLike) -> str:
        if isinstance(image, Image.Image):
            return image_bytes_key(image)
        place = image_key(image)
        if place not in self._image_keys:
            self._image_keys[place] = image_bytes_key(image)
        return self._image_keys[place]

    def _row(self, stock: Policy, images: Sequence[ImageLike], text: str) -> dict[str, Tensor]:
        key = digest(text, [self._key(image) for image in images])
        known = self.cache.get(self.rows_kind, key)
        if known is None:
            made = process(stock, [images], [text], "right")
            known = {n: v.cpu() for n, v in made.items() if not v.is_floating_point()}
            known = {n: v for n, v in known.items() if not n.startswith("pixel")}
            self.cache.put(self.rows_kind, key, known)
        return known

    def _encoded(self, stock: Policy, image: ImageLike) -> dict[str, Tensor]:
        key = self._key(image)
        known = self.cache.get(self.features_kind, key)
        if known is None:
            if not self._tried:
                _require_taken(stock, self.trains_projector)
                self._tried = True
            known = encode_image(stock, image, self.trains_projector)
            self.cache.put(self.features_kind, key, known)
        return known


def features_if_taken(policy: Policy, cache: Cache) -> tuple[VisionCache | None, str]:
    """A cache of features for a model that takes them, or None and why it does not."""
    try:
        kept = VisionCache(policy, cache, required=False)
        _require_taken(policy, before_projector=False)
    except UserError as error:
        return None, str(error).removesuffix(" Leave --vision-cache off.")
    return kept, ""


@torch.no_grad()
def encode_image(policy: Policy, image: ImageLike, before_projector: bool) -> dict[str, Tensor]:
    """One image through the model's own processor and image encoder, by itself.

    Raises:
        UserError: what comes out of the projector is not yet what the language model takes.
    """
    text = render_prompt(policy, [user_message("", images=1)])
    inputs = vision_inputs(process(policy, [[image]], [text], "right"))
    core = policy.core
    training = core.training
    core.eval()
    with _watch(find_projector(core) if before_projector else None) as seen:
        given = image_features(core, inputs)
    core.train(training)
    if getattr(given, "deepstack_features", None):
        raise UserError(
            f"{policy.name} takes image features in several of its layers, which are not kept yet. "
            "Leave --vision-cache off."
        )
    output = given.pooler_output
    pieces, form = list(output), 0 if isinstance(output, Tensor) else LIST
    if isinstance(output, Tensor):
        pieces = [output]
    if before_projector:
        if len(seen) != 1 or not torch.equal(
            _flat(seen[0][1]), torch.cat([_flat(p) for p in pieces])
        ):
            raise UserError(
                f"{policy.name} changes what comes out of its projector, so features can't be kept "
                "before it. Leave --vision-cache off, or --train-projector."
            )
        kept = seen[0][0]
        single = kept.dim() == 3 and len(kept) == 1
        pieces, form = [kept[0] if single else kept], form | BEFORE | (SINGLE if single else 0)
    return {
        FEATURES: torch.cat(pieces).cpu(),
        COUNTS: torch.tensor([len(piece) for piece in pieces]),
        FORM: torch.tensor(form),
    }


def take_features(core: PreTrainedModel) -> None:
    """Let a model take what a batch holds in the place of pixels. Once is enough."""
    if not getattr(core.model, "_takes_kept_features", False):
        core.model._takes_kept_features = True
        core.model.register_forward_pre_hook(_give_features, with_kwargs=True)


def features_of(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
    """The output that the image encoder would have for what a batch holds.

    Args:
        model: Transformers' model.
        inputs: with `FEATURES` and what belongs to them.

    Returns:
        A list of pieces, or one tensor, as the family has it.
    """
    form = int(inputs[FORM])
    pieces = list(inputs[FEATURES].split(inputs[COUNTS].tolist()))
    if form & BEFORE:
        projector = find_projector(model)
        if form & SINGLE:
            pieces = [projector(piece.unsqueeze(0))[0] for piece in pieces]
        else:
            pieces = [projector(piece) for piece in pieces]
    return pieces if form & LIST else torch.cat(pieces)


def as_model_inputs(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch's inputs with its kept features as Transformers takes them; others as they are."""
    if FEATURES not in inputs:
        return inputs
    rest = {name: value for name, value in inputs.items() if name not in (FEATURES, COUNTS, FORM)}
    output = BaseModelOutputWithPooling(pooler_output=features_of(model, inputs))
    return {**rest, "mm_encoder_outputs": {"image": output}}


def vision_weights(policy: Policy, without_projector: bool = False) -> str:
    """Hash of every weight that is not part of the language model."""
    core = policy.core
    parts = [core.get_decoder(), core.get_output_embeddings(), core.get_input_embeddings()]
    parts += [find_projector(core)] if without_projector else []
    language = {id(p) for part in parts if part is not None for p in part.parameters()}
    return tensors_hash((n, p) for n, p in core.named_parameters() if id(p) not in language)


@torch.no_grad()
def _require_taken(policy: Policy, before_projector: bool) -> None:
    """Try a gray picture: with its features in the place of pixels, the same has to come in.

    Raises:
        UserError: the model does not take its own features, or makes something else of them.
    """
    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    text = render_prompt(policy, [user_message("", images=1)])
    inputs = process(policy, [[picture]], [text], "right")
    kept = {n: v for n, v in inputs.items() if n not in vision_inputs(inputs)}
    kept |= {n: v for n, v in vision_inputs(inputs).items() if not v.is_floating_point()}
    features = encode_image(policy, picture, before_projector)
    kept |= {name: value.to(policy.device) for name, value in features.items()}
    try:
        ours, theirs = (
            decoder_inputs(policy.core, each)["inputs_embeds"] for each in (kept, inputs)
        )
    except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise UserError(
            f"{policy.name} takes more than features in the place of pictures "
            f"({type(error).__name__}: {str(error)[:120]}). Leave --vision-cache off."
        ) from error
    moved = float((ours - theirs).abs().max())
    if not moved <= 1e-2 * float(theirs.abs().max()):
        raise UserError(
            f"{policy.name} makes something else of kept features than of the picture "
            f"(embeddings differ by {moved:.2g}). Leave --vision-cache off."
        )


def _give_features(module: object, args: object, inputs: Mapping[str, Any]) -> object:
    """Before a forward: features as the model takes them."""
    return (args, as_model_inputs(module, inputs)) if FEATURES in inputs else None


@contextmanager
def _watch(module: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect what goes into a module and what comes out."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: Any, args: Any, output: Any) -> None:
        seen.append((args[0], output))

    handle = module.register_forward_hook(note) if module is not None else None
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def _flat(features: Tensor) -> Tensor:
    return features.reshape(-1, features.shape[-1])


def _padded(
    rows: Sequence[dict[str, Tensor]], pad_token: int, padding_side: str
) -> dict[str, Tensor]:
    """Rows that were processed one by one, as if together."""
    width = max(row["input_ids"].shape[1] for row in rows)
    inputs = {}
    for name in {name for row in rows for name in row}:
        values = [row[name] for row in rows if name in row]
        if name in TOKEN_INPUTS:
            fill = pad_token if name == "input_ids" else 0
            values = [_pad(value, width, padding_side, fill) for value in values]
        inputs[name] = torch.cat(values)
    return inputs


def _pad(value: Tensor, width: int, side: str, fill: int) -> Tensor:
    space = width - value.shape[1]
    where = (space, 0) if side == "left" else (0, space)
    return torch.nn.functional.pad(value, where, value=fill)


def _missing_places(policy: Policy, inputs: dict[str, Tensor]) -> str:
    """What is wrong where features and placeholders do not pair; else nothing."""
    places = int((inputs["input_ids"] == image_token_id(policy)).sum())
    found = _flat(inputs[FEATURES]).shape[0]
    if places == found:
        return ""
    return (
        f"{policy.name} has {found} features for {places} places of its prompts: it sees an "
        "image differently beside others. Leave --vision-cache off."
    )
