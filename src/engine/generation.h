#pragma once
// The engine thread. Clients submit tasks and wait for their events on their own threads; the one engine
// thread owns the Context, gives waiting tasks to free slots and evaluates the next tokens of all busy slots
// together, step by step (continuous batching; schedule.h says who gets what). The context can be replaced
// while nothing runs (reconfigure).

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "src/engine/slot.h"

namespace engine {

// How a reconfiguration ended. kReverted: the new context could not be opened, the former one serves again.
// kLost: neither could; every task fails from now on. kGivenUp, kStopped: nothing was changed.
enum class Reconfigured { kDone, kReverted, kLost, kGivenUp, kStopped };

// What was done with an idle slot's sequence. kUnavailable: nothing, for the server stops, is reconfigured, its cache is
// full of requests that run, or nobody waits any more. kFailed: `why`, and after a restore the slot is empty.
struct SlotOutcome {
  enum class Kind { kDone, kFailed, kUnavailable } kind = Kind::kUnavailable;
  int64_t n_tokens = 0;  // saved, restored or erased
  uint64_t bytes = 0;    // of the file
  std::string why;
};

// Of requests while a reconfiguration runs.
inline constexpr const char* kPausedMessage = "the server is being reconfigured; send the request again";
// How often who waits for the engine thread asks whether he still wants to.
inline constexpr std::chrono::milliseconds kDrainPoll{50};

class Generator {
 public:
  // Opens a context; called for the one after a reconfiguration, or the former one again.
  using Open = std::function<base::Result<std::unique_ptr<Context>>(const ContextOptions& options)>;

  // The tokenizer must outlive it. `options` are what `context` was opened with.
  Generator(std::unique_ptr<Context> context, const ContextOptions& options,
            const SpeculationOptions& speculation, Open open, const Tokenizer& tokenizer);
  ~Generator();  // stop(), then waits for the engine thread

  // The prompt is not empty, and its tokens are in range. Where every slot is busy the task waits its turn. While
  // a reconfiguration runs, and for a prompt that does not fit the context it led to, the task fails with status
  // 503; with status 500 where memory runs out. Where the sequences that generate outgrow the cache together, one
  // that has said nothing yet waits until there is room; else the youngest ends, truncated, with what it has said.
  std::shared_ptr<Task> submit(std::vector<int> prompt, GenerationParams params);
  // Fails every task, running or waiting, as soon as the running ubatch ends, and all later ones.
  void stop();
  // True once the engine thread has nothing more to do after stop().
  bool stopped_within(std::chrono::milliseconds timeout);

  // Takes no new tasks, lets the running and waiting ones finish, drops the context, and only then opens one
  // with other options: afterwards everything is as in a fresh process. Blocks; one call at a time; `give_up`
  // is asked every now and then while tasks finish. `why` is set for kReverted and kLost.
  Reconfigured reconfigure(const ContextOptions& options, const SpeculationOptions& speculation,
                           const std::function<bool()>& give_up, std::string& why);
  // A reconfiguration is running (or was lost): submit() would refuse.
  bool paused() const;

  // A slot's sequence to a file, from one, or forgotten: between its tasks, before the next one gets it. Blocks until
  // then; `give_up` is asked every now and then. `slot` is one of the context's. Files are read and written on the
  // caller's thread, some MB at a time, and other slots go on meanwhile.
  SlotOutcome save_slot(int slot, const std::string& path, const std::function<bool()>& give_up);
  SlotOutcome restore_slot(int slot, const std::string& path, const std::function<bool()>& give_up);
  SlotOutcome erase_slot(int slot, const std::function<bool()>& give_up);

  ServingBoard::View view(bool scrape = false) { return board_.view(scrape); }
  SpeculationOptions speculation() const;
  ContextInfo info() const;  // the last context's while a new one is opened

 private:
  void run();
  void place_waiting();
  bool place(const std::shared_ptr<Task>& task);
  bool try_place(const std::shared_ptr<Task>& task);
  int share_rows(const Task& task, const Slot& to, const Slot& donor, int n_common);
  void advance();
  std::vector<int> share(std::span<Slot* const> busy);
  void make_way(std::span<Slot* const> busy);
  void abandon(std::string_view why);
  void free_pages_for(const std::function<int64_t()>& wanted);
  bool any_held() const;
  void use(std::unique_ptr<Context> context, const SpeculationOptions& speculation);

  // Work with an idle slot that an HTTP thread waits for.
  using RunWithSlot = std::function<void(Slot& slot, SlotOutcome& outcome)>;
  struct SlotWork {
    enum class State { kWaiting, kRunning, kEnded };
    int slot = 0;
    bool holds = false;  // the slot is held for who asks
    RunWithSlot run;
    SlotOutcome outcome;
    State state = State::kWaiting;
  };
  // A list, for its nodes come into the queue without an allocation.
  using SlotWorks = std::list<std::shared_ptr<SlotWork>>;
  class Hold;
  static SlotWorks make_work(int slot, RunWithSlot run, bool holds);
  const char* wait_for(SlotWorks works, const std::function<bool()>& give_up);
  SlotOutcome with_slot(int slot, RunWithSlot run, const std::function<bool()>& give_up, bool holds = false);
  SlotOutcome move_pages(Hold& hold, SequencePages pages, const std::function<bool()>& give_up,
                         const std::function<SlotOutcome(const SequencePages&)>& move);
  SlotWorks::iterator due_work(bool only_held = false);
  bool run_slot_work(std::unique_lock<std::mutex>& lock, bool only_held = false);
  void go_on_moving(std::unique_lock<std::mutex>& lock);

  const Open open_;
  const Tokenizer& tokenizer_;
  ServingBoard board_;
  // The engine thread's; reconfigure's while paused_ and idle_.
  std::unique_ptr<Context> context_;
  ContextOptions options_;
  std::vector<Slot> slots_;
  int64_t turn_ = 0;  // steps so far
  std::chrono::steady_clock::duration last_step_{0};

  mutable std::mutex mutex_;  // over what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Task>> waiting_;
  SlotWorks slot_works_;
  int n_held_ = 0;  // slots
  ContextInfo info_;
  SpeculationOptions speculation_;
  std::atomic<bool> stopping_{false};
  bool idle_ = true;     // no slot is busy, nor worked with
  bool paused_ = false;  // no new tasks
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace engine
