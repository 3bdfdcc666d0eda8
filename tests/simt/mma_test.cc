// The wrappers of the tensor cores: emulated by the shim, and on a GPU the instructions themselves.

#include <random>
#include <vector>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/formats/half.h"
#include "tests/simt/device_rows.h"

using namespace kernels;
using simt::Buffer;
using simt::require;

namespace {

struct MmaArgs {
  Global<const uint8_t> a, b;  // [16 x 32], [8 x 32]: b by columns
  Global<const uint16_t> a_half, b_half;
  Global<int> c;
  Global<float> c_half;
};

__global__ void mma_once(MmaArgs m) {
  const int g = cuda::lane_id() / 4, t = cuda::lane_id() % 4;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) {
    a[i] = load<uint32_t>(m.a + ((g + i % 2 * 8) * 32 + 4 * t + i / 2 * 16));
  }
  for (int i = 0; i < 2; ++i) {
    b[i] = load<uint32_t>(m.b + (g * 32 + 4 * t + i * 16));
  }
  int c[4] = {1, 1, 1, 1};
  cuda::mma_s8(c, a, b);
  for (int i = 0; i < 4; ++i) {
    a[i] = load<uint32_t>(m.a_half + ((g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8));
  }
  for (int i = 0; i < 2; ++i) {
    b[i] = load<uint32_t>(m.b_half + (g * 16 + 2 * t + i * 8));
  }
  float c_half[4] = {0.5F, 0.5F, 0.5F, 0.5F};
  cuda::mma_f16(c_half, a, b);
  for (int i = 0; i < 4; ++i) {
    m.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
    m.c_half[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c_half[i];
  }
}

}  // namespace

TEST_CASE("the tensor cores' products, where the instruction set's manual has their values") {
  std::mt19937 random(70);
  std::vector<uint8_t> a(16 * 32), b(8 * 32);
  std::vector<uint16_t> a_half(16 * 16), b_half(8 * 16);
  for (auto* bytes : {&a, &b}) {
    for (uint8_t& byte : *bytes) {
      byte = static_cast<uint8_t>(random());
    }
  }
  for (auto* halves : {&a_half, &b_half}) {
    for (uint16_t& half : *halves) {
      half = f16_from_f32(static_cast<float>(static_cast<int>(random() % 65)) - 32);
    }
  }
  Buffer<uint8_t> a_on("a", a), b_on("b", b);
  Buffer<uint16_t> a_half_on("a_half", a_half), b_half_on("b_half", b_half);
  Buffer<int> c("c", 16 * 8);
  Buffer<float> c_half("c_half", 16 * 8);
  const MmaArgs args{a_on.data(), b_on.data(), a_half_on.data(), b_half_on.data(), c.data(), c_half.data()};
  require(cuda::launch("mma", mma_once, dim3{1, 1, 1}, 32, 0, nullptr, args));
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      int sum = 1;
      for (size_t k = 0; k < 32; ++k) {
        sum += int{static_cast<int8_t>(a[row * 32 + k])} * int{static_cast<int8_t>(b[column * 32 + k])};
      }
      REQUIRE(c.values()[row * 8 + column] == sum);
      float sum_half = 0.5F;
      for (size_t k = 0; k < 16; ++k) {
        sum_half += f32_from_f16(a_half[row * 16 + k]) * f32_from_f16(b_half[column * 16 + k]);
      }
      REQUIRE(c_half.values()[row * 8 + column] == sum_half);
    }
  }
}
