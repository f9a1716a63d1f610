// The version of the library that is loaded, which need not be that of the headers.
#pragma once

namespace rattan {

const char* version();  // "0.1.0"

}  // namespace rattan
