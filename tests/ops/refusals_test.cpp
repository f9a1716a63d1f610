// Operators can be called from Python with anything: whatever would make a kernel read or write elsewhere is an
// InputError that names the operator, and the inputs of ops_inputs.h are none of these.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <tuple>

#include "rattan/base/error.h"
#include "tests/ops/ops_inputs.h"

namespace rattan::ops_test::refusals_test {

using testing::HasSubstr;

template <class Inputs, class Run>
void expect_refusal(const std::string& what, const std::string& op, Run&& run,
                    const std::function<void(Inputs&)>& spoil) {
  SCOPED_TRACE(what);
  at::manual_seed(7);
  Inputs inputs;
  ASSERT_NO_THROW(run(inputs)) << "the unspoiled input";
  spoil(inputs);
  try {
    run(inputs);
    ADD_FAILURE() << "was taken";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr(op));
  }
}

int32_t& entry(at::Tensor& table, int64_t row, int64_t column) {
  return table.data_ptr<int32_t>()[row * table.size(1) + column];
}

void expect_rat(const std::string& what, const std::function<void(RatInputs&)>& spoil) {
  expect_refusal<RatInputs>(
      what, "rattan::rat", [](RatInputs& i) { i.run(); }, spoil);
}
void expect_carried(const std::string& what, const std::function<void(RatInputs&)>& spoil) {
  expect_refusal<RatInputs>(
      what, "rattan::rat", [](RatInputs& i) { i.run_carried(); }, spoil);
}
void expect_extend(const std::string& what, const std::function<void(RatInputs&)>& spoil) {
  expect_refusal<RatInputs>(
      what, "rattan::rat", [](RatInputs& i) { i.extend(); }, spoil);
}

TEST(Refusals, RatShapesAndTypes) {
  expect_rat("narrow proj", [](RatInputs& i) { i.proj = i.proj.narrow(1, 0, 31); });
  expect_rat("proj of three dimensions", [](RatInputs& i) { i.proj = i.proj.view({2, 8, 32}); });
  expect_rat("float64 proj", [](RatInputs& i) { i.proj = i.proj.to(at::kDouble); });
  expect_rat("bf16 gate bias", [](RatInputs& i) { i.gate_bias = i.gate_bias.to(at::kBFloat16); });
  expect_rat("strided gate bias", [](RatInputs& i) { i.gate_bias = at::randn({16}).slice(0, 0, 16, 2); });
  expect_rat("no heads", [](RatInputs& i) { i.heads = 0; });
  expect_rat("groups that do not divide", [](RatInputs& i) { i.groups = 3; });
  expect_rat("no rows", [](RatInputs& i) { i.rows = 0; });
  expect_rat("short tables", [](RatInputs& i) { i.cos = i.cos.narrow(1, 0, 1).contiguous(); });
  expect_rat("bf16 tables", [](RatInputs& i) { i.cos = i.cos.to(at::kBFloat16); });
  expect_rat("cos alone", [](RatInputs& i) { i.sin = at::Tensor(); });
  expect_rat("int64 chunk table", [](RatInputs& i) { i.table = i.table.to(at::kLong); });
  expect_rat("chunk table of six columns", [](RatInputs& i) { i.table = i.table.narrow(1, 0, 6).contiguous(); });
}

TEST(Refusals, RatTables) {
  // Columns: begin, end, first, slot, position, from, to.
  const std::vector<std::tuple<std::string, int64_t, int64_t, int32_t>> spoiled = {
      {"begin before the tokens", 0, 0, -1}, {"end behind the tokens", 3, 1, 17}, {"an empty chunk", 1, 1, 4},
      {"a chunk longer than L", 0, 1, 5},    {"first below 0", 0, 2, -1},         {"first above slot", 0, 2, 1},
      {"slot behind the ends", 3, 3, 4},     {"position below 0", 0, 4, -1},      {"position not in cos", 1, 4, 2},
      {"from without a state", 0, 5, 0},     {"to behind the states", 3, 6, 2}};
  for (const auto& [what, row, column, value] : spoiled)
    expect_rat(what, [&, r = row, c = column, v = value](RatInputs& i) { entry(i.table, r, c) = v; });
}

