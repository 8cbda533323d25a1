"""Teach an assembled model to see, weakly: its projector first, then adapters and projector.

    python teach.py --model ASSEMBLED --parts FOLDER --photos photos.jsonl --out MODEL

1. The projector alone, in seconds. What it makes of a feature is held against the language model's
   embeddings of object names: by what the tower's own ImageNet classifier says of that feature, by
   the same in COCO's words (MiniLM says which name of ImageNet's is how near to which of COCO's),
   and by what the photograph's boxes say of the whole picture.
2. LoRA on the language model's attention, and the projector, on questions about the photographs.
   Beside them the model is held to what it said before about plain text.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from assemble import Parts
from lessons import (
    IGNORED,
    Lesson,
    Pages,
    batches,
    lessons_of,
    make_pages,
    seen_elsewhere,
)
from peft import LoraConfig, get_peft_model
from photos import (
    View,
    is_there,
    make_views,
    picture,
    read_photos,
    split_photos,
    taught_errors,
    view,
)
from text import chunks
from torch import Tensor, nn
from torch.nn import functional

from veridical.data.vocabulary import read_vocabulary
from veridical.models.load import load_policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, write_json
from veridical.runtime.local_code import import_file
from veridical.runtime.randomness import generator

HERE = Path(__file__).parent
PROSE = HERE / "prose.txt"
"""What the model is held to: prose of this repository's pages, kept as it was."""
ATTENTION = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"


@dataclass(frozen=True)
class Course:
    """How much is taught, and how fast.

    Attributes:
        views: of each photograph: whole, mirrored, and crops.
        fit_steps: steps of the projector alone.
        fit_rate: their learning rate.
        sharpness: of MiniLM's nearness of names; lower is nearer to the nearest name alone.
        asked: questions of a view whose answer is yes, at most.
        batch: views a step.
        epochs: passes over all views.
        rate: peak learning rate of the adapters.
        projector_rate: of the projector beside them.
        rank: of the adapters.
        text_weight: of staying what it was on plain text.
        text_tokens: of plain text a step.
        seed: of everything drawn.
    """

    views: int = 24
    fit_steps: int = 400
    fit_rate: float = 1e-3
    sharpness: float = 0.08
    asked: int = 4
    batch: int = 12
    epochs: float = 1.0
    rate: float = 1e-3
    projector_rate: float = 2e-4
    rank: int = 16
    text_weight: float = 1.0
    text_tokens: int = 96
    seed: int = 0


@dataclass(frozen=True)
class Seen:
    """Views, and what the tower makes of them.

    Attributes:
        views: what was shown.
        features: before the projector. Shape: (views, tokens, channels).
    """

    views: list[View]
    features: Tensor


@dataclass(frozen=True)
class Names:
    """Object names as the language model's embeddings, less their mean.

    Attributes:
        names: COCO's.
        directions: of COCO's names, of length 1. Shape: (names, hidden).
        taught: of ImageNet's. Shape: (1000, hidden).
        mean: of all embeddings. Shape: (hidden,).
        length: how far embeddings are from it, on average.
    """

    names: list[str]
    directions: Tensor
    taught: Tensor
    mean: Tensor
    length: float


@torch.no_grad()
def look(policy: Any, views: Sequence[View], size: int = 32) -> Seen:
    """Run the tower over views."""
    tower = policy.core.model.vision_tower
    found = []
    for start in range(0, len(views), size):
        pictures = [picture(shown) for shown in views[start : start + size]]
        pixels = policy.processor.image_processor(images=pictures, return_tensors="pt")
        found.append(tower(pixels["pixel_values"]).hidden_states[-1])
    return Seen(list(views), torch.cat(found))


def name_embeddings(policy: Any, names: Sequence[str], imagenet: Sequence[str]) -> Names:
    """Look names up in the language model."""
    table = policy.core.get_input_embeddings().weight.detach().float()
    mean = table.mean(0)

    def directions(words: Sequence[str]) -> Tensor:
        ids = [
            policy.processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            for word in words
        ]
        return functional.normalize(torch.stack([table[i].mean(0) - mean for i in ids]), dim=-1)

    length = float((table - mean).norm(dim=-1).mean())
    taught = [name.split("(")[0].strip() for name in imagenet]
    return Names(list(names), directions(names), directions(taught), mean, length)


def nearness(
    parts: Parts, imagenet: Sequence[str], names: Sequence[str], sharpness: float
) -> Tensor:
    """How much each of ImageNet's names means each of COCO's; rows add up to 1."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(parts.sentences))
    ours, theirs = (
        torch.tensor(
            encoder.encode([f"a photo of a {n}" for n in group], normalize_embeddings=True)
        )
        for group in (names, imagenet)
    )
    return (theirs @ ours.T / sharpness).softmax(-1)


def labels(views: Sequence[View], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What is in each view, and where that is known. Shape of both: (views, names)."""
    there = torch.zeros(len(views), len(names))
    known = torch.ones(len(views), len(names))
    place = {name: number for number, name in enumerate(names)}
    for row, shown in enumerate(views):
        for name in shown.names:
            there[row, place[name]] = 1
        for name in {*shown.unclear, *shown.photo.objects} - {*shown.names}:
            known[row, place[name]] = 0
    return there, known


