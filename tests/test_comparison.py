"""Comparisons: what they say of runs, and the table, report and files that the command makes of it."""

from __future__ import annotations

import json
import re
import sqlite3
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import config_of, make_run, returns_of

from rlkit_core import comparison, statistics
from rlkit_core.cli.compare import lines_of, markdown
from rlkit_core.comparison import compare, number
from rlkit_core.errors import UsageError
from rlkit_core.refusals import EVALUATION, TRAINING, Refusal
from rlkit_core.run_store import Curve, StoredRun
from rlkit_core.tracking import sync

Rlkit = Callable[..., tuple[int, str, str]]
QUICK: dict[str, Any] = {"resamples": 200}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(
    group: str, seed: int, returns: Sequence[float], *, environment: str = "CartPole-v1", pace: float = 1.0, **more: Any
) -> StoredRun:
    """A run that was evaluated every 1,000 steps, the last time as its final evaluation."""
    steps = 1000 * np.arange(1, len(returns) + 1)
    curve = Curve(steps, pace * np.arange(1.0, len(returns) + 1), np.asarray(returns, float))
    facts: dict[str, Any] = {
        "place": f"runs/{group}/{environment}-{seed}",
        "run_id": f"{group} {environment} {seed}",
        "algorithm": group,
        "budget": int(steps[-1]),
        "steps": int(steps[-1]),
        "settings": {"eval_every": 1000, "eval_episodes": 10, "seed": seed},
        "final": {"return": float(returns[-1]), "episodes": 100.0},
        "curves": {EVALUATION: curve},
    }
    return StoredRun(group=group, seed=seed, environment=environment, **{**facts, **more})


def side(group: str, finals: Sequence[float], **more: Any) -> list[StoredRun]:
    """Runs whose returns rise to these."""
    return [run(group, seed, [final / 4, final / 2, final], **more) for seed, final in enumerate(finals)]


LOW, HIGH = [100.0, 110.0, 120.0, 130.0, 140.0], [200.0, 210.0, 220.0, 230.0, 250.0]


def only(result: dict[str, Any]) -> dict[str, Any]:
    """The only pair of the only environment."""
    (environment,) = result["environments"]
    (pair,) = environment["pairs"]
    assert isinstance(pair, dict)
    return pair


def test_what_is_said_of_a_side() -> None:
    result = compare([*side("a", LOW), *side("b", HIGH)], thresholds={"CartPole-v1": 115.0})
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["sides"], result["by"], result["better"], result["num_tests"]) == (["a", "b"], "final", "higher", 1)
    (environment,) = result["environments"]
    assert (environment["environment"], environment["budget"], environment["threshold"]) == ("CartPole-v1", 3000, 115.0)
    assert environment["protocol"]["eval_every"] == 1000
    assert environment["protocol"]["final_episodes"] == 100
    a, b = environment["sides"]
    assert (a["side"], a["seeds"], a["scores"], a["final"]) == ("a", [0, 1, 2, 3, 4], LOW, LOW)
    assert a["runs"][3] == "runs/a/CartPole-v1-3"
    # Five scores: from the smallest to the largest, which covers 1 - 2/32.
    assert (a["median"]["value"], a["median"]["low"], a["median"]["high"]) == (120.0, 100.0, 140.0)
    assert a["median"]["confidence"] == 0.9375
    assert a["iqm"]["value"] == pytest.approx(120.0)
    assert b["mean"]["value"] == pytest.approx(222.0)
    assert 200 <= b["mean"]["low"] < 222 < b["mean"]["high"] <= 250
    assert a["steps_to_threshold"]["steps"] == [3000.0] * 5
    assert a["steps_to_threshold"]["reached"] == [False, False, True, True, True]
    assert a["steps_to_threshold"]["num_reached"] == 3
    assert a["steps_to_threshold"]["median"]["high"] is None
    assert b["steps_to_threshold"]["num_reached"] == 5


