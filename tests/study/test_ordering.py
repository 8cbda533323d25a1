"""Which step starts next."""

from __future__ import annotations

from pathlib import Path

from stub_steps import step

from veridical.study.ledger import StepState
from veridical.study.ordering import Queue, foretell_order
from veridical.study.plan import Plan, Step
from veridical.study.rates import known_rates


def chain_plan(out: Path) -> Plan:
    """One step that stands alone, before a chain of three."""
    alone, first = step("alone", out), step("first", out)
    second = step("second", out, [out / "first"])
    return Plan(out, (alone, first, second, step("third", out, [out / "second"])))


def test_the_longest_chain_comes_first(tmp_path: Path) -> None:
    plan = chain_plan(tmp_path)
    queue = Queue(plan, plan.steps, {})
    assert [queue.take().name, queue.take().name] == ["alone", "first"]  # in the file's order
    queue = Queue(plan, plan.steps, {})
    queue.weigh(lambda one: 2.5 if one.name == "alone" else 1.0)  # 2.5 against 1 + 1 + 1
    first = queue.take()
    assert first.name == "first"
    queue.done(first)
    assert queue.take().name == "alone"  # 2.5 against 1 + 1
    assert [queue.take().name, bool(queue)] == ["second", False]


def test_a_plan_is_foretold_in_the_order_in_which_it_runs(tmp_path: Path) -> None:
    """Alone 2 s, the chain 1 + 1 + 1: on one worker the chain's start comes first, then `alone`."""
    plan = chain_plan(tmp_path)
    seconds = {step.name: 2.0 if step.name == "alone" else 1.0 for step in plan.steps}
    order, total = foretell_order(plan, plan.steps, seconds, 1)
    assert ([step.name for step in order][:2], total) == (["first", "alone"], 5.0)
    order, total = foretell_order(plan, plan.steps, seconds, 2)
    assert ([step.name for step in order][:2], total) == (["first", "alone"], 3.0)
    queue = Queue(plan, plan.steps, {})
    queue.weigh(lambda one: seconds[one.name])
    assert queue.take() is order[0]
    last = plan.steps[-1]
    assert foretell_order(plan, [last], seconds, 1) == ([last], seconds[last.name])


def test_a_step_that_is_started_again_comes_before_all(tmp_path: Path) -> None:
    plan = chain_plan(tmp_path)
    queue = Queue(plan, plan.steps, {})
    alone = queue.take()
    queue.again(alone)
    queue.weigh(lambda one: 1.0)
    assert queue.take() is alone
    queue.put(alone)  # there was no room for it
    assert queue.take() is alone


def test_alternatives_of_one_name_have_rates_of_their_own() -> None:
    def done(command: str, seconds: float) -> StepState:
        return {"key": "k", "status": "finished", "command": f"veridical {command} --x 1",
                "seconds": seconds}  # fmt: skip

    rates = known_rates({
        "train/a": done("train dpo", 2.0), "train/b": done("train ppo", 20.0),
        "train/c": done("train ppo", 40.0),
    })  # fmt: skip
    assert rates.of(Step("train/d", "train ppo")) == 30.0
    assert rates.of(Step("train/d", "train dpo")) == 2.0
    assert rates.of(Step("eval/d", "eval chair")) is None
    assert rates.guess(Step("eval/d", "eval chair")) == (2.0 + 30.0) / 2
