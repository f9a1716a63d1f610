// How a conversation becomes a text.
//
// A model folder may say it in chat_template.json, which holds texts and nothing that runs:
//   {"begin": "", "system": {"before": "", "after": "\n\n"}, "user": {"before": "User:\n", "after": "\n\n"},
//    "assistant": {"before": "Assistant:\n", "after": "\n\n"}, "stop": ["\n\nUser:"]}
// Those are the defaults. A conversation is `begin`, then each message between `before` and `after` of its role, then
// `before` of the assistant, where the model goes on. An answer ends at the model's end token or at one of `stop`.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "rattan/serve/request.h"

namespace rattan::serve {

inline constexpr const char* kChatTemplateFile = "chat_template.json";

struct ChatTemplate {
  struct Role {
    std::string before, after;
  };
  std::string begin;
  Role system{"", "\n\n"}, user{"User:\n", "\n\n"}, assistant{"Assistant:\n", "\n\n"};
  std::vector<std::string> stop{"\n\nUser:"};

  // The conversation in pieces: piece i + 1 is message i, the first one is `begin` and the last one is where the answer
  // starts.
  std::vector<std::string> pieces(const std::vector<Message>& messages) const;
  // The same rule in the template language that Python clients read (Jinja).
  std::string jinja() const;

  // The folder's, or the default where it has none. InputError with the file's name for one that cannot be read.
  static ChatTemplate of_folder(const std::filesystem::path& folder);
};

}  // namespace rattan::serve
