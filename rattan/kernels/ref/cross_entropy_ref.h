// Cross-entropy (kernels/cross_entropy.h) in float64.
#pragma once
#include <cstdint>
#include <vector>

namespace rattan::kernels::ref {

struct CrossEntropyOutput {
  std::vector<double> loss;      // [rows], weighted
  std::vector<double> gradient;  // [rows, vocabulary]
};

// logits: [rows, vocabulary]; target: [rows], negative: ignored; weight: [rows] or empty (1).
CrossEntropyOutput cross_entropy(const std::vector<double>& logits, const std::vector<int64_t>& target,
                                 const std::vector<double>& weight, int64_t vocabulary);

}  // namespace rattan::kernels::ref
