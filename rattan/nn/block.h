// A block is a list of branches, each (norm, function, residual rule); the feed-forward layer is a mixer with
// an empty state. A stack is a plan of slots over blocks, so that blocks can be shared over depth.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "rattan/nn/mixer.h"
#include "rattan/nn/norm.h"
#include "rattan/nn/stream.h"

namespace rattan::nn {

// How a branch's output joins the stream. The default, `add`, leaves it pending.
class Residual : public Module {
 public:
  virtual void join(Stream& stream, at::Tensor branch, Call& call) = 0;
  virtual bool adds() const { return false; }  // join is a plain addition
};
class AddResidual : public Residual {
 public:
  void join(Stream& stream, at::Tensor branch, Call& call) override;
  bool adds() const override { return true; }
};

// Where a branch's norm stands: pre: x = join(x, f(norm x)); post: x = norm(join(x, f(x))).
enum class Place : int8_t { pre, post, none };

struct Branch {
  Place place = Place::pre;
  std::unique_ptr<RmsNorm> norm;  // absent where place is none
  std::unique_ptr<Mixer> fn;
  std::unique_ptr<Residual> join;
  double dropout = 0;  // of the branch's output, in training
};

class Block : public Module {
 public:
  explicit Block(at::ScalarType* compute) : compute_(compute) {}
  // Names the branch's parts "<name>_norm" and "<name>" ("mixer", "ffn").
  void add(std::string name, Branch branch);
  void forward(Stream& stream, Call& call);
  void extend(Stream& stream, State& state, Call& call);
  const std::vector<Branch>& branches() const { return branches_; }
  StateSpec state_spec() const;  // a child per branch that has a state
  double flops_per_token(int64_t tokens) const;

 private:
  at::Tensor input_of(const Branch& branch, Stream& stream) const;
  // The norm of this branch, where its first product may make it in passing.
  std::optional<ops::NormToCome> left_to_the_product(const Branch& branch, const Stream& stream) const;
  // The stream, where the branch may add its output to it itself.
  Stream* offered(const Branch& branch, Stream& stream, const Call& call) const;
  void leave(const Branch& branch, Stream& stream, at::Tensor y, Call& call, size_t index);
  at::ScalarType* compute_;  // the stack's computing type
  std::vector<Branch> branches_;
  std::vector<std::string> names_;
};

class Stack : public Module {
 public:
  // The computing type is read from `compute` at every call.
  explicit Stack(at::ScalarType* compute) : compute_(compute) {}
  Block& add_block();                    // "layers.<i>"
  void set_plan(std::vector<int> plan);  // slot -> block; default: each block once, in order
  int slots() const { return static_cast<int>(plan_.size()); }

  // Runs slots [from, to); to = -1: to the end. Sets the call's slot and step.
  void forward(Stream& stream, Call& call, int from = 0, int to = -1);
  void extend(Stream& stream, State& state, Call& call, int from = 0, int to = -1);
  StateSpec state_spec() const;  // a child per slot, named by its number
  double flops_per_token(int64_t tokens) const;
  const Block& block(int slot) const { return *blocks_[plan_[slot]]; }

  bool checkpoint = false;  // recompute each block's activations in backward

 private:
  Block& enter(int slot, Call& call);  // the slot's block; sets the call's slot and step
  at::ScalarType* compute_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<int> plan_;
};

}  // namespace rattan::nn
