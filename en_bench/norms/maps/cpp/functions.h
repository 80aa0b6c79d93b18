// Functions of scalars and vectors that tables need.

#pragma once

#include "lanes.h"

namespace {

template <class A, class Term>
inline A sum_over(i64 n, Term term) {
  A total = 0;
#pragma omp simd reduction(+ : total)
  for (i64 i = 0; i < n; ++i) total += term(i);
  return total;
}

inline float inverse_root(float v) { return 1 / __builtin_sqrtf(v); }
inline double inverse_root(double v) { return 1 / __builtin_sqrt(v); }

// e^y for 0 <= y < 88; polynomial of Cephes' expf.
inline f32x exp_of(f32x y) {
  const i32x n = __builtin_convertvector(y * 1.44269504f + 0.5f, i32x);
  const f32x whole = __builtin_convertvector(n, f32x), r = y - whole * 0.693359375f + whole * 2.12194440e-4f;
  f32x p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1) * bits_as<f32x>((n + 127) << 23);
}

// Rational and polynomial ranges of Cephes' tanhf.
inline f32x tanh_of(f32x x) {
  const f32x size = x < 0 ? -x : x, bounded = size < 9.1f ? size : f32x{} + 9.1f, square = x * x;
  const f32x far = 1 - 2 / (exp_of(2 * bounded) + 1);
  f32x p = square * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  return size > 0.625f ? (x < 0 ? -far : far) : p * square * x + x;
}

inline void tanh_all(float* h, i64 n) {  // room for whole vectors
  for (i64 i = 0; i < n; i += 16) Lanes<float>::store(h + i, tanh_of(Lanes<float>::load(h + i)));
}
inline void tanh_all(double* h, i64 n) {
  for (i64 i = 0; i < n; ++i) h[i] = __builtin_tanh(h[i]);
}

inline i64 whole_vectors(i64 n) { return (n + 15) / 16 * 16; }

// Memory that is handed out in pieces.
template <class A>
struct Pieces {
  A* next;
  A* take(i64 n) {
    A* piece = next;
    next += whole_vectors(n);
    return piece;
  }
};

}  // namespace
