#include "rattan/serve/json_body.h"

#include <simdjson.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "rattan/base/config.h"

namespace rattan::serve {
namespace json_body_file {

using nlohmann::json;

// Looks at a text without building anything.
class Inspector : public nlohmann::json_sax<json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool number_float(double value, const std::string&) override {
    if (std::isfinite(value)) return true;
    throw ApiError(400, "the body holds a number that is too large");
  }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool key(std::string& name) override {
    if (names_.back().insert(name).second) return true;
    throw ApiError(400, "the body holds a member twice: " + shown(name));
  }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string&, const json::exception& error) override {
    // 406: a number out of range; the rest are errors of the grammar, invalid UTF-8 among them.
    if (error.id == 406) throw ApiError(400, "the body holds a number that is too large");
    throw ApiError(400, fmt::format("the body is not valid JSON in UTF-8; it breaks at byte {}", position));
  }

 private:
  bool enter() {
    if (names_.size() >= kMaxDepth) throw ApiError(400, fmt::format("the body is nested deeper than {}", kMaxDepth));
    names_.emplace_back();
    return true;
  }
  bool leave() {
    names_.pop_back();
    return true;
  }
  static std::string shown(const std::string& name) { return name.size() <= 64 ? name : "(a long name)"; }

  std::vector<std::set<std::string>> names_;
};

bool pack(const simdjson::dom::array& items, json& to) {
  std::vector<uint8_t> bytes(items.size() * sizeof(int64_t));
  uint8_t* at = bytes.data();
  for (const simdjson::dom::element item : items) {
    int64_t number = 0;
    if (item.get(number) != simdjson::SUCCESS) return false;
    std::memcpy(at, &number, sizeof number);
    at += sizeof number;
  }
  to = json::binary(std::move(bytes));
  return true;
}

// False where the other reading has something to say: nesting, a member that comes twice. packs: arrays of integers.
bool build(const simdjson::dom::element& from, json& to, int depth, bool packs = false) {
  using Type = simdjson::dom::element_type;
  switch (from.type()) {
    case Type::ARRAY: {
      if (depth >= kMaxDepth) return false;
      const simdjson::dom::array items = from.get_array();
      constexpr std::size_t many = 64, most = 0xffffff;  // more are not counted
      if (packs && items.size() >= many && items.size() < most && pack(items, to)) return true;
      json::array_t out;
      out.reserve(items.size());
      for (const simdjson::dom::element item : items)
        if (!build(item, out.emplace_back(), depth + 1, packs)) return false;
      to = std::move(out);
      return true;
    }
    case Type::OBJECT: {
      if (depth >= kMaxDepth) return false;
      json::object_t out;
      for (const auto& [key, value] : from.get_object()) {
        const auto [member, fresh] = out.try_emplace(std::string(key));
        const bool of_ids = depth == 0 && (key == "prompt" || key == "tokens");
        if (!fresh || !build(value, member->second, depth + 1, of_ids)) return false;
      }
      to = std::move(out);
      return true;
    }
    case Type::STRING:
      to = std::string(std::string_view(from.get_string()));
      return true;
    case Type::INT64: {
      const int64_t number = from.get_int64();
      number < 0 ? to = number : to = static_cast<uint64_t>(number);
      return true;
    }
    case Type::UINT64:
      to = static_cast<uint64_t>(from.get_uint64());
      return true;
    case Type::DOUBLE:
      to = static_cast<double>(from.get_double());
      return true;
    case Type::BOOL:
      to = static_cast<bool>(from.get_bool());
      return true;
    case Type::NULL_VALUE:
      to = nullptr;
      return true;
  }
  return false;
}

// Long bodies that nothing is wrong with, much faster; whatever it does not take is read, or refused, the other way.
std::optional<json> parse_long(std::string_view text) {
  constexpr std::size_t least = 4096;
  // simdjson lets the second half of a surrogate pair stand alone.
  if (text.size() < least || text.find("\\u") != std::string_view::npos) return std::nullopt;
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  json value;
  if (parser.parse(text.data(), text.size()).get(root) != simdjson::SUCCESS || !build(root, value, 0))
    return std::nullopt;
  return value;
}

json parse_exactly(std::string_view text) {
  Inspector inspector;
  json::sax_parse(text.begin(), text.end(), &inspector);
  return json::parse(text.begin(), text.end());
}

}  // namespace json_body_file

nlohmann::json parse_object(std::string_view text) {
  using namespace json_body_file;
  if (text.empty()) throw ApiError(400, "the body is empty; it must be a JSON object");
  std::optional<json> fast = parse_long(text);
  json value = fast ? std::move(*fast) : parse_exactly(text);
  if (!value.is_object()) throw ApiError(400, "the body must be a JSON object, not " + kind_of(value));
  return value;
}

std::vector<int64_t> packed_integers(const nlohmann::json& binary) {
  const std::vector<uint8_t>& bytes = binary.get_binary();
  std::vector<int64_t> out(bytes.size() / sizeof(int64_t));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

std::string kind_of(const nlohmann::json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  return is_array(value) ? "an array" : "an object";
}

Members::Members(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) {
    const std::string name = where_.substr(0, where_.size() - (where_.empty() ? 0 : 1));
    refuse(name, "'{}' must be an object, not {}", name, kind_of(object));
  }
}

const nlohmann::json* Members::any(const char* name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> Members::integer(const char* name, int64_t low, int64_t high) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer()) refuse(path(name), "'{}' must be an integer, not {}", path(name), kind_of(*value));
  const bool beyond = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = beyond ? INT64_MAX : value->get<int64_t>();
  if (beyond || number < low || number > high)
    refuse(path(name), "'{}' must be from {} to {}, not {}", path(name), low, high, value->dump());
  return number;
}

std::optional<double> Members::number(const char* name, double low, double high) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) refuse(path(name), "'{}' must be a number, not {}", path(name), kind_of(*value));
  const auto number = value->get<double>();
  if (number < low || number > high)  // JSON has no NaN
    refuse(path(name), "'{}' must be from {} to {}, not {}", path(name), low, high, value->dump());
  return number;
}

std::optional<bool> Members::boolean(const char* name) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse(path(name), "'{}' must be true or false, not {}", path(name), kind_of(*value));
  return value->get<bool>();
}

std::optional<std::string> Members::text(const char* name) {
  const nlohmann::json* value = any(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(path(name), "'{}' must be a string, not {}", path(name), kind_of(*value));
  return value->get<std::string>();
}

void Members::unsupported(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (any(name) != nullptr)
      throw ApiError(400, fmt::format("'{}' is not supported by this server", path(name)), path(name),
                     "unsupported_parameter");
}

void Members::done() const {
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    const std::string shown = name.size() <= 64 ? name : "(a long name)";
    const std::string near =
        name.size() <= 64 ? nearest(name, std::vector<std::string>(known_.begin(), known_.end())) : "";
    throw ApiError(400,
                   fmt::format("there is no parameter '{}'{}", path(shown),
                               near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near)),
                   path(shown), "unknown_parameter");
  }
}

}  // namespace rattan::serve
