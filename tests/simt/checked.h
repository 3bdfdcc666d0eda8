#pragma once
// Memory as kernels on the host see it: every pointer knows the region it belongs to, and every access is checked.
// Faults: outside the region, misaligned, a read of what nobody wrote; in shared memory also two threads of a block
// that touch a byte, one of them writing, with no barrier between them.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace simt {

// Who last touched a byte of shared memory, and when (Clock).
struct Touch {
  uint32_t epoch = 0;  // of the block; 0: never
  uint32_t warp_epoch = 0;
  uint16_t thread = 0;
  bool several = false, warps = false;  // reads: by more than one thread; of more than one warp
};

struct Region {
  std::string name;
  std::byte* base = nullptr;
  size_t size = 0;
  bool shared = false;
  std::vector<uint8_t> written;      // device memory: a flag per byte
  std::vector<Touch> writes, reads;  // shared memory

  bool holds(uintptr_t at, size_t n) const {
    const auto begin = reinterpret_cast<uintptr_t>(base);
    return at >= begin && n <= size && at - begin <= size - n;
  }
};

enum class Access { kRead, kWrite, kAtomic };

// Ends the launch with a fault where the access is none that the running thread may make.
void check_access(Region* region, uintptr_t at, size_t n, size_t align, Access access);
// The device buffer that holds an address; a null region, which faults at the first access, where there is none.
Region* region_of(const void* at);

// What indexing a pointer to writable memory gives.
template <class T>
class Reference {
 public:
  Reference(Region* region, uintptr_t at) : region_(region), at_(at) {}
  Reference(const Reference&) = default;
  operator T() const {
    check_access(region_, at_, sizeof(T), alignof(T), Access::kRead);
    T value;
    std::memcpy(&value, reinterpret_cast<const void*>(at_), sizeof value);
    return value;
  }
  const Reference& operator=(T value) const {
    check_access(region_, at_, sizeof(T), alignof(T), Access::kWrite);
    std::memcpy(reinterpret_cast<void*>(at_), &value, sizeof value);
    return *this;
  }
  const Reference& operator=(const Reference& other) const { return *this = static_cast<T>(other); }
  const Reference& operator+=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) + value); }
  const Reference& operator*=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) * value); }

 private:
  Region* region_;
  uintptr_t at_;
};

template <class T>
class Pointer {
 public:
  using Value = std::remove_const_t<T>;

  Pointer() = default;
  Pointer(std::nullptr_t) {}
  // A device buffer's address, as launchers are given it.
  Pointer(T* raw)
      : region_(raw == nullptr ? nullptr : region_of(raw)), at_(reinterpret_cast<uintptr_t>(raw)) {}
  Pointer(Region* region, uintptr_t at) : region_(region), at_(at) {}
  operator Pointer<const T>() const requires(!std::is_const_v<T>) { return {region_, at_}; }

  auto operator[](int64_t i) const {
    const Reference<Value> reference(region_, at_ + static_cast<uintptr_t>(i) * sizeof(T));
    if constexpr (std::is_const_v<T>) {
      return static_cast<Value>(reference);
    } else {
      return reference;
    }
  }
  auto operator*() const { return (*this)[0]; }
  Pointer operator+(int64_t n) const { return {region_, at_ + static_cast<uintptr_t>(n) * sizeof(T)}; }
  Pointer operator-(int64_t n) const { return *this + -n; }
  Pointer& operator+=(int64_t n) { return *this = *this + n; }
  bool operator==(std::nullptr_t) const { return at_ == 0; }

  Region* region() const { return region_; }
  uintptr_t address() const { return at_; }

 private:
  Region* region_ = nullptr;
  uintptr_t at_ = 0;
};

template <class To, class T>
Pointer<To> cast(Pointer<T> p) {
  return {p.region(), p.address()};
}

Region* add_region(std::string name, size_t bytes, const void* values);
void remove_region(Region* region);

// A device buffer: n values, written (from `values`) or not.
template <class T>
class Buffer {
 public:
  Buffer(std::string name, size_t n) : Buffer(std::move(name), n, nullptr) {}
  Buffer(std::string name, const std::vector<T>& values)
      : Buffer(std::move(name), values.size(), values.data()) {}
  Buffer(std::string name, size_t n, const T* values)
      : region_(add_region(std::move(name), n * sizeof(T), values)) {}
  ~Buffer() { remove_region(region_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(region_->base); }
  size_t size() const { return region_->size / sizeof(T); }
  // What kernels have left there, whether or not they wrote all of it.
  std::vector<T> values() {
    std::vector<T> all(size());
    std::memcpy(all.data(), data(), region_->size);
    return all;
  }
  // Bytes that nobody wrote.
  size_t unwritten() const {
    size_t n = 0;
    for (const uint8_t written : region_->written) {
      n += written == 0 ? 1 : 0;
    }
    return n;
  }

 private:
  Region* region_;
};

}  // namespace simt