TEST(Refusals, RatStates) {
  for (const auto& expect : {expect_carried, expect_extend}) {
    expect("ends of another head size", [](RatInputs& i) { i.state.ends_k = at::randn({2, 2, 2, 3}); });
    expect("ends of other numbers", [](RatInputs& i) { i.state.ends_v = at::randn({2, 3, 2, 4}); });
    expect("ends of another type", [](RatInputs& i) { i.state.ends_k = i.state.ends_k.to(at::kBFloat16); });
    expect("bf16 running state", [](RatInputs& i) { i.state.running_k = i.state.running_k.to(at::kBFloat16); });
    expect("running state of one row", [](RatInputs& i) { i.state.running_v = at::randn({1, 2, 4}); });
  }
  expect_carried("carry of more ends than asked for", [](RatInputs& i) { i.ends = 1; });
  expect_carried("carry without running state", [](RatInputs& i) { i.state.running_k = at::Tensor(); });
  expect_extend("ends that are a view", [](RatInputs& i) { i.state.ends_k = at::randn({2, 4, 2, 4}).slice(1, 0, 2); });
}

TEST(Refusals, Attention) {
  auto expect = [](const std::string& what, const std::function<void(AttentionInputs&)>& spoil) {
    expect_refusal<AttentionInputs>(
        what, "rattan::attention", [](AttentionInputs& i) { i.run(); }, spoil);
  };
  expect("keys of another size", [](AttentionInputs& i) { i.k = at::randn({5, 2, 6}); });
  expect("values of another number", [](AttentionInputs& i) { i.v = at::randn({4, 2, 8}); });
  expect("heads that do not divide", [](AttentionInputs& i) { i.k = i.v = at::randn({5, 3, 8}); });
  expect("mixed types", [](AttentionInputs& i) { i.k = i.k.to(at::kBFloat16); });
  expect("float64", [](AttentionInputs& i) { i.q = i.q.to(at::kDouble), i.k = i.k.to(at::kDouble), i.v = i.k; });
  expect("too few intervals", [](AttentionInputs& i) { i.begin = ints({0, 0}, {2}); });
  expect("int64 intervals", [](AttentionInputs& i) { i.end = i.end.to(at::kLong); });
  expect("an interval behind the keys", [](AttentionInputs& i) { i.end = ints({1, 3, 6}, {3}); });
  expect("an interval before the keys", [](AttentionInputs& i) { i.begin = ints({-1, 0, 1}, {3}); });
}

TEST(Refusals, GatedScan) {
  auto expect = [](const std::string& what, const std::function<void(ScanInputs&)>& spoil) {
    expect_refusal<ScanInputs>(
        what, "rattan::gated_scan", [](ScanInputs& i) { i.run(); }, spoil);
  };
  expect("gate of another shape", [](ScanInputs& i) { i.gate = at::randn({6, 7}); });
  expect("gate of another type", [](ScanInputs& i) { i.gate = i.gate.to(at::kBFloat16); });
  expect("three dimensions", [](ScanInputs& i) { i.x = i.gate = at::randn({2, 3, 8}); });
  expect("short bias", [](ScanInputs& i) { i.gate_bias = at::randn({7}); });
  expect("no rows", [](ScanInputs& i) { i.rows = 0; });
  expect("narrow initial states", [](ScanInputs& i) { i.initial = at::randn({2, 7}); });
  expect("bf16 initial states", [](ScanInputs& i) { i.initial = i.initial.to(at::kBFloat16); });
  expect("too few initial states", [](ScanInputs& i) { i.initial = at::randn({1, 8}); });
  expect("overlapping segments", [](ScanInputs& i) { entry(i.table, 1, 0) = 2; });
  expect("a segment behind the tokens", [](ScanInputs& i) { entry(i.table, 1, 1) = 7; });
  expect("a state that is not there", [](ScanInputs& i) { entry(i.table, 1, 3) = 2; });
}

