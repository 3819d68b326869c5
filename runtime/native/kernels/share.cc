#include "share.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gemma3 {
namespace {

// How often a thread looks whether the others are done before it sleeps: some ten microseconds,
// less than falling asleep and being woken takes.
constexpr int kLooks = 400;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

struct State {
  std::atomic<size_t> next{0}, done{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::condition_variable all_done;
  std::exception_ptr failure;  // of the first task that threw; guarded by the mutex
};

// Runs a task, or not, once another has failed; nothing is thrown out of a thread of the device.
void run_one(State &state, const std::function<void(size_t)> &task, size_t i) noexcept {
  if (state.failed.load()) return;
  try {
    task(i);
  } catch (...) {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (!state.failed.exchange(true)) state.failure = std::current_exception();
  }
}

}  // namespace

void share(xla::ffi::ThreadPool &pool, size_t count, const std::function<void(size_t)> &task) {
  auto state = std::make_shared<State>();
  const auto *work = &task;
  auto help = [state, count, work]() noexcept {
    for (size_t i; (i = state->next.fetch_add(1)) < count;) {
      run_one(*state, *work, i);
      if (state->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->all_done.notify_all();
      }
    }
  };
  const size_t threads = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
  try {
    for (size_t i = 1; i < std::min(threads, count); ++i) {
      pool.Schedule(std::function<void()>(help));
    }
  } catch (const std::bad_alloc &) {
    // Fewer helpers then. Those that were asked hold on to `task`: this thread must not leave.
  }
  help();
  for (int look = 0; look < kLooks && state->done.load() < count; ++look) pause();
  if (state->done.load() < count) {
    std::unique_lock<std::mutex> lock(state->mutex);
    state->all_done.wait(lock, [&] { return state->done.load() == count; });
  }
  if (state->failed.load()) std::rethrow_exception(state->failure);
}

void share_if(bool worth, xla::ffi::ThreadPool &pool, size_t count,
              const std::function<void(size_t)> &task) {
  if (worth) return share(pool, count, task);
  for (size_t i = 0; i < count; ++i) task(i);
}

}  // namespace gemma3
