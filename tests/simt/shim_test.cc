// The shim itself: each fault it is there for is caught, and names kernel, block and thread; warps and barriers mean
// what CUDA's mean.

#include <doctest/doctest.h>

#include "kernels/cuda/device.cuh"

using namespace kernels::cuda;

namespace {

struct Args {
  Global<int> out;
  Global<const int> in;
  int which = 0;
};

std::string run(void (*kernel)(Args), const Args& args, dim3 blocks = {1, 1, 1}, int threads = 64,
                size_t shared_bytes = 0) {
  const auto result = launch("probe", kernel, blocks, threads, shared_bytes, nullptr, args);
  return result.ok() ? "" : result.failure().what;
}
bool has(const std::string& text, const char* part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) {
    MESSAGE(text);
  }
  return found;
}

void beyond(Args a) {
  if (blockIdx.x == 1 && threadIdx.x == 5) {
    a.out[a.which] = 1;
  }
}
void misaligned(Args a) {
  store(pointer_cast<uint8_t>(a.out) + 2, 7);
}
void unwritten(Args a) {
  a.out[threadIdx.x] = a.in[threadIdx.x];
}
void shared_unwritten(Args a) {
  AR_SHARED(int, values, 64);
  if (threadIdx.x != 40) {
    values[threadIdx.x] = 1;
  }
  __syncthreads();
  a.out[threadIdx.x] = values[63 - threadIdx.x];
}
void shared_beyond(Args a) {
  AR_DYNAMIC_SHARED(bytes);
  const Shared<int> values = pointer_cast<int>(bytes);
  values[threadIdx.x] = a.which;
}
// which: 0 as it should be, 1 no barrier before the read, 2 none before the next write.
void exchange(Args a) {
  AR_SHARED(int, values, 64);
  for (int round = 0; round < 2; ++round) {
    values[threadIdx.x] = static_cast<int>(threadIdx.x) + round;
    if (a.which != 1) {
      __syncthreads();
    }
    a.out[threadIdx.x] = values[63 - threadIdx.x];
    if (a.which != 2) {
      __syncthreads();
    }
  }
}
// which: 0 a barrier of the warp, 1 none.
void exchange_in_warp(Args a) {
  AR_SHARED(int, values, 64);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (a.which == 0) {
    __syncwarp();
  }
  a.out[threadIdx.x] = values[threadIdx.x ^ 1U];
}
void two_barriers(Args /*a*/) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
void early_end(Args /*a*/) {
  if (threadIdx.x != 3) {
    __syncthreads();
  }
}
// which: 0 lane 7 has ended, 1 the mask names lanes the block has not, 2 reads from a lane outside the mask, 3 not in
// its own mask.
void bad_shuffle(Args a) {
  const int lane = lane_id();
  if (a.which == 0 && lane == 7) {
    return;
  }
  const uint32_t mask = a.which == 2 ? 0x0000ffffU : a.which == 3 ? 0xfffffffeU : kAllLanes;
  if (a.which == 2 && lane >= 16) {
    return;
  }
  a.out[threadIdx.x] = __shfl_xor_sync(mask, lane, a.which == 2 ? 16 : 1);
}
void warp_words(Args a) {
  const int lane = lane_id();
  int value = __shfl_xor_sync(kAllLanes, lane, 5) * 1000 + __shfl_sync(kAllLanes, lane, 3);
  if (lane < 8) {
    value += __shfl_xor_sync(0xffU, lane, 2) * 1000000;
  }
  value = static_cast<int>(static_cast<uint32_t>(value) +
                           100000000U * __shfl_down_sync(kAllLanes, static_cast<uint32_t>(lane), 2U));
  const uint32_t odd = __ballot_sync(kAllLanes, lane % 2 == 1);
  AR_SHARED(int, sum, 1);
  if (threadIdx.x == 0) {
    sum[0] = 0;
  }
  __syncthreads();
  atomicAdd(sum + 0, lane);
  __syncthreads();
  a.out[threadIdx.x] = odd == 0xaaaaaaaaU && sum[0] == 2 * 496 ? value : -1;
}

}  // namespace

