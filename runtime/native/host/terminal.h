// What people see on stderr while they wait, and nothing when nobody watches.
#pragma once

#include <mutex>
#include <string>

namespace gemma3::host {

// One line on stderr that is written over and finally removed; only on a terminal. Threads may
// share it.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine() { say(""); }
  StatusLine(const StatusLine&) = delete;

  // Replaces the line; an empty message removes it, before other output is printed.
  void say(const std::string& message);
  // Prints a remark on a line of its own, to stay.
  void warn(const std::string& message);

 private:
  const bool watched_;
  std::mutex mutex_;
  std::string shown_;
};

// A file that is being written: removed if a signal ends the process before this does. One at a time.
class UnfinishedFile {
 public:
  explicit UnfinishedFile(const std::string& path);
  ~UnfinishedFile();
  UnfinishedFile(const UnfinishedFile&) = delete;
};

// Ends the process at once on Ctrl-C, SIGTERM and SIGHUP, with status 130, 143 or 129 and no word.
void leave_on_interrupt();

}  // namespace gemma3::host
