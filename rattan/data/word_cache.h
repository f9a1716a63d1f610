// Remembers the tokens of words met before: an open-addressing table over two arenas.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace rattan {

class WordCache {
 public:
  // The tokens of `word`, or nothing known. Valid until the next insert.
  const int32_t* find(std::string_view word, std::size_t& count) const {
    for (std::size_t i = hash(word) & mask();; i = (i + 1) & mask()) {
      const Slot& slot = slots_[i];
      if (slot.text_size == 0) return nullptr;
      if (slot.text_size == word.size() && word == std::string_view(text_.data() + slot.text, slot.text_size)) {
        count = slot.id_count;
        return ids_.data() + slot.ids;
      }
    }
  }

  // `word` is neither empty nor present. A full table forgets everything: memory stays bounded (about 15 MB).
  void insert(std::string_view word, std::span<const int32_t> ids) {
    if (used_ * 2 >= slots_.size()) clear();
    std::size_t i = hash(word) & mask();
    while (slots_[i].text_size != 0) i = (i + 1) & mask();
    slots_[i] = {static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(word.size()),
                 static_cast<uint32_t>(ids_.size()), static_cast<uint32_t>(ids.size())};
    text_.insert(text_.end(), word.begin(), word.end());
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++used_;
  }

 private:
  struct Slot {
    uint32_t text, text_size, ids, id_count;
  };
  static std::size_t hash(std::string_view word) { return std::hash<std::string_view>{}(word); }
  std::size_t mask() const { return slots_.size() - 1; }
  void clear() {
    slots_.assign(slots_.size(), Slot{});
    text_.clear();
    ids_.clear();
    used_ = 0;
  }

  std::vector<Slot> slots_ = std::vector<Slot>(1 << 17);
  std::vector<char> text_;
  std::vector<int32_t> ids_;
  std::size_t used_ = 0;
};

}  // namespace rattan
