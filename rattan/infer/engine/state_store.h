// The states of all sequences that run, made once from a model's state_spec().
//
// Fields of one kind (type, shape, entries, places to resume) of all layers stand in one tensor, so that a whole
// sequence, or a range of its tokens, is copied with a handful of calls however many layers there are.
//
// On a processor the room for every row's largest size is address space alone; memory comes with the first touch and
// goes back with trim(). On a GPU all of it is allocated at the start.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "rattan/nn/state.h"

namespace rattan::infer {

class StateStore {
 public:
  struct Group {
    nn::Field field;     // what its members have in common
    int64_t resume = 0;  // of the specs they belong to
    std::vector<std::string> members;
    at::Tensor all;  // [members, rows, shape...] or [members, rows, entries, shape...]

    int64_t entry_bytes() const;  // of all members, one entry
    // Entries that a sequence of `tokens` has in use.
    int64_t entries(int64_t tokens) const;
    at::Tensor row(int64_t row) const { return all.select(1, row); }
    // Entries [from, to) of a row; for a field that is neither grown nor a ring, the whole.
    at::Tensor part(int64_t row, int64_t from, int64_t to) const;
    bool grows() const { return field.every > 0; }
    bool ring() const { return field.cap > 0; }
  };

  StateStore(const nn::StateSpec& spec, int64_t rows, int64_t capacity, at::ScalarType compute, at::Device device);
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  nn::State& state() { return state_; }  // [rows, ...] views of the groups
  const std::vector<Group>& groups() const { return groups_; }
  int64_t rows() const { return rows_; }
  int64_t capacity() const { return capacity_; }
  bool grows_on_touch() const { return device_.is_cpu(); }

  int64_t bytes(int64_t tokens) const;                      // of one row that holds so many
  void copy_row(int64_t from, int64_t to, int64_t tokens);  // what a sequence of `tokens` has in use
  void trim(int64_t row);                                   // gives the row's memory back; what it held is lost

 private:
  at::Tensor make(const std::vector<int64_t>& shape, at::ScalarType type) const;

  int64_t rows_, capacity_;
  at::Device device_;
  std::vector<Group> groups_;
  nn::State state_;
};

}  // namespace rattan::infer
