// Serving: many requests that come and go, on one model.
//
// One thread owns the model and works in steps. A step decodes one token of every running sequence and reads a piece of
// at most one budget of prompt tokens, so that a long prompt never holds the others up. Sequences live in slots of one
// state, made at the start from the model's state_spec(); nothing is allocated while decoding. What is full waits:
// first in the queue, then cached prefixes give way, then a running sequence is put aside and read again later.
//
// A token depends on (seed, choice, position) and its logits alone. With `strict` the logits depend, bit for bit, on
// the sequence's own tokens alone: not on what runs beside it, on how its prompt was cut, or on whether its state was
// read, reused or restored. Every token is then read like one of a decoding step, so prompts take longer.
// docs/serving-engine.md and docs/prefix-cache.md say more.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "rattan/infer/generator.h"

namespace rattan::infer {

// What the next token may be, token by token (a regular expression, a JSON schema); shared, immutable.
class Grammar {
 public:
  virtual ~Grammar() = default;
  virtual int64_t start() const = 0;
  // A bit for each id that may follow in this state: bit id % 64 of word id / 64. The end token's bit says whether the
  // text may end here.
  virtual const std::vector<uint64_t>& allowed(int64_t state) const = 0;
  virtual int64_t next(int64_t state, int32_t id) const = 0;
};

struct EngineConfig {
  int64_t max_sequences = 64;  // that run at the same time
  int64_t max_context = 4096;  // tokens of a sequence, prompt and answer
  int64_t memory = 0;          // bytes for states and cached prefixes; 0: what max_sequences take, and as much again
  // Prompt tokens that one step reads at most, shared by the prompts that wait; 0: 512 on a processor, 4,096 on a GPU,
  // which fewer do not fill.
  int64_t prefill_tokens = 0;
  int64_t max_waiting = 1024;     // requests in the queue
  int64_t snapshot_every = 1024;  // tokens between the snapshots of states that resume nowhere else
  int64_t lookup = 0;             // tokens a step guesses from the sequence's own past (exact); 0: none
  bool prefix_cache = true;
  bool strict = false;
  bool graph = true;  // on a GPU: record a decoding step and replay it
  // Choose tokens on the device and start a step before the last one's tokens are known to the host (not with strict or
  // lookup). Without a value: on a GPU. On a processor nothing is won by it.
  std::optional<bool> overlap;
  // Called on the engine's thread after every step, when listeners were told what it made (overlapping: what the one
  // before it made); must not block or throw.
  std::function<void()> after_step;
};

struct EngineRequest {
  std::vector<int32_t> prompt;  // not empty
  int64_t max_tokens = 16;      // 0: only read the prompt (with prompt_logprobs)
  int64_t choices = 1;          // continuations of the one prompt, which is read once
  SamplerConfig sampling;
  std::map<int32_t, float> logit_bias;  // added to logits; finite
  std::vector<std::string> stop;
  std::vector<int32_t> end_tokens;  // any of these ends a choice
  uint64_t seed = 0;
  int64_t top_logprobs = -1;     // alternatives told with every token; -1: nothing, 0: the token's own
  bool prompt_logprobs = false;  // the same for the prompt's tokens
  std::shared_ptr<const Grammar> grammar;
};

struct TokenChoice {
  int32_t id = 0;
  double logprob = 0;
};

// Told to a request's listener, on the engine's thread: it must not block.
struct EngineEvent {
  enum class Kind : int8_t {
    prompt,    // the prompt was read: reused tokens, prompt_logprobs
    token,     // one more token of `choice`; the end token comes too, without text of its own
    finished,  // of `choice`; after the last choice's no event follows
    failed,    // the whole request; no event follows
  };
  Kind kind = Kind::token;
  int64_t choice = 0;
  TokenChoice token;
  std::vector<TokenChoice> top;  // most probable first
  std::string text;              // what can be shown now; with the last token, all that was held back
  Finish finish = Finish::length;
  int64_t reused = 0;  // kind prompt: leading tokens whose state was in the cache
  // Kind prompt, where asked for: of prompt tokens 1 .., the token itself, then the alternatives.
  std::vector<std::vector<TokenChoice>> prompt_top;
  std::string error;  // kind failed: for the log, not for strangers
};

// InputError's cousin for a request that could be served later: the queue is full, or the engine is stopping.
class Busy : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Histogram {
  std::vector<double> bounds;    // upper bounds, ascending
  std::vector<uint64_t> counts;  // one more than bounds
  double sum = 0;
};

struct EngineStats {
  int64_t waiting = 0, running = 0, slots = 0;
  uint64_t requests = 0, cancelled = 0, failed = 0, preempted = 0;
  uint64_t prompt_tokens = 0, reused_tokens = 0, generated_tokens = 0, steps = 0, guessed = 0, guesses_right = 0;
  uint64_t cache_hits = 0, cache_evictions = 0;
  std::map<std::string, uint64_t> cache_misses;  // by reason
  int64_t state_bytes = 0, cache_bytes = 0, memory = 0;
  Histogram first_token_seconds, token_seconds, queue_seconds;
};

class Engine {
 public:
  using Listener = std::function<void(const EngineEvent&)>;

  // Model and tokenizer must outlive the engine. InputError for a configuration that the memory cannot hold.
  Engine(models::Model& model, const Tokenizer& tokenizer, EngineConfig config);
  ~Engine();  // cancels what is left

  // Any thread. InputError for a request that cannot be (ids, lengths, sampling), Busy if it could be later.
  uint64_t submit(EngineRequest request, Listener listener);
  // Any thread. The slots are free within one step; the listener is not called after cancel returns unless it is
  // called from the listener itself.
  void cancel(uint64_t request);

  // No new requests; returns when what runs has finished, or after `seconds`, cancelling the rest.
  void drain(double seconds);

  EngineStats stats() const;
  const EngineConfig& config() const;

  // A conversation as one safetensors file: its tokens, the state after all of them but the last, and what the caller
  // notes. What is not cached of it is read first. Restoring puts it into the prefix cache, bit for bit, so that a
  // prompt that begins with these tokens goes on from there. Both wait for the engine's thread: not for a listener.
  using Notes = std::map<std::string, std::string>;
  void save(const std::vector<int32_t>& tokens, const std::string& path, const Notes& notes = {});
  // The tokens; InputError for another model or a damaged file, Busy if there is no memory for it.
  std::vector<int32_t> restore(const std::string& path, Notes* notes = nullptr);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rattan::infer
