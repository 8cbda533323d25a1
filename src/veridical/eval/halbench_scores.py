"""What Object HalBench measures, and what its metrics are made of."""

from __future__ import annotations

from veridical.eval.asks import Row
from veridical.eval.benchmark import Rows
from veridical.runtime.descriptions import BenchmarkDescription, MetricDescription
from veridical.scoring.statistics import ClusterSums, sum_by_cluster


def halbench_sums(rows: Rows) -> ClusterSums:
    """Counts of judged rows, added up by image."""
    return sum_by_cluster((row["image_id"], _counts(row)) for row in rows)


def _counts(row: Row) -> dict[str, float]:
    named = row["named"]
    read = named is not None
    wrong = row["hallucinated"]
    truth = set(row["expected"])
    return {
        "rows": 1.0,
        "unread": float(not read),
        "words": float(row["words"]),
        "answers": float(read),
        "with_objects": float(bool(named)),
        "without_objects": float(read and not named),
        "wrong": float(bool(wrong)),
        "named": float(len(named or [])),
        "hallucinated": float(len(wrong)),
        "recalled": float(len({name for _, name in named or []} & truth)),
        "objects": float(len(truth) if read else 0),
    }


OBJECT_HALBENCH = BenchmarkDescription(
    name="object_halbench",
    title="Object HalBench",
    done="Images were described",
    headline="response_hall",
    meaning="the share of descriptions with an object that is not in the picture",
    asked="descriptions of",
    metrics=(
        MetricDescription(
            "response_hall", "Descriptions with a hallucination",
            "Object HalBench, of those that name an object", better="lower", shown="top",
        ),
        MetricDescription(
            "object_hall", "Hallucinated objects", "Object HalBench, of all objects named",
            better="lower", shown="table",
        ),
        MetricDescription(
            "chair_s", "Descriptions with a hallucination", "Object HalBench, of all",
            better="lower",
        ),
        MetricDescription(
            "recall", "Objects found", "Object HalBench, of all objects shown", better="higher",
            shown="table",
        ),
        MetricDescription(
            "mean_length", "Length of the descriptions", "Object HalBench, mean, in words",
            unit="words",
        ),
        MetricDescription(
            "without_objects", "Descriptions without an object", "Object HalBench", better="lower",
            caution="Such a description names nothing wrong, and response_hall leaves it out.",
        ),
        MetricDescription(
            "unread", "Descriptions whose judge could not be read", "Object HalBench",
            better="lower", caution="Such descriptions count in no score.",
        ),
    ),
)  # fmt: skip
"""What Object HalBench is called, and how its metrics are shown."""
