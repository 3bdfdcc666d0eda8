#include "src/os/proc.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <string>

#include "src/os/host.h"

TEST_CASE("meminfo") {
  auto info = os::parse_meminfo(
      "MemTotal:       131072000 kB\nMemFree:         1000000 kB\nMemAvailable:   64000000 kB\n"
      "Active(file):    3000000 kB\nInactive(file):  4000000 kB\nSwapTotal:       2097148 kB\n"
      "SwapFree:        2000000 kB\nHugePages_Total:       0\n");
  REQUIRE(info.has_value());
  CHECK(info->total == 131072000ull * 1024);
  CHECK(info->available == 64000000ull * 1024);
  CHECK(info->file_lru == 7000000ull * 1024);
  CHECK(info->swap_total == 2097148ull * 1024);
  CHECK(info->swap_free == 2000000ull * 1024);
  CHECK_FALSE(os::parse_meminfo("").has_value());
  CHECK_FALSE(os::parse_meminfo("MemTotal: lots kB\n").has_value());
  os::MemInfo now = os::read_meminfo();
  CHECK(now.total > now.available);
  CHECK(now.available > 0);
}

TEST_CASE("pressure and vmstat") {
  auto pressure = os::parse_psi_full(
      "some avg10=7.00 avg60=1.00 avg300=0.10 total=99\n"
      "full avg10=3.25 avg60=0.50 avg300=0.05 total=42\n");
  REQUIRE(pressure.has_value());
  CHECK(pressure->avg10 == 3.25);
  CHECK(pressure->total_us == 42);
  CHECK_FALSE(os::parse_psi_full("some avg10=7.00 total=1\n").has_value());
  CHECK_FALSE(os::parse_psi_full("full avg10=lots total=1\n").has_value());
  CHECK_FALSE(os::parse_psi_full("full avg10=1.00\n").has_value());
  os::VmCounters counters = os::parse_vmstat(
      "a 1\nworkingset_refault_anon 5\nworkingset_refault_file 77\nworkingset_refault_filex 9\n"
      "pswpin 3\npswpout 4");
  CHECK(counters.refaults_file == 77);
  CHECK(counters.refaults_anon == 5);
  CHECK(counters.swap_in == 3);
  CHECK(counters.swap_out == 4);
  CHECK(os::parse_vmstat("workingset_refault 6\n").refaults_file == 6);
  CHECK(os::parse_vmstat("pswpin many\nworkingset_refault_filex 77\n").refaults_file == 0);
}

