#include "terminal.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "unicode.h"

namespace gemma3::host {
namespace {

constexpr int kInterrupted = 130;  // what a shell reports for a process that Ctrl-C ended

void leave(int) {
  if (isatty(STDERR_FILENO)) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, "\n", 1);
  }
  _exit(kInterrupted);
}

}  // namespace

StatusLine::StatusLine() : watched_(isatty(STDERR_FILENO)) {}

void StatusLine::say(const std::string& message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!watched_ || message == shown_) return;
  std::fprintf(stderr, "\r\x1b[K%s", one_line(message).c_str());
  shown_ = message;
}

void StatusLine::warn(const std::string& message) {
  say("");
  std::fprintf(stderr, "warning: %s\n", one_line(message).c_str());
}

void leave_on_interrupt() { std::signal(SIGINT, leave); }

}  // namespace gemma3::host
