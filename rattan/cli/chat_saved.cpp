// Saved conversations: an engine's session (infer/engine/session.h) with a note "chat", which is JSON:
//   {"system": text, "messages": [{"role": "user" or "assistant", "content": text}, ...], "ends": [tokens up to the end
//    of each answer], "sampling": {...}, "seed": number}
#include <filesystem>
#include <nlohmann/json.hpp>

#include "rattan/base/config_json.h"
#include "rattan/base/error.h"
#include "rattan/cli/chat_talk.h"
#include "rattan/infer/engine/session.h"

namespace rattan::cli {
namespace chat_saved_file {

constexpr const char* note = "chat";

}  // namespace chat_saved_file

std::string Talk::notes() const {
  infer::SamplerConfig sampling = settings_.sampling;
  nlohmann::json messages = nlohmann::json::array(), ends = nlohmann::json::array();
  for (const Exchange& exchange : exchanges_) {
    messages.push_back({{"role", "user"}, {"content", exchange.message}});
    messages.push_back({{"role", "assistant"}, {"content", exchange.answer}});
    ends.push_back(exchange.end);
  }
  const nlohmann::json all = {{"system", settings_.system},
                              {"messages", std::move(messages)},
                              {"ends", std::move(ends)},
                              {"sampling", to_json([&](Fields& f) { sampling.fields(f); })},
                              {"seed", settings_.seed}};
  return all.dump();
}

void Talk::save(const std::string& path) {
  require(!exchanges_.empty(), "there is nothing to save yet");
  require(!std::filesystem::exists(path) || infer::is_session(path),
          "{}: there is another file of this name; it was not overwritten", path);
  engine_.save(tokens_, path, {{chat_saved_file::note, notes()}});
}

void Talk::load(const std::string& path, bool keep_sampling) {
  infer::Engine::Notes notes;
  std::vector<int32_t> tokens = engine_.restore(path, &notes);
  const auto chat = notes.find(chat_saved_file::note);
  require(chat != notes.end(), "{}: a saved state without the messages, which `rattan chat` alone writes", path);
  read_notes(chat->second, path, std::move(tokens), keep_sampling);
}

void Talk::read_notes(const std::string& text, const std::string& path, std::vector<int32_t> tokens,
                      bool keep_sampling) {
  TalkSettings settings = settings_;
  std::vector<Exchange> exchanges;
  try {
    const nlohmann::json all = nlohmann::json::parse(text);
    settings.system = all.at("system").get<std::string>();
    const nlohmann::json &messages = all.at("messages"), &ends = all.at("ends");
    require(!ends.empty() && messages.size() == 2 * ends.size(), "{}: messages and ends do not go together", path);
    std::size_t end = 0;
    for (std::size_t i = 0; i < ends.size(); ++i) {
      const nlohmann::json &user = messages[2 * i], &assistant = messages[2 * i + 1];
      require(user.at("role") == "user" && assistant.at("role") == "assistant",
              "{}: messages of user and assistant do not take turns", path);
      require(ends[i].get<std::size_t>() >= end, "{}: the ends do not ascend", path);
      end = ends[i].get<std::size_t>();
      exchanges.push_back({user.at("content").get<std::string>(), assistant.at("content").get<std::string>(), end});
    }
    require(end == tokens.size(), "{}: {} tokens, but the messages have {}", path, tokens.size(), end);
    if (!keep_sampling) {
      settings.sampling = {};
      config_from_json(all.at("sampling").dump(), path).read(settings.sampling);
      settings.seed = all.at("seed").get<uint64_t>();
    }
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: its note on the conversation cannot be read ({})", path, error.what());
  }
  settings_ = std::move(settings);
  exchanges_ = std::move(exchanges);
  tokens_ = std::move(tokens);
}

}  // namespace rattan::cli