def fit_projector(policy: Any, seen: Seen, words: Names, parts: Parts, course: Course) -> float:
    """Step 1; the last loss is returned."""
    projector = policy.core.model.multi_modal_projector.float()
    weights = parts.tower_weights()
    logits = seen.features @ weights["_fc.weight"].T + weights["_fc.bias"]
    imagenet = logits.softmax(-1)
    near = nearness(parts, parts.imagenet_names(), words.names, course.sharpness)
    coco = (imagenet @ near).clamp(min=1e-6).log().mul(2).softmax(-1)
    there, known = labels(seen.views, words.names)
    with torch.no_grad():
        projector.linear_2.bias.copy_(words.mean)
    scales = nn.Parameter(torch.tensor([1.0, 0.0, -3.0]))
    optimizer = torch.optim.AdamW(
        [*projector.parameters(), scales], lr=course.fit_rate, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, course.fit_steps)
    size = min(64, len(seen.views))
    loss = torch.zeros(())
    for step in range(course.fit_steps):
        rows = torch.from_numpy(
            generator(course.seed, "fit", step).choice(len(seen.views), size, replace=False)
        )
        made = projector(seen.features[rows]) - words.mean
        near_coco = made @ words.directions.T
        sharp = scales[0].exp()
        loss = -(imagenet[rows] * (made @ words.taught.T * sharp).log_softmax(-1)).sum(-1).mean()
        loss = loss - (coco[rows] * (near_coco * sharp).log_softmax(-1)).sum(-1).mean()
        whole = torch.logsumexp(near_coco * 2, dim=1) / 2 * scales[1].exp() + scales[2]
        each = functional.binary_cross_entropy_with_logits(whole, there[rows], reduction="none")
        yes, no = there[rows] * known[rows], (1 - there[rows]) * known[rows]
        loss = loss + (each * yes).sum() / yes.sum() + (each * no).sum() / no.sum()
        loss = loss + 0.1 * (made.norm(dim=-1) - words.length).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def read(model: Any, page: Pages, projected: Tensor, image_token: int) -> Tensor:
    """Hidden states of pages. Shape: (rows, length, hidden)."""
    core = model.model
    embedded = core.get_input_embeddings()(page.ids)
    where = (page.ids == image_token).unsqueeze(-1)
    embedded = embedded.masked_scatter(where, projected.to(embedded.dtype))
    found: Tensor = core.language_model(
        inputs_embeds=embedded, attention_mask=page.mask, position_ids=page.positions,
        use_cache=False,
    ).last_hidden_state  # fmt: skip
    return found


