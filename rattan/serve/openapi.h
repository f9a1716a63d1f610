// The description of the routes that machines read (OpenAPI 3.1).
#pragma once
#include <nlohmann/json.hpp>

#include "rattan/serve/request.h"

namespace rattan::serve {

nlohmann::json openapi_document(const RequestLimits& limits);

}  // namespace rattan::serve
