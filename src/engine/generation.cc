#include "src/engine/generation.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include "src/base/log.h"

namespace engine {
namespace {

constexpr const char* kFullMessage =
    "Context size has been exceeded: the sequences that run together need more of the cache than there is; "
    "send fewer requests at once, shorten them or raise --ctx-size";
constexpr const char* kThrownMessage = "the request cannot go on, send it again: ";

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
    while (!stopping_ && !(waiting_.empty() && slot_works_.empty() && n_held_ == 0 && idle_)) {
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
  const auto taken = [](const Slot& slot) { return slot.busy() || slot.held(); };
  if (const int id = task->params_.id_slot;
      id >= 0 && taken(slots_[static_cast<size_t>(id) % slots_.size()])) {
    return false;  // before any prefix is looked for: this is asked before every step
  }
  std::vector<SlotCandidate> candidates;
  for (const Slot& slot : slots_) {
    candidates.push_back({taken(slot), slot.common_prefix(*task), slot.last_used()});
  }
  const int n_prompt = static_cast<int>(task->prompt_.size());
  const int chosen = choose_slot(candidates, n_prompt, task->params_.id_slot);
  if (chosen < 0) {
    return false;
  }
  const int chosen_donor = choose_donor(candidates, chosen, kernels::kPageTokens);
  Slot& slot = slots_[static_cast<size_t>(chosen)];
  const Slot* donor = chosen_donor < 0 ? nullptr : &slots_[static_cast<size_t>(chosen_donor)];
  const int n_shared =
      donor ? share_rows(*task, slot, *donor, candidates[static_cast<size_t>(chosen_donor)].n_common) : 0;
  slot.start(task, n_shared > 0 ? donor : nullptr, n_shared);
  return true;
}

// As place(); a task whose start throws (memory has run out) fails.
bool Generator::try_place(const std::shared_ptr<Task>& task) {
  try {
    return place(task);
  } catch (const std::exception& problem) {
    const std::string why = std::string(kThrownMessage) + problem.what();
    for (Slot& slot : slots_) {
      if (slot.works_on(*task)) {
        slot.fail(500, why);
        slot.forget();
        return true;
      }
    }
    task->fail(500, why);
    return true;
  }
}

// How many of the donor's rows, of n_common that agree, a slot is to share. A page that is shared in part must be
// copied before either goes on in it, and a request that runs must not have to wait for a newcomer: where there are
// no pages for both copies, only whole pages are shared.
int Generator::share_rows(const Task& task, const Slot& to, const Slot& donor, int n_common) {
  if (!donor.busy() || n_common % kernels::kPageTokens == 0) {
    return n_common;
  }
  constexpr int64_t kCopies = 2;
  free_pages_for([] { return kCopies; });
  if (context_->free_pages() >= kCopies) {
    return n_common;
  }
  const int whole = n_common - n_common % kernels::kPageTokens;
  return whole > to.common_prefix(task) ? whole : 0;
}

// In the order they came, but a task that wants a busy slot is overtaken. One that had to give its slot back is not:
// until it can go on, nobody else starts.
void Generator::place_waiting() {
  auto n_busy = std::ranges::count_if(slots_, [](const Slot& slot) { return slot.busy(); });
  // Not to be had either: without them no prefix is looked for at every step.
  const auto n_held = std::ranges::count_if(slots_, [](const Slot& slot) { return slot.held(); });
  bool held = false;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    Task& task = **at;
    bool gone = task.cancelled_;
    if (gone) {
      task.fail(503, kStopMessage);
    } else if (!held && n_busy + n_held < std::ssize(slots_)) {
      held = task.n_others_ > 0 && n_busy >= task.n_others_;
      gone = !held && try_place(*at);
      n_busy += gone;
    }
    at = gone ? waiting_.erase(at) : at + 1;
  }
  board_.update([&](ServingBoard::View& view) { view.n_waiting = static_cast<int>(waiting_.size()); });
}

// Takes rows from idle slots, the least recently used first, until as many pages are free as wanted() says, which
// may be fewer each time, or none is left.
void Generator::free_pages_for(const std::function<int64_t()>& wanted) {
  while (context_->free_pages() < wanted()) {
    Slot* oldest = nullptr;
    for (Slot& slot : slots_) {
      if (!slot.busy() && !slot.held() && slot.rows() > 0 &&
          (!oldest || slot.last_used() < oldest->last_used())) {
        oldest = &slot;
      }
    }
    if (oldest == nullptr) {
      return;
    }
    oldest->forget();
  }
}

bool Generator::any_held() const {
  return std::ranges::any_of(slots_, [](const Slot& slot) { return slot.held(); });
}

// How many tokens of each busy slot's are in the next step.
std::vector<int> Generator::share(std::span<Slot* const> busy) {
  const ContextInfo& info = context_->info();
  for (Slot* slot : busy) {
    slot->prepare();
  }
  free_pages_for([&] {
    int64_t n_pages = 0;
    for (const Slot* slot : busy) {
      const SlotDemand demand = slot->demand();
      n_pages += context_->pages_for(slot->seq(), std::min(info.n_batch, demand.n_next + demand.n_prompt));
    }
    return n_pages;
  });
  // Only now: an idle slot that gave way may have shared somebody's last page.
  std::vector<SlotDemand> demands;
  for (const Slot* slot : busy) {
    demands.push_back(slot->demand());
  }
  return share_step(demands, {info.n_batch, context_->free_pages(), kernels::kPageTokens, info.n_ubatch},
                    turn_++);
}

// No slot can go on. The youngest of those that have said nothing yet goes back to the queue; where all have spoken,
// the youngest ends with what it has said, as one whose own context is full.
void Generator::make_way(std::span<Slot* const> busy) {
  Slot *silent = nullptr, *youngest = nullptr;
  for (Slot* slot : busy) {
    youngest = !youngest || slot->id_task() > youngest->id_task() ? slot : youngest;
    silent = slot->prefills() && (!silent || slot->id_task() > silent->id_task()) ? slot : silent;
  }
  if (silent == nullptr) {
    base::log_info("task {}: ends early, for the cache is full of what runs with it", youngest->id_task());
    return youngest->end_early();
  }
  if (busy.size() == 1) {  // alone, and still no room: what fits the context fits the cache
    return silent->fail(500, kFullMessage);
  }
  const std::shared_ptr<Task> task = silent->hand_back();
  task->n_others_ = static_cast<int>(busy.size()) - 1;
  base::log_info("task {}: waits until the cache has room for it", task->id_);
  std::lock_guard lock(mutex_);
  waiting_.push_front(task);
}

// Something was thrown in the middle of a step (memory has run out): what it did is unknown, so every busy slot ends
// and its rows are dropped. The server goes on.
void Generator::abandon(std::string_view why) {
  for (Slot& slot : slots_) {
    try {
      if (slot.busy()) {
        slot.fail(500, std::string(kThrownMessage).append(why));
        slot.forget();
      } else if (!slot.held()) {
        slot.align();  // one that ended in that step
      }
    } catch (const std::exception&) {
      // Nothing left even for that: a slot that is still busy ends at its next step.
    }
  }
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
  if (pieces.empty() && any_held()) {  // its pages can be had when it is free
    std::unique_lock lock(mutex_);
    if (due_work() == slot_works_.end()) {
      changed_.wait_for(lock, kDrainPoll);
    }
    return;
  }
  if (pieces.empty()) {
    return make_way(busy);
  }
  StepHooks hooks;
  hooks.gone = [&](size_t piece) { return stopping_ || working[piece]->has_enough(); };
  hooks.on_logits = [&](size_t piece, int row, std::span<const float> logits) {
    if (!stopping_) {  // judging the rows of a prompt takes a while
      working[piece]->take_logits(row, logits);
    }
  };
  board_.update([&](ServingBoard::View& view) {
    ++view.totals.decodes;
    view.totals.busy_slots += static_cast<int64_t>(working.size());
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
    bool busy = false;
    {
      std::unique_lock lock(mutex_);
      if (!idle_) {
        idle_ = !any_busy();
        changed_.notify_all();  // somebody may wait for that
      }
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty() || !slot_works_.empty() || !idle_; });
      if (stopping_ && idle_) {
        break;  // the slots may be reconfigure's now
      }
      const bool worked = run_slot_work(lock);
      if (!stopping_) {
        place_waiting();
      }
      going = !stopping_;
      busy = any_busy();
      if (worked && busy && going) {
        go_on_moving(lock);
        if (!stopping_) {
          place_waiting();  // on what is no longer held
        }
      }
      idle_ = !busy;
      if (going && idle_ && !worked && n_held_ > 0) {  // whatever waits, waits for a slot that is held
        changed_.wait_for(lock, kDrainPoll);
      }
    }
    if (!busy) {
      continue;  // the slots may be reconfigure's already
    }
    const auto begin = std::chrono::steady_clock::now();
    try {
      advance();
    } catch (const std::exception& problem) {
      abandon(problem.what());
    }
    last_step_ = std::chrono::steady_clock::now() - begin;
  }
  std::lock_guard lock(mutex_);
  for (const std::shared_ptr<Task>& task : waiting_) {
    task->fail(503, kStopMessage);
  }
  waiting_.clear();
  slot_works_.clear();  // who waits for one sees that it stops
  ended_ = true;
  changed_.notify_all();
}

}  // namespace engine
