// Keys and values held in 8 bits (kernels/mxint8.h): written, read, rounded, attended to.
#include <ATen/ops/empty.h>
#include <fmt/ranges.h>
#include <torch/library.h>

#include "rattan/kernels/attention.h"
#include "rattan/kernels/mxint8.h"
#include "rattan/ops/launch.h"
#include "rattan/ops/ops.h"

namespace rattan::ops {
namespace cache_file {

using at::Tensor;

void check_cache(const char* op, const Tensor& codes, const Tensor& exponents) {
  require(
      codes.dim() == 3 && codes.scalar_type() == at::kChar && exponents.scalar_type() == at::kByte &&
          exponents.sizes() == at::IntArrayRef({codes.size(0), codes.size(1), kernels::mxint8_blocks(codes.size(2))}) &&
          (codes.size(2) <= 1 || codes.stride(2) == 1) && (exponents.size(2) <= 1 || exponents.stride(2) == 1),
      "rattan::{}: an 8-bit cache is int8 codes [rows, heads, p] and uint8 exponents [rows, heads, p / 32 rounded "
      "up], dense in their last dimensions; got {} [{}] and {} [{}]",
      op, c10::toString(codes.scalar_type()), fmt::join(codes.sizes(), ", "), c10::toString(exponents.scalar_type()),
      fmt::join(exponents.sizes(), ", "));
}

// Row numbers in [0, rows); on a device they are the caller's word.
void check_rows(const char* op, const Tensor& index, int64_t rows) {
  require(index.dim() == 1 && index.scalar_type() == at::kLong && index.is_contiguous(),
          "rattan::{}: row numbers must be contiguous int64 [n]", op);
  if (!index.is_cpu()) return;
  const auto* value = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i)
    require(value[i] >= 0 && value[i] < rows, "rattan::{}: row {} is not one of {}", op, value[i], rows);
}

kernels::Mxint8Heads<const int8_t> read_ref(const Tensor& codes, const Tensor& exponents) {
  return {heads_ref<const int8_t>(codes), heads_ref<const uint8_t>(exponents)};
}

void store(Tensor codes, Tensor exponents, const Tensor& x_in, const OptionalTensor& from, const Tensor& to) {
  check_cache("cache_store_", codes, exponents);
  const Tensor x = dense_last(x_in);
  require(x.dim() == 3 && x.size(1) == codes.size(1) && x.size(2) == codes.size(2),
          "rattan::cache_store_: rows of {} x {} do not take x [{}]", codes.size(1), codes.size(2),
          fmt::join(x.sizes(), ", "));
  check_rows("cache_store_", to, codes.size(0));
  if (from) check_rows("cache_store_", *from, x.size(0));
  require(to.size(0) == (from ? from->size(0) : x.size(0)), "rattan::cache_store_: {} rows for {} places",
          from ? from->size(0) : x.size(0), to.size(0));
  with_type("cache_store_", x.scalar_type(), [&]<class T>() {
    kernels::Mxint8Store<T> a;
    a.rows = to.size(0), a.heads = x.size(1), a.dim = x.size(2);
    a.from = pointer<const int64_t>(from), a.to = pointer<const int64_t>(to);
    a.x = heads_ref<const T>(x), a.y = {heads_ref<int8_t>(codes), heads_ref<uint8_t>(exponents)};
    RATTAN_LAUNCH("cache_store_", x, mxint8_store, a);
  });
}

Tensor load(const Tensor& codes, const Tensor& exponents, const Tensor& from, at::ScalarType dtype) {
  check_cache("cache_load", codes, exponents);
  check_rows("cache_load", from, codes.size(0));
  Tensor y = at::empty({from.size(0), codes.size(1), codes.size(2)}, codes.options().dtype(dtype));
  with_type("cache_load", dtype, [&]<class T>() {
    kernels::Mxint8Load<T> a;
    a.rows = from.size(0), a.heads = codes.size(1), a.dim = codes.size(2);
    a.from = pointer<const int64_t>(from), a.x = read_ref(codes, exponents), a.y = heads_ref<T>(y);
    RATTAN_LAUNCH("cache_load", codes, mxint8_load, a);
  });
  return y;
}

Tensor round(const Tensor& x) {
  require(x.dim() == 3, "rattan::cache_round: x must be [rows, heads, p], got {} dimensions", x.dim());
  Tensor y = x.clone(at::MemoryFormat::Contiguous);
  with_type("cache_round", y.scalar_type(), [&]<class T>() {
    kernels::Mxint8Round<T> a;
    a.rows = y.size(0), a.heads = y.size(1), a.dim = y.size(2), a.x = heads_ref<T>(y);
    RATTAN_LAUNCH("cache_round", y, mxint8_round, a);
  });
  return y;
}

Tensor attend(const Tensor& q_in, const Tensor& k, const Tensor& k_exponents, const Tensor& v,
              const Tensor& v_exponents, const Tensor& begin, const Tensor& end, double scale) {
  const char* name = "attention_cached";
  check_cache(name, k, k_exponents);
  check_cache(name, v, v_exponents);
  const Tensor q = dense_last(q_in);
  require(
      q.dim() == 3 && k.sizes() == v.sizes() && q.size(2) == k.size(2) && k.size(1) > 0 && q.size(1) % k.size(1) == 0,
      "rattan::{}: q [{}] does not go with keys [{}] and values [{}]", name, fmt::join(q.sizes(), ", "),
      fmt::join(k.sizes(), ", "), fmt::join(v.sizes(), ", "));
  for (const Tensor* t : {&begin, &end})
    require(t->dim() == 1 && t->size(0) == q.size(0) && t->scalar_type() == at::kInt && t->is_contiguous(),
            "rattan::{}: begin and end must be contiguous int32 [{}]", name, q.size(0));
  if (begin.is_cpu()) {
    const auto *low = begin.const_data_ptr<int32_t>(), *high = end.const_data_ptr<int32_t>();
    for (int64_t i = 0; i < q.size(0); ++i)
      require(low[i] >= high[i] || (low[i] >= 0 && high[i] <= k.size(0)),
              "rattan::{}: query {} sees keys [{}, {}) of {}", name, i, low[i], high[i], k.size(0));
  }
  Tensor o = at::empty(q.sizes(), q.options());
  with_type(name, q.scalar_type(), [&]<class T>() {
    kernels::AttentionCached<T> a;
    a.queries = q.size(0), a.keys = k.size(0), a.heads = q.size(1), a.kv_heads = k.size(1), a.dim = q.size(2);
    a.scale = static_cast<float>(scale);
    a.begin = pointer<const int32_t>(begin), a.end = pointer<const int32_t>(end);
    a.q = heads_ref<const T>(q), a.o = heads_ref<T>(o);
    a.k = read_ref(k, k_exponents), a.v = read_ref(v, v_exponents);
    RATTAN_LAUNCH_SCRATCH(name, q, attention_cached, attention_cached_scratch_bytes(a.queries, a.keys, a.heads, a.dim),
                          a);
  });
  return o;
}

void kernels_of(torch::Library& m) {
  m.impl("cache_store_", store);
  m.impl("cache_load", load);
  m.impl("cache_round", round);
  m.impl("attention_cached", attend);
}

TORCH_LIBRARY_FRAGMENT(rattan, m) {
  m.def("cache_store_(Tensor(a!) codes, Tensor(b!) exponents, Tensor x, Tensor? source, Tensor rows) -> ()");
  m.def("cache_load(Tensor codes, Tensor exponents, Tensor source, ScalarType dtype) -> Tensor");
  m.def("cache_round(Tensor x) -> Tensor");
  m.def(
      "attention_cached(Tensor q, Tensor k, Tensor k_exponents, Tensor v, Tensor v_exponents, Tensor begin, "
      "Tensor end, float scale) -> Tensor");
}
RATTAN_REGISTER(kernels_of)

}  // namespace cache_file

