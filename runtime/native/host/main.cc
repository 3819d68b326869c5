// gemma3-host: text from a bundle on any PJRT plugin, with the flags and the JSON of gemma3-run.
//
// Exit status: 0 done; 2 the user's mistake (one line on stderr); 1 anything else.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "error.h"
#include "generate.h"
#include "run.h"
#include "terminal.h"
#include "unicode.h"

int main(int count, char** arguments) {
  using namespace gemma3::host;
  constexpr int kFailed = 1, kUsage = 2;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that is gone shows when writing
  leave_on_interrupt();
  setenv("TF_CPP_MIN_LOG_LEVEL", "2", 0);  // XLA's remarks are not for users
  try {
    return run(parse_options({arguments + 1, arguments + count}));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n", one_line(error.what()).c_str());
    return kUsage;
  } catch (const OutputClosed&) {
    return kFailed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", one_line(error.what()).c_str());
    return kFailed;
  }
}
