#include "rattan/base/version.h"

namespace rattan {

const char* version() { return RATTAN_VERSION; }

}  // namespace rattan
