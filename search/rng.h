#pragma once
// A small random generator whose numbers are the same on every machine and standard library (std's
// distributions are not): splitmix64 (Steele, Lea and Flood, OOPSLA 2014).

#include <cstddef>
#include <cstdint>

namespace search {

class Rng {
 public:
  // `stream` separates uses of one seed.
  Rng(uint64_t seed, uint64_t stream) : state_(seed) { state_ = next() ^ (stream * 0xD1342543DE82EF95ULL); }

  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  // In [0, n); n > 0. The bias of the remainder is below 2^-40 for any axis.
  uint64_t below(uint64_t n) { return next() % n; }
  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  uint64_t state_;
};

}  // namespace search