def test_what_is_said_of_a_pair() -> None:
    pair = only(compare([*side("a", LOW), *side("b", HIGH)]))
    assert (pair["side"], pair["baseline"], pair["n"]) == ("b", "a", [5, 5])
    assert (pair["verdict"], pair["method"], pair["splits"], pair["more_seeds"]) == ("better", "exact", 252, 0)
    # Every score of one side is above every one of the other: 2 of 252 splits.
    assert pair["p"] == pytest.approx(2 / 252)
    assert pair["p"] == statistics.permutation_test(np.array(HIGH), np.array(LOW), np.random.default_rng(0)).p
    assert pair["p_corrected"] == pair["p"]
    assert pair["probability_of_improvement"]["value"] == 1.0
    assert pair["difference"]["value"] == pytest.approx(102.0)
    assert pair["text"].startswith("b is better than a on CartPole-v1: mean 222.0 against 120.0, median 220.0 against")
    assert "Holm" not in pair["text"]


def test_too_few_seeds_and_how_many_more() -> None:
    pair = only(compare([*side("a", LOW[:3]), *side("b", HIGH[:3])]))
    assert (pair["verdict"], pair["p_corrected"], pair["more_seeds"]) == ("cannot tell", None, 1)
    assert pair["text"].startswith("cannot tell b and a apart on CartPole-v1: mean ")
    assert "3 seeds a side" in pair["text"]
    assert "1 more a side needed" in pair["text"]
    paired = only(compare([*side("a", LOW), *side("b", HIGH)], paired=True))
    assert (paired["verdict"], paired["more_seeds"]) == ("cannot tell", 1)


def test_p_is_corrected_for_all_tests_and_the_baseline_is_the_first() -> None:
    runs = [
        *(member for name in ("a", "b", "c") for member in side(name, HIGH if name == "b" else LOW)),
        *(member for name in ("a", "b") for member in side(name, LOW, environment="Acrobot-v1")),
    ]
    result = compare(runs, sides=["a", "b", "c"], **QUICK)
    assert result["num_tests"] == 3
    acrobot, cartpole = result["environments"]
    assert [(pair["side"], pair["baseline"]) for pair in cartpole["pairs"]] == [("b", "a"), ("c", "a")]
    first = cartpole["pairs"][0]
    assert first["p_corrected"] == pytest.approx(3 * first["p"])
    assert "after Holm's correction for 3 tests" in first["text"]
    assert cartpole["pairs"][1]["p"] == 1.0
    assert len(compare(runs, all_pairs=True, **QUICK)["environments"][1]["pairs"]) == 3
    # Only b and a share two environments: their probabilities are 1/2 and 1.
    (overall,) = result["overall"]
    assert (overall["side"], overall["baseline"]) == ("b", "a")
    assert overall["environments"] == ["Acrobot-v1", "CartPole-v1"]
    assert overall["probability_of_improvement"]["value"] == pytest.approx(0.75)
    assert acrobot["pairs"][0]["verdict"] == "cannot tell"


def test_pairs_are_of_the_same_seed() -> None:
    # Seed by seed b is better, by 1 where the spread of seeds is 100.
    a = [run("a", seed, [100.0 * seed]) for seed in range(1, 9)]
    b = [run("b", seed, [100.0 * seed + 1]) for seed in range(2, 12)]
    assert only(compare([*a, *b]))["verdict"] == "cannot tell"
    pair = only(compare([*a, *reversed(b)], paired=True))
    assert (pair["verdict"], pair["n"]) == ("better", [7, 7])
    assert pair["difference"] == {**pair["difference"], "value": pytest.approx(1), "low": pytest.approx(1)}
    assert "7 pairs" in pair["text"]
    nothing = only(compare([*a, run("b", 77, [1.0])], paired=True))
    assert (nothing["verdict"], nothing["n"]) == ("cannot tell", [0, 0])


def test_by_steps_fewer_are_better_and_the_budget_ends_what_is_known() -> None:
    slow = [run("slow", seed, [1.0, 1, 1, 9 if seed < 2 else 1]) for seed in range(10)]
    fast = [run("fast", seed, [1.0, 9, 9, 9]) for seed in range(10)]
    result = compare([*slow, *fast], by="steps", thresholds={"CartPole-v1": 5.0}, sides=["slow", "fast"])
    pair = only(result)
    assert (result["better"], pair["verdict"]) == ("lower", "better")
    of_slow, of_fast = result["environments"][0]["sides"]
    assert (of_slow["scores"], of_fast["scores"]) == ([4000.0] * 10, [2000.0] * 10)
    assert of_slow["censored"] == [False, False, *[True] * 8]
    assert of_slow["median"]["value"] is None
    assert of_fast["median"]["value"] == 2000
    assert "median 2,000 steps against not reached" in pair["text"]
    assert pair["probability_of_improvement"]["value"] == 1.0
    with pytest.raises(UsageError, match="CartPole-v1 has no return that counts as solved"):
        compare([*slow, *fast], by="steps")


