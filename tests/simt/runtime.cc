// The runtime of kernels/cuda/runtime.h over the shim: device memory is a region that knows what was written, streams
// are in order because everything runs at once, and a graph is the launches that were recorded.

#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "tests/simt/runtime.h"
#include "tests/simt/simt.h"

namespace simt {
namespace {

struct Gpu {
  uint64_t bytes = uint64_t{1} << 30, used = 0;
  bool present = true, graphs = true, locks = true;
  int launched = 0, captured = 0;
  std::set<const std::byte*> locked;
};
Gpu& gpu() {
  static Gpu it;
  return it;
}

std::string text(uint64_t bytes) {
  return std::to_string(bytes) + " bytes";
}

}  // namespace

void set_device_memory(uint64_t bytes) {
  gpu().bytes = bytes;
}
void set_device_present(bool present) {
  gpu().present = present;
}
void set_graphs(bool allowed) {
  gpu().graphs = allowed;
}
void set_locks(bool allowed) {
  gpu().locks = allowed;
}
int locked() {
  return static_cast<int>(gpu().locked.size());
}
int graphs_launched() {
  return gpu().launched;
}
int graphs_captured() {
  return gpu().captured;
}

}  // namespace simt

namespace kernels::cuda {

using simt::gpu;

base::Result<Device> find_device() {
  if (!gpu().present) {
    return base::Error{"GPU", "there is none", "leave --n-gpu-layers out"};
  }
  return Device{"simt", 0, 1, gpu().bytes, uint64_t{227} << 10, false, false};
}

base::Result<uint64_t> free_memory() {
  return gpu().bytes - std::min(gpu().bytes, gpu().used);
}

base::Result<Memory> Memory::allocate(Place place, uint64_t bytes, const std::string& purpose) {
  Memory memory;
  if (bytes == 0) {
    return memory;
  }
  if (place == Place::kDevice && bytes > gpu().bytes - std::min(gpu().bytes, gpu().used)) {
    return base::Error{"GPU memory", purpose + " needs " + simt::text(bytes) + ", which are not free",
                       "lower --n-gpu-layers"};
  }
  memory.place_ = place;
  memory.size_ = bytes;
  if (place == Place::kDevice) {
    gpu().used += bytes;
    memory.data_ = simt::add_region(purpose, bytes, nullptr)->base;
  } else {
    memory.data_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{256}));
  }
  return memory;
}

Memory::~Memory() {
  if (data_ != nullptr && place_ == Place::kDevice) {
    gpu().used -= size_;
    simt::remove_region(simt::region_of(data_));
  } else if (data_ != nullptr) {
    ::operator delete (data_, std::align_val_t{256});
  }
}

base::Result<HostLock> HostLock::of(std::span<std::byte> memory) {
  HostLock lock;
  if (!gpu().locks) {
    return base::error("GPU", "memory of the host cannot be locked");
  }
  if (!memory.empty() && gpu().locked.insert(memory.data()).second) {
    lock.data_ = memory.data();
  }
  return lock;
}
HostLock::~HostLock() {
  if (data_ != nullptr) {
    gpu().locked.erase(data_);
  }
}

base::Result<OwnStream> OwnStream::create() {
  return OwnStream();
}
OwnStream::~OwnStream() = default;

namespace {

struct Range {
  std::byte* bytes = nullptr;
  uint8_t* written = nullptr;
};
base::Result<Range> range_of(const void* at, size_t n) {
  simt::Region* region = simt::region_of(at);
  if (region == nullptr || !region->holds(reinterpret_cast<uintptr_t>(at), n)) {
    return base::Error{"copy", "device memory was meant, of which there is none or not so much",
                       "mend the caller"};
  }
  const size_t offset = reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(region->base);
  return Range{region->base + offset, region->written.data() + offset};
}

}  // namespace

base::Result<void> copy(Stream /*stream*/, void* to, const void* from, size_t bytes, Direction direction) {
  if (bytes == 0) {
    return {};
  }
  if (simt::recording() != nullptr) {
    return base::Error{"copy", "not while a graph is recorded", "mend the caller"};
  }
  if (direction == Direction::kToHost) {
    auto source = range_of(from, bytes);
    if (!source) {
      return source.failure();
    }
    std::memcpy(to, source->bytes, bytes);
    return {};
  }
  auto target = range_of(to, bytes);
  if (!target) {
    return target.failure();
  }
  if (direction == Direction::kToDevice) {
    std::memcpy(target->bytes, from, bytes);
    std::memset(target->written, 1, bytes);
    return {};
  }
  auto source = range_of(from, bytes);
  if (!source) {
    return source.failure();
  }
  std::memcpy(target->bytes, source->bytes, bytes);
  std::memcpy(target->written, source->written, bytes);
  return {};
}

base::Result<void> zero(Stream /*stream*/, void* at, size_t bytes) {
  if (bytes == 0) {
    return {};
  }
  auto target = range_of(at, bytes);
  if (!target) {
    return target.failure();
  }
  std::memset(target->bytes, 0, bytes);
  std::memset(target->written, 1, bytes);
  return {};
}

base::Result<void> synchronise(Stream /*stream*/) {
  return {};
}

namespace {

simt::Recorded& recorded(void* graph) {
  return *static_cast<simt::Recorded*>(graph);
}

}  // namespace

base::Result<Graph> Graph::capture(Stream /*stream*/, const std::function<base::Result<void>()>& enqueue) {
  if (!gpu().graphs) {
    return base::error("GPU", "no graph can be recorded");
  }
  Graph graph;
  graph.graph_ = new simt::Recorded;
  simt::recording() = &recorded(graph.graph_);
  const auto done = enqueue();
  simt::recording() = nullptr;
  if (!done) {
    return done.failure();
  }
  ++gpu().captured;
  return graph;
}

Graph::~Graph() {
  delete static_cast<simt::Recorded*>(graph_);
}

base::Result<void> Graph::launch(Stream /*stream*/) const {
  ++gpu().launched;
  for (const auto& step : recorded(graph_)) {
    if (auto done = step(); !done) {
      return done;
    }
  }
  return {};
}

}  // namespace kernels::cuda
