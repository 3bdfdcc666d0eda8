#include "src/os/proc.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <map>
#include <type_traits>
#include <utility>

namespace os {
namespace {

// Whole content of a /proc file ("" when unreadable); these have no size, and change between two reads.
std::string slurp(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return "";
  }
  std::string text;
  char buffer[1 << 14];
  for (;;) {
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      break;
    }
    text.append(buffer, static_cast<size_t>(n));
  }
  ::close(fd);
  return text;
}

template <class F>
void for_each_line(std::string_view text, F&& f) {
  while (!text.empty()) {
    size_t end = text.find('\n');
    f(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

std::string_view next_word(std::string_view& rest) {
  size_t start = rest.find_first_not_of(" \t");
  if (start == std::string_view::npos) {
    rest = {};
    return {};
  }
  size_t end = std::min(rest.find_first_of(" \t\n", start), rest.size());
  std::string_view word = rest.substr(start, end - start);
  rest.remove_prefix(end);
  return word;
}

template <class T>
std::optional<T> number(std::string_view word, int base = 10) {
  T value{};
  std::from_chars_result read{};
  if constexpr (std::is_floating_point_v<T>) {
    read = std::from_chars(word.data(), word.data() + word.size(), value);
  } else {
    read = std::from_chars(word.data(), word.data() + word.size(), value, base);
  }
  auto [end, code] = read;
  if (code != std::errc() || end != word.data() + word.size()) {
    return std::nullopt;
  }
  return value;
}

// "Name:   123 kB" -> bytes into the field of that name.
using Fields = std::vector<std::pair<std::string_view, uint64_t*>>;
int read_kib_fields(std::string_view text, const Fields& fields) {
  int found = 0;
  for_each_line(text, [&](std::string_view line) {
    size_t colon = line.find(':');
    for (const auto& [name, target] : fields) {
      if (colon == name.size() && line.starts_with(name)) {
        std::string_view rest = line.substr(colon + 1);
        if (auto kib = number<uint64_t>(next_word(rest))) {
          *target = *kib * 1024;
          ++found;
        }
      }
    }
  });
  return found;
}

template <class F>
void for_each_pid(F&& f) {
  DIR* dir = ::opendir("/proc");
  if (dir == nullptr) {
    return;
  }
  while (const dirent* entry = ::readdir(dir)) {
    if (auto pid = number<pid_t>(entry->d_name)) {
      f(*pid);
    }
  }
  ::closedir(dir);
}

bool owns_socket(pid_t pid, const std::vector<uint64_t>& inodes, std::vector<uint64_t>& owned) {
  std::string directory = fmt::format("/proc/{}/fd", pid);
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) {
    return false;
  }
  bool any = false;
  while (const dirent* entry = ::readdir(dir)) {
    char target[64];
    ssize_t n = ::readlinkat(::dirfd(dir), entry->d_name, target, sizeof target);
    std::string_view link(target, n > 0 ? static_cast<size_t>(n) : 0);
    constexpr std::string_view kPrefix = "socket:[";
    if (!link.starts_with(kPrefix) || !link.ends_with(']')) {
      continue;
    }
    auto inode = number<uint64_t>(link.substr(kPrefix.size(), link.size() - kPrefix.size() - 1));
    if (inode && std::find(inodes.begin(), inodes.end(), *inode) != inodes.end()) {
      owned.push_back(*inode);
      any = true;
    }
  }
  ::closedir(dir);
  return any;
}

}  // namespace

std::optional<MemInfo> parse_meminfo(std::string_view text) {
  MemInfo info;
  uint64_t active = 0, inactive = 0;
  read_kib_fields(text, {{"MemTotal", &info.total},
                         {"MemAvailable", &info.available},
                         {"MemFree", &info.free},
                         {"SwapTotal", &info.swap_total},
                         {"SwapFree", &info.swap_free},
                         {"Active(file)", &active},
                         {"Inactive(file)", &inactive}});
  info.file_lru = active + inactive;
  return info.total == 0 ? std::nullopt : std::optional(info);
}

MemInfo read_meminfo() {
  return parse_meminfo(slurp("/proc/meminfo")).value_or(MemInfo{});
}

std::optional<MemoryPressure> parse_psi_full(std::string_view text) {
  std::optional<MemoryPressure> result;
  for_each_line(text, [&](std::string_view line) {
    if (next_word(line) != "full") {
      return;
    }
    std::optional<double> avg10;
    std::optional<uint64_t> total;
    for (std::string_view word = next_word(line); !word.empty(); word = next_word(line)) {
      if (word.starts_with("avg10=")) {
        avg10 = number<double>(word.substr(6));
      } else if (word.starts_with("total=")) {
        total = number<uint64_t>(word.substr(6));
      }
    }
    if (avg10 && total) {
      result = MemoryPressure{*avg10, *total};
    }
  });
  return result;
}

MemoryPressure read_psi_full() {
  return parse_psi_full(slurp("/proc/pressure/memory")).value_or(MemoryPressure{});
}

VmCounters parse_vmstat(std::string_view text) {
  VmCounters counters;
  const std::pair<std::string_view, uint64_t*> fields[] = {
      {"workingset_refault_file", &counters.refaults_file},
      {"workingset_refault", &counters.refaults_file},  // before Linux 5.9: both kinds
      {"workingset_refault_anon", &counters.refaults_anon},
      {"pswpin", &counters.swap_in},
      {"pswpout", &counters.swap_out}};
  for_each_line(text, [&](std::string_view line) {
    std::string_view name = next_word(line);
    for (const auto& [wanted, target] : fields) {
      if (name == wanted) {
        *target = number<uint64_t>(next_word(line)).value_or(0);
      }
    }
  });
  return counters;
}

VmCounters read_vm_counters() {
  return parse_vmstat(slurp("/proc/vmstat"));
}

std::optional<ProcessMemory> parse_process_status(std::string_view text) {
  ProcessMemory memory;
  uint64_t locked = 0, anon = 0, shmem = 0;
  int found = read_kib_fields(text, {{"VmRSS", &memory.rss},
                                     {"RssFile", &memory.rss_file},
                                     {"RssAnon", &anon},
                                     {"RssShmem", &shmem},
                                     {"VmLck", &locked}});
  if (found == 0) {
    return std::nullopt;  // a kernel thread or a zombie: no memory of its own
  }
  // What is locked may be anonymous (a heap, a KV cache): as much of it as can be is taken for that, so that headroom
  // is never made too large. headroom_of() cuts the rest: file_lru does not hold locked pages.
  const uint64_t locked_file = locked - std::min(locked, anon + shmem);
  memory.evictable = memory.rss_file - std::min(memory.rss_file, locked_file);
  return memory;
}

std::optional<ProcessMemory> read_process_memory(pid_t pid) {
  return parse_process_status(slurp(fmt::format("/proc/{}/status", pid)));
}

bool parse_file_ranges(std::string_view maps, std::vector<FileRange>& ranges) {
  const size_t before = ranges.size();
  for_each_line(maps, [&](std::string_view line) {
    const std::string_view addresses = next_word(line);
    next_word(line);  // permissions
    const auto offset = number<uint64_t>(next_word(line), 16);
    const std::string_view device = next_word(line);
    const auto inode = number<uint64_t>(next_word(line));
    const std::string_view path = next_word(line);
    const size_t dash = addresses.find('-');
    if (dash == std::string_view::npos || !offset || !inode || *inode == 0 || path.starts_with("/dev/") ||
        path.starts_with("/memfd:") || path.starts_with("/SYSV")) {
      return;
    }
    const auto begin = number<uint64_t>(addresses.substr(0, dash), 16);
    const auto end = number<uint64_t>(addresses.substr(dash + 1), 16);
    if (begin && end && *end > *begin) {
      ranges.push_back({std::string(device), *inode, *offset, *offset + (*end - *begin)});
    }
  });
  return ranges.size() > before;
}

uint64_t covered_bytes(std::vector<FileRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  uint64_t sum = 0, covered = 0;  // the second: up to where, in the file at hand
  for (size_t i = 0; i < ranges.size(); ++i) {
    const FileRange& range = ranges[i];
    if (i == 0 || range.inode != ranges[i - 1].inode || range.device != ranges[i - 1].device) {
      covered = 0;
    }
    if (range.end > covered) {
      sum += range.end - std::max(range.begin, covered);
      covered = range.end;
    }
  }
  return sum;
}

uint64_t counted_twice(const std::vector<pid_t>& pids) {
  std::vector<FileRange> ranges;
  uint64_t sum = 0;
  for (pid_t pid : pids) {
    const auto process = read_process_memory(pid);
    if (process && process->evictable > 0) {
      sum += process->evictable;
      if (!parse_file_ranges(slurp(fmt::format("/proc/{}/maps", pid)), ranges)) {
        return 0;
      }
    }
  }
  const uint64_t mapped = covered_bytes(std::move(ranges));
  return sum - std::min(sum, mapped);
}

std::optional<ProcStat> parse_proc_stat(std::string_view text) {
  size_t open = text.find(" ("), close = text.rfind(") ");
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    return std::nullopt;
  }
  auto pid = number<pid_t>(text.substr(0, open));
  std::string_view rest = text.substr(close + 2);
  std::string_view state = next_word(rest);
  auto ppid = number<pid_t>(next_word(rest));
  auto skip = [&](int words) {
    for (int skipped = 0; skipped < words; ++skipped) {
      next_word(rest);
    }
  };
  skip(7);  // fields 5 to 11
  auto faults = number<uint64_t>(next_word(rest)), child_faults = number<uint64_t>(next_word(rest));
  skip(8);  // 14 to 21
  auto start = number<uint64_t>(next_word(rest));
  if (!pid || !ppid || !start || !faults || !child_faults || state.size() != 1) {
    return std::nullopt;
  }
  return ProcStat{*pid, *ppid, state[0], *start, *faults, *child_faults};
}

