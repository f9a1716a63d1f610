// Regular expressions over Unicode characters.
//
// What there is, as in ECMAScript: literals; `.` (all but line feed); classes [a-z_], [^...]; \d \w \s (of ASCII) and
// \D \W \S, within classes too; groups (...) and (?:...); a|b; * + ? {m} {m,} {m,n} up to 1000; the escapes
// \t \n \r \f \v, \xHH and \uHHHH (characters, not bytes), and a backslash before a character that is neither a letter
// nor a digit. `^` and `$` stand only at the start and the end of a whole alternative. Nothing else: no lazy or
// possessive quantifiers, looking around, back references, word boundaries or flags.
#pragma once
#include <functional>
#include <string_view>

#include "rattan/infer/grammar/pattern.h"

namespace rattan::infer {

// The texts that match as a whole. InputError with the byte where the expression breaks.
Pattern parse_regex(std::string_view regex);

// The texts that hold a match, each character c written as write({c}) says (a JSON string writes a quote as \").
Pattern parse_regex_search(std::string_view regex, const std::function<Pattern(const CodeSet&)>& write);

}  // namespace rattan::infer