TEST_CASE("a page read from a file that is not in memory is a major fault, and is counted") {
  uint64_t before = os::major_faults({::getpid()});
  char path[] = "./major-fault-XXXXXX";
  int fd = ::mkstemp(path);
  REQUIRE(fd >= 0);
  ::unlink(path);
  std::string bytes(1 << 20, 'x');
  REQUIRE(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  ::fsync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  void* mapped = ::mmap(nullptr, bytes.size(), PROT_READ, MAP_SHARED, fd, 0);
  REQUIRE(mapped != MAP_FAILED);
  unsigned char resident = 0;
  bool dropped = ::mincore(mapped, 1, &resident) == 0 && (resident & 1) == 0;
  char first = *static_cast<volatile char*>(mapped);
  CHECK(first == 'x');
  uint64_t after = os::major_faults({::getpid()});
  if (dropped) {
    CHECK(after > before);
  } else {
    MESSAGE("skipped: this file system keeps its pages");
  }
  ::munmap(mapped, bytes.size());
  ::close(fd);
}

TEST_CASE("process status: what mlock holds cannot be evicted") {
  auto memory = os::parse_process_status(
      "Name:\ttbq\nVmLck:\t 6000 kB\nVmRSS:\t 9000 kB\nRssAnon:\t 4000 kB\n"
      "RssFile:\t 5000 kB\n");
  REQUIRE(memory.has_value());
  CHECK(memory->rss == 9000u * 1024);
  CHECK(memory->rss_file == 5000u * 1024);
  CHECK(memory->evictable == 3000u * 1024);
  CHECK_FALSE(os::parse_process_status("Name:\tkthreadd\nState:\tS\n").has_value());
  CHECK(os::read_process_memory(::getpid())->rss > 1 << 20);
  CHECK_FALSE(os::read_process_memory(0x7ffffff0).has_value());
}

TEST_CASE("process status: locked memory may be anonymous, and then takes nothing from the file pages") {
  auto evictable_kib = [](const char* locked, const char* anon, const char* shmem) {
    auto memory =
        os::parse_process_status(std::string("VmLck:\t") + locked + " kB\nVmRSS:\t9999 kB\nRssAnon:\t" +
                                 anon + " kB\nRssFile:\t5000 kB\nRssShmem:\t" + shmem + " kB\n");
    REQUIRE(memory.has_value());
    return memory->evictable / 1024;
  };
  CHECK(evictable_kib("4000", "4000", "0") == 5000);  // a locked KV cache
  CHECK(evictable_kib("4000", "3000", "1000") == 5000);
  CHECK(evictable_kib("5000", "0", "0") == 0);  // locked weights
  CHECK(evictable_kib("5400", "400", "0") == 0);
  CHECK(evictable_kib("90000", "400", "0") == 0);
}

TEST_CASE("what several processes map of the same files is counted once") {
  const std::string weights =
      "7f0000000000-7f0040000000 r--s 00000000 08:01 77   /models/a file.gguf\n"
      "7f0040000000-7f0040001000 rw-p 00000000 00:00 0 \n"
      "7f0050000000-7f0050001000 rw-s 00000000 00:05 12   /dev/nvidia0\n"
      "7f0060000000-7f0060001000 rw-s 00000000 00:01 13   /memfd:x (deleted)\n"
      "torn line\n";
  std::vector<os::FileRange> ranges;
  REQUIRE(os::parse_file_ranges(weights, ranges));
  REQUIRE(ranges.size() == 1);
  CHECK(os::covered_bytes(ranges) == uint64_t{1} << 30);
  REQUIRE(os::parse_file_ranges(weights, ranges));  // the second worker
  CHECK(os::covered_bytes(ranges) == uint64_t{1} << 30);
  // Half of it again and as much beyond; another file; the same number on another device.
  REQUIRE(
      os::parse_file_ranges("10000000-50000000 r--s 20000000 08:01 77 /models/a\n"
                            "1000-3000 r--s 00000000 08:01 78 /b\n"
                            "1000-3000 r--s 00000000 08:02 77 /c\n",
                            ranges));
  CHECK(os::covered_bytes(ranges) == (uint64_t{3} << 29) + 0x4000);
  CHECK_FALSE(os::parse_file_ranges("", ranges));
  CHECK(os::covered_bytes({}) == 0);
}

TEST_CASE("a command name may hold anything") {
  std::string tail = " S 41 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 9 9";
  auto stat = os::parse_proc_stat("42 (evil) S 1 (x)" + std::string(")") + tail);
  REQUIRE(stat.has_value());
  CHECK(stat->pid == 42);
  CHECK(stat->ppid == 41);
  CHECK(stat->state == 'S');
  CHECK(stat->start_ticks == 987654);
  CHECK(stat->major_faults == 3);
  CHECK(stat->child_major_faults == 4);
  CHECK_FALSE(os::parse_proc_stat("42 (short) S 1").has_value());
  CHECK_FALSE(os::parse_proc_stat("").has_value());
  CHECK(os::process_start_ticks(::getpid()).has_value());
  CHECK_FALSE(os::process_start_ticks(0x7ffffff0).has_value());
}

TEST_CASE("listening sockets are told from others") {
  const char* text =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 x\n"
      "   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1002 1 x\n"
      "   2: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 1003 1 x\n"
      "   3: 0200A8C0:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1004 1 x\n"
      "   4: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1005 1 x\n"
      "   5: torn";
  CHECK(os::parse_listening_inodes(text, 8080) == std::vector<uint64_t>{1001, 1002});
  CHECK(os::parse_listening_inodes(text, 8081) == std::vector<uint64_t>{1005});
  CHECK(os::parse_listening_inodes("   0: 00000000000000000000000001000000:0050 0:0 0A 0:0 0:0 0 0 0 7 1\n",
                                   80) == std::vector<uint64_t>{7});
}

TEST_CASE("the owner of a port is found, and a stranger is not") {
  int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(fd, 1) == 0);
  socklen_t length = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  int port = ntohs(address.sin_port);
  CHECK(os::listening_owner(port, ::getpid()) == ::getpid());
  pid_t stranger = ::fork();
  if (stranger == 0) {
    ::close(fd);
    ::pause();
    ::_exit(0);
  }
  // The fork may still hold the socket for an instant.
  for (int i = 0; i < 1000 && os::listening_owner(port, stranger).has_value(); ++i) {
    ::usleep(1000);
  }
  CHECK_FALSE(os::listening_owner(port, stranger).has_value());
  std::vector<pid_t> below = os::descendants(::getpid());
  CHECK(std::find(below.begin(), below.end(), stranger) != below.end());
  ::kill(stranger, SIGKILL);
  ::waitpid(stranger, nullptr, 0);
  ::close(fd);
  CHECK_FALSE(os::listening_owner(port, ::getpid()).has_value());
}

TEST_CASE("free ports differ and can be bound") {
  auto port = os::free_port();
  REQUIRE(port.ok());
  CHECK(*port > 1023);
}

TEST_CASE("a cgroup's CPU quota: its group and its words") {
  CHECK(os::parse_cgroup("0::/\n") == "/");
  CHECK(os::parse_cgroup("12:cpu,cpuacct:/x\n1:name=systemd:/y\n0::/user.slice/a b\n") == "/user.slice/a b");
  CHECK_FALSE(os::parse_cgroup("12:cpu:/x\n").has_value());
  CHECK_FALSE(os::parse_cgroup("").has_value());
  CHECK_FALSE(os::parse_cgroup("0::nonsense\n").has_value());
  CHECK(os::parse_cpu_max("150000 100000\n") == 1.5);
  CHECK(os::parse_cpu_max("50000 100000") == 0.5);
  for (const char* unlimited : {"max 100000\n", "", "\n", "1", "1 ", "0 100000\n", "100000 0\n",
                                "-1 100000\n", "1 2 3\n", "99999999999999999999999 1\n"}) {
    CHECK_MESSAGE(!os::parse_cpu_max(unlimited).has_value(), unlimited);
  }
  CHECK(os::usable_cores() >= 1);
}

TEST_CASE("host facts are filled in") {
  os::HostFacts facts = os::read_host_facts();
  CHECK_FALSE(facts.hostname.empty());
  CHECK_FALSE(facts.kernel.empty());
  CHECK_FALSE(facts.cpu_model.empty());
  CHECK_FALSE(facts.os_name.empty());
  CHECK(facts.logical_cpus >= facts.physical_cores);
  CHECK(facts.physical_cores >= 1);
  CHECK(facts.memory_bytes == os::read_meminfo().total);
  os::HardwareState state = os::read_hardware_state();
  CHECK((std::isnan(state.cpu_mhz_max) || state.cpu_mhz_max >= state.cpu_mhz_min));
  CHECK(os::boot_id().size() == 36);
}
