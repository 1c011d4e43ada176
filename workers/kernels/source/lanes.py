"""Comparing 64 bars at once: intrinsics that turn float64 comparisons into bit masks.

Plain loops would do the same, but LLVM does not recognise "pack 64 comparisons
into a word" in them. Spelt as vector IR it becomes what the machine has: with
AVX-512 eight comparisons an instruction, and one to fetch their bits.

Words are int64 (bit ``k`` belongs to bar ``start + k``), since NumPy's rules
turn mixed signed and unsigned arithmetic into floats.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from workers.kernels.blocks import WORD

_LANES = 8
"""Lanes in one vector operation: one AVX-512 register (a tenth faster than four lanes), two with
AVX2 (as fast as four), four with NEON."""

_DOUBLES = ir.VectorType(ir.DoubleType(), _LANES)
_I64, _I32 = ir.IntType(64), ir.IntType(32)
_I128 = ir.IntType(128)
_WORDS = ir.VectorType(_I64, _LANES)

_CACHE_LINE = 8  # elements: 64 bytes on every processor we know, or a multiple
_ADDRESS = ir.IntType(8).as_pointer()
_PREFETCH = ir.FunctionType(ir.VoidType(), (_ADDRESS, _I32, _I32, _I32))
_SOON_READ = _I32(0), _I32(3), _I32(1)  # for a read, into every level, as data


@intrinsic
def greater(typingctx: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """Word whose bit ``k`` is set where ``a[i + k] > b[j + k]``; NaN compares false.

    Parameters
    ----------
    typingctx : object
        Given by Numba.
    a, b : ndarray of float64, 1-d, contiguous
        At least 64 elements from `i` and `j` on.
    i, j : int
        Where the bars start in each.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a_at = _pointer(context, builder, signature.args[0], args[0], args[1])
        b_at = _pointer(context, builder, signature.args[2], args[2], args[3])

        def lanes(k: int) -> ir.Value:
            return builder.fcmp_ordered(">", _load(builder, a_at, k), _load(builder, b_at, k))

        return _word(builder, lanes)

    return types.int64(a, types.intp, b, types.intp), codegen


@intrinsic
def more(typingctx: Any, a: Any, i: Any, bound: Any) -> Any:
    """Word whose bit ``k`` is set where ``a[i + k] > bound``; NaN compares false."""
    return _against(">", a)


@intrinsic
def less(typingctx: Any, a: Any, i: Any, bound: Any) -> Any:
    """Word whose bit ``k`` is set where ``a[i + k] < bound``; NaN compares false."""
    return _against("<", a)


