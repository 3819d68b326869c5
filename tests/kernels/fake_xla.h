// As much of XLA as calls a kernel: arrays, attributes, a pool of threads, errors; and memory that
// runs out when it is told to. A kernel sees exactly the bytes that its arrays have, so that a
// sanitizer sees what goes beyond.
#ifndef GEMMA3_TESTS_KERNELS_FAKE_XLA_H_
#define GEMMA3_TESTS_KERNELS_FAKE_XLA_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace fake {

// An array of a call; `data` may be that of another array, or none.
struct Array {
  XLA_FFI_DataType type = XLA_FFI_DataType_F32;
  std::vector<int64_t> dims;
  std::shared_ptr<char> memory;
  char *data = nullptr;

  // Bytes that the sizes come to: 0 where one is 0, -1 where there is no such array.
  int64_t bytes() const;
  // Memory for the sizes, begun at a multiple of 64 where `over` is 0; false where it is too much.
  bool allocate(size_t over = 0);
};

struct Attribute {
  std::string name;
  bool is_text = false;
  std::string text;
  XLA_FFI_DataType type = XLA_FFI_DataType_F32;
  char value[8] = {};  // of a scalar
};

struct Call {
  XLA_FFI_Handler *handler = nullptr;
  std::vector<Array> arguments, results;
  std::vector<Attribute> attributes;  // by their names
  XLA_FFI_ExecutionStage stage = XLA_FFI_ExecutionStage_EXECUTE;
};

// What the next calls find: threads, whether the pool refuses tasks, and after how many allocations
// memory runs out (-1: never).
struct Circumstances {
  int threads = 2;
  bool refuses = false;
  long allocations = -1;
};

// Makes the call; the error's message, or an empty text.
std::string make(const Call &call, const Circumstances &circumstances);

int bytes_of(XLA_FFI_DataType type);

}  // namespace fake

#endif  // GEMMA3_TESTS_KERNELS_FAKE_XLA_H_
