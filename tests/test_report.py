"""`rlkit report`: a run or a group as a page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlkit_core.report import CURVES, report_group, report_run
from rlkit_core.run_store import Curve, FolderStore, StoredRun
from tests.made_runs import config_of, make_run, returns_of

HOSTILE = "</code></script><script>alert(1)</script><img src=x onerror=alert(2)>"
Rlkit = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def without_scripts(text: str) -> str:
    """A page's text as it stands there, without scripts and styles."""
    return re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)


def group(name: str = "classic", seeds: int = 5) -> None:
    for algorithm in ("a2c", "ppo"):
        for seed in range(seeds):
            config = config_of(algorithm, seed=seed, group=f"{name}/{algorithm}")
            make_run(Path("runs") / f"{algorithm}-{seed}", config=config, returns=returns_of(seed, 10))


def test_a_run_has_a_page_with_all_there_is_to_know(rlkit: Rlkit) -> None:
    make_run(
        Path("runs/first"), config=config_of(seed=7, group="mine"), returns=returns_of(0, 10), command="rlkit run a b"
    )
    code, out, err = rlkit("report", "runs/first", "--output", "page.html")
    assert (code, out, err) == (0, "report  page.html\n", "")
    text = Path("page.html").read_text(encoding="utf-8")
    shown = without_scripts(text)
    for part in ("first", "a2c", "CartPole-v1", "mine", "algorithm.learning_rate", "2.13.0", "c0c0c0", "abab"):
        assert part in shown
    for command in ("rlkit reproduce runs/first", "rlkit run --config settings.json", "rlkit run a b"):
        assert command in shown
    assert "pip install gymnasium==1.4.0 numpy==2.4.6 rlkit-core==0.1.0 torch==2.13.0" in shown
    assert text.count('class="chart"') == 2 * 3  # of three metrics, by steps and by time
    assert json.loads(
        html.unescape(re.search(r"settings.json</summary><pre><code>(.*?)</code>", text, re.DOTALL)[1])
    ) == {**config_of(seed=7, group="mine")}


def test_a_group_has_a_page_with_its_seeds(rlkit: Rlkit) -> None:
    group()
    code, out, err = rlkit("report", "classic")
    assert (code, out, err) == (0, "report  classic-report.html\n", "")
    text = Path("classic-report.html").read_text(encoding="utf-8")
    shown = without_scripts(text)
    assert "10 runs: 10 finished." in shown
    assert shown.count("runs/ppo-") >= 10  # in the table of sides, of runs, and in commands
    assert "warning" not in shown
    assert "classic/ppo (5 seeds)" in text
    assert "algorithm.name" in shown
    for verdict in ("is better than", "is worse than", "cannot tell", "probability"):
        assert verdict not in shown  # whoever asks for a report has not asked for that
    assert [name for name in ("return-by-steps", "return-by-time", "intervals") if f'id="{name}"' not in text] == []


def test_what_misleads_stands_above_the_numbers(rlkit: Rlkit) -> None:
    group()
    make_run(Path("runs/bad"), config=config_of("ppo", seed=9, group="classic/ppo"), state="failed")
    planned = [{"group": "classic/a2c", "environment": "CartPole-v1", "seed": seed} for seed in range(6)]
    Path("runs/group.json").write_text(json.dumps({"format": 1, "id": "p", "name": "classic", "planned": planned}))
    rlkit("report", "classic")
    shown = without_scripts(Path("classic-report.html").read_text(encoding="utf-8"))
    assert "11 runs: 1 failed, 10 finished." in shown
    assert "missing-runs: " in shown
    assert shown.index("missing-runs") < shown.index("<h2>")
    assert "failed" in shown[shown.index("missing-runs") : shown.index("<h2>")]


def test_one_run_of_a_group_is_a_group_where_the_group_was_asked_for(rlkit: Rlkit) -> None:
    make_run(Path("runs/first"), config=config_of(group="mine"))
    rlkit("report", "mine", "--output", "a.html")
    rlkit("report", "first", "--output", "b.html")
    assert "1 runs" in Path("a.html").read_text(encoding="utf-8")
    assert "return of the last policy" in Path("b.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["group", "run"])
def test_texts_of_runs_are_texts(what: str) -> None:
    config = config_of(algorithm=HOSTILE, environment=HOSTILE, group=HOSTILE, **{HOSTILE: HOSTILE})
    about = {"run_name": HOSTILE, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}, "machine": {HOSTILE: HOSTILE}}
    for seed in range(2):
        make_run(Path(f"runs/{seed}"), config={**config, "seed": seed}, **about, git={HOSTILE: HOSTILE})
    runs = FolderStore().runs(curves=CURVES)
    text = report_group(HOSTILE, runs) if what == "group" else report_run(runs[0])
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in without_scripts(text)


@pytest.mark.parametrize(
    "run",
    [
        StoredRun("place", "id"),
        StoredRun("place", "id", state="damaged", started=10**18),
        StoredRun("", "", "", final={"return": np.nan}, curves={CURVES[0]: Curve(*np.full((3, 4), np.nan))}),
        StoredRun("a\x00b", "id", settings={"a": 1, "a.b": 2, "c.d": [1]}, versions={"x": "; rm -rf"}),
    ],
    ids=["nothing", "damaged", "no numbers", "odd"],
)
def test_a_run_of_which_little_is_known(run: StoredRun) -> None:
    report_run(run)
    report_group("group", [run])
    report_group("group", [run, replace(run, place="other", state="lost")])


def test_no_runs_and_no_place_to_write(rlkit: Rlkit, tmp_path: Path) -> None:
    make_run(Path("runs/first"))
    code, _, err = rlkit("report", "nothing")
    assert code == 2
    assert "nothing" in err
    code, _, err = rlkit("report", "runs/first", "--output", tmp_path / "missing" / "page.html")
    assert code == 6
    assert "choose another file with --output" in err


def test_a_page_is_named_after_what_it_is_about(rlkit: Rlkit) -> None:
    group("../../odd name/é")
    code, out, _ = rlkit("report", "../../odd name/é")
    assert code == 0, out
    assert [path.name for path in Path().glob("*.html")] == ["odd-name-é-report.html"]
