// Reads tokens into the rows of a StateStore: one token of many sequences, or pieces of prompts.
//
// `strict`: the bits of a sequence's state and logits depend on its own tokens alone, whatever is read beside it and
// however its prompt is cut. So every token takes the path of a decoding step, which sums in an order that depends on
// the token's position alone, in groups of at most `strict_rows` sequences (kernels/few_rows_linear.h); on a GPU every
// group is filled up to exactly that size, so that libraries choose the same kernel.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "rattan/infer/context.h"
#include "rattan/infer/engine/state_store.h"

namespace rattan::infer {

class Reader {
 public:
  static constexpr int64_t strict_rows = 16;

  // On a GPU a row of no sequence fills up batches.
  static int64_t spare_rows(at::Device device) { return device.is_cuda() ? 1 : 0; }

  // `sequences` rows with room for `capacity` tokens each.
  Reader(models::Model& model, int64_t sequences, int64_t capacity, bool graph, bool strict);

  struct Token {
    int64_t row = 0, held = 0;  // tokens that the row holds already
    int32_t id = 0;
    int64_t follows = -1;  // not negative: the token is this one of those that the last step chose, instead of `id`
    kernels::DrawRule rule{};
  };
  struct Next {
    at::Tensor logits;         // fp32 [n, V] on the device, until the next step
    at::Tensor ids, logprobs;  // int64 [n], float64 [n]: drawn by the rules; or undefined
  };
  // One token of each. choose > 0: the next tokens are drawn on the device too, among the first `choose` ids; needs
  // chooses().
  Next step(std::span<const Token> tokens, int64_t choose);
  bool chooses() const { return serves_steps_ && !strict_; }
  // On a GPU: records the steps of every size beforehand, which takes a second or two and would hold up the first
  // sequences. `choose` as step() will be given it.
  void record(int64_t choose);

  // Prompts. `logits` is told fp32 [m, V] of tokens first .. first + m - 1 of a piece, for the pieces that want them.
  struct Piece {
    Reading reading;
    bool wants_logits = false;
  };
  using Logits = std::function<void(std::size_t piece, int64_t first, const at::Tensor& logits)>;
  void read(std::span<const Piece> pieces, const Logits& logits);

  // A model whose first reading must hold the whole prompt.
  bool whole_prefix() const { return whole_prefix_; }
  StateStore& store() { return store_; }
  at::Device device() const { return device_; }

 private:
  Next step_once(std::span<const Token> tokens, int64_t slots, int64_t choose);
  void read_strictly(std::span<const Piece> pieces, const Logits& logits);
  DecodeStep& step_of(int64_t slots, int64_t choose);

  models::Model& model_;
  at::Device device_;
  bool graph_, strict_, serves_steps_, whole_prefix_;
  int64_t sequences_;
  StateStore store_;
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<DecodeStep>> steps_;  // by slots and `choose`
  DecodeStep* last_ = nullptr;                                                // that chose
};

}  // namespace rattan::infer
