"""`clickloop encoder tune`: what tells of clicks is learned, noise is not published, and nothing is overwritten."""

from __future__ import annotations

from tests.encoders import tiny

# isort: split

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.errors import ModelError
from encoders.model import load
from streams.cli import run
from streams.events import Impression, Outcome
from streams.settings_encoder import EncoderSettings
from streams.settings_errors import SettingsError
from streams.tune import Options, tuned
from streams.tuning_rows import Shown, from_file, read_texts
from streams.tuning_split import TooFewError
from tests.loop import Loop
from tests.test_exactly_once import hour_ago_ms

ARMS, ROWS = 60, 2_500
OPTIONS = Options(dimension=3, epochs=15)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with random weights."""
    return tiny.make(tmp_path_factory.mktemp("tune") / "tiny")


@pytest.fixture(scope="module")
def encoder(model: Path) -> EncoderSettings:
    """The settings of that encoder."""
    return EncoderSettings(model=str(model), dtype="fp32", device="cpu")


def arms_texts(seed: int = 0) -> tuple[str, ...]:
    """Texts of three to six words."""
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(tiny.WORDS, rng.integers(3, 7), replace=False).tolist()) for _ in range(ARMS))


def odds(texts: Sequence[str]) -> np.ndarray:
    """Red is clicked more, small less, whatever else is said."""
    return np.array([-1.2 + 2.5 * ("red" in text.split()) - 2.0 * ("small" in text.split()) for text in texts])


def made(seed: int = 0, n: int = ROWS) -> Shown:
    """Clicks that follow two words of the arm's text."""
    rng, texts = np.random.default_rng(seed), arms_texts()
    arm = rng.integers(0, ARMS, n)
    click = (rng.random(n) < 1.0 / (1.0 + np.exp(-odds(texts)[arm]))).astype(float)
    return Shown(
        texts=texts, arm=arm, context=None, x=np.ones((n, 1)), ts=1_000 * np.arange(n), click=click, without_text=0
    )


def shuffled(shown: Shown, seed: int) -> Shown:
    """The same clicks, at other impressions: nothing tells of them."""
    return replace(shown, click=np.random.default_rng(seed).permutation(shown.click))


@pytest.mark.parametrize("method", ["projection", "lora"])
def test_a_tuned_encoder_wins_where_words_tell_of_clicks(encoder: EncoderSettings, tmp_path: Path, method: Any) -> None:
    """The loss falls, the interval says so, and the folder gives vectors of the fingerprint that was told; once."""
    target = tmp_path / "tuned"
    found = tuned(encoder, made(), target, replace(OPTIONS, method=method))
    assert found["better"]
    assert found["loss_after"] < found["loss_before"] - 0.02
    assert 0.0 < found["interval"][0] < found["gain"] < found["interval"][1]
    loaded = load(str(target), dtype="fp32", device="cpu")
    assert (loaded.fingerprint, loaded.dimension) == (found["fingerprint"], 3)
    assert loaded.fingerprint != found["base_fingerprint"]
    assert json.loads((target / "tuning.json").read_text())["base"] == found["base_fingerprint"]
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


@pytest.mark.parametrize("method", ["projection", "lora"])
def test_noise_is_not_published(encoder: EncoderSettings, tmp_path: Path, method: Any) -> None:
    """With shuffled clicks there is nothing to be better at: no folder, no fingerprint, nothing left behind."""
    for seed in range(2):
        found = tuned(encoder, shuffled(made(), seed), tmp_path / "tuned", replace(OPTIONS, method=method))
        assert (found["better"], found["fingerprint"], found["folder"]) == (False, None, None)
        assert list(tmp_path.iterdir()) == []


def test_comparing_on_what_was_learned_from_publishes_noise(encoder: EncoderSettings, tmp_path: Path) -> None:
    """200 rows of shuffled clicks ten times over: what is held out was learned by heart, and looks better."""
    few = shuffled(made(n=200), 0)
    copies = replace(
        few, arm=np.tile(few.arm, 10), x=np.ones((2_000, 1)), click=np.tile(few.click, 10), ts=np.arange(2_000)
    )
    assert tuned(encoder, copies, tmp_path / "tuned", OPTIONS)["better"]


