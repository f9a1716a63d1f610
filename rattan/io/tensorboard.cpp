#include "rattan/io/tensorboard.h"

#include <unistd.h>

#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>

#include "rattan/base/error.h"
#include "rattan/io/crc32c.h"

namespace rattan {
namespace tensorboard_file {

// Fields of tensorflow.Event, Summary, Summary.Value and SessionLog that are used here.
enum Event { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum Summary { kValue = 1 };
enum Value { kTag = 1, kSimpleValue = 2 };
enum SessionLog { kStatus = 1 };
constexpr uint64_t kSessionStart = 1;

template <class Integer>
void little_endian(std::string& out, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out += static_cast<char>((value >> (8 * i)) & 0xFF);
}

void varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

enum Wire { kVarint = 0, k64Bit = 1, kLengthDelimited = 2, k32Bit = 5 };
void key(std::string& out, int field, Wire wire) { varint(out, static_cast<uint64_t>(field) << 3 | wire); }

void put_varint(std::string& out, int field, uint64_t value) {
  key(out, field, kVarint);
  varint(out, value);
}
void put_double(std::string& out, int field, double value) {
  key(out, field, k64Bit);
  little_endian(out, std::bit_cast<uint64_t>(value));
}
void put_float(std::string& out, int field, float value) {
  key(out, field, k32Bit);
  little_endian(out, std::bit_cast<uint32_t>(value));
}
void put_bytes(std::string& out, int field, std::string_view value) {
  key(out, field, kLengthDelimited);
  varint(out, value.size());
  out += value;
}

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes.data(), bytes.size()), 15) + 0xa282ead8u; }

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string event(int64_t step) {
  std::string out;
  put_double(out, kWallTime, now());
  put_varint(out, kStep, static_cast<uint64_t>(step));
  return out;
}

// Readers take the files of a folder in the order of their names, so the name starts with the time.
std::filesystem::path unused_name(const std::filesystem::path& folder) {
  char host[256] = "host";
  gethostname(host, sizeof host - 1);
  auto seconds = static_cast<int64_t>(now());
  for (int i = 0;; ++i) {
    auto path = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", seconds, host, getpid(), i);
    if (!std::filesystem::exists(path)) return path;
  }
}

}  // namespace tensorboard_file

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder, int64_t resumed_at) {
  using namespace tensorboard_file;
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem) fail("{}: the folder for TensorBoard events cannot be made: {}", folder.string(), problem.message());
  path_ = unused_name(folder);
  file_.reset(std::fopen(path_.c_str(), "wb"));
  if (!file_) fail("{}: cannot be written: {}", path_.string(), std::strerror(errno));
  std::string version = event(0);
  put_bytes(version, kFileVersion, "brain.Event:2");
  record(version);
  if (resumed_at >= 0) {
    std::string log;
    put_varint(log, kStatus, kSessionStart);
    std::string start = event(resumed_at + 1);
    put_bytes(start, kSessionLog, log);
    record(start);
  }
  flush();
}

void TensorboardWriter::scalar(std::string_view tag, int64_t step, double value) {
  using namespace tensorboard_file;
  std::string entry, summary, payload = event(step);
  put_bytes(entry, kTag, tag);
  put_float(entry, kSimpleValue, static_cast<float>(value));
  put_bytes(summary, kValue, entry);
  put_bytes(payload, kSummary, summary);
  record(payload);
}

void TensorboardWriter::record(std::string_view payload) {
  using namespace tensorboard_file;
  std::string frame;
  little_endian(frame, static_cast<uint64_t>(payload.size()));
  little_endian(frame, masked_crc(frame));
  frame += payload;
  little_endian(frame, masked_crc(payload));
  if (std::fwrite(frame.data(), 1, frame.size(), file_.get()) != frame.size()) {
    fail("{}: writing failed: {}", path_.string(), std::strerror(errno));
  }
}

void TensorboardWriter::flush() {
  if (std::fflush(file_.get()) != 0) {
    fail("{}: writing failed: {}. Free some space and resume.", path_.string(), std::strerror(errno));
  }
}

}  // namespace rattan
