// What the opaque handles of gemma3.h are, and how calls enter and leave the library.
#ifndef GEMMA3_SRC_HANDLES_H_
#define GEMMA3_SRC_HANDLES_H_

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "bundle.h"
#include "cancel.h"
#include "error.h"
#include "gemma3.h"
#include "session.h"
#include "structs.h"
#include "tasks.h"

struct gemma3_bundle {
  std::shared_ptr<const gemma3::Bundle> bundle;  // models that were opened with it have it too
};

struct gemma3_model {
  std::shared_ptr<gemma3::Model> model;
};

struct gemma3_session {
  explicit gemma3_session(std::unique_ptr<gemma3::Session> own)
      : session(std::move(own)), teller(0, session->rows()) {}
  std::unique_ptr<gemma3::Session> session;
  gemma3::Teller teller;
};

namespace gemma3 {

// Puts a message, and what an output needs room for, into what the caller gave for it, shortened
// where it does not fit, never within a character. One line, whatever the names in it: control
// characters are written as \n or \x1b.
inline gemma3_status set_error(gemma3_error *error, gemma3_status status, const char *message,
                               uint64_t needed = 0) {
  if (error == nullptr) return status;
  error->status = status;
  error->needed = needed;
  constexpr char kHex[] = "0123456789abcdef";
  size_t used = 0;
  for (const char *at = message; *at != '\0'; ++at) {
    const auto code = static_cast<unsigned char>(*at);
    char shown[5] = {*at, '\0'};
    if (code == '\n' || code == '\r' || code == '\t') {
      std::strcpy(shown, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
    } else if (code < ' ' || code == 0x7F) {
      const char hex[] = {'\\', 'x', kHex[code >> 4], kHex[code & 15], '\0'};
      std::memcpy(shown, hex, sizeof hex);
    }
    const size_t length = std::strlen(shown);
    if (used + length >= sizeof error->message) {
      // Bytes that go on with a character begin with the bits 10.
      for (; used > 0 && (*at & 0xC0) == 0x80; --at) --used;
      break;
    }
    std::memcpy(error->message + used, shown, length);
    used += length;
  }
  error->message[used] = '\0';
  return status;
}

// Runs the body of an ABI function: what it throws becomes a status and a message.
template <typename Body>
gemma3_status guarded(gemma3_error *error, Body body) noexcept {
  try {
    body();
    return set_error(error, GEMMA3_OK, "");
  } catch (const Error &failure) {
    return set_error(error, failure.status(), failure.what(), failure.needed());
  } catch (const std::bad_alloc &) {
    return set_error(error, GEMMA3_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error &) {
    return set_error(error, GEMMA3_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception &failure) {
    return set_error(error, GEMMA3_FAILED, failure.what());
  } catch (...) {
    return set_error(error, GEMMA3_FAILED, "unknown failure");
  }
}

// A copy for the caller, to be freed by gemma3_free; a NUL follows.
inline char *give(std::string_view bytes) {
  auto *copy = static_cast<char *>(std::malloc(bytes.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  if (!bytes.empty()) std::memcpy(copy, bytes.data(), bytes.size());
  copy[bytes.size()] = '\0';
  return copy;
}

inline std::string text_or_empty(const char *text) { return text == nullptr ? "" : text; }

}  // namespace gemma3

#endif  // GEMMA3_SRC_HANDLES_H_
