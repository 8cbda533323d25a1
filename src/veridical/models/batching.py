"""Groups of responses become tensors.

Two ways to lay out one prompt with k responses, one type for both:

- *a row for each response* (`row_batch`): exactly as the model's own processor makes it. Works for
  every model; encodes the image once per response.
- *shared prefix* (`shared_batch`): one row `[prompt | response 1 | ... | response k]` whose
  attention mask keeps the responses from seeing each other and whose positions restart at the
  prompt's end. The image is preprocessed and encoded once.

Code that reads a batch need not know which it is: the batch says where each token is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

from veridical.models.batch import Batch, Draft
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.row_layout import row_draft
from veridical.models.shared_layout import shared_draft, sharing_responses


def collate(policy: Policy, groups: Sequence[Group], share_prefix: bool) -> Batch:
    """Lay groups out in the way that was decided for this model, on its device."""
    return draft(policy, groups, share_prefix).on(policy)


def draft(policy: Policy, groups: Sequence[Group], share_prefix: bool) -> Draft:
    """The same on the CPU."""
    return shared_draft(policy, groups) if share_prefix else row_draft(policy, groups)


def layout_tokens(group: Group, share_prefix: bool) -> int:
    """How many tokens a group takes in a layout, image tokens and padding included."""
    rows, width = layout_shape(group, share_prefix)
    return rows * width


def layout_shape(group: Group, share_prefix: bool) -> tuple[int, int]:
    """How many rows a group takes in a layout, and how many tokens the longest has.

    Counted from its `prompt_tokens`, without opening an image; equal to the shape of `input_ids`
    that `collate` gives for it.
    """
    prompts = group.prompt_tokens
    if share_prefix:
        rows = [
            prompts[own[0]] + sum(len(group.response_ids[i]) for i in own)
            for own in sharing_responses(group)
        ]
    else:
        rows = [prompt + len(ids) for prompt, ids in zip(prompts, group.response_ids, strict=True)]
    return len(rows), max(rows)


def row_batch(policy: Policy, groups: Sequence[Group]) -> Batch:
    """Lay groups out as the stock processor does, a row for each response.

    All groups must have the same number of responses. Where any was sampled, the responses' tokens
    are put behind the prompts' as they are, since their text might be tokenized differently.
    """
    return row_draft(policy, groups).on(policy)


def shared_batch(policy: Policy, groups: Sequence[Group]) -> Batch:
    """Lay each group out as one row: the prompt once, then its responses side by side.

    All groups must have the same number of responses. A response with images of its own shares
    no prefix, so it has a row to itself.
    """
    return shared_draft(policy, groups).on(policy)
