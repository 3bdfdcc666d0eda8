#include "src/engine/generation.h"

#include <algorithm>
#include <exception>

namespace engine {
namespace {

constexpr const char* kPausedMessage = "the server is being reconfigured; send the request again";
constexpr std::chrono::milliseconds kDrainPoll{50};

// As `open`, with whatever it throws as an Error too (memory that runs out in the middle of it, a thread that cannot
// be started): the caller has nothing to serve with meanwhile and must go on.
base::Result<std::unique_ptr<Context>> try_open(const Generator::Open& open, const ContextOptions& options) {
  try {
    return open(options);
  } catch (const std::bad_alloc&) {
    return base::error("", "out of memory while opening a context", "use a smaller one");
  } catch (const std::exception& problem) {
    return base::error("", std::string("a context cannot be opened: ") + problem.what(), "use a smaller one");
  }
}

}  // namespace

Generator::Generator(std::unique_ptr<Context> context, const ContextOptions& options,
                     const SpeculationOptions& speculation, Open open, const Tokenizer& tokenizer)
    : open_(std::move(open)), tokenizer_(tokenizer), options_(options) {
  use(std::move(context), speculation);
  thread_ = std::thread([this] { run(); });
}

Generator::~Generator() {
  stop();
  thread_.join();
}

std::shared_ptr<Task> Generator::submit(std::vector<int> prompt, GenerationParams params) {
  auto task = std::make_shared<Task>(std::move(prompt), std::move(params));
  std::lock_guard lock(mutex_);
  if (stopping_) {
    task->fail(503, kStopMessage);
  } else if (paused_ || task->prompt_.size() >= static_cast<size_t>(info_.n_ctx)) {
    // The second: the caller checked it against the context before a reconfiguration.
    task->fail(503, kPausedMessage);
  } else {
    waiting_.push_back(task);
    board_.update([](ServingBoard::View& view) { ++view.n_waiting; });
    changed_.notify_all();
  }
  return task;
}

void Generator::stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

bool Generator::stopped_within(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return ended_; });
}

void Generator::use(std::unique_ptr<Context> context, const SpeculationOptions& speculation) {
  context_ = std::move(context);
  board_.update([](ServingBoard::View& view) { view.slots.assign(1, {}); });
  slots_.emplace_back(*context_, speculation, tokenizer_, board_, 0);
  std::lock_guard lock(mutex_);
  info_ = context_->info();
  speculation_ = speculation;
  paused_ = false;
  changed_.notify_all();
}

bool Generator::paused() const {
  std::lock_guard lock(mutex_);
  return paused_;
}

SpeculationOptions Generator::speculation() const {
  std::lock_guard lock(mutex_);
  return speculation_;
}

ContextInfo Generator::info() const {
  std::lock_guard lock(mutex_);
  return info_;
}

Reconfigured Generator::reconfigure(const ContextOptions& options, const SpeculationOptions& speculation,
                                    const std::function<bool()>& give_up, std::string& why) {
  {
    std::unique_lock lock(mutex_);
    if (paused_) {
      why = "an earlier reconfiguration left nothing to serve with";
      return Reconfigured::kLost;
    }
    paused_ = true;
    while (!stopping_ && !(waiting_.empty() && idle_)) {
      if (give_up()) {
        paused_ = false;
        return Reconfigured::kGivenUp;
      }
      changed_.wait_for(lock, kDrainPoll);
    }
    if (stopping_) {
      return Reconfigured::kStopped;
    }
  }
  // The engine thread sleeps until there is a task, and there will be none before use().
  slots_.clear();
  context_.reset();  // its memory is given back before more is taken
  auto opened = try_open(open_, options);
  if (opened) {
    options_ = options;
    use(*std::move(opened), speculation);
    return Reconfigured::kDone;
  }
  why = opened.failure().to_string();
  auto former = try_open(open_, options_);
  if (!former) {
    why += "; nor could the former configuration be opened again: " + former.failure().to_string();
    return Reconfigured::kLost;
  }
  use(*std::move(former), this->speculation());
  return Reconfigured::kReverted;
}

void Generator::run() {
  auto any_busy = [this] {
    return std::any_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.busy(); });
  };
  for (bool going = true; going;) {
    {
      std::unique_lock lock(mutex_);
      if (!idle_) {
        idle_ = !any_busy();
        changed_.notify_all();  // somebody may wait for that
      }
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty() || !idle_; });
      if (stopping_ && idle_) {
        break;  // the slots may be reconfigure's now
      }
      for (Slot& slot : slots_) {
        while (!stopping_ && !slot.busy() && !waiting_.empty()) {
          std::shared_ptr<Task> task = std::move(waiting_.front());
          waiting_.pop_front();
          board_.update([](ServingBoard::View& view) { --view.n_waiting; });
          if (task->cancelled_) {
            task->fail(503, kStopMessage);
          } else {
            slot.start(std::move(task));
          }
        }
      }
      going = !stopping_;
      idle_ = !any_busy();
    }
    for (Slot& slot : slots_) {
      if (slot.busy()) {
        slot.step(stopping_);
      }
    }
  }
  std::lock_guard lock(mutex_);
  for (const std::shared_ptr<Task>& task : waiting_) {
    task->fail(503, kStopMessage);
  }
  waiting_.clear();
  ended_ = true;
  changed_.notify_all();
}

}  // namespace engine
