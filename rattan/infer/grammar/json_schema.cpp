#include "rattan/infer/grammar/json_schema.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "rattan/base/error.h"
#include "rattan/infer/grammar/json_text.h"
#include "rattan/infer/grammar/regex.h"

namespace rattan::infer {
namespace json_schema_file {

using json = nlohmann::ordered_json;  // properties come in the order that they are given in

constexpr int64_t kMaxCount = 100'000;   // of items and characters
constexpr int64_t kMaxSchemas = 20'000;  // read, those behind a $ref each time anew

const std::set<std::string>& descriptions() {
  static const std::set<std::string> words{"title",    "description", "default",  "examples",
                                           "$schema",  "$id",         "$comment", "deprecated",
                                           "readOnly", "writeOnly",   "$defs",    "definitions"};
  return words;
}
// The keywords that say something, and of which type.
const std::map<std::string, std::string>& owners() {
  static const std::map<std::string, std::string> of{
      {"properties", "object"}, {"required", "object"},  {"additionalProperties", "object"},
      {"items", "array"},       {"minItems", "array"},   {"maxItems", "array"},
      {"pattern", "string"},    {"minLength", "string"}, {"maxLength", "string"}};
  return of;
}

bool is_of(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  return value.is_null();
}

class Reader {
 public:
  explicit Reader(const json& root) : root_(root) {}

  Pattern read(const json& schema, const std::string& path, int depth) {
    require(depth <= kMaxSchemaDepth, "{}: schemas are nested deeper than {} (none may refer to itself)",
            path.substr(0, 100), kMaxSchemaDepth);
    require(++read_ <= kMaxSchemas, "the schema is too large: it stands for more than {} schemas", kMaxSchemas);
    if (schema.is_boolean()) {
      require(schema.get<bool>(), "{}: false accepts nothing", path);
      return json_value(kFreeDepth);
    }
    require(schema.is_object(), "{}: a schema must be an object", path);
    std::set<std::string> words;
    for (const auto& [word, value] : schema.items()) {
      if (descriptions().contains(word)) continue;
      const bool known = word == "type" || word == "enum" || word == "const" || word == "anyOf" || word == "$ref" ||
                         owners().contains(word);
      require(known, "{}: the keyword '{}' is not supported", path, word.substr(0, 64));
      words.insert(word);
    }
    for (const char* alone : {"$ref", "anyOf"})
      if (words.contains(alone)) {
        require(words.size() == 1, "{}: no other keyword may stand beside '{}'", path, alone);
        return std::string_view(alone) == "$ref" ? reference(schema["$ref"], path, depth)
                                                 : any_of(schema["anyOf"], path, depth);
      }
    if (words.contains("enum") || words.contains("const")) return listed(schema, words, path);
    if (words.empty()) return json_value(kFreeDepth);

    const std::vector<std::string> types = types_of(schema, words, path);
    for (const std::string& word : words) {
      const auto owner = owners().find(word);
      require(owner == owners().end() || std::find(types.begin(), types.end(), owner->second) != types.end(),
              "{}: '{}' says nothing about the type '{}'", path, word, types.front());
    }
    std::vector<Pattern> kinds;
    for (const std::string& type : types) kinds.push_back(of_type(type, schema, path, depth));
    return either(std::move(kinds));
  }

 private:
  static std::vector<std::string> types_of(const json& schema, const std::set<std::string>& words,
                                           const std::string& path) {
    std::vector<std::string> types;
    if (!words.contains("type")) {  // the types that something is said about
      for (const std::string& word : words) types.push_back(owners().at(word));
      std::sort(types.begin(), types.end());
      types.erase(std::unique(types.begin(), types.end()), types.end());
      return types;
    }
    const json& type = schema["type"];
    for (const json& name : type.is_array() ? type : json::array({type})) {
      static const std::set<std::string> all{"object", "array", "string", "number", "integer", "boolean", "null"};
      require(name.is_string() && all.contains(name.get<std::string>()),
              "{}.type: must be object, array, string, number, integer, boolean or null", path);
      types.push_back(name.get<std::string>());
    }
    require(!types.empty(), "{}.type: lists no type", path);
    return types;
  }

  Pattern of_type(const std::string& type, const json& schema, const std::string& path, int depth) {
    if (type == "object") return object(schema, path, depth);
    if (type == "array") return array(schema, path, depth);
    if (type == "string") return string(schema, path);
    if (type == "number") return json_number();
    if (type == "integer") return json_integer();
    return type == "boolean" ? either({literal("true"), literal("false")}) : literal("null");
  }

