"""What an engine said, checked and with the log-probabilities of the policy that is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veridical.data.responses import Response
from veridical.models.batch import Batch
from veridical.models.batching import row_batch
from veridical.models.finite import require_finite
from veridical.models.policy import Policy, image_token_id
from veridical.models.token_scores import token_scores
from veridical.runtime.errors import UserError
from veridical.sampling.choice import never_sampled
from veridical.sampling.requests import Decoding, Request
from veridical.sampling.rollouts import rollout_group


@torch.no_grad()
def recomputed(
    policy: Policy,
    requests: Sequence[Request],
    rows: Sequence[Sequence[Response]],
    decoding: Decoding,
    prompts: Sequence[Sequence[list[int] | None]] = (),
    address: str = "",
) -> list[list[Response]]:
    """The same responses with the log-probs that the policy here gives them, images included.

    Args:
        policy: computes them.
        requests: what was asked.
        rows: the responses to each.
        decoding: its temperature.
        prompts: the tokens that each response answers to, where the server says.
        address: the server's.

    Raises:
        UserError: a server read another prompt, or a log-prob is not finite.
    """
    banned, found = never_sampled(policy), []
    for place, (request, said) in enumerate(zip(requests, rows, strict=True)):
        batch = row_batch(policy, [rollout_group(policy, request, said)])
        for row, theirs in enumerate(prompts[place] if prompts else ()):
            if theirs is not None:
                _require_same_prompt(policy, batch, row, theirs, request, address)
        scores = token_scores(policy.model, batch, decoding.temperature, banned)
        require_finite(policy, scores.logps, "log-probabilities")
        found.append(
            [
                Response(r.text, r.token_ids, tuple(logps[: len(r.token_ids)].tolist()),
                        r.stop_reason, r.version)
                for r, logps in zip(said, scores.logps, strict=True)
            ]
        )  # fmt: skip
    return found


def _require_same_prompt(
    policy: Policy, batch: Batch, row: int, theirs: Sequence[int], request: Request, address: str
) -> None:
    """Compare a prompt's tokens with ours; places of an image count as one."""
    length = int(batch.sources[batch.owners == row].min()) + 1
    ours = batch.inputs["input_ids"][row, :length].tolist()
    image = image_token_id(policy)
    if _once(ours, image) != _once(theirs, image):
        raise UserError(
            f"{address} reads another prompt than ours for row {request.prompt.id}: its chat "
            "template or its tokenizer differs, or its template writes today's date and this run "
            "keeps the date of its start. Serve the very model that is trained."
        )


def _once(ids: Sequence[int], image: int) -> list[int]:
    """Tokens with every run of image places as one."""
    return [one for i, one in enumerate(ids) if one != image or i == 0 or ids[i - 1] != image]
