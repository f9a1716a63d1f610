#include "rattan/kernels/ref/cross_entropy_ref.h"

#include <algorithm>
#include <cmath>

namespace rattan::kernels::ref {

CrossEntropyOutput cross_entropy(const std::vector<double>& logits, const std::vector<int64_t>& target,
                                 const std::vector<double>& weight, int64_t vocabulary) {
  CrossEntropyOutput out{std::vector<double>(target.size()), std::vector<double>(logits.size())};
  for (std::size_t row = 0; row < target.size(); ++row) {
    if (target[row] < 0) continue;
    const double* x = logits.data() + row * vocabulary;
    double* d_x = out.gradient.data() + row * vocabulary;
    double scale = weight.empty() ? 1 : weight[row];
    double highest = *std::max_element(x, x + vocabulary);
    double sum = 0;
    for (int64_t j = 0; j < vocabulary; ++j) sum += std::exp(x[j] - highest);
    double lse = highest + std::log(sum);
    out.loss[row] = scale * (lse - x[target[row]]);
    for (int64_t j = 0; j < vocabulary; ++j) d_x[j] = scale * std::exp(x[j] - lse);
    d_x[target[row]] -= scale;
  }
  return out;
}

}  // namespace rattan::kernels::ref