TEST_CASE("accesses outside a buffer, misaligned, and of what nobody wrote are faults") {
  simt::Buffer<int> out("out", 64), in("in", 64);
  for (const int at : {64, -1, 1 << 28}) {
    const std::string fault = run(beyond, {out.data(), in.data(), at}, {3, 1, 1});
    CHECK(has(fault, "kernel probe, block (1, 0, 0), thread (5, 0, 0): writes 4 bytes at byte "));
    CHECK(has(fault, " of out, which has 256"));
  }
  CHECK(run(beyond, {out.data(), in.data(), 63}, {3, 1, 1}).empty());
  CHECK(out.unwritten() == 63 * 4);
  CHECK(has(run(beyond, {nullptr, in.data(), 0}, {3, 1, 1}), "a pointer into no buffer"));
  CHECK(has(run(misaligned, {out.data(), in.data()}), "no multiple of 4"));
  CHECK(has(run(unwritten, {out.data(), in.data()}),
            "reads 4 bytes at byte 0 of in, which nobody has written"));
}

TEST_CASE("shared memory: bounds, uninitialised reads, the budget, missing barriers") {
  simt::Buffer<int> out("out", 64);
  const Args args{out.data(), nullptr};
  const auto with = [&](int which) { return Args{out.data(), nullptr, which}; };
  CHECK(has(run(shared_unwritten, args), "thread (23, 0, 0): reads 4 bytes at byte 160 of shared memory"));
  CHECK(run(shared_beyond, args, {2, 1, 1}, 64, 256).empty());
  CHECK(has(run(shared_beyond, args, {2, 1, 1}, 64, 252), "thread (63, 0, 0): writes 4 bytes at byte 252"));
  simt::set_shared_budget(kLeastSharedBytes);
  CHECK(run(shared_beyond, args, {1, 1, 1}, 64, kLeastSharedBytes).empty());
  CHECK(has(run(shared_beyond, args, {1, 1, 1}, 64, kLeastSharedBytes + 4), "more than 101376"));
  simt::set_shared_budget(size_t{227} << 10);
  for (const bool reversed : {false, true}) {
    simt::set_reversed(reversed);
    CHECK(run(exchange, with(0)).empty());
    // Whoever runs first reads what is not there yet, or was left by the others: a fault either way.
    CHECK(has(run(exchange, with(1)), "reads 4 bytes"));
    CHECK(has(run(exchange, with(2)), "no barrier between"));
    CHECK(run(exchange_in_warp, with(0)).empty());
    CHECK(has(run(exchange_in_warp, with(1)), "reads 4 bytes"));
  }
  simt::set_reversed(false);
}

TEST_CASE("threads that wait for what does not come are faults") {
  simt::Buffer<int> out("out", 64);
  const auto with = [&](int which) { return Args{out.data(), nullptr, which}; };
  CHECK(has(run(two_barriers, with(0)), "thread (32, 0, 0): waits at the barrier at shim_test.cc:"));
  CHECK(has(run(early_end, with(0)), "thread (3, 0, 0): has ended, and others wait at the barrier"));
  CHECK(has(run(bad_shuffle, with(0)), "for lane 7, which has ended"));
  CHECK(has(run(bad_shuffle, with(1), {1, 1, 1}, 48), "for lane 16, which has ended"));
  CHECK(has(run(bad_shuffle, with(2)), "reads from lane 16, which is not in the mask"));
  CHECK(has(run(bad_shuffle, with(3)), "thread (0, 0, 0): is not in the mask it names"));
  CHECK(has(run(warp_words, with(0), {1, 1, 1}, 2048), "threads"));
}

TEST_CASE("warps, votes, atomics and byte words mean what CUDA's mean") {
  simt::Buffer<int> out("out", 64);
  CHECK(run(warp_words, {out.data(), nullptr}).empty());
  const std::vector<int> values = out.values();
  for (int i = 0; i < 64; ++i) {
    const int lane = i % 32, down = lane < 30 ? lane + 2 : lane;
    const uint32_t want = static_cast<uint32_t>(down) * 100000000U +
                          static_cast<uint32_t>((lane < 8 ? lane ^ 2 : 0) * 1000000 + (lane ^ 5) * 1000 + 3);
    CHECK(static_cast<uint32_t>(values[static_cast<size_t>(i)]) == want);
  }
  CHECK(__dp4a(static_cast<int>(0x80ff7f01U), 0x02030405, 10) == 10 + 5 + 127 * 4 - 3 - 256);
  CHECK(__byte_perm(0x33221100U, 0x77665584U, 0x3715) == 0x33771155U);
  CHECK(__byte_perm(0x33221100U, 0x77665584U, 0xc8c4) == 0xff00ff84U);
  CHECK(__funnelshift_r(0x44332211U, 0x88776655U, 16) == 0x66554433U);
}
