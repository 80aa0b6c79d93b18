// Values of a map as vectors of table values, and loops over threads.
//
// Vectors are the compiler's own (GCC and Clang), so one text serves every processor.

#pragma once

// Lanes of two vectors by their numbers, as integers of type Mask; GCC has the first form from version 12.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(Mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef SHUFFLE
#define SHUFFLE(Mask, a, b, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define MASKED_LOADS
#endif

namespace {

using i64 = std::int64_t;

constexpr int kBytes = 64;  // of a vector of table values
using f32x = float __attribute__((vector_size(kBytes)));
using f64x = double __attribute__((vector_size(kBytes)));
using u32x = std::uint32_t __attribute__((vector_size(kBytes)));
using i32x = std::int32_t __attribute__((vector_size(kBytes)));
using i64x = std::int64_t __attribute__((vector_size(kBytes)));
using u16x = std::uint16_t __attribute__((vector_size(kBytes / 2)));

struct bfloat16 {
  std::uint16_t bits;
};

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// ---- Lanes: how values of type T are read into, and written from, a vector of table values

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  using Table = float;
  using Vector = f32x;
  static constexpr int kWidth = 16;
  static Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  // The first n lanes; the others read as 0.
  static Vector load(const float* p, int n) {
#ifdef MASKED_LOADS
    return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    Vector v = {};
    std::memcpy(&v, p, n * sizeof *p);
    return v;
#endif
  }
  static void store(float* p, Vector v, int n) {
#ifdef MASKED_LOADS
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    std::memcpy(p, &v, n * sizeof *p);
#endif
  }
};

template <>
struct Lanes<double> {
  using Table = double;
  using Vector = f64x;
  static constexpr int kWidth = 8;
  static Vector load(const double* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(double* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  static Vector load(const double* p, int n) {
    Vector v = {};
    std::memcpy(&v, p, n * sizeof *p);
    return v;
  }
  static void store(double* p, Vector v, int n) { std::memcpy(p, &v, n * sizeof *p); }
};

// Both 16-bit types differ only in how 16 bits become a float and back.
template <class T, class Codec>
struct HalfLanes {
  using Table = float;
  using Vector = f32x;
  static constexpr int kWidth = 16;
  static Vector load(const T* p) {
    u16x h;
    std::memcpy(&h, p, sizeof h);
    return Codec::widen(h);
  }
  static void store(T* p, Vector v) {
    const u16x h = Codec::narrow(v);
    std::memcpy(p, &h, sizeof h);
  }
  static Vector load(const T* p, int n) {
#ifdef MASKED_LOADS
    return Codec::widen((u16x)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
#else
    u16x h = {};
    std::memcpy(&h, p, n * sizeof *p);
    return Codec::widen(h);
#endif
  }
  static void store(T* p, Vector v, int n) {
    const u16x h = Codec::narrow(v);
#ifdef MASKED_LOADS
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
    std::memcpy(p, &h, n * sizeof *p);
#endif
  }
};

struct BFloat16Codec {
  static f32x widen(u16x h) { return bits_as<f32x>(__builtin_convertvector(h, u32x) << 16); }
  static u16x narrow(f32x v) {  // to the nearest, ties to even; NaN stays NaN
    const u32x bits = bits_as<u32x>(v);
    const u32x rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const u32x is_nan = bits_as<u32x>(v != v);
    return __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), u16x);
  }
};
template <>
struct Lanes<bfloat16> : HalfLanes<bfloat16, BFloat16Codec> {};

#ifdef __FLT16_MAX__
using half = _Float16;
using f16x = half __attribute__((vector_size(kBytes / 2)));
struct HalfCodec {
  static f32x widen(u16x h) { return __builtin_convertvector(bits_as<f16x>(h), f32x); }
  static u16x narrow(f32x v) { return bits_as<u16x>(__builtin_convertvector(v, f16x)); }
};
template <>
struct Lanes<half> : HalfLanes<half, HalfCodec> {};
#endif

template <class T>
using Table = typename Lanes<T>::Table;
template <class T>
using Vector = typename Lanes<T>::Vector;

inline float total(f32x v) {
  v += SHUFFLE(i32x, v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += SHUFFLE(i32x, v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += SHUFFLE(i32x, v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return v[0] + v[1];
}
inline double total(f64x v) {
  v += SHUFFLE(i64x, v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += SHUFFLE(i64x, v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v[0] + v[1];
}

// The totals of as many vectors as a vector has lanes: by pairs, with a fraction of the shuffles of one by one.
inline f32x totals(const f32x (&rows)[16]) {
  f32x t[16];
  for (int i = 0; i < 8; ++i) {
    const f32x a = rows[2 * i], b = rows[2 * i + 1];
    t[i] = SHUFFLE(i32x, a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
           SHUFFLE(i32x, a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
  for (int i = 0; i < 4; ++i) {
    const f32x a = t[2 * i], b = t[2 * i + 1];
    t[i] = SHUFFLE(i32x, a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           SHUFFLE(i32x, a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  for (int i = 0; i < 2; ++i) {
    const f32x a = t[2 * i], b = t[2 * i + 1];
    t[i] = SHUFFLE(i32x, a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           SHUFFLE(i32x, a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  return SHUFFLE(i32x, t[0], t[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         SHUFFLE(i32x, t[0], t[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
inline f64x totals(const f64x (&rows)[8]) {
  f64x t;
  for (int i = 0; i < 8; ++i) t[i] = total(rows[i]);
  return t;
}

// v with the lanes from n on set to 0
inline f32x first(f32x v, int n) {
  const i32x lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < n ? v : f32x{};
}
inline f64x first(f64x v, int n) {
  const i64x lane = {0, 1, 2, 3, 4, 5, 6, 7};
  return lane < i64(n) ? v : f64x{};
}

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

// work(i) for 0 <= i < n, each thread a run of neighbours. One thread alone starts no region: it may be inside one.
template <class Work>
inline void for_each(i64 n, int threads, Work work) {
  if (threads == 1 || n < 2) {
    for (i64 i = 0; i < n; ++i) work(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 i = 0; i < n; ++i) work(i);
}

// Starting threads costs some microseconds: small maps are done sooner by one.
inline int threads_for(i64 values, int threads) { return values < 16384 ? 1 : threads; }

}  // namespace
