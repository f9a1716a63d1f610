// Checks and texts of Range (fields.h).
#pragma once
#include <string>

#include "rattan/base/fields.h"

namespace rattan {

// A bounded range also refuses infinities and NaN; an unbounded one takes every double.
bool range_holds(const Range& range, double value);

// "at least 1", "above 0", "between 0 and 1", "one of \"a\", \"b\"", or "" for no limit.
std::string range_text(const Range& range);

}  // namespace rattan
