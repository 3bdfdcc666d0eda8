#pragma once
// The little of the CUDA runtime that a backend needs, without its types: one device, memory, copies, streams, graphs.
// Every error code becomes an Error. runtime.cu has it for GPUs, tests/simt/runtime.cc for the shim.

#include <functional>
#include <span>
#include <string>
#include <utility>

#include "kernels/cuda/launch.h"

namespace kernels::cuda {

struct Device {
  std::string name;
  int sm = 0;  // 90: compute capability 9.0
  int multiprocessors = 0;
  uint64_t memory_bytes = 0;
  uint64_t shared_bytes = 0;     // most of a block
  bool integrated = false;       // its memory is the host's
  bool pageable_access = false;  // kernels may read all of the host's memory by its address
};
// The device that everything here uses: the first that CUDA_VISIBLE_DEVICES leaves. An Error where there is no GPU or
// driver, and where a kernel of ours does not run on it.
base::Result<Device> find_device();
// What the driver could give now.
base::Result<uint64_t> free_memory();

enum class Place { kDevice, kPinned };  // kPinned: the host's, never paged out

// Aligned to 256, not initialised; released on destruction, which waits for the device.
class Memory {
 public:
  Memory() = default;
  // `purpose` names it in errors: "KV cache".
  static base::Result<Memory> allocate(Place place, uint64_t bytes, const std::string& purpose);
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory();
  std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  void swap(Memory& other) noexcept {
    std::swap(place_, other.place_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  Place place_ = Place::kDevice;
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

// Memory of the host as the driver locks it: copies go straight there, and may still be under way when copy() returns.
// The memory outlives this. What is locked already stays with whoever locked it.
class HostLock {
 public:
  HostLock() = default;
  static base::Result<HostLock> of(std::span<std::byte> memory);
  HostLock(HostLock&& other) noexcept { std::swap(data_, other.data_); }
  HostLock& operator=(HostLock&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~HostLock();

 private:
  std::byte* data_ = nullptr;
};

// Work of a stream runs in order, beside that of others.
class OwnStream {
 public:
  OwnStream() = default;
  static base::Result<OwnStream> create();
  OwnStream(OwnStream&& other) noexcept { std::swap(stream_, other.stream_); }
  OwnStream& operator=(OwnStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~OwnStream();
  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};

enum class Direction { kToDevice, kToHost, kWithin };
// Enqueues a copy. Memory of the host that is not pinned may have been read or written when it returns.
base::Result<void> copy(Stream stream, void* to, const void* from, size_t bytes, Direction direction);
// Enqueues zeros into device memory.
base::Result<void> zero(Stream stream, void* at, size_t bytes);
// Waits for all work of a stream. Faults of its kernels come to light here; after one the device is lost to the process.
base::Result<void> synchronise(Stream stream);

// Launches, recorded once and launched together again and again: the same kernels, grids and arguments.
class Graph {
 public:
  Graph() = default;
  // `enqueue` makes the launches, on `stream` alone; nothing runs.
  static base::Result<Graph> capture(Stream stream, const std::function<base::Result<void>()>& enqueue);
  Graph(Graph&& other) noexcept { std::swap(graph_, other.graph_); }
  Graph& operator=(Graph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  ~Graph();
  base::Result<void> launch(Stream stream) const;

 private:
  void* graph_ = nullptr;
};

}  // namespace kernels::cuda
