"""The supervised mix of LLaVA-SFT+ (Sun et al. 2023), from the sets that it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

from veridical.builders._parts import finish
from veridical.builders._row_parts import RowParts, build_set
from veridical.builders.instructing.flickr import flickr_talks
from veridical.builders.instructing.found import Gathered, Talk, open_image_folder
from veridical.builders.instructing.prompts import Prompts, read_prompt_texts
from veridical.builders.instructing.questions import aokvqa_talks, vqa_talks
from veridical.data.messages import assistant_message, user_message
from veridical.data.origins import image_paths, unread_rows
from veridical.data.record_types import NewRow
from veridical.data.records import RecordSet, read_records
from veridical.runtime.cache import digest
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_jsonl
from veridical.runtime.progress import are_in, counted, part_of
from veridical.runtime.randomness import key
from veridical.runtime.ranges import Range, check_ranges
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

SOURCES = ("llava", "vqa", "aokvqa", "flickr")
OPTIONS = {"vqa": "vqa-questions", "aokvqa": "aokvqa", "flickr": "flickr"}
HINTS = {
    "aokvqa": " A-OKVQA is about COCO's images of 2017; train2017 has all of train2014 too.",
}
"""What is easily wrong with a set's images."""
_AT_MOST = Range(0)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Most conversations from each set; by default the numbers of LLaVA-SFT+.

    Attributes:
        llava_count: from LLaVA-Instruct.
        vqa_count: from VQA-v2, one for each image.
        aokvqa_count: from A-OKVQA, one for each image.
        flickr_count: from Flickr30k, one for each image.
    """

    llava_count: Annotated[int, _AT_MOST] = 98_000
    vqa_count: Annotated[int, _AT_MOST] = 83_000
    aokvqa_count: Annotated[int, _AT_MOST] = 16_000
    flickr_count: Annotated[int, _AT_MOST] = 23_000

    def of(self, source: str) -> int:
        """How many of a set."""
        return int(getattr(self, f"{source}_count"))


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published files of each set; sets that are not given are left out.

    Attributes:
        llava: LLaVA-Instruct (JSON), or any conversations.
        llava_images: what its image paths are relative to; its own folder if not set.
        vqa_questions: VQA-v2's questions (JSON).
        vqa_annotations: VQA-v2's annotations (JSON).
        aokvqa: A-OKVQA (JSON), with the correct choices.
        coco_images: folder of COCO's images, for VQA-v2 and A-OKVQA.
        flickr: folder of Flickr30k Entities, with Sentences/ and Annotations/.
        flickr_images: folder of Flickr30k's images.
    """

    llava: Path | None = None
    llava_images: Path | None = None
    vqa_questions: Path | None = None
    vqa_annotations: Path | None = None
    aokvqa: Path | None = None
    coco_images: Path | None = None
    flickr: Path | None = None
    flickr_images: Path | None = None

    def check(self) -> None:
        """Refuse a set without what belongs to it.

        Raises:
            UserError: names the option.
        """
        if not (self.llava or self.vqa_questions or self.aokvqa or self.flickr):
            raise UserError("No set is given: --llava, --vqa-questions, --aokvqa or --flickr.")
        needs = (("vqa_questions", "vqa_annotations"), ("vqa_annotations", "vqa_questions"),
                 ("vqa_questions", "coco_images"), ("aokvqa", "coco_images"),
                 ("flickr", "flickr_images"))  # fmt: skip
        for name, other in needs:
            if getattr(self, name) and not getattr(self, other):
                named, wanted = (f"--{one.replace('_', '-')}" for one in (name, other))
                raise UserError(f"{named} needs {wanted}.")
        for name in ("llava", "vqa_questions", "vqa_annotations", "aokvqa"):
            if path := getattr(self, name):
                require_file(path, f"--{name.replace('_', '-')}")

    @property
    def files(self) -> dict[str, Path]:
        """The files that are read, by option."""
        names = ("llava", "vqa_questions", "vqa_annotations", "aokvqa")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def build_instruct(
    out: Path,
    published: Published = Published(),
    mix: Mix = Mix(),
    prompts: Path | None = None,
    max_bad_fraction: float = 0.01,
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Make conversations for `train sft` from LLaVA-Instruct, VQA-v2, A-OKVQA and Flickr30k.

    VQA-v2's yes/no questions and A-OKVQA's multiple choice become one conversation for each image;
    a Flickr30k caption becomes one with boxes. From a set with more conversations than its limit,
    some are drawn by seed. An interrupted run continues when the command is given again. The
    number of shards does not change the result.

    Args:
        out: folder for the run: `conversations.parquet`, `summary.json`, `skipped.jsonl`,
            `run.json`.
        published: the sets.
        mix: how many of each.
        prompts: YAML file with the prompts; the package's own if not set.
        max_bad_fraction: share of a set's unusable rows above which nothing is built.
        seed: seed of the draws, the prompts and the order.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    published.check()
    check_ranges(mix)
    asked = read_prompt_texts(prompts, seed)
    inputs = published.files | ({"prompts": prompts} if prompts else {})
    options = {
        "out": out, "published": published, "mix": mix, "prompts": prompts,
        "max_bad_fraction": max_bad_fraction, "seed": seed, "shard": shard,
    }  # fmt: skip
    part = read_shard(shard)
    with start_run(out, "build instruct", options, inputs, any_process=True) as run:
        llava = None
        if published.llava:
            llava = read_records(
                published.llava, "conversation", published.llava_images, max_bad_fraction
            )
        found = _found(published, asked, max_bad_fraction)
        taken = _taken(llava, found, mix, seed)
        hashes = {name: one.get("sha256") for name, one in run.record["inputs"].items()}
        parts = RowParts(out / "parts", _identity(taken, hashes), "conversation")
        path = out / "conversations.parquet"
        if not build_set(
            parts, path, taken, lambda some: _rows(some, llava), _file_finder(llava),
            "conversations", part,
        ):  # fmt: skip
            return
        skipped = [*(unread_rows(llava) if llava else ())]
        skipped += [row for one in found.values() for row in one.skipped]
        write_jsonl(out / "skipped.jsonl", skipped)
        sets = _counts(llava, found, taken, mix)
        summary = {"conversations": len(taken), "skipped": len(skipped), "sets": sets}
        finish(run, summary, parts)
        for line in _told(sets):
            print_result(line)
        print_result(are_in(len(taken), "conversations", path))


def _identity(taken: Sequence[Taken], hashes: Mapping[str, object]) -> dict[str, object]:
    """What decides the rows: the files, and the conversations that were made of folders."""
    talks = [
        (one.id, one.content if isinstance(one.content, int) else asdict(one.content))
        for one in taken
    ]
    return {"files": hashes, "taken": digest(repr(talks))}


def _file_finder(llava: RecordSet | None) -> Callable[[Taken], list[Path]]:
    """Gives the files of a conversation's images."""
    of_llava = image_paths(llava.rows) if llava else None

    def files(one: Taken) -> list[Path]:
        if isinstance(one.content, Talk):
            return [one.content.image]
        return of_llava(one.content) if of_llava else []

    return files


def _found(published: Published, prompts: Prompts, most: float) -> dict[str, Gathered]:
    """What the sets but LLaVA-Instruct give."""
    found: dict[str, Gathered] = {}
    coco = open_image_folder(published.coco_images) if published.coco_images else None
    if published.vqa_questions and published.vqa_annotations and coco:
        found["vqa"] = vqa_talks(published.vqa_questions, published.vqa_annotations, coco, prompts)
    if published.aokvqa and coco:
        found["aokvqa"] = aokvqa_talks(published.aokvqa, coco, prompts)
    if published.flickr and published.flickr_images:
        images = open_image_folder(published.flickr_images)
        found["flickr"] = flickr_talks(published.flickr, images, prompts)
    for name, one in found.items():
        _refuse(name, one, most)
    return found


@dataclass(frozen=True)
class Taken:
    """A conversation of the result: of LLaVA the row's number, else the conversation itself."""

    set: str
    id: str
    content: int | Talk


def _refuse(name: str, found: Gathered, most: float) -> None:
    bad = len(found.skipped)
    if not found.talks or bad > most * found.rows:
        first = "; ".join(f"{row['id']}, {row['reason']}" for row in found.skipped[:2])
        told = f"--{OPTIONS[name]}: {part_of(bad, found.rows, 'rows')} can't be used"
        limit = f", more than --max-bad-fraction {most:g} allows" if found.talks else ""
        higher = ", or set --max-bad-fraction higher" if found.talks else ""
        advice = f"Name the right folder of images{higher}.{HINTS.get(name, '')}"
        raise UserError(f"{told}{limit}{': ' + first if first else ''}. {advice}")


def _taken(llava: RecordSet | None, found: dict[str, Gathered], mix: Mix, seed: int) -> list[Taken]:
    """The conversations of the result, in its order."""
    offered: dict[str, list[Taken]] = {
        name: [Taken(name, talk.id, talk) for talk in one.talks] for name, one in found.items()
    }
    if llava is not None:
        ids = llava.ids
        offered["llava"] = [Taken("llava", f"llava/{id}", place) for place, id in enumerate(ids)]
    drawn = [
        one
        for name, all in offered.items()
        for one in sorted(all, key=lambda one: key(seed, "draw", one.id))[: mix.of(name)]
    ]
    if not drawn:
        raise UserError("The counts of all given sets are 0. Set one above 0.")
    return sorted(drawn, key=lambda one: key(seed, "order", one.id))


def _rows(taken: Sequence[Taken], llava: RecordSet | None) -> Iterator[NewRow]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = llava.rows.with_format("arrow") if llava else None
    for one in taken:
        if isinstance(one.content, Talk):
            yield _row(one.content)
        elif raw is not None:
            row = raw[one.content].to_pylist()[0]
            source = {"builder": "instruct", "set": "LLaVA-Instruct"}
            if row.get("source"):
                source["from"] = row["source"]
            yield row | {"id": one.id, "source": json.dumps(source, ensure_ascii=False)}


def _row(talk: Talk) -> NewRow:
    messages = [
        message
        for number, (question, answer) in enumerate(talk.turns)
        for message in (user_message(question, int(number == 0)), assistant_message(answer))
    ]
    source = json.dumps({"builder": "instruct", "set": talk.source})
    return {"id": talk.id, "images": [talk.image], "messages": messages, "source": source}


class SetCounts(TypedDict):
    """Conversations of one set: asked for, there, taken; and rows of it that are none."""

    asked: int
    offered: int
    taken: int
    other_rows: NotRequired[dict[str, int]]


def _counts(
    llava: RecordSet | None, found: dict[str, Gathered], taken: Sequence[Taken], mix: Mix
) -> dict[str, SetCounts]:
    offered = {name: len(one.talks) for name, one in found.items()}
    if llava is not None:
        offered["llava"] = len(llava.rows)
    counts: dict[str, SetCounts] = {}
    for name in (name for name in SOURCES if name in offered):
        counts[name] = {
            "asked": mix.of(name),
            "offered": offered[name],
            "taken": sum(one.set == name for one in taken),
        }
        if name in found and found[name].other:
            counts[name]["other_rows"] = dict(found[name].other)
    return counts


def _told(sets: Mapping[str, SetCounts]) -> Iterator[str]:
    """Say where a set has fewer than the mix asks for."""
    for name, counts in sets.items():
        if counts["offered"] < counts["asked"]:
            there = counted(counts["offered"], "conversations")
            yield f"{name}: {there}, of {counts['asked']} that the mix asks for."
