#pragma once
// In place of tests/simt/block.h where the tests of the kernels run on a GPU (test_cuda): buffers in its memory.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "src/base/check.h"

namespace simt {

// As simt::Buffer of tests/simt/checked.h. Bytes nobody gave are 0xff: as floats no numbers.
template <class T>
class Buffer {
 public:
  Buffer(const std::string& name, size_t n) : Buffer(name, n, nullptr) {}
  Buffer(const std::string& name, const std::vector<T>& values)
      : Buffer(name, values.size(), values.data()) {}
  Buffer(const std::string& name, size_t n, const T* values) : size_(n), given_(values != nullptr) {
    auto memory = kernels::cuda::Memory::allocate(kernels::cuda::Place::kDevice, n * sizeof(T), name);
    AR_CHECK(memory.ok(), "no memory for a test");
    memory_ = *std::move(memory);
    const std::vector<uint8_t> none(given_ ? 0 : n * sizeof(T), 0xff);
    move(memory_.data(), given_ ? static_cast<const void*>(values) : none.data(),
         kernels::cuda::Direction::kToDevice);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(memory_.data()); }
  size_t size() const { return size_; }
  std::vector<T> values() {
    std::vector<T> all(size_);
    move(all.data(), memory_.data(), kernels::cuda::Direction::kToHost);
    return all;
  }
  size_t unwritten() {
    size_t n = 0;
    for (const T value : values()) {
      std::vector<uint8_t> bytes(sizeof value);
      std::memcpy(bytes.data(), &value, sizeof value);
      n += !given_ && std::ranges::count(bytes, 0xff) == static_cast<std::ptrdiff_t>(sizeof value) ? 1 : 0;
    }
    return n;
  }

 private:
  void move(void* to, const void* from, kernels::cuda::Direction direction) {
    const bool done = kernels::cuda::copy(nullptr, to, from, size_ * sizeof(T), direction).ok() &&
                      kernels::cuda::synchronise(nullptr).ok();
    AR_CHECK(done, "the GPU failed a test: see its driver's log");
  }

  kernels::cuda::Memory memory_;
  size_t size_ = 0;
  bool given_ = false;
};

// What only the shim can choose.
inline void set_shared_budget(size_t) {}
inline void set_reversed(bool) {}

}  // namespace simt
