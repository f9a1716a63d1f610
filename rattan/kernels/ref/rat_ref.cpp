#include "rattan/kernels/ref/rat_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rattan::kernels::ref {
namespace rat_ref_file {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Element offsets of one problem.
struct View {
  const Rat& a;
  int64_t p, heads, width;
  explicit View(const Rat& rat) : a(rat), p(rat.shape.dim), heads(rat.shape.heads), width(heads * p) {}
  int64_t row(int64_t i) const { return i * a.shape.width(); }
  int64_t z(int64_t i, int64_t h) const { return row(i) + h * p; }
  int64_t v(int64_t i, int64_t h) const { return row(i) + width + h * p; }
  int64_t g(int64_t i, int64_t h) const { return row(i) + 2 * width + h * p; }
  int64_t q(int64_t i, int64_t h) const { return row(i) + 3 * width + h % a.shape.groups * p; }
  int64_t k(int64_t i, int64_t h) const { return q(i, h) + a.shape.groups * p; }
  int64_t head(int64_t r, int64_t h) const { return (r * heads + h) * p; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(p)); }
  double gate(int64_t i, int64_t h, int64_t c) const { return sigmoid(a.proj[g(i, h) + c] + a.gate_bias[h * p + c]); }

  std::vector<double> turned(const double* x, int64_t position, double direction) const {
    std::vector<double> out(x, x + p);
    if (a.cos.empty()) return out;
    int64_t half = p / 2;
    for (int64_t c = 0; c < half; ++c) {
      double cos = a.cos[position * half + c], sin = direction * a.sin[position * half + c];
      out[c] = x[c] * cos - x[c + half] * sin;
      out[c + half] = x[c + half] * cos + x[c] * sin;
    }
    return out;
  }
};

}  // namespace rat_ref_file

RatOutput rat_forward(const Rat& a) {
  using namespace rat_ref_file;
  View at(a);
  RatOutput out;
  int64_t tokens = a.shape.tokens, p = at.p;
  out.out.assign(tokens * at.width, 0);
  out.y = out.keys = out.values = out.out;
  out.lse.assign(tokens * at.heads, -std::numeric_limits<double>::infinity());
  out.ends_k = a.ends_k;
  out.ends_v = a.ends_v;
  out.final_k.assign(a.running_k.size(), 0);
  out.final_v = out.final_k;
  for (const RatChunk& chunk : a.table) {
    for (int64_t h = 0; h < at.heads; ++h) {
      std::vector<double> k(p, 0), v(p, 0);
      if (chunk.from >= 0) {
        std::copy_n(&a.running_k[at.head(chunk.from, h)], p, k.begin());
        std::copy_n(&a.running_v[at.head(chunk.from, h)], p, v.begin());
      }
      for (int64_t i = chunk.begin; i < chunk.end; ++i) {
        for (int64_t c = 0; c < p; ++c) {
          double g = at.gate(i, h, c);
          k[c] = g * k[c] + (1 - g) * a.proj[at.k(i, h) + c];
          v[c] = g * v[c] + (1 - g) * a.proj[at.v(i, h) + c];
          out.keys[at.head(i, h) + c] = k[c];
          out.values[at.head(i, h) + c] = v[c];
        }
        const double* q = &a.proj[at.q(i, h)];
        std::vector<double> turned = at.turned(q, chunk.position, 1), scores;
        for (int64_t e = chunk.first; e < chunk.slot; ++e) {
          scores.push_back(at.scale() * dot(turned.data(), &out.ends_k[at.head(e, h)], p));
        }
        scores.push_back(at.scale() * dot(q, k.data(), p));
        double top = *std::max_element(scores.begin(), scores.end()), sum = 0;
        for (double s : scores) sum += std::exp(s - top);
        double lse = out.lse[i * at.heads + h] = top + std::log(sum);
        for (std::size_t s = 0; s < scores.size(); ++s) {
          bool local = s + 1 == scores.size();
          const double* value = local ? v.data() : &out.ends_v[at.head(chunk.first + static_cast<int64_t>(s), h)];
          for (int64_t c = 0; c < p; ++c) out.y[at.head(i, h) + c] += std::exp(scores[s] - lse) * value[c];
        }
        for (int64_t c = 0; c < p; ++c) {
          out.out[at.head(i, h) + c] = sigmoid(a.proj[at.z(i, h) + c]) * out.y[at.head(i, h) + c];
        }
      }
      std::vector<double> end = at.turned(k.data(), chunk.position, 1);
      std::copy_n(end.begin(), p, &out.ends_k[at.head(chunk.slot, h)]);
      std::copy_n(v.begin(), p, &out.ends_v[at.head(chunk.slot, h)]);
      if (chunk.to < 0) continue;
      std::copy_n(k.begin(), p, &out.final_k[at.head(chunk.to, h)]);
      std::copy_n(v.begin(), p, &out.final_v[at.head(chunk.to, h)]);
    }
  }
  return out;
}

