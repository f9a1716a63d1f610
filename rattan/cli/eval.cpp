// rattan eval WHAT: one file eval_<name>.cpp and one line here make an evaluation.
#include "rattan/cli/verb.h"

namespace rattan::cli {

#define RATTAN_EVALUATIONS(X) X(ppl)

#define X(name) extern const Verb eval_##name##_verb;
RATTAN_EVALUATIONS(X)
#undef X

namespace eval_file {

void declare(CLI::App& verb) {
  verb.require_subcommand(1);
  for (const Verb& evaluation : {
#define X(name) eval_##name##_verb,
           RATTAN_EVALUATIONS(X)
#undef X
       })
    evaluation.declare(*verb.add_subcommand(evaluation.name, evaluation.summary));
}

}  // namespace eval_file

extern const Verb eval_verb;
const Verb eval_verb = {"eval", "measure how good a model is", eval_file::declare};

}  // namespace rattan::cli
