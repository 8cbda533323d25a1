"""A set of pairs composed of others: subsampled, mixed, recombined, with label noise.

For studies in which one thing about a set differs, as the controlled sets of Amirloo et al. (2024,
section 5.3) and the label noise of Li et al. (2024, Table 5).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from veridical.builders._parts import finish
from veridical.builders._row_parts import RowParts, build_set
from veridical.builders._rows import Skipped, as_row
from veridical.builders.composing.factors import candidates_of, read_factors, values_in_words
from veridical.builders.composing.flags import flags_by_set, read_flags
from veridical.builders.composing.recipe import (
    Amounts,
    Candidate,
    Factors,
    draw,
    quotas,
    set_names,
    swapped_ids,
)
from veridical.builders.composing.rows import row_maker, row_name
from veridical.builders.join import difference, further_answers, with_row_images
from veridical.data.origins import flagged_rows, image_paths, unread_rows, with_origins
from veridical.data.reading import read
from veridical.data.record_flags import FlaggedRows
from veridical.data.record_types import OF_ONE_ANSWER
from veridical.data.records import RecordSet
from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, require_file, write_jsonl, write_text_atomic
from veridical.runtime.options import Reading, by_option
from veridical.runtime.progress import are_in, counted
from veridical.runtime.randomness import key
from veridical.runtime.run_files import SkippedRow
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

RECIPE = "recipe.yaml"
FlagLevel = Literal["warning", "error"]


@dataclass(frozen=True)
class Composition:
    """What is taken, and what came of the rest.

    Attributes:
        taken: in the order of the result.
        left_out: for each set, the rows that can't be taken.
        flagged: for each set, the rows that are left out by ids which readers made.
        counts: for the summary, what was left out on purpose.
    """

    taken: list[Candidate]
    left_out: list[list[Skipped]]
    flagged: list[list[Skipped]]
    counts: dict[str, object]


def build_compose(
    sets: list[Path],
    out: Path,
    factors: Factors = Factors(),
    amounts: Amounts = Amounts(),
    rejected_from: Path | None = None,
    without_flagged: Path | None = None,
    flagged_level: FlagLevel = "warning",
    expect: list[str] | None = None,
    reading: Reading = Reading(),
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Compose one set of pairs from SETS, with a recipe that repeats it.

    `recipe.yaml` has every option and the hash of every file. `veridical build compose --config
    RECIPE --out FOLDER` makes the same bytes again, or names the file that has changed. An
    interrupted run continues when the command is given again. The number of shards does not change
    the result.

    Args:
        sets: preference pairs.
        out: folder for the run: `pairs.parquet`, `recipe.yaml`, `summary.json`, `skipped.jsonl`,
            `run.json`.
        factors: what the sets are.
        amounts: how many pairs.
        rejected_from: take rejected answers from this set: those of the pair with the same id,
            prompt, images and chosen answer. Pairs without a match are left out and listed.
        without_flagged: leave out the rows listed in this file, whether they could be used or not:
            the findings of `data check --out`, the notes of `view` or a `skipped.jsonl`, by the
            numbers of the rows, or ids (a JSON list, or a text file with one id per line).
        flagged_level: lowest `level` at which a listed row is left out.
        expect: expected SHA-256 of each set, then of rejected-from and without-flagged, as in
            `recipe.yaml`; other content is refused.
        reading: how each set is read.
        seed: seed of the draws, the swaps and the order.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    _check(sets, factors, amounts)
    names = set_names(sets)
    inputs = {f"set {number}": path for number, path in enumerate(sets, start=1)}
    given = {"rejected_from": rejected_from, "without_flagged": without_flagged}
    inputs |= {name: path for name, path in given.items() if path is not None}
    for name, path in inputs.items():
        require_file(path, "SETS:" if name.startswith("set") else f"--{name.replace('_', '-')}")
    flags = read_flags(without_flagged, flagged_level)
    options = {
        "sets": sets, "out": out, "factors": factors, "amounts": amounts,
        "rejected_from": rejected_from, "without_flagged": without_flagged,
        "flagged_level": flagged_level, "expect": expect, "reading": reading, "seed": seed,
        "shard": shard,
    }  # fmt: skip
    part = read_shard(shard)
    with start_run(out, "build compose", options, inputs, any_process=True) as run:
        hashes = [str(run.record["inputs"][name]["sha256"]) for name in inputs]
        _expect(list(inputs.values()), hashes, expect)
        flagged = flags_by_set(without_flagged, flags, sets, hashes[: len(sets)])
        records = [
            read(path, "preference", reading, listed)
            for path, listed in zip(sets, flagged, strict=True)
        ]
        _refuse_missing(flagged, records)
        other = read(rejected_from, "preference", reading) if rejected_from else None
        choice = _choose(records, other, names, factors, amounts, flagged, seed)
        recipe, path = _recipe(options, hashes), out / "pairs.parquet"
        parts = RowParts(out / "parts", {"recipe": recipe}, "preference")
        files = [image_paths(one.rows) for one in records]
        if not build_set(
            parts, path, choice.taken, row_maker(records, other, names, seed),
            lambda one: files[one.set](one.index), "pairs", part,
        ):  # fmt: skip
            return
        _tell_unknown(flagged, records)
        counts = _write_skipped(out, records, choice)
        write_text_atomic(out / RECIPE, recipe)
        finish(run, {"pairs": len(choice.taken), **counts, **choice.counts}, parts)
        print_result(are_in(len(choice.taken), "pairs", path))
        print_result(
            f"To make them again: veridical build compose --config {out / RECIPE} --out FOLDER"
        )


def _check(sets: Sequence[Path], factors: Factors, amounts: Amounts) -> None:
    if not sets:
        raise UserError("No set is named; give one or more files of pairs.")
    for path in sets:
        check_file(path)
    if len({path.resolve() for path in sets}) < len(sets):
        raise UserError("A set is named twice. Name each once, and give it a weight.")
    factors.check(len(sets))
    amounts.check(len(sets))


def _expect(paths: Sequence[Path], hashes: Sequence[str], expect: Sequence[str] | None) -> None:
    if expect is None:
        return
    if len(expect) != len(hashes):
        raise UserError(f"--expect has {len(expect)} hashes, and there are {len(hashes)} files.")
    changed = [str(p) for p, now, was in zip(paths, hashes, expect, strict=True) if now != was]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: not the content that the recipe was made with. Restore it, or "
            "leave --expect out."
        )


def _choose(
    records: Sequence[RecordSet],
    other: RecordSet | None,
    names: Sequence[str],
    factors: Factors,
    amounts: Amounts,
    flagged: Sequence[FlaggedRows],
    seed: int,
) -> Composition:
    left_out: list[list[Skipped]] = [[] for _ in records]
    listed: list[list[Skipped]] = [[] for _ in records]
    not_kept: Counter[str] = Counter()
    pairs, said = read_factors(records, factors)
    partners = _Partners(other) if other is not None else None
    able: list[list[Candidate]] = []
    for number, one in enumerate(records):
        found = candidates_of(number, one, pairs[number], factors, not_kept)
        # Ids that readers make, of content or by numbering repeated ones, are known only now.
        ids = flagged[number].ids
        unflagged = [row for row in found if row.id not in ids]
        listed[number] += [Skipped(row.id, "row", ids[row.id]) for row in found if row.id in ids]
        if partners is not None:
            unflagged, alone = partners.found_by(unflagged, one)
            left_out[number] += alone
        able.append(unflagged)
    sizes = [len(rows) for rows in able]
    if not any(sizes):
        why = {f"not {name}": count for name, count in not_kept.items()}
        why |= {
            "flagged": sum(map(len, listed)) + sum(len(one.flagged) for one in records),
            "without a partner in --rejected-from": sum(map(len, left_out)),
        }
        known = [f"{n} {'is' if n == 1 else 'are'} {reason}" for reason, n in why.items() if n]
        raise UserError(f"No pair is left to take: {', '.join(known)}.{values_in_words(said)}")
    if amounts.weights and not all(sizes):
        raise UserError(f"{names[sizes.index(0)]} has no pair to take. Leave it out.")
    taken = [
        row
        for rows, quota in zip(able, quotas(sizes, amounts, names), strict=True)
        for row in draw(rows, quota, seed)
    ]
    final = _swapped(taken, records, names, amounts.swap, seed)
    counts: dict[str, object] = {
        "sets": {
            name: {"rows": len(one.rows), "able": size, "taken": sum(r.set == n for r in final)}
            for n, (name, one, size) in enumerate(zip(names, records, sizes, strict=True))
        },
        "swapped": sum(row.swap for row in final),
        "not_kept": dict(not_kept),
    }
    return Composition(final, left_out, listed, counts)


class _Partners:
    """The pairs from which rejected answers are taken, by id."""

    def __init__(self, records: RecordSet) -> None:
        self.answers = further_answers(records.rows)
        self.places = {name: place for place, name in enumerate(records.ids)}

    def found_by(
        self, rows: Sequence[Candidate], records: RecordSet
    ) -> tuple[list[Candidate], list[Skipped]]:
        """The rows that have a partner, and why the others have none."""
        wanted, found, alone = {row.index: row for row in rows}, [], []
        for index, (content, pictures) in enumerate(with_row_images(records.rows)):
            if index not in wanted:
                continue
            row = wanted[index]
            theirs = self.answers.get(row.id)
            reason: str | None = "--rejected-from has no pair of this id"
            if theirs is not None:
                reason = difference(content, pictures, theirs)
            if reason is None:
                found.append(dataclasses.replace(row, partner=self.places[row.id]))
            else:
                alone.append(Skipped(row.id, "rejected", reason))
        return found, alone


def _swapped(
    taken: Sequence[Candidate],
    records: Sequence[RecordSet],
    names: Sequence[str],
    share: float,
    seed: int,
) -> list[Candidate]:
    """The result's pairs in its order, with those to swap marked.

    Raises:
        UserError: a pair to swap has an answer or an image for its rejected branch alone.
    """
    ids = {(row.set, row.id): row_name(row, names) for row in taken}
    swap = swapped_ids(list(ids.values()), share, seed)
    ordered = sorted(taken, key=lambda row: (key(seed, "order", ids[row.set, row.id]), row.set))
    final = [dataclasses.replace(row, swap=ids[row.set, row.id] in swap) for row in ordered]
    for row in (row for row in final if row.swap):
        rows = records[row.set].rows
        for column in OF_ONE_ANSWER:
            if (
                column in rows.column_names
                and rows.select_columns([column])
                .with_format("arrow")[row.index][column][0]
                .is_valid
            ):
                raise UserError(
                    f"{names[row.set]}, pair {row.id}: a pair with {column} can't be swapped. "
                    "Leave such pairs out, or set --swap 0."
                )
    return final


def _refuse_missing(flagged: Sequence[FlaggedRows], records: Sequence[RecordSet]) -> None:
    """Refuse a list of rows of an earlier, longer file.

    Raises:
        UserError: a row is listed that its file has not.
    """
    for listed, one in zip(flagged, records, strict=True):
        if missing := listed.rows.keys() - {row.row for row in one.flagged}:
            raise UserError(
                f"{listed.listed_in} lists row {min(missing)} of {one.file}, which has "
                f"{counted(one.total, 'rows')}: the file was changed since. List its rows again."
            )


def _tell_unknown(flagged: Sequence[FlaggedRows], records: Sequence[RecordSet]) -> None:
    """Say which listed ids no row has."""
    known = {id for one in records for id in one.ids}
    known |= {row.id for one in records for row in (*one.flagged, *one.problems)}
    ids = {id for one in flagged for id in one.ids} - known
    if ids:
        print(
            f"--without-flagged lists {counted(len(ids), 'ids')} that no row has, such as "
            f"{min(ids)}."
        )


def _write_skipped(
    out: Path, records: Sequence[RecordSet], choice: Composition
) -> dict[str, object]:
    """List every row that was not taken, for a fault or because it is flagged; counts both."""
    skipped: list[SkippedRow] = []
    flagged: list[SkippedRow] = []
    for one, left_out, listed in zip(records, choice.left_out, choice.flagged, strict=True):
        skipped += [*unread_rows(one), *with_origins(one, map(as_row, left_out))]
        flagged += [*flagged_rows(one), *with_origins(one, map(as_row, listed))]
    file = out / "skipped.jsonl"
    write_jsonl(file, [*skipped, *flagged])
    if flagged:
        print(f"{counted(len(flagged), 'rows')} left out, as --without-flagged asks.")
    if skipped:
        print(f"{counted(len(skipped), 'pairs')} can't be taken; {file} says why.")
    return {"skipped": len(skipped), "flagged": len(flagged)}


def _recipe(given: Mapping[str, object], hashes: Sequence[str]) -> str:
    """The options as YAML that `--config` takes, with files by their whole paths."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value.resolve())
        return [plain(item) for item in value] if isinstance(value, list) else value

    options = {name: plain(value) for name, value in by_option(given).items()}
    options |= {"expect": list(hashes)}
    del options["out"], options["shard"]
    known = {name: value for name, value in options.items() if value is not None}
    head = "# veridical build compose --config THIS --out FOLDER makes the same set again.\n"
    return head + yaml.safe_dump(known, sort_keys=True, allow_unicode=True)
