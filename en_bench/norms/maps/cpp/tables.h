// The tables between the passes, for the normalisers that have a program (see programs.py): coefficients and, derived
// by hand, their vector-Jacobian products.
//
// Shapes: N samples, C channels, K normalisers (at most three), G groups of the gate's reduction, U hidden units.

#pragma once

#include <vector>

#include "functions.h"

namespace {

// Field by field the Arguments of programs.py.
struct Arguments {
  i64 columns, threads, N, C, S;
  i64 statistics;              // 1: statistics are mixed (SN), 0: standardised outputs (EN; alone where K is 1)
  i64 K, kinds[3];             // of Kind, in the order of the parameters' rows
  i64 groups;                  // of channels that share moments, for kGroup
  i64 pooled;                  // 1: batch moments come from the samples, 0: they are given, or there are none
  i64 skip_samples;            // 1: moments of samples are not wanted; those given stand in their place
  i64 affine_stride;           // between the rows of weight and bias: C, or 0 where all share one
  i64 gate, reduced, U, relu;  // whether there is a gate; G, or 0 without reduction; its units and activation
  double eps, correction;      // S / (S - correction of the samples' variance)
  double rate, unbias;         // running += rate * (unbias * batch - running), where running moments are given
  const void *x, *dy;
  void *y, *dx;
  void *mean, *var, *batch_mean, *batch_var, *running_mean, *running_var;
  const void *weight, *bias;
  const void* params[6];  // fc1 weight and bias, fc2's, reduce's; of SN mean_weight, var_weight
  void *d_weight, *d_bias;
  void* d_params[6];
  void* ratios;  // (N, K), written where it is not null
};

enum Kind { kInstance, kGroup, kBatch };

constexpr i64 kChunks = 16;  // of samples that are summed apart, whatever the number of threads

// What all samples share, and the memory of one thread.
template <class A>
struct Tables {
  const Arguments& a;
  const i64 N = a.N, C = a.C, K = a.K, G = a.reduced, U = a.U, Z = G ? G : C;  // Z channels are related
  const A *mean = (const A*)a.mean, *var = (const A*)a.var;
  A *batch_mean = (A*)a.batch_mean, *batch_var = (A*)a.batch_var;
  const A *weight = (const A*)a.weight, *bias = (const A*)a.bias;
  std::vector<A> shared;  // 1 / sqrt(var + eps) of the batch, (C); fc1's weight, transposed, (K * K, U)
  A *batch_inv, *fc1;
  A p[3], q[3];  // SN's shares

  const A* param(int i) const { return (const A*)a.params[i]; }

  explicit Tables(const Arguments& arguments) : a(arguments) {
    shared.resize(whole_vectors(C) + K * K * whole_vectors(U));
    batch_inv = shared.data();
    fc1 = batch_inv + whole_vectors(C);
    if (a.pooled) pool_batch();
    if (batch_var)
#pragma omp simd
      for (i64 c = 0; c < C; ++c) batch_inv[c] = inverse_root(batch_var[c] + A(a.eps));
    for (i64 u = 0; u < U; ++u)
      for (i64 j = 0; j < K * K; ++j) fc1[j * whole_vectors(U) + u] = param(0)[u * K * K + j];
    if (a.statistics) {
      softmax(param(0), p);
      softmax(param(1), q);
    }
  }

  void softmax(const A* logits, A* out) const {
    A most = logits[0], total = 0;
    for (i64 k = 1; k < K; ++k) most = logits[k] > most ? logits[k] : most;
    for (i64 k = 0; k < K; ++k) total += out[k] = A(__builtin_exp(logits[k] - most));
    for (i64 k = 0; k < K; ++k) out[k] /= total;
  }

  // By the law of total variance, around the first sample, as a sum of large means would round.
  void pool_batch() {
    const i64 block = 256;
#pragma omp parallel for num_threads(threads_for(N * C * 8, a.threads)) schedule(static)
    for (i64 from = 0; from < C; from += block) {
      const i64 n_c = least(C - from, block);
      A total[block] = {}, spread[block] = {};
      for (i64 n = 0; n < N; ++n)
#pragma omp simd
        for (i64 c = 0; c < n_c; ++c) total[c] += mean[n * C + from + c] - mean[from + c];
      for (i64 c = 0; c < n_c; ++c) batch_mean[from + c] = mean[from + c] + total[c] / N;
      for (i64 n = 0; n < N; ++n)
#pragma omp simd
        for (i64 c = 0; c < n_c; ++c) {
          const A apart = mean[n * C + from + c] - batch_mean[from + c];
          spread[c] += var[n * C + from + c] + apart * apart;
        }
      for (i64 c = 0; c < n_c; ++c) batch_var[from + c] = spread[c] / N;
    }
  }

