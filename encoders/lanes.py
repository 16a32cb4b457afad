"""Sixteen numbers of float32 as one value in numba's functions: one register of AVX-512, two of AVX2, four of NEON.

numba leaves it to LLVM to find loops that can be done in lanes, and LLVM doesn't find those of attention. A value of the type `LANES`
is LLVM's `<16 x float>`, and the functions here are LLVM's operations on it. Arrays are flat; one of uint16 holds the upper halves of
float32, which is bfloat16. Imported through encoders/attention.py alone, as numba may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

WIDE = 16
"""Lanes of a value."""
LEAST = -3.4028234663852886e38
"""What a masked lane holds: the least of all finite numbers of float32."""
_FLOAT, _WORD = ir.FloatType(), ir.IntType(32)
_FLOATS, _WORDS, _HALVES = (ir.VectorType(one, WIDE) for one in (_FLOAT, _WORD, ir.IntType(16)))
_ROUND = 1.5 * 2.0**23
"""What is added to it is rounded to a whole number, which its lowest bits hold."""
_EXP2 = (
    1.0,
    0.6931471805599453,
    0.2402265069591007,
    0.05550410866482158,
    0.009618129107628477,
    1.3333558146428443e-3,
    1.540353039338161e-4,
)
"""Taylor's coefficients of 2^x, log(2)^n / n!: within 2e-7 for |x| <= 1/2, the rounding of float32 included."""


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="lanes")


LANES = _Lanes()


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend: Any) -> None:
        super().__init__(manager, frontend, _FLOATS)  # type: ignore[no-untyped-call]


def _operation(define: Callable[..., Any]) -> Any:
    return intrinsic(define)


def _all(value: float, kind: Any = _FLOATS) -> Any:
    return ir.Constant(kind, [value] * WIDE)


def _spread(builder: Any, one: Any, kind: Any) -> Any:
    """A scalar in every lane."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, one, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, nothing, _all(0, _WORDS))


def _call(builder: Any, name: str, result: Any, arguments: Sequence[Any], **flags: Any) -> Any:
    kind = ir.FunctionType(result, [one.type for one in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments, **flags)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, f"llvm.fma.v{WIDE}f32", _FLOATS, [a, b, c])


def _pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any, to: Any) -> Any:
    data = builder.gep(context.make_array(kind)(context, builder, array).data, [place])
    return builder.bitcast(data, to.as_pointer())


def _read(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    half = kind.dtype == types.uint16
    data = _pointer(context, builder, kind, array, place, _HALVES if half else _FLOATS)
    found = builder.load(data, align=2 if half else 4)
    return builder.bitcast(builder.shl(builder.zext(found, _WORDS), _all(16, _WORDS)), _FLOATS) if half else found


def _write(context: Any, builder: Any, kind: Any, array: Any, place: Any, value: Any) -> None:
    half = kind.dtype == types.uint16
    if half:
        bits = builder.bitcast(value, _WORDS)
        odd = builder.and_(builder.lshr(bits, _all(16, _WORDS)), _all(1, _WORDS))
        rounded = builder.add(bits, builder.add(odd, _all(0x7FFF, _WORDS)))  # to the nearest, ties to even
        value = builder.trunc(builder.lshr(rounded, _all(16, _WORDS)), _HALVES)
    builder.store(value, _pointer(context, builder, kind, array, place, value.type), align=2 if half else 4)


@_operation
def load(_: Any, array: Any, place: Any) -> Any:
    """The numbers of an array from a place on."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return _read(context, builder, signature.args[0], *given)

    return LANES(array, types.intp), make