std::optional<uint64_t> process_start_ticks(pid_t pid) {
  auto stat = parse_proc_stat(slurp(fmt::format("/proc/{}/stat", pid)));
  return stat ? std::optional(stat->start_ticks) : std::nullopt;
}

std::vector<pid_t> descendants(pid_t root) {
  std::multimap<pid_t, std::pair<pid_t, char>> children;
  for_each_pid([&](pid_t pid) {
    if (auto stat = parse_proc_stat(slurp(fmt::format("/proc/{}/stat", pid)))) {
      children.emplace(stat->ppid, std::pair(stat->pid, stat->state));
    }
  });
  std::vector<pid_t> result, queue{root};
  for (size_t i = 0; i < queue.size() && i <= children.size(); ++i) {
    auto [begin, end] = children.equal_range(queue[i]);
    for (auto child = begin; child != end; ++child) {
      auto [pid, state] = child->second;
      queue.push_back(pid);  // a zombie's children have moved on, but a snapshot may still show them
      if (state != 'Z' && state != 'X') {
        result.push_back(pid);
      }
    }
  }
  std::reverse(result.begin(), result.end());
  return result;
}

uint64_t major_faults(const std::vector<pid_t>& pids) {
  uint64_t sum = 0;
  for (pid_t pid : pids) {
    if (auto stat = parse_proc_stat(slurp(fmt::format("/proc/{}/stat", pid)))) {
      sum += stat->major_faults + stat->child_major_faults;
    }
  }
  return sum;
}

