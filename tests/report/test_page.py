"""The page holds every section, loads nothing, runs nothing, and survives what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import veridical
from veridical.cli.dispatch import main
from veridical.report import figures, write_report
from veridical.report.results import Arms, Results
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.scoring.object_scores import CHAIR
from veridical.web.query import read_query
from veridical.web.report_sets import report_sets
from veridical.web.sets import open_sets

ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)>'
SECTIONS = ("results", "images", "training", "pairs", "proofs", "done")


class Page(HTMLParser):
    """Tags, links and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.alternatives: list[str] = []
        self.labels: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.references.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
            if name == "alt":
                self.alternatives.append(value or "")
            if name == "aria-label":
                self.labels.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a page's time."""
    monkeypatch.setattr(figures, "embed_svg", lambda figure: "data:image/svg+xml;base64,")


def edit(path: Path, **changes: Any) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in rows))


def test_the_page_is_self_contained(demo: Path) -> None:
    path = write_report([demo])
    page = Page(path)
    assert path == demo / "report.html"
    assert set(page.tags).isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    viewed = "http://127.0.0.1:8600/s/"  # a link to follow, which loads nothing
    own_or_viewed = ("data:image/", "#", viewed)
    links = [own for own in page.references if not own.startswith(own_or_viewed)]
    assert links == [f"eval/{arm}/chair/answers.jsonl" for arm in ("base", "sft", "bdhs")]
    assert all((demo / link).is_file() for link in links)
    assert not re.search(r"@import|url\(", path.read_text())
    assert {own for own in page.ids if not own.startswith("answers-")} == set(SECTIONS)


@pytest.mark.usefixtures("no_plots")
def test_each_metric_leads_to_its_answers(demo: Path) -> None:
    page = Page(write_report([demo]))
    assert "answers-chair" in page.ids
    assert "#answers-chair-recall" in page.references
    assert "answers-chair-recall" in page.ids
    viewed = [own for own in page.references if own.startswith("http:")]
    assert "http://127.0.0.1:8600/s/0?sort=change_chair_i&down=1" in viewed
    assert "http://127.0.0.1:8600/s/0?sort=change_recall" in viewed  # higher is better
    assert "Answers behind Hallucinated mentions" in " ".join(page.labels)
    assert page.text.count(f"veridical view {demo / 'report.html'}") == 2
    assert "faint on purpose" not in page.text


@pytest.mark.parametrize(
    ("tag", "needs"),
    [
        ("<td", ["data-column="]),  # a narrow screen hides the table's head
        ("<pre", ["tabindex=", "role=", "aria-label="]),  # what scrolls can be reached by keys
        ('<div class="scroll"', ["tabindex=", "role=", "aria-label="]),
    ],
)
def test_tables_can_be_read_on_every_screen_and_by_keys(tag: str, needs: list[str]) -> None:
    templates = [path.read_text() for path in Path(veridical.__file__).parent.rglob("*.j2")]
    found = [own for text in templates for own in re.findall(f"{tag}[^>]*>", text)]
    assert found
    assert [own for own in found if not all(need in own for need in needs)] == []


@pytest.mark.usefixtures("no_plots")
def test_one_command_opens_every_set_that_the_page_links_to(demo: Path, tmp_path: Path) -> None:
    for arm in ("base", "bdhs"):
        asked = {"question_id": 1, "image_id": "1", "question": "A dog?", "label": "no",
                 "split": "random", "answer": arm, "parsed": "no"}  # fmt: skip
        write_jsonl(demo / "eval" / arm / "pope" / "answers.jsonl", [asked])
    page = write_report([demo])
    moved = demo.rename(tmp_path / "moved") / page.name
    sets = open_sets([moved], None, None, None)
    assert [one.name for one in sets] == [
        "CHAIR: base, sft and bdhs", "POPE: base and bdhs", "pairs",
    ]  # fmt: skip
    fields = [next(one.rows()).fields for one in sets]
    links = [own for own in Page(moved).references if own.startswith("http:")]
    places = set()
    for link in links:
        place, _, query = link.removeprefix("http://127.0.0.1:8600/s/").partition("?")
        sort = read_query(parse_qs(query)).sort
        assert not sort or sort in fields[int(place)], link
        places.add(int(place))
    assert places == {0, 1, 2}
    shutil.rmtree(moved.parent / "pairs")
    with pytest.raises(UserError, match="is not there"):
        open_sets([moved], None, None, None)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("[[1]]", "names no answers or pairs"),
        ("[[]]", "names no answers or pairs"),
        ("[" * 9000, "names no answers or pairs"),
        (json.dumps([["x" * 9000]]), "is not there"),
        (json.dumps([["\0"]]), "is not there"),
    ],
)
def test_a_page_that_names_no_sets_is_not_viewed(tmp_path: Path, sets: str, said: str) -> None:
    (tmp_path / "page.html").write_text(f"<meta name='veridical-sets' content='{sets}'>")
    with pytest.raises(UserError, match=said):
        open_sets([tmp_path / "page.html"], None, None, None)


