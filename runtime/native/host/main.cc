// gemma3-host: text from a bundle on any PJRT plugin, with the flags and the JSON of gemma3-run.
//
// Exit status: 0 done; 2 the user's mistake (one line on stderr); 1 anything else; 128 and the
// number of a signal that ended it.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "error.h"
#include "generate.h"
#include "run.h"
#include "terminal.h"
#include "unicode.h"

namespace {

// Opens those of the standard descriptors that are closed on /dev/null: else the next file that
// is opened would get what libraries print. Whether stdout was open.
bool open_descriptors() {
  bool printing = true;
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    const int flags = fcntl(descriptor, F_GETFL);
    const bool writes = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
    if (descriptor == STDIN_FILENO ? flags >= 0 : writes) continue;
    if (descriptor == STDOUT_FILENO) printing = false;
    const int nowhere = open("/dev/null", O_RDWR);
    if (nowhere == descriptor) continue;
    dup2(nowhere, descriptor);
    close(nowhere);
  }
  return printing;
}

}  // namespace

int main(int count, char** arguments) {
  using namespace gemma3;
  using namespace gemma3::host;
  constexpr int kFailed = 1, kUsage = 2;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that is gone shows when writing
  leave_on_interrupt();
  if (!open_descriptors()) {
    std::fputs("error: standard output is closed; redirect it to a file, or to /dev/null\n",
               stderr);
    return kFailed;
  }
  setenv("TF_CPP_MIN_LOG_LEVEL", "2", 0);  // XLA's remarks are not for users
  try {
    return run(parse_options({arguments + 1, arguments + count}));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n", one_line(error.what()).c_str());
    return kUsage;
  } catch (const OutputClosed& closed) {
    if (closed.error != EPIPE) {
      std::fprintf(stderr, "error: standard output: %s; what was printed is not whole\n",
                   std::strerror(closed.error));
    }
    return kFailed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", one_line(error.what()).c_str());
    return kFailed;
  }
}
