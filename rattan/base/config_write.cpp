// What a description holds now, as a tree, as TOML and as documentation.
#include "rattan/base/config.h"
#include "rattan/base/config_node.h"
#include "rattan/base/error.h"
#include "rattan/base/range.h"

namespace rattan {
namespace config_write_file {

class Builder : public Fields {
 public:
  Builder() { stack_.push_back(&root_); }

  void operator()(const char* key, bool& value, const char*) override { add(key, value); }
  void operator()(const char* key, int64_t& value, const char*, Range) override { add(key, value); }
  void operator()(const char* key, double& value, const char*, Range) override { add(key, value); }
  void operator()(const char* key, std::string& value, const char*, Range) override { add(key, value); }
  void operator()(const char* key, std::vector<std::string>& value, const char*) override { add_list(key, value); }
  void operator()(const char* key, std::vector<double>& value, const char*, Range) override { add_list(key, value); }
  void note(const char*) override {}

  ConfigNode take() { return std::move(root_); }

 protected:
  void enter(const char* key, const char*) override { open(child(key, ConfigNode::Table{})); }
  void enter_named(const char* key, const std::string& name) override {
    ConfigNode& table = child(key, ConfigNode::Table{});
    std::get<ConfigNode::Table>(table.value).emplace_back(name, ConfigNode{});
    open(std::get<ConfigNode::Table>(table.value).back().second);
  }
  void enter_index(const char* key, std::size_t) override {
    ConfigNode& list = child(key, ConfigNode::List{});
    std::get<ConfigNode::List>(list.value).emplace_back();
    open(std::get<ConfigNode::List>(list.value).back());
  }
  void leave() override { stack_.pop_back(); }
  std::vector<std::string> names(const char* key, const char*, std::vector<std::string> present) override {
    child(key, ConfigNode::Table{});
    return present;
  }
  std::size_t count(const char* key, const char*, std::size_t present) override {
    child(key, ConfigNode::List{});
    return present;
  }

 private:
  ConfigNode::Table& table() { return std::get<ConfigNode::Table>(stack_.back()->value); }

  template <class Kind>
  ConfigNode& child(const char* key, Kind kind) {
    for (auto& [name, node] : table()) {
      if (name == key) return node;
    }
    table().emplace_back(key, ConfigNode{std::move(kind), "", "", false});
    return table().back().second;
  }

  void open(ConfigNode& node) { stack_.push_back(&node); }

  template <class Value>
  void add(const char* key, const Value& value) {
    child(key, value).value = value;
  }

  template <class Value>
  void add_list(const char* key, const std::vector<Value>& values) {
    ConfigNode::List list;
    for (const Value& value : values) list.push_back({value, "", "", false});
    child(key, ConfigNode::List{}).value = std::move(list);
  }

  ConfigNode root_;
  std::vector<ConfigNode*> stack_;  // a level grows only while it is the innermost one, so pointers stay valid
};

class Documenter : public Fields {
 public:
  void operator()(const char* key, bool& value, const char* help) override {
    row(key, "boolean", value ? "true" : "false", "", help);
  }
  void operator()(const char* key, int64_t& value, const char* help, Range range) override {
    row(key, "integer", std::to_string(value), range_text(range), help);
  }
  void operator()(const char* key, double& value, const char* help, Range range) override {
    row(key, "number", fmt::format("{}", value), range_text(range), help);
  }
  void operator()(const char* key, std::string& value, const char* help, Range range) override {
    row(key, "string", '"' + value + '"', range_text(range), help);
  }
  void operator()(const char* key, std::vector<std::string>& value, const char* help) override {
    std::string text;
    for (const std::string& item : value) text += (text.empty() ? "\"" : ", \"") + item + '"';
    row(key, "list of strings", '[' + text + ']', "", help);
  }
  void operator()(const char* key, std::vector<double>& value, const char* help, Range range) override {
    std::string text;
    for (double item : value) text += (text.empty() ? "" : ", ") + fmt::format("{}", item);
    row(key, "list of numbers", '[' + text + ']', range_text(range), help);
  }
  void note(const char* text) override { section().rows += fmt::format("| *{}* | | | | |\n", text); }

  std::string text() const {
    std::string out;
    for (const Section& section : sections_) {
      if (section.rows.empty()) continue;
      out += out.empty() ? "" : "\n";
      if (!section.title.empty()) out += fmt::format("## `{}`\n\n", section.title);
      if (!section.help.empty()) out += section.help + "\n\n";
      out += "| key | type | default | range | meaning |\n| --- | --- | --- | --- | --- |\n" + section.rows;
    }
    return out;
  }

 protected:
  void enter(const char* key, const char* help) override { open(joined(key), fmt::format("[{}]", joined(key)), help); }
  void enter_named(const char* key, const std::string& name) override {
    std::string path = joined(key) + "." + name;
    open(path, fmt::format("[{}]", path), help_);
  }
  void enter_index(const char* key, std::size_t) override {
    open(joined(key), fmt::format("[[{}]]", joined(key)), help_);
  }
  void leave() override { stack_.pop_back(); }
  std::vector<std::string> names(const char*, const char* help, std::vector<std::string>) override {
    help_ = help;
    return {"<name>"};
  }
  std::size_t count(const char*, const char* help, std::size_t) override {
    help_ = help;
    return 1;
  }

 private:
  struct Section {
    std::string title, help, rows;
  };

  Section& section() { return sections_[stack_.back().second]; }
  std::string joined(const char* key) const {
    return stack_.back().first.empty() ? key : stack_.back().first + "." + key;
  }
  void open(const std::string& path, const std::string& title, const std::string& help) {
    stack_.emplace_back(path, sections_.size());
    sections_.push_back({title, help, ""});
  }
  void row(const char* key, const char* type, const std::string& value, const std::string& range, const char* help) {
    auto cell = [](const std::string& text) {
      std::string out;
      for (char c : text) {
        if (c == '|') out += '\\';
        out += c;
      }
      return out;
    };
    section().rows += fmt::format("| `{}` | {} | `{}` | {} | {} |\n", key, type, cell(value), cell(range), cell(help));
  }

  std::vector<Section> sections_{{"", "", ""}};
  std::vector<std::pair<std::string, std::size_t>> stack_{{"", 0}};  // path and section of each open level
  std::string help_;
};

}  // namespace config_write_file

ConfigNode build_config(const std::function<void(Fields&)>& describe) {
  config_write_file::Builder builder;
  describe(builder);
  return builder.take();
}

std::string to_toml(const std::function<void(Fields&)>& describe) { return print_toml(build_config(describe)); }

std::string to_markdown(const std::function<void(Fields&)>& describe) {
  config_write_file::Documenter documenter;
  describe(documenter);
  return documenter.text();
}

}  // namespace rattan
