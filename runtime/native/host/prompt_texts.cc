#include "prompt_texts.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "error.h"
#include "unicode.h"

namespace gemma3::host {
namespace {

constexpr const char* kStandardInput = "-";
// No model takes as much; what never ends, such as /dev/zero, is refused.
constexpr size_t kMostBytes = size_t{1} << 24;
// How long a pipe may say nothing until the command says what it waits for.
constexpr int kPatienceMs = 2000;

UsageError unreadable(const std::string& where, int error) {
  return UsageError(where + ": cannot be read (" + std::strerror(error) + "); name a text file");
}

std::string read_text(const std::string& where, int descriptor) {
  std::string data;
  char block[1 << 16];
  while (data.size() <= kMostBytes) {
    const ssize_t count = ::read(descriptor, block, sizeof block);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw unreadable(where, errno);
    if (count == 0) break;
    data.append(block, static_cast<size_t>(count));
  }
  if (data.size() > kMostBytes) {
    throw UsageError(where + ": expected at most " + std::to_string(kMostBytes) +
                     " bytes of text, got more");
  }
  if (!is_utf8(data)) throw UsageError(where + ": expected text in UTF-8; convert it first");
  if (!data.empty() && data.back() == '\n') data.pop_back();
  if (!data.empty() && data.back() == '\r') data.pop_back();
  return data;
}

std::string read_file(const std::string& name) {
  const std::string where = "--prompt-file " + name;
  const int descriptor = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw unreadable(where, errno);
  struct Closing {
    int descriptor;
    ~Closing() { ::close(descriptor); }
  } closing{descriptor};
  return read_text(where, descriptor);
}

}  // namespace

std::vector<std::string> read_prompts(const std::vector<std::string>& prompts,
                                      const std::vector<std::string>& files) {
  if (std::count(prompts.begin(), prompts.end(), kStandardInput) > 1) {
    throw UsageError("--prompt -: expected once, for what is read once; use --prompt-file");
  }
  std::vector<std::string> texts;
  for (const std::string& prompt : prompts) {
    texts.push_back(prompt == kStandardInput ? read_text("--prompt -", STDIN_FILENO) : prompt);
  }
  for (const std::string& file : files) texts.push_back(read_file(file));
  return texts;
}

std::vector<std::string> read_piped() {
  struct stat about{};
  if (::fstat(STDIN_FILENO, &about) != 0) return {};
  if (!S_ISREG(about.st_mode) && !S_ISFIFO(about.st_mode) && !S_ISSOCK(about.st_mode)) return {};
  pollfd waiting{STDIN_FILENO, POLLIN, 0};
  if (::poll(&waiting, 1, kPatienceMs) == 0) {
    std::fputs("waiting for the prompt on standard input; --prompt TEXT gives one\n", stderr);
  }
  std::string text = read_text("standard input", STDIN_FILENO);
  if (text.empty()) return {};
  return {std::move(text)};
}

}  // namespace gemma3::host
