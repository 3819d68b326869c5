#include "share.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

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
  std::mutex mutex;
  std::condition_variable all_done;
};

}  // namespace

void share(xla::ffi::ThreadPool &pool, size_t count, const std::function<void(size_t)> &task) {
  auto state = std::make_shared<State>();
  const auto *work = &task;
  auto help = [state, count, work] {
    for (size_t i; (i = state->next.fetch_add(1)) < count;) {
      (*work)(i);
      if (state->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->all_done.notify_all();
      }
    }
  };
  const size_t threads = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
  for (size_t i = 1; i < std::min(threads, count); ++i) pool.Schedule(std::function<void()>(help));
  help();
  for (int look = 0; look < kLooks && state->done.load() < count; ++look) pause();
  if (state->done.load() == count) return;
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done.load() == count; });
}

void share_if(bool worth, xla::ffi::ThreadPool &pool, size_t count,
              const std::function<void(size_t)> &task) {
  if (worth) return share(pool, count, task);
  for (size_t i = 0; i < count; ++i) task(i);
}

}  // namespace gemma3
