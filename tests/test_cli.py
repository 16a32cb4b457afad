"""The command line: one message for what is foreseen, exit codes, JSON for programs, settings told from where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from streams import cli, topics
from streams.cli_options import print_record, print_rows
from streams.settings import Settings
from tests.broker import free_port_pair
from tests.loop import Loop
from tests.oracle import CONFIG, traffic
from tests.test_exactly_once import hour_ago_ms

COMMANDS = [
    ("demo",),
    ("worker",),
    ("replay",),
    ("evaluate",),
    ("serve",),
    ("topics", "create"),
    ("topics", "check"),
    ("policy", "show"),
    ("policy", "history"),
    ("policy", "rollback"),
    ("policy", "propose"),
    ("policy", "trials"),
    ("policy", "promote"),
    ("policy", "freeze"),
    ("policy", "override"),
    ("policy", "sums"),
    ("policy", "explain"),
    ("arm", "add"),
    ("arm", "pause"),
    ("arm", "resume"),
    ("arm", "remove"),
    ("arm", "rename"),
    ("arm", "reset"),
    ("arm", "list"),
    ("meta", "prior"),
    ("meta", "rehearse"),
    ("budget", "set"),
    ("budget", "pause"),
    ("budget", "resume"),
    ("budget", "list"),
    ("encoder", "project"),
    ("encoder", "tune"),
    ("config", "show"),
    ("config", "check"),
]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "clickloop.toml"
    path.write_text('[policies.home]\ndimension = 8\narms = ["a", "b"]\n')
    return str(path)


@pytest.fixture
def dead() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port_pair()}"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_names_the_variables(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has help, and it names the variables behind --bootstrap and --config."""
    assert cli.run([*command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "CLICKLOOP_CONFIG" in text
    assert "CLICKLOOP_BOOTSTRAP" in text.replace("│ ", "").replace("- ", "-")


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints what is installed."""
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("clickloop")


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics", "create"],
        ["topics", "check"],
        ["worker", "learner"],
        ["policy", "show", "home"],
        ["policy", "history", "home", "--json"],
        ["policy", "rollback", "home", "1"],
        ["policy", "sums", "home", "--json"],
        ["policy", "explain", "home", "--vector", "1,2"],
        ["arm", "pause", "home", "a"],
        ["arm", "list", "home", "--json"],
        ["replay", "LOG", "--policy", "home"],
    ],
    ids=" ".join,
)
def test_dead_broker_is_one_message(
    arguments: list[str], config: str, dead: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody at the address: told within ten seconds, on standard error, exit 1, no traceback."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"ts": 1, "arm": "a", "propensity": 0.5, "context": [0, 0, 0, 0, 0, 0, 0, 1]}\n')
    arguments = [str(log) if argument == "LOG" else argument for argument in arguments]
    began = time.monotonic()
    assert cli.run([*arguments, "--config", config, "--bootstrap", dead]) == 1
    assert time.monotonic() - began < 10
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"clickloop: Kafka does not answer at {dead}")
    assert len(printed.err.splitlines()) == 1
    assert "Traceback" not in printed.err


def test_the_program_itself_prints_no_traceback(dead: str) -> None:
    """The same as a process, as people start it."""
    command = [sys.executable, "-m", "streams.cli", "topics", "check", "--bootstrap", dead]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(cli.__file__).parents[1])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("clickloop: Kafka does not answer at")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["config", "show", "--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["config", "show", "--bootstrap", "kafka"], "must be host:port"),
        (["worker"], "a worker needs at least one"),
        (["worker", "watcher"], "'watcher' is not one of"),
        (["worker", "encoder"], "encoder.model is not set; name a folder"),
        (["worker", "encoder", "learner"], "worker encoder: takes a process of its own"),
        (["worker", "--metrics-port", "70000"], "metrics_port = 70000"),
        (["replay", __file__, "--policy", "home", "--map", "ts"], "must be KEY=COLUMN"),
        (["policy", "rollback", "home", "seven"], "unable to parse"),
        (["policy", "sums", "home"], "there is no policy 'home' in the settings; the settings have none"),
        (["polic"], "polic"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for wrongly, options or settings, is exit 2 with the value in the message."""
    assert cli.run(arguments) == 2
    assert part in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_an_encoder_needs_its_extra(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without torch or transformers one line names the extra, before anything else is tried."""
    monkeypatch.setenv("CLICKLOOP_ENCODER__MODEL", "/no/such/model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.run(["worker", "encoder", "--config", config]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == ["clickloop: the encoder needs torch and transformers; run pip install 'clickloop[encoder]'"]


def test_a_model_that_is_not_there_is_told(
    bootstrap: str, prefix: str, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Topics that are missing, then a folder that is not there: each is one message, exit 1."""
    pytest.importorskip("torch", reason="the extra `encoder` is not installed")
    monkeypatch.setenv("CLICKLOOP_PREFIX", prefix)
    monkeypatch.setenv("CLICKLOOP_ENCODER__MODEL", "/no/such/model")
    where = ["--bootstrap", bootstrap, "--config", config]
    assert cli.run(["worker", "encoder", *where]) == 1
    assert f"{prefix}embedding-requests" in capsys.readouterr().err
    assert cli.run(["topics", "create", *where]) == 0
    capsys.readouterr()
    assert cli.run(["worker", "encoder", *where]) == 1
    told = capsys.readouterr().err
    assert told.startswith("clickloop: model = '/no/such/model': there is no such folder")
    assert "Traceback" not in told


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command without a traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(topics, "check", interrupted)
    assert cli.run(["topics", "check"]) == 130


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is not dressed up."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("this is a bug")

    monkeypatch.setattr(topics, "check", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["topics", "check"])


def test_topics_are_created_and_checked(both_brokers: str, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """create, create again, check: 0; what is wrong: 1 and told on standard error, with JSON on standard output."""
    where = ["--bootstrap", both_brokers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLICKLOOP_PREFIX", prefix)
        assert cli.run(["topics", "check", *where]) == 1
        assert "run clickloop topics create" in capsys.readouterr().err
        assert cli.run(["topics", "create", *where]) == 0
        assert f"created  {prefix}impressions" in capsys.readouterr().out
        assert cli.run(["topics", "create", "--json", *where]) == 0
        again: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (again["created"], len(again["existing"]), again["problems"]) == ([], 9, [])
        assert cli.run(["topics", "check", *where]) == 0
        assert cli.run(["config", "check", *where]) == 0
        patch.setenv("CLICKLOOP_PARTITIONS", "5")
        capsys.readouterr()
        assert cli.run(["topics", "check", "--json", *where]) == 1
        printed = capsys.readouterr()
        assert len(json.loads(printed.out)["problems"]) == 4
        assert printed.err.count("error: ") == 4


def test_policy_without_a_snapshot_is_told(
    bootstrap: str, prefix: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No topics, nothing published yet, a name that is none: each has its own way out, before any question is asked."""
    where = ["--bootstrap", bootstrap, "--config", config]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLICKLOOP_PREFIX", prefix)
        assert cli.run(["policy", "show", "home", *where]) == 1
        assert "run clickloop topics create" in capsys.readouterr().err
        assert cli.run(["topics", "create", *where]) == 0
        capsys.readouterr()
        for command in (["show", "home"], ["history", "home", "--json"], ["rollback", "home", "1"]):
            assert cli.run(["policy", *command, *where]) == 1
            printed = capsys.readouterr()
            assert printed.out == ""
            assert "policy 'home' has no snapshot" in printed.err
            assert "clickloop worker publishes the first one" in printed.err
        assert cli.run(["policy", "show", "hmoe", *where]) == 1
        assert "did you mean home?" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_in_the_readme(command: tuple[str, ...]) -> None:
    """The README shows each command as it is typed, and each option that it shows exists."""
    readme = (Path(cli.__file__).parents[1] / "README.md").read_text()
    assert f"clickloop {' '.join(command)}" in readme


def test_the_readme_shows_no_option_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Every --option beside a command in the README is one of that command's."""
    readme = (Path(cli.__file__).parents[1] / "README.md").read_text().replace("\\\n", " ")
    for line in readme.splitlines():
        typed = re.search(r"clickloop ([^#`]*--[^#`]*)", line)
        if typed is None:
            continue
        words = typed[1].split()
        command = next(known for known in COMMANDS if tuple(words[: len(known)]) == known)
        assert cli.run([*command, "--help"]) == 0
        text = capsys.readouterr().out
        options = {word for word in words if word.startswith("--")}
        assert {option for option in options if option not in text} == set(), line


def test_settings_that_the_stored_sums_do_not_go_with_are_refused(
    bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another dimension or model than the sums were made with: config check, policy sums and a publisher say so at once."""
    events = traffic(5, 40, start_ms=hour_ago_ms()).events
    with Loop(bootstrap, prefix, tmp_path, CONFIG, partitions=1) as loop:
        loop.send(events)
        loop.flush()
        loop.start("one")
        loop.wait_covered()
        loop.stop("one")
        where = ["--config", str(loop.config)]
        assert cli.run(["config", "check", *where]) == 0
        capsys.readouterr()
        for name, value in (("DIMENSION", "5"), ("MODEL", "beta")):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(f"CLICKLOOP_POLICIES__FRONT__{name}", value)
                for command in (["config", "check"], ["policy", "sums", "front", "--json"], ["worker", "publisher"]):
                    assert cli.run([*command, *where]) == 1
                    told = capsys.readouterr().err
                    assert "give the" in told
                    assert "a new name" in told


def test_config_check_needs_no_broker(config: str, dead: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings can be checked where no broker is; that the topics were not looked at is said."""
    assert cli.run(["config", "check", "--config", config, "--bootstrap", dead]) == 0
    printed = capsys.readouterr()
    assert "settings are valid; policies: home" in printed.out
    assert "topics not checked" in printed.err


def test_config_show_tells_where_from(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each setting stands with the source that won, and a password stays hidden."""
    monkeypatch.setenv("CLICKLOOP_PARTITIONS", "6")
    monkeypatch.setenv("CLICKLOOP_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("CLICKLOOP_CONFIG", config)
    assert cli.run(["config", "show", "--bootstrap", "k:1"]) == 0
    lines = [" ".join(line.replace("│", "").split()) for line in capsys.readouterr().out.splitlines()]
    assert "bootstrap k:1 command line" in lines
    assert "partitions 6 environment" in lines
    assert "prefix default" in lines
    assert f"policies.home.dimension 8 file {config}" in lines
    assert "policies.home.window_s 600 default" in lines
    assert "sasl_password ********** environment" in lines
    assert cli.run(["config", "show", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert Settings(**{**json.loads(shown), "sasl_password": None}).policies["home"].arms == ("a", "b")


def test_tables_show_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Zeros, empty strings, nothing and square brackets all reach the reader."""
    print_rows([{"arm": "[red]", "n": 0}, {"arm": "b", "why": ["x", 1.5]}], title="rows")
    print_record({"version": 0, "parent": None, "rates": {"alpha": 0.25}, "arms": {"[red]": {"n": 0}}}, title="record")
    text = capsys.readouterr().out
    assert [part for part in ("[red]", "│ 0", "x, 1.5", "alpha", "0.25", "parent", "-") if part not in text] == []