@_operation
def store(_: Any, array: Any, place: Any, value: Any) -> Any:
    """Write the numbers to an array from a place on."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        _write(context, builder, signature.args[0], *given)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), make


@_operation
def splat(_: Any, one: Any) -> Any:
    """A number in every lane."""

    def make(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return _spread(builder, given[0], _FLOATS)

    return LANES(types.float32), make


@_operation
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Product of two plus the third, rounded once."""

    def make(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return _fma(builder, *given)

    return LANES(LANES, LANES, LANES), make


def _of_two(make: Callable[[Any, Any, Any], Any]) -> Any:
    def define(_: Any, a: Any, b: Any) -> Any:
        return LANES(LANES, LANES), lambda _context, builder, _signature, given: make(builder, *given)

    return _operation(define)


add = _of_two(lambda builder, a, b: builder.fadd(a, b))
sub = _of_two(lambda builder, a, b: builder.fsub(a, b))
mul = _of_two(lambda builder, a, b: builder.fmul(a, b))
larger = _of_two(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
"""The larger of two; `a` where `b` is no number."""


@_operation
def head(_: Any, value: Any, count: Any) -> Any:
    """The first `count` lanes as they are, the others `LEAST`."""

    def make(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        count = _spread(builder, builder.trunc(given[1], _WORD), _WORDS)
        inside = builder.icmp_signed("<", ir.Constant(_WORDS, list(range(WIDE))), count)
        return builder.select(inside, given[0], _all(LEAST))

    return LANES(LANES, types.intp), make


@_operation
def exp2(_: Any, value: Any) -> Any:
    """2 to the power of numbers that are 0 or less; at least 2^-126. What is no number stays so."""

    def make(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        low = _all(-126.0)
        x = builder.select(builder.fcmp_ordered("<", given[0], low), low, given[0])
        rounded = builder.fadd(x, _all(_ROUND))
        rest = builder.fsub(x, builder.fsub(rounded, _all(_ROUND)))
        power = _all(_EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            power = _fma(builder, power, rest, _all(coefficient))
        exponent = builder.add(builder.bitcast(rounded, _WORDS), _all(127, _WORDS))
        return builder.fmul(power, builder.bitcast(builder.shl(exponent, _all(23, _WORDS)), _FLOATS))

    return LANES(LANES), make


@_operation
def total(_: Any, value: Any) -> Any:
    """The sum of the lanes."""

    def make(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        zero = ir.Constant(_FLOAT, -0.0)
        return _call(builder, f"llvm.vector.reduce.fadd.v{WIDE}f32", _FLOAT, [zero, given[0]], fastmath=("reassoc",))

    return types.float32(LANES), make


@_operation
def largest(_: Any, value: Any) -> Any:
    """The largest of the lanes, all of which are numbers."""

    def make(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return _call(builder, f"llvm.vector.reduce.fmax.v{WIDE}f32", _FLOAT, [given[0]], fastmath=("nnan",))

    return types.float32(LANES), make


@_operation
def turn(_: Any, array: Any, place: Any, step: Any, rows: Any, to: Any, at: Any, to_step: Any) -> Any:
    """Transpose 16 rows of 16 numbers from one array into another.

    `step` is the distance of rows in `array`; beyond the first `rows` of them the last one is taken again. `to_step` is that in `to`.
    """

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array, place, step, rows, to, at, to_step = given
        last = builder.sub(rows, ir.Constant(rows.type, 1))
        lines = []
        for row in range(WIDE):
            number = ir.Constant(rows.type, row)
            number = builder.select(builder.icmp_signed("<", number, last), number, last)
            lines.append(
                _read(context, builder, signature.args[0], array, builder.add(place, builder.mul(number, step)))
            )
        half = WIDE // 2
        while half:  # change the quarters beside the diagonal, then those of each quarter
            lines = [_exchanged(builder, lines, row, half) for row in range(WIDE)]
            half //= 2
        for row, line in enumerate(lines):
            shift = builder.mul(ir.Constant(rows.type, row), to_step)
            _write(context, builder, signature.args[4], to, builder.add(at, shift), line)
        return context.get_dummy_value()

    whole = types.intp
    return types.void(array, whole, whole, whole, to, whole, whole), make


def _exchanged(builder: Any, lines: Sequence[Any], row: int, half: int) -> Any:
    """A line that keeps the blocks of `half` lanes on its side of the diagonal, and takes the others of its partner."""
    upper, lower = lines[row & ~half], lines[row | half]
    side = row & half
    lanes = [(lane & ~half | side) + (WIDE if lane & half else 0) for lane in range(WIDE)]
    return builder.shuffle_vector(upper, lower, ir.Constant(_WORDS, lanes))


@_operation
def prefetch(_: Any, array: Any, place: Any) -> Any:
    """Have the processor read the line of memory with a place of an array, or beyond it, ahead of time."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array, place = given
        byte = _pointer(context, builder, signature.args[0], array, place, ir.IntType(8))
        flags = [ir.Constant(_WORD, flag) for flag in (0, 3, 1)]  # to read, to keep, data
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, *flags])
        return context.get_dummy_value()

    return types.void(array, types.intp), make
