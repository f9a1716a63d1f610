#include "rattan/cli/verbs.h"

#include <vector>

namespace rattan::cli {

// One line here and one file beside this one make a verb.
#define RATTAN_VERBS(X) \
  X(demo)               \
  X(tokenizer)          \
  X(data)               \
  X(init)               \
  X(train)              \
  X(generate)           \
  X(chat)               \
  X(serve)              \
  X(score)              \
  X(eval)               \
  X(bench)              \
  X(study)              \
  X(inspect)            \
  X(doctor)             \
  X(docs)

#define X(name) extern const Verb name##_verb;
RATTAN_VERBS(X)
#undef X

std::span<const Verb> verbs() {
  static const std::vector<Verb> table = {
#define X(name) name##_verb,
      RATTAN_VERBS(X)
#undef X
  };
  return table;
}

}  // namespace rattan::cli