  // ---- One sample

  struct Work {
    A *xhat[3], *inv[3], *z[3];  // (C), (C), (Z) of each normaliser
    A *group_mean, *group_var;   // (groups)
    A *hidden, *d_hidden;        // (U)
    A *mixed_mean, *mixed_var;   // (C), SN's
    A relation[9], ratio[3];
  };
  i64 work_size() const {
    return 6 * whole_vectors(C) + 3 * whole_vectors(Z) + 2 * whole_vectors(a.groups) + 2 * whole_vectors(U) +
           2 * whole_vectors(C);
  }
  Work work(A* memory) const {
    Pieces<A> pieces{memory};
    Work w;
    for (int k = 0; k < 3; ++k) w.xhat[k] = pieces.take(C), w.inv[k] = pieces.take(C), w.z[k] = pieces.take(Z);
    w.group_mean = pieces.take(a.groups), w.group_var = pieces.take(a.groups);
    w.hidden = pieces.take(U), w.d_hidden = pieces.take(U);
    w.mixed_mean = pieces.take(C), w.mixed_var = pieces.take(C);
    return w;
  }

  void pool_groups(const A* m, const A* v, Work& w) const {
    const i64 M = C / a.groups;
    for (i64 g = 0; g < a.groups; ++g) {
      const A *mg = m + g * M, *vg = v + g * M, origin = mg[0];
      const A pooled = origin + sum_over<A>(M, [=](i64 c) { return mg[c] - origin; }) / M;
      w.group_mean[g] = pooled;
      w.group_var[g] = sum_over<A>(M, [=](i64 c) { return vg[c] + (mg[c] - pooled) * (mg[c] - pooled); }) / M;
    }
  }

  void standardise(const A* m, const A* v, Work& w) const {
    const A eps = A(a.eps);
    for (i64 k = 0; k < K; ++k) {
      A *xhat = w.xhat[k], *inv = w.inv[k];
      if (a.kinds[k] == kInstance) {
#pragma omp simd
        for (i64 c = 0; c < C; ++c) xhat[c] = 0, inv[c] = inverse_root(v[c] + eps);
      } else if (a.kinds[k] == kGroup) {
        pool_groups(m, v, w);
        const i64 M = C / a.groups;
        for (i64 g = 0; g < a.groups; ++g) {
          const A group_inv = inverse_root(w.group_var[g] + eps), group_mean = w.group_mean[g];
#pragma omp simd
          for (i64 c = g * M; c < (g + 1) * M; ++c) xhat[c] = (m[c] - group_mean) * group_inv, inv[c] = group_inv;
        }
      } else {
#pragma omp simd
        for (i64 c = 0; c < C; ++c) inv[c] = batch_inv[c], xhat[c] = (m[c] - batch_mean[c]) * inv[c];
      }
    }
  }

  void mix_ratios(Work& w) const {
    if (!a.gate) {
      w.ratio[0] = 1;
      return;
    }
    for (i64 k = 0; k < K; ++k) {
      const A *xhat = w.xhat[k], *reduce = param(4);
      A* z = w.z[k];
      if (!G) std::memcpy(z, xhat, C * sizeof(A));
      for (i64 g = 0; g < G; ++g) {
        const i64 M = C / G, from = g * M;
        z[g] = param(5)[g] + sum_over<A>(M, [=](i64 c) { return xhat[from + c] * reduce[from + c]; });
      }
    }
    for (i64 k = 0; k < K; ++k)
      for (i64 l = 0; l <= k; ++l) {
        const A *zk = w.z[k], *zl = w.z[l];
        w.relation[k * K + l] = w.relation[l * K + k] = sum_over<A>(Z, [=](i64 g) { return zk[g] * zl[g]; });
      }
    A* h = w.hidden;
    std::memcpy(h, param(1), U * sizeof(A));
    for (i64 u = U; u < whole_vectors(U); ++u) h[u] = 0;
    for (i64 j = 0; j < K * K; ++j) {
      const A *row = fc1 + j * whole_vectors(U), r = w.relation[j];
#pragma omp simd
      for (i64 u = 0; u < U; ++u) h[u] += row[u] * r;
    }
    if (a.relu)
      for (i64 u = 0; u < U; ++u) h[u] = h[u] < 0 ? 0 : h[u];  // NaN stays
    else
      tanh_all(h, U);
    A logits[3];
    for (i64 k = 0; k < K; ++k) {
      const A* row = param(2) + k * U;
      logits[k] = param(3)[k] + sum_over<A>(U, [=](i64 u) { return row[u] * h[u]; });
    }
    softmax(logits, w.ratio);
  }

