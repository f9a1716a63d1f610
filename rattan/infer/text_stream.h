// The text of a sequence as its tokens are made: whole characters only, and no part of a stop string.
#pragma once
#include <string>
#include <vector>

#include "rattan/data/tokenizer.h"
#include "rattan/infer/stop.h"
#include "rattan/infer/utf8.h"

namespace rattan::infer {

class TextStream {
 public:
  // `begun`: tokens that add text came before, so that a blank at the start belongs to the text. InputError for an
  // empty stop string.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops, bool begun)
      : tokenizer_(&tokenizer), stop_(std::move(stops)), begun_(begun) {}

  std::string push(int32_t id);  // what can be shown now
  std::string finish();          // what was held back, once no token follows
  bool stopped() const { return stop_.stopped(); }

 private:
  const Tokenizer* tokenizer_;
  StopMatcher stop_;
  Utf8Stream utf8_;
  bool begun_;
};

}  // namespace rattan::infer
