// In place of signature.cc where there was no OpenSSL to build with.
#include "error.h"
#include "signature.h"

namespace gemma3::host {

void require_signature(const std::filesystem::path&, const std::filesystem::path& key) {
  throw UsageError("--require-signature: this gemma3-host was built without OpenSSL; check the "
                   "bundle with gemma3-bundle verify --key " + key.string() +
                   ", or build again with libssl-dev");
}

}  // namespace gemma3::host
