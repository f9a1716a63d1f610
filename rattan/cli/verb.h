// A verb of the command line: one file that declares its flags and what it does, and one line in verbs.cpp.
#pragma once
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace rattan::cli {

struct Verb {
  const char* name;
  const char* summary;
  // Adds flags, positionals and sub-verbs to `verb` and sets the callback that does the work. The callback
  // throws InputError (exit 2), Error (1) or Interrupted (130); variables bound to flags are owned by a
  // shared_ptr that the callback captures.
  void (*declare)(CLI::App& verb);
};

// `--json` puts exactly one JSON document on stdout; text for people goes to stderr or replaces it.
void print_json(const nlohmann::json& document);

}  // namespace rattan::cli
