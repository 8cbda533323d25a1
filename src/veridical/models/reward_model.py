"""The rewards that a reward model gives responses: one number each, read off the last token.

A response is followed by a question about its worth, which may tell facts about the image that
the policy does not see (captions, objects, options): factual augmentation, as in Sun et al. 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from veridical.data.images import ImageLike
from veridical.data.messages import Message
from veridical.models.adapters import require_fitting_adapter, widen_saved_modules
from veridical.models.batch import Batch
from veridical.models.batching import row_batch
from veridical.models.judged_groups import render_judged_group
from veridical.models.load import load_policy
from veridical.models.logprobs import hidden_states
from veridical.models.measures import ResponseMeasure, stock_inputs
from veridical.models.policy import Policy
from veridical.models.precision import unmixed, working_dtype
from veridical.models.rendering import Group, open_images
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import read_json, write_json, writing
from veridical.runtime.float64 import in_float64, moved_to, widest
from veridical.runtime.options import AttentionName, DtypeName
from veridical.runtime.randomness import generator

HEAD_FILE = "reward_head.safetensors"
SETTINGS_FILE = "reward.json"
CRITERION = (
    "How good is this response? It should say only what the image shows, answer what was asked, "
    "read naturally, and be no longer than it needs to be."
)
FACTS_LEAD = "What the image shows:"


@dataclass(frozen=True)
class RewardInputs:
    """What a reward model reads beside the response; the same at training and at scoring.

    Attributes:
        criterion: what a good response is, in a sentence or two.
        with_facts: whether the record's facts follow.
        seed: of their order, which is another for every record.
        template: what the chat template is given.
    """

    criterion: str = CRITERION
    with_facts: bool = False
    seed: int = 0
    template: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class RewardModel:
    """A model whose last hidden state a linear head turns into a reward.

    Attributes:
        policy: the model that reads.
        head: from hidden states to one number.
        reading: what is read.
        adapter: the adapter of the model that belongs to the head, where several share one base;
            else None.
    """

    policy: Policy
    head: nn.Linear
    reading: RewardInputs
    adapter: str | None = None


def question_about(reading: RewardInputs, id: str, facts: Sequence[str]) -> str:
    """The user's turn that follows a response.

    Facts stand in an order drawn from the record's id, so that none is always first.
    """
    if not reading.with_facts or not facts:
        return reading.criterion
    order = generator(reading.seed, "facts", id).permutation(len(facts))
    lines = "\n".join(f"- {facts[i]}" for i in order)
    return f"{reading.criterion} {FACTS_LEAD}\n{lines}"


def judged_group(
    policy: Policy,
    reading: RewardInputs,
    id: str,
    images: Sequence[ImageLike],
    prompt: Sequence[Message],
    responses: Sequence[Sequence[Message]],
    facts: Sequence[str] = (),
    response_images: Sequence[Sequence[ImageLike] | None] = (),
) -> Group:
    """A prompt with its responses, as a reward model reads them.

    Args:
        policy: whose template and tokenizer are used.
        reading: what stands beside the responses.
        id: the row's id; keys the order of its facts.
        images: in the order of the placeholders.
        prompt: messages that end with a user turn.
        responses: for each response, its messages.
        facts: of the record; not read if `reading` says so.
        response_images: images that a response has in place of `images`, if any has.

    Raises:
        RefusedRowError: as for `render_group`.
    """
    question = question_about(reading, id, facts)
    return render_judged_group(policy, id, images, prompt, responses, question, response_images)


def new_head(policy: Policy) -> nn.Linear:
    """A head that gives every response 0, so that training starts at the known loss (our choice).

    It is kept in float32 at least.
    """
    size = policy.core.config.get_text_config().hidden_size
    dtype = torch.promote_types(working_dtype(policy), torch.float32)
    head = nn.Linear(size, 1, device=policy.device, dtype=dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def response_rewards(model: PreTrainedModel, head: nn.Linear, batch: Batch) -> Tensor:
    """The reward of every response of a batch, whichever way it is laid out.

    Args:
        model: Transformers' model, or a PEFT model around it.
        head: from `new_head`.
        batch: of groups from `judged_group`.

    Returns:
        Shape: (groups, k).
    """
    states = _last_states(model, batch)
    with unmixed():
        rewards: Tensor = head(states.to(head.weight.dtype)).squeeze(-1)
    return rewards.view(-1, batch.responses)


def _last_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The last layer's state at each response's last token. Shape: (groups * k, hidden)."""
    return hidden_states(model, batch)[batch.ends[:, 0], batch.ends[:, 1]]


def reward_measure(policy: Policy, seed: int = 0) -> ResponseMeasure:
    """What the proofs look at before a head is trained: a random direction of the last state.

    The head gives 0 whatever it sees when training starts, which would prove nothing. So each
    state is projected on a fixed random direction of length 1. What rounding may do is a unit in
    the last place of the longest state (our choice).
    """
    size = policy.core.config.get_text_config().hidden_size
    drawn = torch.from_numpy(generator(seed, "proof direction").standard_normal(size))
    direction = moved_to(drawn / drawn.norm(), policy.device)

    def ours(batch: Batch) -> Tensor:
        states = _last_states(policy.model, batch).to(direction.dtype)
        projected: Tensor = states @ direction
        return projected.view(-1, batch.responses)

    def stock(group: Group) -> Tensor:
        return torch.stack(
            [_stock_state(policy, group, i) @ direction for i in range(len(group.response_ids))]
        )

    def rounding(groups: Sequence[Group]) -> float:
        states = in_float64(_last_states(policy.model, row_batch(policy, groups)))
        return float(states.norm(dim=-1).max()) * torch.finfo(working_dtype(policy)).eps

    return ResponseMeasure(ours, stock, rounding, "units of the last state")


