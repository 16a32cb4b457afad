"""Compiled attention and layer norm, against their formulas in float64."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `encoder` is not installed: pip install 'clickloop[encoder]'")
pytest.importorskip("numba", reason="the extra `encoder` is not installed: pip install 'clickloop[encoder]'")

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from encoders import compiled

ROOT = Path(__file__).parents[2]
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
"""How far numbers of about 1 may be apart."""


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Seconds that are no test's."""
    for dtype in ROUNDING:
        compiled.attend(
            torch.zeros(1, 48, dtype=dtype), 1, np.array([0]), np.array([1]), torch.zeros(1, 16, dtype=dtype)
        )


@pytest.fixture
def threads() -> Iterator[None]:
    """Two threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    compiled._pool().shutdown()
    compiled._pool.cache_clear()


def softmax_attention(qkv: torch.Tensor, heads: int, starts: list[int], lengths: list[int]) -> torch.Tensor:
    """(T, d) in float64, text by text and head by head; NaN where no text is."""
    width = qkv.shape[1] // 3
    size, found = width // heads, torch.full((len(qkv), width), torch.nan, dtype=torch.float64)
    for start, tokens in zip(starts, lengths, strict=True):
        q, k, v = torch.split(qkv[start : start + tokens].double(), width, dim=1)
        for part in (slice(head * size, (head + 1) * size) for head in range(heads)):
            weights = (q[:, part] @ k[:, part].T / size**0.5).softmax(dim=1)
            found[start : start + tokens, part] = weights @ v[:, part]
    return found


def attended(qkv: torch.Tensor, heads: int, lengths: list[int]) -> tuple[torch.Tensor, list[int]]:
    """What the compiled function makes of texts one after the other, and their first tokens; NaN where it writes nothing."""
    starts = np.cumsum([0, *lengths[:-1]])
    out = torch.full((len(qkv), qkv.shape[1] // 3), torch.nan, dtype=qkv.dtype)
    compiled.attend(qkv, heads, starts, np.array(lengths), out)
    return out, starts.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    lengths=st.lists(st.integers(1, 40) | st.integers(120, 140), min_size=1, max_size=6),
    heads=st.integers(1, 3),
    size=st.sampled_from([16, 32, 48, 64]),
    scale=st.sampled_from([0.1, 1.0, 6.0]),
    seed=st.integers(0, 9),
)
@example(lengths=[22, 28, 125, 128, 122], heads=2, size=64, scale=6.0, seed=0)  # the farthest apart that is known
def test_attention_is_the_formula_s(
    dtype: torch.dtype, lengths: list[int], heads: int, size: int, scale: float, seed: int
) -> None:
    """Of texts of any length, heads of any size, weights flat or steep; rows that are no text's stay as they are."""
    qkv = (scale * torch.randn(sum(lengths) + 3, 3 * heads * size, generator=torch.manual_seed(seed))).to(dtype)
    found, starts = attended(qkv, heads, lengths)
    wanted = softmax_attention(qkv, heads, starts, lengths)
    steep = scale > 1.0  # large scores are rounded to less
    apart = (2.0 * scale**3 if steep else scale) * ROUNDING[dtype]
    assert torch.allclose(found.double(), wanted, rtol=ROUNDING[dtype], atol=apart, equal_nan=True)


def test_large_scores_overflow_nowhere() -> None:
    """A score of ten thousand takes all the weight, and scores that are equal share it, however large or small."""
    size = 16
    qkv = torch.zeros(3, 3 * size)
    qkv[:, 2 * size :] = torch.tensor([1.0, 2.0, 6.0])[:, None]
    for score in (-1e4, 0.0, 1e4):
        qkv[:, 0], qkv[:, size] = score, size**0.5
        assert torch.allclose(attended(qkv, 1, [3])[0], torch.full((3, size), 3.0))
    qkv[:, 0] = 1e4
    qkv[:, size] = torch.tensor([0.0, 4.0, 3.0])
    assert torch.equal(attended(qkv, 1, [3])[0], torch.full((3, size), 2.0))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_finite_spoils_its_text_and_no_other(bad: float, part: int) -> None:
    """One number of a query, key or value in the middle text; before and after it the bits are as without."""
    lengths = [5, 7, 6]
    qkv = torch.randn(sum(lengths), 3 * 32, generator=torch.manual_seed(0))
    qkv[:, [3, 32 + 3]] = 1.0  # a minus that is infinite makes all scores so
    clean, _ = attended(qkv, 2, lengths)
    qkv[8, part * 32 + 3] = bad
    found, _ = attended(qkv, 2, lengths)
    assert torch.equal(found[:5], clean[:5])
    assert torch.equal(found[12:], clean[12:])
    assert torch.equal(found[5:12].isfinite(), softmax_attention(qkv, 2, [5], [7])[5:12].isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    rows=st.integers(1, 20),
    width=st.sampled_from([16, 48, 384]),
    mean=st.sampled_from([0.0, 30.0]),
    seed=st.integers(0, 9),
)
def test_layer_norm_is_the_formula_s(dtype: torch.dtype, rows: int, width: int, mean: float, seed: int) -> None:
    """Each row for itself, whatever its mean; one of equal numbers is the bias."""
    draw = torch.manual_seed(seed)
    x = (mean + torch.randn(rows, width, generator=draw)).to(dtype)
    x[0] = 3.0
    weight, bias = torch.rand(width, generator=draw), torch.randn(width, generator=draw)
    exact = x.double()
    wanted = (exact - exact.mean(1, keepdim=True)) / (exact.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    wanted = wanted * weight + bias
    compiled.normalise(x, weight, bias, 1e-5)
    assert torch.allclose(x.double(), wanted, rtol=ROUNDING[dtype], atol=max(1.0, mean) * ROUNDING[dtype])
    assert torch.equal(x[0], bias.to(dtype))


def test_threads_share_texts_and_rows(threads: None) -> None:
    """To the bit what one thread computes, also where one text is longer than a share."""
    draw = torch.manual_seed(0)
    for lengths in ([3, 90, 2, 120, 128, 128, 64, 100], [128] * 9, [1] * 700):
        qkv = torch.randn(sum(lengths), 3 * 64, generator=draw)
        shared, _ = attended(qkv, 2, lengths)
        x, weight, bias = torch.randn(sum(lengths), 32, generator=draw), torch.rand(32), torch.randn(32)
        normed, single = x.clone(), x.clone()
        compiled.normalise(normed, weight, bias, 1e-5)
        torch.set_num_threads(1)
        assert torch.equal(shared, attended(qkv, 2, lengths)[0])
        compiled.normalise(single, weight, bias, 1e-5)
        assert torch.equal(normed, single)
        torch.set_num_threads(2)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, 8))
