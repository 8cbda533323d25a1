"""Reference log-probs that are computed once before training, and kept.

What is kept is one entry a pair, so that another subset, another seed or another arm of a study
finds what it shares with this one. Of a pair whose tokens have weights every token's log-prob is
kept, so that other weights find it too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veridical.data.images import image_bytes_key
from veridical.models.batching import layout_shape
from veridical.models.cache_keys import processor_hash, surroundings
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.token_logps import compute_token_logps, sum_tokens
from veridical.runtime import processes
from veridical.runtime.cache import Cache, digest
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted, part_of, track
from veridical.train.loop.left_out import LeftOut

SPOT_CHECKS = 2
BLOCK = 256
"""Pairs an entry of the cache: what an interruption may lose."""
NOT_IN_KEY = ("id", "beta_factor", "prompt_tokens", "label")
"""Fields of a group that its log-probs do not depend on: lengths are counted from the rest."""


@dataclasses.dataclass(frozen=True)
class StoredLogps:
    """The reference's log-probs.

    Attributes:
        logps: Shape: (groups, k), float64 on the CPU.
        reused: how many rows came from the cache.
    """

    logps: Tensor
    reused: int


def precompute(
    policy: Policy,
    groups: Sequence[Group],
    share_prefix: bool,
    batch_size: int,
    tolerance: float,
    cache: Cache,
    weights: str,
    left_out: LeftOut | None = None,
    proof: Sequence[int] = (),
    by_length: bool = False,
) -> StoredLogps:
    """The reference's log-probs; those of pairs that the cache knows are not computed again.

    Pairs that the processor refuses have none: theirs are 0, and no use is made of them.

    Args:
        policy: the reference.
        groups: every row, held-out ones too.
        share_prefix: the layout; part of the key.
        batch_size: rows at once.
        tolerance: how far a few recomputed rows may be from the kept ones, in nats.
        cache: where they are kept.
        weights: hash of the reference's weights.
        left_out: takes the pairs that the processor refuses; without it they are an error.
        proof: places of pairs that the start is proven on. They are a batch of their own and come
            from no cache, so that the very same batch can be computed again: in half precision the
            noise between two batches is as large as the error of a reference that is wrong.
        by_length: rows of like length are computed together, the longest first.

    Raises:
        UserError: a log-prob is not finite, or too many pairs are refused.
    """
    kind = f"reference/{reference_key(policy, share_prefix, weights)}"
    # Rows that an epoch has several times are the same objects.
    once = {id(group): group for group in groups}
    key_of = {number: pair_key(policy, group) for number, group in once.items()}
    keys = [key_of[id(group)] for group in groups]
    job = _Job(policy, groups, keys, share_prefix, batch_size, cache, kind, left_out)
    # Each machine may have a cache of its own; what the first process knows, all know.
    known = processes.from_first(lambda: _look_up(job, tolerance))
    reused = sum(key in known for key in keys)
    batches, several = _batches(job, known, proof, by_length), processes.world_size()
    block = max(1, BLOCK // (batch_size * several)) * several
    own: list[tuple[int, _Entry]] = []
    for number, part in enumerate(track(batches, "reference log-probs") if batches else []):
        if number % several == processes.rank():
            own += _computed(job, part)
        if (number + 1) % block == 0 or number + 1 == len(batches):
            known |= _kept(job, own)
            own = []
    nothing = torch.zeros(len(groups[0].response_ids), dtype=torch.float64)
    rows = [_row(job, i, known[key]) if key in known else nothing for i, key in enumerate(keys)]
    return StoredLogps(torch.stack(rows), reused)


@dataclasses.dataclass(frozen=True)
class _Job:
    """Whose log-probs are computed, of which rows, and where they are kept."""

    policy: Policy
    groups: Sequence[Group]
    keys: Sequence[str]
    share_prefix: bool
    batch_size: int
    cache: Cache
    kind: str
    left_out: LeftOut | None


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A pair's log-probs.

    Attributes:
        sums: of its answers. Shape: (k,).
        tokens: of each token, where they have weights; then `sums` are those of one pair's weights.
        place: of that pair; None where `sums` are of none.
    """

    sums: Tensor
    tokens: Tensor | None = None
    place: int | None = None


