// In place of signature.cc where there was no OpenSSL to build with.
#include "error.h"
#include "signature.h"

namespace gemma3 {

void verify_signature(const Bundle &, const std::string &key, bool, const Between &) {
  refuse(
      "require_signature: this libgemma3 was built without OpenSSL and verifies no signature; "
      "check the bundle with gemma3-bundle verify --key " +
      key + ", or build again with libssl-dev");
}

}  // namespace gemma3
