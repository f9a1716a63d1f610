#include "rattan/nn/sink.h"

#include <ATen/TensorOperators.h>

namespace rattan::nn {

void Sink::loss(const std::string& name, Loss value) {
  auto [place, fresh] = losses.try_emplace(name, value);
  if (!fresh) place->second = {place->second.sum + value.sum, place->second.count + value.count};
}

}  // namespace rattan::nn