def _row(job: _Job, index: int, entry: _Entry) -> Tensor:
    """The log-probs of a row's answers, by its own weights."""
    group = job.groups[index]
    if entry.tokens is None:
        return entry.sums
    if entry.place is not None and _weigh_alike(job.groups[entry.place], group):
        return entry.sums
    return sum_tokens(group, entry.tokens)


def _weigh_alike(one: Group, other: Group) -> bool:
    pairs = zip(one.weights or (), other.weights or (), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def _look_up(job: _Job, tolerance: float) -> dict[str, _Entry]:
    """What the cache knows, if a few of it are found again."""
    kept = _known(job.cache, job.kind)
    by_token = {key for key, group in zip(job.keys, job.groups, strict=True) if group.weights}
    known = {
        key: _Entry(kept[key], kept[key] if key in by_token else None)
        for key in job.keys
        if key in kept
    }
    found = [index for index, key in enumerate(job.keys) if key in known]
    few = found[:: max(1, len(found) // SPOT_CHECKS)][:SPOT_CHECKS]
    if few:
        some = [job.groups[i] for i in few]
        again = compute_logps(job.policy, some, job.share_prefix, job.batch_size)
        moved = float(
            (again - torch.stack([_row(job, i, known[job.keys[i]]) for i in few])).abs().max()
        )
        if not moved <= tolerance:
            print(f"The cached reference log-probs are off by {moved:.2g}; computed again.")
            job.cache.forget(job.kind)
            return {}
    return known


def _batches(
    job: _Job, known: Mapping[str, _Entry], proof: Sequence[int], by_length: bool
) -> list[list[int]]:
    """The places of rows that are computed, a batch each; those of the proofs come first."""
    keys, size = job.keys, job.batch_size
    first = {keys[index] for index in proof}
    # Rows of equal content but other names are asked for one by one: a refused one is named.
    place_of = {id(group): i for i, group in reversed(list(enumerate(job.groups)))}
    missing = sorted(i for i in place_of.values() if keys[i] not in known and keys[i] not in first)
    if by_length:
        missing.sort(key=lambda i: -layout_shape(job.groups[i], job.share_prefix)[1])
    # Pairs that are left out keep their place, so that a run that is resumed has the same batches.
    batches = [missing[i : i + size] for i in range(0, len(missing), size)]
    return [list(proof), *batches] if proof else batches


def _computed(job: _Job, part: Sequence[int]) -> list[tuple[int, _Entry]]:
    """The places of one batch with their log-probs, without those that the processor refuses."""
    batch = [job.groups[i] for i in part]

    def compute(own: Sequence[Group]) -> list[_Entry]:
        if not any(group.weights for group in own):
            return list(map(_Entry, compute_logps(job.policy, own, job.share_prefix, len(own))))
        found = compute_token_logps(job.policy, own, job.share_prefix)
        pairs = zip(own, found, strict=True)
        return [_Entry(one.sums, one.tokens if group.weights else None) for group, one in pairs]

    if job.left_out is None:
        return list(zip(part, compute(batch), strict=True))
    logps, kept = job.left_out.lay_out(batch, compute)
    if logps is None:
        return []
    return [(part[place], row) for place, row in zip(kept, logps, strict=True)]


def _kept(job: _Job, own: list[tuple[int, _Entry]]) -> dict[str, _Entry]:
    """What all processes have computed, by key; kept by the first one. All have to take part."""
    done = sorted((pair for share in processes.gather(own) for pair in share), key=_index)
    if job.left_out is not None:
        job.left_out.share()
    _require_finite([job.groups[i].id for i, _ in done], [entry.sums for _, entry in done])
    new = {job.keys[i]: dataclasses.replace(entry, place=i) for i, entry in done}
    if processes.is_first():
        _keep(job.cache, job.kind, new)
    return new


def write_reference(out: Path, groups: Sequence[Group], reference: StoredLogps) -> None:
    """Keep the run's own copy, `reference_logps.json`, and say what the cache spared."""
    ids = [group.id for group in groups]
    logps = reference.logps.tolist()
    if processes.is_first():
        write_json(
            out / "reference_logps.json", {"ids": ids, "logps": logps, "reused": reference.reused}
        )
    if reference.reused:
        rows = part_of(reference.reused, len(ids), "rows")
        print(f"Reference log-probs of {rows} were in the cache.")


def reference_key(policy: Policy, share_prefix: bool, weights: str) -> str:
    """Hash of what all pairs' log-probs depend on: weights, dtype, layout, processor, versions."""
    layout = "shared prefix" if share_prefix else "two rows"
    return digest(weights, layout, processor_hash(policy), surroundings(policy))


def pair_key(policy: Policy, group: Group) -> str:
    """Hash of one pair: its token ids, texts and the bytes of its images; not its name.

    Its weights and its factor on beta are the loss's, not the reference's. But whether tokens have
    weights decides what is kept of them.
    """
    tokenizer = policy.processor.tokenizer
    prompt_ids = tokenizer(group.prompt_text, add_special_tokens=False)["input_ids"]
    parts: list[Any] = [torch.tensor(prompt_ids)]
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if field.name in NOT_IN_KEY or value is None:
            continue
        if field.name == "weights":
            value = "by token"
        if "images" in field.name:
            value = _image_keys(value)
        parts.append([field.name, value])
    return digest(parts)


def _image_keys(images: Any) -> object:
    """The same nesting, with a hash of its bytes for each image."""
    if images is None:
        return None
    return (
        [_image_keys(i) for i in images] if isinstance(images, tuple) else image_bytes_key(images)
    )


def _index(pair: tuple[int, _Entry]) -> int:
    return pair[0]


def _known(cache: Cache, kind: str) -> dict[str, Tensor]:
    known: dict[str, Tensor] = {}
    for key in cache.keys(kind):
        entry = cache.get(kind, key)
        if entry is not None:
            names = (bytes(row.tolist()).hex() for row in entry["keys"])
            logps = entry["logps"]
            rows = logps.split(entry["lengths"].tolist()) if "lengths" in entry else logps
            known |= dict(zip(names, rows, strict=True))
    return known


def _keep(cache: Cache, kind: str, block: Mapping[str, _Entry]) -> None:
    """One entry for many pairs: a file each would be mostly empty disk blocks."""
    whole = {key: entry.sums for key, entry in block.items() if entry.tokens is None}
    tokens = {key: one.tokens for key, one in block.items() if one.tokens is not None}
    if whole:
        names = _as_bytes(whole)
        cache.put(kind, digest(names), {"keys": names, "logps": torch.stack([*whole.values()])})
    if tokens:
        names, logps = _as_bytes(tokens), torch.cat([*tokens.values()])
        lengths = torch.tensor([len(row) for row in tokens.values()])
        cache.put(kind, digest(names), {"keys": names, "logps": logps, "lengths": lengths})


def _as_bytes(keys: Iterable[str]) -> Tensor:
    return torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8)


def _require_finite(ids: Sequence[str], logps: Sequence[Tensor]) -> None:
    odd = [id for id, row in zip(ids, logps, strict=True) if not row.isfinite().all()]
    if odd:
        raise UserError(
            f"The reference's log-probs of {counted(len(odd), 'rows')} are not finite (first: "
            f"{odd[0]}). Set --dtype float32 or bfloat16, and check these rows' answers."
        )
