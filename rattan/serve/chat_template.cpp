#include "rattan/serve/chat_template.h"

#include <nlohmann/json.hpp>

#include "rattan/base/error.h"
#include "rattan/base/files.h"
#include "rattan/serve/json_body.h"

namespace rattan::serve {
namespace chat_template_file {

void read_role(Members& members, const char* name, ChatTemplate::Role& role) {
  const nlohmann::json* value = members.any(name);
  if (value == nullptr) return;
  Members parts(*value, std::string(name) + ".");
  if (auto text = parts.text("before")) role.before = *text;
  if (auto text = parts.text("after")) role.after = *text;
  parts.done();
}

ChatTemplate read(const std::string& text) {
  const nlohmann::json object = parse_object(text);
  Members members(object);
  ChatTemplate t;
  if (auto begin = members.text("begin")) t.begin = *begin;
  read_role(members, "system", t.system);
  read_role(members, "user", t.user);
  read_role(members, "assistant", t.assistant);
  if (const nlohmann::json* stop = members.any("stop")) {
    t.stop.clear();
    if (!stop->is_array()) refuse("stop", "'stop' must be a list of strings");
    for (const auto& item : *stop) {
      if (!item.is_string() || item.get<std::string>().empty())
        refuse("stop", "'stop' must hold strings that are not empty");
      t.stop.push_back(item.get<std::string>());
    }
  }
  members.done();
  return t;
}

}  // namespace chat_template_file

std::vector<std::string> ChatTemplate::pieces(const std::vector<Message>& messages) const {
  std::vector<std::string> out{begin};
  for (const Message& message : messages) {
    const Role& role = message.role == "system" ? system : message.role == "user" ? user : assistant;
    out.push_back(role.before + message.content + role.after);
  }
  out.push_back(assistant.before);
  return out;
}

std::string ChatTemplate::jinja() const {
  auto quoted = [](const std::string& text) { return "{{ " + nlohmann::json(text).dump() + " }}"; };
  auto message = [&](const Role& role) {
    return quoted(role.before) + "{{ message['content'] }}" + quoted(role.after);
  };
  return quoted(begin) + "{% for message in messages %}{% if message['role'] == 'user' %}" + message(user) +
         "{% elif message['role'] == 'assistant' %}" + message(assistant) + "{% else %}" + message(system) +
         "{% endif %}{% endfor %}{% if add_generation_prompt %}" + quoted(assistant.before) + "{% endif %}";
}

ChatTemplate ChatTemplate::of_folder(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kChatTemplateFile;
  std::error_code none;
  if (!std::filesystem::exists(file, none)) return {};
  try {
    return chat_template_file::read(read_file(file));
  } catch (const ApiError& error) {
    fail_input("{}: {}; docs/serving.md shows what such a file holds", file.string(), error.message);
  }
}

}  // namespace rattan::serve