def test_by_curve_it_is_the_mean_over_the_steps_that_all_have() -> None:
    a = [run("a", seed, [0.0, 10 + seed, 20]) for seed in range(4)]
    # Evaluated half as often: what only one side has does not count.
    b = [run("b", seed, [50.0, 30 + seed, 1], settings={"eval_every": 2000}) for seed in range(4)]
    seldom = Curve(np.array([2000, 3000]), np.array([2.0, 3.0]), np.array([40.0, 2.0]))
    b[0] = replace(b[0], curves={EVALUATION: seldom})
    result = compare([*a, *b], by="curve")
    of_a, of_b = result["environments"][0]["sides"]
    assert of_a["scores"] == [15.0, 15.5, 16.0, 16.5]
    assert of_b["scores"] == [21.0, 16.0, 16.5, 17.0]
    nowhere = Curve(np.array([77]), np.array([1.0]), np.array([1.0]))
    with pytest.raises(UsageError, match="no nominal step at which all runs on CartPole-v1 were evaluated"):
        compare([*a, replace(b[0], curves={EVALUATION: nowhere})], by="curve")


def test_curves_have_no_point_that_was_not_measured() -> None:
    runs = [run("a", seed, [seed, 2.0 * seed, 3.0 * seed], pace=1.0 + seed) for seed in range(6)]
    (environment,) = compare(runs)["environments"]
    assert environment["pairs"] == []
    curves = environment["sides"][0]["curves"]
    assert curves["steps"]["x"] == [1000, 2000, 3000]
    assert curves["steps"]["median"] == [2.5, 5.0, 7.5]
    assert (curves["steps"]["low"], curves["steps"]["high"]) == ([0, 0, 0], [5, 10, 15])
    assert curves["steps"]["confidence"] == 1 - 2 / 64
    assert curves["steps"]["runs"][2] == [2, 4, 6]
    # From the slowest's first evaluation, after 6 s, when the fastest had ended, to the slowest's last, after 18 s.
    seconds = curves["seconds"]
    assert (seconds["x"][0], seconds["x"][-1]) == (6.0, 18.0)
    assert [row[0] for row in seconds["runs"]] == [0, 3 * 1, 2 * 2, 3, 4, 5]
    assert [row[-1] for row in seconds["runs"]] == [0, 3, 6, 9, 12, 15]


def test_a_curve_ends_where_the_first_run_does_and_counts_a_step_once() -> None:
    short = run("a", 0, [1.0, 2.0])
    steps, values = np.array([1000, 2000, 2000, 2000, 3000]), np.array([1.0, 7.0, 5.0, np.nan, 6.0])
    double = Curve(steps, np.arange(1.0, 6.0), values)
    result = compare([short, run("a", 1, [1.0], curves={EVALUATION: double}), *side("b", LOW)])
    curve = result["environments"][0]["sides"][0]["curves"]["steps"]
    assert (curve["x"], curve["runs"]) == ([1000, 2000], [[1.0, 2.0], [1.0, 5.0]])


def test_profiles_are_fractions_above_each_score() -> None:
    (environment,) = compare([*side("a", LOW), *side("b", HIGH)], **QUICK)["environments"]
    profiles = environment["profiles"]
    assert (profiles["thresholds"][0], profiles["thresholds"][-1]) == (100, 250)
    a, b = profiles["sides"]
    assert (a["fraction"][0], a["fraction"][-1], b["fraction"][0], b["fraction"][-1]) == (0.8, 0, 1, 0)
    assert all(low <= value <= high for low, value, high in zip(a["low"], a["fraction"], a["high"], strict=True))
    assert compare(side("a", LOW), details=False, **QUICK)["environments"][0]["profiles"] is None


