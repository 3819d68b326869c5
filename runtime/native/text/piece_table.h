// Texts to ids of a vocabulary that does not change.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace gemma3::text {

// A hash table of texts that lie elsewhere: `text_of(id)` must give the text of an id put in.
//
// Its order differs from run to run, so that no file can be made for which it is slow.
template <typename TextOf>
class PieceTable {
 public:
  PieceTable(size_t count, TextOf text_of)
      : text_of_(text_of),
        seed_(static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count())) {
    size_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    slots_.resize(slots);
  }

  // Puts a text in; the id it is there under already, or -1.
  int32_t insert(std::string_view text, int32_t id) {
    const uint64_t hash = hash_of(text);
    Slot& slot = slots_[slot_of(text, hash)];
    if (slot.id >= 0) return slot.id;
    slot = {static_cast<uint32_t>(hash >> 32), id};
    return -1;
  }

  // The id of a text, or -1.
  int32_t find(std::string_view text) const { return slots_[slot_of(text, hash_of(text))].id; }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t id = -1;
  };

  size_t slot_of(std::string_view text, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
      const Slot& slot = slots_[at];
      if (slot.id < 0) return at;
      if (slot.tag == hash >> 32 && text_of_(slot.id) == text) return at;
    }
  }

  uint64_t hash_of(std::string_view text) const {
    constexpr uint64_t kOdd = 0x9E3779B97F4A7C15;
    uint64_t hash = seed_ ^ text.size() * kOdd;
    const char* at = text.data();
    size_t left = text.size();
    const auto mix = [&hash](uint64_t word) {
      hash = (hash ^ word) * kOdd;
      hash ^= hash >> 29;
    };
    for (; left >= 8; left -= 8, at += 8) {
      uint64_t word;
      std::memcpy(&word, at, 8);
      mix(word);
    }
    uint64_t word = 0;
    for (size_t i = 0; i < left; ++i) word = word << 8 | static_cast<uint8_t>(at[i]);
    mix(word);
    mix(seed_);
    return hash;
  }

  TextOf text_of_;
  uint64_t seed_;
  std::vector<Slot> slots_;
};

}  // namespace gemma3::text
