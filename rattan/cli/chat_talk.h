// A conversation with a model: what `rattan chat` does, without terminal and commands.
//
// The tokens that were read and made are kept, so each prompt begins with the very tokens of the turns before and the
// engine goes on from their state. Taking back an exchange is a shorter list of tokens: the engine rolls its state back
// to what its prefix cache holds of them (docs/prefix-cache.md).
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "rattan/infer/engine.h"
#include "rattan/serve/chat_template.h"

namespace rattan::cli {

struct TalkSettings {
  std::string system;  // instructions before the first message; may be empty
  infer::SamplerConfig sampling;
  uint64_t seed = 0;
  int64_t max_tokens = 256;       // of an answer, where the context has room
  std::vector<std::string> stop;  // beside the template's
};

struct Turn {
  int64_t prompt = 0, reused = 0, made = 0;      // tokens
  double first_seconds = 0, answer_seconds = 0;  // to the first token; from it to the last
  infer::Finish finish = infer::Finish::length;
  bool interrupted = false;
  bool full = false;  // the answer ended because the context did
};

class Talk {
 public:
  using Show = std::function<void(const std::string& text)>;  // the answer as it comes, in whole characters
  using Interrupted = std::function<bool()>;                  // asked while the answer is made

  // Engine and tokenizer must outlive it.
  Talk(infer::Engine& engine, const Tokenizer& tokenizer, serve::ChatTemplate chat, TalkSettings settings);

  // One exchange. InputError for a message that is not UTF-8 or does not fit the context, Error if the engine fails;
  // then the conversation is as it was, and so it is if nothing was made before the interruption.
  Turn say(const std::string& message, const Show& show, const Interrupted& interrupted);
  // The last message answered anew, with the next seed. InputError where there is none, or nothing is drawn.
  Turn again(const Show& show, const Interrupted& interrupted);
  // Takes the last exchange back and returns its message; nothing where there is none.
  std::optional<std::string> undo();
  void restart();  // the instructions stay

  // The conversation with its state, sampling settings and seed in a file. Error or InputError if that fails; a file
  // that is no saved conversation is not overwritten.
  void save(const std::string& path);
  // Replaces the conversation, or throws and leaves it. `keep_sampling`: settings and seed stay as they are.
  void load(const std::string& path, bool keep_sampling);

  const TalkSettings& settings() const { return settings_; }
  int64_t exchanges() const { return std::ssize(exchanges_); }
  int64_t tokens() const { return std::ssize(tokens_); }

 private:
  struct Exchange {
    std::string message, answer;
    std::size_t end = 0;  // tokens of the conversation up to the answer's last
  };
  struct Answer {
    std::string text;
    std::vector<int32_t> ids;
  };

  std::vector<int32_t> prompt_for(const std::string& message) const;
  Turn answer(std::vector<int32_t> prompt, const Show& show, const Interrupted& interrupted, Answer& made);
  void encode(std::vector<int32_t>& tokens, const std::vector<std::string>& pieces) const;
  std::string notes() const;
  void read_notes(const std::string& text, const std::string& path, std::vector<int32_t> tokens, bool keep_sampling);

  infer::Engine& engine_;
  const Tokenizer& tokenizer_;
  const serve::ChatTemplate chat_;
  TalkSettings settings_;
  std::vector<Exchange> exchanges_;
  std::vector<int32_t> tokens_;  // up to the last answer's last
};

}  // namespace rattan::cli