def test_scores_over_environments_need_a_reference_each() -> None:
    runs = [
        *side("a", LOW),
        *side("b", HIGH),
        *side("a", [-100.0] * 4, environment="Acrobot-v1"),
        *side("b", [-80.0] * 4, environment="Acrobot-v1"),
        *side("b", [3.0] * 4, environment="Pendulum-v1"),
    ]
    assert compare(runs, **QUICK)["normalised"] is None
    some = compare(runs, references={"CartPole-v1": (0.0, 500.0)}, **QUICK)
    assert some["normalised"] is None
    assert some["notes"] == ["no scores over environments: there is no reference for Acrobot-v1"]
    references = {"CartPole-v1": (0.0, 500.0), "Acrobot-v1": (-500.0, -100.0)}
    normalised = compare(runs, references=references, **QUICK)["normalised"]
    assert normalised["environments"] == ["Acrobot-v1", "CartPole-v1"]
    a, b = normalised["sides"]
    assert a["mean"]["value"] == pytest.approx((0.24 + 1.0) / 2)
    assert b["mean"]["value"] == pytest.approx((0.444 + 1.05) / 2)
    assert b["optimality_gap"]["value"] == pytest.approx((5 * (1 - 0.444) + 4 * 0) / 9)


def test_what_has_no_score_or_did_not_finish_is_left_out() -> None:
    failed = run("a", 9, [1.0], state="failed")
    empty = run("a", 10, [1.0], final={}, curves={})
    no_number = run("a", 11, [float("nan")])
    stray = run("", 12, [1.0])
    result = compare(
        [*side("a", LOW), failed, empty, no_number, stray, *side("b", HIGH)], sides=["a", "b", "c"], **QUICK
    )
    assert result["environments"][0]["sides"][0]["seeds"] == [0, 1, 2, 3, 4]
    assert result["notes"] == ["c has no finished run", "1 run of no group left out"]


def test_training_returns_count_where_there_is_nothing_else_and_it_is_said() -> None:
    training = Curve(np.arange(1, 101), np.arange(1.0, 101.0), np.arange(1.0, 101.0))
    runs = [run("a", seed, [1.0], final={}, curves={TRAINING: training}) for seed in range(4)]
    (environment,) = compare([*runs, *side("b", HIGH)], **QUICK)["environments"]
    assert environment["sides"][0]["scores"] == [95.0] * 4  # from step 90 on
    assert environment["sides"][0]["curves"]["steps"] is None
    assert environment["notes"] == ["scores of a are means of training returns over the last tenth of each run"]


def test_versions_that_are_let_pass_are_one_environment() -> None:
    runs = [*side("a", LOW, environment="HalfCheetah-v4"), *side("b", HIGH, environment="HalfCheetah-v5")]
    assert [environment["pairs"] for environment in compare(runs, **QUICK)["environments"]] == [[], []]
    result = compare(runs, allowed=[Refusal("environment-versions", "v4 and v5")], **QUICK)
    (environment,) = result["environments"]
    assert environment["environment"] == "HalfCheetah-v4 / HalfCheetah-v5"
    assert environment["pairs"][0]["verdict"] == "better"
    assert result["allowed"] == [{"key": "environment-versions", "reason": "v4 and v5"}]


def test_what_is_no_number_is_a_text_in_the_data() -> None:
    settings = {"eval_episodes": float("nan"), "algorithm.x": [float("inf")], "eval_every": 1000}
    result = compare([*side("a", LOW, settings=settings), *side("b", HIGH)], **QUICK)
    json.dumps(result, allow_nan=False)
    assert result["environments"][0]["sides"][0]["settings"]["algorithm.x"] == ["Infinity"]


def test_settings_that_differ_are_told() -> None:
    mine = {"algorithm.learning_rate": 0.1, "algorithm.gamma": 0.9, "seed": 0, "log_every": 7}
    a = side("a", LOW, settings={**mine, "algorithm.gae_lambda": 1.0})
    b = side("b", LOW, settings={**mine, "algorithm.learning_rate": 0.2, "log_every": 8})
    of_a, of_b = compare([*a, *b], **QUICK)["environments"][0]["sides"]
    assert of_a["settings"] == {"algorithm.learning_rate": 0.1, "algorithm.gae_lambda": 1.0}
    assert of_b["settings"] == {"algorithm.learning_rate": 0.2}


def test_the_page_has_the_form_of_the_data() -> None:
    page = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    form = textwrap.dedent((comparison.__doc__ or "").partition("in it.\n\n")[2]).rstrip()
    assert f"```text\n{form}\n```" in page
    names = set(re.findall(r"[a-z_]+", form))

    def keys(data: Any) -> set[str]:
        if isinstance(data, list):
            return set().union(*map(keys, data))
        return set(data).union(*map(keys, data.values())) if isinstance(data, dict) else set()

    result = compare([*side("a", LOW), *side("b", HIGH)], references={"CartPole-v1": (0.0, 500.0)}, **QUICK)
    for environment in result["environments"]:
        for one in environment["sides"]:
            one["settings"] = {}
    assert keys(result) <= names | {"value"}


