// What the server needs of an engine: the narrow side of infer::Engine, so that tests can stand in for it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "rattan/infer/engine.h"
#include "rattan/serve/request.h"

namespace rattan::serve {

class Backend {
 public:
  virtual ~Backend() = default;
  // As in infer::Engine.
  virtual uint64_t submit(infer::EngineRequest request, infer::Engine::Listener listener) = 0;
  virtual void cancel(uint64_t request) = 0;
  virtual infer::EngineStats stats() const = 0;
  virtual void save(const std::vector<int32_t>& tokens, const std::string& path) = 0;
  virtual std::vector<int32_t> restore(const std::string& path) = 0;

  // Keeps a text to a shape. nullptr if this engine cannot do that; InputError for a shape that is none.
  virtual std::shared_ptr<const infer::Grammar> grammar(const Shape& shape) = 0;
  // Bytes of the state of one sequence of so many tokens.
  virtual int64_t state_bytes(int64_t tokens) const = 0;
};

}  // namespace rattan::serve
