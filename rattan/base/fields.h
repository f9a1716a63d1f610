// One table for every configuration: a struct lists its keys once, in `void fields(Fields&)`, with default
// (the member's initial value), range and help. That list reads TOML and key=value overrides, writes
// `--dump-config`, and makes docs/configuration.md; so they cannot disagree.
//
//   struct Optimizer {
//     double lr = 8e-4;
//     std::string kind = "adamw";
//     void fields(Fields& f) {
//       f("lr", lr, "peak learning rate", above(0.0));
//       f("kind", kind, "optimizer", one_of({"adamw"}));
//     }
//   };
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rattan {

// What values a key takes: numbers in [low, high] (or open at the low end), strings out of a list.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  std::vector<std::string> choices;
};
Range at_least(double low);
Range above(double low);
Range between(double low, double high);
Range one_of(std::vector<std::string> choices);

class Fields {
 public:
  virtual ~Fields() = default;
  virtual void operator()(const char* key, bool& value, const char* help) = 0;
  virtual void operator()(const char* key, int64_t& value, const char* help, Range range = {}) = 0;
  virtual void operator()(const char* key, double& value, const char* help, Range range = {}) = 0;
  virtual void operator()(const char* key, std::string& value, const char* help, Range range = {}) = 0;
  virtual void operator()(const char* key, std::vector<std::string>& value, const char* help) = 0;
  virtual void operator()(const char* key, std::vector<double>& value, const char* help, Range range = {}) = 0;

  // A sub-table with keys of its own.
  template <class T>
  void table(const char* key, T& value, const char* help) {
    enter(key, help);
    value.fields(*this);
    leave();
  }
  // A table of named tables of one type, such as [mixers.<name>].
  template <class T>
  void named(const char* key, std::map<std::string, T>& values, const char* help) {
    for (const std::string& name : names(key, help, values_names(values))) {
      enter_named(key, name);
      values[name].fields(*this);
      leave();
    }
  }
  // A list of tables, such as [[data.sources]].
  template <class T>
  void list(const char* key, std::vector<T>& values, const char* help) {
    values.resize(count(key, help, values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      enter_index(key, i);
      values[i].fields(*this);
      leave();
    }
  }
  // Keys that follow belong to one choice of the key `type` read before: only the documentation needs to know.
  virtual void note(const char* text) = 0;

 protected:
  virtual void enter(const char* key, const char* help) = 0;
  virtual void enter_named(const char* key, const std::string& name) = 0;
  virtual void enter_index(const char* key, std::size_t index) = 0;
  virtual void leave() = 0;
  virtual std::vector<std::string> names(const char* key, const char* help, std::vector<std::string> present) = 0;
  virtual std::size_t count(const char* key, const char* help, std::size_t present) = 0;

 private:
  template <class T>
  static std::vector<std::string> values_names(const std::map<std::string, T>& values) {
    std::vector<std::string> out;
    for (const auto& [name, value] : values) out.push_back(name);
    return out;
  }
};

}  // namespace rattan