def _against(sign: str, a: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a_at = _pointer(context, builder, signature.args[0], args[0], args[1])
        bound = _splat(builder, args[2])

        def lanes(k: int) -> ir.Value:
            return builder.fcmp_ordered(sign, _load(builder, a_at, k), bound)

        return _word(builder, lanes)

    return types.int64(a, types.intp, types.float64), codegen


@intrinsic
def average_greater(typingctx: Any, sums: Any, i: Any, fast: Any, slow: Any) -> Any:
    """Word whose bit ``k`` is set where one trailing average exceeds another.

    Compares ``(sums[e] - sums[e - fast]) / fast > (sums[e] - sums[e - slow]) / slow``
    for ``e = i + k``, multiplied out. Where the running sums are exact
    integers, both sides are single roundings of exact products: equal
    averages compare equal, and no comparison is ever reversed.

    Parameters
    ----------
    typingctx : object
        Given by Numba.
    sums : ndarray of float64, 1-d, contiguous
        Running sums: ``sums[e]`` is the sum of everything before ``e``.
    i : int
        Where the bars end, one bar after the other.
    fast, slow : int
        Lengths of the two averages.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, i, fast, slow = args
        kind = signature.args[0]
        now = _pointer(context, builder, kind, sums, i)
        fast_ago = _pointer(context, builder, kind, sums, builder.sub(i, fast))
        slow_ago = _pointer(context, builder, kind, sums, builder.sub(i, slow))
        by_fast = _splat(builder, builder.sitofp(fast, ir.DoubleType()))
        by_slow = _splat(builder, builder.sitofp(slow, ir.DoubleType()))

        def lanes(k: int) -> ir.Value:
            end = _load(builder, now, k)
            left = builder.fmul(builder.fsub(end, _load(builder, fast_ago, k)), by_slow)
            right = builder.fmul(builder.fsub(end, _load(builder, slow_ago, k)), by_fast)
            return builder.fcmp_ordered(">", left, right)

        return _word(builder, lanes)

    return types.int64(sums, types.intp, types.intp, types.intp), codegen


@intrinsic
def extreme_sums(typingctx: Any, sums: Any, i: Any, window: Any) -> Any:
    """Lowest and highest ``sums[e] - sums[e - window]`` for ``e`` from ``i`` to ``i + 63``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, i, window = args
        now = _pointer(context, builder, signature.args[0], sums, i)
        ago = _pointer(context, builder, signature.args[0], sums, builder.sub(i, window))
        extremes = []
        for sign in "<>":
            best = None
            for k in range(0, WORD, _LANES):
                value = builder.fsub(_load(builder, now, k), _load(builder, ago, k))
                best = value if best is None else _pick(builder, sign, value, best)
            single = [builder.extract_element(best, _I32(k)) for k in range(_LANES)]
            extremes.append(functools.reduce(functools.partial(_pick, builder, sign), single))
        return context.make_tuple(builder, signature.return_type, extremes)

    return types.UniTuple(types.float64, 2)(sums, types.intp, types.intp), codegen


@intrinsic
def nonzero(typingctx: Any, words: Any, i: Any) -> Any:
    """Word whose bit ``k`` is set where ``words[i + k]`` is not 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _pointer(context, builder, signature.args[0], args[0], args[1])
        zeros = ir.Constant(_WORDS, [0] * _LANES)

        def lanes(k: int) -> ir.Value:
            return builder.icmp_signed("!=", _load(builder, at, k, _WORDS), zeros)

        return _word(builder, lanes)

    return types.int64(words, types.intp), codegen


@intrinsic
def add_product(typingctx: Any, high: Any, low: Any, a: Any, b: Any) -> Any:
    """Add ``a * b`` to a whole number of 128 bits, given and returned as its halves."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        high, low, a, b = args
        product = builder.mul(builder.sext(a, _I128), builder.sext(b, _I128))
        total = builder.add(_joined(builder, high, low, _I128), product)
        halves = builder.trunc(builder.lshr(total, _I128(64)), _I64), builder.trunc(total, _I64)
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(types.int64, 2)(*[types.int64] * 4), codegen


@intrinsic
def as_double(typingctx: Any, high: Any, low: Any) -> Any:
    """Round a whole number of 128 bits, which is not negative; three roundings at most."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        double = ir.DoubleType()
        upper = builder.fmul(builder.sitofp(args[0], double), ir.Constant(double, 2.0**64))
        return builder.fadd(upper, builder.uitofp(args[1], double))

    return types.float64(types.int64, types.int64), codegen


@intrinsic
def lies_beyond(
    typingctx: Any, distance: Any, high: Any, low: Any, numerator: Any, denominator: Any
) -> Any:
    """Whether ``(distance * denominator)² > numerator² * variance``, exactly: 1 or 0.

    Parameters
    ----------
    typingctx : object
        Given by Numba.
    distance : int
        Less than 2⁶² either way.
    high, low : int
        Halves of the variance, below 2¹²⁶.
    numerator, denominator : int
        At most 2⁶⁰.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        distance, high, low, numerator, denominator = args
        wide = ir.IntType(256)
        left = builder.mul(builder.sext(distance, wide), builder.sext(denominator, wide))
        left = builder.mul(left, left)
        by = builder.sext(numerator, wide)
        right = builder.mul(builder.mul(by, by), _joined(builder, high, low, wide))
        return builder.zext(builder.icmp_unsigned(">", left, right), _I64)

    return types.int64(*[types.int64] * 5), codegen


@intrinsic
def prefetch(typingctx: Any, a: Any, i: Any) -> Any:
    """Have ``a[i]`` to ``a[i + 63]``, of 8 bytes each, on their way to the cache; a hint only."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = _pointer(context, builder, signature.args[0], args[0], args[1])
        hint = builder.module.declare_intrinsic("llvm.prefetch", (_ADDRESS,), _PREFETCH)
        for k in range(0, WORD, _CACHE_LINE):
            at = builder.bitcast(cgutils.gep(builder, start, k), _ADDRESS)
            builder.call(hint, (at, *_SOON_READ))
        return context.get_dummy_value()

    return types.void(a, types.intp), codegen


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Index of the lowest set bit; undefined for 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def highest_bit(typingctx: Any, word: Any) -> Any:
    """Index of the highest set bit; undefined for 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))
        return builder.sub(ir.Constant(_I64, WORD - 1), zeros)

    return types.int64(types.int64), codegen


def _joined(builder: Any, high: ir.Value, low: ir.Value, kind: ir.Type) -> ir.Value:
    upper = builder.shl(builder.sext(high, kind), kind(64))
    return builder.or_(upper, builder.zext(low, kind))


def _word(builder: Any, lanes: Callable[[int], ir.Value]) -> ir.Value:
    """Pack the comparisons ``lanes(0)``, ``lanes(8)``, … into one word."""
    word = ir.Constant(_I64, 0)
    for k in range(0, WORD, _LANES):
        bits = builder.zext(builder.bitcast(lanes(k), ir.IntType(_LANES)), _I64)
        word = builder.or_(word, builder.shl(bits, ir.Constant(_I64, k)))
    return word


def _pick(builder: Any, sign: str, a: ir.Value, b: ir.Value) -> ir.Value:
    """The lower (``<``) or higher (``>``) of two; one instruction a vector."""
    return builder.select(builder.fcmp_ordered(sign, a, b), a, b)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> ir.Value:
    data = context.make_array(kind)(context, builder, array).data
    return cgutils.gep(builder, data, index)


def _load(builder: Any, pointer: ir.Value, k: int, kind: ir.Type = _DOUBLES) -> ir.Value:
    at = builder.bitcast(cgutils.gep(builder, pointer, k), kind.as_pointer())
    return builder.load(at, align=8)


def _splat(builder: Any, value: ir.Value) -> ir.Value:
    first = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES)
    return builder.shuffle_vector(first, first, zeros)
