// The kernels that programs of the variant "kernels" call through XLA's FFI, by these names:
//
//   gemma3_int4_product(x f32 [R,I], packed u8 [O,I/2], scale bf16 [O,I/32]) -> f32 [R,O]
//
// Each 32 inputs of x are rounded to whole steps of 1/127 of their largest. Work is shared among
// the threads of the device.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dots.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Outputs of one task: enough that taking a task costs nothing beside it.
constexpr size_t kOutputsOfTask = 64;
// Rows whose activations stay in a core's own cache while weights pass by.
constexpr size_t kRowsOfTask = 128;
// A product with fewer multiplications than this is done by the calling thread.
constexpr size_t kWorthSharing = 1 << 18;

// Activations of all rows, each group of 32 in steps of its own.
class Rounded {
 public:
  Rounded(const float *x, size_t rows, size_t inputs)
      : stride_(arranged_bytes(inputs)), numbers_(rows * stride_), steps_(rows * stride_ / kGroup) {
    std::vector<int8_t> plain(inputs);
    for (size_t r = 0; r < rows; ++r) {
      float *steps = steps_.data() + r * stride_ / kGroup;
      for (size_t i = 0; i < inputs; i += kGroup) {
        steps[i / kGroup] = round_group(x + r * inputs + i, plain.data() + i);
      }
      arrange_for_int4(plain.data(), inputs, numbers_.data() + r * stride_);
      rows_.push_back({numbers_.data() + r * stride_, steps});
    }
  }
  const Activations *row(size_t r) const { return rows_.data() + r; }

 private:
  static float round_group(const float *x, int8_t *numbers) {
    float peak = 0;
    for (size_t i = 0; i < kGroup; ++i) peak = std::max(peak, std::fabs(x[i]));
    const float step = std::max(peak, 1e-30f) / 127.0f, inverse = 1.0f / step;
    for (size_t i = 0; i < kGroup; ++i) numbers[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
    return step;
  }

  size_t stride_;
  std::vector<int8_t> numbers_;
  std::vector<float> steps_;
  std::vector<Activations> rows_;
};

// Runs task(0) ... task(count - 1), here and on the device's threads, and returns when all are
// done. A thread that comes late finds nothing left and touches nothing of the caller's.
void share(ffi::ThreadPool &pool, size_t count, const std::function<void(size_t)> &task) {
  struct State {
    std::atomic<size_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto state = std::make_shared<State>();
  const auto *work = &task;
  auto help = [state, count, work] {
    for (size_t i; (i = state->next.fetch_add(1)) < count;) {
      (*work)(i);
      if (state->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->all_done.notify_all();
      }
    }
  };
  const size_t threads = static_cast<size_t>(std::max<int64_t>(pool.num_threads(), 1));
  for (size_t i = 1; i < std::min(threads, count); ++i) pool.Schedule(std::function<void()>(help));
  help();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done.load() == count; });
}

// Calls part(first row, rows, first output, outputs) over the whole product.
void for_each_part(ffi::ThreadPool &pool, size_t rows, size_t outputs, size_t inputs,
                   const std::function<void(size_t, size_t, size_t, size_t)> &part) {
  const size_t row_tasks = (rows + kRowsOfTask - 1) / kRowsOfTask;
  const size_t output_tasks = (outputs + kOutputsOfTask - 1) / kOutputsOfTask;
  const auto task = [&](size_t index) {
    const size_t first_row = index % row_tasks * kRowsOfTask;
    const size_t first = index / row_tasks * kOutputsOfTask;
    const size_t last_row = std::min(rows, first_row + kRowsOfTask);
    const size_t last = std::min(outputs, first + kOutputsOfTask);
    part(first_row, last_row - first_row, first, last - first);
  };
  if (rows * outputs * inputs < kWorthSharing) {
    for (size_t i = 0; i < row_tasks * output_tasks; ++i) task(i);
  } else {
    share(pool, row_tasks * output_tasks, task);
  }
}

// Some rows of a matrix, followed by rows of zeros where they are fewer than a tile has.
template <typename T>
class Filled {
 public:
  Filled(const T *rows, size_t width, size_t count, size_t wanted) : rows_(rows) {
    if (count == wanted) return;
    copy_.assign(wanted * width, T{});
    std::copy(rows, rows + count * width, copy_.begin());
    rows_ = copy_.data();
  }
  const T *data() const { return rows_; }

 private:
  const T *rows_;
  std::vector<T> copy_;
};

bool is_matrix(const ffi::AnyBuffer::Dimensions &shape, int64_t first, int64_t second) {
  return shape.size() == 2 && shape[0] == first && shape[1] == second;
}

ffi::Error wrong(const char *kernel) {
  return ffi::Error::InvalidArgument(std::string(kernel) + ": shapes do not belong together");
}

ffi::Error int4_product(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U8> packed,
                        ffi::Buffer<ffi::BF16> scale, ffi::ResultBuffer<ffi::F32> result) {
  if (x.dimensions().size() != 2 || packed.dimensions().size() != 2) return wrong("int4_product");
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1];
  const int64_t outputs = packed.dimensions()[0], groups = inputs / kGroup;
  if (inputs % kGroup || !is_matrix(packed.dimensions(), outputs, inputs / 2) ||
      !is_matrix(scale.dimensions(), outputs, groups) ||
      !is_matrix(result->dimensions(), rows, outputs)) {
    return wrong("int4_product");
  }
  const Rounded left(x.typed_data(), rows, inputs);
  const uint8_t *numbers = packed.typed_data();
  const auto *factor = static_cast<const uint16_t *>(scale.untyped_data());
  float *out = result->typed_data();
  for_each_part(pool, rows, outputs, inputs, [&](size_t r, size_t count, size_t o, size_t wanted) {
    float total[kInt4Rows * kInt4Outputs];
    for (size_t end = o + wanted; o < end; o += kInt4Outputs) {
      const size_t here = std::min<size_t>(kInt4Outputs, end - o);
      const Filled<uint8_t> tile(numbers + o * (inputs / 2), inputs / 2, here, kInt4Outputs);
      const Filled<uint16_t> scales(factor + o * groups, groups, here, kInt4Outputs);
      for (size_t row = r; row < r + count; row += kInt4Rows) {
        const int rows_here = static_cast<int>(std::min<size_t>(kInt4Rows, r + count - row));
        int4_dots()(left.row(row), rows_here, tile.data(), scales.data(), inputs, total);
        for (int i = 0; i < rows_here; ++i) {
          for (size_t k = 0; k < here; ++k) {
            out[(row + i) * outputs + o + k] = total[i * kInt4Outputs + k];
          }
        }
      }
    }
  });
  return ffi::Error::Success();
}

// Answers for `handler` what XLA asks when it is registered and called. XLA takes a handler only of
// its own version of the interface or an older one; what we use of it has been the same since 0.2,
// the version of PJRT 0.81. Only what every version has room for is written.
XLA_FFI_Error *answer(XLA_FFI_Handler *handler, XLA_FFI_CallFrame *frame) {
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

}  // namespace
}  // namespace gemma3

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error *gemma3_int4_product(
    XLA_FFI_CallFrame *frame) {
  XLA_FFI_DEFINE_HANDLER(handler, gemma3::int4_product,
                         xla::ffi::Ffi::Bind()
                             .Ctx<xla::ffi::ThreadPool>()
                             .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                             .Arg<xla::ffi::Buffer<xla::ffi::U8>>()
                             .Arg<xla::ffi::Buffer<xla::ffi::BF16>>()
                             .Ret<xla::ffi::Buffer<xla::ffi::F32>>());
  return gemma3::answer(handler, frame);
}
