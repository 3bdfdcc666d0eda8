#pragma once
// Which instruction sets the float kernels are compiled for, and forcing one by name. Included before any
// Highway header.

#include <string>
#include <string_view>
#include <vector>

// Built on x86: AVX3 (AVX-512 F/BW/DQ/VL), AVX2, SSE4 and Highway's baseline; on Arm: NEON. Left out by bit,
// since the names differ between Highway 1.0.3 and 1.0.7: 4-7, AVX3_DL and its successors (same speed in
// float; GCC 12 emits AVX-VNNI there); 12, SSSE3; 23-27, the SVE family (its vectors have no size, and GB10's
// are NEON's width); and 9 and 11, AVX2 and SSE4, in the gate's sanitizer build, which has minutes.
#ifdef AR_GATE_TARGETS
#define HWY_DISABLED_TARGETS                                                                    \
  ((1LL << 4) | (1LL << 5) | (1LL << 6) | (1LL << 7) | (1LL << 9) | (1LL << 11) | (1LL << 12) | \
   (0x1fLL << 23))
#else
#define HWY_DISABLED_TARGETS \
  ((1LL << 4) | (1LL << 5) | (1LL << 6) | (1LL << 7) | (1LL << 12) | (0x1fLL << 23))
#endif

namespace kernels {

// Name of the instruction set the float kernels run on ("AVX3", "AVX2", "SSE4", "NEON", ...).
const char* float_isa();
// All that this machine can run, best first.
std::vector<std::string> float_isas();
// Runs all float kernels on that set from now on; "" goes back to the best. False, and nothing changes, when
// the machine does not have it. For tests and benchmarks: no kernel may be running.
bool force_float_isa(std::string_view name);

}  // namespace kernels
