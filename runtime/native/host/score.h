// The task --score.
#pragma once

#include <gemma3.h>

#include "bundle.h"
#include "options.h"
#include "prompts.h"
#include "terminal.h"

namespace gemma3::host {

// Scores the prompts and prints what comes of it; with --outputs-to also writes it. Throws
// UsageError.
void score(gemma3_model* model, const Options& options, const Bundle& bundle,
           const Prompts& prompts, StatusLine& status);

}  // namespace gemma3::host
