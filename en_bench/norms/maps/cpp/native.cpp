// The four passes over a feature map, for CPUs: moments, affine, sums, gradient (maps/__init__.py says what they are),
// and whole normalisers made of them (programs.py).
//
// A map (N, C, S), S positions, lies in memory either as rows (contiguous: N*C rows of S values) or as columns
// (channels_last: N slabs of S x C values). Maps are float, double, bfloat16 or half; tables (N, C) and all arithmetic
// are float, double for double. Results do not depend on the number of threads.

#ifdef _OPENMP
#include <omp.h>
#endif

#include "elementwise.h"
#include "program.h"
#include "reductions.h"

#define EXPORT(NAME, T)                                                                                          \
  extern "C" void moments_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* x, Table<T>* mean,      \
                                 Table<T>* var) {                                                                \
    moments<T>(columns, N, C, S, x, mean, var, threads_for(N * C * S, threads));                                 \
  }                                                                                                              \
  extern "C" void affine_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* x, const Table<T>* mean, \
                                const Table<T>* scale, const Table<T>* shift, T* y) {                            \
    elementwise<T>(columns, N, C, S, x, x, y, Affine<T>{mean, scale, shift}, threads_for(N * C * S, threads));   \
  }                                                                                                              \
  extern "C" void sums_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* dy, const T* x,            \
                              const Table<T>* mean, Table<T>* sum_dy, Table<T>* sum_dy_centred) {                \
    sums<T>(columns, N, C, S, dy, x, mean, sum_dy, sum_dy_centred, threads_for(N * C * S, threads));             \
  }                                                                                                              \
  extern "C" void gradient_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* dy, const T* x,        \
                                  const Table<T>* mean, const Table<T>* a, const Table<T>* b, const Table<T>* c, \
                                  T* dx) {                                                                       \
    elementwise<T>(columns, N, C, S, dy, x, dx, Gradient<T>{mean, a, b, c}, threads_for(N * C * S, threads));    \
  }                                                                                                              \
  extern "C" void forward_##NAME(const Arguments* a) { forward<T>(*a); }                                         \
  extern "C" void backward_##NAME(const Arguments* a) { backward<T>(*a); }

EXPORT(float32, float)
EXPORT(float64, double)
EXPORT(bfloat16, bfloat16)
#ifdef __FLT16_MAX__
EXPORT(float16, half)
#endif

// Sets how many threads the parallel regions that the calling thread starts have; returns how many it was.
extern "C" int set_threads(int threads) {
#ifdef _OPENMP
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  return before;
#else
  return threads;
#endif
}