def test_shares_are_all_texts_once(lengths: list[int], threads: int) -> None:
    """In order, none empty, no more than threads, and only as many as there is work for."""
    shares = compiled._shares(np.cumsum(lengths), threads)
    assert [place for share in shares for place in range(share.start, share.stop)] == list(range(len(lengths)))
    assert len(shares) <= min(threads, max(1, sum(lengths) // compiled.ALONE_TOKENS))


def test_a_piece_is_what_the_lanes_take() -> None:
    """The number stands twice, as lanes.py cannot be imported where numba is missing."""
    from encoders.lanes import WIDE

    assert compiled.PIECE == WIDE


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    """As torch does it, ties to even: layer norm with weight 0 writes its bias."""
    bias = torch.cat([torch.randn(10_000), torch.tensor([1.00390625, 1.01171875, -1.00390625, 1e-30, 3e38, 0.0])])
    bias = torch.cat([bias, torch.zeros(-len(bias) % compiled.PIECE)])
    x = torch.randn(1, len(bias)).to(torch.bfloat16)
    compiled.normalise(x, torch.zeros(len(bias)), bias, 1e-5)
    assert torch.equal(x[0], bias.to(torch.bfloat16))


@pytest.mark.parametrize(("width", "fits"), [(32, True), (16, True), (8, False), (40, False)])
def test_only_whole_pieces_fit(width: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sizes are torch's, and so is everything on another device, an old processor, or without numba."""
    assert compiled.fits(width, torch.device("cpu")) == fits
    assert not compiled.fits(width, torch.device("cuda"))
    with monkeypatch.context() as old:
        old.setattr(compiled, "fuses", lambda: False)
        assert not compiled.fits(width, torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not compiled.fits(width, torch.device("cpu"))


BEFORE_A_WALL = """
import ctypes, mmap, sys
import numpy as np, torch
from encoders import compiled

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)


def before_a_wall(rows, columns):
    size = 4 * rows * columns
    room = mmap.mmap(-1, -(-size // PAGE) * PAGE + PAGE)
    wall = ctypes.addressof(ctypes.c_char.from_buffer(room)) + len(room) - PAGE
    assert libc.mprotect(ctypes.c_void_p(wall), PAGE, 0) == 0
    return torch.frombuffer(room, dtype=torch.float32, count=rows * columns, offset=len(room) - PAGE - size).view(rows, columns)


for lengths in ([5], [16, 1], [33, 7]):
    rows = sum(lengths)
    qkv, out = before_a_wall(rows, 3 * 32), before_a_wall(rows, 32)
    qkv.normal_()
    compiled.attend(qkv, 2, np.cumsum([0, *lengths[:-1]]), np.array(lengths), out)
    compiled.normalise(out, torch.ones(32), torch.zeros(32), 1e-5)
    assert out.isfinite().all()
if sys.argv[1:] == ["touch"]:
    ctypes.string_at(out.data_ptr() + 4 * out.numel(), 1)
"""


@pytest.mark.parametrize("touch", [False, True])
def test_nothing_beyond_the_last_token_is_read_or_written(touch: bool) -> None:
    """A page that may not be touched lies behind the numbers; whoever touches it is killed."""
    ended = subprocess.run([sys.executable, "-c", BEFORE_A_WALL, *["touch"] * touch], cwd=ROOT, check=False)
    assert ended.returncode == (-signal.SIGSEGV if touch else 0)
