// Memory of the kernels.
#ifndef GEMMA3_KERNELS_MEMORY_H_
#define GEMMA3_KERNELS_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace gemma3 {

// Numbers that begin at a cache line: a load across two costs as much as two.
template <typename T>
class Aligned {
 public:
  void resize(size_t size) {
    memory_.assign(size * sizeof(T) + kLine, 0);
    const size_t over = reinterpret_cast<uintptr_t>(memory_.data()) % kLine;
    first_ = reinterpret_cast<T *>(memory_.data() + (over == 0 ? 0 : kLine - over));
  }
  // The same with whatever numbers, in the memory there is where that is enough.
  void reserve(size_t size) {
    if (memory_.size() < size * sizeof(T) + kLine) resize(size);
  }
  T *data() { return first_; }

 private:
  static constexpr size_t kLine = 64;
  std::vector<char> memory_;
  T *first_ = nullptr;
};

// The same, not set to anything: for what is written whole before it is read.
template <typename T>
class Unset {
 public:
  void resize(size_t size) {
    memory_.reset(new char[size * sizeof(T) + kLine]);
    const size_t over = reinterpret_cast<uintptr_t>(memory_.get()) % kLine;
    first_ = reinterpret_cast<T *>(memory_.get() + (over == 0 ? 0 : kLine - over));
  }
  T *data() { return first_; }

 private:
  static constexpr size_t kLine = 64;
  std::unique_ptr<char[]> memory_;
  T *first_ = nullptr;
};

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_MEMORY_H_