void cache_store(const Cached8& to, const at::Tensor& x, const at::Tensor& from, const at::Tensor& rows) {
  static auto op = handle<decltype(cache_file::store)>("rattan::cache_store_");
  op.call(to.codes, to.exponents, x.scalar_type() == at::kDouble ? x.to(at::kFloat) : x, optional(from), rows);
}

at::Tensor cache_load(const Cached8& cache, const at::Tensor& rows, at::ScalarType dtype) {
  static auto op = handle<decltype(cache_file::load)>("rattan::cache_load");
  if (dtype == at::kDouble) return cache_load(cache, rows, at::kFloat).to(dtype);
  return op.call(cache.codes, cache.exponents, rows, dtype);
}

at::Tensor cache_round(const at::Tensor& x) {
  static auto op = handle<decltype(cache_file::round)>("rattan::cache_round");
  if (x.scalar_type() == at::kDouble) return cache_round(x.to(at::kFloat)).to(at::kDouble);
  return op.call(x);
}

at::Tensor attention_cached(const at::Tensor& q, const Cached8& k, const Cached8& v, const at::Tensor& begin,
                            const at::Tensor& end, double scale) {
  static auto op = handle<decltype(cache_file::attend)>("rattan::attention_cached");
  return op.call(q, k.codes, k.exponents, v.codes, v.exponents, begin, end, scale);
}

}  // namespace rattan::ops
