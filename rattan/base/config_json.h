// Configurations as JSON, with the same keys, checks and errors as TOML (config.h).
#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "rattan/base/config.h"

namespace rattan {

// Every key in the order of the description. Infinities and NaN, which JSON cannot spell, become the strings "inf",
// "-inf" and "nan", which a number key reads back; so reading gives the same values, bit for bit.
nlohmann::ordered_json to_json(const std::function<void(Fields&)>& describe);

// InputError with source:line for text that is not JSON, a repeated key, or anything but an object at the top.
ConfigTree config_from_json(const std::string& text, const std::string& source);

}  // namespace rattan
