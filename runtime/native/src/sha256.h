// SHA-256 (FIPS 180-4), which the manifest names files by, and HMAC (RFC 2104) with it.
#ifndef GEMMA3_SRC_SHA256_H_
#define GEMMA3_SRC_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gemma3 {

class Sha256 {
 public:
  void update(const void *data, size_t count);
  // The 32 bytes of the digest, and 64 lower-case hexadecimal digits; the object is used up.
  std::string bytes();
  std::string hex();

 private:
  void block(const uint8_t *bytes);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  size_t pending_count_ = 0;
  uint64_t total_ = 0;
};

std::string sha256_hex(std::string_view bytes);

// The code, in hexadecimal, that only those who have `key` (at most 64 bytes) can make of
// `message`.
std::string hmac_sha256_hex(std::string_view key, std::string_view message);

// Whether two texts are equal, in a time that does not tell where they differ.
bool equal_in_constant_time(std::string_view a, std::string_view b);

}  // namespace gemma3

#endif  // GEMMA3_SRC_SHA256_H_
