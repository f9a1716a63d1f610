// JSON schemas as patterns of the JSON text.
//
// Of JSON Schema (draft 2020-12) there are: `type` (one or a list), `properties`, `required`,
// `additionalProperties`, `items`, `minItems`, `maxItems`, `pattern`, `minLength`, `maxLength`, `enum`, `const`,
// `anyOf`, `$ref` to `#/$defs/..` or `#/definitions/..` (not to itself), and the schemas true and {}. Words that only
// describe (`title`, `description`, `default`, `examples`, `$schema`, `$id`, `$comment`, `deprecated`, `readOnly`,
// `writeOnly`) have no effect. Any other keyword, or one beside a type that it says nothing about, is an error that
// names it.
//
// Not every text that a schema accepts can come, but every one that comes is accepted:
//   properties stand in the order of the schema and no others follow, unless `properties` is missing;
//   `,` and `:` are followed by at most one blank; there is no other white space outside strings;
//   numbers have at most 15 digits before and behind the point and an exponent of at most 2 digits;
//   \u escapes stand for no surrogates (such characters come as themselves); `pattern` is met without \u escapes
//   wherever a shorter form exists, and it cannot stand beside lengths;
//   where a schema says nothing of a value, arrays and objects are nested at most kFreeDepth deep.
#pragma once
#include <string_view>

#include "rattan/infer/grammar/pattern.h"

namespace rattan::infer {

inline constexpr int kFreeDepth = 3;        // of arrays and objects in a value that a schema leaves open
inline constexpr int kObjectDepth = 5;      // of the object that json_object_pattern allows, itself included
inline constexpr int kMaxSchemaDepth = 32;  // of schemas within schemas

// InputError with the path of what cannot be, as "schema.properties.age: ...".
Pattern schema_pattern(std::string_view schema);
Pattern json_object_pattern();

}  // namespace rattan::infer
