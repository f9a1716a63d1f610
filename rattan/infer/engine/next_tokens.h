// The choice of the next token of every sequence of a step.
#pragma once
#include <vector>

#include "rattan/infer/engine/reader.h"
#include "rattan/infer/engine/sequence.h"

namespace rattan::infer {

struct NextToken {
  Choice choice;
  std::vector<TokenChoice> top;
  std::string error;  // not empty: this sequence cannot go on
};

// Whether the device may choose: the most probable token is wanted and nothing more is asked about it.
bool takes_best(const Sequence& sequence);

// One of each; `next` holds one row a sequence. Ids are below `vocabulary`. The rows of those that need the host come
// to it in one copy.
std::vector<NextToken> next_tokens(const std::vector<Sequence*>& sequences, const Reader::Next& next,
                                   int64_t vocabulary);

// A token's probability, then the n most probable ones.
std::vector<TokenChoice> told(std::span<const float> logits, int32_t id, int64_t n);

}  // namespace rattan::infer
