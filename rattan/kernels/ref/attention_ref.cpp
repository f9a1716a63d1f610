#include "rattan/kernels/ref/attention_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rattan::kernels::ref {
namespace attention_ref_file {

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace attention_ref_file

AttentionOutput attention_forward(const Attention& a) {
  using namespace attention_ref_file;
  AttentionOutput out;
  out.o.assign(a.queries * a.heads * a.dim, 0);
  out.lse.assign(a.queries * a.heads, -std::numeric_limits<double>::infinity());
  for (int64_t i = 0; i < a.queries; ++i) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const double* q = &a.q[(i * a.heads + h) * a.dim];
      int64_t kv = h / (a.heads / a.kv_heads);
      std::vector<double> scores;
      for (int64_t j = a.begin[i]; j < a.end[i]; ++j) {
        scores.push_back(a.scale * dot(q, &a.k[(j * a.kv_heads + kv) * a.dim], a.dim));
      }
      if (scores.empty()) continue;
      double top = *std::max_element(scores.begin(), scores.end()), sum = 0;
      for (double s : scores) sum += std::exp(s - top);
      double lse = out.lse[i * a.heads + h] = top + std::log(sum);
      for (int64_t j = a.begin[i]; j < a.end[i]; ++j) {
        double weight = std::exp(scores[j - a.begin[i]] - lse);
        for (int64_t c = 0; c < a.dim; ++c) {
          out.o[(i * a.heads + h) * a.dim + c] += weight * a.v[(j * a.kv_heads + kv) * a.dim + c];
        }
      }
    }
  }
  return out;
}

AttentionGradients attention_backward(const Attention& a, const AttentionOutput& saved, const std::vector<double>& d_o,
                                      const std::vector<double>& d_lse) {
  using namespace attention_ref_file;
  AttentionGradients out;
  out.dq.assign(a.q.size(), 0);
  out.dk.assign(a.k.size(), 0);
  out.dv.assign(a.v.size(), 0);
  for (int64_t i = 0; i < a.queries; ++i) {
    for (int64_t h = 0; h < a.heads; ++h) {
      int64_t row = (i * a.heads + h) * a.dim, kv = h / (a.heads / a.kv_heads);
      double delta = dot(&d_o[row], &saved.o[row], a.dim), lse = saved.lse[i * a.heads + h];
      if (!d_lse.empty()) delta -= d_lse[i * a.heads + h];
      for (int64_t j = a.begin[i]; j < a.end[i]; ++j) {
        int64_t key = (j * a.kv_heads + kv) * a.dim;
        double weight = std::exp(a.scale * dot(&a.q[row], &a.k[key], a.dim) - lse);
        double d_score = a.scale * weight * (dot(&d_o[row], &a.v[key], a.dim) - delta);
        for (int64_t c = 0; c < a.dim; ++c) {
          out.dq[row + c] += d_score * a.k[key + c];
          out.dk[key + c] += d_score * a.q[row + c];
          out.dv[key + c] += weight * d_o[row + c];
        }
      }
    }
  }
  return out;
}

}  // namespace rattan::kernels::ref
