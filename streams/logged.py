"""Files of logged decisions: JSON Lines, CSV or Parquet, gzipped or inside a zip archive (a wheel, for example).

``log.csv``, ``log.jsonl.gz``, ``data.zip!folder/log.csv``: what follows ``!`` names the member. Rows are numbered from
1, without the header.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Format = Literal["csv", "jsonl", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class LoggedError(ValueError):
    """A file of logged decisions cannot be used; the text says where and why."""

    retriable = False


class BadRow(LoggedError):  # noqa: N818 - reads as what it says
    """One row cannot be used. ``row`` is its number from 1."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row


NumberedRow = tuple[int, dict[str, Any] | BadRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedFile:
    """A file that can be read any number of times. ``columns`` are its header's, in JSON Lines the first row's keys."""

    path: Path
    member: str | None
    format: Format
    columns: tuple[str, ...]

    def rows(self) -> Iterator[NumberedRow]:
        """Yield (number, values by column). Values are texts in CSV, else what the file says.

        Instead of the values comes a BadRow where a line is not JSON or has another number of cells than the header.
        """
        with _readable(self.path), _opened(self.path, self.member) as stream:
            yield from _READERS[self.format](stream)


def open_logged(name: str | Path) -> LoggedFile:
    """Look at a file and return it ready to be read.

    Raises:
        LoggedError: it does not exist, is empty, has no member of that name, or its format is unknown.
    """
    text, _, member = str(name).partition("!")
    path = Path(text)
    if not path.is_file():
        raise LoggedError(f"{path} does not exist or is not a file; check the path")
    kind = _format_of(member or path.name)
    if not member and zipfile.is_zipfile(path):
        raise LoggedError(f"{path} is an archive; name its member as {path}!MEMBER, one of: {_some(_members(path))}")
    with _readable(path), _opened(path, member or None) as stream:
        try:
            columns = _COLUMNS[kind](stream)
        except LoggedError as error:
            raise LoggedError(f"{name}: {error}") from error
    if not columns:
        raise LoggedError(f"{name} is empty; it needs at least one row")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise LoggedError(f"{name} has more than one column {', '.join(map(repr, twice))}; rename all but one")
    return LoggedFile(path=path, member=member or None, format=kind, columns=columns)


def _format_of(name: str) -> Format:
    stem = name.lower().removesuffix(".gz")
    for ending, kind in _FORMATS.items():
        if stem.endswith(ending):
            return kind
    if stem.endswith((".zip", ".whl")):
        return "csv"  # the archive is looked into next, and refused with the list of its members
    raise LoggedError(
        f"{name}: the format is told by the ending, and this one is unknown; known: {', '.join(_FORMATS)}"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What may be wrong with a file's bytes, as LoggedError."""
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise LoggedError(f"{path} cannot be read: {error}; text files must be UTF-8") from error
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, EOFError) as error:
        raise LoggedError(
            f"{path} cannot be unpacked: {error}; is it whole, and does its ending say what it is?"
        ) from error


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[BinaryIO]:
    with path.open("rb") as whole:
        if member is None:
            with gzip.open(whole) if path.name.endswith(".gz") else whole as stream:
                yield cast("BinaryIO", stream)
            return
        if member not in _members(path):
            raise LoggedError(f"{path} has no member {member!r}; it has: {_some(_members(path))}")
        with ExitStack() as closing:
            packed = closing.enter_context(closing.enter_context(zipfile.ZipFile(whole)).open(member))
            yield cast("BinaryIO", closing.enter_context(gzip.open(packed)) if member.endswith(".gz") else packed)


def _members(path: Path) -> list[str]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise LoggedError(f"{path} is not a zip archive ({error}); leave out what follows !") from error
    with archive:
        return [name for name in archive.namelist() if name.lower().removesuffix(".gz").endswith(tuple(_FORMATS))]


def _some(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing that can be read"


@contextmanager
def _csv(stream: BinaryIO) -> Iterator[Iterator[list[str]]]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        yield csv.reader(text)
    finally:
        text.detach()


def _csv_columns(stream: BinaryIO) -> tuple[str, ...]:
    with _csv(stream) as reader:
        return tuple(next(reader, ()))


def _csv_rows(stream: BinaryIO) -> Iterator[NumberedRow]:
    with _csv(stream) as reader:
        columns = next(reader, [])
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) == len(columns):
                yield number, dict(zip(columns, cells, strict=True))
            else:
                yield number, BadRow(number, f"has {len(cells)} cells, the header {len(columns)}; is a quote missing?")


def _jsonl_columns(stream: BinaryIO) -> tuple[str, ...]:
    for _, row in _jsonl_rows(stream):
        if isinstance(row, BadRow):
            raise row
        return tuple(row)
    return ()


def _jsonl_rows(stream: BinaryIO) -> Iterator[NumberedRow]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate((line for line in stream if line.strip()), 1):
        try:
            yield number, decode(line)
        except msgspec.MsgspecError as error:
            yield number, BadRow(number, f"is not a JSON object: {error}")
        except RecursionError:
            yield number, BadRow(number, "is not a JSON object that can be read: it is nested too deeply")


def _parquet(stream: BinaryIO) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise LoggedError("Parquet needs pyarrow; run pip install 'clickloop[parquet]'") from error
    source = stream if isinstance(stream, io.BufferedReader) else io.BytesIO(stream.read())
    try:
        return ParquetFile(source)
    except ArrowInvalid as error:
        raise LoggedError(f"not a Parquet file: {error}") from error


def _parquet_columns(stream: BinaryIO) -> tuple[str, ...]:
    return tuple(_parquet(stream).schema_arrow.names)


def _parquet_rows(stream: BinaryIO) -> Iterator[NumberedRow]:
    number = 0
    for batch in _parquet(stream).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, row


_COLUMNS: dict[Format, Callable[[BinaryIO], tuple[str, ...]]] = {
    "csv": _csv_columns,
    "jsonl": _jsonl_columns,
    "parquet": _parquet_columns,
}
_READERS: dict[Format, Callable[[BinaryIO], Iterator[NumberedRow]]] = {
    "csv": _csv_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
