// The passes that sum over positions: moments and sums.

#pragma once

#include "lanes.h"

namespace {

// ---- Moments
//
// Mean and sum of squared deviations, merged over chunks (Chan, Golub & LeVeque, 1979), one read of memory. A chunk is
// summed around the mean of those before it, the first around its own mean: what that cancels is part of the total, so
// no digit is lost. mean + rest is the mean to twice the precision of a table. V is a scalar or a vector of columns.

template <class V, class Scalar>
struct Merged {
  V mean{}, rest{}, squares{};
  i64 seen = 0;

  // A chunk of n values, with the sums of x - mean and of its square.
  void add(V sum, V sum_squares, i64 n) {
    const Scalar all = Scalar(seen + n), before = Scalar(seen);
    const V chunk = sum * (1 / Scalar(n)), inside = sum_squares - sum * chunk, apart = chunk - rest;
    squares += (inside < 0 ? V{} : inside) + apart * apart * (before * n / all);
    rest += apart * (n / all);
    const V next = mean + rest;
    rest -= next - mean;
    mean = next;
    seen += n;
  }
};

constexpr i64 kRowChunk = 4096;   // values; stays in the first cache
constexpr i64 kColumnChunk = 64;  // positions

constexpr i64 kShortRow = 512;  // values; below it as many rows as a vector has lanes are summed together

// As moments_of_rows, for W rows of one chunk each.
template <class T>
void moments_of_short_rows(i64 S, const T* x, Table<T>* mean, Table<T>* var) {
  using L = Lanes<T>;
  using LT = Lanes<Table<T>>;
  constexpr int W = L::kWidth;
  const int tail = S % W;
  const i64 whole = S - tail;
  Vector<T> s[W], q[W];
  for (int r = 0; r < W; ++r) {
    const T* p = x + r * S;
    s[r] = tail ? L::load(p + whole, tail) : Vector<T>{};
    for (i64 i = 0; i < whole; i += W) s[r] += L::load(p + i);
  }
  Merged<Vector<T>, Table<T>> merged;
  merged.mean = totals(s) / Table<T>(S);
  for (int r = 0; r < W; ++r) {
    const T* p = x + r * S;
    const Vector<T> mu = Vector<T>{} + merged.mean[r],
                    d = tail ? first(L::load(p + whole, tail) - mu, tail) : Vector<T>{};
    s[r] = d;
    q[r] = d * d;
    for (i64 i = 0; i < whole; i += W) {
      const Vector<T> d = L::load(p + i) - mu;
      s[r] += d;
      q[r] += d * d;
    }
  }
  merged.add(totals(s), totals(q), S);
  LT::store(mean, merged.mean);
  LT::store(var, merged.squares / Table<T>(S));
}

template <class T>
void moments_of_rows(i64 rows, i64 S, const T* x, Table<T>* mean, Table<T>* var, int threads) {
  using L = Lanes<T>;
  constexpr int W = L::kWidth;
  const i64 together = S < kShortRow ? rows - rows % W : 0;
  for_each(together / W, threads, [=](i64 i) { moments_of_short_rows(S, x + i * W * S, mean + i * W, var + i * W); });
  for_each(rows - together, threads, [=](i64 i) {
    const i64 r = together + i;
    Merged<Table<T>, Table<T>> merged;
    for (i64 start = 0; start < S; start += kRowChunk) {
      const T* p = x + r * S + start;
      const i64 n = least(S - start, kRowChunk), whole = n - n % W;
      const int tail = n % W;
      if (start == 0) {
        Vector<T> s0 = {}, s1 = {}, s2 = {}, s3 = {};
        i64 i = 0;
        for (; i + 4 * W <= whole; i += 4 * W) {
          s0 += L::load(p + i);
          s1 += L::load(p + i + W);
          s2 += L::load(p + i + 2 * W);
          s3 += L::load(p + i + 3 * W);
        }
        for (; i < whole; i += W) s0 += L::load(p + i);
        if (tail) s1 += L::load(p + whole, tail);
        merged.mean = total((s0 + s1) + (s2 + s3)) / n;
      }
      const Vector<T> mu = Vector<T>{} + merged.mean;
      Vector<T> s0 = {}, s1 = {}, q0 = {}, q1 = {};
      i64 i = 0;
      for (; i + 2 * W <= whole; i += 2 * W) {
        const Vector<T> d0 = L::load(p + i) - mu, d1 = L::load(p + i + W) - mu;
        s0 += d0;
        q0 += d0 * d0;
        s1 += d1;
        q1 += d1 * d1;
      }
      for (; i < whole; i += W) {
        const Vector<T> d = L::load(p + i) - mu;
        s0 += d;
        q0 += d * d;
      }
      if (tail) {
        const Vector<T> d = first(L::load(p + whole, tail) - mu, tail);
        s1 += d;
        q1 += d * d;
      }
      merged.add(total(s0 + s1), total(q0 + q1), n);
    }
    mean[r] = merged.mean;
    var[r] = merged.squares / S;
  });
}

// K vectors of neighbouring channels, of which the last has `last` channels.
template <class T, int K>
struct ColumnBlock {
  i64 S, C;
  int last;

