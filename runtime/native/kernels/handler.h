// How the kernels answer XLA.
#ifndef GEMMA3_KERNELS_HANDLER_H_
#define GEMMA3_KERNELS_HANDLER_H_

#include <exception>
#include <new>

#include "xla/ffi/api/ffi.h"

namespace gemma3 {

// The result of a call that ends with an error.
inline XLA_FFI_Error *failure(XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code,
                              const char *message) {
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message;
  args.errc = code;
  return frame->api->XLA_FFI_Error_Create(&args);
}

// Answers for `handler` what XLA asks when it is registered and called. XLA takes a handler only of
// its own version of the interface or an older one; what we use of it has been the same since 0.2,
// the version of PJRT 0.81. Only what every version has room for is written.
inline XLA_FFI_Error *answer(XLA_FFI_Handler *handler, XLA_FFI_CallFrame *frame) {
  constexpr int kOldestMinor = 2;
  const XLA_FFI_Api_Version &theirs = frame->api->api_version;
  const int minor = theirs.minor_version;
  const bool older = theirs.major_version == XLA_FFI_API_MAJOR && minor >= kOldestMinor &&
                     minor < XLA_FFI_API_MINOR;
  auto *extension = frame->extension_start;
  if (!older || extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) {
    return handler(frame);
  }
  XLA_FFI_Metadata &record = *reinterpret_cast<XLA_FFI_Metadata_Extension *>(extension)->metadata;
  record.api_version.major_version = theirs.major_version;
  record.api_version.minor_version = theirs.minor_version;
  record.traits = 0;
  return nullptr;
}

// The same; what is thrown ends here, since XLA, which calls through C, would end the process.
inline XLA_FFI_Error *answer_safely(XLA_FFI_Handler *handler, XLA_FFI_CallFrame *frame) {
  try {
    return answer(handler, frame);
  } catch (const std::bad_alloc &) {
    return failure(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "gemma3 kernel: out of memory");
  } catch (const std::exception &error) {
    return failure(frame, XLA_FFI_Error_Code_INTERNAL, error.what());
  } catch (...) {
    return failure(frame, XLA_FFI_Error_Code_INTERNAL, "gemma3 kernel: unknown failure");
  }
}

}  // namespace gemma3

// Defines the function that XLA calls by `name`: `function` with the arguments of `binding`.
#define GEMMA3_KERNEL(name, function, binding)                           \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *name( \
      XLA_FFI_CallFrame *frame) {                                        \
    XLA_FFI_DEFINE_HANDLER(handler, function, binding);                  \
    return gemma3::answer_safely(handler, frame);                        \
  }

#endif  // GEMMA3_KERNELS_HANDLER_H_
