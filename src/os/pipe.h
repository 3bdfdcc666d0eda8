#pragma once
// Reading what may be a pipe, such as a shell's <(zcat x.gz), without waiting for ever.

#include <cstdint>
#include <string>

#include "src/base/error.h"

namespace os {

// As read_file; a pipe is read until its writers have closed it. An Error when nothing comes for patience_s, and of what is
// neither a file nor a pipe.
base::Result<std::string> read_file_or_pipe(const std::string& path, double patience_s,
                                            uint64_t max_bytes = 1ULL << 30);

}  // namespace os
