#include "rattan/base/config_json.h"

#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "rattan/base/config_node.h"
#include "rattan/base/error.h"

namespace rattan {
namespace config_json_file {

// Feeds the parser and counts the lines it has taken.
class LineCounter {
 public:
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  LineCounter(const char* at, int64_t* lines) : at_(at), lines_(lines) {}
  reference operator*() const { return *at_; }
  LineCounter& operator++() {
    if (*at_ == '\n') ++*lines_;
    ++at_;
    return *this;
  }
  bool operator==(const LineCounter& other) const { return at_ == other.at_; }
  bool operator!=(const LineCounter& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  int64_t* lines_;
};

class Handler : public nlohmann::json_sax<nlohmann::json> {
 public:
  Handler(const std::string& source, const int64_t* line) : source_(source), line_(line) {}

  bool null() override { return add(ConfigNode::Nothing{}); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return add(ConfigNode::Other{fmt::format("{}, which exceeds 64 bits", value)});
    }
    return add(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(ConfigNode::Table{}); }
  bool start_array(std::size_t) override { return open(ConfigNode::List{}); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    place_ = fmt::format("{}:{}", source_, *line_);
    if (open_.back()->find(key) != nullptr) fail_input("{}: the key '{}' appears twice", place_, key);
    key_ = std::move(key);
    return true;
  }

  bool parse_error(std::size_t, const std::string& token, const nlohmann::detail::exception&) override {
    std::string near = token.substr(0, 40);
    for (char& c : near) {
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7F) c = '?';
    }
    fail_input("{}:{}: not valid JSON near '{}'", source_, *line_, near);
  }

  ConfigNode take() {
    if (!root_.is_table()) fail_input("{}:1: expected a JSON object, got {}", source_, root_.describe());
    return std::move(root_);
  }

 private:
  using Value = decltype(ConfigNode::value);

  ConfigNode& place(Value value) {
    ConfigNode node{std::move(value), place_.empty() ? source_ + ":1" : place_, "", false};
    if (open_.empty()) {
      root_ = std::move(node);
      return root_;
    }
    if (auto* list = std::get_if<ConfigNode::List>(&open_.back()->value)) {
      list->push_back(std::move(node));
      return list->back();
    }
    auto& table = std::get<ConfigNode::Table>(open_.back()->value);
    table.emplace_back(std::move(key_), std::move(node));
    return table.back().second;
  }
  bool add(Value value) {
    place(std::move(value));
    return true;
  }
  bool open(Value value) {
    if (open_.size() >= kMaxConfigDepth)
      fail_input("{}:{}: nested more than {} deep", source_, *line_, kMaxConfigDepth);
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& source_;
  const int64_t* line_;
  std::string place_, key_;
  ConfigNode root_;
  std::vector<ConfigNode*> open_;  // a container grows only while it is the innermost one, so pointers stay valid
};

nlohmann::ordered_json convert(const ConfigNode& node) {
  using Json = nlohmann::ordered_json;
  if (const auto* table = std::get_if<ConfigNode::Table>(&node.value)) {
    Json out = Json::object();
    for (const auto& [key, child] : *table) out[key] = convert(child);
    return out;
  }
  if (const auto* list = std::get_if<ConfigNode::List>(&node.value)) {
    Json out = Json::array();
    for (const ConfigNode& child : *list) out.push_back(convert(child));
    return out;
  }
  if (const auto* real = std::get_if<double>(&node.value)) {
    return std::isfinite(*real) ? Json(*real) : Json(shortest(*real));
  }
  if (const auto* integer = std::get_if<int64_t>(&node.value)) return *integer;
  if (const auto* boolean = std::get_if<bool>(&node.value)) return *boolean;
  return std::get<std::string>(node.value);
}

}  // namespace config_json_file

nlohmann::ordered_json to_json(const std::function<void(Fields&)>& describe) {
  return config_json_file::convert(build_config(describe));
}

ConfigTree config_from_json(const std::string& text, const std::string& source) {
  using namespace config_json_file;
  int64_t line = 1;
  Handler handler(source, &line);
  LineCounter begin(text.data(), &line), end(text.data() + text.size(), &line);
  nlohmann::json::sax_parse(begin, end, &handler);
  return ConfigTree(handler.take());
}

}  // namespace rattan