def teach(
    policy: Any, seen: Seen, names: Sequence[str], course: Course, dev: Seen
) -> tuple[Any, list[dict[str, float]]]:
    """Step 2: the model with its adapters, and its log."""
    torch.manual_seed(course.seed)
    model = policy.core
    projector = model.model.multi_modal_projector
    tokens = seen.features.shape[1]
    image_token = policy.core.config.image_token_id
    adapted = get_peft_model(
        model, LoraConfig(r=course.rank, lora_alpha=2 * course.rank, target_modules=ATTENTION)
    )
    projector.requires_grad_(True)
    adapters = [p for n, p in adapted.named_parameters() if "lora_" in n]
    optimizer = torch.optim.AdamW(
        [
            {"params": adapters, "lr": course.rate},
            {"params": list(projector.parameters()), "lr": course.projector_rate},
        ],
        weight_decay=0.0,
    )
    lengths = [len(one.names) for one in seen.views]
    per_epoch = len(lengths) // course.batch
    steps = max(1, round(course.epochs * per_epoch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [course.rate, course.projector_rate], total_steps=steps + 1, pct_start=0.05
    )
    prose = list(
        chunks(
            policy.processor.tokenizer, PROSE.read_text(encoding="utf-8"), course.text_tokens
        )
    )  # fmt: skip
    if course.text_weight > 0 and not prose:
        raise UserError(
            f"--text-tokens {course.text_tokens} is more than {PROSE.name} has; give fewer."
        )
    log: list[dict[str, float]] = []
    began = time.monotonic()
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        rows = batches(lengths, course.batch, course.seed, epoch)[place]
        shown = [seen.views[row] for row in rows]
        asked = [
            lessons_of(one, others, names, course.asked, course.seed + 1000 * epoch)
            for one, others in zip(shown, seen_elsewhere(shown), strict=True)
        ]
        page = make_pages(policy.processor, tokens, asked)
        hidden = read(model, page, projector(seen.features[rows]), image_token)
        learned = page.targets != IGNORED
        logits = model.lm_head(hidden[learned])
        each = functional.cross_entropy(logits, page.targets[learned], reduction="none")
        loss = (each * page.weights[learned]).sum() / page.weights.sum()
        kept = torch.zeros(())
        if course.text_weight > 0:
            kept = held_to_text(adapted, prose[step % len(prose)])
        (loss + course.text_weight * kept).backward()
        nn.utils.clip_grad_norm_([*adapters, *projector.parameters()], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        log.append({"step": step + 1, "loss": loss.item(), "text": kept.item()})
        if (step + 1) % max(1, steps // 8) == 0 or step + 1 == steps:
            log[-1]["development_auc"] = yes_no_auc(policy, model, dev, names, image_token)
            recent = [row["loss"] for row in log[-20:]]
            print(
                f"step {step + 1} of {steps}: loss {sum(recent) / len(recent):.3f}, text "
                f"{kept.item():.3f}, development AUC {log[-1]['development_auc']:.3f}, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    return adapted, log


def held_to_text(adapted: Any, ids: Tensor) -> Tensor:
    """Kullback-Leibler divergence a token from what the model said without its adapters."""
    with torch.no_grad(), adapted.disable_adapter():
        before = adapted(input_ids=ids).logits[0].log_softmax(-1)
    now = adapted(input_ids=ids).logits[0].log_softmax(-1)
    return functional.kl_div(now, before, reduction="batchmean", log_target=True)


@torch.no_grad()
def yes_no_auc(
    policy: Any, model: Any, seen: Seen, names: Sequence[str], image_token: int
) -> float:
    """How well "yes" is told from "no": all that is there against three times as much that is not.

    Of photographs that were not taught; only to look at while it runs.
    """
    yes, no = (
        policy.processor.tokenizer(w, add_special_tokens=False)["input_ids"][0]
        for w in ("Yes", "No")
    )
    scores: list[tuple[float, bool]] = []
    for start in range(0, len(seen.views), 8):
        shown = seen.views[start : start + 8]
        rows = []
        for one in shown:
            there = sorted({*one.names, *one.photo.objects})
            absent = sorted({*names} - {*there, *one.unclear})
            drawn = generator(0, "development", one.id).permutation(len(absent))
            rows.append((there, [absent[i] for i in drawn[: 3 * max(1, len(there))]]))
        asked = [[Lesson(is_there(n), "Yes.") for n in [*a, *b]] for a, b in rows]
        page = make_pages(policy.processor, seen.features.shape[1], asked)
        projected = model.model.multi_modal_projector(seen.features[start : start + 8])
        hidden = read(model, page, projected, image_token)
        logits = model.lm_head(hidden[page.targets == yes])
        found = (logits[:, yes] - logits[:, no]).tolist()
        truth = [i < len(a) for a, b in rows for i in range(len(a) + len(b))]
        scores += zip(found, truth, strict=True)
    right = [s for s, is_yes in scores if is_yes]
    wrong = [s for s, is_yes in scores if not is_yes]
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def run(given: argparse.Namespace, course: Course) -> None:
    """Both steps, from files to files."""
    began = time.monotonic()
    parts = Parts(given.parts)
    import_file(HERE / "tower.py")
    policy = load_policy(str(given.model))
    names = sorted(read_vocabulary(None).names)
    split = split_photos(read_photos(given.photos), given.fold)
    made = [one for photo in split.taught for one in make_views(photo, course.views, course.seed)]
    views = [one for one in made if one.counts]
    if len(views) < course.batch or not split.paired:
        raise UserError(
            f"{len(split.taught)} photographs give {len(views)} views with something to name, and "
            f"a step takes {course.batch}. Give more photographs with boxes, or a smaller --batch."
        )
    dev = look(policy, [view(p, (0.0, 0.0, 1.0, 1.0), False) for p in split.paired])
    seen = look(policy, views)
    print(
        f"{len(views)} views of {len(split.taught)} photographs ({len(made) - len(views)} others "
        f"show nothing to name), {time.monotonic() - began:.0f} s"
    )
    words = name_embeddings(policy, names, parts.imagenet_names())
    fitted = fit_projector(policy, seen, words, parts, course)
    print(f"projector fitted: loss {fitted:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    adapted, log = teach(policy, seen, names, course, dev)
    adapted.merge_and_unload().save_pretrained(given.out)
    policy.processor.save_pretrained(given.out)
    record = {
        "course": asdict(course),
        "fold": given.fold,
        "photographs": len(split.taught),
        "views": len(views),
        "projector_loss": fitted,
        "taught": [hash_file(photo.file) for photo in split.taught],
        "seconds": round(time.monotonic() - began, 1),
        "threads": torch.get_num_threads(),
        "log": log,
    }
    write_json(given.out / "teach.json", record)


def main() -> None:
    """Read the command line; every field of the course is an option."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "parts", "photos", "out"):
        reader.add_argument(f"--{name}", type=Path, required=True)
    reader.add_argument("--fold", type=int, default=0, help="which quarter is never shown")
    for name, value in asdict(Course()).items():
        reader.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = reader.parse_args()
    course = Course(**{name: getattr(given, name) for name in asdict(Course())})
    with taught_errors():
        run(given, course)


if __name__ == "__main__":
    main()
