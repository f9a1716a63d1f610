// The layout: prefixes, full visibility, padding on either side, marks and grids as a mixer sees them.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>

#include "rattan/base/error.h"
#include "rattan/nn/core.h"
#include "tests/probes/probe.h"

namespace rattan::probes {
namespace layout_test_file {

// Attention of one head whose queries, keys and values are the input.
class Attend : public StatelessMixer {
 public:
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    const at::Tensor h = x.reshape({-1, 1, x.size(-1)});
    return nn::core_of(call).attend({.q = h, .kv = {h, h}, .mask = call.layout.mask(), .bias = {}}, call).o.view_as(x);
  }
};

// Adds the mark of each token, and the height of the grid.
class Marked : public StatelessMixer {
 public:
  at::Tensor forward(const at::Tensor& x, nn::Call& call) override {
    const double height = call.layout.grid ? static_cast<double>(call.layout.grid->height) : 0;
    return x + call.layout.marks.to(x.scalar_type()).unsqueeze(-1) + height;
  }
};

class LayoutTest : public testing::Test {
 protected:
  at::Tensor run(const at::Tensor& input, const nn::Layout& layout) {
    nn::Call call{layout};
    return attend.forward(input, call);
  }
  // Which outputs of row 0 change with token `t`.
  std::vector<bool> reached(const nn::Layout& layout, int64_t t) {
    at::Tensor changed = x.clone();
    changed.select(1, t).add_(1);
    const at::Tensor moved = (run(changed, layout) != run(x, layout)).any(-1).select(0, 0);
    std::vector<bool> out;
    for (int64_t i = 0; i < moved.numel(); ++i) out.push_back(moved[i].item<bool>());
    return out;
  }
  using Which = std::vector<bool>;
  Attend attend;
  at::Tensor x = random({1, 6, 8}, 2);
};

TEST_F(LayoutTest, APrefixSeesItselfWhole) {
  const nn::Layout layout(1, 6, {{.row = 0, .begin = 0, .end = 6, .prefix = 3}});
  EXPECT_EQ(reached(layout, 2), (Which{true, true, true, true, true, true}));
  EXPECT_EQ(reached(layout, 4), (Which{false, false, false, false, true, true}));
}

TEST_F(LayoutTest, EachDocumentHasAPrefixOfItsOwn) {
  const nn::Layout layout(
      1, 6, {{.row = 0, .begin = 0, .end = 2, .prefix = 2}, {.row = 0, .begin = 2, .end = 6, .prefix = 2}});
  EXPECT_EQ(reached(layout, 1), (Which{true, true, false, false, false, false}));
  EXPECT_EQ(reached(layout, 3), (Which{false, false, true, true, true, true}));
}

TEST_F(LayoutTest, FullMeansTheWholeSegment) {
  nn::Layout layout(1, 6, {{.row = 0, .begin = 0, .end = 4}, {.row = 0, .begin = 4, .end = 6}});
  layout.mask();  // a causal mask that was derived before must not be taken for the full one
  layout.visible = nn::Visible::full;
  EXPECT_EQ(reached(layout, 3), (Which{true, true, true, true, false, false}));
  EXPECT_EQ(reached(layout, 4), (Which{false, false, false, false, true, true}));
  const nn::MaskSpec& window = layout.mask(1, 1);
  EXPECT_EQ(window.begin[2].item<int32_t>(), 1);
  EXPECT_EQ(window.end[2].item<int32_t>(), 4);
}

TEST_F(LayoutTest, PaddingOnEitherSideIsInert) {
  const at::Tensor alone = run(x.slice(1, 0, 4), nn::Layout::uniform(1, 4));
  for (int32_t left : {0, 1, 2}) {
    SCOPED_TRACE(fmt::format("{} padding tokens on the left", left));
    const nn::Layout layout(1, 6, {{.row = 0, .begin = left, .end = left + 4}});
    EXPECT_TRUE(layout.has_padding());
    const at::Tensor filler = random({1, 6, 8}, 3);
    const at::Tensor padded =
        at::cat({filler.slice(1, 0, left), x.slice(1, 0, 4), filler.slice(1, left + 4)}, 1).set_requires_grad(true);
    const at::Tensor y = run(padded, layout);
    EXPECT_LT(distance(y.slice(1, left, left + 4), alone), 1e-6);  // fp32, perhaps in other tiles
    EXPECT_EQ(layout.positions()[left].item<int32_t>(), 0) << "positions count tokens, not slots";
    torch::autograd::backward({y}, {random(y.sizes(), 4)});
    const at::Tensor outside = layout.valid().logical_not().view({1, 6, 1});
    EXPECT_EQ(y.masked_select(outside).abs().sum().item<double>(), 0);
    EXPECT_EQ(padded.grad().masked_select(outside).abs().sum().item<double>(), 0);
  }
}

TEST_F(LayoutTest, MarksAndGridReachTheMixerAndItsRecomputation) {
  Blocks blocks;
  blocks.add(std::make_unique<Marked>());
  nn::Layout layout = nn::Layout::uniform(1, 6);
  layout.marks = at::arange(6).view({1, 6});
  layout.grid = nn::Grid{2, 3};
  nn::Call call{layout};
  const auto expected = gradients(blocks, x, call);
  // The stream adds: y = x + (x + mark + height).
  EXPECT_LT(distance(expected.at("y"), x + (x + layout.marks.unsqueeze(-1) + 2)), 1e-5);  // fp32 sums near 10
  blocks.stack.checkpoint = true;
  expect_same(gradients(blocks, x, call), expected);
}

TEST_F(LayoutTest, CopiesShareWhatIsDerived) {
  const nn::Layout layout = nn::Layout::uniform(1, 6);
  nn::Layout copy = layout;
  copy.visible = nn::Visible::full;
  EXPECT_EQ(copy.positions().data_ptr(), layout.positions().data_ptr());
}

TEST_F(LayoutTest, SegmentsThatCannotBeAreInputErrors) {
  using Segments = std::vector<nn::Segment>;
  const std::vector<std::pair<const char*, Segments>> wrong = {
      {"empty", {{.row = 0, .begin = 2, .end = 2}}},
      {"beyond the row", {{.row = 0, .begin = 0, .end = 7}}},
      {"before the row", {{.row = 0, .begin = -1, .end = 2}}},
      {"no such row", {{.row = 1, .begin = 0, .end = 2}}},
      {"negative row", {{.row = -1, .begin = 0, .end = 2}}},
      {"overlap", {{.row = 0, .begin = 0, .end = 3}, {.row = 0, .begin = 2, .end = 4}}},
      {"not ascending", {{.row = 0, .begin = 3, .end = 4}, {.row = 0, .begin = 0, .end = 2}}},
      {"negative position", {{.row = 0, .begin = 0, .end = 2, .pos0 = -1}}},
      {"prefix longer than the segment", {{.row = 0, .begin = 0, .end = 2, .prefix = 3}}},
      {"negative prefix", {{.row = 0, .begin = 0, .end = 2, .prefix = -1}}},
  };
  for (const auto& [what, segments] : wrong) EXPECT_THROW(nn::Layout(1, 6, segments), InputError) << what;
}

}  // namespace layout_test_file
}  // namespace rattan::probes
