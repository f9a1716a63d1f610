// Rotary position embedding, rotate-half form (Su et al., arXiv 2104.09864): for i < p/2 and angle
// a = position * base^(-2i/p),  out_i = x_i cos a - x_{i+p/2} sin a,  out_{i+p/2} = x_{i+p/2} cos a + x_i sin a.
// `inverse` rotates by -a (the transpose, which is the backward). `out` may be `x`.
#pragma once
#include "rattan/kernels/tensor_ref.h"

namespace rattan::kernels {

// Fills cos and sin, each [positions, dim/2]. The angles are computed in double.
void rope_table(int64_t positions, int64_t dim, double base, float* cos, float* sin);

template <class T>
struct Rope {
  int64_t rows = 0, heads = 0, dim = 0;
  const int32_t* position = nullptr;  // [rows], an index into the table
  const float* cos = nullptr;         // [positions, dim/2]
  const float* sin = nullptr;
  bool inverse = false;
  HeadsRef<const T> x;
  HeadsRef<T> out;
};

void rope(const Rope<float>& a);
void rope(const Rope<bf16>& a);

namespace cuda {
void rope(const Rope<float>& a, void* stream);
void rope(const Rope<bf16>& a, void* stream);
}  // namespace cuda

}  // namespace rattan::kernels
