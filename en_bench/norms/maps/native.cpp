// The four passes over a feature map, for CPUs: moments, affine, sums, gradient (see maps/__init__.py for their meaning).
//
// A map (N, C, S), S positions, lies in memory either as rows (contiguous: N*C rows of S values) or as columns
// (channels_last: N slabs of S x C values). Maps are float, double, bfloat16 or half; tables (N, C) and all arithmetic
// are float, double for double. Vectors are the compiler's own (GCC and Clang), so one text serves every processor.
//
// The result does not depend on the number of threads: each thread reduces whole rows or columns of its own.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
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
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return v[0] + v[1];
}
inline double total(f64x v) {
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v[0] + v[1];
}

// The totals of as many vectors as a vector has lanes: by pairs, with a fraction of the shuffles of one by one.
inline f32x totals(const f32x (&rows)[16]) {
  f32x t[16];
  for (int i = 0; i < 8; ++i) {
    const f32x a = rows[2 * i], b = rows[2 * i + 1];
    t[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
           __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
  for (int i = 0; i < 4; ++i) {
    const f32x a = t[2 * i], b = t[2 * i + 1];
    t[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  for (int i = 0; i < 2; ++i) {
    const f32x a = t[2 * i], b = t[2 * i + 1];
    t[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  return __builtin_shufflevector(t[0], t[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         __builtin_shufflevector(t[0], t[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
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

// Starting threads costs some microseconds: small maps are done sooner by one.
inline int threads_for(i64 values, int threads) { return values < 16384 ? 1 : threads; }

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
    squares += (inside > 0 ? inside : V{}) + apart * apart * (before * n / all);
    rest += apart * (n / all);
    const V next = mean + rest;
    rest -= next - mean;
    mean = next;
    seen += n;
  }
};

constexpr i64 kRowChunk = 4096;  // values; stays in the first cache
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
    const Vector<T> mu = Vector<T>{} + merged.mean[r], d = tail ? first(L::load(p + whole, tail) - mu, tail) : Vector<T>{};
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
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 r = 0; r < together; r += W) moments_of_short_rows(S, x + r * S, mean + r, var + r);
#pragma omp parallel for num_threads(threads) schedule(static) if (together < rows)
  for (i64 r = together; r < rows; ++r) {
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
  }
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
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (i64 n = 0; n < N; ++n)
    for (i64 b = 0; b < blocks; ++b) {
      const i64 c = b * kMost;
      const int channels = least(C - c, kMost), vectors = (channels + W - 1) / W, last = channels - (vectors - 1) * W;
      switch (vectors) {
        case 1: work(ColumnBlock<T, 1>{S, C, last}, n, c); break;
        case 2: work(ColumnBlock<T, 2>{S, C, last}, n, c); break;
        case 3: work(ColumnBlock<T, 3>{S, C, last}, n, c); break;
        default: work(ColumnBlock<T, 4>{S, C, last}, n, c);
      }
    }
}

// ---- Sums

template <class T>
void sums_of_short_rows(i64 S, const T* dy, const T* x, const Table<T>* mean, Table<T>* sum_dy, Table<T>* sum_dy_centred) {
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
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 r = 0; r < together; r += W)
    sums_of_short_rows(S, dy + r * S, x + r * S, mean + r, sum_dy + r, sum_dy_centred + r);
#pragma omp parallel for num_threads(threads) schedule(static) if (together < rows)
  for (i64 r = together; r < rows; ++r) {
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
  }
}

// ---- Affine and gradient: elementwise, with coefficients per (n, c)

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
#pragma omp parallel for num_threads(threads) schedule(static)
  for (i64 r = 0; r < rows; ++r) {
    const T *d = dy + r * S, *p = x + r * S;
    T* o = out + r * S;
    const auto f = op.at([r](const Table<T>* table) { return Vector<T>{} + table[r]; });
    const int tail = S % W;
    const i64 whole = S - tail;
    for (i64 i = 0; i < whole; i += W) L::store(o + i, f(L::load(d + i), L::load(p + i)));
    if (tail) L::store(o + whole, f(L::load(d + whole, tail), L::load(p + whole, tail)), tail);
  }
}

template <class T, class Op>
void elementwise_columns(i64 N, i64 C, i64 S, const T* dy, const T* x, T* out, Op op, int threads) {
  using L = Lanes<T>;
  using LT = Lanes<Table<T>>;
  constexpr int W = L::kWidth;
  constexpr i64 kStrip = 8;  // positions that share one read of the coefficients
  const i64 strips = (S + kStrip - 1) / kStrip;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (i64 n = 0; n < N; ++n)
    for (i64 strip = 0; strip < strips; ++strip) {
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
    }
}

template <class T, class Op>
void elementwise(int columns, i64 N, i64 C, i64 S, const T* dy, const T* x, T* out, Op op, int threads) {
  if (columns)
    elementwise_columns<T>(N, C, S, dy, x, out, op, threads);
  else
    elementwise_rows<T>(N * C, S, dy, x, out, op, threads);
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

#include "native_tables.h"

}  // namespace

#define EXPORT(NAME, T)                                                                                               \
  extern "C" void moments_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* x, Table<T>* mean,           \
                                 Table<T>* var) {                                                                     \
    moments<T>(columns, N, C, S, x, mean, var, threads_for(N * C * S, threads));                                      \
  }                                                                                                                   \
  extern "C" void affine_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* x, const Table<T>* mean,      \
                                const Table<T>* scale, const Table<T>* shift, T* y) {                                 \
    elementwise<T>(columns, N, C, S, x, x, y, Affine<T>{mean, scale, shift}, threads_for(N * C * S, threads));        \
  }                                                                                                                   \
  extern "C" void sums_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* dy, const T* x,                 \
                              const Table<T>* mean, Table<T>* sum_dy, Table<T>* sum_dy_centred) {                     \
    sums<T>(columns, N, C, S, dy, x, mean, sum_dy, sum_dy_centred, threads_for(N * C * S, threads));                  \
  }                                                                                                                   \
  extern "C" void gradient_##NAME(int columns, i64 N, i64 C, i64 S, int threads, const T* dy, const T* x,             \
                                  const Table<T>* mean, const Table<T>* a, const Table<T>* b, const Table<T>* c,      \
                                  T* dx) {                                                                            \
    elementwise<T>(columns, N, C, S, dy, x, dx, Gradient<T>{mean, a, b, c}, threads_for(N * C * S, threads));         \
  }                                                                                                                   \
  extern "C" void forward_##NAME(const Arguments* a) { forward<T>(*a); }                                              \
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
