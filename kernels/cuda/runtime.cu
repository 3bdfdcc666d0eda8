#include "kernels/cuda/runtime.h"

#include <cstdio>

#include "kernels/cuda/device.cuh"

namespace kernels::cuda {
namespace {

std::string mebibytes(uint64_t bytes) {
  char text[40];
  std::snprintf(text, sizeof text, "%.2f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

base::Result<void> check(
    cudaError_t error, const char* what,
    const char* next = "see the GPU's driver log; --n-gpu-layers 0 computes on the CPU") {
  if (error == cudaSuccess) {
    return {};
  }
  (void)cudaGetLastError();  // or the next call would be told of it
  return base::Error{"GPU", std::string(what) + ": " + cudaGetErrorString(error), next};
}

struct ProbeArgs {
  Global<int> out;
};
__global__ void probe(ProbeArgs a) {
  a.out[0] = 1;
}

// That the binary has code for this device.
base::Result<void> check_kernels() {
  auto memory = Memory::allocate(Place::kDevice, sizeof(int), "a test of the GPU");
  if (!memory) {
    return memory.failure();
  }
  auto ran = launch("a test of the GPU", probe, dim3{1, 1, 1}, 1, 0, nullptr,
                    ProbeArgs{reinterpret_cast<int*>(memory->data())});
  if (ran.ok()) {
    ran = synchronise(nullptr);
  }
  if (!ran) {
    return base::Error{
        "GPU", ran.failure().what,
        "build with this GPU's architecture in AR_CUDA_ARCHITECTURES, or use --n-gpu-layers 0"};
  }
  return {};
}

cudaStream_t native(Stream stream) {
  return static_cast<cudaStream_t>(stream);
}

}  // namespace

base::Result<Device> find_device() {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    (void)cudaGetLastError();
    return base::Error{"GPU", "there is no driver", "install NVIDIA's, or leave --n-gpu-layers out"};
  }
  auto done = check(cudaGetDeviceCount(&count), "there is none to use",
                    "install the driver, or leave --n-gpu-layers out");
  if (!done) {
    return done.failure();
  }
  if (count == 0) {
    return base::Error{"GPU", "there is none", "leave --n-gpu-layers out"};
  }
  cudaDeviceProp properties{};
  done = check(cudaSetDevice(0), "it cannot be used");
  if (done.ok()) {
    done = check(cudaGetDeviceProperties(&properties, 0), "its properties cannot be read");
  }
  if (done.ok()) {
    done = check_kernels();
  }
  if (!done) {
    return done.failure();
  }
  Device device;
  device.name = properties.name;
  device.sm = 10 * properties.major + properties.minor;
  device.multiprocessors = properties.multiProcessorCount;
  device.memory_bytes = properties.totalGlobalMem;
  device.shared_bytes = properties.sharedMemPerBlockOptin;
  device.integrated = properties.integrated != 0;
  device.pageable_access = properties.pageableMemoryAccess != 0;
  return device;
}

base::Result<uint64_t> free_memory() {
  size_t free = 0, total = 0;
  if (auto done = check(cudaMemGetInfo(&free, &total), "its free memory cannot be read"); !done) {
    return done.failure();
  }
  return uint64_t{free};
}

base::Result<Memory> Memory::allocate(Place place, uint64_t bytes, const std::string& purpose) {
  Memory memory;
  if (bytes == 0) {
    return base::Result<Memory>(std::move(memory));
  }
  void* data = nullptr;
  const bool pinned = place == Place::kPinned;
  const cudaError_t error = pinned ? cudaMallocHost(&data, bytes) : cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    return base::Error{pinned ? "memory" : "GPU memory",
                       pinned
                           ? purpose + " needs " + mebibytes(bytes) + " of locked memory, which cannot be had"
                           : purpose + " needs " + mebibytes(bytes) + ", but " + mebibytes(free) + " of " +
                                 mebibytes(total) + " are free",
                       pinned ? "free memory or raise the limit of locked memory"
                              : "lower --n-gpu-layers or --ctx-size, or use a smaller cache type"};
  }
  if (auto done = check(error, "memory cannot be allocated"); !done) {
    return done.failure();
  }
  memory.place_ = place;
  memory.data_ = static_cast<std::byte*>(data);
  memory.size_ = bytes;
  return base::Result<Memory>(std::move(memory));
}

Memory::~Memory() {
  if (data_ != nullptr) {  // a lost device frees nothing, and there is nobody to tell
    (void)(place_ == Place::kPinned ? cudaFreeHost(data_) : cudaFree(data_));
  }
}

base::Result<HostLock> HostLock::of(std::span<std::byte> memory) {
  HostLock lock;
  if (memory.empty()) {
    return base::Result<HostLock>(std::move(lock));
  }
  const cudaError_t error = cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterDefault);
  if (error == cudaErrorHostMemoryAlreadyRegistered) {  // by another session of the context
    (void)cudaGetLastError();
    return base::Result<HostLock>(std::move(lock));
  }
  if (auto done = check(error, "memory of the host cannot be locked", "raise the limit of locked memory");
      !done) {
    return done.failure();
  }
  lock.data_ = memory.data();
  return base::Result<HostLock>(std::move(lock));
}

