// What a saved state belongs to.
#pragma once
#include <string>

#include "rattan/models/model.h"

namespace rattan::infer {

// Differs, but for chance (2^-64), between models that differ in their settings, in the type of their products, in how
// their states are held, or in any value of any parameter as it is held; the same on every device. Reads all parameters
// once, so it is made once an engine, when a session is first saved or restored.
std::string fingerprint(models::Model& model);

}  // namespace rattan::infer