@pytest.mark.usefixtures("no_plots")
def test_drawn_pictures_are_said_to_have_faint_objects(demo: Path) -> None:
    (demo / "data" / "eval_scenes" / "scenes.json").touch()
    record = json.loads((demo / "eval" / "base" / "chair" / "run.json").read_text())
    record["configuration"]["images"] = str(demo / "data" / "eval_scenes" / "images")
    (demo / "eval" / "base" / "chair" / "run.json").write_text(json.dumps(record))
    assert "drawn faint on purpose" in Page(write_report([demo])).text


@pytest.mark.usefixtures("no_plots")
def test_the_page_tells_the_whole_story(demo: Path) -> None:
    page = Page(write_report([demo]))
    text = page.text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "The control" not in text  # which arm it is has to be said
    labels = ["sft=the control, fine-tuned on true answers"]
    arms = Arms(about="bdhs", control="sft", labels=labels)
    page = Page(write_report([demo], arms=arms))
    text = page.text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "Hallucinated mentions fell from 20.0 % to 9.1 %" in text
    assert "the control, fine-tuned on true answers" in text
    assert "\N{MINUS SIGN}6.0 points (95 % interval \N{MINUS SIGN}8.0 to \N{MINUS SIGN}4.0" in text
    assert "The control, fine-tuned on true answers, changed by" in text
    assert "Compared with the control, bdhs differs by \N{MINUS SIGN}5.2 points" in text
    assert "Differences from sft" in text
    assert "Both rewards fall, which is normal here" in text
    assert "The start is neutral" in text
    assert "above 1.0 \N{MULTIPLICATION SIGN} 10" in text
    assert "9 pairs built; 1 row skipped." in text
    assert "too similar to the chosen answer" in text
    assert "99 % of the image hidden" in text
    assert "learning rate" in text
    # Each picture, plot and card says what it is to those who cannot see it.
    assert len(page.alternatives) == page.tags.count("img")
    pictures = [words for words in page.alternatives if words.startswith("Image ")]
    assert len(pictures) == 12 + 6
    assert sum(label.startswith(("Image ", "Pair ")) for label in page.labels) == 12 + 6
    assert not any(re.search(r"\de[-+]\d", words) for words in page.alternatives)
    # 12 examples and 6 pairs, and a plot for each curve and main metric.
    images = [r for r in page.references if r.startswith("data:image/png")]
    plots = [r for r in page.references if r.startswith("data:image/svg+xml")]
    assert len(images) == 12 + 6
    assert len(plots) == 5 + 5 + 1


def test_the_same_runs_give_the_same_page(demo: Path) -> None:
    run = demo / "train" / "sft"
    first = write_report([run]).read_bytes()
    assert write_report([run]).read_bytes() == first


@pytest.mark.usefixtures("no_plots")
def test_text_from_models_and_data_is_escaped(demo: Path) -> None:
    for arm, answer in (("base", ATTACK), ("bdhs", ATTACK + "!")):
        edit(demo / "eval" / arm / "chair" / "details.jsonl", answer=answer, mentions=[])
        edit(demo / "eval" / arm / "chair" / "answers.jsonl", answer=answer, prompt=ATTACK)
    edit(demo / "pairs" / "skipped.jsonl", reason=ATTACK)
    record = json.loads((demo / "run.json").read_text())
    (demo / "run.json").write_text(json.dumps({**record, "reason": ATTACK, "command": ATTACK}))
    page = Page(write_report([demo]))
    assert "script" not in page.tags
    assert not page.handlers
    assert page.text.count(ATTACK) >= 24


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("eval", "Images are shown if these runs contain descriptions"),
        ("train", "These runs contain no training"),
        ("pairs", "These runs contain no preference pairs"),
        ("train/bdhs/proofs.json", "no proofs.json"),
        ("pairs/skipped.jsonl", "what was left out is not known"),
        ("data", "no image file for scene_"),
        ("eval/base/chair/details.jsonl", "Images are shown if"),
    ],
)
def test_what_is_missing_is_said(demo: Path, missing: str, said: str) -> None:
    path = demo / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    page = Page(write_report([demo]))
    assert said in page.text
    assert {own for own in page.ids if not own.startswith("answers-")} == set(SECTIONS)


@pytest.mark.usefixtures("no_plots")
def test_a_proof_that_cannot_tell_is_not_shown_as_passed(demo: Path) -> None:
    path = demo / "train" / "bdhs" / "proofs.json"
    proofs = json.loads(path.read_text())
    proofs[0] |= {"blind": True}
    path.write_text(json.dumps(proofs))
    assert "2 passed, 1 can't tell" in Page(write_report([demo])).text


@pytest.mark.usefixtures("no_plots")
def test_runs_without_a_summary_are_shown_together(demo: Path, tmp_path: Path) -> None:
    runs = [demo / "eval" / arm / "chair" for arm in ("base", "bdhs")]
    out = tmp_path / "both.html"
    text = Page(write_report(runs, out)).text
    assert "9.1" in text
    assert "the difference was not tested" in text
    assert "veridical eval compare" in text
    assert "with fewer invented objects" in text