HostLock::~HostLock() {
  if (data_ != nullptr) {
    (void)cudaHostUnregister(data_);
  }
}

base::Result<OwnStream> OwnStream::create() {
  OwnStream own;
  cudaStream_t stream = nullptr;
  if (auto done = check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "no stream can be made");
      !done) {
    return done.failure();
  }
  own.stream_ = stream;
  return base::Result<OwnStream>(std::move(own));
}

OwnStream::~OwnStream() {
  if (stream_ != nullptr) {
    (void)cudaStreamDestroy(native(stream_));
  }
}

base::Result<void> copy(Stream stream, void* to, const void* from, size_t bytes, Direction direction) {
  if (bytes == 0) {
    return {};
  }
  const cudaMemcpyKind kind = direction == Direction::kToDevice ? cudaMemcpyHostToDevice
                              : direction == Direction::kToHost ? cudaMemcpyDeviceToHost
                                                                : cudaMemcpyDeviceToDevice;
  return check(cudaMemcpyAsync(to, from, bytes, kind, native(stream)), "a copy failed");
}

base::Result<void> zero(Stream stream, void* at, size_t bytes) {
  return bytes == 0 ? base::Result<void>()
                    : check(cudaMemsetAsync(at, 0, bytes, native(stream)), "clearing memory failed");
}

base::Result<void> synchronise(Stream stream) {
  return check(cudaStreamSynchronize(native(stream)), "a kernel or copy failed",
               "restart the program; see the GPU's driver log; --n-gpu-layers 0 computes on the CPU");
}

base::Result<Graph> Graph::capture(Stream stream, const std::function<base::Result<void>()>& enqueue) {
  auto done = check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal),
                    "no graph can be begun");
  if (!done) {
    return done.failure();
  }
  const auto enqueued = enqueue();
  cudaGraph_t recorded = nullptr;
  done = check(cudaStreamEndCapture(native(stream), &recorded), "a graph could not be recorded");
  if (!enqueued) {
    done = enqueued;
  }
  Graph graph;
  if (done.ok()) {
    cudaGraphExec_t executable = nullptr;
    done = check(cudaGraphInstantiate(&executable, recorded, 0), "a graph could not be made");
    graph.graph_ = executable;
  }
  if (recorded != nullptr) {
    (void)cudaGraphDestroy(recorded);
  }
  if (!done) {
    return done.failure();
  }
  return base::Result<Graph>(std::move(graph));
}

Graph::~Graph() {
  if (graph_ != nullptr) {
    (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_));
  }
}

base::Result<void> Graph::launch(Stream stream) const {
  return check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), native(stream)),
               "a graph could not be launched");
}

}  // namespace kernels::cuda
