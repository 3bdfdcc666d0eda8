#pragma once
// What a running program is, for --version, /props and the journal's header.

#include <string_view>

namespace base {

std::string_view version();  // "0.1.0"
std::string_view commit();   // "a1b2c3d4e", with "-dirty" when the tree had changes; "unknown" outside git

}  // namespace base
