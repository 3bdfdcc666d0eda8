#include "kernels/formats/iq_grids.h"

#include "kernels/formats/iq_points.h"

namespace kernels {

constinit const std::array<uint64_t, 256> kIq2XxsGrid = spelled_out<uint64_t, 2>(kPointsIq2Xxs, kLevelsIq2);
constinit const std::array<uint64_t, 512> kIq2XsGrid = spelled_out<uint64_t, 2>(kPointsIq2Xs, kLevelsIq2);
constinit const std::array<uint64_t, 1024> kIq2SGrid = spelled_out<uint64_t, 2>(kPointsIq2S, kLevelsIq2);
constinit const std::array<uint32_t, 256> kIq3XxsGrid =
    spelled_out<uint32_t, 3>(kPointsIq3Xxs, kLevelsIq3Xxs);
constinit const std::array<uint32_t, 512> kIq3SGrid = spelled_out<uint32_t, 3>(kPointsIq3S, kLevelsIq3S);

}  // namespace kernels