  void mix_statistics(const A* m, const A* v, Work& w) const {
    pool_groups(m, v, w);  // one group
    const A mean_L = w.group_mean[0], var_L = w.group_var[0];
#pragma omp simd
    for (i64 c = 0; c < C; ++c) {
      w.mixed_mean[c] = p[0] * m[c] + p[1] * mean_L + p[2] * batch_mean[c];
      w.mixed_var[c] = q[0] * v[c] + q[1] * var_L + q[2] * batch_var[c];
      w.inv[0][c] = inverse_root(w.mixed_var[c] + A(a.eps));
    }
  }

  void coefficients(i64 n, A* scale, A* shift, Work& w) const {
    const A *m = mean + n * C, *v = var + n * C;
    if (a.statistics) {
      mix_statistics(m, v, w);
#pragma omp simd
      for (i64 c = 0; c < C; ++c) {
        scale[c] = weight[c] * w.inv[0][c];
        shift[c] = bias[c] + scale[c] * (m[c] - w.mixed_mean[c]);
      }
      return;
    }
    standardise(m, v, w);
    mix_ratios(w);
    if (a.ratios) std::memcpy((A*)a.ratios + n * K, w.ratio, K * sizeof(A));
    for (i64 k = 0; k < K; ++k) {
      const A *wk = weight + k * a.affine_stride, *bk = bias + k * a.affine_stride, ratio = w.ratio[k];
      const A *xhat = w.xhat[k], *inv = w.inv[k];
      const A keep = k == 0 ? 0 : 1;
#pragma omp simd
      for (i64 c = 0; c < C; ++c) {
        scale[c] = (keep ? scale[c] : 0) + ratio * wk[c] * inv[c];
        shift[c] = (keep ? shift[c] : 0) + ratio * (bk[c] + wk[c] * xhat[c]);
      }
    }
  }

  // ---- Derivatives

  // Of what samples share, summed over a chunk of them.
  struct Sums {
    A *weight, *bias, *reduce, *reduce_bias, *fc1, *fc1_bias, *fc2, *fc2_bias, *batch_mean, *batch_var, *p, *q;
  };
  i64 affine_size() const { return a.affine_stride ? K * C : C; }
  i64 sums_size() const {
    return 2 * whole_vectors(affine_size()) + 3 * whole_vectors(C) + whole_vectors(Z) + K * K * whole_vectors(U) +
           whole_vectors(U) + whole_vectors(K * U) + 3 * whole_vectors(K);
  }
  Sums sums(A* memory) const {
    Pieces<A> pieces{memory};
    Sums s;
    s.weight = pieces.take(affine_size()), s.bias = pieces.take(affine_size());
    s.reduce = pieces.take(C), s.reduce_bias = pieces.take(Z);
    s.fc1 = pieces.take(K * K * whole_vectors(U)), s.fc1_bias = pieces.take(U);
    s.fc2 = pieces.take(K * U), s.fc2_bias = pieces.take(K);
    s.batch_mean = pieces.take(C), s.batch_var = pieces.take(C);
    s.p = pieces.take(K), s.q = pieces.take(K);
    return s;
  }

  // Through the moments of a group, onto those of its channels.
  void unpool_group(const A* m, A group_mean, A d_group_mean, A d_group_var, i64 from, i64 M, A* d_m, A* d_v) const {
    const A to_mean = d_group_mean / M, to_var = d_group_var / M;
#pragma omp simd
    for (i64 c = from; c < from + M; ++c) {
      d_m[c] += to_mean + 2 * to_var * (m[c] - group_mean);
      d_v[c] += to_var;
    }
  }

  // From d_scale and d_shift of sample n to d_m and d_v, but for what passes through batch moments: that goes into s.
  void differentiate(i64 n, const A* d_shift, const A* d_scale, A* d_m, A* d_v, Work& w, const Sums& s) const {
    const A *m = mean + n * C, *v = var + n * C;
    if (a.statistics)
      differentiate_statistics(m, v, d_shift, d_scale, d_m, d_v, w, s);
    else
      differentiate_outputs(m, d_shift, d_scale, d_m, d_v, w, s);
  }

