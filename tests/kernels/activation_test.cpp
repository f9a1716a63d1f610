#include "rattan/kernels/activation.h"

#include "rattan/kernels/ref/activation_ref.h"
#include "tests/kernels/kernel_test_util.h"

namespace rattan::kernels::activation_test_file {

constexpr Activation kinds[] = {Activation::gelu, Activation::swiglu, Activation::sigmoid_mul};

const char* name_of(Activation kind) {
  if (kind == Activation::gelu) return "gelu";
  return kind == Activation::swiglu ? "swiglu" : "sigmoid_mul";
}

template <class T>
ActivationForward<T> forward_arguments(Activation kind, int64_t rows, int64_t dim, const Rows<T>& a, const Rows<T>& b,
                                       Rows<T>& out) {
  return {kind, rows, dim, a.view(), kind == Activation::gelu ? RowsRef<const T>{} : b.view(), out.ref()};
}

std::vector<double> expected_forward(Activation kind, const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = ref::activation(kind, a[i], b[i]);
  return out;
}

struct Shape {
  int64_t rows, dim, padding;
};
std::vector<Shape> shapes() { return {{1, 1, 0}, {5, 7, 3}, {64, 130, 0}, {301, 67, 5}, {2, 20000, 1}}; }

template <class T>
class ActivationKernel : public ::testing::Test {};
using Types = ::testing::Types<float, bf16>;
TYPED_TEST_SUITE(ActivationKernel, Types);

// fp32: exp, a division and a few products. bf16: the output is rounded once.
template <class T>
constexpr double output_bound = std::is_same_v<T, bf16> ? rounding<bf16>() : 8 * rounding<float>();

TYPED_TEST(ActivationKernel, ForwardIsTheFormula) {
  for_each_isa([] {
    uint64_t seed = 600;
    for (auto [rows, dim, padding] : shapes()) {
      for (Activation kind : kinds) {
        SCOPED_TRACE(::testing::Message() << name_of(kind) << ", seed " << seed << ", " << rows << " x " << dim);
        Rng rng(seed++);
        auto a = Rows<TypeParam>::normal(rng, rows, dim, padding, 2);
        auto b = Rows<TypeParam>::normal(rng, rows, dim, 2 * padding);
        Rows<TypeParam> out(rows, dim, padding + 1);
        activation_forward(forward_arguments(kind, rows, dim, a, b, out));
        EXPECT_LE(relative_rms_error(out.values(), expected_forward(kind, a.values(), b.values())),
                  output_bound<TypeParam>);
        EXPECT_TRUE(out.padding_untouched());
      }
    }
  });
}

template <class T>
struct Gradients {
  Rows<T> d_a, d_b;
  bool operator==(const Gradients& other) const { return d_a == other.d_a && d_b == other.d_b; }
};

template <class T>
Gradients<T> backward(Activation kind, int64_t rows, int64_t dim, const Rows<T>& a, const Rows<T>& b, const Rows<T>& d,
                      int64_t padding) {
  Gradients<T> out{Rows<T>(rows, dim, padding), Rows<T>(rows, dim, padding)};
  bool gelu = kind == Activation::gelu;
  activation_backward(ActivationBackward<T>{kind, rows, dim, a.view(), gelu ? RowsRef<const T>{} : b.view(), d.view(),
                                            out.d_a.ref(), gelu ? RowsRef<T>{} : out.d_b.ref()});
  return out;
}

TYPED_TEST(ActivationKernel, BackwardIsItsGradient) {
  for_each_isa([] {
    uint64_t seed = 700;
    for (auto [rows, dim, padding] : shapes()) {
      for (Activation kind : kinds) {
        SCOPED_TRACE(::testing::Message() << name_of(kind) << ", seed " << seed << ", " << rows << " x " << dim);
        Rng rng(seed++);
        auto a = Rows<TypeParam>::normal(rng, rows, dim, padding, 2);
        auto b = Rows<TypeParam>::normal(rng, rows, dim, 2 * padding);
        auto d = Rows<TypeParam>::normal(rng, rows, dim, 3 * padding);
        auto out = backward(kind, rows, dim, a, b, d, padding);
        std::vector<double> av = a.values(), bv = b.values(), dv = d.values(), d_a(av.size()), d_b(av.size());
        for (std::size_t i = 0; i < av.size(); ++i) {
          auto gradient = ref::activation_gradient(kind, av[i], bv[i], dv[i]);
          d_a[i] = gradient.d_a;
          d_b[i] = gradient.d_b;
        }
        EXPECT_LE(relative_rms_error(out.d_a.values(), d_a), output_bound<TypeParam>);
        EXPECT_TRUE(out.d_a.padding_untouched());
        if (kind != Activation::gelu) {
          EXPECT_LE(relative_rms_error(out.d_b.values(), d_b), output_bound<TypeParam>);
        }
        Rows<TypeParam> in_place = d, d_b_again(rows, dim, padding);
        activation_backward(ActivationBackward<TypeParam>{kind, rows, dim, a.view(), b.view(), in_place.view(),
                                                          in_place.ref(), d_b_again.ref()});
        EXPECT_EQ(in_place.values(), out.d_a.values()) << "d_a may be d_out";
      }
    }
  });
}

// Each element on its own, over all sizes that matter: within 1e-6, as its users are promised.
TEST(Gelu, IsCloseEverywhere) {
  for_each_isa([] {
    std::vector<double> x;
    for (double v = -20; v <= 20; v += 1.0 / 512) x.push_back(v);
    int64_t n = static_cast<int64_t>(x.size());
    std::vector<float> in = from_doubles<float>(x), out(x.size(), NAN), d(x.size(), 1.0f), d_in(x.size(), NAN);
    activation_forward(ActivationForward<float>{Activation::gelu, 1, n, {in.data(), n}, {}, {out.data(), n}});
    activation_backward(
        ActivationBackward<float>{Activation::gelu, 1, n, {in.data(), n}, {}, {d.data(), n}, {d_in.data(), n}, {}});
    for (std::size_t i = 0; i < x.size(); ++i) {
      double expected = ref::activation(Activation::gelu, x[i], 0);
      ASSERT_NEAR(out[i], expected, std::max(1e-6, std::abs(x[i]) * 0x1p-23)) << "gelu(" << x[i] << ")";
      ASSERT_NEAR(d_in[i], ref::activation_gradient(Activation::gelu, x[i], 0, 1).d_a, 1e-6) << "gelu'(" << x[i] << ")";
    }
  });
}

// Large arguments saturate, nothing overflows; NaN stays NaN.
TYPED_TEST(ActivationKernel, ExtremesAndNaN) {
  for_each_isa([] {
    constexpr int64_t n = 20;
    for (Activation kind : kinds) {
      SCOPED_TRACE(name_of(kind));
      Rows<TypeParam> a(1, n), b(1, n), d(1, n), out(1, n);
      for (int64_t i = 0; i < n; ++i) {
        a.at(0, i) = from_double<TypeParam>(i % 3 == 0 ? 1024 : i % 3 == 1 ? -1024 : NAN);
        b.at(0, i) = from_double<TypeParam>(2);
        d.at(0, i) = from_double<TypeParam>(1);
      }
      activation_forward(forward_arguments(kind, 1, n, a, b, out));
      auto gradients = backward(kind, 1, n, a, b, d, 0);
      double high = kind == Activation::gelu ? 1024 : kind == Activation::swiglu ? 2048 : 2;
      double slope = kind == Activation::gelu ? 1 : kind == Activation::swiglu ? 2 : 0;
      for (int64_t i = 0; i < n; ++i) {
        double value = to_double(out.at(0, i)), d_a = to_double(gradients.d_a.at(0, i));
        if (i % 3 == 2) {
          EXPECT_TRUE(std::isnan(value) && std::isnan(d_a));
        } else {
          EXPECT_NEAR(value, i % 3 == 0 ? high : 0, i % 3 == 0 ? high * 0x1p-23 : 1e-30);
          EXPECT_NEAR(d_a, i % 3 == 0 ? slope : 0, kind == Activation::gelu ? 1e-6 : 1e-30);
        }
      }
    }
  });
}

TYPED_TEST(ActivationKernel, ThreadsDoNotChangeABit) {
  for_each_isa([] {
    constexpr int64_t rows = 400, dim = 130;
    Rng rng(601);
    auto a = Rows<TypeParam>::normal(rng, rows, dim), b = Rows<TypeParam>::normal(rng, rows, dim);
    auto d = Rows<TypeParam>::normal(rng, rows, dim);
    for (Activation kind : kinds) {
      expect_same_for_any_thread_count([&] {
        Rows<TypeParam> out(rows, dim);
        activation_forward(forward_arguments(kind, rows, dim, a, b, out));
        return out;
      });
      expect_same_for_any_thread_count([&] { return backward(kind, rows, dim, a, b, d, 0); });
    }
  });
}

TYPED_TEST(ActivationKernel, SizesMayBeZero) {
  for_each_isa([] {
    for (auto [rows, dim] : {std::pair{0, 5}, std::pair{5, 0}}) {
      Rows<TypeParam> empty(rows, dim);
      for (Activation kind : kinds) {
        activation_forward(forward_arguments(kind, rows, dim, empty, empty, empty));
        backward(kind, rows, dim, empty, empty, empty, 0);
      }
    }
  });
}

// The reference itself: its gradients against central differences, all in float64.
TEST(ActivationReference, GradientsAreThoseOfTheFormula) {
  Rng rng(602);
  for (Activation kind : kinds) {
    for (int i = 0; i < 50; ++i) {
      double a = 2 * rng.normal(), b = rng.normal(), d = rng.normal(), step = 1e-5;
      auto gradient = ref::activation_gradient(kind, a, b, d);
      auto slope = [&](double da, double db) {
        return d * (ref::activation(kind, a + da, b + db) - ref::activation(kind, a - da, b - db)) / (2 * step);
      };
      EXPECT_NEAR(gradient.d_a, slope(step, 0), 1e-8) << name_of(kind);
      EXPECT_NEAR(gradient.d_b, slope(0, step), 1e-8) << name_of(kind);
    }
  }
}

}  // namespace rattan::kernels::activation_test_file
