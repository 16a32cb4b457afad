"""deploy/: files that their own checkers accept, and that agree with each other and with the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams import cli
from streams.settings import load

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
WORKERS = [
    name for name, service in COMPOSE["services"].items() if service.get("command", [None])[0] in ("worker", "serve")
]


def program(name: str) -> str:
    """The path of a checker, beside this Python or in PATH; the test is skipped where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
        ["hadolint", "--failure-threshold", "style", "Dockerfile"],
        ["promtool", "check", "config", "prometheus.yml"],
    ],
    ids=lambda command: command[0],
)
def test_checker_accepts(command: list[str]) -> None:
    """The compose specification's schema, hadolint and promtool find nothing to complain about."""
    done = subprocess.run([program(command[0]), *command[1:]], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sample_settings_are_valid() -> None:
    """The sample file loads, and its brokers are the compose file's."""
    settings = load(DEPLOY / "clickloop.toml")
    assert settings.policies["home"].dimension >= 1
    listeners = COMPOSE["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"PLAINTEXT://{settings.bootstrap}" in listeners.split(",")


def test_sample_is_mounted_where_the_image_reads_it() -> None:
    """The image's CLICKLOOP_CONFIG is the file that compose mounts."""
    path = re.search(r"CLICKLOOP_CONFIG=(\S+)", DOCKERFILE)
    assert path is not None
    for name in [*WORKERS, "topics"]:
        assert {"source": "clickloop", "target": path[1]} in COMPOSE["services"][name]["configs"]
    assert (DEPLOY / COMPOSE["configs"]["clickloop"]["file"]).is_file()
    assert (DEPLOY / COMPOSE["configs"]["prometheus"]["file"]).is_file()


def test_every_worker_is_scraped() -> None:
    """Prometheus asks exactly the workers, at the port that the image listens on and compose opens."""
    scraped = PROMETHEUS["scrape_configs"][0]["dns_sd_configs"][0]
    assert sorted(scraped["names"]) == sorted(WORKERS)
    port = re.search(r"CLICKLOOP_METRICS_PORT=(\d+)", DOCKERFILE)
    assert port is not None
    assert port[1] == str(scraped["port"])
    assert f"EXPOSE {port[1]}" in DOCKERFILE
    assert all(COMPOSE["services"][name]["expose"] == [port[1]] for name in WORKERS)


def test_all_roles_run_after_the_topics_exist() -> None:
    """One service for each role, started when the topics were created, which waits for a healthy broker."""
    commands = [COMPOSE["services"][name]["command"] for name in WORKERS]
    assert sorted(role for verb, *roles in commands if verb == "worker" for role in roles) == [
        "attributor",
        "learner",
        "publisher",
    ]
    for name in WORKERS:
        assert COMPOSE["services"][name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    one_shot = COMPOSE["services"]["topics"]
    assert one_shot["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert one_shot["restart"] == "no"
    assert "healthcheck" in COMPOSE["services"]["kafka"]


def test_services_run_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of a service is one of the program's."""
    for name in [*WORKERS, "topics"]:
        assert cli.run([*COMPOSE["services"][name]["command"], "--help"]) == 0
    assert "Usage: clickloop" in capsys.readouterr().out


def test_image_is_small_pinned_and_without_root() -> None:
    """Two stages of one pinned base, a numbered user, a health check on /livez."""
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert set(bases) == {bases[0]}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0])
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)
    health = DOCKERFILE[DOCKERFILE.index("HEALTHCHECK") :]
    assert "/livez" in health


def test_images_are_pinned() -> None:
    """No service runs whatever is newest."""
    for name, service in COMPOSE["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+\.\d+", tag), f"{name}: {service['image']}"
