// Whole numbers of 128 bits, and one comparison of 256: what a Bollinger band is decided by.
// See workers/indicators/exact.py for what fits.
#ifndef WIDE_CUH
#define WIDE_CUH
#include "layout.cuh"
#include "portable.cuh"

struct Wide {
  u64 high, low;
};

INLINE Wide product(u64 a, u64 b) {
  const Wide result = {MULTIPLY_HIGH(a, b), a * b};
  return result;
}

INLINE void add(Wide& sum, u64 high, u64 low) {
  sum.low += low;
  sum.high += high + (u64)(sum.low < low);
}

// Add a * b to a number in two's complement.
INLINE void add_product(Wide& sum, i64 a, i64 b) {
  Wide more = product((u64)a, (u64)b);
  if (a < 0) more.high -= (u64)b;
  if (b < 0) more.high -= (u64)a;
  add(sum, more.high, more.low);
}

// The number as a double, three roundings at most; it is not negative.
INLINE double as_double(Wide number) {
  return (double)number.high * 18446744073709551616.0 + (double)number.low;
}

// A product of two numbers of 128 bits: 256 bits, the lowest word first.
struct Widest {
  u64 words[4];
};

INLINE Widest product(Wide a, Wide b) {
  const Wide low = product(a.low, b.low), high = product(a.high, b.high);
  const Wide cross[2] = {product(a.high, b.low), product(a.low, b.high)};
  Widest result = {{low.low, low.high, high.low, high.high}};
  for (i32 i = 0; i < 2; ++i) {
    result.words[1] += cross[i].low;
    const u64 carry = result.words[1] < cross[i].low;
    const u64 more = cross[i].high + carry;  // at most 2^64 - 1: a high half is below that
    result.words[2] += more;
    result.words[3] += result.words[2] < more;
  }
  return result;
}

// Whether (distance * denominator)^2 > numerator^2 * variance, exactly.
INLINE bool lies_beyond(i64 distance, Wide variance, u64 numerator, u64 denominator) {
  const Wide side = product((u64)(distance < 0 ? -distance : distance), denominator);
  const Widest left = product(side, side);
  const Widest right = product(product(numerator, numerator), variance);
  for (i32 i = 3; i > 0; --i) {
    if (left.words[i] != right.words[i]) return left.words[i] > right.words[i];
  }
  return left.words[0] > right.words[0];
}

#endif
