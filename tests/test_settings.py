"""Settings: what is refused, in which words, and which source wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from policies.explorers import EXPLORERS, check
from streams.settings import PolicySettings, Settings, SettingsError, load
from streams.settings_policy import UnknownPolicyError
from streams.settings_sources import layers, origins

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, text: str) -> Path:
    path = folder / "clickloop.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(overrides: dict[str, object]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(overrides=overrides)
    assert not caught.value.retriable
    return str(caught.value)


def test_defaults_are_usable() -> None:
    """Without file and variables there are settings, and no policy."""
    settings = load()
    assert settings.bootstrap == "127.0.0.1:9092"
    assert settings.policies == {}
    assert (settings.checkpoint_interval_s, settings.publish_interval_s) == (0.4, 0.4)


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_every_explorer_can_be_set_with_its_rate(explorer: str) -> None:
    """By its name, and the rate and its default are those of the explorer."""
    policy = PolicySettings.model_validate({"dimension": 8, "explorer": explorer, "epsilon": 0.0})
    assert policy.rates == check(explorer, {})
    rate = EXPLORERS[explorer].rate
    assert PolicySettings.model_validate({"dimension": 8, "explorer": explorer, rate: 0.25}).rates[rate] == 0.25


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        ({"window_s": 0}, ["policies.home.window_s = 0", "greater than 0", "CLICKLOOP_POLICIES__HOME__WINDOW_S"]),
        ({"window_s": float("inf")}, ["window_s = inf", "finite"]),
        ({"early_s": -1}, ["policies.home.early_s = -1", "greater than or equal to 0"]),
        ({"grace_s": -1}, ["grace_s = -1"]),
        ({"half_life_s": -3.5}, ["half_life_s = -3.5", "0 forgets nothing"]),
        ({"dimension": 0}, ["policies.home: dimension = 0", "at least 1 for the linear model", "model = 'beta'"]),
        ({"epsilon": 1.5}, ["epsilon = 1.5", "less than or equal to 1"]),
        ({"epsilon": -0.1}, ["epsilon = -0.1"]),
        ({"matured_share": 2}, ["matured_share = 2"]),
        ({"expire_s": 60}, ["expire_s = 60.0", "at least window_s + grace_s = 660.0"]),
        ({"alpha": -1}, ["alpha = -1", "0 is greedy"]),
        ({"outcomes": {}}, ["policies.home: outcomes = {}", "at least one kind"]),
        ({"outcomes": {"": 1.0}}, ["empty string"]),
        (
            {"outcomes": {"click": 1, "refund": -1, "invalid": 0}},
            ["outcomes lists ['invalid', 'refund']", "another name"],
        ),
        ({"viewable_kind": "retraction"}, ["viewable_kind = 'retraction'", "another name"]),
        ({"viewable_kind": ""}, ["viewable_kind"]),
        ({"counts_on": "seen"}, ["counts_on = 'seen'", "'impression' or 'viewable'"]),
        ({"retraction_window_s": -1}, ["retraction_window_s = -1"]),
        ({"retraction_window_s": 60}, ["retraction_window_s = 60.0", "at least window_s = 600.0"]),
        ({"retraction_window_s": 900, "expire_s": 700}, ["at least retraction_window_s + grace_s = 960.0"]),
        ({"outcomes": {"click": float("nan")}}, ["outcomes.click = nan", "finite"]),
        ({"delays_s": [60, 0]}, ["delays_s.1 = 0", "greater than 0"]),
        ({"delays_s": [60, 60]}, ["delays_s = (60.0, 60.0)", "distinct"]),
        ({"delays_s": "60"}, ["delays_s = '60'", "must be a list"]),
        ({"window_s": 1e-4}, ["window_s = 0.0001", "0.001"]),
        ({"window_s": 1e300}, ["window_s = 1e+300", "315360000"]),
        ({"half_life_s": 1e-9}, ["half_life_s = 1e-09", "0.001"]),
        ({"outcomes": {"click": 1e31}}, ["outcomes.click = 1e+31", "less than or equal to 1"]),
        ({"outcomes": 3}, ["outcomes = 3", "must be a table"]),
        ({"dimension": "many"}, ["dimension = 'many'", "whole number"]),
        ({"dimension": 1400}, ["dimension = 1400", "7851200 bytes", "fewer dimensions"]),
        ({"dimension": 1000, "delays_s": [60]}, ["dimension = 1000 with 1 delays_s"]),
        ({"model": "logit"}, ["model = 'logit'", "'linear', 'hybrid', 'student', 'logistic' or 'beta'"]),
        ({"explorer": "greedy"}, ["'thompson', 'ucb', 'epsilon-greedy', 'softmax'", "or 'uncertainty'"]),
        ({"tau": 0}, ["tau = 0", "greater than 0"]),
        ({"gamma_scale": float("inf")}, ["gamma_scale = inf"]),
        ({"first": -1}, ["first = -1"]),
        ({"aggregate": "mean"}, ["'sum', 'max', 'min', 'earliest' or 'count'"]),
        ({"intercept": 8}, ["intercept = 8", "below dimension = 8"]),
        ({"point": [1.0] * 8}, ["point has 8 numbers", "the model is linear", "model = 'logistic' only"]),
        ({"model": "logistic", "point": [1.0]}, ["point has 1 numbers", "dimension = 8"]),
        ({"model": "logistic", "point": [float("nan")] * 8}, ["point.0 = nan", "finite"]),
        ({"model": "logistic", "outcomes": {"buy": 3.0}}, ["outcomes = {'buy': 3.0}", "between 0 and 1"]),
        ({"model": "beta", "encoder": "1f"}, ["encoder = '1f'", "no context to encode"]),
        ({"arms": ["a", "a"]}, ["['a']", "distinct"]),
        ({"arm_features": {"a": [1.0]}}, ["arm_features with model = 'linear'", "model = 'hybrid'"]),
        ({"model": "hybrid", "arm_features": {"a": [1.0], "b": []}}, ["arm_features: arms have [0, 1] features"]),
        ({"model": "hybrid", "arm_features": {"a": [float("nan")]}}, ["arm_features.a.0 = nan", "finite"]),
        ({"model": "hybrid", "dimension": 2000, "arm_features": {"a": [1, 2]}}, ["arm_features has 2", "at most 1"]),
        ({"windows_s": 3}, ["policies.home.windows_s", "did you mean window_s"]),
        ({"colour": 3}, ["there is no such setting", "known here: ads, aggregate, allocation"]),
    ],
)
def test_impossible_policy_is_refused(policy: dict[str, object], parts: list[str]) -> None:
    """Each impossible value is refused with its place, itself, what is allowed and the way out."""
    message = refusal({"policies": {"home": {"dimension": 8, **policy}}})
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"checkpoint_interval_s": 0}, ["checkpoint_interval_s = 0", "greater than 0"]),
        ({"publish_interval_s": -1}, ["publish_interval_s = -1"]),
        ({"meta_interval_s": 0}, ["meta_interval_s = 0"]),
        ({"retention_s": 0}, ["retention_s = 0"]),
        ({"partitions": 0}, ["partitions = 0"]),
        ({"metrics_port": 65536}, ["metrics_port = 65536", "65535"]),
        ({"prefix": "a b"}, ["prefix = 'a b'", "letters, digits"]),
        ({"instance_id": "worker 1"}, ["instance_id = 'worker 1'", "letters, digits"]),
        ({"instance_id": ""}, ["instance_id = ''", "one or more"]),
        ({"prefix": "a" * 201}, ["prefix = "]),
        ({"bootstrap": "kafka"}, ["bootstrap = 'kafka'", "host:port", "CLICKLOOP_BOOTSTRAP"]),
        ({"bootstrap": "a:1,b"}, ["'b' is not"]),
        ({"bootstrap": "a:70000"}, ["'a:70000' is not"]),
        ({"security_protocol": "SASL_SSL", "sasl_username": "me"}, ["sasl_mechanism, sasl_password"]),
        ({"ssl_keyfile": "key.pem"}, ["needs ssl_certfile"]),
        ({"log_level": "loud"}, ["'debug', 'info', 'warning' or 'error'"]),
        ({"bootstap": "a:1"}, ["bootstap: there is no such setting; did you mean bootstrap?"]),
        ({"policies": {" home": {"dimension": 8}}}, ["' home'", "rename"]),
        ({"policies": 3}, ["policies = 3"]),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], parts: list[str]) -> None:
    """The same for settings outside a policy."""
    message = refusal(values)
    assert [part for part in parts if part not in message] == []


def test_every_complaint_has_a_line() -> None:
    """Two mistakes are told at once."""
    assert len(refusal({"partitions": 0, "metrics_port": -1}).splitlines()) == 2


def test_zero_is_data() -> None:
    """Zero is a value where it means something."""
    policy = PolicySettings(dimension=8, early_s=0, grace_s=0, epsilon=0, alpha=0, outcomes={"view": 0.0}, intercept=0)
    assert (policy.early_s, policy.kept_s, policy.epsilon, policy.intercept) == (0, 600.0, 0, 0)
    assert load(overrides={"metrics_port": 0}).metrics_port == 0


def test_beta_needs_no_dimension() -> None:
    """A model without context has dimension 0."""
    assert PolicySettings(model="beta").dimension == 0


def test_stronger_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File < secrets folder < environment < command line, value by value, down into policies."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "clickloop_sasl_username").write_text("from-secret")
    (secrets / "clickloop_instance_id").write_text("from-secret")
    config = written(
        tmp_path,
        f"""
        prefix = "file-"
        partitions = 2
        sasl_username = "from-file"
        secrets_dir = "{secrets}"
        [policies.home]
        dimension = 8
        alpha = 0.5
        epsilon = 0.1
        """,
    )
    monkeypatch.setenv("CLICKLOOP_PARTITIONS", "6")
    monkeypatch.setenv("CLICKLOOP_INSTANCE_ID", "from-environment")
    monkeypatch.setenv("CLICKLOOP_POLICIES__HOME__ALPHA", "0.25")
    monkeypatch.setenv("CLICKLOOP_POLICIES__HOME__DELAYS_S", "[60, 600]")
    overrides = {"partitions": 8, "bootstrap": None}
    settings = load(config, overrides=overrides)
    home = settings.policies["home"]
    assert (settings.prefix, settings.partitions, settings.bootstrap) == ("file-", 8, "127.0.0.1:9092")
    assert (settings.sasl_username, settings.instance_id) == ("from-secret", "from-environment")
    assert (home.dimension, home.alpha, home.epsilon, home.delays_s) == (8, 0.25, 0.1, (60.0, 600.0))
    came_from = origins(layers(Settings, config, overrides))
    assert came_from["partitions",] == "command line"
    assert came_from["policies", "home", "alpha"] == "environment"
    assert came_from["policies", "home", "epsilon"] == f"file {config}"
    assert came_from["sasl_username",] == f"secrets {secrets}"


def test_settings_read_nothing_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `load` reads the environment."""
    monkeypatch.setenv("CLICKLOOP_PARTITIONS", "6")
    assert Settings().partitions == 4
    assert load().partitions == 6


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("prefix = \n", ["not valid TOML", "line 1"]),
        ("[policies.home]\ndimension = 8\n[policies.home]\n", ["not valid TOML", "line 3"]),
        ("parttions = 3", ["did you mean partitions"]),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, text: str, parts: list[str]) -> None:
    """A file that cannot be read as settings is named, with the line where there is one."""
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text))
    assert [part for part in parts if part not in str(caught.value)] == []


