#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>

#include "rattan/base/parallel.h"
#include "rattan/train/optimizer.h"

namespace rattan::train {
namespace global_norm_file {

constexpr int64_t kBlock = 1 << 15;

template <class T>
double sum_of_squares(const T* x, int64_t n) {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

struct Piece {
  const at::Tensor* tensor;
  int64_t begin, end;
  double squares() const {
    if (tensor->scalar_type() == at::kDouble)
      return sum_of_squares(tensor->const_data_ptr<double>() + begin, end - begin);
    return sum_of_squares(tensor->const_data_ptr<float>() + begin, end - begin);
  }
};

double on_cpu(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> plain;
  for (const at::Tensor& t : tensors) {
    plain.push_back(t.scalar_type() == at::kDouble ? t.contiguous() : t.to(at::kFloat).contiguous());
  }
  std::vector<Piece> pieces;
  for (const at::Tensor& t : plain) {
    for (int64_t i = 0; i < t.numel(); i += kBlock) pieces.push_back({&t, i, std::min(t.numel(), i + kBlock)});
  }
  std::vector<double> squares(pieces.size());
  parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    squares[static_cast<std::size_t>(i)] = pieces[static_cast<std::size_t>(i)].squares();
  });
  double total = 0;
  for (double s : squares) total += s;
  return std::sqrt(total);
}

}  // namespace global_norm_file

at::Tensor global_norm(const std::vector<at::Tensor>& tensors) {
  const auto scalar = [](double value) { return at::full({}, value, at::kDouble); };
  if (tensors.empty()) return scalar(0);
  if (tensors.front().is_cpu()) return scalar(global_norm_file::on_cpu(tensors));
  // linalg_vector_norm would first make a float64 copy of each.
  return at::linalg_vector_norm(at::stack(at::_foreach_norm(tensors, 2, at::kDouble)), 2);
}

}  // namespace rattan::train
