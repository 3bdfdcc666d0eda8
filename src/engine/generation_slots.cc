// Work with idle slots that HTTP threads ask for: a sequence to a file, from one, or forgotten. The engine thread copies
// pages and nothing else; files are the asking thread's.

#include <algorithm>
#include <exception>
#include <utility>

#include "src/engine/generation.h"

namespace engine {
namespace {

constexpr const char* kCrowdedMessage =
    "the cache is full of the sequences of requests that run: nothing was restored; send the request again, "
    "or raise --ctx-size";
// Moving files may take a part of the time of one step in so many.
constexpr int kStepsPerMove = 10;

}  // namespace

Generator::SlotWorks Generator::make_work(int slot, RunWithSlot run, bool holds) {
  auto work = std::make_shared<SlotWork>();
  work->slot = slot;
  work->holds = holds;
  work->run = std::move(run);
  return {std::move(work)};
}

// Until the engine thread has done it: nullptr; else why not. Takes no memory.
const char* Generator::wait_for(SlotWorks works, const std::function<bool()>& give_up) {
  const std::shared_ptr<SlotWork> work = works.front();
  std::unique_lock lock(mutex_);
  // A reconfiguration waits for who holds a slot. The last: one has come between.
  if (stopping_ || (paused_ && !work->holds) || work->slot >= info_.n_seqs) {
    return stopping_ ? kStopMessage : kPausedMessage;
  }
  slot_works_.splice(slot_works_.end(), works);
  changed_.notify_all();
  while (work->state != SlotWork::State::kEnded) {
    lock.unlock();
    const bool gone = give_up();
    lock.lock();
    if (work->state == SlotWork::State::kWaiting && (stopping_ || gone)) {
      slot_works_.remove(work);
      return kStopMessage;
    }
    if (work->state != SlotWork::State::kEnded) {
      changed_.wait_for(lock, kDrainPoll);
    }
  }
  return nullptr;
}

SlotOutcome Generator::with_slot(int slot, RunWithSlot run, const std::function<bool()>& give_up,
                                 bool holds) {
  SlotWorks works = make_work(slot, std::move(run), holds);
  const std::shared_ptr<SlotWork> work = works.front();
  if (const char* why = wait_for(std::move(works), give_up)) {
    return {SlotOutcome::Kind::kUnavailable, 0, 0, why};
  }
  return std::move(work->outcome);
}

// A slot that is held until release(), or until this goes: its way back is allocated before the hold, so that nothing
// that is thrown in between leaves the slot held for ever. `finish` is told whether all went well, whatever ended it.
class Generator::Hold {
 public:
  Hold(Generator& generator, int slot, std::function<void(Slot&, bool done)> finish)
      : generator_(generator),
        slot_(slot),
        back_(make_work(
            slot,
            [this, finish = std::move(finish)](Slot& of, SlotOutcome& outcome) {
              of.hold(false);
              finish(of, done_);
              outcome.kind = SlotOutcome::Kind::kDone;
            },
            true)) {}
  ~Hold() { release(false); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  // On the engine thread, the last it does with the slot.
  void take(Slot& slot) {
    slot.hold(true);
    held_ = true;
  }
  // What finishing came to; kUnavailable where the engine thread has stopped.
  SlotOutcome release(bool done) {
    if (!std::exchange(held_, false)) {
      return {};
    }
    done_ = done;
    const std::shared_ptr<SlotWork> work = back_.front();
    const bool ran = generator_.wait_for(std::move(back_), [] { return false; }) == nullptr;
    return ran ? std::move(work->outcome) : SlotOutcome();
  }
  int slot() const { return slot_; }

 private:
  Generator& generator_;
  const int slot_;
  SlotWorks back_;
  bool held_ = false, done_ = false;
};

// The first whose slot is idle, and held for it or for nobody; or only of those that are held.
Generator::SlotWorks::iterator Generator::due_work(bool only_held) {
  return std::ranges::find_if(slot_works_, [&](const std::shared_ptr<SlotWork>& work) {
    const Slot& slot = slots_[static_cast<size_t>(work->slot)];
    return work->holds || !(only_held || slot.busy() || slot.held());
  });
}

// Tasks are placed before the next, but of one that holds its slot. Without the lock, for megabytes may be copied.
// False: none was due.
bool Generator::run_slot_work(std::unique_lock<std::mutex>& lock, bool only_held) {
  const auto due = due_work(only_held);
  if (due == slot_works_.end() || stopping_) {
    return false;
  }
  const std::shared_ptr<SlotWork> work = *due;
  slot_works_.erase(due);
  work->state = SlotWork::State::kRunning;
  idle_ = false;
  lock.unlock();
  Slot& slot = slots_[static_cast<size_t>(work->slot)];
  try {
    work->run(slot, work->outcome);
  } catch (const std::exception& problem) {  // memory has run out
    slot.forget();
    work->outcome.kind = SlotOutcome::Kind::kFailed;
    work->outcome.why = problem.what();
  }
  lock.lock();
  work->state = SlotWork::State::kEnded;
  n_held_ = static_cast<int>(std::ranges::count_if(slots_, [](const Slot& one) { return one.held(); }));
  changed_.notify_all();
  return true;
}

// A file has hundreds of parts and a step of long prompts takes seconds: who moves one has a share of the time, not one
// part of a step. Where steps are short that is nothing more than the part.
void Generator::go_on_moving(std::unique_lock<std::mutex>& lock) {
  const auto until = std::chrono::steady_clock::now() + last_step_ / kStepsPerMove;
  const auto is_due = [this] { return stopping_ || due_work(true) != slot_works_.end(); };
  while (n_held_ > 0 && changed_.wait_until(lock, until, is_due) && run_slot_work(lock, true) &&
         std::chrono::steady_clock::now() < until) {
  }
}

// Between a file and a slot that is held: `move` reads or writes on this thread, while the engine thread copies pages
// when it is asked to. However that ended, the slot is free again.
SlotOutcome Generator::move_pages(Hold& hold, SequencePages pages, const std::function<bool()>& give_up,
                                  const std::function<SlotOutcome(const SequencePages&)>& move) {
  SlotOutcome gone;  // why the engine thread did not copy
  bool copied = true;
  const auto copy = std::move(pages.copy);
  pages.copy = [&](int first, std::span<std::byte> bytes) -> base::Result<void> {
    if (give_up()) {
      copied = false;
      gone = {SlotOutcome::Kind::kUnavailable, 0, 0, kStopMessage};
      return base::error("", gone.why);
    }
    const auto run = [&](Slot&, SlotOutcome& outcome) {
      const auto done = copy(first, bytes);
      outcome = {done ? SlotOutcome::Kind::kDone : SlotOutcome::Kind::kFailed, 0, 0,
                 done ? "" : done.failure().to_string()};
    };
    gone = with_slot(hold.slot(), run, give_up, true);
    copied = gone.kind == SlotOutcome::Kind::kDone;
    return copied ? base::Result<void>() : base::error("", gone.why);
  };
  SlotOutcome moved;
  try {
    moved = move(pages);
  } catch (const std::exception& problem) {  // memory has run out
    moved.kind = SlotOutcome::Kind::kFailed;
    moved.why = problem.what();
  }
  moved = copied ? std::move(moved) : std::move(gone);
  SlotOutcome released = hold.release(moved.kind == SlotOutcome::Kind::kDone);
  return released.kind == SlotOutcome::Kind::kFailed ? std::move(released) : std::move(moved);
}

SlotOutcome Generator::save_slot(int slot, const std::string& path, const std::function<bool()>& give_up) {
  std::vector<int> tokens;
  std::string header;
  SequencePages pages;
  Hold held(*this, slot, [](Slot&, bool) {});
  const auto hold = [&](Slot& of, SlotOutcome& outcome) {
    tokens = of.tokens();
    header = context_->saved_header(of.seq());
    pages = context_->pages_to_save(of.seq());
    outcome.kind = SlotOutcome::Kind::kDone;
    held.take(of);
  };
  if (SlotOutcome got = with_slot(slot, hold, give_up); got.kind != SlotOutcome::Kind::kDone) {
    return got;
  }
  const auto write = [&](const SequencePages& from) -> base::Result<uint64_t> {
    auto writer = SequenceWriter::create(path, header, tokens);
    if (!writer) {
      return writer.failure();
    }
    if (auto wrote = writer->write_pages(from); !wrote) {
      return wrote.failure();
    }
    return writer->commit();
  };
  const auto move = [&](const SequencePages& from) -> SlotOutcome {
    const auto size = write(from);
    return {size ? SlotOutcome::Kind::kDone : SlotOutcome::Kind::kFailed, std::ssize(tokens),
            size ? *size : 0, size ? "" : size.failure().to_string()};
  };
  return move_pages(held, std::move(pages), give_up, move);
}

SlotOutcome Generator::restore_slot(int slot, const std::string& path, const std::function<bool()>& give_up) {
  auto saved = SequenceReader::open(path);
  if (!saved) {
    return {SlotOutcome::Kind::kFailed, 0, 0, saved.failure().to_string()};
  }
  SequencePages pages;
  bool crowded = false;  // by slots that are held: for a moment
  Hold held(*this, slot,
            [&](Slot& to, bool done) { done ? to.take_restored(saved->tokens()) : to.forget(); });
  const auto hold = [&](Slot& to, SlotOutcome& outcome) {
    outcome.kind = SlotOutcome::Kind::kFailed;
    if (auto fits = context_->check_saved(*saved); !fits) {  // what this slot and others have is kept
      outcome.why = fits.failure().to_string();
      return;
    }
    const auto n = static_cast<int>(saved->tokens().size());
    std::vector<int> taken;
    for (const Slot& other : slots_) {
      if (other.busy() || other.held()) {
        taken.push_back(other.seq());
      }
    }
    if (!context_->fits_beside(n, taken)) {  // as above
      crowded = any_held();
      outcome = {SlotOutcome::Kind::kUnavailable, 0, 0, kCrowdedMessage};
      return;
    }
    to.forget();
    free_pages_for([&] { return int64_t{context_->pages_for(to.seq(), n)}; });
    auto room = context_->pages_to_restore(to.seq(), *saved);
    if (!room) {
      outcome.why = room.failure().to_string();
      return;
    }
    pages = *std::move(room);
    outcome.kind = SlotOutcome::Kind::kDone;
    held.take(to);
  };
  SlotOutcome got = with_slot(slot, hold, give_up);
  while (crowded && !give_up()) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kDrainPoll);
    }
    crowded = false;
    got = with_slot(slot, hold, give_up);
  }
  if (got.kind != SlotOutcome::Kind::kDone) {
    return got;
  }
  const auto move = [&](const SequencePages& to) -> SlotOutcome {
    const auto done = saved->read_pages(to);
    return {done ? SlotOutcome::Kind::kDone : SlotOutcome::Kind::kFailed, std::ssize(saved->tokens()),
            saved->size(), done ? "" : done.failure().to_string()};
  };
  return move_pages(held, std::move(pages), give_up, move);
}

SlotOutcome Generator::erase_slot(int slot, const std::function<bool()>& give_up) {
  return with_slot(
      slot,
      [](Slot& of, SlotOutcome& outcome) {
        outcome = {SlotOutcome::Kind::kDone, of.rows(), 0, ""};
        of.forget();
      },
      give_up);
}

}  // namespace engine
