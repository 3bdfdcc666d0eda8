// Work with idle slots that HTTP threads ask for: a sequence to a file, from one, or forgotten. The engine thread copies
// pages and nothing else; files are the asking thread's.

#include <algorithm>
#include <exception>
#include <utility>

#include "src/engine/generation.h"

namespace engine {

SlotOutcome Generator::with_slot(int slot, RunWithSlot run, const std::function<bool()>& give_up,
                                 bool holds) {
  auto work = std::make_shared<SlotWork>();
  work->slot = slot;
  work->holds = holds;
  work->run = std::move(run);
  std::unique_lock lock(mutex_);
  // A reconfiguration waits for who holds a slot. The last: one has come between.
  if (stopping_ || (paused_ && !holds) || slot >= info_.n_seqs) {
    work->outcome.why = stopping_ ? kStopMessage : kPausedMessage;
    return work->outcome;
  }
  slot_works_.push_back(work);
  changed_.notify_all();
  while (work->state != SlotWork::State::kEnded) {
    lock.unlock();
    const bool gone = give_up();
    lock.lock();
    if (work->state == SlotWork::State::kWaiting && (stopping_ || gone)) {
      std::erase(slot_works_, work);
      work->outcome.why = kStopMessage;
      return work->outcome;
    }
    if (work->state != SlotWork::State::kEnded) {
      changed_.wait_for(lock, kDrainPoll);
    }
  }
  return work->outcome;
}

// The first whose slot is idle, and held for it or for nobody.
std::deque<std::shared_ptr<Generator::SlotWork>>::iterator Generator::due_work() {
  return std::ranges::find_if(slot_works_, [this](const std::shared_ptr<SlotWork>& work) {
    const Slot& slot = slots_[static_cast<size_t>(work->slot)];
    return work->holds || !(slot.busy() || slot.held());
  });
}

// Tasks are placed before the next. Without the lock, for megabytes may be copied. False: none was due.
bool Generator::run_slot_work(std::unique_lock<std::mutex>& lock) {
  const auto due = due_work();
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

// Between a file and a slot that has just been held: `move` reads or writes on this thread, while the engine thread
// copies pages when it is asked to. `finish` is told how that ended, and whatever ended it the slot is free again.
SlotOutcome Generator::move_pages(int slot, SequencePages pages, const std::function<bool()>& give_up,
                                  const std::function<SlotOutcome(const SequencePages&)>& move,
                                  RunWithSlot finish) {
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
    gone = with_slot(slot, run, give_up, true);
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
  moved = copied ? moved : gone;
  const auto release = [&](Slot& of, SlotOutcome& outcome) {
    of.hold(false);
    finish(of, moved);
    outcome.kind = SlotOutcome::Kind::kDone;
  };
  const SlotOutcome released = with_slot(
      slot, release, [] { return false; }, true);
  return released.kind == SlotOutcome::Kind::kFailed ? released : moved;
}

SlotOutcome Generator::save_slot(int slot, const std::string& path, const std::function<bool()>& give_up) {
  std::vector<int> tokens;
  std::string header;
  SequencePages pages;
  const auto hold = [&](Slot& of, SlotOutcome& outcome) {
    tokens = of.tokens();
    header = context_->saved_header(of.seq());
    pages = context_->pages_to_save(of.seq());
    of.hold(true);
    outcome.kind = SlotOutcome::Kind::kDone;
  };
  if (const SlotOutcome held = with_slot(slot, hold, give_up); held.kind != SlotOutcome::Kind::kDone) {
    return held;
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
  return move_pages(slot, std::move(pages), give_up, move, [](Slot&, SlotOutcome&) {});
}

SlotOutcome Generator::restore_slot(int slot, const std::string& path, const std::function<bool()>& give_up) {
  auto saved = SequenceReader::open(path);
  if (!saved) {
    return {SlotOutcome::Kind::kFailed, 0, 0, saved.failure().to_string()};
  }
  SequencePages pages;
  const auto hold = [&](Slot& to, SlotOutcome& outcome) {
    outcome.kind = SlotOutcome::Kind::kFailed;
    if (auto fits = context_->check_saved(*saved); !fits) {  // what this slot and others have is kept
      outcome.why = fits.failure().to_string();
      return;
    }
    to.forget();
    const auto n = static_cast<int>(saved->tokens().size());
    free_pages_for([&] { return int64_t{context_->pages_for(to.seq(), n)}; });
    auto room = context_->pages_to_restore(to.seq(), *saved);
    if (!room) {
      outcome.why = room.failure().to_string();
      return;
    }
    pages = *std::move(room);
    to.hold(true);
    outcome.kind = SlotOutcome::Kind::kDone;
  };
  if (const SlotOutcome held = with_slot(slot, hold, give_up); held.kind != SlotOutcome::Kind::kDone) {
    return held;
  }
  const auto move = [&](const SequencePages& to) -> SlotOutcome {
    const auto done = saved->read_pages(to);
    return {done ? SlotOutcome::Kind::kDone : SlotOutcome::Kind::kFailed, std::ssize(saved->tokens()),
            saved->size(), done ? "" : done.failure().to_string()};
  };
  return move_pages(slot, std::move(pages), give_up, move, [&](Slot& to, SlotOutcome& moved) {
    if (moved.kind == SlotOutcome::Kind::kDone) {
      to.take_restored(saved->tokens());
    } else {
      to.forget();
    }
  });
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
