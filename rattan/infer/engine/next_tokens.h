// The choice of the next token of every sequence of a step.
#pragma once
#include <c10/core/Event.h>

#include <optional>
#include <string>
#include <vector>

#include "rattan/infer/engine/reader.h"
#include "rattan/infer/engine/sequence.h"

namespace rattan::infer {

struct NextToken {
  Choice choice;
  std::vector<TokenChoice> top;
  std::string error;  // not empty: this sequence cannot go on
};

// Whether a kernel can choose: the logits are taken as they come and nothing more is asked about them.
bool draws_plainly(const Sequence& sequence);
// For the token behind those that are known or on their way.
kernels::DrawRule draw_rule(const Sequence& sequence);

// One of each; `next` holds one row a sequence. Ids are below `vocabulary`. The rows of those that need the host come
// to it in one copy.
std::vector<NextToken> next_tokens(const std::vector<Sequence*>& sequences, const Reader::Next& next,
                                   int64_t vocabulary);

// Tokens that were chosen on the device, on their way to the host while the next step runs.
class Flight {
 public:
  Flight() = default;
  Flight(std::vector<Sequence*> sequences, const Reader::Next& next);

  // Waits for them. One of each of `sequences`.
  std::vector<NextToken> land();
  const std::vector<Sequence*>& sequences() const { return sequences_; }
  int64_t place(const Sequence& sequence) const;  // -1: not among them
  void forget(const Sequence& sequence);          // its entry becomes null

 private:
  std::vector<Sequence*> sequences_;
  at::Tensor ids_, logprobs_;  // on the host
  std::optional<c10::Event> arrived_;
};

// A token's probability, then the n most probable ones.
std::vector<TokenChoice> told(std::span<const float> logits, int32_t id, int64_t n);

}  // namespace rattan::infer
