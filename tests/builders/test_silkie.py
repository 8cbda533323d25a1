"""VLFeedback's groups become the pairs of Silkie's rule: every two that differ in their mean."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from veridical import cli
from veridical.data.records import read_records, text_of
from veridical.runtime.files import write_jsonl

ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
# Four answers a prompt; the last of the first prompt has a rating that is not a number.
RATINGS = [
    [("5", "5", "4"), ("3", "5", "2"), ("4", "5", "5"), ("5", "N/A", "5")],
    [("1", "2", "3"), ("3", "2", "1"), ("5", "5", "5"), ("1", "1", "1")],
]


def test_silkies_pairs(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    rows: list[dict[str, Any]] = []
    expected = set()
    for number, group in enumerate(RATINGS):
        completions = [
            {"response": f"{number}{i}", "model": f"m{i}"}
            | {"annotations": {a: {"Rating": r} for a, r in zip(ASPECTS, given, strict=True)}}
            for i, given in enumerate(group)
        ]
        rows.append({"id": str(number), "prompt": "Q?", "models": ["m"], "img_path": "a.png"})
        rows[-1]["completions"] = completions
        means = {i: fmean(map(float, g)) for i, g in enumerate(group) if "N/A" not in g}
        for one, other in combinations(means, 2):
            if means[one] != means[other]:
                better, worse = sorted((one, other), key=lambda i: -means[i])
                expected.add((f"{number}{better}", f"{number}{worse}"))
    # Prompt 0: means 14/3, 10/3, 14/3, none: 2 pairs. Prompt 1: 2, 2, 5, 1: 5 pairs.
    assert len(expected) == 7
    write_jsonl(tmp_path / "vlf.jsonl", rows)
    samples, out = tmp_path / "samples.parquet", tmp_path / "pairs"
    assert cli.main(["data", "import", str(tmp_path / "vlf.jsonl"), "--out", str(samples)]) == 0
    rule = ["--rule", "all", "--margin", "0", "--aspects", *ASPECTS]
    assert cli.main(["build", "pairs", str(samples), *rule, "--out", str(out)]) == 0
    pairs = read_records(out / "pairs.parquet", "preference").rows
    assert {(text_of(row["chosen"]), text_of(row["rejected"])) for row in pairs} == expected
    # Paper A's controlled sets take pairs by who wrote the answers.
    keep = ["--keep", "chosen_by=m2", "judge=gpt-4v"]
    given = [str(out / "pairs.parquet"), *keep, "--out", str(tmp_path / "kept")]
    assert cli.main(["build", "compose", *given]) == 0
    kept = read_records(tmp_path / "kept" / "pairs.parquet", "preference").rows
    wanted = {chosen for chosen, _ in expected if chosen.endswith("2")}
    assert {text_of(row["chosen"]) for row in kept} == wanted