def test_a_match_of_two_texts_is_learned(encoder: EncoderSettings, tmp_path: Path) -> None:
    """Clicks come where context and arm are both red or both not: neither side tells anything by itself."""
    texts, rng = arms_texts(), np.random.default_rng(1)
    red = np.array(["red" in text.split() for text in texts])
    red_arms, others = np.flatnonzero(red), np.flatnonzero(~red)
    half = rng.random((2, 5_000)) < 0.5
    arm, context = np.where(half, rng.choice(red_arms, (2, 5_000)), rng.choice(others, (2, 5_000)))
    click = (rng.random(5_000) < np.where(red[arm] == red[context], 0.7, 0.2)).astype(float)
    rows = Shown(
        texts=texts, arm=arm, context=context, x=np.zeros((5_000, 0)), ts=np.arange(5_000), click=click, without_text=0
    )
    found = tuned(encoder, rows, tmp_path / "tuned", replace(OPTIONS, epochs=30))
    assert found["better"]
    assert found["loss_after"] < found["loss_before"] - 0.02


def test_nothing_is_overwritten(encoder: EncoderSettings, tmp_path: Path) -> None:
    """A folder that is there is refused before anything is computed, and stays as it is."""
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mine").write_text("x")
    with pytest.raises(ModelError, match="exists; nothing is overwritten"):
        tuned(encoder, made(), tmp_path / "tuned", OPTIONS)
    assert (tmp_path / "tuned" / "mine").read_text() == "x"
    with pytest.raises(ModelError, match="is no folder; make it, or name another place"):
        tuned(encoder, made(), tmp_path / "nowhere" / "tuned", OPTIONS)


def test_too_little_is_refused(encoder: EncoderSettings, tmp_path: Path) -> None:
    """Few rows, no clicks, all at one time, one text; and a model that was tuned already."""
    rows = made()
    few = made(n=100)
    silent = replace(rows, click=np.zeros(ROWS))
    together = replace(rows, ts=np.zeros(ROWS, np.int64))
    for wrong in (few, silent, together):
        with pytest.raises(TooFewError, match="at least 200 are needed, with 10 clicks and 10 others"):
            tuned(encoder, wrong, tmp_path / "tuned", OPTIONS)
    with pytest.raises(TooFewError, match="1 different texts were shown"):
        tuned(encoder, replace(rows, arm=np.zeros(ROWS, np.intp)), tmp_path / "tuned", OPTIONS)
    with pytest.raises(SettingsError, match=r"encoder\.model is not set"):
        tuned(EncoderSettings(), rows, tmp_path / "tuned", OPTIONS)
    tuned(encoder, rows, tmp_path / "tuned", OPTIONS)
    with pytest.raises(ModelError, match="has a Dense module already; tune the model that it was made of"):
        tuned(EncoderSettings(model=str(tmp_path / "tuned")), rows, tmp_path / "again", OPTIONS)


def test_a_file_is_read_by_event_time(tmp_path: Path) -> None:
    """Whatever the order of its lines; arms by their texts, those without one counted and left out; the newest rows."""
    lines = [
        {"time": 3, "click": 1, "arm": "b", "query": "q", "hour": 7},
        {"time": 1, "click": 0, "arm": "a", "query": "q", "hour": 5},
        {"time": 2, "click": 0, "arm": "nobody", "query": "r", "hour": 6},
        {"time": 0, "click": 1, "arm": "a", "query": "r", "hour": 4},
    ]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    columns = {"ts": "time", "context_text": "query", "context": "hour"}
    shown = from_file(str(file), columns=columns, texts={"a": "A", "b": "B"}, newest=2)
    assert shown.context is not None
    assert [shown.texts[code] for code in shown.arm] == ["A", "B"]
    assert [shown.texts[code] for code in shown.context] == ["q", "q"]
    assert (shown.ts.tolist(), shown.click.tolist(), shown.x.tolist()) == ([1, 3], [0.0, 1.0], [[5.0], [7.0]])
    assert shown.without_text == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("texts.json", '{"a": "A", "b": {"title": "B", "category": "c"}}'), ("texts.toml", 'a = "A"\nb = {title = "B", category = "c"}')],
)  # fmt: skip
def test_texts_by_arm(tmp_path: Path, name: str, content: str) -> None:
    """As a text, or as a table whose parts become lines."""
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name) == {"a": "A", "b": "B\nc"}


