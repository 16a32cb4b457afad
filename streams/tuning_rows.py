"""What an encoder is tuned on: matured rows of the feedback topic, or a file, with the texts of their arms and contexts.

A file has one row for each impression that is final, in any order (formats: streams/logged.py):

================ ======================================================== ===========================
field            what it is                                               without a mapping
================ ======================================================== ===========================
``ts``           when: ms UTC, or ISO 8601                                column ``ts``
``click``        whether something followed                               column ``click``
``arm``          what was shown, by its name in the texts                 column ``arm``
``text``         the text of what was shown, instead of ``arm``           column ``text``
``context_text`` the text that it was shown for, such as a query          column ``context_text``, else none
``context``      columns of numbers, separated by commas                  none
================ ======================================================== ===========================
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streams.logged import BadRow, LoggedError, open_logged
from streams.logged_values import milliseconds, number, text, truth
from streams.matured import matured
from streams.rules import model
from streams.settings_errors import SettingsError
from streams.settings_policy import UnknownPolicyError

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import FloatArray, IntArray
    from streams.settings import Settings

FIELDS = ("ts", "click", "arm", "text", "context_text", "context")
TEXT_FIELDS = ("title", "body", "category")
"""Parts of an arm's text, one a line, where it is a table."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """Impressions whose reward is final, by event time.

    Attributes:
        texts: all that occur, each once.
        arm: (n,) number of the arm's text.
        context: (n,) number of the context's text; None if contexts have none.
        x: (n, d) numbers of the context.
        ts: (n,) ms UTC, ascending.
        click: (n,) 0 or 1.
        without_text: impressions that were left out because their arm has no text.
    """

    texts: tuple[str, ...]
    arm: npt.NDArray[np.intp]
    context: npt.NDArray[np.intp] | None
    x: FloatArray
    ts: IntArray
    click: FloatArray
    without_text: int


def read_texts(path: Path) -> dict[str, str]:
    """Texts by arm from a JSON or TOML file: ARM = "text", or ARM = {title, body, category}.

    Raises:
        SettingsError: the file cannot be read, or an arm has neither.
    """
    try:
        raw = path.read_bytes()
        found = tomllib.loads(raw.decode()) if path.suffix == ".toml" else msgspec.json.decode(raw)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"--texts {path} cannot be read ({error}); give a JSON or TOML file of texts by arm"
        ) from error
    if not isinstance(found, dict) or not found:
        raise SettingsError(f'--texts {path} holds no table of texts by arm, such as ad-1 = "Two red shoes"')
    texts = {arm: text_of(value) for arm, value in found.items()}
    bare = sorted(arm for arm, one in texts.items() if not one)
    if bare:
        raise SettingsError(
            f"--texts {path}: {bare[0]!r} is {found[bare[0]]!r}; allowed: a text, or a table with {', '.join(TEXT_FIELDS)}"
        )
    return texts


def text_of(value: object) -> str:
    r"""The text of an arm, from a text or a table of parts; empty if there is none.

    >>> text_of({"category": "shoes", "title": "Two red shoes"})
    'Two red shoes\nshoes'
    """
    if isinstance(value, Mapping):
        return "\n".join(part for name in TEXT_FIELDS if isinstance(part := value.get(name), str) and part)
    return value if isinstance(value, str) else ""


def from_topic(settings: Settings, policy: str, *, texts: Mapping[str, str] | None, newest: int) -> Shown:
    """Matured impressions of a policy that were drawn by chance; a click is a reward above 0.

    Args:
        settings: how brokers are reached.
        policy: its name.
        texts: by arm; None takes the title, body and category of the policy's `ads`.
        newest: so many rows at most.

    Raises:
        UnknownPolicyError: no such policy.
        SettingsError: no arm has a text.
        ReadError: the broker does not answer.
    """
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    if texts is None:
        described = {arm: text_of(ad.described) for arm, ad in settings.policies[policy].ads.items()}
        texts = {arm: one for arm, one in described.items() if one}
    if not texts:
        raise SettingsError(
            f"policies.{policy}.ads: no arm has a title, body or category; add them, or give texts by arm with --texts FILE"
        )
    rows = matured(settings, policy, newest, dimension=model(settings.policies[policy]).dimension).decided()
    names = [texts.get(arm, "") for arm in rows.arms]
    told = np.array([bool(name) for name in names], np.bool_)[rows.arm] if len(rows.arm) else np.zeros(0, np.bool_)
    unique, arm = _numbered([names[code] for code in rows.arm[told].tolist()])
    return Shown(
        texts=unique,
        arm=arm,
        context=None,
        x=rows.x[told],
        ts=rows.ts[told],
        click=(rows.reward[told] > 0.0).astype(np.float64),
        without_text=int((~told).sum()),
    )


def from_file(name: str, *, columns: Mapping[str, str], texts: Mapping[str, str] | None, newest: int) -> Shown:
    """Rows of a file.

    Args:
        name: of the file.
        columns: columns by field, where they have other names than the fields.
        texts: by arm; None if the file has the texts itself.
        newest: so many rows at most, the last by event time.

    Raises:
        LoggedError: the file, a column or a row cannot be used.
    """
    file = open_logged(name)
    of = _columns(name, file.columns, columns)
    if ("text" not in of) and ("arm" not in of or texts is None):
        raise LoggedError(
            f"{name} has no column of texts; map one with --map text=COLUMN, or name arms with --map arm=COLUMN and give --texts FILE"
        )
    rows: list[tuple[int, str, str, float, list[float]]] = []
    bare = 0
    for place, row in file.rows():
        if isinstance(row, BadRow):
            raise row
        try:
            shown = (
                text("text", row.get(of["text"])) if "text" in of else (texts or {}).get(str(row.get(of["arm"])), "")
            )
            made = (
                milliseconds("ts", row.get(of["ts"])),
                shown,
                str(row.get(of["context_text"]) or "") if "context_text" in of else "",
                float(truth("click", row.get(of["click"]))),
                [number(one, row.get(one)) for one in of["context"].split(",")] if "context" in of else [],
            )
        except ValueError as error:
            raise BadRow(place, str(error)) from error
        if shown:
            rows.append(made)
        else:
            bare += 1
    rows = sorted(rows, key=lambda row: row[0])[-newest:]
    return _shown(rows, has_context="context_text" in of, without_text=bare)


def _shown(rows: Sequence[tuple[int, str, str, float, list[float]]], *, has_context: bool, without_text: int) -> Shown:
    n = len(rows)
    unique, codes = _numbered([row[1] for row in rows] + ([row[2] for row in rows] if has_context else []))
    return Shown(
        texts=unique,
        arm=codes[:n],
        context=codes[n:] if has_context else None,
        x=np.array([row[4] for row in rows], np.float64).reshape(n, len(rows[0][4]) if rows else 0),
        ts=np.array([row[0] for row in rows], np.int64),
        click=np.array([row[3] for row in rows], np.float64),
        without_text=without_text,
    )


def _numbered(names: Sequence[str]) -> tuple[tuple[str, ...], npt.NDArray[np.intp]]:
    place: dict[str, int] = {}
    codes = [place.setdefault(name, len(place)) for name in names]
    return tuple(place), np.array(codes, np.intp)


def _columns(name: str, known: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Columns by field. Raises LoggedError for a field or column that there is not, or one that is missing."""
    for field, column in given.items():
        if field not in FIELDS:
            raise LoggedError(f"--map {field}={column}: there is no field {field!r}; choose among {', '.join(FIELDS)}")
        wrong = [one for one in (column.split(",") if field == "context" else [column]) if one not in known]
        if wrong:
            raise LoggedError(f"--map {field}={column}: {name} has no column {wrong[0]!r}; it has: {', '.join(known)}")
    found: dict[str, Any] = {one: one for one in FIELDS if one in known and one != "context"} | dict(given)
    for needed in ("ts", "click"):
        if needed not in found:
            raise LoggedError(f"{name} has no column {needed!r}; map one with --map {needed}=COLUMN")
    return found
