"""The demo's parts: freshness by offsets, the traffic's history, the picture, the table, workers as child processes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from streams.demo_plot import PlotError, binned, draw, require_writable, traffic_shares
from streams.demo_view import Status, summary, table
from streams.freshness import Freshness
from streams.processes import WorkerDied, WorkerProcess, as_environment, without_settings
from streams.settings import PolicySettings, Settings, load
from streams.traffic import NOTHING, History
from tests.waiting import running, wait_for

PNG = b"\x89PNG\r\n\x1a\n"


def history(n: int = 1000, *, arms: int = 3) -> History:
    """Decisions over ten seconds; the arm shown gets better half-way."""
    time_s = np.linspace(0, 10, n)
    return History(
        time_s=time_s,
        arm=np.arange(n) % arms,
        chosen=np.where(time_s < 5, 0.05, 0.09),
        uniform=np.full(n, 0.05),
        best=np.full(n, 0.1),
        clicked=np.arange(n) % 20 == 0,
    )


def test_a_click_is_known_to_the_first_snapshot_that_names_more_than_its_offset() -> None:
    """Offsets are the next to read: a snapshot at offset o does not include the click at o."""
    fresh = Freshness()
    for offset in (3, 4, 5):
        fresh.click(partition=1, offset=offset, sent_s=float(offset))
    fresh.snapshot({0: 100, 1: 4}, seen_s=10.0)
    fresh.snapshot({1: 5}, seen_s=20.0)
    assert sorted(fresh.delays_s()) == [7.0, 16.0]
    assert fresh.unknown() == 1
    assert list(fresh.delays_s(sent_after_s=3.5)) == [16.0]


def test_delivery_reports_may_come_after_the_snapshot() -> None:
    """The order in which the two threads tell does not matter."""
    fresh = Freshness()
    fresh.snapshot({0: 9}, seen_s=2.0)
    fresh.click(partition=0, offset=8, sent_s=1.0)
    assert list(fresh.delays_s()) == [1.0]


def test_a_rollback_does_not_make_known_clicks_unknown() -> None:
    """A later snapshot with smaller offsets changes no earlier answer."""
    fresh = Freshness()
    fresh.click(partition=0, offset=8, sent_s=1.0)
    fresh.snapshot({0: 9}, seen_s=2.0)
    fresh.snapshot({0: 4}, seen_s=3.0)
    assert list(fresh.delays_s()) == [1.0]


def test_share_is_of_the_part_of_the_history_that_is_asked_for() -> None:
    """Whole and last quarter differ where the policy learned."""
    whole = history()
    assert whole.share == pytest.approx(0.4, abs=0.01)
    assert whole.since(7.5).share == pytest.approx(0.8)
    assert whole.share_realised == pytest.approx(0.0, abs=0.01)
    assert NOTHING.share == 0.0


def test_bins_and_shares_add_up() -> None:
    """Means of bins are means of the history; shares of a stretch sum to one."""
    points = binned(history(), bins=10)
    assert points["chosen"][0] == pytest.approx(0.05)
    assert points["chosen"][-1] == pytest.approx(0.09)
    assert len(points["time_s"]) == 10
    _, shares = traffic_shares(history(), 3, bins=10)
    assert np.allclose(shares.sum(axis=0), 1)


def test_a_second_without_decisions_is_no_share_of_nothing() -> None:
    """It is left out of the picture instead of dropping to zero."""
    whole = history()
    kept = (whole.time_s < 3) | (whole.time_s > 5)
    gap = History(**{field.name: getattr(whole, field.name)[kept] for field in fields(whole)})
    time_s, shares = traffic_shares(gap, 3, bins=10)
    assert len(time_s) == 8
    assert np.allclose(shares.sum(axis=0), 1)


def test_a_second_with_two_decisions_is_no_rate() -> None:
    """It would be 0, 50 or 100%, and stretch the axis for all."""
    n = 1000
    time_s = np.concatenate([[0.1, 0.2], np.linspace(1.0, 10.0, n - 2)])
    zeros = np.zeros(n)
    clicked = np.zeros(n, bool)
    clicked[0] = True
    made = History(time_s=time_s, arm=np.zeros(n, int), chosen=zeros, uniform=zeros, best=zeros, clicked=clicked)
    points = binned(made, bins=10)
    assert len(points["time_s"]) == 9
    assert points["clicked"].max() == 0.0


@pytest.mark.parametrize("arms", [2, 20])
def test_the_picture_is_a_png(arms: int, tmp_path: Path) -> None:
    """Few arms, or more than have a colour of their own."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "demo.png"
    draw(path, history(arms=arms), arms=[f"ad-{i}" for i in range(arms)], title="a title")
    assert path.read_bytes().startswith(PNG)


