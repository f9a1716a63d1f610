// The engine behind the server.
#pragma once
#include "rattan/serve/backend.h"
#include "rattan/serve/grammars.h"

namespace rattan::serve {

class EngineBackend : public Backend {
 public:
  // Model and tokenizer must outlive it. InputError as infer::Engine.
  EngineBackend(models::Model& model, const Tokenizer& tokenizer, const infer::EngineConfig& config);

  uint64_t submit(infer::EngineRequest request, infer::Engine::Listener listener) override;
  void cancel(uint64_t request) override;
  infer::EngineStats stats() const override;
  void save(const std::vector<int32_t>& tokens, const std::string& path) override;
  std::vector<int32_t> restore(const std::string& path) override;
  std::shared_ptr<const infer::Grammar> grammar(const Shape& shape) override;
  int64_t state_bytes(int64_t tokens) const override;

  infer::Engine& engine() { return engine_; }

 private:
  const nn::StateSpec spec_;
  const at::ScalarType compute_;
  Grammars grammars_;
  infer::Engine engine_;
};

}  // namespace rattan::serve