  static constexpr int kWidth = Lanes<T>::kWidth;
  template <class U>
  auto load(const U* p, int k) const {
    using L = Lanes<U>;
    return k == K - 1 && last < kWidth ? L::load(p + k * kWidth, last) : L::load(p + k * kWidth);
  }
  void store(Table<T>* p, int k, Vector<T> v) const {
    Lanes<Table<T>>::store(p + k * kWidth, v, k == K - 1 ? last : kWidth);
  }

  void moments(const T* x, Table<T>* mean, Table<T>* var) const {
    Merged<Vector<T>, Table<T>> merged[K];
    for (i64 start = 0; start < S; start += kColumnChunk) {
      const T* p = x + start * C;
      const i64 n = least(S - start, kColumnChunk);
      if (start == 0) {
        Vector<T> s[K] = {};
        for (i64 i = 0; i < n; ++i)
          for (int k = 0; k < K; ++k) s[k] += load(p + i * C, k);
        for (int k = 0; k < K; ++k) merged[k].mean = s[k] / Table<T>(n);
      }
      Vector<T> mu[K], s[K] = {}, q[K] = {};
      for (int k = 0; k < K; ++k) mu[k] = merged[k].mean;
      for (i64 i = 0; i < n; ++i)
        for (int k = 0; k < K; ++k) {
          const Vector<T> d = load(p + i * C, k) - mu[k];
          s[k] += d;
          q[k] += d * d;
        }
      for (int k = 0; k < K; ++k) merged[k].add(s[k], q[k], n);
    }
    for (int k = 0; k < K; ++k) {
      store(mean, k, merged[k].mean);
      store(var, k, merged[k].squares / Table<T>(S));
    }
  }