def test_a_place_for_the_picture_is_asked_for_before_the_run(tmp_path: Path) -> None:
    """A folder or a path below a file is refused; what is usable is left as it was."""
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path, tmp_path / "file" / "picture.png"):
        with pytest.raises(PlotError, match="choose another place by --plot"):
            require_writable(place)
    require_writable(tmp_path / "new" / "picture.png")
    require_writable(tmp_path / "file")
    assert not (tmp_path / "new" / "picture.png").exists()
    assert (tmp_path / "file").read_text() == "kept"


def test_the_table_shows_what_is_known_and_a_dash_for_the_rest() -> None:
    """At the start nothing is known; nothing breaks."""
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table(Status()))
    status = Status(
        elapsed_s=3, seconds=60, events=1234, ctr=0.1, version=7, age_s=0.5, shares=[0.1, 0.9], counts={"joined": 5}
    )
    console.print(table(status))
    console.print(summary({"events": 1234, "share": 0.87654, "plot": None}))
    shown = console.export_text()
    for words in ("1,234", "10.0%", "version 7", "0.50 s", "joined 5", "0.8765"):
        assert words in shown


def test_settings_survive_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker gets exactly the settings of its parent, secrets and names of policies included."""
    settings = Settings(
        bootstrap="127.0.0.1:1234",
        prefix="demo-",
        partitions=2,
        meta_interval_s=2.5,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password="s3cret",
        policies={
            "Front Page": PolicySettings(dimension=2, delays_s=(1.0, 2.0), arms=("a", "b"), outcomes={"buy": 2.0})
        },
    )
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load() == settings


def test_a_worker_inherits_no_setting_of_the_shell() -> None:
    """Only what its parent means it to have."""
    assert without_settings({"CLICKLOOP_PREFIX": "x", "clickloop_config": "y", "PATH": "z"}) == {"PATH": "z"}


def test_a_worker_that_ends_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    """Nobody at the broker's address: the reason is in the error, not only in a file."""
    settings = Settings(bootstrap="127.0.0.1:1", policies={"p": PolicySettings(model="beta")})
    worker = WorkerProcess(settings, "learner", folder=tmp_path)
    try:
        with pytest.raises(WorkerDied, match=r"the learner ended with code 1.(.|\n)*does not answer at 127.0.0.1:1"):
            worker.wait_ready(60)
    finally:
        worker.stop()


PARENT = """
import sys, time
from pathlib import Path
from streams.processes import WorkerProcess
from streams.settings import PolicySettings, Settings
import streams.processes as processes
processes._PROGRAM = processes._PROGRAM.replace("from streams.cli import main\\nmain()", "import time\\ntime.sleep(60)")
worker = WorkerProcess(Settings(policies={"p": PolicySettings(model="beta")}), "learner", folder=Path(sys.argv[1]))
print(worker.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL leaves the parent no time to clean up; the kernel does it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    time.sleep(1.0)
    assert running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not running(pid))


def run_cli(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """`clickloop` in a process of its own."""
    command = [sys.executable, "-m", "streams.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def demonstrated(bootstrap: str, plot: Path, *, seconds: int, rate: int) -> dict[str, Any]:
    """The report of a run with few arms."""
    options = ["--seconds", str(seconds), "--arms", "5", "--rate", str(rate), "--json", "--plot", str(plot)]
    done = run_cli("demo", *options, "--bootstrap", bootstrap)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_whole_demo_learns(local_broker: str, tmp_path: Path) -> None:
    """A short run with few arms: one JSON object, clicks joined, better than uniform, a picture.

    The run is in real time: where the processor is busy with other things, the loop cannot keep up, and gets as many decisions
    in three times as long; from 30 s on the world would drift.
    """
    plot = tmp_path / "demo.png"
    report = demonstrated(local_broker, plot, seconds=10, rate=600)
    if report["share"] <= 0.2 or report["events"] <= 2000 or report["snapshots"] <= 5:
        report = demonstrated(local_broker, plot, seconds=29, rate=200)
    assert report["events"] > 2000
    assert report["dead"] == report["late"] == report["unmatched"] == report["not_delivered"] == 0
    assert report["ctr_uniform"] < report["ctr_best"]
    assert report["share"] > 0.2
    assert report["joined"] > 50
    assert report["snapshots"] > 5
    assert 0 < report["freshness_p50_s"] <= report["freshness_p99_s"]
    assert report["plot"] == str(plot)
    assert plot.read_bytes().startswith(PNG)
