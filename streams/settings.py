"""All settings of clickloop as one frozen object, made once where a program starts.

`Settings(...)` takes what it is given and reads nothing else; `load` reads file, secrets folder and environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams import security
from streams.failpoints import failpoints
from streams.modes import check_follows
from streams.settings_attribution import rules_differ
from streams.settings_contest import contest_problem
from streams.settings_encoder import EncoderSettings
from streams.settings_errors import ENV_NESTING, ENV_PREFIX, SettingsError, explain
from streams.settings_policy import TEN_YEARS_S, PolicySettings
from streams.settings_sources import check_files, layers, merge
from streams.settings_texts import line_problem
from streams.settings_tokens import KeyId, keys_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_settings import PydanticBaseSettingsSource

    from streams.tokens import Keys

__all__ = ["PolicySettings", "Settings", "SettingsError", "TopicNames", "load"]

Interval = Annotated[float, Field(gt=0, le=TEN_YEARS_S, allow_inf_nan=False)]
MAX_PREFIX = 200  # a topic name may have 249 characters, and the longest suffix here takes fewer than 49


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicNames:
    """The full names, prefix included, of the topics that clickloop reads and writes."""

    impressions: str
    clicks: str
    posteriors: str
    policies: str
    history: str
    feedback: str
    dead_letters: str
    controls: str
    embedding_requests: str
    embeddings: str
    conversions: str
    touches: str
    attribution: str


class Settings(BaseSettings):
    """Everything that can be set; frozen. Secrets do not print.

    >>> settings = Settings(prefix="eu-", policies={"home": {"dimension": 8}})
    >>> settings.topics.history, settings.learner_group
    ('eu-policies-history', 'eu-clickloop-learner')
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_NESTING, validate_default=True
    )

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers as host:port, separated by commas")
    prefix: str = Field(
        "",
        max_length=MAX_PREFIX,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="put before topics, groups, transactional ids",
    )
    partitions: int = Field(4, ge=1, le=10_000, description="partitions of impressions, clicks and posteriors")
    replication: int = Field(1, ge=1, le=32_767, description="replicas of each topic that is created; 3 in production")
    retention_s: Interval = Field(86_400.0, description="seconds that impressions and clicks are kept at least")
    instance_id: str | None = Field(
        None,
        max_length=MAX_PREFIX,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="static membership, one name for each worker",
    )
    checkpoint_interval_s: Interval = Field(0.4, description="seconds between two checkpoints of a partition")
    checkpoint_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        description="what the sums in one checkpoint of a partition may take; what has no room follows in the next ones",
    )
    pending_memory_mb: float = Field(
        4_096.0,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="memory of a worker's pending impressions, in MB of 10^6 bytes; what passes it moves to files",
    )
    pending_dir: Path | None = Field(
        None, description="folder of these files; unset is the system's for temporary files"
    )
    publish_interval_s: Interval = Field(0.4, description="seconds between two looks at the sums by the publisher")
    meta_interval_s: Interval = Field(60.0, description="seconds between two meta-updates")
    session_timeout_s: float = Field(20.0, ge=0.5, le=1_800, description="seconds until a silent worker is expelled")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address of /metrics; 0.0.0.0 for all interfaces")
    metrics_port: int = Field(9464, ge=0, le=65_535, description="port of /metrics; 0 takes any free one")
    snapshot_max_age_s: Interval | None = Field(None, description="age from which a client falls back; unset is never")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["console", "json"] = Field("console", description="how a line of the log looks")
    # Not serve_host, serve_port: Kubernetes sets CLICKLOOP_SERVE_PORT for a service named clickloop-serve.
    listen_host: str = Field("127.0.0.1", min_length=1, description="address that serve listens on; 0.0.0.0 for all")
    listen_port: int = Field(8464, ge=0, le=65_535, description="port of serve; 0 takes any free one")
    serve_tokens: SecretStr | None = Field(
        None, description="bearer tokens, a line NAME SCOPES TOKEN for each; better in secrets_dir"
    )
    serve_deadline_ms: float = Field(50.0, gt=0, le=60_000, description="time for a decision that names none itself")
    serve_max_requests: int = Field(512, ge=1, le=100_000, description="requests at a time; above it the answer is 429")
    serve_max_body_bytes: int = Field(1_000_000, ge=1024, le=1 << 27, description="larger bodies are refused with 413")
    serve_idempotency_s: Interval = Field(600.0, description="seconds that an idempotency key gives the same answer")
    serve_idempotency_keys: int = Field(20_000, ge=1, le=10_000_000, description="answers kept for these keys at most")
    serve_log_impressions: Literal["before", "after", "none"] = Field(
        "before", description="whether impressions are queued before the answer, after it, or logged by the caller"
    )
    serve_codec: Literal["json", "msgpack", "columns"] = Field("columns", description="how serve writes events")
    serve_queue_rows: int = Field(100_000, ge=1, le=10_000_000, description="events that wait for Kafka at most")
    serve_spill_dir: Path | None = Field(
        None, description="folder for events that find no room; unset refuses the request with 503 instead"
    )
    serve_spill_bytes: int = Field(1 << 30, ge=1 << 20, description="what one serving process may keep in the folder")
    serve_drain_s: float = Field(10.0, gt=0, le=600, description="seconds that ending may take after SIGTERM")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how the brokers are reached"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(None, description="with SASL_*")
    sasl_username: str | None = Field(None, description="user at the brokers")
    sasl_password: SecretStr | None = Field(None, description="password at the brokers; better in secrets_dir")
    ssl_cafile: Path | None = Field(None, description="PEM file of the brokers' authority; unset is the system's")
    ssl_certfile: Path | None = Field(None, description="PEM file of this client's certificate")
    ssl_keyfile: Path | None = Field(None, description="PEM file of this client's key")
    token_keys: dict[KeyId, SecretStr] = Field(
        default_factory=dict,
        description="secrets of decision tokens by key id, 0 to 255, at least 16 random bytes each; better in secrets_dir",
    )
    token_key: KeyId | None = Field(None, description="id of the key that signs new tokens; unset is the only one")
    secrets_dir: Path | None = Field(None, description="folder with one file for each secret, as Docker mounts them")
    fail_at: str | None = Field(None, description="for tests: the place where this process kills itself, NAME[:COUNT]")
    encoder: EncoderSettings = Field(default_factory=EncoderSettings, description="texts to vectors")
    policies: dict[str, PolicySettings] = Field(default_factory=dict, description="one entry for each policy")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's hook, called with all five by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the arguments only; `load` is what reads files and the environment."""
        return (init_settings,)

    @field_validator("bootstrap")
    @classmethod
    def _addresses(cls, bootstrap: str) -> str:
        for address in bootstrap.split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= 65_535:
                raise ValueError(
                    f"bootstrap = {bootstrap!r}: must be host:port[,host:port...] with ports 1 to 65535, "
                    f"and {address!r} is not; change it, for example to 127.0.0.1:9092, or set CLICKLOOP_BOOTSTRAP"
                )
        return ",".join(address.strip() for address in bootstrap.split(","))

    @field_validator("fail_at")
    @classmethod
    def _fail_at_known(cls, fail_at: str | None) -> str | None:
        failpoints(fail_at)
        return fail_at

    @field_validator("policies")
    @classmethod
    def _policy_names(cls, policies: dict[str, PolicySettings]) -> dict[str, PolicySettings]:
        for name in policies:
            if not name.strip() or name != name.strip() or not name.isprintable():
                raise ValueError(f"policies: the name {name!r} must be printable, without space around it; rename it")
        return policies

    @model_validator(mode="after")
    def _conversions_have_one_rule(self) -> Self:
        why_not = rules_differ(self.policies)
        if why_not is not None:
            raise ValueError(why_not)
        return self

    @model_validator(mode="after")
    def _security_complete(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            wanted = ("sasl_mechanism", "sasl_username", "sasl_password")
            missing = [name for name in wanted if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    f"security_protocol = {self.security_protocol!r} needs {', '.join(missing)}; "
                    "set them, or choose PLAINTEXT or SSL"
                )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError(f"ssl_keyfile = {str(self.ssl_keyfile)!r} needs ssl_certfile; set both or neither")
        return self

    @model_validator(mode="after")
    def _windows_fit_the_retention(self) -> Self:
        """Refuse a retention that was asked for and cannot be; the default gives way to long windows."""
        needed_s, name = max(((2 * policy.reread_s, name) for name, policy in self.policies.items()), default=(0.0, ""))
        if "retention_s" in self.model_fields_set and self.retention_s < needed_s:
            limited = " + unit_window_s" if self.policies[name].unit_limit else ""
            window = self.policies[name].longest_window
            raise ValueError(
                f"retention_s = {self.retention_s:g}: less than twice {window} + grace_s{limited} of policy {name!r}, {needed_s:g}: "
                "impressions would be deleted that clicks still need; make it longer, leave it out, or shorten the window"
            )
        return self

    @model_validator(mode="after")
    def _successions_make_sense(self) -> Self:
        problem = line_problem(self.policies)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _contests_make_sense(self) -> Self:
        problem = contest_problem(self.policies)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _tokens_have_keys(self) -> Self:
        on = sorted(name for name, policy in self.policies.items() if policy.token_window_s)
        if self.keys is None and on:
            raise ValueError(
                f"policies.{on[0]}.token_window_s = {self.policies[on[0]].token_window_s:g} needs token_keys: set one for all ad servers and "
                "learners, or token_window_s = 0"
            )
        return self

    @property
    def keys(self) -> Keys | None:
        """Keys of decision tokens; None if there are none."""
        return keys_of(self.token_keys, self.token_key)

    @model_validator(mode="after")
    def _apprentices_follow_who_decides(self) -> Self:
        check_follows(self.policies)
        return self

    def topic(self, name: str) -> str:
        """Return the full name of the topic `name`."""
        return self.prefix + name

    @property
    def topics(self) -> TopicNames:
        """The full names of all topics."""
        return TopicNames(
            impressions=self.topic("impressions"),
            clicks=self.topic("clicks"),
            posteriors=self.topic("posteriors"),
            policies=self.topic("policies"),
            history=self.topic("policies-history"),
            feedback=self.topic("feedback"),
            dead_letters=self.topic("dead-letters"),
            controls=self.topic("controls"),
            embedding_requests=self.topic("embedding-requests"),
            embeddings=self.topic("embeddings"),
            conversions=self.topic("conversions"),
            touches=self.topic("touches"),
            attribution=self.topic("attribution"),
        )

    @property
    def learner_group(self) -> str:
        """The learners' consumer group."""
        return f"{self.prefix}clickloop-learner"

    @property
    def attributor_group(self) -> str:
        """The attributors' consumer group."""
        return f"{self.prefix}clickloop-attributor"

    @property
    def attributing(self) -> dict[str, PolicySettings]:
        """The policies that attribute conversions by unit."""
        return {name: policy for name, policy in self.policies.items() if policy.attribution is not None}

    @property
    def publisher_group(self) -> str:
        """The publishers' consumer group; its leader publishes."""
        return f"{self.prefix}clickloop-publisher"

    @property
    def encoder_group(self) -> str:
        """The encoders' consumer group; an encoder beside the one at work has its own."""
        name = self.encoder.name
        return f"{self.prefix}clickloop-encoder" + ("" if name is None else f"-{name}")

    @property
    def encodes(self) -> bool:
        """Whether there is an encoder, or a policy that needs its vectors."""
        needed = (policy.features is not None and policy.features.projection for policy in self.policies.values())
        return self.encoder.model is not None or any(needed)

    def librdkafka(self) -> dict[str, Any]:
        """Return connection settings for a confluent-kafka client; they hold the password in clear."""
        return security.librdkafka(self)

    def kafka_python(self) -> dict[str, Any]:
        """Return connection arguments for a kafka-python client; they hold the password in clear."""
        return security.kafka_python(self)

    def aiokafka(self) -> dict[str, Any]:
        """Return connection arguments for an aiokafka client; they hold the password in clear."""
        return security.aiokafka(self)


def load(config: Path | None = None, *, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings from file < secrets folder < environment < `overrides`.

    Args:
        config: a TOML file with the names of this class as keys and a table `[policies.NAME]` for each policy.
        overrides: values from the command line; None means not given.

    Raises:
        SettingsError: something is missing, misspelt or impossible; the text has a line for each complaint.
    """
    values = merge(layers(Settings, config, overrides or {}))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise explain(error, Settings) from error
    check_files(values)
    return settings
