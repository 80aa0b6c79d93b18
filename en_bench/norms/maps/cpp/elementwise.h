// The passes that write a map: affine and gradient, elementwise with coefficients per (n, c).

#pragma once

#include "lanes.h"

namespace {

template <class T>
struct Affine {
  const Table<T>*mean, *scale, *shift;
  struct At {
    Vector<T> mean, scale, shift;
    Vector<T> operator()(Vector<T>, Vector<T> x) const { return (x - mean) * scale + shift; }
  };
  template <class Get>
  At at(Get get) const {
    return {get(mean), get(scale), get(shift)};
  }
};

template <class T>
struct Gradient {
  const Table<T>*mean, *a, *b, *c;
  struct At {
    Vector<T> mean, a, b, c;
    Vector<T> operator()(Vector<T> dy, Vector<T> x) const { return dy * a + ((x - mean) * b + c); }
  };
  template <class Get>
  At at(Get get) const {
    return {get(mean), get(a), get(b), get(c)};
  }
};

template <class T, class Op>
void elementwise_rows(i64 rows, i64 S, const T* dy, const T* x, T* out, Op op, int threads) {
  using L = Lanes<T>;
  constexpr int W = L::kWidth;
  for_each(rows, threads, [=](i64 r) {
    const T *d = dy + r * S, *p = x + r * S;
    T* o = out + r * S;
    const auto f = op.at([r](const Table<T>* table) { return Vector<T>{} + table[r]; });
    const int tail = S % W;
    const i64 whole = S - tail;
    for (i64 i = 0; i < whole; i += W) L::store(o + i, f(L::load(d + i), L::load(p + i)));
    if (tail) L::store(o + whole, f(L::load(d + whole, tail), L::load(p + whole, tail)), tail);
  });
}

template <class T, class Op>
void elementwise_columns(i64 N, i64 C, i64 S, const T* dy, const T* x, T* out, Op op, int threads) {
  using L = Lanes<T>;
  using LT = Lanes<Table<T>>;
  constexpr int W = L::kWidth;
  constexpr i64 kStrip = 8;  // positions that share one read of the coefficients
  const i64 strips = (S + kStrip - 1) / kStrip;
  for_each(N * strips, threads, [=](i64 task) {
    const i64 n = task / strips, strip = task % strips;
    const i64 positions = least(S - strip * kStrip, kStrip), offset = (n * S + strip * kStrip) * C;
    const T *d = dy + offset, *p = x + offset;
    T* o = out + offset;
    i64 c = 0;
    for (; c + W <= C; c += W) {
      const auto f = op.at([=](const Table<T>* table) { return LT::load(table + n * C + c); });
      for (i64 i = c; i < c + positions * C; i += C) L::store(o + i, f(L::load(d + i), L::load(p + i)));
    }
    if (const int tail = C - c) {
      const auto f = op.at([=](const Table<T>* table) { return LT::load(table + n * C + c, tail); });
      for (i64 i = c; i < c + positions * C; i += C)
        L::store(o + i, f(L::load(d + i, tail), L::load(p + i, tail)), tail);
    }
  });
}

template <class T, class Op>
void elementwise(int columns, i64 N, i64 C, i64 S, const T* dy, const T* x, T* out, Op op, int threads) {
  if (columns)
    elementwise_columns<T>(N, C, S, dy, x, out, op, threads);
  else
    elementwise_rows<T>(N * C, S, dy, x, out, op, threads);
}

}  // namespace