TEST(Refusals, Rope) {
  auto expect = [](const std::string& what, const std::function<void(RopeInputs&)>& spoil) {
    expect_refusal<RopeInputs>(
        what, "rattan::rope", [](RopeInputs& i) { i.run(); }, spoil);
  };
  expect("odd head size", [](RopeInputs& i) { i.x = at::randn({3, 2, 7}); });
  expect("two dimensions", [](RopeInputs& i) { i.x = at::randn({3, 8}); });
  expect("tables of another size", [](RopeInputs& i) { i.cos = i.sin = at::randn({5, 3}); });
  expect("tables of different length", [](RopeInputs& i) { i.sin = at::randn({4, 4}); });
  expect("float64 tables", [](RopeInputs& i) { i.cos = i.cos.to(at::kDouble); });
  expect("int64 positions", [](RopeInputs& i) { i.position = i.position.to(at::kLong); });
  expect("too few positions", [](RopeInputs& i) { i.position = ints({0, 1}, {2}); });
  expect("a position behind the table", [](RopeInputs& i) { i.position = ints({0, 5, 2}, {3}); });
  expect("a negative position", [](RopeInputs& i) { i.position = ints({0, -1, 2}, {3}); });
}

TEST(Refusals, LinearCrossEntropy) {
  auto expect = [](const std::string& what, const std::function<void(CrossEntropyInputs&)>& spoil) {
    expect_refusal<CrossEntropyInputs>(
        what, "", [](CrossEntropyInputs& i) { i.run(); }, spoil);
  };
  expect("another width", [](CrossEntropyInputs& i) { i.h = at::randn({4, 7}); });
  expect("mixed types", [](CrossEntropyInputs& i) { i.w = i.w.to(at::kBFloat16); });
  expect("int32 targets", [](CrossEntropyInputs& i) { i.target = i.target.to(at::kInt); });
  expect("too few targets", [](CrossEntropyInputs& i) { i.target = i.target.narrow(0, 0, 3); });
  expect("a target behind the vocabulary", [](CrossEntropyInputs& i) { i.target.fill_(16); });
  expect("too few weights", [](CrossEntropyInputs& i) { i.weight = at::ones({3}); });
  expect("float64 weights", [](CrossEntropyInputs& i) { i.weight = i.weight.to(at::kDouble); });
}

TEST(Refusals, Activations) {
  const at::Tensor x = at::randn({3, 4});
  EXPECT_THROW(ops::swiglu(x, at::randn({3, 5})), InputError);
  EXPECT_THROW(ops::sigmoid_mul(x, x.to(at::kBFloat16)), InputError);
  EXPECT_THROW(ops::gelu(x.to(at::kDouble)), InputError);
}

TEST(Refusals, AddRmsNorm) {
  const at::Tensor x = at::randn({3, 4}), weight = at::ones({4});
  EXPECT_NO_THROW(ops::add_rms_norm(x, x, weight, 1e-6, at::kFloat));
  EXPECT_THROW(ops::add_rms_norm(x, {}, at::ones({5}), 1e-6, at::kFloat), InputError);
  EXPECT_THROW(ops::add_rms_norm(x.to(at::kBFloat16), {}, weight, 1e-6, at::kFloat), InputError);
  EXPECT_THROW(ops::add_rms_norm(x, at::randn({3, 5}), weight, 1e-6, at::kFloat), InputError);
  EXPECT_THROW(ops::add_rms_norm(x, x, weight, 1e-6, at::kBFloat16), InputError);
}

}  // namespace rattan::ops_test::refusals_test
