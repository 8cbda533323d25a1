"""What a reader of the report could take wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from veridical.cli.commands import COMMANDS
from veridical.objectives.preference import pair_accuracy
from veridical.report.curves import percent
from veridical.report.figures import arm_label, canvas, embed_svg
from veridical.report.folders import Part, in_order
from veridical.report.pictures import find_image
from veridical.report.steps import VERBS
from veridical.report.wording import interval_text, show
from veridical.runtime.run_record import RunFields


def test_nearly_all_is_not_all() -> None:
    assert percent(0.996).startswith("99.6")
    assert percent(0.99996).startswith("99.9")
    assert percent(1.0).startswith("100")
    assert show(0.99996, "percent").startswith("99.9")
    assert show(1.0, "percent").startswith("100.0")


def test_an_interval_of_no_width_is_none() -> None:
    assert interval_text(0.5, 0.5, "percent") == ""
    assert interval_text(0.4, 0.5, "percent") == "40.0 to 50.0"


def test_two_comes_before_ten() -> None:
    names = ["arm-10", "arm-2", "arm-1", "b", "2"]
    assert sorted(names, key=in_order) == ["2", "arm-1", "arm-2", "arm-10", "b"]


def test_a_long_name_keeps_both_ends_and_is_no_formula() -> None:
    assert arm_label("bdhs") == "bdhs"
    label = arm_label("a" * 30 + "z" * 30)
    assert label == "a" * 10 + "\N{HORIZONTAL ELLIPSIS}" + "z" * 10
    assert arm_label("a$b") == r"a\$b"


def test_equal_rewards_are_half_right() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])
    assert pair_accuracy(chosen, rejected).tolist() == [1.0, 0.0, 0.5]
    assert pair_accuracy(chosen, rejected, torch.tensor([1.0, 0.5, 0])).tolist() == [0.5, 0.0, 0.5]


def test_pictures_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    (there / "photos").mkdir(parents=True)
    (there / "photos" / "1.png").touch()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    record: RunFields = {"configuration": {"images": "photos"}, "working_folder": str(there)}
    part = Part(elsewhere, elsewhere, "run", "eval", record)
    assert find_image("1.png", part) == there / "photos" / "1.png"


def test_numbers_beside_a_plot_are_inside_it() -> None:
    """0.6935 is longer than the margin that most numbers need."""
    for values in ((0.6920, 0.6935), (0.693146, 0.693148), (-123456.5, -123450.5), (0, 1)):
        with canvas(left=0.5, bottom=0.46, top=0.32) as (figure, axes):
            axes.plot([0, 1], values)
            embed_svg(figure)
            drawn = FigureCanvasAgg(figure)
            drawn.draw()
            starts = [
                label.get_window_extent(drawn.get_renderer()).x0 for label in axes.get_yticklabels()
            ]
        assert min(starts) >= 0, values
        assert not axes.yaxis.get_offset_text().get_text()


def test_every_builder_says_what_it_made() -> None:
    """Only those that make pairs say that pairs were built."""
    pairs = {"bdhs", "rank", "pairs", "corrupt", "distort", "dropout", "join"}
    made = [name for name in COMMANDS if name.startswith("build ")]
    told = {name: next(VERBS[key] for key in VERBS if name.startswith(key)) for name in made}
    assert {n.split()[1] for n, text in told.items() if text == VERBS["build"]} >= pairs
    others = {"sample", "rate", "annotate", "best", "facts", "objects", "compose", "instruct"}
    assert not others & {n.split()[1] for n, text in told.items() if text == VERBS["build"]}
