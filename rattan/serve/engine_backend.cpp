#include "rattan/serve/engine_backend.h"

namespace rattan::serve {

EngineBackend::EngineBackend(models::Model& model, const Tokenizer& tokenizer, const infer::EngineConfig& config)
    : spec_(model.state_spec()), compute_(model.compute), grammars_(tokenizer), engine_(model, tokenizer, config) {}

uint64_t EngineBackend::submit(infer::EngineRequest request, infer::Engine::Listener listener) {
  return engine_.submit(std::move(request), std::move(listener));
}

void EngineBackend::cancel(uint64_t request) { engine_.cancel(request); }

infer::EngineStats EngineBackend::stats() const { return engine_.stats(); }

void EngineBackend::save(const std::vector<int32_t>& tokens, const std::string& path) { engine_.save(tokens, path); }

std::vector<int32_t> EngineBackend::restore(const std::string& path) { return engine_.restore(path); }

std::shared_ptr<const infer::Grammar> EngineBackend::grammar(const Shape& shape) { return grammars_.get(shape); }

int64_t EngineBackend::state_bytes(int64_t tokens) const { return spec_.bytes(tokens, compute_); }

}  // namespace rattan::serve
