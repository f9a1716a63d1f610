// The public CPU entry points: each calls the build of its kernel for the instruction set in use.
//
// A kernel is a function `void name(const Args<T>&)` for T = float and bf16, defined in some *.isa.cpp in
// namespace rattan::kernels::RATTAN_ISA. To add one, write that file and one RATTAN_KERNEL line here
// (RATTAN_KERNEL_PLAIN for an argument type that is no template).
#include "rattan/base/bf16.h"
#include "rattan/kernels/activation.h"
#include "rattan/kernels/attention.h"
#include "rattan/kernels/cpu/isa.h"
#include "rattan/kernels/cross_entropy.h"
#include "rattan/kernels/few_rows_linear.h"
#include "rattan/kernels/gated_scan.h"
#include "rattan/kernels/matrix_product.h"
#include "rattan/kernels/mxint8.h"
#include "rattan/kernels/quantize_rows.h"
#include "rattan/kernels/rat.h"
#include "rattan/kernels/rms_norm.h"
#include "rattan/kernels/rope.h"
#include "rattan/kernels/token_weights.h"

#if defined(__x86_64__)
#define RATTAN_KERNEL_PLAIN(function, Args)                                                        \
  namespace scalar {                                                                               \
  void function(const Args&);                                                                      \
  }                                                                                                \
  namespace avx2 {                                                                                 \
  void function(const Args&);                                                                      \
  }                                                                                                \
  namespace avx512 {                                                                               \
  void function(const Args&);                                                                      \
  }                                                                                                \
  namespace avx512bf16 {                                                                           \
  void function(const Args&);                                                                      \
  }                                                                                                \
  void function(const Args& args) {                                                                \
    constexpr void (*builds[])(const Args&) = {scalar::function, avx2::function, avx512::function, \
                                               avx512bf16::function};                              \
    builds[static_cast<int>(active_isa())](args);                                                  \
  }
#else
#define RATTAN_KERNEL_PLAIN(function, Args) \
  namespace scalar {                        \
  void function(const Args&);               \
  }                                         \
  void function(const Args& args) { scalar::function(args); }
#endif
#define RATTAN_KERNEL(function, Args)        \
  RATTAN_KERNEL_PLAIN(function, Args<float>) \
  RATTAN_KERNEL_PLAIN(function, Args<bf16>)

namespace rattan::kernels {

RATTAN_KERNEL(activation_forward, ActivationForward)
RATTAN_KERNEL(activation_backward, ActivationBackward)
RATTAN_KERNEL(add_rms_norm_forward, AddRmsNormForward)
RATTAN_KERNEL(add_rms_norm_backward, AddRmsNormBackward)
RATTAN_KERNEL(attention_forward, AttentionForward)
RATTAN_KERNEL(attention_backward, AttentionBackward)
RATTAN_KERNEL(attention_cached, AttentionCached)
RATTAN_KERNEL(cross_entropy, CrossEntropy)
RATTAN_KERNEL(few_rows_linear, FewRowsLinear)
RATTAN_KERNEL(gated_scan_forward, GatedScanForward)
RATTAN_KERNEL(gated_scan_backward, GatedScanBackward)
RATTAN_KERNEL_PLAIN(matrix_product, MatrixProduct)
RATTAN_KERNEL(mxint8_load, Mxint8Load)
RATTAN_KERNEL(mxint8_round, Mxint8Round)
RATTAN_KERNEL(mxint8_store, Mxint8Store)
RATTAN_KERNEL(quantize_rows, QuantizeRows)
RATTAN_KERNEL(rat_forward, RatForward)
RATTAN_KERNEL(rat_backward, RatBackward)
RATTAN_KERNEL(rope, Rope)
RATTAN_KERNEL_PLAIN(token_weights, TokenWeights)

}  // namespace rattan::kernels