  void differentiate_statistics(const A* m, const A* v, const A* d_shift, const A* d_scale, A* d_m, A* d_v, Work& w,
                                const Sums& s) const {
    const A mean_L = w.group_mean[0], var_L = w.group_var[0];
    // A share's derivative counts but for a constant: taken from the instance's, which they all resemble.
    A sum_mean = 0, sum_var = 0, p1 = 0, p2 = 0, q1 = 0, q2 = 0;
#pragma omp simd reduction(+ : sum_mean, sum_var, p1, p2, q1, q2)
    for (i64 c = 0; c < C; ++c) {
      const A inv = w.inv[0][c], scale = weight[c] * inv;
      const A towards = d_scale[c] + d_shift[c] * (m[c] - w.mixed_mean[c]);
      s.weight[c] += towards * inv;
      s.bias[c] += d_shift[c];
      const A d_mean = -d_shift[c] * scale, d_var = A(-0.5) * inv * inv * inv * towards * weight[c];
      d_m[c] = d_shift[c] * scale + p[0] * d_mean;
      d_v[c] = q[0] * d_var;
      s.batch_mean[c] += p[2] * d_mean;
      s.batch_var[c] += q[2] * d_var;
      sum_mean += d_mean, sum_var += d_var;
      p1 += d_mean * (mean_L - m[c]), p2 += d_mean * (batch_mean[c] - m[c]);
      q1 += d_var * (var_L - v[c]), q2 += d_var * (batch_var[c] - v[c]);
    }
    unpool_group(m, mean_L, p[1] * sum_mean, q[1] * sum_var, 0, C, d_m, d_v);
    s.p[1] += p1, s.p[2] += p2;
    s.q[1] += q1, s.q[2] += q2;
  }

  void differentiate_outputs(const A* m, const A* d_shift, const A* d_scale, A* d_m, A* d_v, Work& w,
                             const Sums& s) const {
    A d_relation[9] = {};
    if (a.gate) differentiate_gate(d_shift, d_scale, d_relation, w, s);
    std::memset(d_m, 0, C * sizeof(A));
    std::memset(d_v, 0, C * sizeof(A));
    for (i64 k = 0; k < K; ++k) {
      const i64 row = k * a.affine_stride;
      const A *wk = weight + row, *xhat = w.xhat[k], *inv = w.inv[k], ratio = w.ratio[k];
      A *d_xhat = w.mixed_mean, *d_var = w.mixed_var;
#pragma omp simd
      for (i64 c = 0; c < C; ++c) {
        s.weight[row + c] += ratio * (d_scale[c] * inv[c] + d_shift[c] * xhat[c]);
        s.bias[row + c] += ratio * d_shift[c];
        d_xhat[c] = ratio * wk[c] * d_shift[c];
      }
      if (a.gate) through_relations(k, d_relation, d_xhat, w, s);
      // xhat = (m - mean) inv, inv = (var + eps)^(-1/2): what inv carries is d_inv = ratio w d_scale + d_xhat xhat /
      // inv
#pragma omp simd
      for (i64 c = 0; c < C; ++c) {
        d_var[c] = A(-0.5) * inv[c] * inv[c] * (inv[c] * ratio * wk[c] * d_scale[c] + d_xhat[c] * xhat[c]);
        d_xhat[c] *= inv[c];  // by m; by mean with the other sign
      }
      if (a.kinds[k] == kInstance) {
#pragma omp simd
        for (i64 c = 0; c < C; ++c) d_v[c] += d_var[c];  // m - mean is 0
      } else if (a.kinds[k] == kGroup) {
        const i64 M = C / a.groups;
        for (i64 g = 0; g < a.groups; ++g) {
          const A *by_m = d_xhat + g * M, *by_var = d_var + g * M;
          const A sum_m = sum_over<A>(M, [=](i64 c) { return by_m[c]; });
          const A sum_var = sum_over<A>(M, [=](i64 c) { return by_var[c]; });
          unpool_group(m, w.group_mean[g], -sum_m, sum_var, g * M, M, d_m, d_v);
        }
#pragma omp simd
        for (i64 c = 0; c < C; ++c) d_m[c] += d_xhat[c];
      } else {
#pragma omp simd
        for (i64 c = 0; c < C; ++c) {
          d_m[c] += d_xhat[c];
          s.batch_mean[c] -= d_xhat[c];
          s.batch_var[c] += d_var[c];
        }
      }
    }
  }