SCORES = st.lists(st.sampled_from([0.0, 1.0, 2.5, 499.9, 500.0]), min_size=3, max_size=7)


@given(a=SCORES, b=SCORES, order=st.randoms(use_true_random=False), by=st.sampled_from(["final", "steps", "curve"]))
@settings(max_examples=25)
def test_the_order_of_runs_changes_nothing_and_swapped_sides_swap_the_answer(
    a: Any, b: Any, order: Any, by: Any
) -> None:
    runs = [*side("a", a), *side("b", b)]
    more: dict[str, Any] = {"by": by, "thresholds": {"CartPole-v1": 2.0}, **QUICK}
    result = compare(runs, sides=["a", "b"], **more)
    shuffled = list(runs)
    order.shuffle(shuffled)
    assert compare(shuffled, sides=["a", "b"], **more) == result
    there, back = only(result), only(compare(runs, sides=["b", "a"], **more))
    turned = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
    assert back["verdict"] == turned[there["verdict"]]
    for key in ("p", "p_corrected", "method", "splits", "more_seeds"):
        assert back[key] == there[key]
    for key, about in (("probability_of_improvement", 1.0), ("difference", 0.0)):
        assert back[key]["value"] == pytest.approx(about - there[key]["value"])
        assert back[key]["low"] == pytest.approx(about - there[key]["high"])
    assert back["n"] == there["n"][::-1]


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    runs = [*side("a", [*LOW, *LOW, 1.0]), *side("b", [*HIGH, *HIGH, 2.0])]
    first = json.dumps(compare(runs, seed=3))
    assert json.dumps(compare(runs, seed=3)) == first
    assert json.dumps(compare(runs, seed=4)) != first


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.0"),
        (431.24, "431.2"),
        (-1234.5, "-1,234.5"),
        (12.345, "12.35"),
        (0.0312, "0.0312"),
        (3e9, "3e+09"),
    ],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


# ---- the command ----


def groups(tracker: Any = None, seeds: int = 6, **more: Any) -> None:
    """Run folders of `classic/a2c` and `classic/ppo`, the latter better; `more` is what their provenance says."""
    for group, best in (("classic/a2c", 300.0), ("classic/ppo", 480.0)):
        for seed in range(seeds):
            config = config_of(group[8:], seed=seed, group=group)
            config |= {} if tracker is None else {"tracker": tracker}
            make_run(Path(f"runs/{group}-{seed}"), config=config, returns=returns_of(seed, 10, best), **more)


def test_the_table(rlkit: Rlkit) -> None:
    groups()
    code, out, err = rlkit("compare", "classic", "--table")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "by return of the last policy, higher is better; baseline: classic/a2c"
    assert lines[2] == "CartPole-v1, 10,000 steps"
    assert re.fullmatch(r"classic/a2c +6  [\d.]+ \[[\d., ]+\]  .*", lines[4])
    assert re.match(
        r"classic/ppo is better than classic/a2c on CartPole-v1: mean 4\d\d\.\d against 2\d\d\.\d, "
        r"median 4\d\d\.\d against 2\d\d\.\d, "
        r"probability of improvement 1\.00 \[1\.00, 1\.00\], p = 0\.0022 exact$",
        lines[6],
    )
    assert "covers 96.9 %" in out
    assert not Path("comparisons").exists()
    code, out, _ = rlkit("compare", "classic/ppo", "classic/a2c", "--table")
    assert "classic/a2c is worse than classic/ppo" in out


def test_json_is_what_the_comparison_gives(rlkit: Rlkit) -> None:
    groups()
    code, out, err = rlkit("compare", "classic", "--table", "--json", "--by", "curve", "--seed", "3")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["name"], result["by"], result["seed"]) == ("classic", "curve", 3)
    assert result["versions"]["gymnasium"] == "1.4.0"
    assert result["made_with"]["rlkit-core"]


def test_runs_by_folder_are_sides_in_the_order_given(rlkit: Rlkit) -> None:
    groups()
    folders = sorted(Path("runs/classic").iterdir(), reverse=True)
    code, out, _ = rlkit("compare", *folders, "--table")
    assert code == 0
    assert "baseline: classic/ppo" in out


