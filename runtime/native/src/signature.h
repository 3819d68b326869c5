// Who made a bundle: signatures over its files with a key, as OpenSSF model-signing makes them
// (artifacts/signing.py). signature.cc has it with OpenSSL, no_signature.cc refuses without.
#ifndef GEMMA3_SRC_SIGNATURE_H_
#define GEMMA3_SRC_SIGNATURE_H_

#include <string>

#include "cancel.h"

namespace gemma3 {

class Bundle;

// Refuses `bundle` unless the owner of the public key in PEM file `key` signed it as it is: the
// manifest that was read, and every file. Without `weights` the weight files are not read, only
// their digests in the manifest compared. `between` is called now and then and may throw.
void verify_signature(const Bundle &bundle, const std::string &key, bool weights,
                      const Between &between = {});

}  // namespace gemma3

#endif  // GEMMA3_SRC_SIGNATURE_H_
