// Prompts to completions, streamed as text or printed as JSON.
#pragma once

#include <gemma3.h>

#include <functional>
#include <string_view>
#include <vector>

#include "options.h"
#include "prompts.h"
#include "report.h"
#include "terminal.h"

namespace gemma3::host {

// What we print cannot be written: `error` is an errno, EPIPE where the reader is gone.
struct OutputClosed {
  int error;
};

// Writes to stdout at once; throws OutputClosed.
void put(std::string_view text);

// Generates for the prompts on an open model and prints what the options ask for.
void generate(gemma3_model* model, const Options& options, const Bundle& bundle,
              const Prompts& prompts, StatusLine& status);

}  // namespace gemma3::host
