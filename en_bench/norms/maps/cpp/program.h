// Whole normalisers: the passes with the tables between them.

#pragma once

#include <memory>

#include "elementwise.h"
#include "reductions.h"
#include "tables.h"

namespace {

template <class A>
struct Scratch {
  std::unique_ptr<A[]> memory;
  explicit Scratch(i64 n) : memory(new A[n]) {}  // not set to anything
  operator A*() const { return memory.get(); }
};

template <class T>
void moments_of_samples(const Arguments& a, i64 from, i64 to, int threads) {
  using A = Table<T>;
  const i64 C = a.C;
  A *mean = (A*)a.mean, *var = (A*)a.var;
  if (a.skip_samples) {
    for (i64 n = from; n < to; ++n) {
      std::memcpy(mean + n * C, a.batch_mean, C * sizeof(A));
      std::memcpy(var + n * C, a.batch_var, C * sizeof(A));
    }
    return;
  }
  moments<T>(a.columns, to - from, C, a.S, (const T*)a.x + from * C * a.S, mean + from * C, var + from * C, threads);
  if (a.correction != 1)
    for (i64 i = from * C; i < to * C; ++i) var[i] *= A(a.correction);
}

template <class T>
void forward_pooled(const Arguments& a) {
  using A = Table<T>;
  const i64 N = a.N, C = a.C, S = a.S, values = N * C;
  const int threads = threads_for(values * S, a.threads);
  const A* mean = (const A*)a.mean;
  moments_of_samples<T>(a, 0, N, threads);
  const Tables<A> tables(a);
  if (a.running_mean) {
    A *running_mean = (A*)a.running_mean, *running_var = (A*)a.running_var;
    const A rate = A(a.rate), unbias = A(a.unbias);
#pragma omp simd
    for (i64 c = 0; c < C; ++c) {
      running_mean[c] = (1 - rate) * running_mean[c] + rate * tables.batch_mean[c];
      running_var[c] = (1 - rate) * running_var[c] + rate * (unbias * tables.batch_var[c]);
    }
  }
  const Scratch<A> scale(values), shift(values);
#pragma omp parallel num_threads(threads_for(values * 8, threads))
  {
    const Scratch<A> memory(tables.work_size());
    auto work = tables.work(memory);
#pragma omp for schedule(static)
    for (i64 n = 0; n < N; ++n) tables.coefficients(n, scale + n * C, shift + n * C, work);
  }
  elementwise<T>(a.columns, N, C, S, (const T*)a.x, (const T*)a.x, (T*)a.y, Affine<T>{mean, scale, shift}, threads);
}

// Where no sample needs another, each is done at once, while the cache holds it.
template <class T>
void forward_alone(const Arguments& a) {
  using A = Table<T>;
  const i64 N = a.N, C = a.C, S = a.S;
  const Tables<A> tables(a);
#pragma omp parallel num_threads(threads_for(N * C * S, a.threads))
  {
    const Scratch<A> memory(tables.work_size()), scale(C), shift(C);
    auto work = tables.work(memory);
#pragma omp for schedule(static)
    for (i64 n = 0; n < N; ++n) {
      const T* x = (const T*)a.x + n * C * S;
      moments_of_samples<T>(a, n, n + 1, 1);
      tables.coefficients(n, scale, shift, work);
      elementwise<T>(a.columns, 1, C, S, x, x, (T*)a.y + n * C * S, Affine<T>{(const A*)a.mean + n * C, scale, shift},
                     1);
    }
  }
}

// From the derivatives by a sample's moments to the coefficients of x - mean and of 1 in dx.
template <class A>
inline void to_gradient(const Arguments& a, const A* scale, const A* sum_dy, A* d_mean, A* d_var) {
  const A to_var = A(2 * a.correction / a.S), to_mean = A(1) / a.S;
#pragma omp simd
  for (i64 c = 0; c < a.C; ++c) {
    d_mean[c] = (d_mean[c] - scale[c] * sum_dy[c]) * to_mean;  // the second term by the mean in scale * (x - mean)
    d_var[c] *= to_var;                                        // d var / d x = 2 (x - mean) / S
  }
}

template <class T>
void backward_pooled(const Arguments& a) {
  using A = Table<T>;
  const i64 N = a.N, C = a.C, S = a.S, values = N * C;
  const int threads = threads_for(values * S, a.threads);
  const A *mean = (const A*)a.mean, *batch_mean = (const A*)a.batch_mean;
  const Scratch<A> sum_dy(values), sum_dy_centred(values), scale(values), d_mean(values), d_var(values);
  sums<T>(a.columns, N, C, S, (const T*)a.dy, (const T*)a.x, mean, sum_dy, sum_dy_centred, threads);

  Arguments again = a;
  again.pooled = 0;  // the batch's moments are there
  const Tables<A> tables(again);
  const i64 chunks = least(N, kChunks);
  std::vector<A> parts(chunks * tables.sums_size());  // zeros
#pragma omp parallel num_threads(threads_for(values * 16, threads))
  {
    const Scratch<A> memory(tables.work_size()), shift(C);
    auto work = tables.work(memory);
#pragma omp for schedule(static)
    for (i64 chunk = 0; chunk < chunks; ++chunk) {
      const auto sums = tables.sums(parts.data() + chunk * tables.sums_size());
      for (i64 n = N * chunk / chunks; n < N * (chunk + 1) / chunks; ++n) {
        const i64 at = n * C;
        tables.coefficients(n, scale + at, shift, work);
        tables.differentiate(n, sum_dy + at, sum_dy_centred + at, d_mean + at, d_var + at, work, sums);
      }
    }
  }
  tables.write(parts.data(), chunks);
  if (!a.dx) return;
  const auto all = tables.sums(parts.data());
#pragma omp parallel for num_threads(threads_for(values * 8, threads)) schedule(static)
  for (i64 n = 0; n < N; ++n) {
    const i64 at = n * C;
    const A share = A(1) / N;
    if (a.pooled)
#pragma omp simd
      for (i64 c = 0; c < C; ++c) {
        d_mean[at + c] += share * (all.batch_mean[c] + 2 * all.batch_var[c] * (mean[at + c] - batch_mean[c]));
        d_var[at + c] += share * all.batch_var[c];
      }
    to_gradient<A>(a, scale + at, sum_dy + at, d_mean + at, d_var + at);
  }
  elementwise<T>(a.columns, N, C, S, (const T*)a.dy, (const T*)a.x, (T*)a.dx, Gradient<T>{mean, scale, d_var, d_mean},
                 threads);
}

template <class T>
void backward_alone(const Arguments& a) {
  using A = Table<T>;
  const i64 N = a.N, C = a.C, S = a.S;
  const Tables<A> tables(a);
  const i64 chunks = least(N, kChunks);
  std::vector<A> parts(chunks * tables.sums_size());  // zeros
#pragma omp parallel num_threads(threads_for(N * C * S, a.threads))
  {
    const Scratch<A> memory(tables.work_size()), sum_dy(C), sum_dy_centred(C), scale(C), shift(C), d_mean(C), d_var(C);
    auto work = tables.work(memory);
#pragma omp for schedule(static)
    for (i64 chunk = 0; chunk < chunks; ++chunk) {
      const auto all = tables.sums(parts.data() + chunk * tables.sums_size());
      for (i64 n = N * chunk / chunks; n < N * (chunk + 1) / chunks; ++n) {
        const T *dy = (const T*)a.dy + n * C * S, *x = (const T*)a.x + n * C * S;
        const A* mean = (const A*)a.mean + n * C;
        sums<T>(a.columns, 1, C, S, dy, x, mean, sum_dy, sum_dy_centred, 1);
        tables.coefficients(n, scale, shift, work);
        tables.differentiate(n, sum_dy, sum_dy_centred, d_mean, d_var, work, all);
        if (!a.dx) continue;
        to_gradient<A>(a, scale, sum_dy, d_mean, d_var);
        elementwise<T>(a.columns, 1, C, S, dy, x, (T*)a.dx + n * C * S, Gradient<T>{mean, scale, d_var, d_mean}, 1);
      }
    }
  }
  tables.write(parts.data(), chunks);
}

// Fewer than threads: a thread for each would leave some without work.
inline bool few_samples(const Arguments& a) { return least(a.N, kChunks) < a.threads; }

template <class T>
void forward(const Arguments& a) {
  a.pooled || few_samples(a) ? forward_pooled<T>(a) : forward_alone<T>(a);
}

template <class T>
void backward(const Arguments& a) {
  a.pooled || few_samples(a) ? backward_pooled<T>(a) : backward_alone<T>(a);
}

}  // namespace
