// A pattern over a vocabulary: the tokens that may follow, state by state.
#pragma once
#include <memory>
#include <mutex>
#include <unordered_map>

#include "rattan/infer/engine.h"
#include "rattan/infer/grammar/dfa.h"
#include "rattan/infer/grammar/vocabulary.h"

namespace rattan::infer {

// A text made under it fits the pattern as a whole, however it is cut into tokens, if it ends by the end token. In
// every state either some token may follow or the end, and from every state the end can be reached. Threads may
// share it.
class TokenGrammar : public Grammar {
 public:
  // InputError for a pattern that is too complex, or that nothing fits.
  TokenGrammar(std::shared_ptr<const Vocabulary> vocabulary, const Pattern& pattern);

  int64_t start() const override { return dfa_.start(); }
  const std::vector<uint64_t>& allowed(int64_t state) const override;
  // A token that is not allowed leads to a state where nothing but the end may come.
  int64_t next(int64_t state, int32_t id) const override;

 private:
  std::vector<uint64_t> look(int32_t state) const;

  const std::shared_ptr<const Vocabulary> vocabulary_;
  const Dfa dfa_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<int64_t, std::vector<uint64_t>> allowed_;  // made when first asked for
};

// The whole text matches the expression (regex.h).
std::shared_ptr<const Grammar> regex_grammar(std::shared_ptr<const Vocabulary> vocabulary, std::string_view regex);
// The text is a JSON value that the schema, itself JSON, accepts (json_schema.h).
std::shared_ptr<const Grammar> schema_grammar(std::shared_ptr<const Vocabulary> vocabulary, std::string_view schema);
// The text is a JSON object.
std::shared_ptr<const Grammar> json_grammar(std::shared_ptr<const Vocabulary> vocabulary);

}  // namespace rattan::infer