std::vector<std::pair<pid_t, std::string>> processes_with_variable(std::string_view name) {
  std::vector<std::pair<pid_t, std::string>> result;
  std::string wanted = fmt::format("{}=", name);
  for_each_pid([&](pid_t pid) {
    std::string environment = slurp(fmt::format("/proc/{}/environ", pid));
    std::string_view rest = environment;
    while (!rest.empty()) {
      std::string_view entry = rest.substr(0, rest.find('\0'));
      if (entry.starts_with(wanted)) {
        result.emplace_back(pid, entry.substr(wanted.size()));
        break;
      }
      rest.remove_prefix(std::min(entry.size() + 1, rest.size()));
    }
  });
  return result;
}

std::vector<uint64_t> parse_listening_inodes(std::string_view text, int port) {
  // Addresses as the kernel prints them: host byte order words of the network order address.
  constexpr std::string_view kAddresses[] = {"00000000", "0100007F",
                                             "00000000000000000000000000000000",   // [::]
                                             "00000000000000000000000001000000",   // [::1]
                                             "0000000000000000FFFF00000100007F"};  // [::ffff:127.0.0.1]
  std::vector<uint64_t> inodes;
  for_each_line(text, [&](std::string_view line) {
    next_word(line);  // "0:"
    std::string_view local = next_word(line);
    next_word(line);  // remote
    std::string_view state = next_word(line);
    for (int skipped = 0; skipped < 5; ++skipped) {
      next_word(line);  // queues, timer, retransmits, uid, time-out
    }
    auto inode = number<uint64_t>(next_word(line));
    size_t colon = local.find(':');
    if (colon == std::string_view::npos || state != "0A" || !inode) {
      return;
    }
    if (number<int>(local.substr(colon + 1), 16) == port &&
        std::find(std::begin(kAddresses), std::end(kAddresses), local.substr(0, colon)) !=
            std::end(kAddresses)) {
      inodes.push_back(*inode);
    }
  });
  return inodes;
}

std::optional<pid_t> listening_owner(int port, pid_t candidate) {
  std::vector<uint64_t> inodes = parse_listening_inodes(slurp("/proc/net/tcp"), port);
  for (uint64_t inode : parse_listening_inodes(slurp("/proc/net/tcp6"), port)) {
    inodes.push_back(inode);
  }
  if (inodes.empty()) {
    return std::nullopt;
  }
  std::vector<pid_t> pids = descendants(candidate);
  pids.push_back(candidate);
  std::vector<uint64_t> owned;
  std::optional<pid_t> owner;
  for (auto pid = pids.rbegin(); pid != pids.rend(); ++pid) {  // the candidate itself first
    if (owns_socket(*pid, inodes, owned) && !owner) {
      owner = *pid;
    }
  }
  bool all_ours = std::all_of(inodes.begin(), inodes.end(), [&](uint64_t inode) {
    return std::find(owned.begin(), owned.end(), inode) != owned.end();
  });
  return all_ours ? owner : std::nullopt;
}

base::Result<int> free_port() {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return base::sys_error("127.0.0.1", "no socket could be made", errno);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  int failure = ::bind(fd, generic, length) != 0 || ::getsockname(fd, generic, &length) != 0 ? errno : 0;
  ::close(fd);
  if (failure != 0) {
    return base::sys_error("127.0.0.1", "no port is free", failure);
  }
  return static_cast<int>(ntohs(address.sin_port));
}

std::string boot_id() {
  std::string id = slurp("/proc/sys/kernel/random/boot_id");
  while (!id.empty() && std::isspace(static_cast<unsigned char>(id.back()))) {
    id.pop_back();
  }
  return id;
}

}  // namespace os
