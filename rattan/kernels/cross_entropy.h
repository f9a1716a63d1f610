// Cross-entropy of logits against target ids, with the gradient in place of the logits, so that the fused
// linear + cross-entropy operator can work through blocks of tokens and never holds tokens x vocabulary.
//
//   lse_i = log sum_j exp x_ij;   nll_i = lse_i - x_{i,target_i};   loss_i = weight_i nll_i
//   d x_ij = weight_i (softmax(x_i)_j - [j = target_i])
// Rows with target < 0 are ignored: loss 0, gradient 0. Statistics in fp32.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

template <class T>
struct CrossEntropy {
  int64_t rows = 0, vocabulary = 0;
  RowsRef<T> logits;                // [rows, vocabulary]; overwritten by the gradient if `gradient`
  const int64_t* target = nullptr;  // [rows]
  const float* weight = nullptr;    // [rows], optional (1)
  bool gradient = false;
  float* loss = nullptr;  // [rows], weighted
};

void cross_entropy(const CrossEntropy<float>& a);
void cross_entropy(const CrossEntropy<bf16>& a);

namespace cuda {
void cross_entropy(const CrossEntropy<float>& a, void* stream);
void cross_entropy(const CrossEntropy<bf16>& a, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
