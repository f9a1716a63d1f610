// The parts that JSON texts (RFC 8259) are made of, as patterns.
#pragma once
#include "rattan/infer/grammar/pattern.h"

namespace rattan::infer {

// A character of `set` inside a string: itself, or its escape where it needs one.
Pattern json_escaped(const CodeSet& set);
Pattern json_string(int64_t min = 0, int64_t max = -1);  // with so many characters
Pattern json_number();
Pattern json_integer();
Pattern json_comma();
Pattern json_array(Pattern item, int64_t min, int64_t max);
Pattern json_object(Pattern value);  // of any names
Pattern json_member(Pattern name, Pattern value);
Pattern json_value(int depth);  // anything, with arrays and objects nested so deep

}  // namespace rattan::infer
