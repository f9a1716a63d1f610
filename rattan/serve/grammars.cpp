#include "rattan/serve/grammars.h"

#include <algorithm>

#include "rattan/infer/grammar/token_grammar.h"

namespace rattan::serve {
namespace grammars_file {

constexpr std::size_t kKept = 8;

}  // namespace grammars_file

std::shared_ptr<const infer::Grammar> Grammars::get(const Shape& shape) {
  if (shape.kind == Shape::Kind::free) return nullptr;
  std::shared_ptr<const infer::Vocabulary> vocabulary;
  {
    const std::lock_guard lock(mutex_);
    if (!vocabulary_) vocabulary_ = std::make_shared<infer::Vocabulary>(tokenizer_);
    vocabulary = vocabulary_;
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& entry) {
      return entry.first.kind == shape.kind && entry.first.text == shape.text;
    });
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
      return found->second;
    }
  }
  // Without the lock: a complex shape must not hold up the others.
  std::shared_ptr<const infer::Grammar> made;
  switch (shape.kind) {
    case Shape::Kind::json_object:
      made = infer::json_grammar(vocabulary);
      break;
    case Shape::Kind::json_schema:
      made = infer::schema_grammar(vocabulary, shape.text);
      break;
    case Shape::Kind::regex:
      made = infer::regex_grammar(vocabulary, shape.text);
      break;
    case Shape::Kind::free:
      break;
  }
  const std::lock_guard lock(mutex_);
  kept_.emplace_front(shape, made);
  if (kept_.size() > grammars_file::kKept) kept_.pop_back();
  return made;
}

}  // namespace rattan::serve