RatGradients rat_backward(const Rat& a, const RatUpstream& up) {
  using namespace rat_ref_file;
  View at(a);
  RatOutput saved = rat_forward(a);
  RatGradients out;
  int64_t p = at.p;
  out.d_proj.assign(a.proj.size(), 0);
  out.d_gate_bias.assign(at.width, 0);
  out.d_running_k.assign(a.running_k.size(), 0);
  out.d_running_v = out.d_running_k;
  out.d_ends_k = up.d_ends_k;
  out.d_ends_v = up.d_ends_v;
  out.d_ends_k.resize(a.ends_k.size(), 0);
  out.d_ends_v.resize(a.ends_v.size(), 0);
  // From the last chunk to the first: then an end's gradient is whole when its own chunk is reached.
  for (auto entry = a.table.rbegin(); entry != a.table.rend(); ++entry) {
    const RatChunk& chunk = *entry;
    for (int64_t h = 0; h < at.heads; ++h) {
      int64_t length = chunk.end - chunk.begin;
      std::vector<double> dk(length * p), dv(length * p);  // what reaches k~ and v~ of each token directly
      for (int64_t t = 0; t < length; ++t) {
        int64_t i = chunk.begin + t, row = at.head(i, h);
        const double* q = &a.proj[at.q(i, h)];
        double lse = saved.lse[i * at.heads + h], delta = 0;
        std::vector<double> dy(p), turned = at.turned(q, chunk.position, 1), d_turned(p, 0);
        for (int64_t c = 0; c < p; ++c) {
          double z = sigmoid(a.proj[at.z(i, h) + c]);
          dy[c] = z * up.d_out[row + c];
          delta += dy[c] * saved.y[row + c];
          out.d_proj[at.z(i, h) + c] = z * (1 - z) * up.d_out[row + c] * saved.y[row + c];
        }
        for (int64_t e = chunk.first; e < chunk.slot; ++e) {
          int64_t end = at.head(e, h);
          double weight = std::exp(at.scale() * dot(turned.data(), &saved.ends_k[end], p) - lse);
          double d_score = at.scale() * weight * (dot(dy.data(), &saved.ends_v[end], p) - delta);
          for (int64_t c = 0; c < p; ++c) {
            d_turned[c] += d_score * saved.ends_k[end + c];
            out.d_ends_k[end + c] += d_score * turned[c];
            out.d_ends_v[end + c] += weight * dy[c];
          }
        }
        double weight = std::exp(at.scale() * dot(q, &saved.keys[row], p) - lse);
        double d_score = at.scale() * weight * (dot(dy.data(), &saved.values[row], p) - delta);
        std::vector<double> dq = at.turned(d_turned.data(), chunk.position, -1);
        for (int64_t c = 0; c < p; ++c) {
          out.d_proj[at.q(i, h) + c] += dq[c] + d_score * saved.keys[row + c];
          dk[t * p + c] = d_score * q[c];
          dv[t * p + c] = weight * dy[c];
        }
      }
      std::vector<double> lam = at.turned(&out.d_ends_k[at.head(chunk.slot, h)], chunk.position, -1);
      std::vector<double> mu(&out.d_ends_v[at.head(chunk.slot, h)], &out.d_ends_v[at.head(chunk.slot, h)] + p);
      for (int64_t c = 0; c < p; ++c) {
        if (chunk.to >= 0 && !up.d_final_k.empty()) {
          lam[c] += up.d_final_k[at.head(chunk.to, h) + c];
          mu[c] += up.d_final_v[at.head(chunk.to, h) + c];
        }
        for (int64_t t = length - 1; t >= 0; --t) {
          int64_t i = chunk.begin + t, row = at.head(i, h) + c;
          double g = at.gate(i, h, c), old_k = 0, old_v = 0;
          if (t > 0) {
            old_k = saved.keys[row - at.width], old_v = saved.values[row - at.width];
          } else if (chunk.from >= 0) {
            old_k = a.running_k[at.head(chunk.from, h) + c], old_v = a.running_v[at.head(chunk.from, h) + c];
          }
          lam[c] += dk[t * p + c];
          mu[c] += dv[t * p + c];
          out.d_proj[at.k(i, h) + c] += (1 - g) * lam[c];
          out.d_proj[at.v(i, h) + c] = (1 - g) * mu[c];
          double dg = lam[c] * (old_k - a.proj[at.k(i, h) + c]) + mu[c] * (old_v - a.proj[at.v(i, h) + c]);
          out.d_proj[at.g(i, h) + c] = g * (1 - g) * dg;
          out.d_gate_bias[h * p + c] += g * (1 - g) * dg;
          lam[c] *= g;
          mu[c] *= g;
        }
        if (chunk.from < 0) continue;
        out.d_running_k[at.head(chunk.from, h) + c] = lam[c];
        out.d_running_v[at.head(chunk.from, h) + c] = mu[c];
      }
    }
  }
  return out;
}

}  // namespace rattan::kernels::ref
