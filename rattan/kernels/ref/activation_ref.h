// Activations and gates (kernels/activation.h) in float64, one element at a time.
#pragma once
#include "rattan/kernels/activation.h"

namespace rattan::kernels::ref {

double activation(Activation kind, double a, double b);

struct ActivationGradient {
  double d_a, d_b;  // d_b is 0 for gelu
};
ActivationGradient activation_gradient(Activation kind, double a, double b, double d_out);

}  // namespace rattan::kernels::ref