@pytest.mark.usefixtures("no_plots")
def test_a_comparison_brings_the_differences(demo: Path, tmp_path: Path) -> None:
    row: dict[str, Any] = {"benchmark": "chair", "metric": "chair_i"}
    row |= {"arm": "bdhs", "baseline": "base"}
    row |= {"p": 0.01, "clusters": 40}
    row |= {"value": -0.1, "low": -0.2, "high": -0.05, "arm_value": 0.1, "baseline_value": 0.2}
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "comparison.json").write_text(
        json.dumps({"benchmarks": [CHAIR.as_json()], "differences": [row]})
    )
    alone = Page(write_report([folder])).text
    assert "fell from 20.0" in alone
    runs = [demo / "eval" / arm / "chair" for arm in ("base", "bdhs")]
    assert "fell from 20.0" in Page(write_report([*runs, folder], tmp_path / "x.html")).text


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("part", "title"),
    [
        ("train/bdhs", "Training of bdhs: no warning from the run doctor"),
        ("pairs", "9 preference pairs built"),
        ("eval/base/chair", "Hallucinated mentions: 20.0\N{NARROW NO-BREAK SPACE}% for base"),
        ("eval/base/pope", "Yes/no questions right: 81.0\N{NARROW NO-BREAK SPACE}% for base"),
    ],
)
def test_a_single_part_has_a_page(demo: Path, part: str, title: str) -> None:
    page = Page(write_report([demo / part]))
    assert title in " ".join(" ".join(page.words).split(" "))


@pytest.mark.usefixtures("no_plots")
def test_a_failed_run_says_why(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "failed"
    folder.mkdir()
    record = json.loads((demo / "train" / "bdhs" / "run.json").read_text())
    record |= {"status": "failed", "reason": "RuntimeError: no memory"}
    (folder / "run.json").write_text(json.dumps(record))
    text = Page(write_report([folder])).text
    assert "RuntimeError: no memory" in text
    assert "A run without results yet" in text


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is not a run"),
        (lambda path: path.write_text("x"), "is a file"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        write_report([tmp_path / "x"])
    with pytest.raises(UserError, match="Which run"):
        write_report([])


@pytest.mark.usefixtures("no_plots")
def test_a_broken_parquet_file_is_named(demo: Path) -> None:
    (demo / "pairs" / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"pairs\.parquet cannot be read"):
        write_report([demo])


@pytest.mark.usefixtures("no_plots")
def test_the_command_prints_where_the_page_is(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(demo), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"Results: {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").is_file()


def test_many_arms_have_a_row_each(demo: Path, no_plots: None) -> None:
    path = demo / "summary.json"
    summary = json.loads(path.read_text())
    (model,) = (arm for arm in summary["arms"] if arm["name"] == "bdhs")
    summary["arms"] += [{**model, "name": f"arm{number}"} for number in range(6)]
    path.write_text(json.dumps(summary))
    page = Page(write_report([demo], arms=Arms(about="bdhs")))
    table = page.text[page.text.index("Before and after") :]
    assert table.index("arm0") < table.index("arm1") < table.index("arm5")
    head = table[table.index("Arm Hallucinated mentions") : table.index("arm0")]
    assert "Objects found" in head
    assert "arm5" not in head
    assert "bdhs, which was asked for; the table also has 7 other arms." in page.text
    assert "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}" in "".join(page.words)


def test_an_arm_that_is_not_there_is_refused(demo: Path) -> None:
    with pytest.raises(UserError, match=r"--control sfd: .*no such arm; there is base, bdhs"):
        write_report([demo], arms=Arms(control="sfd"))
    with pytest.raises(UserError, match="--about base: the others are compared with it"):
        write_report([demo], arms=Arms(about="base"))
    with pytest.raises(UserError, match="both bdhs"):
        write_report([demo], arms=Arms(about="bdhs", control="bdhs"))
    with pytest.raises(UserError, match="--labels sft: each is ARM=TEXT"):
        write_report([demo], arms=Arms(labels=["sft"]))
    with pytest.raises(UserError, match="--labels sfd: these runs have no such arm"):
        write_report([demo], arms=Arms(labels=["sfd=fine-tuned"]))


def test_the_control_of_an_arm_is_of_the_same_run() -> None:
    arms = ["a/base", "a/sft", "a/bdhs", "b/sft", "b/bdhs"]
    results = Results(arms=arms, named=Arms(control="sft"))
    assert [results.control_of(arm) for arm in ("a/bdhs", "b/bdhs")] == ["a/sft", "b/sft"]
    assert Results(arms=arms).control_of("a/bdhs") is None


def test_a_link_to_a_page_leads_to_the_same_sets(tmp_path: Path) -> None:
    """Folders are relative to the page itself, wherever it is linked from."""
    (tmp_path / "made" / "run").mkdir(parents=True)
    page = tmp_path / "made" / "page.html"
    page.write_text("<meta name='veridical-sets' content='[[\"run\"]]'>")
    link = tmp_path / "page.html"
    link.symlink_to(page)
    assert report_sets(link) == report_sets(page) == [[tmp_path / "made" / "run"]]
