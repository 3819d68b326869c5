// Who made a bundle: signatures over its files with a key, as OpenSSF model-signing makes them;
// artifacts/signing.py.
#pragma once

#include <filesystem>

namespace gemma3::host {

// Refuses the bundle in folder `bundle` unless the owner of the public key in PEM file `key` signed
// it as it is. Every file that was signed is read; nothing of it is used. Throws UsageError, also
// where this program was built without OpenSSL.
void require_signature(const std::filesystem::path& bundle, const std::filesystem::path& key);

}  // namespace gemma3::host
