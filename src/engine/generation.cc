#include "src/engine/generation.h"

#include <algorithm>
#include <exception>

namespace engine {
namespace {

constexpr const char* kPausedMessage = "the server is being reconfigured; send the request again";
constexpr const char* kFullMessage =
    "Context size has been exceeded: the sequences that run together need more of the cache than there is; "
    "send fewer requests at once, shorten them or raise --ctx-size";
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
  const int n_slots = context_->info().n_seqs;
  board_.update([&](ServingBoard::View& view) { view.slots.assign(static_cast<size_t>(n_slots), {}); });
  for (int seq = 0; seq < n_slots; ++seq) {
    slots_.emplace_back(*context_, speculation, tokenizer_, board_, seq);
  }
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

// Gives the task to a slot, or says that it has to wait.
bool Generator::place(const std::shared_ptr<Task>& task) {
  std::vector<SlotCandidate> candidates;
  for (const Slot& slot : slots_) {
    candidates.push_back({slot.busy(), slot.common_prefix(*task), slot.last_used()});
  }
  const int n_prompt = static_cast<int>(task->prompt_.size());
  const int chosen = choose_slot(candidates, n_prompt, task->params_.id_slot);
  if (chosen < 0) {
    return false;
  }
  const int donor = choose_donor(candidates, chosen, kernels::kPageTokens);
  slots_[static_cast<size_t>(chosen)].start(task, donor < 0 ? nullptr : &slots_[static_cast<size_t>(donor)]);
  return true;
}

// In the order they came, but a task that wants a busy slot is overtaken.
void Generator::place_waiting() {
  std::erase_if(waiting_, [&](const std::shared_ptr<Task>& task) {
    if (task->cancelled_) {
      task->fail(503, kStopMessage);
      return true;
    }
    return std::ranges::any_of(slots_, [](const Slot& s) { return !s.busy(); }) && place(task);
  });
  board_.update([&](ServingBoard::View& view) { view.n_waiting = static_cast<int>(waiting_.size()); });
}

// Takes rows from idle slots, the least recently used first, until so many pages are free or none is left.
void Generator::free_pages_for(int64_t wanted) {
  while (context_->free_pages() < wanted) {
    Slot* oldest = nullptr;
    for (Slot& slot : slots_) {
      if (!slot.busy() && slot.rows() > 0 && (!oldest || slot.last_used() < oldest->last_used())) {
        oldest = &slot;
      }
    }
    if (oldest == nullptr) {
      return;
    }
    oldest->forget();
  }
}

// How many tokens of each busy slot's are in the next step; where no slot could go on, the youngest has to give
// way until one can.
std::vector<int> Generator::share(std::span<Slot* const> busy) {
  const int n_batch = context_->info().n_batch;
  std::vector<SlotDemand> demands;
  int64_t n_pages = 0;
  for (Slot* slot : busy) {
    const SlotDemand demand = slot->demand();
    const int n = std::min(n_batch, demand.n_next + demand.n_prompt);
    n_pages += context_->pages_for(slot->seq(), n);
    demands.push_back(demand);
  }
  free_pages_for(n_pages);
  return share_step(demands, {n_batch, context_->free_pages(), kernels::kPageTokens}, turn_++);
}

// One step of all busy slots.
void Generator::advance() {
  std::vector<Slot*> busy;
  for (Slot& slot : slots_) {
    if (slot.busy() && (stopping_ || slot.cancelled())) {
      slot.fail(503, kStopMessage);  // a client that went away does not read it
    }
    if (slot.busy()) {
      busy.push_back(&slot);
    }
  }
  if (busy.empty()) {
    return;
  }
  const std::vector<int> shares = share(busy);
  std::vector<Piece> pieces;
  std::vector<Slot*> working;                    // whose the pieces are
  for (const bool generating : {true, false}) {  // their logits are the first to be there
    for (size_t i = 0; i < busy.size(); ++i) {
      if (shares[i] > 0 && busy[i]->prefills() != generating) {
        pieces.push_back(busy[i]->piece(shares[i]));
        working.push_back(busy[i]);
      }
    }
  }
  if (pieces.empty()) {
    Slot* youngest = *std::ranges::max_element(busy, {}, [](const Slot* slot) { return slot->id_task(); });
    return youngest->fail(500, kFullMessage);
  }
  StepHooks hooks;
  hooks.on_logits = [&](size_t piece, int row, std::span<const float> logits) {
    working[piece]->take_logits(row, logits);
  };
  hooks.gone = [&](size_t piece) { return stopping_ || working[piece]->has_enough(); };
  board_.update([&](ServingBoard::View& view) {
    ++view.totals.decodes;
    view.totals.busy_slots += static_cast<int64_t>(busy.size());
  });
  const auto stepped = context_->step(pieces, hooks);
  for (Slot* slot : working) {
    slot->settle();
    if (!stepped && slot->busy()) {
      slot->fail(500, "Compute error: " + stepped.failure().to_string());
    }
  }
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
      if (!stopping_) {
        place_waiting();
      }
      going = !stopping_;
      idle_ = !any_busy();
    }
    advance();
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