def test_missing_places_are_refused(tmp_path: Path) -> None:
    """A file or a secrets folder that is not there is an error, never an empty one."""
    with pytest.raises(SettingsError, match=r"nowhere.toml cannot be read \(No such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(SettingsError, match="must be a folder that exists"):
        load(overrides={"secrets_dir": tmp_path / "nowhere"})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'prefix = "\xe9"')
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(latin)


def test_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is almost a setting is a mistake; one that Kubernetes made is left alone."""
    monkeypatch.setenv("CLICKLOOP_PORT_9464_TCP", "tcp://10.0.0.1:9464")
    monkeypatch.setenv("CLICKLOOP_SERVICE_HOST", "10.0.0.1")
    assert load().partitions == 4
    monkeypatch.setenv("CLICKLOOP_PARTITION", "3")
    with pytest.raises(SettingsError, match=r"CLICKLOOP_PARTITION is set.*did you mean CLICKLOOP_PARTITIONS"):
        load()


def test_variable_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list or a table that cannot be parsed names the variable and its value."""
    monkeypatch.setenv("CLICKLOOP_POLICIES", "{home")
    with pytest.raises(SettingsError, match=r"CLICKLOOP_POLICIES = '\{home' is not JSON"):
        load()
    monkeypatch.setenv("CLICKLOOP_POLICIES", '{"home": {"dimension": 8}}')
    monkeypatch.setenv("CLICKLOOP_POLICIES__HOME__DELAYS_S", "60,600")
    with pytest.raises(SettingsError, match=r"CLICKLOOP_POLICIES__HOME__DELAYS_S = '60,600' is not JSON.*\[60, 600\]"):
        load()


