#pragma once
// A hash table for the tokenizer's: hundreds of thousands of small values that are put in once and looked up often.
// Open addressing in one array, so that a look-up is one or two cache lines where a std::unordered_map takes three.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace engine {

// Keys need not be mixed, and may repeat: find() asks about each value of the key, in the order they were put in. Value is small and copyable.
template <class Value>
class FlatTable {
 public:
  // Room for n entries at no further cost.
  void reserve(size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) {
      slots *= 2;
    }
    if (slots > slots_.size()) {
      grow(slots);
    }
  }
  void insert(uint64_t key, const Value& value) {
    reserve(size_ + 1);
    size_t at = start(key);
    while (slots_[at].used) {
      at = (at + 1) & (slots_.size() - 1);
    }
    slots_[at] = {key, value, true};
    ++size_;
  }
  // The first value of this key that same(value) accepts, nullptr for none.
  template <class Same>
  const Value* find(uint64_t key, Same&& same) const {
    if (slots_.empty()) {
      return nullptr;
    }
    for (size_t at = start(key); slots_[at].used; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key && same(slots_[at].value)) {
        return &slots_[at].value;
      }
    }
    return nullptr;
  }
  const Value* find(uint64_t key) const {
    return find(key, [](const Value&) { return true; });
  }
  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t key = 0;
    Value value = {};
    bool used = false;
  };

  size_t start(uint64_t key) const {
    const uint64_t mixed = (key ^ key >> 32) * 0x9E3779B97F4A7C15;
    return static_cast<size_t>(mixed >> 32) & (slots_.size() - 1);
  }
  void grow(size_t slots) {
    const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots));
    size_ = 0;
    // From after a free slot on: values of one key that lie across the end must not change their order.
    size_t free = 0;
    while (free < old.size() && old[free].used) {
      ++free;
    }
    for (size_t i = 1; i < old.size(); ++i) {
      if (const Slot& slot = old[(free + i) & (old.size() - 1)]; slot.used) {
        insert(slot.key, slot.value);
      }
    }
  }

  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t size_ = 0;
};

}  // namespace engine