  void sums(const T* dy, const T* x, const Table<T>* mean, Table<T>* sum_dy, Table<T>* sum_dy_centred) const {
    Vector<T> mu[K], g_all[K] = {}, h_all[K] = {};
    for (int k = 0; k < K; ++k) mu[k] = load(mean, k);
    for (i64 start = 0; start < S; start += kColumnChunk) {
      const T *p = x + start * C, *d = dy + start * C;
      const i64 n = least(S - start, kColumnChunk);
      Vector<T> g[K] = {}, h[K] = {};
      for (i64 i = 0; i < n; ++i)
        for (int k = 0; k < K; ++k) {
          const Vector<T> v = load(d + i * C, k);
          g[k] += v;
          h[k] += v * (load(p + i * C, k) - mu[k]);
        }
      for (int k = 0; k < K; ++k) {
        g_all[k] += g[k];
        h_all[k] += h[k];
      }
    }
    for (int k = 0; k < K; ++k) {
      store(sum_dy, k, g_all[k]);
      store(sum_dy_centred, k, h_all[k]);
    }
  }
};

// Calls work(block, n, c) for every sample and every block of up to four vectors of channels.
template <class T, class Work>
void for_each_column_block(i64 N, i64 C, i64 S, int threads, Work work) {
  constexpr int W = Lanes<T>::kWidth, kMost = 4 * W;
  const i64 blocks = (C + kMost - 1) / kMost;
  for_each(N * blocks, threads, [=](i64 i) {
    const i64 n = i / blocks, c = i % blocks * kMost;
    const int channels = least(C - c, kMost), vectors = (channels + W - 1) / W, last = channels - (vectors - 1) * W;
    switch (vectors) {
      case 1:
        work(ColumnBlock<T, 1>{S, C, last}, n, c);
        break;
      case 2:
        work(ColumnBlock<T, 2>{S, C, last}, n, c);
        break;
      case 3:
        work(ColumnBlock<T, 3>{S, C, last}, n, c);
        break;
      default:
        work(ColumnBlock<T, 4>{S, C, last}, n, c);
    }
  });
}

// ---- Sums

template <class T>
void sums_of_short_rows(i64 S, const T* dy, const T* x, const Table<T>* mean, Table<T>* sum_dy,
                        Table<T>* sum_dy_centred) {
  using L = Lanes<T>;
  using LT = Lanes<Table<T>>;
  constexpr int W = L::kWidth;
  const int tail = S % W;
  const i64 whole = S - tail;
  Vector<T> g[W], h[W];
  for (int r = 0; r < W; ++r) {
    const T *d = dy + r * S, *p = x + r * S;
    const Vector<T> mu = Vector<T>{} + mean[r];
    g[r] = tail ? L::load(d + whole, tail) : Vector<T>{};
    h[r] = tail ? g[r] * (L::load(p + whole, tail) - mu) : Vector<T>{};
    for (i64 i = 0; i < whole; i += W) {
      const Vector<T> v = L::load(d + i);
      g[r] += v;
      h[r] += v * (L::load(p + i) - mu);
    }
  }
  LT::store(sum_dy, totals(g));
  LT::store(sum_dy_centred, totals(h));
}

template <class T>
void sums_of_rows(i64 rows, i64 S, const T* dy, const T* x, const Table<T>* mean, Table<T>* sum_dy,
                  Table<T>* sum_dy_centred, int threads) {
  using L = Lanes<T>;
  constexpr int W = L::kWidth;
  const i64 together = S < kShortRow ? rows - rows % W : 0;
  for_each(together / W, threads, [=](i64 i) {
    const i64 r = i * W;
    sums_of_short_rows(S, dy + r * S, x + r * S, mean + r, sum_dy + r, sum_dy_centred + r);
  });
  for_each(rows - together, threads, [=](i64 i) {
    const i64 r = together + i;
    const Vector<T> mu = Vector<T>{} + mean[r];
    Table<T> g_all = 0, h_all = 0;
    for (i64 start = 0; start < S; start += kRowChunk) {
      const T *p = x + r * S + start, *d = dy + r * S + start;
      const i64 n = least(S - start, kRowChunk), whole = n - n % W;
      const int tail = n % W;
      Vector<T> g0 = {}, g1 = {}, h0 = {}, h1 = {};
      i64 i = 0;
      for (; i + 2 * W <= whole; i += 2 * W) {
        const Vector<T> v0 = L::load(d + i), v1 = L::load(d + i + W);
        g0 += v0;
        g1 += v1;
        h0 += v0 * (L::load(p + i) - mu);
        h1 += v1 * (L::load(p + i + W) - mu);
      }
      for (; i < whole; i += W) {
        const Vector<T> v = L::load(d + i);
        g0 += v;
        h0 += v * (L::load(p + i) - mu);
      }
      if (tail) {  // the lanes beyond are 0 in dy
        const Vector<T> v = L::load(d + whole, tail);
        g1 += v;
        h1 += v * (L::load(p + whole, tail) - mu);
      }
      g_all += total(g0 + g1);
      h_all += total(h0 + h1);
    }
    sum_dy[r] = g_all;
    sum_dy_centred[r] = h_all;
  });
}

template <class T>
void moments(int columns, i64 N, i64 C, i64 S, const T* x, Table<T>* mean, Table<T>* var, int threads) {
  if (columns)
    for_each_column_block<T>(N, C, S, threads, [=](auto block, i64 n, i64 c) {
      block.moments(x + n * S * C + c, mean + n * C + c, var + n * C + c);
    });
  else
    moments_of_rows<T>(N * C, S, x, mean, var, threads);
}

template <class T>
void sums(int columns, i64 N, i64 C, i64 S, const T* dy, const T* x, const Table<T>* mean, Table<T>* sum_dy,
          Table<T>* sum_dy_centred, int threads) {
  if (columns)
    for_each_column_block<T>(N, C, S, threads, [=](auto block, i64 n, i64 c) {
      const i64 at = n * S * C + c, table = n * C + c;
      block.sums(dy + at, x + at, mean + table, sum_dy + table, sum_dy_centred + table);
    });
  else
    sums_of_rows<T>(N * C, S, dy, x, mean, sum_dy, sum_dy_centred, threads);
}

}  // namespace
