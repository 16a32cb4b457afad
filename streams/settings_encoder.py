"""The settings of the encoder worker; what they mean for a vector is in encoders/model.py."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EncoderSettings(BaseModel):
    """How texts become vectors, and what the worker may take for it.

    >>> EncoderSettings(model="/models/minilm", dtype="fp32").budget_tokens
    2048
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, min_length=1, description="folder or Hugging Face id; unset: there is no encoder")
    revision: str | None = Field(None, min_length=1, description="commit of the Hugging Face id, which needs one")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="of an encoder that works beside the one that clients use, in a group of its own; unset is that one",
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto is bf16 where the hardware has it")
    max_length: int | None = Field(None, ge=2, le=1 << 20, description="tokens of a text; unset is what the model says")
    pooling: Literal["mean", "cls", "last"] | None = Field(None, description="unset is what the model says")
    device: str = Field("auto", min_length=1, description="auto, cpu, cuda, cuda:1")
    compile: bool = Field(False, description="try torch.compile on padded batches at the start, and take it if it pays")
    budget_tokens: int = Field(2_048, ge=1, le=1 << 24, description="tokens of a batch; a GPU likes ten times as many")
    window_tokens: int = Field(32_768, ge=1, le=1 << 28, description="tokens that are sorted by length together")
    threads: int = Field(0, ge=0, le=1_024, description="threads that compute on a CPU; 0 is one for each core")
    tokenizer_threads: int = Field(2, ge=1, le=256, description="threads that tokenise")
    cache_mb: float = Field(64.0, gt=0, le=1e6, description="memory for the keys of what is encoded, 17 bytes each")
    queue_mb: float = Field(32.0, gt=0, le=1e6, description="memory for requests that are not answered yet")
    max_text_bytes: int = Field(100_000, ge=1, le=1 << 24, description="a longer text, in UTF-8, is a dead letter")

    @model_validator(mode="after")
    def _a_window_holds_a_batch(self) -> Self:
        if self.window_tokens < self.budget_tokens:
            raise ValueError(
                f"window_tokens = {self.window_tokens}: less than budget_tokens, {self.budget_tokens}, so that no batch would "
                "be full; make it several times as large"
            )
        return self
