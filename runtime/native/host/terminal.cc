#include "terminal.h"

#include <unistd.h>

#include <atomic>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "unicode.h"

namespace gemma3::host {
namespace {

constexpr char kClearLine[] = "\r\x1b[K";

char unfinished_path[PATH_MAX];  // what a handler reads must never move or be freed
std::atomic<bool> unfinished{false};

void leave(int number) {
  if (unfinished) unlink(unfinished_path);
  if (isatty(STDERR_FILENO)) {
    [[maybe_unused]] const ssize_t written =
        write(STDERR_FILENO, kClearLine, sizeof kClearLine - 1);
  }
  _exit(128 + number);  // what a shell reports for a process that a signal ended
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

UnfinishedFile::UnfinishedFile(const std::string& path) {
  if (path.size() >= sizeof unfinished_path) return;  // no file can be called so
  std::memcpy(unfinished_path, path.c_str(), path.size() + 1);
  unfinished = true;
}

UnfinishedFile::~UnfinishedFile() { unfinished = false; }

void leave_on_interrupt() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    // One that is ignored already, as under nohup, stays ignored.
    if (std::signal(number, leave) == SIG_IGN) std::signal(number, SIG_IGN);
  }
}

}  // namespace gemma3::host
