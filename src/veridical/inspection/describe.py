"""`veridical data describe`: what sets of pairs are like, side by side, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from veridical.inspection.agreement import AGREEMENT, between_sets, describe_agreement, votes_of
from veridical.inspection.description_page import MARK, page_of
from veridical.inspection.differences import describe_differences
from veridical.inspection.extra import require_packages
from veridical.inspection.facts import Fact
from veridical.inspection.gap_file import gap_lines
from veridical.inspection.length_bias import FieldValue, describe_lengths, parts_of
from veridical.inspection.pairs import Pairs, groups_of, read_pairs
from veridical.inspection.shortcuts import best_guess, describe_shortcuts
from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, refuse_to_replace, write_json, write_jsonl
from veridical.runtime.options import Loading
from veridical.runtime.pages import refuse_other_file, write_page
from veridical.runtime.progress import counted, part_of
from veridical.runtime.unchanged import unchanged

SIZE = "Size"
USUAL_NAMES = ("data", "dev", "pairs", "test", "train", "val", "validation")


@dataclass(frozen=True)
class Description:
    """What is said of a set.

    Attributes:
        name: of its file, or of its path where two have the same.
        path: of its file.
        facts: in the order of the page.
        parts: lengths and positions by the fields of its source.
    """

    name: str
    path: str
    facts: list[Fact]
    parts: list[FieldValue]


def data_describe(
    sets: list[Path],
    out: Path = Path("describe.html"),
    images_root: Path | None = None,
    model: str | None = None,
    model_pairs: int = 64,
    loading: Loading = Loading(),
    seed: int = 0,
) -> None:
    """Describe sets of preference pairs side by side, on one page.

    Sizes, sources, lengths and how often the longer answer is chosen, how alike the answers are and
    in what they differ, how much of the preference can be guessed without the image, and how far
    judges agree. The numbers are also written as JSON, beside the page, and with --model the gap of
    each pair as JSON Lines, for `veridical view --gaps`.

    Args:
        sets: Files of preference pairs: Parquet, JSON Lines or a JSON list.
        out: The page to write; the numbers go into the same name with .json.
        images_root: The folder that image paths are relative to; each file's own if not set.
        model: Measure log-probability gaps under this model, with the image and with plain gray.
        model_pairs: Number of pairs drawn for --model.
        loading: How the model is loaded.
        seed: Seed of all random draws.
    """
    require_packages("veridical data describe", ("krippendorff", "sklearn"))
    for path in sets:
        check_file(path)
    numbers = out.with_suffix(".json")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html; the numbers go into a .json beside it.")
    gap_file = out.with_suffix(".gaps.jsonl")
    for file in (numbers, gap_file):
        if file.resolve() in {path.resolve() for path in sets}:
            raise UserError(f"--out {out}: its numbers would be written over {file}. Name another.")
    refuse_other_file(out, MARK, "a description of data sets")
    refuse_to_replace(numbers, out.exists, "the numbers of such a description")
    names = _names(sets)
    if model is not None:
        refuse_to_replace(gap_file, out.exists, "the gaps of such a description")
    with unchanged(*sets):  # pairs for the model are found in a second reading
        known = [
            read_pairs(path, images_root or path.parent, name)
            for path, name in zip(sets, names, strict=True)
        ]
        policy = _load(model, loading)
        found, lines = [], []
        for pairs, path in zip(known, sets, strict=True):
            own = _gaps(policy, pairs, path, images_root or path.parent, model_pairs, seed)
            lines += own[1]
            facts = [*describe_pairs(pairs, seed), *own[0]]
            found.append(Description(pairs.name, str(path), facts, parts_of(pairs)))
    between = between_sets(known)
    write_page(out, "veridical.inspection", "describe.html.j2", page_of(found, between))
    told = {"sets": [asdict(one) for one in found], "between_sets": [asdict(f) for f in between]}
    write_json(numbers, told)
    for one, pairs in zip(found, known, strict=True):
        if pairs.unusable:
            whole = len(pairs) + len(pairs.unusable)
            print(f"{one.name}: {part_of(len(pairs.unusable), whole, 'rows')} can't be used.")
        print(f"{one.name}: {sentence(one.facts)}")
    print(f"The numbers are in {numbers}.")
    if lines:
        write_jsonl(gap_file, lines)
        print(
            f"Gaps of {counted(len(lines), 'pairs')}: `veridical view {sets[0]} --gaps {gap_file}`"
        )


def describe_pairs(pairs: Pairs, seed: int = 0) -> list[Fact]:
    """Every fact that needs no model."""
    groups = groups_of(pairs)
    of = groups.tolist()
    agreement = describe_agreement(votes_of(pairs))
    note = "no row has ratings or scores of both answers"
    return [
        *_sizes(pairs, len({*of})),
        *describe_shortcuts(pairs, groups, seed),
        *describe_lengths(pairs, of),
        *describe_differences(pairs.differences, of),
        *(agreement or [Fact(AGREEMENT, "Within the set", None, "number", note=note)]),
    ]


def sentence(facts: Sequence[Fact]) -> str:
    """The best guess that needs no image, in words; if none is above chance, that."""
    best, above = best_guess(facts)
    if best is None:
        return "too few pairs to tell how much can be guessed without the image"
    label = best.label[:1].lower() + best.label[1:]
    told = f"{label} tell the chosen answer in {100 * (best.value or 0):.1f} % of held-out pairs"
    if best.low is not None and best.high is not None:
        told += f" (95 %: {100 * best.low:.1f} to {100 * best.high:.1f})"
    if above:
        return told
    return f"no guess without the image is shown to be above chance; the best: {told}"


def _sizes(pairs: Pairs, groups: int) -> list[Fact]:
    note = ""
    if pairs.unusable:
        first = pairs.unusable[0]
        note = f"such as {first.place}: {first.what}; `veridical data check` lists them"
    return [
        Fact(SIZE, "Rows", len(pairs) + len(pairs.unusable), "count"),
        Fact(SIZE, "Preference pairs", len(pairs), "count"),
        Fact(SIZE, "Rows that are not usable pairs", len(pairs.unusable), "count", note=note),
        Fact(SIZE, "Pairs with an image", pairs.with_images, "count"),
        Fact(SIZE, "Groups that share an image (or prompt)", groups, "count"),
    ]


def _names(sets: Sequence[Path]) -> list[str]:
    """Short names, a different one for each set; a usual file name has its folder before it."""
    short = [
        f"{path.resolve().parent.name}/{path.stem}" if path.stem in USUAL_NAMES else path.stem
        for path in sets
    ]
    if len({*short}) == len(short):
        return short
    return [f"{number} {path}" for number, path in enumerate(sets, start=1)]


def _load(model: str | None, loading: Loading) -> object:
    if model is None:
        return None
    from veridical.models.load import load_placed

    return load_placed(model, loading, loading.template)


def _gaps(
    policy: object, pairs: Pairs, path: Path, root: Path, count: int, seed: int
) -> tuple[list[Fact], list[dict[str, object]]]:
    """What is said of the gaps under a model, and the gaps as lines of a file."""
    if policy is None:
        return [], []
    from veridical.inspection.gap import describe_gaps, measure_gaps
    from veridical.models.policy import Policy

    assert isinstance(policy, Policy)
    gaps, refused = measure_gaps(policy, path, root, len(pairs), count, seed)
    facts = describe_gaps(gaps, refused, groups_of(pairs).tolist(), policy.name)
    return facts, gap_lines(path, policy.name, gaps)