  Pattern object(const json& schema, const std::string& path, int depth) {
    const json more = schema.value("additionalProperties", json(true));
    require(more.is_boolean() || more.is_object(), "{}.additionalProperties: must be a boolean or a schema", path);
    std::set<std::string> required;
    for (const json& name : schema.value("required", json::array())) {
      require(name.is_string(), "{}.required: must be a list of names", path);
      required.insert(name.get<std::string>());
    }
    if (!schema.contains("properties")) {
      require(required.empty(), "{}.required: names need 'properties'", path);
      if (more == json(false)) return literal("{}");
      return json_object(more.is_object() ? read(more, path + ".additionalProperties", depth + 1)
                                          : json_value(kFreeDepth - 1));
    }
    require(!more.is_object(), "{}.additionalProperties: beside 'properties' it must be a boolean", path);
    const json& properties = schema["properties"];
    require(properties.is_object(), "{}.properties: must be an object", path);
    std::vector<Pattern> members;
    std::vector<bool> optional;
    for (const auto& [name, value] : properties.items()) {
      const Pattern inner = read(value, path + ".properties." + name.substr(0, 64), depth + 1);
      members.push_back(json_member(literal(json(name).dump()), inner));
      optional.push_back(required.erase(name) == 0);
    }
    require(required.empty(), "{}.required: there is no property '{}'", path,
            required.empty() ? "" : required.begin()->substr(0, 64));
    return sequence({literal("{"), list(std::move(members), std::move(optional), json_comma()), literal("}")});
  }

  Pattern array(const json& schema, const std::string& path, int depth) {
    const auto [min, max] = counts(schema, "minItems", "maxItems", path);
    const Pattern item =
        schema.contains("items") ? read(schema["items"], path + ".items", depth + 1) : json_value(kFreeDepth - 1);
    return json_array(item, min, max);
  }

  Pattern string(const json& schema, const std::string& path) {
    if (!schema.contains("pattern")) {
      const auto [min, max] = counts(schema, "minLength", "maxLength", path);
      return json_string(min, max);
    }
    require(!schema.contains("minLength") && !schema.contains("maxLength"),
            "{}: a 'pattern' beside 'minLength' or 'maxLength' is not supported", path);
    require(schema["pattern"].is_string(), "{}.pattern: must be a string", path);
    try {
      const Pattern inside = parse_regex_search(schema["pattern"].get<std::string>(), json_escaped);
      return sequence({literal("\""), inside, literal("\"")});
    } catch (const InputError& error) {
      fail_input("{}.pattern: {}", path, error.what());
    }
  }

  static std::pair<int64_t, int64_t> counts(const json& schema, const char* least, const char* most,
                                            const std::string& path) {
    auto count = [&](const char* word, int64_t otherwise) {
      if (!schema.contains(word)) return otherwise;
      const json& n = schema[word];
      const bool fits = n.is_number_unsigned() && n.get<uint64_t>() <= kMaxCount;
      require(fits, "{}.{}: must be an integer from 0 to {}", path, word, kMaxCount);
      return n.get<int64_t>();
    };
    const int64_t min = count(least, 0), max = count(most, -1);
    require(max < 0 || min <= max, "{}: '{}' is above '{}'", path, least, most);
    return {min, max};
  }

  static Pattern listed(const json& schema, const std::set<std::string>& words, const std::string& path) {
    std::vector<std::string> types;
    for (const std::string& word : words)
      require(word == "enum" || word == "const" || word == "type", "{}: '{}' beside 'enum' or 'const' is not supported",
              path, word);
    require(!words.contains("enum") || !words.contains("const"), "{}: 'enum' beside 'const' is not supported", path);
    if (words.contains("type")) types = types_of(schema, words, path);
    const json values = words.contains("const") ? json::array({schema["const"]}) : schema["enum"];
    require(values.is_array() && !values.empty(), "{}.enum: must be a list of values", path);
    std::vector<Pattern> texts;
    for (const json& value : values) {
      const bool fits = types.empty() || std::any_of(types.begin(), types.end(),
                                                     [&](const std::string& type) { return is_of(value, type); });
      require(fits, "{}: a value of 'enum' or 'const' is not of the 'type' beside it", path);
      texts.push_back(literal(value.dump()));
    }
    return either(std::move(texts));
  }

  Pattern any_of(const json& schemas, const std::string& path, int depth) {
    require(schemas.is_array() && !schemas.empty(), "{}.anyOf: must be a list of schemas", path);
    std::vector<Pattern> kinds;
    for (const json& one : schemas)
      kinds.push_back(read(one, fmt::format("{}.anyOf[{}]", path, kinds.size()), depth + 1));
    return either(std::move(kinds));
  }

  Pattern reference(const json& to, const std::string& path, int depth) {
    require(to.is_string(), "{}.$ref: must be a string", path);
    const auto text = to.get<std::string>();
    for (const std::string folder : {"$defs", "definitions"}) {
      const std::string start = "#/" + folder + "/";
      if (!text.starts_with(start) || !root_.is_object() || !root_.contains(folder)) continue;
      const json& definitions = root_[folder];
      const std::string name = text.substr(start.size());
      if (definitions.is_object() && definitions.contains(name)) return read(definitions[name], path, depth + 1);
    }
    fail_input("{}.$ref: '{}' is not the name of a definition, such as #/$defs/name", path, text.substr(0, 64));
  }

  const json& root_;
  int64_t read_ = 0;
};

}  // namespace json_schema_file

Pattern schema_pattern(std::string_view schema) {
  using json_schema_file::json;
  const json root = json::parse(schema, nullptr, false);
  require(!root.is_discarded(), "the schema is not valid JSON");
  return json_schema_file::Reader(root).read(root, "schema", 0);
}

Pattern json_object_pattern() { return json_object(json_value(kObjectDepth - 1)); }

}  // namespace rattan::infer