def _stock_state(policy: Policy, group: Group, index: int) -> Tensor:
    """By the model's own processor and forward alone. Shape: (hidden,)."""
    images = open_images(group.images_of(index))
    inputs = stock_inputs(policy, images, group.prompt_of(index) + group.response_texts[index])
    last: Tensor = policy.core(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    return last.to(widest(last.device))


def save_head(head: nn.Linear, reading: RewardInputs, folder: Path) -> None:
    """Write the head and what it reads beside the model or adapter in `folder`."""
    weights = {n: w.detach().cpu().contiguous() for n, w in head.state_dict().items()}
    with writing(folder, "Make room, and go on with --resume true."):
        save_file(weights, folder / HEAD_FILE)
        write_json(folder / SETTINGS_FILE, asdict(reading))


def load_reward_model(
    folder: Path,
    dtype: DtypeName = "auto",
    device: str = "auto",
    attention: AttentionName = "auto",
) -> RewardModel:
    """Load what `veridical train reward` wrote.

    Args:
        folder: its `model/` or `adapter/`.
        dtype: as for `load_policy`.
        device: as for `load_policy`.
        attention: as for `load_policy`.

    Raises:
        UserError: the folder holds no reward head.
    """
    require_head(folder)
    reading = _read_reading(folder)
    policy = load_policy(str(folder), dtype, device, template=reading.template, attention=attention)
    head = _load_head(folder, policy)
    return RewardModel(policy, head, reading)


def attach_reward_model(policy: Policy, folder: Path, name: str = "reward") -> RewardModel:
    """Load a reward model's adapter onto a base that is in memory already.

    Policy, reference, value and reward model then share one base, which is kept once. The
    policy's own adapter stays the active one; `own_adapter` switches over.

    Args:
        policy: the base, bare or with adapters of its own; the same weights that the reward
            model was trained on.
        folder: the `adapter/` of a run of `veridical train reward`.
        name: what the adapter is called inside.

    Raises:
        UserError: the folder holds no reward model's adapter, or it does not fit.
    """
    require_head(folder)
    if not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds a whole reward model, no adapter that another model could carry. "
            "Train it with --tuning lora, or load it beside the policy."
        )
    model, reading = policy.model, _read_reading(folder)
    with require_fitting_adapter(
        f"The reward model {folder} does not fit {policy.name}",
        "It has to be trained on the same base, and to leave its weights as they are.",
        shared=True,
    ):
        widen_saved_modules(policy.core, folder)
        if isinstance(model, PeftModel):
            active = model.active_adapter
            model.load_adapter(str(folder), adapter_name=name)
            model.set_adapter(active)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    # It reads what it was trained to read, whatever the policy's template is given.
    carrier = dataclasses.replace(policy, model=model, vision=None, template=reading.template)
    head = _load_head(folder, carrier)
    return RewardModel(carrier, head, reading, name)


@contextmanager
def own_adapter(reward_model: RewardModel) -> Iterator[None]:
    """Let the reward model's own adapter work, where several share a base."""
    model = reward_model.policy.model
    if reward_model.adapter is None or not isinstance(model, PeftModel):
        yield
        return
    active = model.active_adapter
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    model.set_adapter(reward_model.adapter)
    try:
        yield
    finally:
        model.set_adapter(active)
        # PEFT decides what is trained by what is active.
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)


def require_head(folder: Path) -> None:
    """Refuse a folder without a reward head.

    Raises:
        UserError: there is none in it.
    """
    if not (folder / HEAD_FILE).is_file():
        raise UserError(
            f"{folder} holds no reward model ({HEAD_FILE} is missing). Name the folder `model` or "
            "`adapter` of a run of `veridical train reward`."
        )


def _read_reading(folder: Path) -> RewardInputs:
    try:
        content = read_json(folder / SETTINGS_FILE)
        RewardInputs(**content)  # no field of another name
        return TypeAdapter(RewardInputs).validate_python(content)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{folder / SETTINGS_FILE} is not what `train reward` of this version writes ({error})."
        ) from error


def _load_head(folder: Path, policy: Policy) -> nn.Linear:
    head = new_head(policy)
    try:
        weights = load_file(folder / HEAD_FILE)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"The reward head {folder / HEAD_FILE} can't be read: {reason_of(error)}. Copy or "
            "train it again."
        ) from error
    if weights.keys() != head.state_dict().keys():
        raise UserError(f"{folder / HEAD_FILE} holds no reward head; it has {sorted(weights)}.")
    if weights["weight"].shape != head.weight.shape:
        raise UserError(
            f"The reward head in {folder} is for states of size {weights['weight'].shape[-1]}, "
            f"those of {policy.name} have {head.weight.shape[-1]}. Name the base that the reward "
            "model was trained on."
        )
    head.load_state_dict(weights)
    return head.requires_grad_(False)
