// The flags that say how text inputs are read, shared by the verbs that read them.
#pragma once
#include "rattan/cli/verb.h"
#include "rattan/data/documents.h"

namespace rattan::cli {

inline void add_input_flags(CLI::App& verb, InputOptions& input) {
  verb.add_option("--format", input.format, "auto (by the file's name), text or jsonl")->capture_default_str();
  verb.add_option("--documents", input.documents,
                  "what is a document in text: the file, lines, or blank (parts between blank lines)")
      ->capture_default_str();
  verb.add_option("--field", input.field, "the field of a JSON line that holds the text")->capture_default_str();
}

}  // namespace rattan::cli
