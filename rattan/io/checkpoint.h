// Checkpoints: folders root/step-N/ that are whole and marked so, or do not count.
//
// A checkpoint is written into root/.writing-step-N-<pid>/, every file synced, renamed to root/step-N/, and marked by
// the file DONE last. DONE lists the size and CRC-32 of every file:
//   {"step": 100, "files": [{"path": "model.safetensors", "bytes": 123, "crc32": 456}, ...]}
// Only folders with DONE count, so a process killed at any instant leaves the checkpoints that were DONE before.
// One process at a time writes, prunes or cleans a root.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rattan {

struct Checkpoint {
  int64_t step = 0;
  std::filesystem::path folder;
};

// `fill` writes the files into the folder it gets (sub-folders are allowed). If it or anything else fails, nothing is
// left and the error goes on to the caller. A DONE checkpoint of the same step is exchanged for the new one in one
// instant; where the file system cannot do that, the old one is removed first.
Checkpoint write_checkpoint(const std::filesystem::path& root, int64_t step,
                            const std::function<void(const std::filesystem::path&)>& fill);

std::vector<Checkpoint> list_checkpoints(const std::filesystem::path& root);  // DONE ones by step; changes nothing
std::optional<Checkpoint> latest_checkpoint(const std::filesystem::path& root);

// Compares every file with DONE. InputError names the file that is missing, truncated or damaged.
void verify_checkpoint(const std::filesystem::path& folder);

// Removes DONE checkpoints but the last `keep_last` (at least 1) and those whose step is a multiple of `keep_every`
// (0: none). DONE goes first, so a half-removed folder never counts.
void prune_checkpoints(const std::filesystem::path& root, int64_t keep_last, int64_t keep_every = 0);

// Removes what an interrupted write or removal has left: .writing-* folders and step-N folders without DONE.
void remove_leftovers(const std::filesystem::path& root);

}  // namespace rattan