def test_groups_below_one_are_in_the_order_of_their_plan(rlkit: Rlkit) -> None:
    groups()
    planned = [{"group": f"classic/{name}", "environment": "CartPole-v1", "seed": 0} for name in ("ppo", "a2c")]
    Path("runs/classic/group.json").write_text(json.dumps({"id": "x", "name": "classic", "planned": planned}))
    assert "baseline: classic/ppo" in rlkit("compare", "classic", "--table")[1]
    assert "baseline: classic/a2c" in rlkit("compare", "classic/a2c", "classic/ppo", "--table")[1]


def test_a_terminal_is_not_overrun() -> None:
    names = [f"a group with quite a long name, learning_rate={i}" for i in (1, 2)]
    result = compare([*side(names[0], LOW), *side(names[1], HIGH)], **QUICK)
    assert max(map(len, lines_of(result))) > 100
    for width in (60, 80, 100):
        lines = lines_of(result, width)
        assert max(map(len, lines)) <= width, width
        assert any("…" in line for line in lines) == (width == 60)
    assert any(line.startswith("side") and "IQM" not in line for line in lines_of(result, 90))


def test_names_move_no_cursor_and_make_no_markdown() -> None:
    evil = "a\x1b[2J|x<script>\n# no"
    result = compare([*side(evil, LOW), *side("b", HIGH)], **QUICK)
    assert "\x1b" not in "".join(lines_of(result))
    page = markdown(result)
    assert "\x1b" not in page
    assert "<script>" not in page.replace("\\<", "")
    assert "\n# no" not in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "GROUP... is missing"),
        (["classic/ppo"], "all selected runs are of one group, classic/ppo"),
        (["clasic"], "no run and no group clasic"),
        (["classic", "--alpha", "0"], "--alpha: should be a number between 0 and 1"),
        (["classic", "--threshold", "x=y"], "--threshold: should be RETURN or ENV=RETURN"),
        (["classic", "--threshold", "CartPole-v0=3"], "no run is on CartPole-v0; did you mean CartPole-v1?"),
        (["classic", "--reference", "CartPole-v1=5,1"], "--reference: should be ENV=LOW,HIGH"),
        (["classic", "--where", "seed > 77"], "no run was selected"),
        (["classic", "--store", "nowhere.db"], "there is no store nowhere.db"),
        (["classic", "--output", "runs"], "runs is there already, and not empty"),
    ],
)
def test_what_is_asked_for_wrongly(rlkit: Rlkit, arguments: list[str], words: str) -> None:
    groups()
    code, out, err = rlkit("compare", *arguments)
    assert (code, out) == (2, ""), out
    assert words in err
    assert len(err.splitlines()) <= 3


def test_records_with_odd_content_are_compared_or_refused(rlkit: Rlkit) -> None:
    odd = {
        "eval_episodes": [1, {}],
        "eval_every": "x",
        "eval_max_steps": True,
        "stop_at": None,
        "log_every": {},
    }
    odd |= {"tracker": [], "imports": {"x": 1}, "threads": [1e300]}
    for group in ("a", "b"):
        for seed in range(4):
            config = {**config_of(seed=seed, group=group, learning_rate=1e300), **odd}
            config["algorithm"] |= {"odd": [group, None, {}], "\x1b": "\x1b[2J"}
            config["env"] |= {"name": ["no"], "kwargs": [1, 2]}
            make_run(Path(f"runs/{group}{seed}"), config=config, returns=[1e308, seed, 1e9 * seed])
    code, out, err = rlkit("compare", "a", "b", "--no-keep", "--output", "out")
    assert code == 0, err
    assert "\x1b" not in out
    data = json.loads((Path("out") / "comparison.json").read_text(), parse_constant=pytest.fail)
    (environment,) = data["environments"]
    assert environment["sides"][0]["settings"] == {"algorithm.odd": ["a", None, {}]}
    assert environment["sides"][0]["curves"]["steps"]["x"] == [6666, 9999]
    for path in Path("runs").iterdir():
        final = (path / "metrics.jsonl").read_text().replace('"final/return":', '"final/return":1e308,"x":')
        (path / "metrics.jsonl").write_text(final)
    assert rlkit("compare", "a", "b", "--table")[0] == 0


