// The C ABI: every function of gemma3.h, around the classes that do the work.

#include <atomic>
#include <cstdlib>
#include <new>

#include "gemma3.h"

struct gemma3_cancel {
  std::atomic<bool> requested{false};
};

extern "C" {

const char *gemma3_version(void) { return GEMMA3_VERSION; }

uint32_t gemma3_abi_version(void) { return GEMMA3_ABI_VERSION; }

void gemma3_free(void *memory) { std::free(memory); }

gemma3_cancel *gemma3_cancel_new(void) { return new (std::nothrow) gemma3_cancel; }

void gemma3_cancel_set(gemma3_cancel *cancel) { cancel->requested.store(true); }

void gemma3_cancel_clear(gemma3_cancel *cancel) { cancel->requested.store(false); }

void gemma3_cancel_free(gemma3_cancel *cancel) { delete cancel; }

}  // extern "C"