def test_tls_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A file of the connection that cannot be read is named; the clients would only say that nobody answers."""
    with pytest.raises(SettingsError, match=r"ssl_cafile = .*ca.pem' cannot be read \(No such file"):
        load(overrides={"security_protocol": "SSL", "ssl_cafile": tmp_path / "ca.pem"})


def test_windows_fit_the_retention_that_was_asked_for() -> None:
    """A retention below what the windows need is refused when somebody set it; the default gives way."""
    policies = {"home": {"dimension": 8, "window_s": 80_000}}
    assert "retention_s = 100000: less than twice window_s + grace_s of policy 'home', 160120" in refusal(
        {"retention_s": 100_000, "policies": policies}
    )
    assert load(overrides={"policies": policies}).policies["home"].window_s == 80_000
    assert load(overrides={"retention_s": 160_120, "policies": policies}).retention_s == 160_120
    returns = {"home": {"dimension": 8, "retraction_window_s": 80_000}}
    assert "less than twice retraction_window_s + grace_s of policy 'home', 160120" in refusal(
        {"retention_s": 100_000, "policies": returns}
    )


def test_secrets_do_not_print() -> None:
    """Neither the object nor an error about it shows a password; the clients get it."""
    settings = load(
        overrides={
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "me",
            "sasl_password": "hunter2",
        }
    )
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "4711" not in refusal({"sasl_password": 4711})
    assert settings.librdkafka()["sasl.password"] == "hunter2"
    assert settings.kafka_python()["sasl_plain_password"] == "hunter2"
    assert settings.aiokafka()["sasl_plain_password"] == "hunter2"


def test_settings_are_frozen() -> None:
    """Nothing changes settings once they are made."""
    settings = load(overrides={"policies": {"home": {"dimension": 8}}})
    with pytest.raises(ValidationError, match="frozen"):
        settings.partitions = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.policies["home"].alpha = 3  # type: ignore[misc]


def test_prefix_comes_before_every_name() -> None:
    """Topics and groups of two prefixes never meet."""
    settings = Settings(prefix="eu-")
    names = [getattr(settings.topics, name) for name in settings.topics.__slots__]
    names += [settings.learner_group, settings.publisher_group, settings.topic("impressions")]
    assert all(name.startswith("eu-") for name in names)
    assert settings.topics.history == "eu-policies-history"
    assert settings.topics.dead_letters == "eu-dead-letters"


def test_plaintext_clients_get_no_security() -> None:
    """Without SASL and TLS nothing about them is handed on."""
    settings = Settings(bootstrap="a:1, b:2")
    assert settings.librdkafka() == {"bootstrap.servers": "a:1,b:2", "security.protocol": "plaintext"}
    assert settings.kafka_python() == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}
    assert settings.aiokafka() == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}


def test_tls_context_is_made_for_tls_only() -> None:
    """TLS protocols get a verifying context."""
    context = Settings(security_protocol="SSL").aiokafka()["ssl_context"]
    assert context.check_hostname


def test_unknown_policy_lists_the_known() -> None:
    """The error for a name that is no policy helps to find the right one."""
    assert "did you mean home" in str(UnknownPolicyError("hmoe", known=["home", "other"]))
    assert "--config" in str(UnknownPolicyError("hmoe", known=[]))