def test_no_environment_in_common(rlkit: Rlkit) -> None:
    for group, environment in (("a", "CartPole-v1"), ("b", "Acrobot-v1")):
        make_run(Path(f"runs/{group}"), config=config_of(environment=environment, group=group))
    code, _, err = rlkit("compare", "a", "b", "--table")
    assert code == 2
    assert "no environment has finished runs of two groups\n       a: CartPole-v1; b: Acrobot-v1" in err


def test_report_charts_and_data_in_a_folder_of_their_own(rlkit: Rlkit, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(git={"commit": "ab" * 20, "dirty": True})
    arguments = ["compare", "classic", "--allow", "code", "--reference", "CartPole-v1=20,500"]
    monkeypatch.setattr("sys.argv", ["/bin/rlkit", *arguments])
    code, out, err = rlkit(*arguments)
    assert (code, err) == (0, "")
    assert "threshold 475" in out  # the registered one
    (folder,) = Path("comparisons").iterdir()
    assert re.fullmatch(r"classic-\d{8}-\d{6}", folder.name)
    assert f"report      {folder}/report.md\ncharts      {folder}/comparison.html\n" in out
    assert "look at it" not in out  # their tracker is none
    result = json.loads((folder / "comparison.json").read_text())
    assert result["environments"][0]["sides"][0]["steps_to_threshold"]["num_reached"] == 0
    page = (folder / "report.md").read_text()
    assert "**What would mislead, and was allowed:**\n\n- code: classic/a2c (seeds 0-5), " in page
    for name in re.findall(r"!?\[[^]]*\]\(([^)]+)\)", page):
        assert (folder / name).stat().st_size > 1000
    for words in (
        "- classic/ppo is better than classic/a2c on CartPole-v1",
        "| classic/ppo | 6 | ",
        "| CartPole-v1 | 10000 | 200 | 10 | 27000 | 10 |",
        "| algorithm.name | a2c | ppo |",
        "| classic/ppo | 3 | ",
        "| gymnasium | 1.4.0 |",
        "Normalised scores, over CartPole-v1",
        "\nrlkit compare classic --allow code --reference CartPole-v1=20,500\n",
    ):
        assert words in page, words


@pytest.mark.thorough
def test_from_a_store_it_is_the_same_and_is_kept_there(
    rlkit: Rlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlkit_core.charts.write_charts", lambda result, folder: [])  # they have tests of their own
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    groups(tracker={"name": "mlflow", "uri": None, "experiment": "mine"}, seeds=4)
    code, out, err = rlkit("compare", "classic", "--table", "--json", "--store", uri)
    assert (code, out) == (2, "")
    assert "there is no store" in err
    code, out, err = rlkit("compare", "classic", "--output", "first")
    assert code == 0
    assert err.startswith("warning: not stored in the tracker's store: there is no store")
    assert not Path("mlflow.db").exists()
    for path in sorted(Path("runs/classic").iterdir()):
        rewritten = json.loads((path / "provenance.json").read_text()) | {"cwd": str(tmp_path)}
        (path / "provenance.json").write_text(json.dumps(rewritten))
        sync(path)
    code, out, err = rlkit("compare", "classic", "--store", uri, "--output", "second", "--name", "a title")
    assert (code, err) == (0, "")
    assert "look at it  rlkit ui --store " in out or "look at it  rlkit ui, then " in out
    first, second = (json.loads((Path(name) / "comparison.json").read_text()) for name in ("first", "second"))
    assert second["name"] == "a title"
    for result in (first, second):
        del result["name"], result["made_with"], result["reproduce"]
        for environment in result["environments"]:
            for one in environment["sides"]:
                del one["runs"]
    assert second == first
    with sqlite3.connect("mlflow.db") as database:
        query = "SELECT run_uuid FROM tags WHERE key = 'rlkit.kind' AND value = 'comparison'"
        ((kept,),) = database.execute(query).fetchall()
        ((where,),) = database.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (kept,)).fetchall()
        tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (kept,)).fetchall())
    assert tags["rlkit.verdicts"] == "classic/ppo on CartPole-v1: better"
    assert {path.name for path in Path(where.removeprefix("file://")).iterdir()} == {
        path.name for path in Path("second").iterdir()
    }
    # What is kept is no run: nothing of it is compared the next time.
    code, out, _ = rlkit("compare", "classic", "--store", uri, "--table", "--where", "environment = CartPole-v1")
    assert code == 0
    assert "classic/ppo is better than classic/a2c" in out
