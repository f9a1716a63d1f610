// Shapes of texts, compiled for one vocabulary; the last few are kept, for clients that ask for the same one again.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "rattan/infer/engine.h"
#include "rattan/infer/grammar/vocabulary.h"
#include "rattan/serve/request.h"

namespace rattan::serve {

class Grammars {
 public:
  explicit Grammars(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // Any thread. InputError for a shape that is none or too complex, or a vocabulary without an end token; nullptr for
  // a free text.
  std::shared_ptr<const infer::Grammar> get(const Shape& shape);

 private:
  const Tokenizer& tokenizer_;
  std::mutex mutex_;
  std::shared_ptr<const infer::Vocabulary> vocabulary_;                      // made when first needed
  std::list<std::pair<Shape, std::shared_ptr<const infer::Grammar>>> kept_;  // the last used first
};

}  // namespace rattan::serve