  void differentiate_gate(const A* d_shift, const A* d_scale, A* d_relation, Work& w, const Sums& s) const {
    A d_ratio[3], d_logit[3], mixed = 0;
    for (i64 k = 0; k < K; ++k) {
      const A *wk = weight + k * a.affine_stride, *bk = bias + k * a.affine_stride, *xhat = w.xhat[k], *inv = w.inv[k];
      d_ratio[k] =
          sum_over<A>(C, [=](i64 c) { return d_scale[c] * wk[c] * inv[c] + d_shift[c] * (bk[c] + wk[c] * xhat[c]); });
      mixed += w.ratio[k] * d_ratio[k];
    }
    A *h = w.hidden, *d_h = w.d_hidden;
    std::memset(d_h, 0, U * sizeof(A));
    for (i64 k = 0; k < K; ++k) {
      d_logit[k] = w.ratio[k] * (d_ratio[k] - mixed);
      s.fc2_bias[k] += d_logit[k];
      const A *row = param(2) + k * U, d = d_logit[k];
      A* sum = s.fc2 + k * U;
#pragma omp simd
      for (i64 u = 0; u < U; ++u) sum[u] += d * h[u], d_h[u] += d * row[u];
    }
    if (a.relu) {
      for (i64 u = 0; u < U; ++u) d_h[u] = h[u] <= 0 ? 0 : d_h[u];
    } else {
#pragma omp simd
      for (i64 u = 0; u < U; ++u) d_h[u] *= 1 - h[u] * h[u];
    }
#pragma omp simd
    for (i64 u = 0; u < U; ++u) s.fc1_bias[u] += d_h[u];
    for (i64 j = 0; j < K * K; ++j) {
      const A *row = fc1 + j * whole_vectors(U), r = w.relation[j];
      A* sum = s.fc1 + j * whole_vectors(U);
      d_relation[j] = sum_over<A>(U, [=](i64 u) { return d_h[u] * row[u]; });
#pragma omp simd
      for (i64 u = 0; u < U; ++u) sum[u] += d_h[u] * r;
    }
  }

  void through_relations(i64 k, const A* d_relation, A* d_xhat, Work& w, const Sums& s) const {
    const i64 M = C / Z;
    const A* xhat = w.xhat[k];
    for (i64 g = 0; g < Z; ++g) {
      A d_z = 0;
      for (i64 l = 0; l < K; ++l) d_z += (d_relation[k * K + l] + d_relation[l * K + k]) * w.z[l][g];
      if (!G) {
        d_xhat[g] += d_z;
        continue;
      }
      s.reduce_bias[g] += d_z;
      const A* reduce = param(4);
#pragma omp simd
      for (i64 c = g * M; c < (g + 1) * M; ++c) {
        s.reduce[c] += d_z * xhat[c];
        d_xhat[c] += d_z * reduce[c];
      }
    }
  }

  // The sums of all chunks, in order, into the first; then to where they are wanted.
  void write(A* chunks, i64 count) const {
    const i64 size = sums_size();
    for (i64 i = 1; i < count; ++i)
#pragma omp simd
      for (i64 j = 0; j < size; ++j) chunks[j] += chunks[i * size + j];
    const Sums s = sums(chunks);
    copy(s.weight, a.d_weight, affine_size());
    copy(s.bias, a.d_bias, affine_size());
    if (a.statistics) {
      softmax_gradient(p, s.p, a.d_params[0]);
      softmax_gradient(q, s.q, a.d_params[1]);
    }
    if (!a.gate) return;
    for (i64 u = 0; u < U; ++u)
      for (i64 j = 0; j < K * K; ++j) ((A*)a.d_params[0])[u * K * K + j] = s.fc1[j * whole_vectors(U) + u];
    copy(s.fc1_bias, a.d_params[1], U);
    copy(s.fc2, a.d_params[2], K * U);
    copy(s.fc2_bias, a.d_params[3], K);
    if (!G) return;
    copy(s.reduce, a.d_params[4], C);
    copy(s.reduce_bias, a.d_params[5], G);
  }
  static void copy(const A* from, void* to, i64 n) { std::memcpy(to, from, n * sizeof(A)); }
  void softmax_gradient(const A* share, const A* d_share, void* to) const {
    A mixed = 0;
    for (i64 k = 0; k < K; ++k) mixed += share[k] * d_share[k];
    for (i64 k = 0; k < K; ++k) ((A*)to)[k] = share[k] * (d_share[k] - mixed);
  }
};

}  // namespace
