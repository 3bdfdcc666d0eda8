#pragma once
// What is known to be too large: the trials that really ran out of memory. Whatever needs at least as much is
// doomed. One failure may have been bad luck (another process held the memory), so a failure leaves as soon
// as something that needs at least as much has run.

#include <string>
#include <vector>

#include "search/space.h"

namespace search {

class Frontier {
 public:
  // All configurations are canonical. A failure that something larger which ran contradicts is not kept.
  void failed(const Space& space, const Config& config);
  // Drops the failures that doomed `config`; how many there were.
  size_t ran(const Space& space, const Config& config);

  bool dooms(const Space& space, const Config& config) const;
  // How far beyond the nearest failure it lies: the sum over its axes of log(demand / the failure's demand).
  // Infinite where nothing dooms it.
  double distance(const Space& space, const Config& config) const;
  // "ctx_size=65536 ran out of memory, and this needs at least as much", of the nearest; "" where not doomed.
  std::string why(const Space& space, const Config& config) const;

 private:
  const Config* nearest(const Space& space, const Config& config, double* distance) const;

  std::vector<Config> failures_, ran_;
};

}  // namespace search