WRONG = {
    "broken": ("{", "cannot be read"),
    "empty": ("{}", "holds no table of texts by arm"),
    "number": ('{"a": 5}', "'a' is 5; allowed: a text, or a table with title, body, category"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_wrong_texts_are_refused(tmp_path: Path, content: str, message: str) -> None:
    """With the arm, and what is allowed."""
    (tmp_path / "texts.json").write_text(content)
    with pytest.raises(SettingsError, match=message):
        read_texts(tmp_path / "texts.json")


def test_what_the_command_refuses(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No source or two, a map without a file, a field or column that there is not, a row that cannot be read."""
    config, file = tmp_path / "clickloop.toml", tmp_path / "log.csv"
    config.write_text(f'[encoder]\nmodel = "{model}"\n')
    file.write_text("ts,click,text\n1,1,red\n2,maybe,blue\n")
    where = ["--to", str(tmp_path / "tuned"), "--config", str(config)]
    cases = {
        (): (2, "give either POLICY"),
        ("front", "--log", str(file)): (2, "give either POLICY"),
        ("front", "--map", "ts=time"): (2, "--map names columns of a file"),
        ("nobody",): (2, "nobody"),
        ("--log", str(tmp_path / "none.csv")): (1, "does not exist"),
        ("--log", str(file), "--map", "when=ts"): (1, "there is no field 'when'; choose among ts, click, arm"),
        ("--log", str(file), "--map", "ts=time"): (1, "has no column 'time'; it has: ts, click, text"),
        ("--log", str(file)): (1, "row 2: click is 'maybe'; allowed: 1, true, yes"),
    }
    for arguments, (code, message) in cases.items():
        assert run(["encoder", "tune", *arguments, *where]) == code, arguments
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split()), arguments
    assert not (tmp_path / "tuned").exists()


CONFIG = """
[encoder]
model = "MODEL"
dtype = "fp32"
device = "cpu"
[policies.front]
model = "linear"
dimension = 1
window_s = 20
grace_s = 10
"""


def test_from_the_feedback_topic(
    model: Path, bootstrap: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through Kafka: matured impressions with the texts of a file, those of arms without one left out."""
    texts = arms_texts()
    (tmp_path / "texts.json").write_text(json.dumps({f"ad-{i}": text for i, text in enumerate(texts)}))
    rows, start = made(n=4_000), hour_ago_ms()
    events: list[Impression | Outcome] = []
    for i in range(4_000):
        arm = "bare" if i % 10 == 0 else f"ad-{rows.arm[i]}"
        ts = start + 50 * i  # all but the last 30 s have matured
        events.append(
            Impression(
                decision_id=f"d{i}",
                slot="top",
                policy="front",
                snapshot=1,
                arm=arm,
                propensity=1 / ARMS,
                context=[1.0],
                ts=ts,
            )
        )
        if rows.click[i]:
            events.append(Outcome(decision_id=f"d{i}", slot="top", outcome_id="o", ts=ts + 5))
    asked = ["encoder", "tune", "front", "--texts", str(tmp_path / "texts.json"), "--dimension", "3", "--epochs", "15"]
    asked += ["--to", str(tmp_path / "tuned")]
    with Loop(bootstrap, prefix, tmp_path, CONFIG.replace("MODEL", str(model))) as loop:
        loop.start("one")
        loop.send(events)
        loop.flush()
        loop.wait_covered()
        loop.stop("one")
        capsys.readouterr()
        assert run([*asked, "--json", "--config", str(loop.config)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert run([*asked, "--config", str(loop.config)]) == 1
        assert "nothing is overwritten" in capsys.readouterr().err
        assert run(["encoder", "tune", "front", "--to", str(tmp_path / "x"), "--config", str(loop.config)]) == 2
        assert "no arm has a title, body or category" in capsys.readouterr().err
    assert found["better"]
    assert found["fingerprint"] == load(found["folder"], dtype="fp32", device="cpu").fingerprint
    assert found["rows_without_text"] > 50
    assert found["rows_learned"] + found["rows_held_out"] + found["rows_without_text"] <= 4_000
