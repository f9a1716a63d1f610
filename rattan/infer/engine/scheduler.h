// Which sequence reads what, step by step; the engine without its thread.
//
// step(): drop what was cancelled; give waiting sequences rows, in order of arrival; read a bounded piece of the
// prompts, shared evenly; make one token of every sequence whose prompt is read. When memory runs out while sequences
// grow, the one that started last is put aside and read again later, so the oldest always gets on.
//
// Where the device chooses tokens, a step is started before the last one's tokens are known here: it reads them where
// they were chosen, and what the host does with them costs the device no time. A sequence that turns out to have ended
// has then read its last token as well, no more: its state is that of all its tokens.
#pragma once
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "rattan/infer/engine/memory.h"
#include "rattan/infer/engine/next_tokens.h"
#include "rattan/infer/engine/prefix_cache.h"
#include "rattan/infer/engine/reader.h"
#include "rattan/infer/engine/sequence.h"

namespace rattan::infer {

// Whom the scheduler tells what happens.
class Outlet {
 public:
  virtual ~Outlet() = default;
  virtual void tell(Live& live, const EngineEvent& event) = 0;
  virtual void admitted(Live& live) = 0;  // left the queue
  virtual void gone(Live& live) = 0;      // after the last event, or cancelled
};

struct Counts {
  uint64_t preempted = 0, prompt_tokens = 0, reused_tokens = 0, generated_tokens = 0, steps = 0;
  uint64_t guessed = 0, guesses_right = 0;
};

class Scheduler {
 public:
  Scheduler(models::Model& model, const Tokenizer& tokenizer, const EngineConfig& config, Outlet& outlet);

  void record();  // steps, before the first sequence comes (Reader::record)
  void add(const std::shared_ptr<Live>& live);
  void step();
  bool idle() const { return waiting_.empty() && running_.empty(); }
  void fail_all(const std::string& error);  // what runs and what waits

  int64_t rows() const { return static_cast<int64_t>(memory_.free_rows() + running_.size()); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  const Counts& counts() const { return counts_; }
  const Memory& memory() const { return memory_; }
  Reader& reader() { return reader_; }
  PrefixCache& cache() { return cache_; }

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  void drop_cancelled();
  void admit();
  bool start(Sequence& s);  // a row, memory, and what the cache knows
  bool grow(Sequence& s, int64_t tokens);
  void preempt(Sequence& s);
  void park(Sequence& s);        // gives its row back
  void keep(const Sequence& s);  // puts what it has read into the cache

  void prefill();
  void read(const std::vector<Reader::Piece>& plan, const std::vector<Sequence*>& readers);
  std::vector<Reader::Piece> pieces(const std::vector<Sequence*>& readers) const;
  void take_prompt_logits(Sequence& s, int64_t first, const at::Tensor& logits);
  void prompt_read(Sequence& s);
  void fork(Sequence& leader);

  void decode();
  bool may_overlap() const;
  void decode_singly(const std::vector<Sequence*>& ready, bool overlap);
  void land();                                          // what is in flight is accepted
  std::vector<int32_t> guess(const Sequence& s) const;  // of what follows its newest token
  void decode_guessing(const std::vector<std::pair<Sequence*, std::vector<int32_t>>>& guessed);
  void accept(Sequence& s, NextToken next);
  void finish(Sequence& s, Finish finish);
  void fail(Live& live, const std::string& error);
  void remove_finished();

  const Tokenizer& tokenizer_;
  const EngineConfig& config_;
  Outlet& outlet_;
  Reader reader_;
  Memory memory_;
  PrefixCache cache_;
  Counts counts_;
  int64_t vocabulary_;
  int64_t choose_ = 0;  // what Reader::step() is given
  uint64_t admissions_ = 0;
  std::deque<SequencePtr> waiting_;
  std::vector<SequencePtr> running_;
  bool overlaps_ = false;  // steps, where their sequences allow it
  Flight flight_;          // the last step's tokens, where the next one did not wait for them
};

}  // namespace rattan::infer
